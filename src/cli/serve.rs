//! `hydrant serve`: the server, as configured.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Address, Config, Listener, Loaded, Overrides, difference};
use crate::node::{ListenError, Node};
use crate::ops::log;
use crate::shard::tls::Tls;

use super::sources;
use super::watch::Watch;

/// Run the server as configured by a file, the environment and flags
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: sources::Args,
}

/// Serves until a signal. SIGHUP, or a change of a file that the configuration was made from, makes it anew.
///
/// # Errors
/// The configuration is wrong, or a listener cannot be had.
pub fn run(args: Args) -> anyhow::Result<()> {
    let load = || args.sources.load(Overrides::default());
    let no_flag = |_: &Listener| None;
    serve(load()?, Some(&|| Ok(load()?)), no_flag, |node| {
        for listener in node.listeners() {
            let doors = listener.names.join(", ");
            let tls = listener.tls.is_some();
            tracing::info!(address = %listener.address, doors, tls, trusted = listener.trust.trusted, "listening");
            if let Some(identity) = listener.tls.as_ref().and_then(Tls::self_signed) {
                let fingerprint = identity.fingerprint();
                tracing::info!(address = %listener.address, fingerprint, "self-signed certificate");
            }
        }
    })
}

/// How the configuration is made anew.
pub(super) type Load<'a> = &'a dyn Fn() -> anyhow::Result<Loaded>;

/// Log, runtime, build, announce, signals, drain. Without `load`, SIGHUP ends it, as the end of a terminal does. `flag`
/// names the flag that moves a listener nobody wrote down.
pub(super) fn serve(
    mut loaded: Loaded,
    load: Option<Load<'_>>,
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
        let mut hangup = signal(SignalKind::hangup())?;
        make_directories(&loaded.config.listen);
        let mut watch = Watch::over(if load.is_some() { &loaded.files } else { &[] });
        let node = Node::start(&loaded.config).map_err(|error| with_way_out(error, &loaded, flag))?;
        announce(&node);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {}
                () = watch.changed() => {}
            }
            let Some(load) = load else { break };
            let new;
            (watch, new) = watched(&loaded.files, load);
            match new.and_then(|new| take_over(&node, &loaded.config, new)) {
                Ok(new) => {
                    tell_difference(&loaded, &new);
                    loaded = new;
                }
                Err(error) => tracing::error!("the configuration is not reloaded, and stays what it was:\n{error:#}"),
            }
        }
        let grace_ms = loaded.config.shutdown.grace.as_millis() as u64;
        tracing::info!(grace_ms, "shutting down; again to stop at once");
        tokio::select! {
            () = node.drain() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        anyhow::Ok(())
    })
}

/// Puts another configuration into force, unless it would leave nobody connected: a file that is emptied before it is
/// written, or for want of room, says nothing, and is nothing wrong.
fn take_over(node: &Node, old: &Config, new: Loaded) -> anyhow::Result<Loaded> {
    let serves_nobody = |config: &Config| config.apps.is_empty() && !config.gusher.open_apps;
    if serves_nobody(&new.config) && !serves_nobody(old) {
        bail!("there are no apps left in it; a restart takes it over if that is meant");
    }
    node.reload(&new.config)?;
    Ok(new)
}

/// Makes the configuration anew, under a watch over its files that began before they were read, so that nothing written
/// meanwhile is missed. `files` are those of the last one.
fn watched(files: &[PathBuf], load: Load<'_>) -> (Watch, anyhow::Result<Loaded>) {
    let mut files = files.to_owned();
    loop {
        let watch = Watch::over(&files);
        match load() {
            Ok(new) if new.files != files => files = new.files,
            result => return (watch, result),
        }
    }
}

/// Logs what another configuration has changed.
fn tell_difference(old: &Loaded, new: &Loaded) {
    for warning in new.config.warnings.iter().filter(|warning| !old.config.warnings.contains(warning)) {
        tracing::warn!("{warning}");
    }
    let changes = difference(old, new).changes;
    tracing::info!(changes = changes.len(), "configuration reloaded");
    for change in changes {
        if change.needs_restart {
            tracing::warn!("{change}; needs a restart, until then it stays as it was");
        } else {
            tracing::info!("{change}");
        }
    }
}

/// Makes the directories of unix sockets. Where that fails, listening there says why.
fn make_directories(listeners: &[Listener]) {
    for listener in listeners {
        if let Address::Unix(path) = &listener.address
            && let Some(directory) = path.parent()
        {
            let _ = std::fs::create_dir_all(directory);
        }
    }
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
