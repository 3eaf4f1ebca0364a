//! Handshakes: so many at a time, in the order in which they came, and between two of their steps everything else on the
//! shard has its turn.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, Error, HandshakeKind};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::Tls;
use super::stream::TlsStream;
use crate::core::TlsFailure;
use crate::shard::{Running, Shard};

/// How long a handshake keeps its place when the peer does not go on: a thousand peers that say nothing more must not
/// keep out who would.
const PLACE_KEPT: Duration = Duration::from_secs(1);
/// Bytes of a record's header, and of the type of the message in it.
const OPENING_BYTES: usize = 6;
/// The longest record (RFC 8446, 5.1; TLS 1.2 allows as much).
const RECORD_BYTES_MAX: usize = 16 << 10;
/// How long, and how much, is read of a request that was sent without TLS, so that the answer is not lost.
const PLAIN_LINGER: Duration = Duration::from_secs(2);
const PLAIN_BYTES_MAX: usize = 64 << 10;
/// The answer to it.
const PLAIN_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 58\r\n\
                            Connection: close\r\n\r\nThis port speaks TLS: use https:// or wss:// instead here\n";

/// The queue for handshakes on one shard.
pub(in crate::shard) struct Handshakes {
    max: Cell<usize>,
    places: RefCell<Arc<Semaphore>>,
    /// Whose step it is.
    step: Semaphore,
}

impl Handshakes {
    pub(in crate::shard) fn new(max: usize) -> Self {
        let places = RefCell::new(Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))));
        Self { max: Cell::new(max), places, step: Semaphore::new(1) }
    }

    /// So many from here on; those under way go on beside them.
    pub(in crate::shard) fn set_max(&self, max: usize) {
        if max != self.max.replace(max) {
            self.places.replace(Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))));
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let places = self.places.borrow().clone();
        places.acquire_owned().await.ok() // it is never closed
    }
}

/// Shakes hands, however long that takes, and counts how it went.
pub(in crate::shard) async fn shake_hands(
    shard: &Rc<Shard>,
    tls: &Tls,
    socket: TcpStream,
    by: Instant,
) -> Option<TlsStream> {
    let shaken = tokio::time::timeout_at(by, converse(shard, tls, socket)).await;
    let mut core = shard.core.borrow_mut();
    let stats = core.stats_mut();
    match shaken.unwrap_or(Err(TlsFailure::Timeout)) {
        Ok((stream, kind)) => {
            stats.tls_handshakes[usize::from(kind == HandshakeKind::Resumed)] += 1;
            Some(stream)
        }
        Err(failure) => {
            stats.tls_failures[failure.index()] += 1;
            None
        }
    }
}

async fn converse(shard: &Rc<Shard>, tls: &Tls, socket: TcpStream) -> Result<(TlsStream, HandshakeKind), TlsFailure> {
    let handshakes = &shard.handshakes;
    // one that has yet to say anything has no place to lose
    let opening = opening(&socket).await?;
    let mut place = handshakes.place().await;
    // from here on a shard that drains waits for it
    let _running = Running::new(shard.clone());
    let kept_until = Instant::now() + PLACE_KEPT;
    let stream = TlsStream::new(socket, tls.identity().config, opening).map_err(|_| TlsFailure::Protocol)?;
    let mut is_first = true;
    loop {
        let step = handshakes.step.acquire().await;
        let gone_on = if is_first { stream.begin() } else { stream.go_on() };
        gone_on.map_err(|error| reason(&error))?;
        // not before everything else had its turn may the next one compute
        yield_now().await;
        drop(step);
        is_first = false;
        while let Err(error) = stream.try_flush() {
            match error.kind() {
                io::ErrorKind::WouldBlock => stream.writable().await.map_err(|_| TlsFailure::Closed)?,
                _ => return Err(TlsFailure::Closed),
            }
        }
        if let Some(kind) = stream.handshaken() {
            return Ok((stream, kind));
        }
        if place.is_some() && tokio::time::timeout_at(kept_until, stream.readable()).await.is_err() {
            place = None;
        }
        stream.readable().await.map_err(|_| TlsFailure::Closed)?;
    }
}

/// Reads the first record, by which a handshake begins.
async fn opening(socket: &TcpStream) -> Result<Vec<u8>, TlsFailure> {
    let mut read = Vec::new();
    loop {
        socket.readable().await.map_err(|_| TlsFailure::Closed)?;
        let mut buffer = [0; 4096];
        match socket.try_read(&mut buffer) {
            Ok(0) => return Err(TlsFailure::Closed),
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(TlsFailure::Closed),
        }
        match look(&read) {
            Opening::Incomplete => {}
            Opening::Hello => return Ok(read),
            Opening::Http => {
                let _ = tokio::time::timeout(PLAIN_LINGER, answer_plainly(socket)).await;
                return Err(TlsFailure::PlainHttp);
            }
            Opening::Other => return Err(TlsFailure::NotTls),
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Opening {
    Incomplete,
    /// A whole record with the beginning of a `ClientHello`.
    Hello,
    /// A request without TLS.
    Http,
    Other,
}

fn look(read: &[u8]) -> Opening {
    // record: handshake, version 3.x, length; message: ClientHello
    let expected = |at: usize, byte: u8| match at {
        0 => byte == 22,
        1 => byte == 3,
        2 => byte <= 4,
        5 => byte == 1,
        _ => true,
    };
    match read.iter().take(OPENING_BYTES).enumerate().find(|(at, byte)| !expected(*at, **byte)) {
        Some((0, byte)) if byte.is_ascii_uppercase() => return Opening::Http,
        Some(_) => return Opening::Other,
        None => {}
    }
    let [_, _, _, high, low, _, ..] = read else { return Opening::Incomplete };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        length if length > RECORD_BYTES_MAX => Opening::Other,
        length if read.len() < OPENING_BYTES - 1 + length => Opening::Incomplete,
        _ => Opening::Hello,
    }
}

async fn answer_plainly(socket: &TcpStream) -> io::Result<()> {
    // a socket that nothing was written to takes as little as this
    let _ = socket.try_write(PLAIN_ANSWER.as_bytes())?;
    socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write)?;
    let mut left = PLAIN_BYTES_MAX;
    while left > 0 {
        socket.readable().await?;
        match socket.try_read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        yield_now().await;
    }
    Ok(())
}

/// Why a handshake failed.
fn reason(error: &io::Error) -> TlsFailure {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return TlsFailure::Closed;
    };
    match error {
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFailure::Incompatible,
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => TlsFailure::CertificateRefused,
        Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
            TlsFailure::Incompatible
        }
        Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => TlsFailure::Closed,
        _ => TlsFailure::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_opens_with() {
        let check = |bytes: &[u8], expected| assert_eq!(look(bytes), expected, "{bytes:?}");
        let hello = [&[22, 3, 1, 0, 5, 1][..], &[0; 4]].concat();
        for end in 0..hello.len() {
            check(&hello[..end], Opening::Incomplete);
        }
        check(&hello, Opening::Hello);
        check(&[&hello[..], b"more"].concat(), Opening::Hello);
        check(&[22, 3, 1, 0x40, 1, 1], Opening::Other);
        check(&[22, 3, 1, 0, 5, 2], Opening::Other);
        check(&[22, 4], Opening::Other);
        check(b"GET / HTTP/1.1", Opening::Http);
        check(b"P", Opening::Http);
        check(b"get", Opening::Other);
        check(b"\x80\x2e\x01", Opening::Other);
    }

    #[test]
    fn the_plain_answer_is_whole() {
        let (head, body) = PLAIN_ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
