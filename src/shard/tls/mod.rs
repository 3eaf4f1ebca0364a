//! TLS on a listener: what it shows its clients, and what becomes of their handshakes.
//!
//! The certificate is looked at once a handshake, so another one can take its place while connections go on. Encryption
//! itself is in `stream`; the queue for it in `handshake`.

pub(super) mod handshake;
pub(super) mod stream;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{Error, InconsistentKeys, ServerConfig};

use crate::config;

/// How long a self-signed certificate is good for: what browsers take at most.
const SELF_SIGNED_TTL: Duration = Duration::from_secs(397 * 24 * 3600);

/// Why a listener cannot have the certificate that it was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The two do not belong together.
    #[error("the key in {key} does not belong to the certificate in {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
    },
    /// The first certificate is none.
    #[error("{0}: the first certificate cannot be used: {1}")]
    Certificate(String, Error),
    /// The key is of no kind that is known, or damaged.
    #[error("{0}: the key cannot be used: {1}")]
    Key(String, Error),
    /// None could be made, or used.
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(String),
}

/// A certificate with its key, ready for handshakes.
#[derive(Clone, Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// What a listener is configured to have; `ip` is where a self-signed certificate is good, beside this machine's
    /// own names.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(spec: &config::Tls, ip: Option<IpAddr>) -> Result<Self, TlsError> {
        match spec {
            config::Tls::Files { certificate, key } => Self::of_files(certificate, key),
            config::Tls::SelfSigned => Self::self_signed(ip),
        }
    }

    fn of_files(certificate: &config::Certificate, key: &config::PrivateKey) -> Result<Self, TlsError> {
        Self::made_of(certificate.chain.clone(), key.der().clone_key()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let shown = |path: &std::path::Path| path.display().to_string();
                TlsError::Mismatch { certificate: shown(&certificate.file), key: shown(&key.file) }
            }
            Error::InvalidCertificate(_) => TlsError::Certificate(certificate.file.display().to_string(), error),
            error => TlsError::Key(key.file.display().to_string(), error),
        })
    }

    /// For `localhost`, `127.0.0.1` and `::1`, and one more address.
    fn self_signed(ip: Option<IpAddr>) -> Result<Self, TlsError> {
        let failed = |error: &dyn std::fmt::Display| TlsError::SelfSigned(error.to_string());
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(ip.filter(|ip| !ip.is_unspecified() && !ip.is_loopback()).map(|ip| ip.to_string()));
        let mut params = rcgen::CertificateParams::new(names).map_err(|error| failed(&error))?;
        params.distinguished_name.push(rcgen::DnType::CommonName, "Hydrant, self-signed");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now;
        params.not_after = epoch + now + SELF_SIGNED_TTL;
        let pair = rcgen::KeyPair::generate().map_err(|error| failed(&error))?;
        let certificate = params.self_signed(&pair).map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::try_from(pair.serialize_der()).map_err(|error| failed(&error))?;
        Self::made_of(vec![certificate.der().clone()], key).map_err(|error| failed(&error))
    }

    fn made_of(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // who comes back resumes: a ticket holds what would be kept here. It is of this certificate: with the next,
        // everybody shakes hands in full
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Self { chain, config: Arc::new(config) })
    }

    /// The certificate as PEM text (RFC 7468).
    pub fn certificate_pem(&self) -> String {
        let text = STANDARD.encode(self.chain.first().map_or(&[][..], AsRef::as_ref));
        let lines = text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
        format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
    }

    /// SHA-256 of the certificate, as pairs of hexadecimal digits between colons.
    pub fn fingerprint(&self) -> String {
        let leaf = self.chain.first().map_or(&[][..], AsRef::as_ref);
        let pairs = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>();
        pairs.join(":")
    }
}

/// A listener's TLS.
#[derive(Debug)]
pub struct Tls {
    /// What it was made of, to tell whether there is another.
    in_force: Mutex<(config::Tls, Identity)>,
}

impl Tls {
    /// Begins with that identity.
    pub fn new(spec: config::Tls, identity: Identity) -> Self {
        Self { in_force: Mutex::new((spec, identity)) }
    }

    /// What handshakes that begin now show.
    pub fn identity(&self) -> Identity {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// The certificate that was made at the start; none if it is from a file.
    pub fn self_signed(&self) -> Option<Identity> {
        let (spec, identity) = &*self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        (*spec == config::Tls::SelfSigned).then(|| identity.clone())
    }

    /// Whether another certificate from files is to take the place of one from files.
    pub fn is_renewed_by(&self, spec: &config::Tls) -> bool {
        let (shown, _) = &*self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        matches!((shown, spec), (config::Tls::Files { .. }, config::Tls::Files { .. })) && shown != spec
    }

    /// From here on handshakes show this.
    pub fn replace(&self, spec: config::Tls, identity: Identity) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = (spec, identity);
    }
}
