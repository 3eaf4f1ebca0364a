//! `hydrant serve`: the server, as configured.

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Listener, Loaded, Overrides};
use crate::node::{ListenError, Node};
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
    let loaded = args.sources.load(Overrides::default())?;
    let no_flag = |_: &Listener| None;
    serve(&loaded, no_flag, |node| {
        for listener in node.listeners() {
            let doors = listener.names.join(", ");
            tracing::info!(address = %listener.address, doors, trusted = listener.trust.trusted, "listening");
        }
    })
}

/// Log, runtime, build, announce, signal, drain. `flag` names the flag that moves a listener nobody wrote down.
pub(super) fn serve(
    loaded: &Loaded,
    flag: impl Fn(&Listener) -> Option<&'static str>,
    announce: impl FnOnce(&Node),
) -> anyhow::Result<()> {
    let config = &loaded.config;
    log::install(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    super::check(config)?;
    // every client is a file to the kernel; what the hard limit allows is what there is
    let files = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit on open files")?;
    tracing::debug!(files, "limit on open files");
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let node = Node::start(config).map_err(|error| with_way_out(error, loaded, flag))?;
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

/// Adds to an address that cannot be had where it is chosen.
fn with_way_out(
    error: anyhow::Error,
    loaded: &Loaded,
    flag: impl Fn(&Listener) -> Option<&'static str>,
) -> anyhow::Error {
    let Some(ListenError { index, .. }) = error.downcast_ref() else { return error };
    let key = format!("listen[{index}].address");
    let origin = loaded.origin(&key);
    let is_written = origin != "default" && !origin.starts_with("--");
    match flag(&loaded.config.listen[*index]).filter(|_| !is_written) {
        Some(flag) => anyhow!("{error}; {flag} ADDR chooses another address"),
        None => anyhow!("{error}; {key} ({origin}) chooses the address"),
    }
}
