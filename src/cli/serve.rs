//! `hydrant serve`: the server, as configured.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Overrides};
use crate::node::Node;
use crate::ops::log;

use super::sources;

/// Run the server as configured by a file, the environment and flags
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: sources::Args,
}

/// Serves until a signal.
///
/// # Errors
/// The configuration is wrong, or a listener cannot be had.
pub fn run(args: Args) -> anyhow::Result<()> {
    let config = args.sources.load(Overrides::default())?.config;
    serve(&config, |node| {
        for listener in node.listeners() {
            let doors = listener.names.join(", ");
            tracing::info!(address = %listener.address, doors, trusted = listener.trust.trusted, "listening");
        }
    })
}

/// Log, runtime, build, announce, signal, drain.
pub(super) fn serve(config: &Config, announce: impl FnOnce(&Node)) -> anyhow::Result<()> {
    log::install(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // every client is a file to the kernel; what the hard limit allows is what there is
    let files = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit on open files")?;
    tracing::debug!(files, "limit on open files");
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let node = Node::start(config)?;
        announce(&node);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(grace_ms = config.shutdown.grace.as_millis() as u64, "shutting down; again to stop at once");
        tokio::select! {
            () = node.drain() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::Ok(())
    })
}
