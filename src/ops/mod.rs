//! What operators see: health, metrics, logs.

pub mod health;
pub mod log;
pub mod metrics;
