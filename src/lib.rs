//! Hydrant: a self-hosted realtime push server.
#![forbid(unsafe_code)]

pub mod config;
pub mod limits;
