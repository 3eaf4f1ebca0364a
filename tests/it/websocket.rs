//! The client side of RFC 6455, small enough to send what no library would.

use std::io::Read;
use std::net::SocketAddr;

use flate2::read::DeflateDecoder;
use flate2::{Compress, Compression, FlushCompress};

use crate::http::{self, Response, Wire};

/// The key of RFC 6455 section 1.3 and the answer to it.
const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
const MASK: [u8; 4] = [0x5a, 0x21, 0xc3, 0x7e];

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// Beside an opcode: the message is deflated.
pub(crate) const DEFLATED: u8 = 0x40;

/// What the server sent.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    Text(String),
    /// A text message that came deflated.
    Deflated(String),
    Binary(Vec<u8>),
    Ping(String),
    Pong(String),
    /// Code (1005 when the frame has none) and reason.
    Close(u16, String),
}

pub(crate) struct WebSocket {
    wire: Wire,
    close_sent: bool,
    /// permessage-deflate was agreed on.
    deflates: bool,
}

/// Asks for an upgrade; the answer may be a refusal. `headers` replace the default ones of the same name.
pub(crate) fn ask(address: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<Response, String> {
    ask_on(Wire::open(address)?, &address.to_string(), path, headers)
}

/// The same on a connection that there is.
pub(crate) fn ask_on(wire: Wire, host: &str, path: &str, headers: &[(String, String)]) -> Result<Response, String> {
    let mut all = headers.to_vec();
    for (name, value) in [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY.0),
    ] {
        if !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    http::request_on(wire, host, "GET", path, &all, b"")
}

impl WebSocket {
    /// The socket that an answer to [`ask`] opened.
    pub(crate) fn accept(response: Response) -> Result<Self, String> {
        if response.status != 101 {
            let body = String::from_utf8_lossy(&response.body).into_owned();
            return Err(format!("the handshake was answered {} {body:?}", response.status));
        }
        let deflates = response.header("Sec-WebSocket-Extensions").is_some();
        match response.header("Sec-WebSocket-Accept") {
            Some(accept) if accept == KEY.1 => Ok(Self { wire: response.wire, close_sent: false, deflates }),
            other => Err(format!("Sec-WebSocket-Accept is {other:?}, not {:?}", KEY.1)),
        }
    }

    /// Sends one masked frame.
    pub(crate) fn send(&mut self, last: bool, opcode: u8, payload: &[u8]) -> Result<(), String> {
        self.close_sent |= opcode == CLOSE;
        let mut frame = vec![if last { 0x80 | opcode } else { opcode }];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.wire.write(&frame)
    }

    pub(crate) fn send_close(&mut self, code: u16, reason: &str) -> Result<(), String> {
        self.send(true, CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// Sends bytes as they are, frame or not.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.wire.write(bytes)
    }

    /// The next frame. The server sends whole, unmasked frames, deflated texts if that was agreed on; anything else is
    /// an error.
    pub(crate) fn receive(&mut self) -> Result<Frame, String> {
        let head = self.wire.take(2)?;
        let is_deflated = self.deflates && head[0] == 0x80 | DEFLATED | TEXT;
        if head[0] & 0xf0 != 0x80 && !is_deflated || head[1] & 0x80 != 0 {
            return Err(format!("not a whole, plain, unmasked frame: {head:02x?}"));
        }
        let length = match head[1] {
            126 => self.wire.take(2)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => self.wire.take(8)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            length => usize::from(length),
        };
        let payload = self.wire.take(length)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| format!("not UTF-8: {bytes:02x?}"));
        match head[0] & 0x0f {
            TEXT if is_deflated => Ok(Frame::Deflated(text(&inflate(&payload)?)?)),
            TEXT => Ok(Frame::Text(text(&payload)?)),
            BINARY => Ok(Frame::Binary(payload)),
            PING => Ok(Frame::Ping(text(&payload)?)),
            PONG => Ok(Frame::Pong(text(&payload)?)),
            CLOSE => match payload.split_at_checked(2) {
                Some((code, reason)) => Ok(Frame::Close(u16::from_be_bytes([code[0], code[1]]), text(reason)?)),
                None if payload.is_empty() => Ok(Frame::Close(1005, String::new())),
                None => Err(format!("a close frame of one byte: {payload:02x?}")),
            },
            opcode => Err(format!("unknown opcode {opcode}")),
        }
    }

    /// After the server's close frame: answers it, unless it is the answer, and waits for the end of the stream.
    pub(crate) fn finish(mut self, code: u16) -> Result<(), String> {
        if !self.close_sent {
            let payload = if code == 1005 { Vec::new() } else { code.to_be_bytes().to_vec() };
            // The server may have gone already, which is no fault.
            let _ = self.send(true, CLOSE, &payload);
        }
        self.wire.ended()
    }
}

/// A message as RFC 7692 section 7.2.1 has it.
pub(crate) fn deflate(message: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::with_capacity(message.len() + 100);
    let mut compress = Compress::new(Compression::default(), false);
    compress.compress_vec(message, &mut deflated, FlushCompress::Sync).expect("what deflates anything");
    deflated.truncate(deflated.len() - 4);
    deflated
}

/// And section 7.2.2: the end that is not sent is put back, and a last block behind it.
fn inflate(payload: &[u8]) -> Result<Vec<u8>, String> {
    let (whole, mut message) = ([payload, &[0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff]].concat(), Vec::new());
    DeflateDecoder::new(&whole[..]).read_to_end(&mut message).map_err(|e| format!("inflating {payload:02x?}: {e}"))?;
    Ok(message)
}
