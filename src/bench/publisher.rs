//! What sends the events: over HTTP to a server, over a pipe to the fan-out floor, on the same timetable.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ChildStdin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, Result, bail, ensure};

use super::client::{Clock, Stamp};
use super::process::check_interrupted;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long a wait for a message's due time goes on before it looks for a signal.
const NAP_MAX: Duration = Duration::from_millis(100);

/// A row of equal messages.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the first message.
    pub first_message: u32,
    /// How many.
    pub messages: u32,
    /// From one message's due time to the next one's; zero: all are due at once.
    pub interval: Duration,
    /// Size of the WebSocket frame that a subscriber gets, header included.
    pub frame_bytes: usize,
}

impl Plan {
    /// From the first message's due time to the last one's.
    pub fn duration(&self) -> Duration {
        self.interval * self.messages
    }

    /// Sends the messages as frames ready to be written to sockets, each behind its length (32 bits, big-endian), when
    /// they are due.
    ///
    /// # Errors
    /// When the pipe breaks, or the run is interrupted.
    pub fn send_frames(&self, clock: Clock, pipe: &mut impl Write) -> Result<()> {
        let began_ns = clock.now_ns();
        let mut frame = Template::frame(self.frame_bytes)?;
        for message in 0..self.messages {
            let stamp = self.wait_for(clock, began_ns, message)?;
            pipe.write_all(frame.stamped(stamp)).context("the floor has ended")?;
        }
        Ok(())
    }

    /// Sleeps until the message is due.
    fn wait_for(&self, clock: Clock, began_ns: u64, message: u32) -> Result<Stamp> {
        let due_ns = began_ns + self.interval.as_nanos() as u64 * u64::from(message);
        loop {
            check_interrupted()?;
            match due_ns.saturating_sub(clock.now_ns()) {
                0 => return Ok(Stamp { message: self.first_message + message, due_ns }),
                left_ns => thread::sleep(Duration::from_nanos(left_ns).min(NAP_MAX)),
            }
        }
    }
}

/// Sends messages to what is under measurement.
pub enum Publisher {
    /// Keep-alive connections, each with one request under way at most.
    Http {
        /// The trusted listener.
        address: SocketAddr,
        /// The channel that is published to.
        channel: &'static str,
        /// Open connections; each is used by a thread of its own.
        connections: Vec<HttpConnection>,
    },
    /// The fan-out floor's standard input.
    Pipe(ChildStdin),
}

impl Publisher {
    /// Opens `connections` connections to a trusted listener.
    ///
    /// # Errors
    /// When the listener does not accept them.
    pub fn connect(address: SocketAddr, channel: &'static str, connections: usize) -> Result<Self> {
        let connections = (0..connections).map(|_| HttpConnection::connect(address)).collect::<Result<_>>()?;
        Ok(Self::Http { address, channel, connections })
    }

    /// Sends the messages when they are due, or as soon after as the other side lets it. The stamp is the due time: a
    /// server that keeps its publisher waiting does not hide its delay thereby. Returns how many were refused
    /// (answered with anything but 200).
    ///
    /// # Errors
    /// When a connection breaks, or the run is interrupted.
    pub fn publish(&mut self, clock: Clock, plan: &Plan) -> Result<u32> {
        match self {
            Self::Pipe(pipe) => {
                plan.send_frames(clock, pipe)?;
                Ok(0)
            }
            Self::Http { address, channel, connections } => {
                let template = Template::request(*address, channel, plan.frame_bytes)?;
                let began_ns = clock.now_ns();
                let next = AtomicU32::new(0);
                let publish = |connection: &mut HttpConnection| -> Result<u32> {
                    let mut request = template.clone();
                    let mut refused = 0;
                    loop {
                        let message = next.fetch_add(1, Ordering::Relaxed);
                        if message >= plan.messages {
                            return Ok(refused);
                        }
                        let stamp = plan.wait_for(clock, began_ns, message)?;
                        if connection.exchange(request.stamped(stamp))? != 200 {
                            refused += 1;
                        }
                    }
                };
                thread::scope(|scope| {
                    let publishing: Vec<_> =
                        connections.iter_mut().map(|connection| scope.spawn(|| publish(connection))).collect();
                    let refused = publishing.into_iter().map(|thread| match thread.join() {
                        Ok(refused) => refused,
                        Err(_) => bail!("a publisher's thread failed"),
                    });
                    refused.sum()
                })
            }
        }
    }
}

/// Bytes that are the same for each message but for the stamp.
#[derive(Clone)]
struct Template {
    bytes: Vec<u8>,
    stamp_at: usize,
}

const EVENT_START: &str = r#"{"channel":"c","event":"e","data":""#;
const EVENT_END: &str = r#""}"#;

/// The event's data for a frame of this size: room for the stamp, then padding.
fn data(frame_bytes: usize) -> Result<String> {
    let header = if frame_bytes - 2 < 126 { 2 } else { 4 };
    let length = frame_bytes.checked_sub(header + EVENT_START.len() + EVENT_END.len());
    let padding =
        length.and_then(|length| length.checked_sub(Stamp::BYTES)).context("frame too small for its stamp")?;
    ensure!(frame_bytes <= 65_535, "frame too large for its header");
    Ok(Stamp { message: 0, due_ns: 0 }.text() + &"x".repeat(padding))
}

impl Template {
    /// The frame as a server sends it, behind its length.
    fn frame(frame_bytes: usize) -> Result<Self> {
        let event = format!("{EVENT_START}{}{EVENT_END}", data(frame_bytes)?);
        let mut bytes = (frame_bytes as u32).to_be_bytes().to_vec();
        match event.len() {
            length @ 0..126 => bytes.extend_from_slice(&[0x81, length as u8]),
            length => {
                bytes.extend_from_slice(&[0x81, 126]);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        let stamp_at = bytes.len() + EVENT_START.len();
        bytes.extend_from_slice(event.as_bytes());
        Ok(Self { bytes, stamp_at })
    }

    /// The push that makes a server send the same frame.
    fn request(address: SocketAddr, channel: &str, frame_bytes: usize) -> Result<Self> {
        let body = format!("data={}", data(frame_bytes)?);
        let head = format!(
            "POST /api/push/bench/{channel}/e HTTP/1.1\r\nHost: {address}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stamp_at = head.len() + "data=".len();
        Ok(Self { bytes: (head + &body).into_bytes(), stamp_at })
    }

    fn stamped(&mut self, stamp: Stamp) -> &[u8] {
        self.bytes[self.stamp_at..self.stamp_at + Stamp::BYTES].copy_from_slice(stamp.text().as_bytes());
        &self.bytes
    }
}

/// A kept-alive HTTP/1.1 connection.
pub struct HttpConnection {
    stream: TcpStream,
    answer: Vec<u8>,
    /// Where in `answer` the body begins.
    body_at: usize,
}

impl HttpConnection {
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, answer: Vec::new(), body_at: 0 })
    }

    /// Sends a request and reads the whole answer; returns its status.
    ///
    /// # Errors
    /// When the connection breaks, no answer comes in time, or it has no `Content-Length`.
    pub fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request)?;
        self.answer.clear();
        let (status, body_at, end) = loop {
            if let Some(found) = answer_end(&self.answer)? {
                break found;
            }
            self.read_more()?;
        };
        while self.answer.len() < end {
            self.read_more()?;
        }
        self.body_at = body_at;
        Ok(status)
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.answer[self.body_at..]
    }

    fn read_more(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        let length = match self.stream.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other.context("no answer to a request")?,
        };
        ensure!(length > 0, "the connection was closed instead of an answer");
        self.answer.extend_from_slice(&chunk[..length]);
        Ok(())
    }
}

/// Status, where the body begins, and full length of an answer, once its head is there.
fn answer_end(answer: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(head_bytes) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(answer.len() < HEAD_BYTES_MAX, "no end of the answer's head");
        return Ok(None);
    };
    let head = str::from_utf8(&answer[..head_bytes]).context("answer's head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("answer without a status")?;
    let length: Option<usize> = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let body_at = head_bytes + 4;
    Ok(Some((status, body_at, body_at + length.context("answer without a Content-Length")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_and_request_carry_the_same_event() {
        for frame_bytes in [120, 127, 130, 1024, 4096] {
            let stamp = Stamp { message: 7, due_ns: 9 };
            let mut frame = Template::frame(frame_bytes).unwrap();
            let frame = frame.stamped(stamp).to_vec();
            assert_eq!(frame.len(), 4 + frame_bytes);
            assert_eq!(frame[..4], (frame_bytes as u32).to_be_bytes());
            assert_eq!(Stamp::find(&frame), Some(stamp));

            let mut request = Template::request(([127, 0, 0, 1], 1).into(), "c", frame_bytes).unwrap();
            let request = String::from_utf8(request.stamped(stamp).to_vec()).unwrap();
            let data = request.split_once("\r\n\r\ndata=").unwrap().1;
            assert!(frame.ends_with(format!(r#"{{"channel":"c","event":"e","data":"{data}"}}"#).as_bytes()));
        }
        assert!(Template::frame(40).is_err());
    }

    #[test]
    fn the_end_of_an_answer_is_known_from_its_head() {
        let check = |answer: &str, expected| assert_eq!(answer_end(answer.as_bytes()).unwrap(), expected, "{answer}");
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some((200, 38, 40)));
        check("HTTP/1.1 503 No\r\nX: y\r\nContent-Length:0\r\n\r\n", Some((503, 43, 43)));
        check("HTTP/1.1 200 OK\r\ncontent-le", None);
        assert!(answer_end(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(answer_end(&[b'x'; HEAD_BYTES_MAX]).is_err());
    }
}
