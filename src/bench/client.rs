//! The subscribers: one thread that holds every socket and notes when each event arrives.
//!
//! A reader asleep in `epoll_wait` makes the sender pay for waking it, and all writers then meet at the lock of that
//! one epoll set. So the sockets are spread over many poll sets, which are looked at on a timer and never waited on:
//! the server pays only for its own work, and an arrival is seen up to [`LOOK_INTERVAL`] late.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use super::process::{check_interrupted, thread_cpu};
use super::stream::Stream;
use super::tally::{Clock, Finder, Tally, delays};
use super::target::{Heard, Site, Subscription};
use super::ws::{
    COMPRESSED, DEFLATE_OFFER, FrameScanner, Inflater, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG,
    OPCODE_TEXT, agrees_to_deflate, client_frame, frame_bytes,
};

/// How late an arrival may be seen.
pub const LOOK_INTERVAL: Duration = Duration::from_micros(500);
const POLL_SETS: usize = 64;
const READ_BUFFER_BYTES: usize = 256 << 10;
/// Connections begun between two looks.
const BEGUN_PER_LOOK_MAX: usize = 32;
/// While connections open: how long nothing may happen.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection that was refused is left alone.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// From one stalled connection's end to the next, once they are read again.
const STALLED_PATIENCE: Duration = Duration::from_secs(2);
/// For all connections together to be closed in answer to our close frames.
const CLOSING_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// TCP's handshake.
    Connecting,
    /// The request is sent.
    Handshake,
    /// Upgraded; the server speaks first.
    Greeting,
    /// The subscribe is sent.
    Subscribing,
    Open,
    /// Nothing is read any more.
    Stalled,
    /// Refused, or ended by either side.
    Closed,
}

struct Connection {
    stream: Option<Stream>,
    frames: FrameScanner,
    state: State,
    subscription: Subscription,
    /// Kept only without a subscription: for one that is asked for later.
    socket_id: Option<Box<str>>,
    /// When [`Client::ask`] was sent, or the first attempt to connect began; 0: nothing is asked.
    asked_ns: u64,
}

impl Connection {
    fn is_opening(&self) -> bool {
        matches!(self.state, State::Connecting | State::Handshake | State::Greeting | State::Subscribing)
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
        stream.write_all(&client_frame(opcode, payload))
    }
}

/// How connections are to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Connections that may be on their way together.
    pub together: usize,
    /// Whether one that is refused is tried again, as real clients do, instead of failing the run.
    pub is_stubborn: bool,
}

impl Opening {
    /// As clients come on a normal day.
    pub const CALM: Self = Self { together: 64, is_stubborn: false };
    /// As they come when a network is back.
    pub const STORM: Self = Self { together: 1024, is_stubborn: true };
}

/// How opening went.
#[derive(Debug)]
pub struct Opened {
    /// From the first connect to the last subscription.
    pub elapsed: Duration,
    /// Attempts that were refused or failed.
    pub refused: u64,
    /// The first of the reasons.
    pub refusal: Option<String>,
    /// From a connection's first attempt to its subscription; in microseconds.
    pub times: Histogram<u32>,
}

/// How reading went.
#[derive(Debug)]
pub struct Reading {
    /// CPU time of the reading thread.
    pub cpu: Duration,
    /// From the first arrival to the end.
    pub busy_time: Duration,
    /// CPU time of the reading thread in that time.
    pub busy_cpu: Duration,
    /// From one look at the sockets to the next, in microseconds.
    pub look_gaps: Histogram<u32>,
}

/// All subscribers of one process under measurement.
pub struct Client {
    clock: Clock,
    site: Arc<Site>,
    polls: Vec<Poll>,
    connections: Vec<Connection>,
    events: Events,
    read_buffer: Box<[u8]>,
    finder: Finder,
    inflater: Inflater,
    /// Connections that are on their way.
    opening: usize,
    /// Connections that were refused, to be tried again or reported.
    refused: Vec<(usize, String)>,
    opening_times: Histogram<u32>,
    /// Connections whose question was answered, and after how many nanoseconds.
    answers: Vec<(usize, u64)>,
}

impl Client {
    /// A client without connections.
    ///
    /// # Errors
    /// When the system gives no poll sets.
    pub fn new(clock: Clock, site: Arc<Site>) -> Result<Self> {
        Self::with_poll_sets(clock, site, POLL_SETS)
    }

    /// The same with so many poll sets, at least 1: a few connections need few, and each costs something at every look.
    ///
    /// # Errors
    /// When the system gives no poll sets.
    pub fn with_poll_sets(clock: Clock, site: Arc<Site>, poll_sets: usize) -> Result<Self> {
        Ok(Self {
            clock,
            site,
            polls: (0..poll_sets).map(|_| Poll::new()).collect::<io::Result<_>>().context("make poll sets")?,
            connections: Vec::new(),
            events: Events::with_capacity(1024),
            read_buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            finder: Finder::default(),
            inflater: Inflater::default(),
            opening: 0,
            refused: Vec::new(),
            opening_times: delays(),
            answers: Vec::new(),
        })
    }

    /// A client with these connections, calmly opened.
    ///
    /// # Errors
    /// When one of them is refused, or nothing goes on for ten seconds.
    pub fn open(clock: Clock, site: &Arc<Site>, subscriptions: impl IntoIterator<Item = Subscription>) -> Result<Self> {
        let mut client = Self::new(clock, site.clone())?;
        client.add(subscriptions, Opening::CALM, &mut Tally::empty())?;
        Ok(client)
    }

    /// How many connections there are, closed ones included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Opens more connections; returns when all of them are subscribed.
    ///
    /// # Errors
    /// When one of them is refused and is not to be tried again, or nothing goes on for ten seconds.
    pub fn add(
        &mut self,
        subscriptions: impl IntoIterator<Item = Subscription>,
        how: Opening,
        tally: &mut Tally,
    ) -> Result<Opened> {
        let first = self.connections.len();
        self.connections.extend(subscriptions.into_iter().map(|subscription| Connection {
            stream: None,
            frames: FrameScanner::default(),
            state: State::Closed,
            subscription,
            socket_id: None,
            asked_ns: 0,
        }));
        self.open_from(first, how, tally)
    }

    /// Opens all connections again, after [`Self::drop_all`].
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn reopen(&mut self, how: Opening, tally: &mut Tally) -> Result<Opened> {
        self.connections.iter_mut().for_each(|connection| connection.asked_ns = 0);
        self.open_from(0, how, tally)
    }

    fn open_from(&mut self, first: usize, how: Opening, tally: &mut Tally) -> Result<Opened> {
        self.site.target.prepare()?;
        let began = Instant::now();
        let (mut last_change, mut last_open) = (began, usize::MAX);
        let mut opened = Opened { elapsed: Duration::ZERO, refused: 0, refusal: None, times: delays() };
        self.opening_times.reset();
        let mut waiting: std::collections::VecDeque<_> = (first..self.connections.len()).collect();
        let mut pausing: std::collections::VecDeque<(Instant, usize)> = std::collections::VecDeque::new();
        while self.opening + waiting.len() + pausing.len() > 0 {
            check_interrupted()?;
            while pausing.front().is_some_and(|(until, _)| *until <= Instant::now()) {
                waiting.extend(pausing.pop_front().map(|(_, index)| index));
            }
            let room = how.together.saturating_sub(self.opening).min(BEGUN_PER_LOOK_MAX);
            for index in waiting.drain(..room.min(waiting.len())) {
                self.begin(index);
            }
            self.look(tally)?;
            for (index, reason) in std::mem::take(&mut self.refused) {
                ensure!(how.is_stubborn, "connection {index}: {reason}");
                opened.refused += 1;
                opened.refusal.get_or_insert(reason);
                pausing.push_back((Instant::now() + REFUSED_PAUSE, index));
            }
            let left = self.opening + waiting.len() + pausing.len();
            if left != last_open {
                (last_change, last_open) = (Instant::now(), left);
            } else {
                if last_change.elapsed() > OPENING_PATIENCE {
                    let why = opened.refusal.unwrap_or_else(|| "no answer".into());
                    bail!("{left} connections did not open: {why}");
                }
                thread::sleep(LOOK_INTERVAL / 10);
            }
        }
        opened.elapsed = began.elapsed();
        // of equal bounds
        let _ = opened.times.add(&self.opening_times);
        Ok(opened)
    }

    /// Begins to open a connection; what goes wrong is noted in `refused`.
    fn begin(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.frames = FrameScanner::default();
        // one that was refused before has been waiting since
        if connection.asked_ns == 0 {
            connection.asked_ns = self.clock.now_ns();
        }
        let begun = Stream::connect(self.site.sockets, self.site.sockets_tls.as_ref()).and_then(|mut stream| {
            stream.register(self.polls[index % self.polls.len()].registry(), Token(index))?;
            Ok(stream)
        });
        self.opening += 1;
        match begun {
            Ok(stream) => {
                connection.stream = Some(stream);
                connection.state = State::Connecting;
            }
            Err(error) => {
                connection.state = State::Connecting;
                self.refuse(index, connect_error(&error, &self.site));
            }
        }
    }

    /// Ends a connection that was on its way.
    fn refuse(&mut self, index: usize, reason: String) {
        let connection = &mut self.connections[index];
        connection.state = State::Closed;
        connection.stream = None;
        self.opening -= 1;
        self.refused.push((index, reason));
    }

    /// From here on nothing is read from the first `count` connections.
    pub fn stall(&mut self, count: usize) {
        for connection in self.connections.iter_mut().take(count) {
            connection.state = State::Stalled;
        }
    }

    /// How many of the stalled connections the server has given up: their stream, read to its end, ends. What the kernel
    /// holds for them may take its time, so ends are awaited for as long as one more comes.
    ///
    /// # Errors
    /// The system's, or when the run is interrupted.
    pub fn stalled_closed(&mut self) -> Result<usize> {
        let mut tally = Tally::empty();
        let stalled: Vec<usize> =
            (0..self.connections.len()).filter(|index| self.connections[*index].state == State::Stalled).collect();
        for index in &stalled {
            self.connections[*index].state = State::Open;
            self.read(*index, true, &mut tally)?;
        }
        let mut last_close = Instant::now();
        while tally.closed < stalled.len() && last_close.elapsed() < STALLED_PATIENCE {
            check_interrupted()?;
            let before = tally.closed;
            self.look(&mut tally)?;
            if tally.closed > before {
                last_close = Instant::now();
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(tally.closed)
    }

    /// Reads whatever arrives until `enough` says so, or until nothing has arrived for `quiet_max` after `sent` said
    /// that all is sent.
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
    ) -> Result<Reading> {
        self.read_and(tally, time_max, quiet_max, sent, enough, &mut |_, _| Ok(()))
    }

    /// The same, doing something else after each look.
    ///
    /// # Errors
    /// As [`Self::read_until`], and what `between` says.
    pub fn read_and(
        &mut self,
        tally: &mut Tally,
        time_max: Duration,
        quiet_max: Duration,
        sent: impl Fn() -> bool,
        enough: impl Fn(&Tally) -> bool,
        between: &mut dyn FnMut(&mut Self, u64) -> Result<()>,
    ) -> Result<Reading> {
        let (began, cpu_before) = (Instant::now(), thread_cpu());
        let (mut busy_since, mut look_gaps) = ((began, cpu_before), delays());
        let (mut last_arrival, mut last_look) = (began, began);
        let ended = loop {
            check_interrupted()?;
            let before = (tally.deliveries, tally.notices);
            let look = Instant::now();
            let cpu = if before == (0, 0) { thread_cpu() } else { cpu_before };
            self.look(tally)?;
            between(self, self.clock.now_ns())?;
            let has_arrived = (tally.deliveries, tally.notices) > before;
            if before == (0, 0) && has_arrived {
                busy_since = (look, cpu);
            } else if before != (0, 0) {
                look_gaps.saturating_record((look - last_look).as_micros() as u64);
            }
            last_look = look;
            let now = Instant::now();
            let is_sent = sent();
            if is_sent && enough(tally) {
                break now;
            }
            if has_arrived || !is_sent {
                last_arrival = now;
            }
            if now - last_arrival > quiet_max {
                break last_arrival;
            }
            ensure!(now - began < time_max, "not finished after {time_max:?}");
            thread::sleep(LOOK_INTERVAL);
        };
        let cpu_after = thread_cpu();
        Ok(Reading {
            cpu: cpu_after.saturating_sub(cpu_before),
            busy_time: ended.saturating_duration_since(busy_since.0).max(LOOK_INTERVAL),
            busy_cpu: cpu_after.saturating_sub(busy_since.1),
            look_gaps,
        })
    }

    /// Sends a command whose answer [`Self::answers`] tells; one at a time on a connection.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn ask(&mut self, index: usize, command: Option<&str>) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.asked_ns = self.clock.now_ns();
        match command {
            Some(text) => connection.send(OPCODE_TEXT, text.as_bytes()),
            None => connection.send(OPCODE_PING, b""),
        }
        .with_context(|| format!("connection {index} has ended"))
    }

    /// Sends a command that has no answer, or none that matters.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn say(&mut self, index: usize, command: &str) -> Result<()> {
        let sent = self.connections[index].send(OPCODE_TEXT, command.as_bytes());
        sent.with_context(|| format!("connection {index} has ended"))
    }

    /// For how many nanoseconds the answer has been awaited by now, where it still is.
    pub fn asked_for(&self, index: usize) -> Option<u64> {
        let asked_ns = self.connections[index].asked_ns;
        (asked_ns != 0).then(|| self.clock.now_ns().saturating_sub(asked_ns))
    }

    /// The connections whose questions were answered since the last call, and after how many nanoseconds.
    pub fn answers(&mut self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.answers)
    }

    /// The id that the server gave a connection without a subscription.
    pub fn socket_id(&self, index: usize) -> &str {
        self.connections[index].socket_id.as_deref().unwrap_or_default()
    }

    /// Ends all connections at once and without a word, as when a network fails.
    ///
    /// # Errors
    /// The system's.
    pub fn drop_all(&mut self) -> Result<()> {
        for connection in &mut self.connections {
            if let Some(stream) = connection.stream.take() {
                stream.end_abruptly()?;
            }
            connection.state = State::Closed;
        }
        Ok(())
    }

    /// Forgets all connections; those that are there end without a word.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.answers.clear();
    }

    /// Sends a close frame on every connection and waits until the server has closed them all. Where it does not within
    /// 20 seconds, that is said, and they are dropped.
    ///
    /// # Errors
    /// The system's, or when the run is interrupted.
    pub fn close(mut self) -> Result<()> {
        self.close_all()
    }

    /// The same, for connections that are to be opened again.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn close_all(&mut self) -> Result<()> {
        let mut tally = Tally::empty();
        for connection in self.connections.iter_mut().filter(|connection| connection.state != State::Closed) {
            connection.state = State::Open;
            // An error means that the server was first; the stream then ends.
            let _ = connection.send(OPCODE_CLOSE, &1000u16.to_be_bytes());
        }
        // what a stalled connection has not read yet is no news any more
        for index in 0..self.connections.len() {
            self.read(index, true, &mut tally)?;
        }
        let ended = Instant::now() + CLOSING_PATIENCE;
        while self.connections.iter().any(|connection| connection.state == State::Open) {
            check_interrupted()?;
            if Instant::now() > ended {
                let left = self.connections.iter().filter(|connection| connection.state == State::Open).count();
                eprintln!("  the server left {left} connections open after a close frame");
                break;
            }
            self.look(&mut tally)?;
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Looks once at every poll set, and reads what is there.
    ///
    /// # Errors
    /// The system's.
    pub fn look(&mut self, tally: &mut Tally) -> Result<()> {
        let mut ready = Vec::new();
        for set in 0..self.polls.len() {
            match self.polls[set].poll(&mut self.events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            ready.extend(self.events.iter().map(|event| (event.token().0, event.is_read_closed())));
            for (index, ends) in ready.drain(..) {
                if self.connections[index].state == State::Connecting {
                    self.connected(index);
                }
                self.read(index, ends, tally)?;
            }
        }
        Ok(())
    }

    /// Sends the handshake if the connection is there by now.
    fn connected(&mut self, index: usize) {
        let request = handshake(&self.site, index, self.connections[index].subscription);
        let Some(stream) = &mut self.connections[index].stream else { return };
        match stream.check().and_then(|()| stream.write_all(request.as_bytes())) {
            Ok(()) => self.connections[index].state = State::Handshake,
            Err(error) if matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::WouldBlock) => (),
            Err(error) => self.refuse(index, connect_error(&error, &self.site)),
        }
    }

    /// Reads what is there. Sets are edge-triggered: a buffer that was not filled is the sign that nothing is left,
    /// except for the end of the stream (epoll(7)); `to_the_end` also looks for that.
    fn read(&mut self, index: usize, to_the_end: bool, tally: &mut Tally) -> Result<()> {
        let (mut heard, mut pongs) = (Vec::new(), Vec::new());
        loop {
            let connection = &mut self.connections[index];
            if matches!(connection.state, State::Stalled | State::Closed | State::Connecting) {
                return Ok(());
            }
            let Some(stream) = &mut connection.stream else { return Ok(()) };
            let length = match stream.read(&mut self.read_buffer) {
                Ok(length) if length > 0 => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                ended => {
                    if connection.is_opening() {
                        let why = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
                        self.refuse(index, format!("ended before it was open: {why}"));
                    } else {
                        connection.state = State::Closed;
                        connection.stream = None;
                        tally.closed += 1;
                    }
                    return Ok(());
                }
            };
            let now_ns = self.clock.now_ns();
            let mut bytes = &self.read_buffer[..length];
            if connection.state == State::Handshake {
                let Some(head) = connection.frames.head(bytes) else { continue };
                if !head.starts_with("HTTP/1.1 101 ") {
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    self.refuse(index, format!("the handshake was answered {line}"));
                    return Ok(());
                }
                if self.site.is_deflate && !agrees_to_deflate(&head) {
                    self.refuse(index, "the server does not agree to permessage-deflate".to_owned());
                    return Ok(());
                }
                bytes = &[];
                connection.state = State::Greeting;
                if !self.site.target.greets() {
                    heard.push(Heard::Greeting(String::new()));
                }
            }
            let connection = &mut self.connections[index];
            let channel = connection.subscription.channel();
            connection.frames.scan(bytes, |opcode, payload| {
                let is_deflated = opcode & COMPRESSED != 0;
                let Some(text) = (if is_deflated { self.inflater.inflate(payload) } else { Some(payload) }) else {
                    tally.wrong += 1;
                    return;
                };
                match opcode & !COMPRESSED {
                    OPCODE_TEXT | OPCODE_BINARY => match self.finder.find(text) {
                        Some(stamp) => {
                            tally.wire_bytes += frame_bytes(payload.len());
                            tally.clear_bytes += frame_bytes(text.len());
                            tally.note(index, channel, stamp, now_ns);
                        }
                        None => match self.site.target.hear(text) {
                            Heard::Notice => tally.notices += 1,
                            Heard::Other => (),
                            other => heard.push(other),
                        },
                    },
                    OPCODE_PING => pongs.push(payload.to_vec()),
                    OPCODE_PONG => heard.push(Heard::Pong),
                    _ => (),
                }
            });
            for payload in pongs.drain(..) {
                // a connection too full for a pong is one that the server is to give up
                let _ = connection.send(OPCODE_PONG, &payload);
            }
            for heard in heard.drain(..) {
                self.advance(index, heard, now_ns);
            }
            if length < self.read_buffer.len() && !to_the_end {
                return Ok(());
            }
        }
    }

    /// Goes on with a connection after what the server said.
    fn advance(&mut self, index: usize, heard: Heard, now_ns: u64) {
        let site = self.site.clone();
        let connection = &mut self.connections[index];
        match (connection.state, heard) {
            (State::Greeting, Heard::Greeting(socket_id)) => {
                match site.target.subscribe(connection.subscription, &socket_id) {
                    Some(command) => match connection.send(OPCODE_TEXT, command.as_bytes()) {
                        Ok(()) => connection.state = State::Subscribing,
                        Err(error) => self.refuse(index, error.to_string()),
                    },
                    None => {
                        if connection.subscription == Subscription::None {
                            connection.socket_id = Some(socket_id.into());
                        }
                        self.opened(index, now_ns);
                    }
                }
            }
            (State::Subscribing, Heard::Subscribed) => self.opened(index, now_ns),
            (State::Greeting | State::Subscribing, Heard::Refused(words)) => self.refuse(index, words),
            (State::Open, Heard::Pong | Heard::Subscribed) if connection.asked_ns != 0 => {
                self.answers.push((index, now_ns.saturating_sub(connection.asked_ns)));
                connection.asked_ns = 0;
            }
            (_, Heard::Ping) => {
                if let Some(text) = site.target.pong() {
                    let _ = connection.send(OPCODE_TEXT, text.as_bytes()); // as above
                }
            }
            _ => (),
        }
    }

    fn opened(&mut self, index: usize, now_ns: u64) {
        let connection = &mut self.connections[index];
        connection.state = State::Open;
        self.opening_times.saturating_record(now_ns.saturating_sub(connection.asked_ns) / 1000);
        connection.asked_ns = 0;
        self.opening -= 1;
    }
}

/// Why a connection could not be had, with the way out.
fn connect_error(error: &io::Error, site: &Site) -> String {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse, _) => format!(
            "no local port is free for {}: use fewer connections, or widen net.ipv4.ip_local_port_range",
            site.sockets
        ),
        // EMFILE, ENFILE
        (_, Some(24 | 23)) => "no more open files are allowed: raise the limit (ulimit -n)".to_owned(),
        _ => format!("connect to {}: {error}", site.sockets),
    }
}

fn handshake(site: &Site, index: usize, subscription: Subscription) -> String {
    let request_target = site.target.request_target(index, subscription);
    let offer = if site.is_deflate { format!("Sec-WebSocket-Extensions: {DEFLATE_OFFER}\r\n") } else { String::new() };
    format!(
        "GET {request_target} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aHlkcmFudCBiZW5jaC4uLg==\r\n{offer}\r\n",
        site.host
    )
}
