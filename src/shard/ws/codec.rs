//! WebSocket frames, server side (RFC 6455 §5): bytes from a client in, messages out; payloads in, frames out. Messages
//! may be deflated where that was agreed on (RFC 7692).
//!
//! A frame that lies whole in what the socket gave is unmasked where it lies and returned as a borrow: no copy, no
//! allocation. Only an incomplete frame or fragmented message is kept, so an idle connection costs one null pointer.

use std::{ops::Range, str};

use thiserror::Error;

use super::deflate::inflate;

/// The longest header of a client's frame: 2 bytes, a 64-bit length, the mask.
const HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a close, ping or pong (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a client said: a message with its fragments joined, or a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same bytes, 125 at most.
    Ping(&'a [u8]),
    /// The answer to a ping, or unasked for; 125 bytes at most.
    Pong(&'a [u8]),
    /// The client is leaving; what follows it on the wire means nothing (RFC 6455 §5.5.1).
    Close {
        /// A code that may stand in a close frame (RFC 6455 §7.4); `None` if the frame was empty.
        code: Option<u16>,
        /// Why, for a human; 123 bytes at most, often empty.
        reason: &'a str,
    },
}

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepts {
    /// Bytes of a text or binary message, its fragments joined, inflated if it was deflated.
    pub message_bytes_max: usize,
    /// Whether messages may come deflated: permessage-deflate was agreed on.
    pub deflated: bool,
}

impl Accepts {
    /// Bytes of a message as it comes. What deflate cannot shrink it may stretch: by an eighth at most, if each byte becomes
    /// a code of nine bits (RFC 1951 §3.2.6), and by the blocks' own bits.
    fn payload_bytes_max(self, is_deflated: bool) -> usize {
        let more = if is_deflated { self.message_bytes_max / 8 + 16 } else { 0 };
        self.message_bytes_max.saturating_add(more)
    }
}

/// What [`Decoder::decode`] made of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Bytes of the input that are done with; the rest belongs into the next call.
    pub consumed: usize,
    /// The first message that the input completed; `None` if all of it is consumed and more is needed.
    pub message: Option<Message<'a>>,
}

/// How a client broke the protocol. Its connection must be closed: the decoder has lost its place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", self.reason())]
pub enum Violation {
    /// RSV1, RSV2 or RSV3 is set, though no extension was agreed on (RFC 6455 §5.2); or RSV1 elsewhere than on the first
    /// frame of a message (RFC 7692 §6.1).
    ReservedBits,
    /// Opcode 3–7 or 11–15 (§5.2).
    ReservedOpcode,
    /// A frame without a mask (§5.1).
    Unmasked,
    /// A length in more bytes than it needs (§5.2).
    LengthNotMinimal,
    /// A 64-bit length with its highest bit set (§5.2).
    LengthTopBit,
    /// A close, ping or pong without FIN (§5.5).
    ControlFragmented,
    /// A close, ping or pong of more than 125 bytes, or with a length written as if it were (§5.5).
    ControlTooLong,
    /// A continuation of nothing (§5.4).
    ContinuationUnexpected,
    /// A new message before the last fragment of the one before (§5.4).
    MessageInterrupted,
    /// A message of more than the agreed bytes, seen from the header of the frame that would exceed them (§7.4.1).
    MessageTooBig,
    /// A text message or close reason that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A message that is marked as deflated and is not (RFC 7692 §7.2.2).
    InvalidDeflate,
    /// A close of one byte: half a code (§5.5.1).
    ClosePayload,
    /// A close code that must not be sent: reserved, or outside 1000–4999 (§7.4).
    CloseCode,
}

impl Violation {
    /// The code to close the connection with: 1002, 1007 or 1009 (RFC 6455 §7.4.1).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::InvalidUtf8 | Self::InvalidDeflate => 1007,
            Self::MessageTooBig => 1009,
            _ => 1002,
        }
    }

    /// What was wrong, as a sentence that fits into a close frame.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "A reserved bit is set that no extension agreed on gives a meaning",
            Self::ReservedOpcode => "The frame has a reserved opcode",
            Self::Unmasked => "Frames from a client must be masked",
            Self::LengthNotMinimal => "The frame's length is written in more bytes than it needs",
            Self::LengthTopBit => "The highest bit of a 64-bit frame length must be 0",
            Self::ControlFragmented => "Close, ping and pong frames must not be fragmented",
            Self::ControlTooLong => "Close, ping and pong frames carry at most 125 bytes",
            Self::ContinuationUnexpected => "A continuation frame came without a message to continue",
            Self::MessageInterrupted => "A new message began before the last one was complete",
            Self::MessageTooBig => "The message is larger than this server accepts",
            Self::InvalidUtf8 => "The text is not valid UTF-8",
            Self::InvalidDeflate => "The message cannot be inflated",
            Self::ClosePayload => "A close frame carries a code of two bytes or nothing",
            Self::CloseCode => "The close code must not be used in a close frame",
        }
    }
}

/// Makes messages of one connection's bytes, however they come split. One pointer wide, and without heap while the
/// client is silent.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// A decoder for the first byte after the handshake.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Whether no frame and no fragmented message is under way. Once [`Self::decode`] has said that it needs more, an idle
    /// decoder holds no heap.
    pub fn is_idle(&self) -> bool {
        self.partial.as_ref().is_none_or(|p| p.frame.is_none() && p.header_bytes == 0 && p.message.is_none())
    }

    /// Bytes of heap that it holds.
    pub fn held_bytes(&self) -> usize {
        let held = |partial: &Partial| size_of::<Partial>() + partial.control.capacity() + partial.joined.capacity();
        self.partial.as_deref().map_or(0, held)
    }

    /// Takes bytes as they come from the socket, unmasks them in place, and returns at the first complete message.
    ///
    /// Call it with the rest until `message` is `None`: a message that did not lie whole in one input is held here, and
    /// the next call lets go of it, also one with empty input. Memory grows with the bytes that came, never with a length
    /// announced.
    ///
    /// # Errors
    /// The first [`Violation`] in the stream, the same however it is split. The decoder is of no use after it.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8], accepts: Accepts) -> Result<Decoded<'a>, Violation> {
        let (consumed, found) = self.find(input, accepts)?;
        let message = match (found, &self.partial) {
            (Some(Found::InInput(opcode, payload)), _) => Some(Message::new(opcode, &input[payload])?),
            (Some(Found::Held(opcode)), Some(partial)) => Some(Message::new(opcode, partial.payload(opcode))?),
            (Some(Found::Held(_)), None) | (None, _) => None,
        };
        Ok(Decoded { consumed, message })
    }

    /// Consumes frames up to the first that completes a message. Says where the payload is, so that the borrow of it
    /// can begin after the loop.
    fn find(&mut self, input: &mut [u8], accepts: Accepts) -> Result<(usize, Option<Found>), Violation> {
        self.release();
        let mut at = 0;
        while at < input.len() {
            let (frame, fresh) = match self.partial.as_mut().and_then(|p| p.frame.take()) {
                Some(frame) => (frame, false),
                None => match self.header(&input[at..], accepts)? {
                    Some((frame, header_bytes)) => {
                        at += header_bytes;
                        (frame, true)
                    }
                    None => break,
                },
            };
            let end = at + frame.missing_bytes.min(input.len() - at);
            let payload = &mut input[at..end];
            unmask(payload, frame.mask);
            let alone = frame.opcode.is_control() || (frame.fin && self.message().is_none());
            if fresh && alone && !frame.deflated && payload.len() == frame.missing_bytes {
                return Ok((end, Some(Found::InInput(frame.opcode, at..end))));
            }
            if let Some(opcode) = self.partial.get_or_insert_default().keep(frame, payload, accepts)? {
                return Ok((end, Some(Found::Held(opcode))));
            }
            at = end;
        }
        Ok((input.len(), None))
    }

    /// The header at the start of `input` and the bytes it takes there. If it is incomplete, all of it is kept.
    fn header(&mut self, input: &[u8], accepts: Accepts) -> Result<Option<(Frame, usize)>, Violation> {
        let message = self.message();
        let kept = self.partial.as_ref().map_or(0, |p| p.header_bytes);
        if kept == 0
            && let Some(found) = Frame::parse(input, message, accepts)?
        {
            return Ok(Some(found));
        }
        let partial = self.partial.get_or_insert_default();
        let known = HEADER_BYTES_MAX.min(kept + input.len());
        partial.header[kept..known].copy_from_slice(&input[..known - kept]);
        let found = Frame::parse(&partial.header[..known], message, accepts)?;
        partial.header_bytes = if found.is_some() { 0 } else { known };
        Ok(found.map(|(frame, header_bytes)| (frame, header_bytes - kept)))
    }

    /// The message under way.
    fn message(&self) -> Option<Begun> {
        let begun = |p: &Partial| Some(Begun { opcode: p.message?, deflated: p.deflated, bytes: p.joined.len() });
        self.partial.as_deref().and_then(begun)
    }

    /// Lets go of what was held for the message returned last.
    fn release(&mut self) {
        if self.is_idle() {
            self.partial = None;
        } else if let Some(partial) = &mut self.partial
            && partial.frame.is_none()
        {
            partial.control.clear();
        }
    }
}

/// Where the payload of a complete message lies.
enum Found {
    InInput(Opcode, Range<usize>),
    Held(Opcode),
}

/// What is kept of an incomplete frame or message.
#[derive(Debug, Default)]
struct Partial {
    /// The first bytes of a header, until it is complete.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The payload of a control frame: it may come between the fragments of a message.
    control: Vec<u8>,
    /// Text or binary: the message whose payload or further fragments are arriving.
    message: Option<Opcode>,
    /// Whether `joined` is yet to be inflated.
    deflated: bool,
    joined: Vec<u8>,
    /// How much of `joined` is known to be UTF-8.
    utf8_bytes: usize,
}

impl Partial {
    /// Adds what came of a frame's payload, and says which message that completes.
    fn keep(&mut self, mut frame: Frame, payload: &[u8], accepts: Accepts) -> Result<Option<Opcode>, Violation> {
        if frame.opcode.is_control() {
            self.control.extend_from_slice(payload);
        } else {
            (self.message, self.deflated) = (Some(frame.opcode), frame.deflated);
            self.joined.extend_from_slice(payload);
        }
        if frame.opcode == Opcode::Text && !frame.deflated {
            // A character may still be cut off at the end, but what is wrong already need not be waited for.
            self.utf8_bytes += match str::from_utf8(&self.joined[self.utf8_bytes..]) {
                Ok(valid) => valid.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(Violation::InvalidUtf8),
            };
        }
        if payload.len() < frame.missing_bytes {
            frame.missing_bytes -= payload.len();
            frame.mask.rotate_left(payload.len() % 4);
            self.frame = Some(frame);
            return Ok(None);
        }
        Ok(match frame {
            Frame { opcode, .. } if opcode.is_control() => Some(opcode),
            Frame { fin: true, deflated, .. } => {
                if deflated {
                    self.joined = inflate(&self.joined, accepts.message_bytes_max)?;
                }
                self.message.take()
            }
            _ => None,
        })
    }

    fn payload(&self, opcode: Opcode) -> &[u8] {
        if opcode.is_control() { &self.control } else { &self.joined }
    }
}

/// What a frame says, or continues to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A message of which more fragments are to come.
#[derive(Clone, Copy, Debug)]
struct Begun {
    opcode: Opcode,
    deflated: bool,
    /// Payload bytes so far.
    bytes: usize,
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// For a continuation, what it continues.
    opcode: Opcode,
    fin: bool,
    /// Whether it is of a message that is deflated.
    deflated: bool,
    /// The key of the next byte first.
    mask: [u8; 4],
    /// Payload bytes yet to come.
    missing_bytes: usize,
}

impl Frame {
    /// Reads the header at the start of `bytes`, and its own length; `None` if that is cut off. `message` is the one under
    /// way. Checks run in the order of the bytes, so that a cut never changes which one fails.
    fn parse(bytes: &[u8], message: Option<Begun>, accepts: Accepts) -> Result<Option<(Self, usize)>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let (fin, is_marked) = (first & 0x80 != 0, first & 0x40 != 0);
        let may_be_marked = accepts.deflated && matches!(first & 0x0f, 1 | 2);
        if first & 0x30 != 0 || is_marked && !may_be_marked {
            return Err(Violation::ReservedBits);
        }
        let opcode = match (first & 0x0f, message) {
            (0, Some(begun)) => begun.opcode,
            (0, None) => return Err(Violation::ContinuationUnexpected),
            (1 | 2, Some(_)) => return Err(Violation::MessageInterrupted),
            (1, None) => Opcode::Text,
            (2, None) => Opcode::Binary,
            (8, _) => Opcode::Close,
            (9, _) => Opcode::Ping,
            (10, _) => Opcode::Pong,
            _ => return Err(Violation::ReservedOpcode),
        };
        if opcode.is_control() && !fin {
            return Err(Violation::ControlFragmented);
        }

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Violation::ControlTooLong);
        }

        let (payload_bytes, mask_at, minimum) = match short {
            126 => match bytes[2..].first_chunk() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 4, 126),
                None => return Ok(None),
            },
            127 => match bytes[2..].first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 10, 1 << 16),
                None => return Ok(None),
            },
            _ => (u64::from(short), 2, 0),
        };
        if payload_bytes >> 63 != 0 {
            return Err(Violation::LengthTopBit);
        }
        if payload_bytes < minimum {
            return Err(Violation::LengthNotMinimal);
        }
        let (deflated, payload_bytes_max) = match (opcode.is_control(), message) {
            (true, _) => (false, CONTROL_BYTES_MAX),
            (false, Some(Begun { deflated, bytes, .. })) => {
                (deflated, accepts.payload_bytes_max(deflated).saturating_sub(bytes))
            }
            (false, None) => (is_marked, accepts.payload_bytes_max(is_marked)),
        };
        let missing_bytes = match usize::try_from(payload_bytes) {
            Ok(payload_bytes) if payload_bytes <= payload_bytes_max => payload_bytes,
            _ => return Err(Violation::MessageTooBig),
        };

        let Some(&mask) = bytes[mask_at..].first_chunk() else { return Ok(None) };
        Ok(Some((Self { opcode, fin, deflated, mask, missing_bytes }, mask_at + mask.len())))
    }
}

impl<'a> Message<'a> {
    /// Bytes of a text or binary message; none of a control frame.
    pub(super) const fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Ping(_) | Self::Pong(_) | Self::Close { .. } => 0,
        }
    }

    fn new(opcode: Opcode, payload: &'a [u8]) -> Result<Self, Violation> {
        Ok(match opcode {
            Opcode::Text => Self::Text(text(payload)?),
            Opcode::Binary => Self::Binary(payload),
            Opcode::Ping => Self::Ping(payload),
            Opcode::Pong => Self::Pong(payload),
            Opcode::Close => match payload {
                [] => Self::Close { code: None, reason: "" },
                [_] => return Err(Violation::ClosePayload),
                [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
                    code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => {
                        Self::Close { code: Some(code), reason: text(reason)? }
                    }
                    _ => return Err(Violation::CloseCode),
                },
            },
        })
    }
}

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)
}

/// Applies or takes off a mask whose first byte is for the first byte of `payload` (RFC 6455 §5.3).
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let mask_twice = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ mask_twice).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// A whole text frame. The payload must be UTF-8: clients close on anything else.
pub fn text_frame(payload: &[u8]) -> Vec<u8> {
    frame(Opcode::Text, payload)
}

/// A whole text frame whose payload is deflated already (RFC 7692 §7.2.1).
pub(super) fn deflated_text_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = text_frame(payload);
    frame[0] |= 0x40; // RSV1
    frame
}

/// The payload of a whole frame as it is made here.
pub fn payload(frame: &[u8]) -> &[u8] {
    let header_bytes = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    &frame[header_bytes..]
}

/// A ping. Of the payload no more than 125 bytes are sent (RFC 6455 §5.5).
pub fn ping_frame(payload: &[u8]) -> Vec<u8> {
    frame(Opcode::Ping, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// A pong. Of the payload no more than 125 bytes are sent; that of a decoded ping always fits.
pub fn pong_frame(payload: &[u8]) -> Vec<u8> {
    frame(Opcode::Pong, &payload[..payload.len().min(CONTROL_BYTES_MAX)])
}

/// A close. The reason is cut before the character that would pass 123 bytes (RFC 6455 §5.5.1).
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// Bytes that the header of a server's frame takes: 2, 4 or 10. With [`push_text_header`], an encoder builds a frame in one
/// allocation.
pub const fn header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Appends the header of a text frame whose payload, of exactly so many bytes, the caller appends next.
pub fn push_text_header(buffer: &mut Vec<u8>, payload_bytes: usize) {
    push_header(buffer, Opcode::Text, payload_bytes);
}

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(header_bytes(payload.len()) + payload.len());
    push_header(&mut frame, opcode, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// FIN, no mask, the shortest length that fits (RFC 6455 §5.2).
fn push_header(buffer: &mut Vec<u8>, opcode: Opcode, payload_bytes: usize) {
    buffer.push(0x80 | opcode as u8);
    match header_bytes(payload_bytes) {
        2 => buffer.push(payload_bytes as u8),
        4 => {
            buffer.push(126);
            buffer.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            buffer.push(127);
            buffer.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(message_bytes_max: usize) -> Accepts {
        Accepts { message_bytes_max, deflated: true }
    }

    /// A client's frame with every mask byte 0, so that the payload reads as it is.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    /// Decodes one piece after the other; the messages, and whether the decoder was idle after each.
    fn decode(decoder: &mut Decoder, pieces: &mut [Vec<u8>]) -> Vec<(String, bool)> {
        let mut messages = Vec::new();
        for piece in pieces {
            let mut rest = piece.as_mut_slice();
            loop {
                let decoded = decoder.decode(rest, up_to(1000)).unwrap();
                let (consumed, Some(message)) = (decoded.consumed, decoded.message.map(|m| format!("{m:?}"))) else {
                    break;
                };
                rest = &mut rest[consumed..];
                messages.push((message, decoder.is_idle()));
            }
            assert_eq!(decoder.is_idle(), decoder.partial.is_none(), "after {messages:?}");
        }
        messages
    }

    #[test]
    fn an_idle_decoder_is_one_pointer() {
        assert_eq!(size_of::<Decoder>(), size_of::<usize>());
        assert!(size_of::<Partial>() <= 128, "{}", size_of::<Partial>());
        assert!(Decoder::new().is_idle());
    }

    #[test]
    fn nothing_stays_after_a_message() {
        let ping = client_frame(0x89, b"p");
        let fragments = [client_frame(0x01, b"one "), ping.clone(), client_frame(0x80, b"two")].concat();
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let deflated = [client_frame(0x41, &hello[..3]), ping.clone(), client_frame(0x80, &hello[3..])].concat();
        let whole = [(0x81, &b"whole"[..]), (0x82, &[7; 100]), (0xc1, &hello)];
        let streams = whole.map(|(first, payload)| client_frame(first, payload)).into_iter();
        let streams = streams.chain([ping, fragments, deflated]);
        for stream in streams {
            for cut in 0..=stream.len() {
                let mut decoder = Decoder::new();
                let (head, tail) = stream.split_at(cut);
                let messages = decode(&mut decoder, &mut [head.to_vec(), tail.to_vec()]);
                assert!(messages.last().unwrap().1);
                assert!(decoder.partial.is_none(), "cut {cut} of {stream:?}");
            }
        }
    }

    #[test]
    fn a_frame_whole_in_its_input_never_touches_the_heap() {
        let mut decoder = Decoder::new();
        for first in [0x81, 0x82, 0x88, 0x89, 0x8a] {
            let mut input = client_frame(first, &1000u16.to_be_bytes());
            input[6..].copy_from_slice(if first == 0x81 { b"ok" } else { &[0x03, 0xe8] });
            assert!(decoder.decode(&mut input, up_to(1000)).unwrap().message.is_some());
            assert!(decoder.partial.is_none());
        }
    }

    #[test]
    fn memory_grows_with_what_came_not_with_what_was_announced() {
        let mut decoder = Decoder::new();
        let mut input = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
        assert_eq!(decoder.decode(&mut input, up_to(1 << 40)).unwrap(), Decoded { consumed: 17, message: None });
        assert!(decoder.partial.as_ref().unwrap().joined.capacity() < 64);
        assert!(!decoder.is_idle());
    }

    #[test]
    fn empty_fragments_do_not_add_up() {
        let mut decoder = Decoder::new();
        let mut input = client_frame(0x01, b"");
        input.extend(client_frame(0x00, b"").repeat(100_000));
        assert_eq!(decoder.decode(&mut input, up_to(10)).unwrap().message, None);
        assert_eq!(decoder.partial.as_ref().unwrap().joined.capacity(), 0);
        let mut last = client_frame(0x80, b"end");
        assert_eq!(decoder.decode(&mut last, up_to(10)).unwrap().message, Some(Message::Text("end")));
    }

    #[test]
    fn unmasking_follows_the_formula_at_every_length() {
        let mask = [0x12, 0x34, 0x56, 0x78];
        for length in 0..40 {
            let plain: Vec<u8> = (0..length).map(|i: u8| i.wrapping_mul(7)).collect();
            let mut masked = plain.clone();
            unmask(&mut masked, mask);
            let by_hand: Vec<u8> = plain.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
            assert_eq!(masked, by_hand);
        }
    }

    #[test]
    fn frames_have_the_shortest_header() {
        let check = |payload_bytes: usize, header: &[u8]| {
            let payload = vec![b'x'; payload_bytes];
            let frame = text_frame(&payload);
            assert_eq!(frame, [header, &payload].concat());
            assert_eq!((frame.len(), frame.capacity()), (header.len() + payload_bytes, frame.len()));
            let mut pushed = Vec::new();
            push_text_header(&mut pushed, payload_bytes);
            assert_eq!(pushed, header);
            assert_eq!(header_bytes(payload_bytes), header.len());
        };
        check(0, &[0x81, 0]);
        check(5, &[0x81, 5]);
        check(125, &[0x81, 125]);
        check(126, &[0x81, 126, 0, 126]);
        check(256, &[0x81, 126, 1, 0]);
        check(65_535, &[0x81, 126, 0xff, 0xff]);
        check(65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn control_frames_never_pass_125_bytes() {
        assert_eq!(ping_frame(b"hi"), [0x89, 2, b'h', b'i']);
        assert_eq!(pong_frame(b""), [0x8a, 0]);
        assert_eq!(ping_frame(&[1; 200]), [&[0x89, 125][..], &[1; 125]].concat());
        assert_eq!(pong_frame(&[1; 125]).len(), 127);
        assert_eq!(close_frame(1000, ""), [0x88, 2, 0x03, 0xe8]);
        assert_eq!(close_frame(4009, "no"), [0x88, 4, 0x0f, 0xa9, b'n', b'o']);
        assert_eq!(close_frame(1000, &"a".repeat(123)).len(), 127);
        let frame = close_frame(1000, &"é".repeat(70));
        assert_eq!((frame[1], str::from_utf8(&frame[4..])), (124, Ok("é".repeat(61).as_str())));
    }
}
