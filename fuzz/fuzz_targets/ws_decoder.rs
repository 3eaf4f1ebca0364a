//! Any bytes from a client, in any pieces: no panic, the same messages and end as in one piece, and as tungstenite finds.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/ws_oracle/mod.rs"]
mod ws_oracle;

/// In a corpus file: the fields in this order, `wire` being all that follows.
#[derive(Arbitrary, Debug)]
struct Input<'a> {
    piece_bytes: [u8; 4],
    message_bytes_max: u8,
    wire: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let message_bytes_max = input.message_bytes_max.into();
    let pieces = ws_oracle::decode(input.wire, &input.piece_bytes.map(usize::from), message_bytes_max);
    assert_eq!(pieces, ws_oracle::decode(input.wire, &[], message_bytes_max));
    ws_oracle::agree_with_tungstenite(input.wire, message_bytes_max);
});
