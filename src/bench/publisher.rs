//! What sends the events: over HTTP to a server, over a pipe to the fan-out floor, on the same timetable.

use std::io::Write;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;

use super::http::{Answer, HttpConnection};
use super::process::{check_interrupted, thread_cpu};
use super::tally::{Clock, Plan, Stamp, delays};
use super::target::{Publish, Site, channel_name};
use super::ws::server_frame;

/// How long a wait for a message's due time goes on before it looks for a signal.
const NAP_MAX: Duration = Duration::from_millis(100);

/// How sending went.
#[derive(Debug)]
pub struct Published {
    /// Messages that were not answered with a status of success.
    pub refused: u32,
    /// The first such answer.
    pub refusal: Option<String>,
    /// How late messages were sent through the fault of this side: counted from when a message was due and a connection was
    /// free for it. In microseconds.
    pub own_delays: Histogram<u32>,
    /// From a request to its answer, in microseconds.
    pub answers: Histogram<u32>,
    /// CPU time of all sending threads.
    pub cpu: Duration,
    /// The share of its time that the busiest of them was on a CPU.
    pub busy: f64,
}

impl Published {
    fn nothing() -> Self {
        let [own_delays, answers] = [delays(), delays()];
        Self { refused: 0, refusal: None, own_delays, answers, cpu: Duration::ZERO, busy: 0.0 }
    }

    /// Adds the answer to what was sent then.
    fn add_answer(&mut self, sent: Instant, answer: &Answer) {
        self.answers.saturating_record(sent.elapsed().as_micros() as u64);
        if !(200..300).contains(&answer.status) {
            self.refused += 1;
            let words = || format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body).trim_end());
            self.refusal.get_or_insert_with(words);
        }
    }

    /// Adds what another thread or phase did.
    pub fn add(&mut self, other: &Self) {
        self.refused += other.refused;
        self.refusal = self.refusal.take().or_else(|| other.refusal.clone());
        // of equal bounds
        let _ = self.own_delays.add(&other.own_delays);
        let _ = self.answers.add(&other.answers);
        self.cpu += other.cpu;
        self.busy = self.busy.max(other.busy);
    }
}

/// Sends messages to what is under measurement.
pub enum Publisher {
    /// Keep-alive connections, each used by a thread of its own.
    Http(Vec<HttpConnection>),
    /// The fan-out floor's standard input.
    Pipe(ChildStdin),
}

/// The bytes of a phase's messages, made before it begins.
pub struct Prepared {
    plan: Plan,
    messages: Vec<Vec<u8>>,
}

impl Publisher {
    /// Opens so many connections to a server's API.
    ///
    /// # Errors
    /// When the server does not accept them.
    pub fn connect(site: &Site, connections: usize) -> Result<Self> {
        Ok(Self::Http(
            (0..connections)
                .map(|_| HttpConnection::connect_as(site.api, site.api_tls.as_ref()))
                .collect::<Result<_>>()?,
        ))
    }

    /// Writes the messages down: requests for this site, signed now, or frames.
    ///
    /// # Errors
    /// When the frame is too small for what it has to carry.
    pub fn prepare(&self, site: &Site, plan: &Plan) -> Result<Prepared> {
        let message = |index| {
            let stamp = plan.stamp(index);
            let data = data(plan.frame_bytes, stamp)?;
            match self {
                Self::Http(_) => site.target.publish(&[Publish { channel: stamp.channel, data }]),
                Self::Pipe(_) => Ok(floor_frame(&event(stamp.channel, &data))),
            }
        };
        Ok(Prepared { plan: *plan, messages: (0..plan.messages).map(message).collect::<Result<_>>()? })
    }

    /// Sends the messages when they are due, or as soon after as the other side lets it.
    ///
    /// # Errors
    /// When a connection breaks, or the run is interrupted.
    pub fn publish(&mut self, clock: Clock, began_ns: u64, prepared: &Prepared) -> Result<Published> {
        let Prepared { plan, messages } = prepared;
        let next = AtomicU32::new(0);
        let turn = |send: &mut dyn FnMut(&[u8], &mut Published) -> Result<()>| {
            let (began, cpu_before) = (Instant::now(), thread_cpu());
            let mut published = Published::nothing();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(message) = messages.get(index as usize) else { break };
                let (free_ns, due_ns) = (clock.now_ns(), plan.due_ns(began_ns, index));
                wait_until(clock, due_ns)?;
                let late_ns = clock.now_ns() - due_ns.max(free_ns);
                published.own_delays.saturating_record(late_ns / 1000);
                send(message, &mut published)?;
            }
            published.cpu = thread_cpu().saturating_sub(cpu_before);
            published.busy = published.cpu.as_secs_f64() / began.elapsed().as_secs_f64().max(f64::EPSILON);
            Ok(published)
        };
        match self {
            Self::Pipe(pipe) => turn(&mut |message, _| pipe.write_all(message).context("the floor has ended")),
            Self::Http(connections) => in_threads(connections, |connection| {
                turn(&mut |message, published| {
                    let sent = Instant::now();
                    published.add_answer(sent, &connection.exchange(message)?);
                    Ok(())
                })
            }),
        }
    }
}

/// Sends the same requests over and over, in waves: `pipeline` of them on each connection, then all answers are awaited.
/// `bundles` are alternatives that take turns, each `pipeline` requests behind each other. One thread does it all: with one for
/// each connection, how often a server is woken would hang on the scheduler's whims.
///
/// # Errors
/// When a connection breaks, or the run is interrupted.
pub fn repeat(connections: &mut [HttpConnection], bundles: &[Vec<u8>], pipeline: u32, waves: u32) -> Result<Published> {
    let (began, cpu_before) = (Instant::now(), thread_cpu());
    let (mut published, mut bundles) = (Published::nothing(), bundles.iter().cycle());
    let mut sent = Vec::with_capacity(connections.len());
    for _ in 0..waves {
        check_interrupted()?;
        sent.clear();
        for (connection, requests) in connections.iter_mut().zip(&mut bundles) {
            connection.send(requests)?;
            sent.push(Instant::now());
        }
        for (connection, sent) in connections.iter_mut().zip(&sent) {
            for _ in 0..pipeline {
                let answer = connection.answer()?;
                published.add_answer(*sent, &answer);
            }
        }
    }
    published.cpu = thread_cpu().saturating_sub(cpu_before);
    published.busy = published.cpu.as_secs_f64() / began.elapsed().as_secs_f64().max(f64::EPSILON);
    Ok(published)
}

fn in_threads(
    connections: &mut [HttpConnection],
    work: impl Fn(&mut HttpConnection) -> Result<Published> + Sync,
) -> Result<Published> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = connections.iter_mut().map(|connection| scope.spawn(move || work(connection))).collect();
        let mut all = Published::nothing();
        for thread in threads {
            all.add(&thread.join().map_err(|_| anyhow!("a publisher's thread failed"))??);
        }
        Ok(all)
    })
}

fn wait_until(clock: Clock, due_ns: u64) -> Result<()> {
    loop {
        check_interrupted()?;
        match due_ns.saturating_sub(clock.now_ns()) {
            0 => return Ok(()),
            left_ns => thread::sleep(Duration::from_nanos(left_ns).min(NAP_MAX)),
        }
    }
}

/// An event as Pusher writes it.
fn event(channel: u32, data: &str) -> String {
    format!(r#"{{"event":"e","channel":"{}","data":"{data}"}}"#, channel_name(channel))
}

/// A text as a frame behind its length (32 bits, big-endian): what the fan-out floor takes.
pub fn floor_frame(text: &str) -> Vec<u8> {
    let frame = server_frame(text);
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&frame);
    bytes
}

/// The event's data for a frame of this size: the stamp, then padding.
///
/// # Errors
/// When there is no room for the stamp, or the frame is over 64 KiB.
pub fn data(frame_bytes: usize, stamp: Stamp) -> Result<String> {
    let header = if frame_bytes < 2 + 126 { 2 } else { 4 };
    let around = header + event(stamp.channel, "").len() + Stamp::BYTES;
    ensure!((around..=65_535).contains(&frame_bytes), "a frame of {frame_bytes} B: it must have {around} to 65535");
    Ok(stamp.text() + &padding(frame_bytes - around, stamp))
}

/// Words that JSON is full of.
const WORDS: [&str; 32] = [
    "id", "name", "price", "user", "status", "update", "created", "total", "currency", "items", "count", "true",
    "false", "order", "title", "2026", "EUR", "type", "message", "author", "score", "position", "lat", "lon", "speed",
    "room", "text", "color", "value", "0042", "1000", "change",
];

/// So many letters and digits, which deflate as well as JSON does: another text for each message.
fn padding(bytes: usize, stamp: Stamp) -> String {
    let mut text = String::with_capacity(bytes + 8);
    // Knuth's linear congruential generator; its upper bits are the good ones
    let mut state = u64::from(stamp.message) << 32 | u64::from(stamp.channel);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += WORDS[(state >> 59) as usize];
    }
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tally::Finder;

    #[test]
    fn frames_have_the_size_that_was_asked_for_and_their_stamp() {
        for frame_bytes in [100, 120, 127, 130, 1024, 4096] {
            let stamp = Stamp { message: 7, channel: 12 };
            let frame = floor_frame(&event(12, &data(frame_bytes, stamp).unwrap()));
            assert_eq!(frame.len(), 4 + frame_bytes);
            assert_eq!(frame[..4], (frame_bytes as u32).to_be_bytes());
            assert_eq!(Finder::default().find(&frame), Some(stamp));
        }
        assert!(data(40, Stamp { message: 0, channel: 0 }).is_err());
        assert!(data(65_536, Stamp { message: 0, channel: 0 }).is_err());
    }

    #[test]
    fn messages_are_sent_when_they_are_due_and_once() {
        let (mut floor, pipe) = {
            let mut floor = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pipe = floor.stdin.take().unwrap();
            (floor, pipe)
        };
        let clock = Clock::start();
        let plan = Plan::to_one_channel(3, 5, Duration::from_millis(1), 120);
        let messages = (0..5).map(|index| plan.stamp(index).text().into_bytes()).collect();
        let mut publisher = Publisher::Pipe(pipe);
        let published = publisher.publish(clock, clock.now_ns(), &Prepared { plan, messages }).unwrap();
        assert_eq!((published.refused, published.own_delays.len()), (0, 5));
        assert!(clock.now_ns() >= 4_000_000);
        drop(publisher);
        let mut sent = String::new();
        std::io::Read::read_to_string(&mut floor.stdout.take().unwrap(), &mut sent).unwrap();
        floor.wait().unwrap();
        assert_eq!(sent, (0..5).map(|index| plan.stamp(index).text()).collect::<String>());
    }
}
