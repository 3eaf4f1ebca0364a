//! Hydrant's WebSocket decoder beside tungstenite's, on the same bytes. Shared by `tests/ws_codec.rs` and the fuzz target.

use std::io::{self, Read, Write};

use hydrant::shard::ws::codec::{Accepts, Decoder, Message, Violation};
use tokio_tungstenite::tungstenite::{
    self, Error, WebSocket,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig},
};

/// How a stream of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Every byte was taken; more may follow.
    Open,
    /// A close frame was the last message.
    Closed,
    /// The stream broke the protocol.
    Refused(Violation),
}

/// What the decoder makes of `wire` when it comes in pieces of these sizes, over and over: messages as `Debug` writes
/// them, and the end.
///
/// # Panics
/// If the decoder breaks what its documentation promises.
pub(crate) fn decode(wire: &[u8], piece_bytes: &[usize], accepts: Accepts) -> (Vec<String>, End) {
    let mut wire = wire.to_vec();
    let mut rest = wire.as_mut_slice();
    let mut sizes = piece_bytes.iter().cycle();
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| rest.len().min(*size).max(1));
        let (mut piece, later) = rest.split_at_mut(size);
        rest = later;
        loop {
            let length = piece.len();
            let decoded = match decoder.decode(piece, accepts) {
                Ok(decoded) => decoded,
                Err(violation) => return (messages, End::Refused(violation)),
            };
            let consumed = decoded.consumed;
            let Some(message) = decoded.message else {
                assert_eq!(consumed, length, "bytes are left though no message was complete");
                break;
            };
            messages.push(format!("{message:?}"));
            if let Message::Close { .. } = message {
                return (messages, End::Closed);
            }
            piece = &mut piece[consumed..];
        }
    }
    (messages, End::Open)
}

/// Checks that tungstenite, as a server that agreed on no extension, finds the same messages and the same end.
///
/// It differs by intent in four ways, none of them a message that it reads otherwise:
/// - it takes any length encoding, where RFC 6455 §5.2 demands the shortest;
/// - it reports a forbidden close code as a close with 1002, where we refuse: both end in a close with 1002;
/// - it does the same with 1014, which IANA registered after the RFC;
/// - it judges a frame once all of it is there, we as soon as a byte is wrong; hence the zeros behind what we refused.
///
/// # Panics
/// If they disagree.
pub(crate) fn agree_with_tungstenite(wire: &[u8], message_bytes_max: usize) {
    let (mut ours, end) = decode(wire, &[], Accepts { message_bytes_max, deflated: false });
    let frame_bytes_max = message_bytes_max.max(125);
    let zeros = if let End::Refused(_) = end { frame_bytes_max + 14 } else { 0 };
    let (mut theirs, their_end) =
        tungstenite_decode([wire, &vec![0; zeros]].concat(), message_bytes_max, frame_bytes_max);

    let forbidden_code = "Close { code: Some(1002), reason: \"Protocol violation\" }";
    match end {
        End::Refused(Violation::LengthNotMinimal | Violation::ControlTooLong) => {
            theirs.truncate(ours.len());
            return assert_eq!(ours, theirs);
        }
        End::Refused(Violation::CloseCode) if their_end == TheirEnd::Closed => ours.push(forbidden_code.to_owned()),
        End::Refused(_) => assert_eq!(their_end, TheirEnd::Refused),
        End::Closed => assert_eq!(their_end, TheirEnd::Closed),
        End::Open => assert_eq!(their_end, TheirEnd::Open),
    }
    if let Some(last) = ours.last_mut()
        && last.starts_with("Close { code: Some(1014)")
    {
        forbidden_code.clone_into(last);
    }
    assert_eq!(ours, theirs, "{end:?}");
}

#[derive(Debug, PartialEq, Eq)]
enum TheirEnd {
    Open,
    Closed,
    Refused,
}

fn tungstenite_decode(wire: Vec<u8>, message_bytes_max: usize, frame_bytes_max: usize) -> (Vec<String>, TheirEnd) {
    let config = WebSocketConfig::default()
        .read_buffer_size(64)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(frame_bytes_max));
    let mut socket = WebSocket::from_raw_socket(Wire(io::Cursor::new(wire)), Role::Server, Some(config));
    let mut messages = Vec::new();
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (messages, TheirEnd::Open),
            Err(Error::Protocol(_) | Error::Capacity(_) | Error::Utf8(_)) => return (messages, TheirEnd::Refused),
            Err(other) => panic!("tungstenite: {other}"),
        };
        let message = match &message {
            tungstenite::Message::Text(text) => Message::Text(text.as_str()),
            tungstenite::Message::Binary(payload) => Message::Binary(payload),
            tungstenite::Message::Ping(payload) => Message::Ping(payload),
            tungstenite::Message::Pong(payload) => Message::Pong(payload),
            tungstenite::Message::Close(None) => Message::Close { code: None, reason: "" },
            tungstenite::Message::Close(Some(close)) => {
                Message::Close { code: Some(close.code.into()), reason: close.reason.as_str() }
            }
            tungstenite::Message::Frame(frame) => panic!("tungstenite returns no frames: {frame}"),
        };
        messages.push(format!("{message:?}"));
        if let Message::Close { .. } = message {
            return (messages, TheirEnd::Closed);
        }
    }
}

/// A client that has said all it has to say, and hears nothing.
struct Wire(io::Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
