//! What operators see: health, metrics, memory, logs.

pub mod health;
pub mod hooks;
pub mod log;
pub mod memory;
pub mod metrics;
