//! Hydrant: a self-hosted realtime push server.
#![forbid(unsafe_code)]

pub mod cli;
pub mod credential;
pub mod hooks;
pub mod limits;
