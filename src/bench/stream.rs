//! The bytes between a client and a server, plain or in TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::tls::{self, TlsStream};

/// Connections from one loopback address before the next is taken: fewer than the system has ports.
const CONNECTIONS_PER_SOURCE: u32 = 8_000;
/// Loopback addresses that are used.
const SOURCES: u32 = 200;

/// Connections of this process to servers on loopback.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// The loopback address that a connection comes from: one after the other, because each has ports for some tens of thousands
/// only, and a closed connection may keep its port for a minute. All but the first are of this process alone. It is
/// bound to always: Linux gives no connection a port of its own choice that any address has been bound to, by a run a
/// moment ago for instance.
fn source(opened: u32, process: u32) -> Ipv4Addr {
    match opened / CONNECTIONS_PER_SOURCE % SOURCES {
        0 => Ipv4Addr::LOCALHOST,
        turn => Ipv4Addr::new(127, 0, (process % 250) as u8, 1 + turn as u8),
    }
}

/// A connection that never blocks.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(mio::net::TcpStream),
    /// Encrypted ones.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Begins to connect, in TLS to a server of that name; the stream is writable once it is connected.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::AddrNotAvailable`] when no port is free.
    pub fn connect(to: SocketAddr, name: Option<&ServerName<'static>>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if to.is_ipv4() && to.ip().is_loopback() {
            let source = source(OPENED.fetch_add(1, Ordering::Relaxed), std::process::id());
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => (),
            // EINPROGRESS has no ErrorKind of its own on stable Rust
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) || error.kind() == ErrorKind::WouldBlock => (),
            Err(error) => return Err(error),
        }
        let socket = mio::net::TcpStream::from_std(socket.into());
        Ok(match name {
            None => Self::Plain(socket),
            Some(name) => Self::Tls(Box::new(TlsStream::new(socket, tls::session(name).map_err(io::Error::other)?))),
        })
    }

    fn socket(&self) -> &mio::net::TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// Says why connecting failed, if it did.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> io::Result<()> {
        self.socket().take_error()?.map_or(Ok(()), Err)
    }

    /// Watches for both directions.
    ///
    /// # Errors
    /// The system's.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket_mut(),
        };
        socket.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Makes the end of this stream an abrupt one, as when a network fails: the port is free at once.
    ///
    /// # Errors
    /// The system's.
    pub fn end_abruptly(&self) -> io::Result<()> {
        SockRef::from(self.socket()).set_linger(Some(Duration::ZERO))
    }
}

/// What `connect(2)` of a socket that does not block says first, on Linux.
const EINPROGRESS: i32 = 115;

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_to_loopback_come_from_several_addresses() {
        assert_eq!(source(0, 1000), Ipv4Addr::LOCALHOST);
        assert_eq!(source(CONNECTIONS_PER_SOURCE - 1, 1000), Ipv4Addr::LOCALHOST);
        assert_eq!(source(CONNECTIONS_PER_SOURCE, 1003), Ipv4Addr::new(127, 0, 3, 2));
        assert_eq!(source(CONNECTIONS_PER_SOURCE * SOURCES, 1003), Ipv4Addr::LOCALHOST);
    }
}
