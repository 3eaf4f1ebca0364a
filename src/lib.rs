//! Hydrant: a self-hosted realtime push server. `ARCHITECTURE.md` is the map.
#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod config;
pub mod core;
pub mod credential;
pub mod hooks;
pub mod limits;
pub mod node;
pub mod ops;
pub mod protocol;
pub mod shard;
