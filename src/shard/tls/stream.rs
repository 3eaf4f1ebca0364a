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
        loop {
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
            if count > 0 {
                return Ok(count);
            }
        }
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

    /// Whether the socket has yet to take something that counts as written.
    pub(in crate::shard) fn holds_back(&self) -> bool {
        !self.state.borrow().outgoing.is_empty()
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
