//! Hydrant: a self-hosted realtime push server.
#![forbid(unsafe_code)]

pub mod limits;
pub mod shard;
