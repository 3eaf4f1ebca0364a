//! permessage-deflate (RFC 7692), without context takeover either way: each message stands alone. So an event is deflated
//! once for all who read it so, and a connection keeps no state. What deflates and inflates is one of each per thread.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use hyper::HeaderMap;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use super::codec::{self, Violation};
use crate::limits::Limits;

/// How hard to try. What a frame costs is shared by all its readers.
const LEVEL: Compression = Compression::new(6);
/// What a flush ends with, which is not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// What is read behind a message: what it was sent without, and an empty last block. A message that is cut off does not
/// come to that end.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

thread_local! {
    static COMPRESS: RefCell<Option<Compress>> = const { RefCell::new(None) };
    static DECOMPRESS: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

// ---------------------------------------------------------------------- the handshake

/// The answer to the first offer that can be honoured, the value of `Sec-WebSocket-Extensions`; `None` if there is none.
/// An offer that is not understood is passed over, and never a reason to refuse the handshake (RFC 7692 §5.1).
pub fn agree(headers: &HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let wants_bits = offers.flat_map(|value| split(value.as_bytes(), b',')).find_map(accept)?;
    Some(HeaderValue::from_static(if wants_bits {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    }))
}

/// Whether an offer can be honoured; then, whether the answer must name the window (RFC 7692 §7.1).
fn accept(offer: &[u8]) -> Option<bool> {
    let mut parts = split(offer, b';');
    if parts.next()? != b"permessage-deflate" {
        return None;
    }
    let mut seen = [false; 4];
    for part in parts {
        let (name, value) = match part.iter().position(|byte| *byte == b'=') {
            Some(at) => (part[..at].trim_ascii_end(), Some(unquoted(part[at + 1..].trim_ascii_start()))),
            None => (part, None),
        };
        let place = match (name, value) {
            (b"server_no_context_takeover", None) => 0,
            (b"client_no_context_takeover", None) => 1,
            // one frame is for all: it cannot have the window of one of them
            (b"server_max_window_bits", Some(b"15")) => 2,
            (b"client_max_window_bits", None) => 3,
            (b"client_max_window_bits", Some(b"8" | b"9" | b"10" | b"11" | b"12" | b"13" | b"14" | b"15")) => 3,
            _ => return None,
        };
        if std::mem::replace(&mut seen[place], true) {
            return None;
        }
    }
    Some(seen[2])
}

/// The parts of a list between separators that stand outside quotes, trimmed (RFC 6455 §9.1).
fn split(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = list.split(move |byte| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'"' if !was_escaped => is_quoted = !is_quoted,
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            _ => {}
        }
        *byte == separator && !is_quoted
    });
    parts.map(<[u8]>::trim_ascii)
}

/// A value without its quotes. What is escaped in them is nothing that is known here.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

// ---------------------------------------------------------------------- messages

/// The deflated form of a finished frame, a whole text message; `None` if its message is smaller than `deflate_bytes_min`,
/// larger than `deflate_bytes_max`, or becomes no smaller.
pub fn deflate(frame: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    let payload = codec::payload(frame);
    if !(limits.deflate_bytes_min..=limits.deflate_bytes_max).contains(&payload.len()) {
        return None;
    }
    COMPRESS.with_borrow_mut(|compress| {
        let compress = compress.get_or_insert_with(|| Compress::new(LEVEL, false));
        compress.reset();
        let mut deflated = Vec::with_capacity(payload.len());
        compress.compress_vec(payload, &mut deflated, FlushCompress::Sync).ok()?;
        // without room left there may be more to come, and it is no smaller already
        let is_smaller = deflated.len() < deflated.capacity();
        let deflated = deflated.strip_suffix(&TAIL).filter(|_| is_smaller)?;
        Some(codec::deflated_text_frame(deflated))
    })
}

/// A message as it was before its sender deflated it.
///
/// # Errors
/// It is no deflated message, or of more than `message_bytes_max`: never is more than that, and a byte, inflated.
pub(super) fn inflate(deflated: &[u8], message_bytes_max: usize) -> Result<Vec<u8>, Violation> {
    if deflated.is_empty() {
        return Ok(Vec::new()); // what has nothing to flush may write nothing
    }
    DECOMPRESS.with_borrow_mut(|decompress| {
        let decompress = decompress.get_or_insert_with(|| Decompress::new(false));
        decompress.reset(false);
        let room_max = message_bytes_max.saturating_add(1);
        let mut message = Vec::with_capacity((4 * deflated.len()).min(room_max));
        for mut input in [deflated, &END] {
            loop {
                let taken = decompress.total_in();
                let status = decompress.decompress_vec(input, &mut message, FlushDecompress::Sync);
                let status = status.map_err(|_| Violation::InvalidDeflate)?;
                input = &input[(decompress.total_in() - taken) as usize..];
                if message.len() > message_bytes_max {
                    return Err(Violation::MessageTooBig);
                }
                match status {
                    // a sender that cannot flush ends its last block, and may begin an empty one (RFC 7692 §7.2.3.4)
                    Status::StreamEnd if matches!(input, [] | [0]) => return Ok(message),
                    Status::StreamEnd => return Err(Violation::InvalidDeflate),
                    // room is left: all of the input was taken
                    _ if message.len() < message.capacity() => break,
                    _ => message.reserve_exact(message.len().clamp(1, room_max - message.len())),
                }
            }
        }
        Err(Violation::InvalidDeflate)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers() {
        const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        const WINDOW: &str =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";
        let check = |offers: &[&str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for offer in offers {
                headers.append(SEC_WEBSOCKET_EXTENSIONS, offer.parse().unwrap());
            }
            let answer = agree(&headers);
            assert_eq!(answer.as_ref().map(|value| value.to_str().unwrap()), expected, "{offers:?}");
        };
        // what clients offer
        check(&[], None);
        check(&["permessage-deflate"], Some(PLAIN));
        check(&["permessage-deflate; client_max_window_bits"], Some(PLAIN));
        check(&["permessage-deflate; client_max_window_bits; server_max_window_bits=15"], Some(WINDOW));
        check(&["permessage-deflate; server_no_context_takeover"], Some(PLAIN));
        check(&["permessage-deflate;client_no_context_takeover ;server_no_context_takeover"], Some(PLAIN));
        check(&["x-webkit-deflate-frame"], None);
        check(&["x-webkit-deflate-frame, permessage-deflate"], Some(PLAIN));
        check(&["x-webkit-deflate-frame", "\tpermessage-deflate ,"], Some(PLAIN));
        // windows
        for bits in 8..=15 {
            check(&[&format!("permessage-deflate; client_max_window_bits={bits}")], Some(PLAIN));
            check(&[&format!("permessage-deflate; client_max_window_bits=\"{bits}\"")], Some(PLAIN));
        }
        for bits in ["", "7", "16", "08", "015", "+15", "1 5", "x", "\"15", "\"\\15\"", "-1"] {
            check(&[&format!("permessage-deflate; client_max_window_bits={bits}")], None);
            check(&[&format!("permessage-deflate; server_max_window_bits={bits}")], None);
        }
        check(&["permessage-deflate; server_max_window_bits = \"15\""], Some(WINDOW));
        check(&["permessage-deflate; server_max_window_bits"], None);
        check(&["permessage-deflate; server_max_window_bits=8"], None);
        check(&["permessage-deflate; server_max_window_bits=14"], None);
        // the next offer
        check(&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], Some(PLAIN));
        check(&["permessage-deflate; server_max_window_bits=10", "permessage-deflate"], Some(PLAIN));
        check(&["permessage-deflate; x, permessage-deflate; server_max_window_bits=15"], Some(WINDOW));
        check(&["permessage-deflate, permessage-deflate; server_max_window_bits=15"], Some(PLAIN));
        // not understood
        check(&["permessage-deflate; unknown"], None);
        check(&["permessage-deflate; unknown=1"], None);
        check(&["permessage-deflate; "], None);
        check(&["permessage-deflate; server_no_context_takeover=1"], None);
        check(&["permessage-deflate; client_no_context_takeover="], None);
        check(&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None);
        check(&["permessage-deflate; client_max_window_bits; client_max_window_bits=12"], None);
        check(&["permessage-deflate; server_max_window_bits=15; server_max_window_bits=15"], None);
        check(&["permessage-deflate2", "permessage", "deflate"], None);
        check(&["permessage-deflate=1"], None);
        check(&["", ",", ";", "=", "\"", "\\"], None);
        check(&["other; x=\"a, permessage-deflate, b\""], None);
        check(&["other; x=\"a\\\", permessage-deflate, b\", permessage-deflate"], Some(PLAIN));
        check(&["other; x=\"a", "permessage-deflate"], Some(PLAIN));
    }

    fn limits(deflate_bytes_min: usize, deflate_bytes_max: usize) -> Limits {
        Limits { deflate_bytes_min, deflate_bytes_max, ..Limits::default() }
    }

    #[test]
    fn only_what_is_large_enough_and_becomes_smaller_is_deflated() {
        let deflates = |payload: &[u8], limits: &Limits| {
            let frame = codec::text_frame(payload);
            let deflated = deflate(&frame, limits);
            if let Some(deflated) = &deflated {
                assert!(deflated.len() < frame.len());
                assert_eq!(deflated[0], 0xc1);
                let bytes = payload.len();
                assert_eq!(inflate(codec::payload(deflated), bytes), Ok(payload.to_vec()));
                assert_eq!(inflate(codec::payload(deflated), bytes - 1), Err(Violation::MessageTooBig));
            }
            deflated.is_some()
        };
        let all = limits(1, 1 << 20);
        for bytes in [511, 512, 513, 1000, 1001] {
            let is_within = (512..=1000).contains(&bytes);
            assert_eq!(deflates(&vec![b'x'; bytes], &limits(512, 1000)), is_within, "{bytes}");
            assert!(deflates(&vec![b'x'; bytes], &all));
        }
        assert!(deflates(&vec![b'x'; 1 << 20], &all));
        // what is random becomes no smaller
        let mut seed = 1_u32;
        let random = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        let random: Vec<u8> = random.take(100_000).collect();
        for bytes in [0, 1, 2, 10, 125, 126, 1000, 65_535, 65_536, 100_000] {
            assert!(!deflates(&random[..bytes], &all), "{bytes}");
        }
    }

    #[test]
    fn one_message_never_depends_on_another() {
        let limits = limits(1, 1 << 20);
        let frame = codec::text_frame(&b"the same words again and again, ".repeat(20));
        let first = deflate(&frame, &limits).unwrap();
        assert!(deflate(&codec::text_frame(&[b'x'; 1000]), &limits).is_some());
        assert!(inflate(b"\xff", 10).is_err());
        assert_eq!(deflate(&frame, &limits).unwrap(), first);
        assert_eq!(inflate(codec::payload(&first), 1000).unwrap(), codec::payload(&frame));
    }
}
