//! The subscribers: one thread that holds every socket and notes when each event arrives.
//!
//! A reader asleep in `epoll_wait` makes the sender pay for waking it, and all writers then meet at the lock of that
//! one epoll set. So the sockets are spread over many poll sets, which are looked at on a timer and never waited on:
//! the server pays only for its own work, and an arrival is seen up to [`LOOK_INTERVAL`] late.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::process::{check_interrupted, thread_cpu};

/// How late an arrival may be seen.
pub const LOOK_INTERVAL: Duration = Duration::from_micros(500);
const POLL_SETS: usize = 64;
const READ_BUFFER_BYTES: usize = 256 << 10;
/// Handshakes under way together.
const OPENING_MAX: usize = 64;
/// For one answer of the server while a connection opens.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For all connections together to be closed in answer to our close frames.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(20);
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Nanoseconds since one instant that all threads of a run share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that stands at 0 now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start (584 years fit).
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What stands in an event's data: `b`, the message's number and the time it was due, in 8 and 16 hex digits; padding
/// may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the message within the phase.
    pub message: u32,
    /// When it was to be sent, by the run's [`Clock`].
    pub due_ns: u64,
}

impl Stamp {
    /// Length as text.
    pub const BYTES: usize = 25;

    /// The text form.
    pub fn text(self) -> String {
        format!("b{:08x}{:016x}", self.message, self.due_ns)
    }

    /// Finds the stamp in an event: at the start of its `data`, which must be a JSON string.
    pub fn find(event: &[u8]) -> Option<Self> {
        const BEFORE: &[u8] = br#""data":"b"#;
        let start = event.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
        let digits = str::from_utf8(event.get(start..start + Self::BYTES - 1)?).ok()?;
        let (message, due_ns) = digits.split_at(8);
        Some(Self { message: u32::from_str_radix(message, 16).ok()?, due_ns: u64::from_str_radix(due_ns, 16).ok()? })
    }
}

/// Cuts what a server sends into frames (RFC 6455 section 5.2; a server does not mask).
#[derive(Debug, Default)]
pub struct FrameScanner {
    /// The frame that has not arrived whole.
    partial: Vec<u8>,
}

impl FrameScanner {
    /// Takes the next bytes of the stream; hands over opcode and payload of each frame that is whole with them.
    pub fn scan(&mut self, bytes: &[u8], mut each: impl FnMut(u8, &[u8])) {
        if self.partial.is_empty() {
            let used = Self::scan_whole(bytes, &mut each);
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let used = Self::scan_whole(&self.partial, &mut each);
            self.partial.drain(..used);
            if self.partial.is_empty() {
                self.partial = Vec::new(); // 10,000 idle sockets keep no buffers
            }
        }
    }

    fn scan_whole(bytes: &[u8], each: &mut impl FnMut(u8, &[u8])) -> usize {
        let mut used = 0;
        while let Some((opcode, payload)) = first_frame(&bytes[used..]) {
            each(opcode, &bytes[used..][payload.clone()]);
            used += payload.end;
        }
        used
    }
}

/// Opcode and payload of the frame at the start of `bytes`, if it is there whole.
fn first_frame(bytes: &[u8]) -> Option<(u8, Range<usize>)> {
    let opcode = bytes.first()? & 0x0f;
    let (header, payload): (usize, u64) = match bytes.get(1)? & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into()),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        short => (2, short.into()),
    };
    let end = header.checked_add(usize::try_from(payload).ok()?)?;
    (end <= bytes.len()).then_some((opcode, header..end))
}

const OPCODE_TEXT: u8 = 0x1;
const OPCODE_CLOSE: u8 = 0x8;
const OPCODE_PING: u8 = 0x9;
const OPCODE_PONG: u8 = 0xa;

/// A client's frame of at most 65,535 payload bytes. The masking key is 0, which saves the masking here; the server
/// has to unmask all the same.
fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// What a connection subscribes to once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// Nothing: the other side begins to send by itself.
    None,
    /// All to the channel `c`.
    Shared,
    /// Each to a channel of its own.
    Own,
}

/// Where the connections go and what they say there.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The local address to connect from, so that many rounds find free ports.
    pub source: Ipv4Addr,
    /// Request targets of the handshakes, taken in turn.
    pub request_targets: Vec<String>,
    /// What to subscribe to.
    pub subscription: Subscription,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Stalled,
    Closed,
}

struct Connection {
    stream: mio::net::TcpStream,
    frames: FrameScanner,
    state: State,
}

/// What has arrived of the messages of one phase.
#[derive(Debug, Default)]
pub struct Tally {
    /// The number of the first message; earlier ones are not counted.
    pub first_message: u32,
    /// Each message of the phase.
    pub messages: Vec<Arrival>,
    /// Deliveries of all messages together.
    pub deliveries: u64,
    /// Connections that the server closed, stalled ones not included.
    pub closed: usize,
}

/// How often and how late one message has arrived.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// Deliveries seen.
    pub deliveries: u32,
    /// From the time it was due to the last delivery, in nanoseconds.
    pub last_ns: u64,
}

impl Tally {
    /// A tally of `count` messages numbered from `first_message`.
    pub fn new(first_message: u32, count: u32) -> Self {
        Self { first_message, messages: vec![Arrival::default(); count as usize], ..Self::default() }
    }

    fn note(&mut self, stamp: Stamp, now_ns: u64) {
        let Some(index) = stamp.message.checked_sub(self.first_message) else { return };
        let Some(arrival) = self.messages.get_mut(index as usize) else { return };
        arrival.deliveries += 1;
        arrival.last_ns = now_ns.saturating_sub(stamp.due_ns);
        self.deliveries += 1;
    }
}

/// All subscribers of one process under measurement.
pub struct Client {
    clock: Clock,
    polls: Vec<Poll>,
    connections: Vec<Connection>,
    events: Events,
    read_buffer: Box<[u8]>,
}

impl Client {
    /// Opens `count` connections; returns when all of them are subscribed.
    ///
    /// # Errors
    /// When one of them is refused, or not answered in time.
    pub fn open(clock: Clock, door: &Door, count: usize) -> Result<Self> {
        let mut client = Self {
            clock,
            polls: (0..POLL_SETS.min(count)).map(|_| Poll::new()).collect::<io::Result<_>>()?,
            connections: Vec::with_capacity(count),
            events: Events::with_capacity(1024),
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
        };
        for first in (0..count).step_by(OPENING_MAX) {
            check_interrupted()?;
            for opening in open_together(door, first..count.min(first + OPENING_MAX))? {
                client.adopt(opening)?;
            }
        }
        Ok(client)
    }

    fn adopt(&mut self, opening: Opening) -> Result<()> {
        opening.stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(opening.stream);
        let index = self.connections.len();
        let poll = &self.polls[index % self.polls.len()];
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        self.connections.push(Connection { stream, frames: opening.frames, state: State::Reading });
        Ok(())
    }

    /// From here on nothing is read from the first `count` connections.
    pub fn stall(&mut self, count: usize) {
        for connection in self.connections.iter_mut().take(count) {
            connection.state = State::Stalled;
        }
    }

    /// How many of the stalled connections the server has given up: their stream, read to its end, ends.
    pub fn stalled_closed(&mut self) -> usize {
        let mut tally = Tally::default();
        for index in 0..self.connections.len() {
            if self.connections[index].state == State::Stalled {
                self.connections[index].state = State::Reading;
                self.read(index, true, &mut tally);
            }
        }
        tally.closed
    }

    /// Reads whatever arrives until `enough` says so, or until nothing has arrived for `quiet_max` after `sent` said
    /// that all is sent. Returns the CPU time that this thread used.
    ///
    /// # Errors
    /// When it takes longer than `time_max`, or the run is interrupted.
    pub fn read_until(
        &mut self,
        tally: &mut Tally,
        time_max: Duration,
        quiet_max: Duration,
        sent: impl Fn() -> bool,
        enough: impl Fn(&Tally) -> bool,
    ) -> Result<Duration> {
        let cpu_before = thread_cpu();
        let began = Instant::now();
        let mut last_arrival = began;
        loop {
            check_interrupted()?;
            let before = tally.deliveries;
            self.look(tally)?;
            if sent() && enough(tally) {
                break;
            }
            let now = Instant::now();
            if tally.deliveries > before || !sent() {
                last_arrival = now;
            }
            if now - last_arrival > quiet_max {
                break;
            }
            ensure!(now - began < time_max, "not finished after {time_max:?}");
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(thread_cpu() - cpu_before)
    }

    /// Sends a close frame on every connection and waits until the server has closed them all.
    ///
    /// # Errors
    /// When some are still open after 20 seconds.
    pub fn close(mut self) -> Result<()> {
        let close = client_frame(OPCODE_CLOSE, &1000u16.to_be_bytes());
        let mut tally = Tally::default();
        for connection in self.connections.iter_mut().filter(|connection| connection.state != State::Closed) {
            connection.state = State::Reading;
            // An error means that the server was first; the stream then ends.
            let _ = connection.stream.write_all(&close);
        }
        let ended = Instant::now() + CLOSING_TIMEOUT;
        while self.connections.iter().any(|connection| connection.state == State::Reading) {
            check_interrupted()?;
            ensure!(Instant::now() < ended, "the server left connections open after a close frame");
            self.look(&mut tally)?;
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Looks once at every poll set.
    fn look(&mut self, tally: &mut Tally) -> Result<()> {
        for set in 0..self.polls.len() {
            match self.polls[set].poll(&mut self.events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let ready: Vec<_> = self.events.iter().map(|event| (event.token().0, event.is_read_closed())).collect();
            for (index, ends) in ready {
                self.read(index, ends, tally);
            }
        }
        Ok(())
    }

    /// Reads what is there. Sets are edge-triggered: a buffer that was not filled is the sign that nothing is left,
    /// except for the end of the stream (epoll(7)); `to_the_end` also looks for that.
    fn read(&mut self, index: usize, to_the_end: bool, tally: &mut Tally) {
        let connection = &mut self.connections[index];
        while connection.state == State::Reading {
            let length = match connection.stream.read(&mut self.read_buffer) {
                Ok(length) if length > 0 => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    connection.state = State::Closed;
                    tally.closed += 1;
                    return;
                }
            };
            let now_ns = self.clock.now_ns();
            let mut pong = None;
            connection.frames.scan(&self.read_buffer[..length], |opcode, payload| match opcode {
                OPCODE_TEXT => {
                    if let Some(stamp) = Stamp::find(payload) {
                        tally.note(stamp, now_ns);
                    }
                }
                OPCODE_PING => pong = Some(client_frame(OPCODE_PONG, payload)),
                _ => (),
            });
            if let Some(pong) = pong {
                // A connection too full for a pong is one that the server is to give up.
                let _ = connection.stream.write_all(&pong);
            }
            if length < self.read_buffer.len() && !to_the_end {
                return;
            }
        }
    }
}

/// A connection on its way through the handshake: still blocking, with timeouts.
struct Opening {
    stream: TcpStream,
    frames: FrameScanner,
    channel: Option<String>,
}

/// Takes these connections through each step together, so that the server works on many at once, as it does after a
/// network comes back.
fn open_together(door: &Door, indexes: Range<usize>) -> Result<Vec<Opening>> {
    let mut all = Vec::with_capacity(indexes.len());
    for index in indexes {
        let mut stream = connect(door)?;
        stream.write_all(handshake(door, index).as_bytes())?;
        let channel = match door.subscription {
            Subscription::None => None,
            Subscription::Shared => Some("c".to_owned()),
            Subscription::Own => Some(format!("c{index}")),
        };
        all.push(Opening { stream, frames: FrameScanner::default(), channel });
    }
    for opening in &mut all {
        opening.read_head().context("WebSocket handshake")?;
        if let Some(channel) = &opening.channel {
            let command = format!(r#"{{"event":"gusher.subscribe","data":{{"channel":"{channel}"}}}}"#);
            opening.stream.write_all(&client_frame(OPCODE_TEXT, command.as_bytes()))?;
        }
    }
    for opening in all.iter_mut().filter(|opening| opening.channel.is_some()) {
        let reply = opening.read_text().context("subscribe")?;
        ensure!(reply.contains("gusher.subscribe_succeeded"), "subscribe was refused: {reply}");
    }
    Ok(all)
}

fn connect(door: &Door) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    if door.source != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((door.source, 0)).into())?;
    }
    socket
        .connect_timeout(&door.address.into(), ANSWER_TIMEOUT)
        .with_context(|| format!("connect to {}", door.address))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket.into())
}

fn handshake(door: &Door, index: usize) -> String {
    let request_target = &door.request_targets[index % door.request_targets.len()];
    format!(
        "GET {request_target} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aHlkcmFudCBiZW5jaC4uLg==\r\n\r\n",
        door.address
    )
}

impl Opening {
    fn read_head(&mut self) -> Result<()> {
        let mut head = Vec::with_capacity(512);
        loop {
            self.read_more(&mut head)?;
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                if !head.starts_with(b"HTTP/1.1 101 ") {
                    bail!("refused: {}", String::from_utf8_lossy(&head).trim_end());
                }
                self.frames.partial.extend_from_slice(&head[end + 4..]);
                return Ok(());
            }
            ensure!(head.len() < HEAD_BYTES_MAX, "no end of the response head after {} bytes", head.len());
        }
    }

    fn read_text(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut text = None;
        loop {
            self.frames.scan(&bytes, |opcode, payload| {
                if opcode == OPCODE_TEXT && text.is_none() {
                    text = Some(String::from_utf8_lossy(payload).into_owned());
                }
            });
            if let Some(text) = text {
                return Ok(text);
            }
            bytes.clear();
            self.read_more(&mut bytes)?;
        }
    }

    fn read_more(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let mut chunk = [0; 1024];
        let length = self.stream.read(&mut chunk).context("no answer")?;
        ensure!(length > 0, "the connection was closed instead of an answer");
        bytes.extend_from_slice(&chunk[..length]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..65_536 => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn scanned(reads: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let mut scanner = FrameScanner::default();
        let mut frames = Vec::new();
        for bytes in reads {
            scanner.scan(bytes, |opcode, payload| frames.push((opcode, payload.to_vec())));
        }
        assert!(scanner.partial.is_empty(), "bytes left over");
        frames
    }

    #[test]
    fn frames_are_found_wherever_the_reads_are_cut() {
        let sent = [
            (OPCODE_TEXT, vec![b'a'; 5]),
            (OPCODE_PING, vec![]),
            (OPCODE_TEXT, vec![b'b'; 125]),
            (OPCODE_TEXT, vec![b'c'; 126]),
        ];
        let stream: Vec<u8> = sent.iter().flat_map(|(opcode, payload)| server_frame(*opcode, payload)).collect();
        for cut in 0..=stream.len() {
            assert_eq!(scanned(&[&stream[..cut], &stream[cut..]]), sent, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(scanned(&bytes), sent);
    }

    #[test]
    fn all_three_lengths_of_headers_are_understood() {
        for length in [0, 125, 126, 65_535, 65_536, 200_000] {
            let frame = server_frame(OPCODE_TEXT, &vec![b'x'; length]);
            assert_eq!(first_frame(&frame), Some((OPCODE_TEXT, frame.len() - length..frame.len())));
            assert_eq!(first_frame(&frame[..frame.len() - 1]), None);
        }
        assert_eq!(first_frame(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]), None);
    }

    #[test]
    fn client_frames_carry_a_mask() {
        assert_eq!(client_frame(OPCODE_TEXT, b"hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(client_frame(OPCODE_TEXT, &[b'x'; 126])[..4], [0x81, 0xfe, 0, 126]);
    }

    #[test]
    fn a_stamp_is_found_in_an_event() {
        let stamp = Stamp { message: 0xdead_beef, due_ns: 1 };
        let text = stamp.text();
        assert_eq!(text.len(), Stamp::BYTES);
        let check = |event: String, expected| assert_eq!(Stamp::find(event.as_bytes()), expected, "{event}");
        check(format!(r#"{{"channel":"c","event":"e","data":"{text}xxx"}}"#), Some(stamp));
        check(format!(r#"{{"data":"{text}"}}"#), Some(stamp));
        check(format!(r#"{{"data":"{}"}}"#, &text[..24]), None);
        check(r#"{"event":"gusher.subscribe_succeeded","data":{"channel":"c"}}"#.to_owned(), None);
        check(String::new(), None);
    }

    #[test]
    fn a_tally_counts_its_own_messages_only() {
        let mut tally = Tally::new(10, 2);
        for (message, now_ns) in [(9, 5), (10, 5), (10, 8), (12, 9), (u32::MAX, 9)] {
            tally.note(Stamp { message, due_ns: 1 }, now_ns);
        }
        assert_eq!((tally.deliveries, tally.messages[0].deliveries, tally.messages[0].last_ns), (2, 2, 7));
        assert_eq!(tally.messages[1].deliveries, 0);
    }
}
