//! The WebSocket decoder against RFC 6455, case by case, and against tungstenite on random conversations.

mod ws_oracle;

use std::{ops::Range, str, sync::LazyLock};

use flate2::{Compress, Compression, FlushCompress};
use hydrant::limits::Limits;
use hydrant::shard::ws::codec::{
    Accepts,
    Message::{self, Binary, Close, Ping, Pong, Text},
    Violation, close_frame, payload as payload_of, text_frame,
};
use hydrant::shard::ws::deflate::deflate;
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};
use ws_oracle::{End, agree_with_tungstenite, decode};

const MAX: usize = 70_000;
const PLAIN: Accepts = Accepts { message_bytes_max: MAX, deflated: false };
const DEFLATED: Accepts = Accepts { message_bytes_max: MAX, deflated: true };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

static CASES: LazyLock<Vec<Case>> = LazyLock::new(cases);
static DEFLATED_CASES: LazyLock<Vec<Case>> = LazyLock::new(deflated_cases);
static BIG: [u8; MAX + 1] = [b'x'; MAX + 1];

/// A frame as clients send it, with the shortest length encoding; `first` holds FIN, the reserved bits and the opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_masked(first, payload, MASK)
}

fn frame_masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
    let length = payload.len();
    let header = match length {
        0..=125 => vec![first, 0x80 | length as u8],
        126..=65_535 => [&[first, 0xfe], &(length as u16).to_be_bytes()[..]].concat(),
        _ => [&[first, 0xff], &(length as u64).to_be_bytes()[..]].concat(),
    };
    header.into_iter().chain(mask).chain(masked).collect()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

/// One case: its name, what the client sends, what it says, and how that ends.
type Case = (&'static str, Vec<u8>, Vec<Message<'static>>, End);

fn cases() -> Vec<Case> {
    let open = |name, wire: &[Vec<u8>], messages: &[Message<'static>]| -> Case {
        (name, wire.concat(), messages.to_vec(), End::Open)
    };
    let closed = |name, wire: &[Vec<u8>], messages: &[Message<'static>]| -> Case {
        (name, wire.concat(), messages.to_vec(), End::Closed)
    };
    let refused = |name, wire: &[Vec<u8>], messages: &[Message<'static>], violation| -> Case {
        (name, wire.concat(), messages.to_vec(), End::Refused(violation))
    };
    let leaving = |code, reason| Close { code, reason };
    let reason = str::from_utf8(&BIG[..123]).expect("only the letter x");

    let mut cases = vec![
        open("nothing", &[], &[]),
        open(
            "§5.7: masked text",
            &[vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]],
            &[Text("Hello")],
        ),
        open(
            "§5.7: masked pong",
            &[vec![0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]],
            &[Pong(b"Hello")],
        ),
        // Messages of one frame, and every form of length at its edges.
        open("empty text", &[frame(0x81, b"")], &[Text("")]),
        open("empty binary", &[frame(0x82, b"")], &[Binary(b"")]),
        open("two texts", &[frame(0x81, b"one"), frame(0x81, b"two")], &[Text("one"), Text("two")]),
        open("text beyond ASCII", &[frame(0x81, "κόσμε €𝄞".as_bytes())], &[Text("κόσμε €𝄞")]),
        open("zero byte in text", &[frame(0x81, b"a\0b")], &[Text("a\0b")]),
        open("any bytes in binary", &[frame(0x82, b"\xff\x00\xc0")], &[Binary(b"\xff\x00\xc0")]),
        open("125 bytes", &[frame(0x82, &BIG[..125])], &[Binary(&BIG[..125])]),
        open("126 bytes", &[frame(0x82, &BIG[..126])], &[Binary(&BIG[..126])]),
        open("65,535 bytes", &[frame(0x82, &BIG[..65_535])], &[Binary(&BIG[..65_535])]),
        open("65,536 bytes", &[frame(0x82, &BIG[..65_536])], &[Binary(&BIG[..65_536])]),
        open("the last frame incomplete", &[frame(0x81, b"one"), vec![0x81, 0x85, 1, 2, 3, 4, 5]], &[Text("one")]),
        // Fragments.
        open("two fragments", &[frame(0x01, b"Hel"), frame(0x80, b"lo")], &[Text("Hello")]),
        open("binary in three", &[frame(0x02, b"a"), frame(0x00, b"b"), frame(0x80, b"c")], &[Binary(b"abc")]),
        open("empty fragments", &[frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")], &[Text("")]),
        open("an empty last fragment", &[frame(0x01, b"all"), frame(0x80, b"")], &[Text("all")]),
        open(
            "text after fragments",
            &[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x81, b"c")],
            &[Text("ab"), Text("c")],
        ),
        open("fragments without an end", &[frame(0x01, b"a"), frame(0x00, b"b")], &[]),
        open("a character over two fragments", &[frame(0x01, b"\xe2\x82"), frame(0x80, b"\xac")], &[Text("€")]),
        open(
            "a character over four fragments",
            &[frame(0x01, b"\xf0"), frame(0x00, b"\x9d"), frame(0x00, b"\x84"), frame(0x80, b"\x9e")],
            &[Text("𝄞")],
        ),
        open(
            "ping and pong between fragments",
            &[frame(0x01, b"a"), frame(0x89, b"1"), frame(0x00, b"b"), frame(0x8a, b"2"), frame(0x80, b"c")],
            &[Ping(b"1"), Pong(b"2"), Text("abc")],
        ),
        open(
            "pings in a row between fragments",
            &[frame(0x02, b"a"), frame(0x89, b"one"), frame(0x89, b""), frame(0x89, b"two"), frame(0x80, b"b")],
            &[Ping(b"one"), Ping(b""), Ping(b"two"), Binary(b"ab")],
        ),
        closed(
            "close between fragments",
            &[frame(0x01, b"a"), frame(0x88, b""), frame(0x80, b"b")],
            &[leaving(None, "")],
        ),
        refused("continuation of nothing", &[frame(0x80, b"a")], &[], Violation::ContinuationUnexpected),
        refused("continuation of nothing, unfinished", &[frame(0x00, b"")], &[], Violation::ContinuationUnexpected),
        refused(
            "continuation after the end",
            &[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")],
            &[Text("ab")],
            Violation::ContinuationUnexpected,
        ),
        refused("text in text", &[frame(0x01, b"a"), frame(0x81, b"b")], &[], Violation::MessageInterrupted),
        refused("binary in text", &[frame(0x01, b"a"), frame(0x02, b"b")], &[], Violation::MessageInterrupted),
        refused(
            "text in empty binary, after a ping",
            &[frame(0x02, b""), frame(0x89, b""), frame(0x81, b"")],
            &[Ping(b"")],
            Violation::MessageInterrupted,
        ),
        // Control frames.
        open("empty ping", &[frame(0x89, b"")], &[Ping(b"")]),
        open("ping of 125 bytes", &[frame(0x89, &BIG[..125])], &[Ping(&BIG[..125])]),
        open("ping of any bytes", &[frame(0x89, b"\x00\xff")], &[Ping(b"\x00\xff")]),
        open("pong unasked for", &[frame(0x8a, b"hi"), frame(0x81, b"a")], &[Pong(b"hi"), Text("a")]),
        refused("ping of 126 bytes", &[frame(0x89, &BIG[..126])], &[], Violation::ControlTooLong),
        refused("pong of 65,536 bytes", &[frame(0x8a, &BIG[..65_536])], &[], Violation::ControlTooLong),
        refused("close of 126 bytes", &[frame(0x88, &BIG[..126])], &[], Violation::ControlTooLong),
        refused(
            "ping of 1 byte, length in 2",
            &[vec![0x89, 0xfe, 0, 1, 0, 0, 0, 0, 0]],
            &[],
            Violation::ControlTooLong,
        ),
        refused("ping in fragments", &[frame(0x09, b"a")], &[], Violation::ControlFragmented),
        refused("pong in fragments", &[frame(0x0a, b"")], &[], Violation::ControlFragmented),
        refused("close in fragments", &[frame(0x08, b"")], &[], Violation::ControlFragmented),
        // Close.
        closed("empty close", &[frame(0x88, b"")], &[leaving(None, "")]),
        closed("close with a code", &[close(1000, b"")], &[leaving(Some(1000), "")]),
        closed("close with a reason", &[close(4000, "adé".as_bytes())], &[leaving(Some(4000), "adé")]),
        closed("a reason of 123 bytes", &[close(1001, &BIG[..123])], &[leaving(Some(1001), reason)]),
        closed("bytes after a close", &[close(1000, b""), vec![0xff; 9]], &[leaving(Some(1000), "")]),
        closed("close after a text", &[frame(0x81, b"a"), close(1000, b"")], &[Text("a"), leaving(Some(1000), "")]),
        refused("close of one byte", &[frame(0x88, b"\x03")], &[], Violation::ClosePayload),
        refused("a reason that is not UTF-8", &[close(1000, b"a\xff")], &[], Violation::InvalidUtf8),
        refused("a reason cut in a character", &[close(1000, b"a\xe2\x82")], &[], Violation::InvalidUtf8),
        // Masks.
        refused("text unmasked", &[vec![0x81, 5], b"Hello".to_vec()], &[], Violation::Unmasked),
        refused("empty close unmasked", &[vec![0x88, 0]], &[], Violation::Unmasked),
        refused("the second frame unmasked", &[frame(0x81, b"a"), vec![0x81, 0]], &[Text("a")], Violation::Unmasked),
        refused("a fragment unmasked", &[frame(0x01, b"a"), vec![0x80, 1, b'b']], &[], Violation::Unmasked),
        open("a mask of zeros", &[vec![0x81, 0x82, 0, 0, 0, 0, b'o', b'k']], &[Text("ok")]),
        // Lengths.
        refused("125 in 16 bits", &[vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0]], &[], Violation::LengthNotMinimal),
        refused("0 in 16 bits", &[vec![0x82, 0xfe, 0, 0, 0, 0, 0, 0]], &[], Violation::LengthNotMinimal),
        refused(
            "65,535 in 64 bits",
            &[vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]],
            &[],
            Violation::LengthNotMinimal,
        ),
        refused("0 in 64 bits", &[vec![0x81, 0xff], vec![0; 12]], &[], Violation::LengthNotMinimal),
        refused("the top bit", &[vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]], &[], Violation::LengthTopBit),
        refused("every bit", &[vec![0x82, 0xff], vec![0xff; 8]], &[], Violation::LengthTopBit),
        // The limit holds from the header on, for all fragments together, and not for control frames between them.
        open("exactly the limit", &[frame(0x82, &BIG[..MAX])], &[Binary(&BIG[..MAX])]),
        refused("one over the limit", &[frame(0x82, &BIG)], &[], Violation::MessageTooBig),
        refused("over the limit by its header", &[frame(0x82, &BIG)[..10].to_vec()], &[], Violation::MessageTooBig),
        refused("2^63 - 1 bytes", &[vec![0x81, 0xff, 0x7f], vec![0xff; 7]], &[], Violation::MessageTooBig),
        open(
            "fragments to the limit, with a ping",
            &[frame(0x02, &BIG[..MAX - 1]), frame(0x89, b"still here"), frame(0x80, b"x")],
            &[Ping(b"still here"), Binary(&BIG[..MAX])],
        ),
        refused(
            "fragments one over the limit",
            &[frame(0x02, &BIG[..MAX - 1]), frame(0x80, b"xx")[..2].to_vec()],
            &[],
            Violation::MessageTooBig,
        ),
        refused(
            "an endless message",
            &[frame(0x02, &BIG[..40_000]), frame(0x00, &BIG[..30_000]), frame(0x00, b""), frame(0x00, b"x")],
            &[],
            Violation::MessageTooBig,
        ),
        // Text must be UTF-8, wherever it is cut.
        refused("a lone continuation byte", &[frame(0x81, b"\x80")], &[], Violation::InvalidUtf8),
        refused("a byte that is never UTF-8", &[frame(0x81, b"abc\xff")], &[], Violation::InvalidUtf8),
        refused("an overlong slash", &[frame(0x81, b"\xc0\xaf")], &[], Violation::InvalidUtf8),
        refused("a surrogate", &[frame(0x81, b"\xed\xa0\x80")], &[], Violation::InvalidUtf8),
        refused("beyond U+10FFFF", &[frame(0x81, b"\xf4\x90\x80\x80")], &[], Violation::InvalidUtf8),
        refused("cut at the end", &[frame(0x81, b"ok\xe2\x82")], &[], Violation::InvalidUtf8),
        refused(
            "cut at the end of fragments",
            &[frame(0x01, b"ok\xe2"), frame(0x80, b"\x82")],
            &[],
            Violation::InvalidUtf8,
        ),
        refused("cut before an empty end", &[frame(0x01, b"\xe2"), frame(0x80, b"")], &[], Violation::InvalidUtf8),
        refused(
            "wrong across fragments",
            &[frame(0x01, b"\xe2\x82"), frame(0x89, b""), frame(0x80, b"a")],
            &[Ping(b"")],
            Violation::InvalidUtf8,
        ),
        refused(
            "wrong in a fragment, seen before the next",
            &[frame(0x01, b"\xff"), frame(0x89, b"")],
            &[],
            Violation::InvalidUtf8,
        ),
        refused(
            "wrong in an incomplete frame, seen before its end",
            &[vec![0x81, 0x85, 0, 0, 0, 0, b'a', 0xff]],
            &[],
            Violation::InvalidUtf8,
        ),
        // What came before a violation counts.
        refused("text, then a reserved bit", &[frame(0x81, b"a"), vec![0xc1]], &[Text("a")], Violation::ReservedBits),
    ];
    for bits in [0x10, 0x20, 0x40, 0x70] {
        for first in [0x81, 0x00, 0x89] {
            cases.push(refused("reserved bits", &[frame(first | bits, b"")], &[], Violation::ReservedBits));
        }
    }
    for opcode in (3..=7).chain(11..=15) {
        for fin in [0x00, 0x80] {
            cases.push(refused("reserved opcodes", &[frame(fin | opcode, b"")], &[], Violation::ReservedOpcode));
        }
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        cases.push(closed("close codes", &[close(code, b"")], &[leaving(Some(code), "")]));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(refused("forbidden close codes", &[close(code, b"bye")], &[], Violation::CloseCode));
    }
    cases
}

/// A message as clients deflate it: at a level, flushed after each of so many bytes.
fn deflated(message: &[u8], level: u32, part_bytes: usize) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut deflated = Vec::with_capacity(2 * message.len() + 100);
    let mut left = message;
    while !left.is_empty() || compress.total_in() == 0 {
        let (part, rest) = left.split_at(left.len().min(part_bytes));
        deflated.reserve(2 * part.len() + 100);
        compress.compress_vec(part, &mut deflated, FlushCompress::Sync).expect("what deflates anything");
        left = rest;
        if message.is_empty() {
            break;
        }
    }
    deflated.truncate(deflated.len() - 4);
    deflated
}

/// With permessage-deflate agreed on.
fn deflated_cases() -> Vec<Case> {
    let open = |name, wire: &[Vec<u8>], messages: &[Message<'static>]| -> Case {
        (name, wire.concat(), messages.to_vec(), End::Open)
    };
    let refused = |name, wire: &[Vec<u8>], messages: &[Message<'static>], violation| -> Case {
        (name, wire.concat(), messages.to_vec(), End::Refused(violation))
    };
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    // blocks of at most 65,535 bytes as they are (RFC 1951 §3.2.4), the last of them for the flush
    let stored = |message: &[u8]| {
        let block = |part: &[u8]| {
            let length = part.len() as u16;
            [&[0][..], &length.to_le_bytes(), &(!length).to_le_bytes(), part].concat()
        };
        [message.chunks(65_535).map(block).collect::<Vec<_>>().concat(), vec![0]].concat()
    };
    let mut cases = vec![
        open("RFC 7692 §7.2.3.1: one block", &[frame(0xc1, hello)], &[Text("Hello")]),
        open(
            "§7.2.3.1: the same in fragments",
            &[frame(0x41, &hello[..3]), frame(0x80, &hello[3..])],
            &[Text("Hello")],
        ),
        refused(
            "§7.2.3.2: a context taken over",
            &[frame(0xc1, hello), frame(0xc1, b"\xf2\x00\x11\x00\x00")],
            &[Text("Hello")],
            Violation::InvalidDeflate,
        ),
        open("§7.2.3.3: not compressed", &[frame(0xc1, b"\x00\x05\x00\xfa\xffHello\x00")], &[Text("Hello")]),
        open("§7.2.3.4: a last block", &[frame(0xc1, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00")], &[Text("Hello")]),
        open("a last block alone", &[frame(0xc1, b"\xf3\x48\xcd\xc9\xc9\x07\x00")], &[Text("Hello")]),
        open(
            "§7.2.3.5: two blocks",
            &[frame(0xc1, b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00")],
            &[Text("Hello")],
        ),
        open("§7.2.3.6: an empty message", &[frame(0xc1, b"\x00"), frame(0xc2, b"")], &[Text(""), Binary(b"")]),
        open("a binary message", &[frame(0xc2, hello)], &[Binary(b"Hello")]),
        open(
            "fragments, empty ones, and control frames between them",
            &[
                frame(0x42, b""),
                frame(0x89, b"1"),
                frame(0x00, hello),
                frame(0x8a, b"2"),
                frame(0x00, b""),
                frame(0x80, b""),
            ],
            &[Ping(b"1"), Pong(b"2"), Binary(b"Hello")],
        ),
        open(
            "plain and deflated by turns",
            &[
                frame(0x81, b"one"),
                frame(0xc1, hello),
                frame(0x01, b"t"),
                frame(0x80, b"wo"),
                frame(0x41, hello),
                frame(0x80, b""),
                frame(0x82, b"three"),
            ],
            &[Text("one"), Text("Hello"), Text("two"), Text("Hello"), Binary(b"three")],
        ),
        open(
            "a character over two fragments",
            &{
                let euro = deflated("€".as_bytes(), 6, 1);
                let (head, tail) = euro.split_at(euro.len() / 2);
                [frame(0x41, head), frame(0x80, tail)]
            },
            &[Text("€")],
        ),
        refused("no UTF-8", &[frame(0xc1, &deflated(b"a\xff", 6, 9))], &[], Violation::InvalidUtf8),
        open("any bytes in binary", &[frame(0xc2, &deflated(b"a\xff", 6, 9))], &[Binary(b"a\xff")]),
        // where RSV1 may not stand
        refused("RSV1 on a continuation", &[frame(0x41, hello), frame(0xc0, b"")], &[], Violation::ReservedBits),
        refused("RSV1 on a plain continuation", &[frame(0x01, b"a"), frame(0xc0, b"")], &[], Violation::ReservedBits),
        refused("RSV1 on a continuation of nothing", &[frame(0xc0, b"")], &[], Violation::ReservedBits),
        refused("RSV1 on a ping between", &[frame(0x41, hello), frame(0xc9, b"")], &[], Violation::ReservedBits),
        refused("a message in a message", &[frame(0x41, hello), frame(0xc1, b"")], &[], Violation::MessageInterrupted),
        // what is no deflated message
        refused("a reserved kind of block", &[frame(0xc1, b"\xff")], &[], Violation::InvalidDeflate),
        refused("plain text", &[frame(0xc1, b"Hello")], &[], Violation::InvalidDeflate),
        refused("cut off", &[frame(0xc1, &hello[..4])], &[], Violation::InvalidDeflate),
        refused(
            "cut off in a stored block",
            &[frame(0xc1, b"\x00\x05\x00\xfa\xffHel")],
            &[],
            Violation::InvalidDeflate,
        ),
        refused("a distance too far back", &[frame(0xc1, b"\xf2\x00\x11\x00\x00")], &[], Violation::InvalidDeflate),
        refused(
            "more behind the last block",
            &[frame(0xc1, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x00")],
            &[],
            Violation::InvalidDeflate,
        ),
        // the limit
        open("exactly the limit", &[frame(0xc2, &deflated(&BIG[..MAX], 6, MAX))], &[Binary(&BIG[..MAX])]),
        refused("one over the limit", &[frame(0xc2, &deflated(&BIG, 6, MAX + 1))], &[], Violation::MessageTooBig),
        refused("a bomb", &[frame(0xc2, &deflated(&vec![0; 50 << 20], 9, 50 << 20))], &[], Violation::MessageTooBig),
        refused(
            "a bomb in fragments",
            &{
                let bomb = deflated(&vec![0; 5 << 20], 9, 5 << 20);
                [frame(0x42, &bomb[..1000]), frame(0x00, &bomb[1000..2000]), frame(0x80, &bomb[2000..])]
            },
            &[],
            Violation::MessageTooBig,
        ),
        open("longer deflated than plain", &[frame(0xc2, &stored(&BIG[..MAX]))], &[Binary(&BIG[..MAX])]),
        refused(
            "more than it can be, by its header",
            &[frame(0xc2, &vec![0; MAX + MAX / 8 + 17])[..10].to_vec()],
            &[],
            Violation::MessageTooBig,
        ),
    ];
    for first in [0x88, 0x89, 0x8a, 0x83, 0x8b] {
        cases.push(refused("RSV1 on others", &[frame(first | 0x40, b"")], &[], Violation::ReservedBits));
    }
    for bits in [0x10, 0x20, 0x50, 0x60, 0x70] {
        cases.push(refused("other reserved bits", &[frame(0x81 | bits, hello)], &[], Violation::ReservedBits));
    }
    cases
}

#[test]
fn rfc_6455_case_by_case() {
    for (name, wire, messages, end) in CASES.iter() {
        let expected = (messages.iter().map(|message| format!("{message:?}")).collect(), *end);
        for piece_bytes in [&[][..], &[1], &[2], &[3, 1], &[7], &[1, 13, 2]] {
            assert_eq!(decode(wire, piece_bytes, PLAIN), expected, "{name}, in pieces of {piece_bytes:?}");
        }
        agree_with_tungstenite(wire, MAX);
    }
}

#[test]
fn rfc_7692_case_by_case() {
    for (name, wire, messages, end) in DEFLATED_CASES.iter() {
        let expected = (messages.iter().map(|message| format!("{message:?}")).collect(), *end);
        for piece_bytes in [&[][..], &[1], &[2], &[3, 1], &[7], &[1, 13, 2]] {
            assert_eq!(decode(wire, piece_bytes, DEFLATED), expected, "{name}, in pieces of {piece_bytes:?}");
        }
    }
}

#[test]
fn what_is_not_deflated_is_the_same_where_it_might_be() {
    for (name, wire, messages, end) in CASES.iter() {
        let expected = (messages.iter().map(|message| format!("{message:?}")).collect(), *end);
        if *end != End::Refused(Violation::ReservedBits) {
            assert_eq!(decode(wire, &[], DEFLATED), expected, "{name}");
        }
    }
}

#[test]
fn every_violation_is_told_in_a_close_frame_that_fits() {
    for (_, _, _, end) in CASES.iter().chain(DEFLATED_CASES.iter()) {
        let End::Refused(violation) = *end else { continue };
        let frame = close_frame(violation.close_code(), violation.reason());
        assert_eq!(&frame[4..], violation.to_string().as_bytes());
        assert!(matches!(violation.close_code(), 1002 | 1007 | 1009));
    }
}

/// A message or control frame: FIN-and-opcode bytes and payloads of its frames.
type Frames = Vec<(u8, Vec<u8>)>;

fn payload(text: bool) -> BoxedStrategy<Vec<u8>> {
    let bytes = |lengths: Range<usize>| vec(if text { 0x20..0x7fu8 } else { 0..0xff }, lengths);
    let letters = proptest::char::range('\0', '\u{10ffff}');
    prop_oneof![
        6 => bytes(0..40),
        4 => if text { vec(letters, 0..12).prop_map(|c| c.iter().collect::<String>().into_bytes()).boxed() } else { bytes(0..9).boxed() },
        2 => bytes(120..130),
        1 => bytes(65_534..65_538),
    ]
    .boxed()
}

fn control() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (prop_oneof![Just(0x89), Just(0x8a)], vec(any::<u8>(), 0..=125))
}

fn message() -> impl Strategy<Value = Frames> {
    (any::<bool>(), vec((any::<prop::sample::Index>(), proptest::option::of(control())), 0..4))
        .prop_flat_map(|(text, cuts)| (payload(text), Just(text), Just(cuts)))
        .prop_map(|(payload, text, cuts)| {
            let mut at: Vec<usize> = cuts.iter().map(|(cut, _)| cut.index(payload.len() + 1)).collect();
            at.sort_unstable();
            let mut opcode = if text { 1 } else { 2 };
            let mut frames = Vec::new();
            let mut start = 0;
            for (end, (_, between)) in at.into_iter().zip(cuts) {
                frames.push((opcode, payload[start..end].to_vec()));
                frames.extend(between);
                (start, opcode) = (end, 0);
            }
            frames.push((0x80 | opcode, payload[start..].to_vec()));
            frames
        })
}

/// What a correct client might send, as one stream; a close, if there is one, comes last.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let bye = (prop_oneof![1000..1004u16, 1007..1015u16, 3000..5000u16], "[a-zé€]{0,20}")
        .prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat());
    let bye = prop_oneof![Just(Vec::new()), bye].prop_map(|payload| vec![(0x88, payload)]);
    let frames = vec(prop_oneof![3 => message(), 1 => control().prop_map(|frame| vec![frame])], 0..6);
    (frames, proptest::option::of(bye), any::<[u8; 4]>()).prop_map(|(frames, bye, mask)| {
        let frames = frames.into_iter().chain(bye).flatten();
        frames.flat_map(|(first, payload)| frame_masked(first, &payload, mask)).collect()
    })
}

/// The same with a few bytes changed, put in or taken out, near the start as often as anywhere; perhaps cut off.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let place = prop_oneof![(0..32usize).boxed(), (0..200_000usize).boxed()];
    (conversation(), vec((place, 0..4u8, any::<u8>()), 1..4)).prop_map(|(mut wire, changes)| {
        for (place, what, byte) in changes {
            let at = place % (wire.len() + 1);
            match what {
                0 => wire.insert(at, byte),
                1 if at < wire.len() => drop(wire.remove(at)),
                2 if at < wire.len() => wire[at] ^= byte,
                2 | 1 => wire.truncate(at),
                _ if at < wire.len() => wire[at] ^= 1 << (byte % 8),
                _ => wire.push(byte),
            }
        }
        wire
    })
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..8usize, 1..200usize, 1..80_000usize], 1..8)
}

fn limit() -> impl Strategy<Value = usize> {
    prop_oneof![Just(MAX), Just(126), Just(30), Just(0)]
}

proptest! {
    // The same conversations in every run; `fuzz/` looks for new ones.
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(6455),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_a_correct_client_says_is_heard(wire in conversation(), pieces in pieces()) {
        let (messages, end) = decode(&wire, &pieces, PLAIN);
        prop_assert!(!matches!(end, End::Refused(_)), "{messages:?} {end:?}");
        prop_assert_eq!((messages, end), decode(&wire, &[], PLAIN));
        agree_with_tungstenite(&wire, MAX);
    }

    #[test]
    fn damage_is_found_alike_however_it_is_cut(wire in damaged(), pieces in pieces(), max in limit()) {
        for deflated in [false, true] {
            let accepts = Accepts { message_bytes_max: max, deflated };
            prop_assert_eq!(decode(&wire, &pieces, accepts), decode(&wire, &[], accepts));
        }
        agree_with_tungstenite(&wire, max);
    }

    #[test]
    fn cases_stand_in_any_pieces(index in 0..CASES.len(), pieces in pieces()) {
        let (name, wire, messages, end) = &CASES[index];
        let expected = (messages.iter().map(|message| format!("{message:?}")).collect(), *end);
        prop_assert_eq!(decode(wire, &pieces, PLAIN), expected, "{}", name);
    }

    #[test]
    fn deflated_cases_stand_in_any_pieces(index in 0..DEFLATED_CASES.len(), pieces in pieces()) {
        let (name, wire, messages, end) = &DEFLATED_CASES[index];
        let expected = (messages.iter().map(|message| format!("{message:?}")).collect(), *end);
        prop_assert_eq!(decode(wire, &pieces, DEFLATED), expected, "{}", name);
    }

    #[test]
    fn what_a_client_deflates_is_heard(
        message in payload(true),
        level in 0..10_u32,
        part_bytes in 1..1000_usize,
        cuts in vec(any::<prop::sample::Index>(), 0..4),
        pieces in pieces(),
    ) {
        let deflated = deflated(&message, level, part_bytes);
        prop_assume!(deflated.len() <= MAX + MAX / 8);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(deflated.len() + 1)).collect();
        at.sort_unstable();
        let (mut first, mut start, mut wire) = (0x41, 0, Vec::new());
        for end in at {
            wire.extend(frame(first, &deflated[start..end]));
            (first, start) = (0, end);
        }
        wire.extend(frame(0x80 | first, &deflated[start..]));
        let heard = format!("{:?}", Text(str::from_utf8(&message).unwrap()));
        prop_assert_eq!(decode(&wire, &pieces, DEFLATED), (vec![heard], End::Open));
        prop_assert_eq!(decode(&wire, &pieces, PLAIN), (vec![], End::Refused(Violation::ReservedBits)));
    }

    #[test]
    fn what_is_deflated_here_is_the_same_again(message in payload(true)) {
        let limits = Limits { deflate_bytes_min: 1, ..Limits::default() };
        let plain = text_frame(&message);
        if let Some(deflated) = deflate(&plain, &limits) {
            prop_assert!(deflated.len() < plain.len());
            let wire = frame(deflated[0], payload_of(&deflated));
            let heard = format!("{:?}", Text(str::from_utf8(&message).unwrap()));
            prop_assert_eq!(decode(&wire, &[], DEFLATED), (vec![heard], End::Open));
        }
    }
}
