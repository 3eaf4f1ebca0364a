//! Hydrant: a self-hosted realtime push server.
#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod limits;
