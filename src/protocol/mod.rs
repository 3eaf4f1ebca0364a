//! Front doors: words in, verbs called, words out. A door holds no meaning of its own; what it must be able to do stands
//! in [`crate::shard::door`].
//!
//! Adding a protocol is one folder here, one line in [`dialects`], and its doors in `node.rs`, where they are opened.

pub mod apps;
pub mod gusher;
mod json;
pub mod push1st;
mod rate;

use std::sync::Arc;

use crate::core::{Dialect, DialectIndex};

/// Place of gusher's dialect in [`dialects`].
pub const GUSHER: DialectIndex = 0;
/// Place of Push1ST's dialect in [`dialects`].
pub const PUSH1ST: DialectIndex = 1;

/// How each protocol writes events, by [`DialectIndex`].
pub fn dialects() -> Arc<[Arc<dyn Dialect>]> {
    Arc::new([
        Arc::new(gusher::dialect::Gusher) as Arc<dyn Dialect>, // GUSHER
        Arc::new(push1st::dialect::Push1st),                   // PUSH1ST
    ])
}

/// Whether an event's name is the server's own in some protocol: clients publish none such, on whichever door.
fn is_reserved_event(name: &str) -> bool {
    ["pusher:", "pusher_internal:", "gusher."].iter().any(|prefix| name.starts_with(prefix))
}
