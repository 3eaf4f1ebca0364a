//! TLS over a socket of this shard. Between two records a connection keeps its keys and nothing else: records are read,
//! decrypted, gathered and encrypted in buffers of the shard.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{Error, HandshakeKind, ServerConfig};
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// Clear bytes of one record (RFC 8446, 5.1).
const RECORD_BYTES_MAX: usize = 16 << 10;
/// What a record costs beside them: its header, its type, its authentication.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// What one read takes, at least and at most.
const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);
/// Reads in a row that may bring nothing to be handed on; then others have their turn. Who sends empty records as fast as
/// they are decrypted would be read for ever.
const EMPTY_READS_MAX: usize = 2;
/// Bytes of a record, or of a handshake message in several, that has yet to be complete. rustls takes no larger one.
const INCOMPLETE_BYTES_MAX: usize = 96 << 10;

/// Buffers of one shard, in use while a stream is read or written and not between.
#[derive(Default)]
struct Scratch {
    incoming: Vec<u8>,
    gathered: Vec<u8>,
    outgoing: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The server's end of a TLS connection.
pub(in crate::shard) struct TlsStream {
    socket: TcpStream,
    state: RefCell<State>,
}

struct State {
    session: UnbufferedServerConnection,
    /// A record that is not complete yet.
    incoming: Vec<u8>,
    /// Decrypted, and not read yet.
    clear: Bytes,
    /// Encrypted, and not taken by the socket yet: one record, and what TLS itself has to say.
    outgoing: Bytes,
    /// Nothing more comes.
    ended: bool,
}

/// What is to be encrypted.
enum Say<'a> {
    Nothing,
    /// At most [`RECORD_BYTES_MAX`].
    Clear(&'a [u8]),
    CloseNotify,
}

/// What came of a look at records.
#[derive(Default)]
struct Worked {
    /// Bytes of the input that are done with.
    consumed: usize,
    /// The peer has said that nothing more comes.
    ended: bool,
    /// What was to be said is encrypted.
    said: bool,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsStream").field(&self.socket).finish()
    }
}

impl TlsStream {
    /// A connection whose first bytes were read already. Its handshake is yet to come.
    pub(super) fn new(socket: TcpStream, config: Arc<ServerConfig>, incoming: Vec<u8>) -> Result<Self, Error> {
        let session = UnbufferedServerConnection::new(config)?;
        let state = State { session, incoming, clear: Bytes::new(), outgoing: Bytes::new(), ended: false };
        Ok(Self { socket, state: RefCell::new(state) })
    }

    /// Begins the handshake, with the bytes that were read already.
    pub(super) fn begin(&self) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        let mut incoming = std::mem::take(&mut state.incoming);
        SCRATCH.with_borrow_mut(|scratch| self.digest(state, &mut incoming, &mut scratch.outgoing, &mut [])).map(drop)
    }

    /// Goes on with the handshake, with what the socket has.
    pub(super) fn go_on(&self) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        match self.pull(state, &mut []) {
            Ok(_) if state.ended && state.session.is_handshaking() => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// How the handshake went; none while it goes on.
    pub(super) fn handshaken(&self) -> Option<HandshakeKind> {
        let state = self.state.borrow();
        state.session.handshake_kind().filter(|_| !state.session.is_handshaking())
    }

    pub(in crate::shard) fn peer(&self) -> Option<IpAddr> {
        self.socket.peer_addr().ok().map(|address| address.ip().to_canonical())
    }

    // ------------------------------------------------------------------ reading

    /// Whether there is something to be read without the socket.
    fn has_clear(&self) -> bool {
        let state = self.state.borrow();
        state.ended || !state.clear.is_empty()
    }

    pub(in crate::shard) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_clear() { Poll::Ready(Ok(())) } else { self.socket.poll_read_ready(cx) }
    }

    pub(in crate::shard) async fn readable(&self) -> io::Result<()> {
        if self.has_clear() { Ok(()) } else { self.socket.readable().await }
    }

    /// Reads what is decrypted. The end is the end, whether or not the peer has said so before: what is cut off is seen
    /// by the protocols above.
    pub(in crate::shard) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        for _ in 0..EMPTY_READS_MAX {
            if !state.clear.is_empty() {
                let count = buffer.len().min(state.clear.len());
                state.clear.copy_to_slice(&mut buffer[..count]);
                if state.clear.is_empty() {
                    state.clear = Bytes::new();
                }
                return Ok(count);
            }
            if state.ended {
                return Ok(0);
            }
            let count = self.pull(state, buffer)?;
            if count > 0 || state.ended {
                return Ok(count);
            }
        }
        // the socket still counts as readable, so whoever waits for that goes on at once
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Bytes that are kept of what the peer has sent.
    pub(in crate::shard) fn kept_bytes(&self) -> usize {
        let state = self.state.borrow();
        state.incoming.capacity() + state.clear.len()
    }

    /// Reads from the socket, once, and decrypts into `buffer`, what has no room there into `clear`.
    fn pull(&self, state: &mut State, buffer: &mut [u8]) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|Scratch { incoming, outgoing, .. }| {
            let held = state.incoming.len();
            if held > INCOMPLETE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let room = buffer.len().clamp(READ_BYTES.0, READ_BYTES.1);
            if incoming.len() < held + room {
                incoming.resize(held + room, 0);
            }
            let count = self.socket.try_read(&mut incoming[held..held + room])?;
            if count == 0 {
                state.ended = true;
                return Ok(0);
            }
            incoming[..held].copy_from_slice(&state.incoming);
            self.digest(state, &mut incoming[..held + count], outgoing, buffer)
        })
    }

    /// Decrypts what is complete of `incoming`, keeps the rest, and sends what TLS itself has to answer.
    fn digest(
        &self,
        state: &mut State,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let (mut count, mut more) = (0, Vec::new());
        outgoing.clear();
        let worked = work(&mut state.session, incoming, outgoing, Say::Nothing, |clear| {
            let (fits, rest) = clear.split_at(clear.len().min(buffer.len() - count));
            buffer[count..count + fits.len()].copy_from_slice(fits);
            count += fits.len();
            more.extend_from_slice(rest);
        });
        // before anything else: an alert says why the connection ends
        let sent = self.send(state, outgoing);
        let worked = worked.inspect_err(|_| state.ended = true).map_err(broken)?;
        sent?;
        state.incoming = incoming[worked.consumed..].to_vec();
        state.ended |= worked.ended;
        if !more.is_empty() {
            state.clear = more.into();
        }
        Ok(count)
    }

    // ------------------------------------------------------------------ writing

    pub(in crate::shard) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(cx)
    }

    pub(in crate::shard) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Bytes that count as written and that the socket has yet to take.
    pub(in crate::shard) fn held_back_bytes(&self) -> usize {
        self.state.borrow().outgoing.len()
    }

    /// Hands the socket what it has yet to take.
    ///
    /// # Errors
    /// `WouldBlock` if something is left.
    pub(in crate::shard) fn try_flush(&self) -> io::Result<()> {
        self.flush(&mut self.state.borrow_mut())
    }

    fn flush(&self, state: &mut State) -> io::Result<()> {
        while !state.outgoing.is_empty() {
            let count = self.socket.try_write(&state.outgoing)?;
            state.outgoing.advance(count);
            if state.outgoing.is_empty() {
                state.outgoing = Bytes::new();
            }
        }
        Ok(())
    }

    /// Encrypts up to one record's worth, unless the socket has yet to take the last one. What it does not take of this
    /// one is kept.
    pub(in crate::shard) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = &mut *self.state.borrow_mut();
        self.flush(state)?;
        SCRATCH.with_borrow_mut(|Scratch { gathered, outgoing, .. }| {
            let clear = match slices {
                [only] => &only[..only.len().min(RECORD_BYTES_MAX)],
                several => {
                    gathered.clear();
                    for slice in several {
                        let room = RECORD_BYTES_MAX - gathered.len();
                        gathered.extend_from_slice(&slice[..slice.len().min(room)]);
                    }
                    gathered
                }
            };
            if clear.is_empty() {
                return Ok(0);
            }
            outgoing.clear();
            if !self.say(state, Say::Clear(clear), outgoing)? {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.send(state, outgoing)?;
            Ok(clear.len())
        })
    }

    /// Says that nothing more will be sent: to the peer's TLS, then to its kernel.
    ///
    /// # Errors
    /// `WouldBlock` if the socket must be writable first; then it is to be called again.
    pub(in crate::shard) fn try_shutdown_write(&self) -> io::Result<()> {
        let state = &mut *self.state.borrow_mut();
        self.flush(state)?;
        SCRATCH.with_borrow_mut(|Scratch { outgoing, .. }| {
            outgoing.clear();
            // said once; a session that is broken has said why already
            let _ = self.say(state, Say::CloseNotify, outgoing);
            self.send(state, outgoing)
        })?;
        self.flush(state)?;
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// Encrypts; whether that is possible yet, or still.
    fn say(&self, state: &mut State, say: Say<'_>, outgoing: &mut Vec<u8>) -> io::Result<bool> {
        let State { session, incoming, .. } = state;
        // an incomplete record, in which there is nothing to be read
        let worked = work(session, incoming, outgoing, say, |_| {}).map_err(broken)?;
        incoming.drain(..worked.consumed);
        Ok(worked.said)
    }

    /// Hands the socket what is encrypted, and keeps what it does not take.
    fn send(&self, state: &mut State, outgoing: &[u8]) -> io::Result<()> {
        if outgoing.is_empty() {
            return Ok(());
        }
        if !state.outgoing.is_empty() {
            state.outgoing = [&state.outgoing, outgoing].concat().into();
            return Ok(());
        }
        let taken = match self.socket.try_write(outgoing) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if taken < outgoing.len() {
            state.outgoing = Bytes::copy_from_slice(&outgoing[taken..]);
        }
        Ok(())
    }

    // ------------------------------------------------------------------ for hyper

    pub(in crate::shard) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(self.poll_io(cx, Self::poll_read_ready, || self.try_read(buffer.initialize_unfilled())))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }

    pub(in crate::shard) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Self::poll_write_ready, || self.try_write_vectored(slices))
    }

    pub(in crate::shard) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, Self::poll_write_ready, || self.try_flush())
    }

    pub(in crate::shard) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_io(cx, Self::poll_write_ready, || self.try_shutdown_write())
    }

    /// Tries until it is done, or the socket is not ready.
    fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        poll_ready: impl Fn(&Self, &mut Context<'_>) -> Poll<io::Result<()>>,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(poll_ready(self, cx))?,
                done => return Poll::Ready(done),
            }
        }
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Looks at records until there is nothing more to be done with them: hands on what is decrypted, and appends to
/// `outgoing` what TLS has to answer, and what is to be said. After an error too, then it is an alert.
fn work(
    session: &mut UnbufferedServerConnection,
    incoming: &mut [u8],
    outgoing: &mut Vec<u8>,
    say: Say<'_>,
    mut hear: impl FnMut(&[u8]),
) -> Result<Worked, Error> {
    let mut worked = Worked::default();
    loop {
        let UnbufferedStatus { mut discard, state } = session.process_tls_records(&mut incoming[worked.consumed..]);
        let mut goes_on = true;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    hear(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => into(outgoing, 0, |room| {
                data.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(size) => Ok(size),
                    EncodeError::AlreadyEncoded => Err(Error::General(error.to_string())),
                })
            })?,
            // whatever was encoded is as good as sent
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => worked.ended = true,
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                write(&mut traffic, outgoing, &say)?;
                worked.said = true;
                goes_on = false;
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => goes_on = false,
            Ok(other) => return Err(Error::General(format!("no use for {other:?}"))),
            Err(error) => {
                let rest = &mut incoming[worked.consumed + discard..];
                if let Ok(ConnectionState::EncodeTlsData(mut alert)) = session.process_tls_records(rest).state {
                    let _ = into(outgoing, RECORD_OVERHEAD_BYTES, |room| {
                        alert.encode(room).map_err(|_| Err(error.clone()))
                    });
                }
                return Err(error);
            }
        }
        worked.consumed += discard;
        if !goes_on {
            return Ok(worked);
        }
    }
}

fn write(traffic: &mut WriteTraffic<'_, impl Sized>, outgoing: &mut Vec<u8>, say: &Say<'_>) -> Result<(), Error> {
    let wanted = |error| match error {
        EncryptError::InsufficientSize(size) => Ok(size),
        EncryptError::EncryptExhausted => Err(Error::EncryptError),
    };
    match say {
        Say::Nothing => Ok(()),
        Say::Clear(clear) => {
            let guess = clear.len() + RECORD_OVERHEAD_BYTES;
            into(outgoing, guess, |room| traffic.encrypt(clear, room).map_err(wanted))
        }
        Say::CloseNotify => {
            into(outgoing, RECORD_OVERHEAD_BYTES, |room| traffic.queue_close_notify(room).map_err(wanted))
        }
    }
}

/// Appends what `write` puts into the room that it is given: at first as much as guessed, then as much as it asks for.
fn into(
    outgoing: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Result<InsufficientSizeError, Error>>,
) -> Result<(), Error> {
    let begin = outgoing.len();
    let mut room = guess;
    loop {
        outgoing.resize(begin + room, 0);
        match write(&mut outgoing[begin..]) {
            Ok(count) => {
                outgoing.truncate(begin + count);
                return Ok(());
            }
            Err(Ok(size)) if size.required_size > room => room = size.required_size,
            Err(reason) => {
                outgoing.truncate(begin);
                return Err(reason.err().unwrap_or(Error::EncryptError));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::ServerName;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

    use super::*;
    use crate::shard::tls::Identity;

    type Client = (ClientConnection, std::net::TcpStream);

    /// Both ends of a connection that has shaken hands.
    async fn pair(version: &'static SupportedProtocolVersion) -> (TlsStream, Client) {
        let identity = Identity::self_signed(None).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(identity.chain[0].clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        let stream = TlsStream::new(TcpStream::from_std(accepted).unwrap(), identity.config, hello).unwrap();
        stream.begin().unwrap();
        while session.is_handshaking() || stream.handshaken().is_none() {
            while stream.try_flush().is_err() {
                stream.writable().await.unwrap();
            }
            if session.is_handshaking() {
                session.read_tls(&mut socket).unwrap();
                session.process_new_packets().unwrap();
            }
            while session.wants_write() {
                session.write_tls(&mut socket).unwrap();
            }
            if stream.handshaken().is_none() {
                stream.readable().await.unwrap();
                stream.go_on().unwrap();
            }
        }
        stream.try_flush().unwrap();
        (stream, (session, socket))
    }

    /// How much the stream keeps.
    fn kept(stream: &TlsStream) -> usize {
        let state = stream.state.borrow();
        state.incoming.capacity() + state.clear.len() + state.outgoing.len()
    }

    /// Content types of records (RFC 8446, 5.1).
    fn records(mut bytes: &[u8]) -> Vec<u8> {
        let mut types = Vec::new();
        while let [kind, _, _, high, low, rest @ ..] = bytes {
            types.push(*kind);
            bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        }
        types
    }

    const DATA: u8 = 23;
    const ALERT: u8 = 21;

    #[tokio::test]
    async fn many_frames_are_one_record_and_nothing_stays() {
        let (stream, (_, mut socket)) = pair(&TLS12).await;
        let slices = [IoSlice::new(&[7; 100]); 64];
        assert_eq!(stream.try_write_vectored(&slices).unwrap(), 6400);
        // no more than a record takes, of several as of one
        assert_eq!(stream.try_write_vectored(&[IoSlice::new(&[7; 9000]); 2]).unwrap(), RECORD_BYTES_MAX);
        assert_eq!(stream.try_write_vectored(&[IoSlice::new(&[7; 40_000])]).unwrap(), RECORD_BYTES_MAX);
        assert_eq!(kept(&stream), 0);
        stream.try_shutdown_write().unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        assert_eq!(records(&bytes), [DATA, DATA, DATA, ALERT]);
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_is_one_record_at_most() {
        for version in [&TLS13, &TLS12] {
            let (stream, (mut session, mut socket)) = pair(version).await;
            let piece = [7; RECORD_BYTES_MAX];
            let mut written = 0;
            let full = loop {
                match stream.try_write_vectored(&[IoSlice::new(&piece)]) {
                    Ok(count) => written += count,
                    Err(error) => break error,
                }
                assert!(kept(&stream) <= RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES);
            };
            assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
            assert!(stream.held_back_bytes() > 0);
            assert_eq!(stream.try_shutdown_write().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let mut read = 0;
            let reader = std::thread::spawn(move || {
                while let Ok(count @ 1..) = session.read_tls(&mut socket) {
                    let _ = count;
                    read += session.process_new_packets().unwrap().plaintext_bytes_to_read();
                    let mut clear = Vec::new();
                    let _ = session.reader().read_to_end(&mut clear);
                    assert!(clear.iter().all(|byte| *byte == 7));
                }
                read
            });
            while stream.try_shutdown_write().is_err() {
                stream.writable().await.unwrap();
            }
            assert_eq!(kept(&stream), 0);
            assert_eq!(reader.join().unwrap(), written);
        }
    }

    #[tokio::test]
    async fn what_is_decrypted_is_read_without_the_socket() {
        let (stream, (mut session, mut socket)) = pair(&TLS13).await;
        let message: Vec<u8> = (0..10_000u32).map(|number| number as u8).collect();
        session.writer().write_all(&message).unwrap();
        session.write_tls(&mut socket).unwrap();
        let mut read = Vec::new();
        let mut buffer = [0; 1000];
        while read.len() < message.len() {
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(count) => read.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(read, message);
        assert_eq!(kept(&stream), 0);
        // a record that comes byte by byte
        session.writer().write_all(b"hello").unwrap();
        let mut record = Vec::new();
        session.write_tls(&mut record).unwrap();
        for (at, byte) in record.iter().enumerate() {
            socket.write_all(&[*byte]).unwrap();
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(count) => assert_eq!((&buffer[..count], at), (&b"hello"[..], record.len() - 1)),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(kept(&stream), 0);
        // one that is read in pieces leaves others their turn
        let message = [7; RECORD_BYTES_MAX];
        session.writer().write_all(&message).unwrap();
        session.write_tls(&mut socket).unwrap();
        let mut waits = 0;
        let mut left = message.len();
        while left > 0 {
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(count) => left -= count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    assert_eq!(stream.held_back_bytes(), 0);
                    assert!(stream.kept_bytes() > 0);
                    waits += 1;
                }
            }
        }
        assert!(waits >= RECORD_BYTES_MAX / READ_BYTES.0 / EMPTY_READS_MAX, "{waits}");
        assert_eq!(stream.kept_bytes(), 0);
        // its keys may change meanwhile
        session.refresh_traffic_keys().unwrap();
        session.writer().write_all(b"again").unwrap();
        session.write_tls(&mut socket).unwrap();
        let count = loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut buffer) {
                Ok(count) => break count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(&buffer[..count], b"again");
        assert_eq!(stream.try_write_vectored(&[IoSlice::new(b"and back")]).unwrap(), 8);
        while !session.wants_read() || session.process_new_packets().unwrap().plaintext_bytes_to_read() == 0 {
            session.read_tls(&mut socket).unwrap();
        }
        session.reader().read_exact(&mut buffer[..8]).unwrap();
        assert_eq!(&buffer[..8], b"and back");
    }

    #[tokio::test]
    async fn an_end_is_an_end_and_nonsense_an_error() {
        for says_so in [true, false] {
            let (stream, (mut session, mut socket)) = pair(&TLS13).await;
            session.writer().write_all(b"last").unwrap();
            if says_so {
                session.send_close_notify();
            }
            session.write_tls(&mut socket).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut read = Vec::new();
            loop {
                stream.readable().await.unwrap();
                let mut buffer = [0; 100];
                match stream.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => read.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(read, b"last");
            assert_eq!(stream.try_read(&mut [0; 1]).unwrap(), 0);
        }
        let (stream, (_, mut socket)) = pair(&TLS13).await;
        socket.write_all(&[23, 3, 3, 0, 20]).unwrap();
        socket.write_all(&[0; 20]).unwrap();
        let error = loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut [0; 100]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        stream.try_shutdown_write().unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        assert_eq!(records(&bytes).last(), Some(&DATA), "an alert, encrypted");
    }
}
