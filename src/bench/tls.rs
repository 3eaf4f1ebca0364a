//! TLS at the client's side. Certificates are not verified, neither whose they are nor what is signed with them: what is
//! measured is a server that is known, and checking would be the client's work. Each handshake is a full one.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

/// What is read from a socket at a time.
const READ_BYTES: usize = 16 << 10;

static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    // the provider has what both versions of TLS need
    let builder = builder.with_safe_default_protocol_versions().unwrap_or_else(|_| unreachable!("TLS 1.2 and 1.3"));
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
});

/// What a server is called in a handshake: the host of a URL, or its address.
pub fn server_name(host: &str, address: SocketAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(address.ip().into()))
}

/// A connection that is yet to shake hands.
///
/// # Errors
/// When rustls does not like the name.
pub fn session(name: &ServerName<'static>) -> Result<ClientConnection> {
    ClientConnection::new(CONFIG.clone(), name.clone()).context("begin TLS")
}

/// Trusts whoever is there.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TLS over a socket that never blocks. The handshake goes on with whatever is read and written.
pub struct TlsStream {
    socket: mio::net::TcpStream,
    session: ClientConnection,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsStream").field(&self.socket).finish()
    }
}

impl TlsStream {
    /// A socket that is connected, or will be.
    pub fn new(socket: mio::net::TcpStream, session: ClientConnection) -> Self {
        Self { socket, session }
    }

    /// The socket beneath.
    pub fn socket(&self) -> &mio::net::TcpStream {
        &self.socket
    }

    /// The socket beneath, to be watched.
    pub fn socket_mut(&mut self) -> &mut mio::net::TcpStream {
        &mut self.socket
    }

    /// Sends what is encrypted and waits.
    fn push(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// The same; what the socket does not take now is sent with what comes next.
    fn push_some(&mut self) -> io::Result<()> {
        self.push().or_else(|error| if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) })
    }
}

impl Read for TlsStream {
    /// Fills the buffer unless the socket has no more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.push_some()?;
        let mut filled = 0;
        let mut chunk = [0; READ_BYTES];
        loop {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(length) if length > 0 => {
                    filled += length;
                    if filled == buffer.len() {
                        return Ok(filled);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => (),
                // the end, said or not
                _ => return Ok(filled),
            }
            let length = match self.socket.read(&mut chunk) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            };
            if length == 0 {
                return Ok(filled);
            }
            let mut arrived = &chunk[..length];
            while !arrived.is_empty() {
                self.session.read_tls(&mut arrived)?;
                if let Err(error) = self.session.process_new_packets() {
                    // the alert, if it still can be sent
                    let _ = self.push();
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
            }
            self.push_some()?;
        }
    }
}

impl Write for TlsStream {
    /// Takes nothing before all that was taken earlier is with the socket.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push()?;
        let length = self.session.writer().write(bytes)?;
        self.push_some()?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}
