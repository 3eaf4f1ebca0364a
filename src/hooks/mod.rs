//! What happened here, told to others.

pub mod jobs;
