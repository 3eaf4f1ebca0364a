//! Hydrant: a self-hosted realtime push server.
#![forbid(unsafe_code)]

pub mod credential;
pub mod limits;
