//! Structured logs on standard error, as text or JSON.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat};

/// Installs the process's logger. `level` is a directive such as `info` or `hydrant=debug`.
///
/// # Errors
/// The directive is none, or a logger is installed already.
pub fn install(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&log.level)?;
    let logs = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Text => logs.with_ansi(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!(error))
}
