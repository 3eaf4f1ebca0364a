//! A kept-alive HTTP/1.1 connection that can have several requests under way.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::StreamOwned;
use rustls::pki_types::ServerName;

use super::tls;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 8 << 10;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body; of a chunked one, with its chunks' sizes.
    pub body: Vec<u8>,
}

/// Bytes, plain or in TLS.
trait Transport: Read + Write + Send {}

impl<T: Read + Write + Send> Transport for T {}

/// A connection.
pub struct HttpConnection {
    address: SocketAddr,
    /// The server's name, where it speaks TLS.
    name: Option<ServerName<'static>>,
    stream: Box<dyn Transport>,
    /// Whether an answer has come on this stream.
    is_answered: bool,
    /// Whether the server ends each connection after one answer, as Reverb does.
    is_ended: bool,
    /// What has arrived and was not handed out.
    arrived: Vec<u8>,
}

impl HttpConnection {
    /// # Errors
    /// When nobody listens.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::connect_as(address, None)
    }

    /// The same, in TLS to a server of that name if there is one.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect_as(address: SocketAddr, name: Option<&ServerName<'static>>) -> Result<Self> {
        let stream =
            TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let stream: Box<dyn Transport> = match name {
            None => Box::new(stream),
            Some(name) => Box::new(StreamOwned::new(tls::session(name)?, stream)),
        };
        let name = name.cloned();
        Ok(Self { address, name, stream, is_answered: false, is_ended: false, arrived: Vec::new() })
    }

    /// Sends one request and reads its answer. To a server that keeps no connection it connects anew each time; the first
    /// such end is found out by a request that is then sent again.
    ///
    /// # Errors
    /// When the connection breaks, or no answer comes in time.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        if !self.is_ended {
            let error = match self.send(request).and_then(|()| self.answer()) {
                Err(error) if self.is_answered && self.arrived.is_empty() && !is_timeout(&error) => error,
                other => return other,
            };
            *self = Self { is_ended: true, ..Self::connect_as(self.address, self.name.as_ref()).map_err(|_| error)? };
        } else if self.is_answered {
            *self = Self { is_ended: true, ..Self::connect_as(self.address, self.name.as_ref())? };
        }
        self.send(request)?;
        self.answer()
    }

    /// Sends one request, or several behind each other.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, requests: &[u8]) -> Result<()> {
        self.stream.write_all(requests).and_then(|()| self.stream.flush()).context("send a request")
    }

    /// Reads the next answer whole.
    ///
    /// # Errors
    /// When the connection breaks, no answer comes in time, or its end cannot be known.
    pub fn answer(&mut self) -> Result<Answer> {
        let (status, length) = loop {
            if let Some(found) = first_answer(&self.arrived)? {
                break found;
            }
            self.read_more()?;
        };
        let rest = self.arrived.split_off(length.end);
        let body = self.arrived[length].to_vec();
        self.arrived = rest;
        self.is_answered = true;
        Ok(Answer { status, body })
    }

    fn read_more(&mut self) -> Result<()> {
        let mut chunk = [0; 16 << 10];
        let length = match self.stream.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.context("no answer to a request")?,
        };
        ensure!(length > 0, "the connection was closed instead of an answer: keep-alive is needed");
        self.arrived.extend_from_slice(&chunk[..length]);
        Ok(())
    }
}

/// Whether the server said nothing for too long.
fn is_timeout(error: &anyhow::Error) -> bool {
    let kind = error.root_cause().downcast_ref().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Status of the first answer, and where its body is, once it has arrived whole.
fn first_answer(arrived: &[u8]) -> Result<Option<(u16, std::ops::Range<usize>)>> {
    let Some(head_bytes) = arrived.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(arrived.len() < HEAD_BYTES_MAX, "no end of the answer's head");
        return Ok(None);
    };
    let head = str::from_utf8(&arrived[..head_bytes]).context("answer's head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("answer without a status")?;
    let field = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let start = head_bytes + 4;
    let length = match (field("content-length"), field("transfer-encoding")) {
        (Some(length), _) => Some(length.parse().context("answer's Content-Length")?),
        (None, Some(encoding)) if encoding.eq_ignore_ascii_case("chunked") => chunked_bytes(&arrived[start..])?,
        (None, _) if status == 204 => Some(0),
        _ => bail!("an answer without Content-Length"),
    };
    Ok(length.map(|length| (status, start..start + length)).filter(|(_, body)| body.end <= arrived.len()))
}

/// The length of a chunked body (RFC 9112 section 7.1; without trailers), if it is there whole.
fn chunked_bytes(body: &[u8]) -> Result<Option<usize>> {
    let mut at = 0;
    loop {
        let Some(line) = body[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = str::from_utf8(&body[at..at + line])?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("size of a chunk")?;
        at = at.saturating_add(line).saturating_add(size).saturating_add(4);
        if at > body.len() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_answer_is_known_from_its_head() {
        let check = |answer: &str, expected| assert_eq!(first_answer(answer.as_bytes()).unwrap(), expected, "{answer}");
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP", Some((200, 38..40)));
        check("HTTP/1.1 503 No\r\nX: y\r\nContent-Length:0\r\n\r\n", Some((503, 43..43)));
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", None);
        check("HTTP/1.1 200 OK\r\ncontent-le", None);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Some((200, 47..59)));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", None);
        check("HTTP/1.1 204 No Content\r\n\r\n", Some((204, 27..27)));
        assert!(first_answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(first_answer(&[b'x'; HEAD_BYTES_MAX]).is_err());
    }

    #[test]
    fn a_server_that_keeps_no_connection_gets_each_request_once() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let each = |_| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 64];
                let length = stream.read(&mut request).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            };
            (0..3).map(each).collect::<String>()
        });
        let mut connection = HttpConnection::connect(address).unwrap();
        for request in ["a", "b", "c"] {
            assert_eq!(connection.exchange(request.as_bytes()).unwrap().status, 200);
        }
        assert_eq!(server.join().unwrap(), "abc");
    }
}
