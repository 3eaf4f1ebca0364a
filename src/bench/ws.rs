//! WebSocket frames as a client needs them (RFC 6455 section 5.2): whole ones found in a stream, small ones written.

use std::ops::Range;

use flate2::{Decompress, FlushDecompress, Status};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// A text message.
pub const OPCODE_TEXT: u8 = 0x1;
/// A binary message.
pub const OPCODE_BINARY: u8 = 0x2;
/// The end of the conversation.
pub const OPCODE_CLOSE: u8 = 0x8;
/// To be answered with a pong.
pub const OPCODE_PING: u8 = 0x9;
/// The answer to a ping.
pub const OPCODE_PONG: u8 = 0xa;
/// Stands beside the opcode of a compressed message (RFC 7692 section 6).
pub const COMPRESSED: u8 = 0x40;

/// Cuts what a server sends into frames; a server does not mask.
#[derive(Debug, Default)]
pub struct FrameScanner {
    /// The frame that has not arrived whole.
    partial: Vec<u8>,
}

impl FrameScanner {
    /// Takes the next bytes of the stream; hands over the opcode, with [`COMPRESSED`] where that is set, and the payload
    /// of each frame that is whole with them.
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

    /// Takes the next bytes of an HTTP answer's head; gives the head once it is whole. What came behind it is scanned next.
    pub fn head(&mut self, bytes: &[u8]) -> Option<String> {
        self.partial.extend_from_slice(bytes);
        let end = self.partial.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.partial[..end]).into_owned();
        self.partial.drain(..end);
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        Some(head)
    }

    /// How many bytes wait for more.
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
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
    let opcode = bytes.first()? & (0x0f | COMPRESSED);
    let (header, payload): (usize, u64) = match bytes.get(1)? & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into()),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        short => (2, short.into()),
    };
    let end = header.checked_add(usize::try_from(payload).ok()?)?;
    (end <= bytes.len()).then_some((opcode, header..end))
}

/// What a client offers: nothing is kept between messages, on either side (RFC 7692 section 7.1.1).
pub const DEFLATE_OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// Inflated messages that are kept: more than any burst has.
const INFLATED_MAX: usize = 1024;
/// What a sender leaves out at a message's end (RFC 7692 section 7.2.1).
const DEFLATE_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Whether an answer's head agrees to [`DEFLATE_OFFER`].
pub fn agrees_to_deflate(head: &str) -> bool {
    let head = head.to_ascii_lowercase();
    head.contains("permessage-deflate") && head.contains("server_no_context_takeover")
}

/// The length of a server's frame with so many payload bytes.
pub fn frame_bytes(payload_bytes: usize) -> u64 {
    let header = match payload_bytes {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    header + payload_bytes as u64
}

/// Inflates messages, each once: where all subscribers get the same bytes, all but the first have it ready.
#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    inflated: HashMap<Box<[u8]>, Box<[u8]>, RandomState>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { decompress: Decompress::new(false), inflated: HashMap::default() }
    }
}

impl Inflater {
    /// The message whose payload this is; `None` if it cannot be inflated.
    pub fn inflate(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if !self.inflated.contains_key(payload) {
            let text = self.inflate_anew(payload)?;
            if self.inflated.len() >= INFLATED_MAX {
                self.inflated.clear();
            }
            self.inflated.insert(payload.into(), text.into());
        }
        self.inflated.get(payload).map(|text| &**text)
    }

    fn inflate_anew(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        self.decompress.reset(false);
        let deflated = [payload, &DEFLATE_TAIL].concat();
        let mut text = Vec::with_capacity(8 * deflated.len());
        loop {
            let taken = self.decompress.total_in() as usize;
            let status = self.decompress.decompress_vec(&deflated[taken..], &mut text, FlushDecompress::Sync).ok()?;
            match status {
                Status::StreamEnd => return Some(text),
                // room is left: all of the input was taken
                _ if text.len() < text.capacity() => return Some(text),
                _ => text.reserve(text.len()),
            }
        }
    }
}

/// A client's frame of at most 65,535 payload bytes. The masking key is 0, which saves the masking here; the server
/// has to unmask all the same.
pub fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
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

/// A server's text frame, as the floor sends it.
pub fn server_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x80 | OPCODE_TEXT];
    match text.len() {
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
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = server_frame(str::from_utf8(payload).unwrap());
        frame[0] = 0x80 | opcode;
        frame
    }

    fn scanned(reads: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let mut scanner = FrameScanner::default();
        let mut frames = Vec::new();
        for bytes in reads {
            scanner.scan(bytes, |opcode, payload| frames.push((opcode, payload.to_vec())));
        }
        assert_eq!(scanner.partial_bytes(), 0, "bytes left over");
        frames
    }

    #[test]
    fn frames_are_found_wherever_the_reads_are_cut() {
        let sent = [
            (OPCODE_TEXT, vec![b'a'; 5]),
            (OPCODE_PING, vec![]),
            (OPCODE_TEXT | COMPRESSED, vec![b'b'; 125]),
            (OPCODE_TEXT, vec![b'c'; 126]),
        ];
        let stream: Vec<u8> = sent.iter().flat_map(|(opcode, payload)| frame(*opcode, payload)).collect();
        for cut in 0..=stream.len() {
            assert_eq!(scanned(&[&stream[..cut], &stream[cut..]]), sent, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(scanned(&bytes), sent);
    }

    #[test]
    fn all_three_lengths_of_headers_are_understood() {
        for length in [0, 125, 126, 65_535, 65_536, 200_000] {
            let frame = frame(OPCODE_TEXT, &vec![b'x'; length]);
            assert_eq!(first_frame(&frame), Some((OPCODE_TEXT, frame.len() - length..frame.len())));
            assert_eq!(first_frame(&frame[..frame.len() - 1]), None);
        }
        assert_eq!(first_frame(&[0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255]), None);
    }

    #[test]
    fn what_comes_behind_the_head_is_kept() {
        let mut scanner = FrameScanner::default();
        assert_eq!(scanner.head(b"HTTP/1.1 101 S\r\n"), None);
        assert_eq!(scanner.head(b"\r\n\x81\x02h").as_deref(), Some("HTTP/1.1 101 S\r\n\r\n"));
        let mut texts = Vec::new();
        scanner.scan(b"i", |_, payload| texts.push(payload.to_vec()));
        assert_eq!(texts, [b"hi"]);
    }

    #[test]
    fn equal_payloads_are_inflated_once() {
        use flate2::{Compress, Compression, FlushCompress};
        let deflate = |text: &[u8]| {
            let mut deflated = Vec::with_capacity(text.len() + 100);
            let mut compress = Compress::new(Compression::new(6), false);
            compress.compress_vec(text, &mut deflated, FlushCompress::Sync).unwrap();
            deflated.strip_suffix(&DEFLATE_TAIL).unwrap().to_vec()
        };
        let mut inflater = Inflater::default();
        let texts = [b"a".repeat(10_000), b"{\"event\":\"e\"}".to_vec(), b"a".repeat(10_000)];
        for text in &texts {
            assert_eq!(inflater.inflate(&deflate(text)), Some(&**text));
        }
        assert_eq!(inflater.inflated.len(), 2);
        assert_eq!(inflater.inflate(b"\xff\xff"), None);
        assert_eq!([frame_bytes(125), frame_bytes(126), frame_bytes(65_536)], [127, 130, 65_546]);
        assert!(agrees_to_deflate(&format!("Sec-WebSocket-Extensions: {DEFLATE_OFFER}\r\n")));
        assert!(!agrees_to_deflate("Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    }

    #[test]
    fn client_frames_carry_a_mask() {
        assert_eq!(client_frame(OPCODE_TEXT, b"hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(client_frame(OPCODE_TEXT, &[b'x'; 126])[..4], [0x81, 0xfe, 0, 126]);
    }
}
