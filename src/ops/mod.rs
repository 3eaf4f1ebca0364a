//! What operators see: health, metrics, logs.

pub mod health;
pub mod hooks;
pub mod log;
pub mod metrics;
