//! A small HTTP/1.1 client that hides nothing: status, headers and body as they came over the wire.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long any read or write may take before the transcript fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One connection to the server, every read bounded by [`PATIENCE`].
pub(crate) struct Wire(BufReader<Box<dyn Duplex>>);

/// A stream of either kind.
trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

impl Wire {
    pub(crate) fn open(address: SocketAddr) -> Result<Self, String> {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| format!("connect {address}: {e}"))?)
    }

    pub(crate) fn open_unix(path: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(path).map_err(|e| format!("connect {}: {e}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    pub(crate) fn over(stream: TcpStream) -> Result<Self, String> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    /// Over a stream whose reads and writes are bounded already.
    pub(crate) fn through(stream: impl Read + Write + Send + 'static) -> Self {
        Self(BufReader::new(Box::new(stream)))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.get_mut().write_all(bytes).map_err(|e| format!("write: {e}"))
    }

    /// Exactly `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).map_err(read_error)?;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(read_error)?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| format!("the stream ended in a head: {line:?}"))
    }

    /// Waits for the server to end the stream; a byte before that is an error.
    pub(crate) fn ended(&mut self) -> Result<(), String> {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(0) => Ok(()),
            Ok(_) => Err(format!("more bytes instead of the end of the stream, first {:#04x}", byte[0])),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(e) => Err(read_error(e)),
        }
    }
}

fn read_error(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("nothing came within {PATIENCE:?}"),
        ErrorKind::UnexpectedEof => "the server ended the stream".to_owned(),
        _ => format!("read: {error}"),
    }
}

/// An answer, and the connection it came on.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) wire: Wire,
}

impl Response {
    /// Value of the first header of this name, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Sends one request on a connection of its own. `headers` replace the default ones of the same name; `Content-Length`
/// is added when there is a body or the method usually has one, unless `Transfer-Encoding` says that it comes in chunks.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Response, String> {
    request_on(Wire::open(address)?, &address.to_string(), method, path, headers, body)
}

/// A body of several bytes in two chunks (RFC 9112 section 7.1).
fn chunks(body: &[u8]) -> Vec<u8> {
    let (one, other) = body.split_at(body.len() / 2);
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    [chunk(one), chunk(other), b"0\r\n\r\n".to_vec()].concat()
}

/// The same on a connection that there is.
pub(crate) fn request_on(
    mut wire: Wire,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Response, String> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {host}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let is_chunked = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
    let body = if is_chunked { chunks(body) } else { body.to_vec() };
    if !is_chunked && (!body.is_empty() || matches!(method, "POST" | "PUT")) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    // A server may refuse by the head alone and stop reading: what it answered counts, not that the write failed.
    let _ = wire.write(&[head.as_bytes(), b"\r\n", &body].concat());
    response(wire, method != "HEAD")
}

/// Reads the next answer on a connection.
pub(crate) fn response(mut wire: Wire, has_body: bool) -> Result<Response, String> {
    let status_line = wire.line()?;
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("not an HTTP/1.1 status line: {status_line:?}"))?;
    let mut response = Response { status, headers: Vec::new(), body: Vec::new(), wire };
    loop {
        let line = response.wire.line()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("not a header: {line:?}"))?;
        response.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if has_body && !matches!(status, 101 | 204 | 304) {
        let length = response.header("Content-Length").ok_or("an answer without Content-Length")?;
        let length = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
        response.body = response.wire.take(length)?;
    }
    Ok(response)
}
