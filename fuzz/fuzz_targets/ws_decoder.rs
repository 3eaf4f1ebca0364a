//! Any bytes from a client, in any pieces: no panic, the same messages and end as in one piece, whether they may be deflated
//! or not, and if not, as tungstenite finds.
#![no_main]

use arbitrary::Arbitrary;
use hydrant::shard::ws::codec::Accepts;
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
    for deflated in [false, true] {
        let accepts = Accepts { message_bytes_max, deflated };
        let pieces = ws_oracle::decode(input.wire, &input.piece_bytes.map(usize::from), accepts);
        assert_eq!(pieces, ws_oracle::decode(input.wire, &[], accepts));
    }
    ws_oracle::agree_with_tungstenite(input.wire, message_bytes_max);
});
