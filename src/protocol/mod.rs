//! Front doors: words in, verbs called, words out. A door holds no meaning of its own; what it must be able to do stands
//! in [`crate::shard::door`].
//!
//! Adding a protocol is one folder here, one line in [`dialects`], and its doors in `node.rs`, where they are opened.

pub mod apps;
pub mod gusher;
mod json;
pub mod push1st;
pub mod pusher;
mod rate;

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::core::{ChannelName, Dialect, DialectIndex, Event};
use crate::shard::ws::codec::payload;

/// Place of gusher's dialect in [`dialects`].
pub const GUSHER: DialectIndex = 0;
/// Place of Pusher's.
pub const PUSHER: DialectIndex = 1;
/// Place of Push1ST's.
pub const PUSH1ST: DialectIndex = 2;

/// How each protocol writes events, by [`DialectIndex`].
pub fn dialects() -> Arc<[Arc<dyn Dialect>]> {
    Arc::new([
        Arc::new(gusher::dialect::Gusher) as Arc<dyn Dialect>,
        Arc::new(pusher::dialect::Pusher),
        Arc::new(push1st::dialect::Push1st),
    ])
}

/// Writes what came through one door as all of them write it. For fuzz targets.
///
/// # Panics
/// If one of them writes no JSON.
fn fuzz_event(channel: &ChannelName, event: &Event) {
    for dialect in dialects().iter() {
        let frame = dialect.encode(channel, event);
        assert!(is_json(payload(&frame)), "{event:?}");
    }
}

/// Whether bytes are one JSON value.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

/// Whether an event's name is the server's own in some protocol: clients publish none such, on whichever door.
fn is_reserved_event(name: &str) -> bool {
    ["pusher:", "pusher_internal:", "gusher."].iter().any(|prefix| name.starts_with(prefix))
}
