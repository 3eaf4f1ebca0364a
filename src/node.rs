//! One node: the only place that knows every part. Builds in order, drains in reverse.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::config::{self, Address, Config, Door, PublicKeyPem, RemoteTarget};
use crate::core::{self, Admission, AppKey, Ledger};
use crate::credential::session::SessionKey;
use crate::hooks::jobs::{Jobs, Target};
use crate::ops::metrics::OpsDoor;
use crate::protocol::gusher::token::Tokens;
use crate::protocol::gusher::{ClientDoor, Gusher, MasterDoor};
use crate::protocol::{FrontDoor, dialects};
use crate::shard::listener::{Listener, Socket, Trust, bind};
use crate::shard::{Mail, Shard, Shared};

/// What a shard may take, beside its own goodbyes, before it is given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    listeners: Vec<Arc<Listener>>,
    mailboxes: Arc<[UnboundedSender<Mail>]>,
    threads: Vec<JoinHandle<()>>,
    draining: watch::Sender<bool>,
    grace: Duration,
}

impl Node {
    /// Binds every listener and starts every shard; when this returns the node serves. To be called in the control
    /// plane's runtime, where jobs are done: nothing that waits for others runs on a shard.
    ///
    /// # Errors
    /// A key cannot be used, an address cannot be had, a thread cannot be started. Nothing is left running.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let limits = Arc::new(config.limits.clone());
        let gusher = Arc::new(gusher(config)?);
        let jobs = jobs(config)?;
        let mut listeners = Vec::new();
        let mut sockets: Vec<VecDeque<(Arc<Listener>, Socket)>> = (0..config.shards).map(|_| VecDeque::new()).collect();
        for spec in &config.listen {
            let (address, bound) = bind(&spec.address, spec.unix_mode, config.shards)
                .with_context(|| format!("cannot listen on {}; is another server running there?", spec.address))?;
            let listener = Arc::new(listener(config, spec, address, &gusher));
            for (shard, socket) in bound.into_iter().enumerate() {
                sockets[shard].push_back((listener.clone(), socket));
            }
            listeners.push(listener);
        }
        let (draining, is_draining) = watch::channel(false);
        let shared = Arc::new(Shared {
            node: core::Node {
                number: 0,
                shards: config.shards as core::ShardIndex,
                hash_seed: uuid::Uuid::new_v4().as_u128() as u64,
                limits,
                dialects: dialects(),
                apps: config.apps.iter().map(|app| AppKey::from(&*app.key)).collect(),
                admission: Admission::default(),
                ledger: Ledger::default(),
                backlog: (0..config.shards).map(|_| AtomicUsize::new(0)).collect(),
            },
            jobs,
            ready: AtomicBool::new(false),
            http_connections: AtomicUsize::new(0),
            draining: is_draining,
        });
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| unbounded_channel()).unzip();
        let mut node =
            Self { listeners, mailboxes: senders.into(), threads: Vec::new(), draining, grace: config.shutdown.grace };
        let epoch = Instant::now();
        for (index, (mailbox, sockets)) in receivers.into_iter().zip(sockets).enumerate() {
            let (shared, mailboxes) = (shared.clone(), node.mailboxes.clone());
            let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                let ran = Shard::run(index as u16, shared, mailboxes, mailbox, sockets.into(), epoch);
                if let Err(error) = ran {
                    tracing::error!(shard = index, %error, "a shard could not start");
                }
            })?;
            node.threads.push(thread);
        }
        shared.ready.store(true, Ordering::Release);
        Ok(node)
    }

    /// Every listener, with its true address.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// Stops accepting, says goodbye to every connection within the grace period, and ends every thread.
    pub async fn drain(self) {
        let _ = self.draining.send(true);
        let mut drained = Vec::new();
        for mailbox in self.mailboxes.iter() {
            let (done, is_done) = oneshot::channel();
            if mailbox.send(Mail::Drain(self.grace, done)).is_ok() {
                drained.push(is_done);
            }
        }
        let all = async {
            for shard in drained {
                let _ = shard.await;
            }
        };
        if tokio::time::timeout(self.grace + DRAIN_PATIENCE, all).await.is_err() {
            tracing::warn!("a shard did not drain in time");
            return;
        }
        for mailbox in self.mailboxes.iter() {
            let _ = mailbox.send(Mail::Stop);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn gusher(config: &Config) -> anyhow::Result<Gusher> {
    fn pems(keys: &[PublicKeyPem]) -> Vec<(&[u8], &str)> {
        keys.iter().map(|key| (&*key.pem, &*key.origin)).collect()
    }
    let session = match &config.gusher.session_secret {
        Some(secret) => SessionKey::from_secret(secret.expose().as_bytes(), "gusher.session_secret")?,
        None => SessionKey::generate(),
    };
    let apps = config.apps.iter().filter(|app| app.enabled);
    Ok(Gusher {
        tokens: Tokens::new(
            apps.map(|app| (&*app.key, pems(&app.gusher_public_keys))),
            &pems(&config.gusher.public_keys),
            config.gusher.open_apps,
            session,
            config.gusher.session_ttl,
        )?,
        client_prefix: config.gusher.client_prefix.clone(),
        master_prefix: config.gusher.master_prefix.clone(),
        legacy_pong: config.gusher.legacy_pong,
        legacy_empty_push: config.gusher.legacy_empty_push,
    })
}

fn jobs(config: &Config) -> anyhow::Result<Jobs> {
    let control = tokio::runtime::Handle::current();
    Ok(match &config.gusher.remote {
        None => Jobs::start(Target::None, Duration::from_secs(1), 1, control)?,
        Some(remote) => {
            let target = match &remote.target {
                RemoteTarget::Redis(url) => Target::Redis(url.expose().to_owned()),
                RemoteTarget::Http(url) => Target::Http(url.expose().to_owned()),
            };
            Jobs::start(target, remote.timeout, remote.in_flight_max, control)?
        }
    })
}

fn listener(config: &Config, spec: &config::Listener, address: Address, gusher: &Arc<Gusher>) -> Listener {
    let door = |door: &Door| -> Arc<dyn FrontDoor> {
        match door {
            Door::GusherClient => Arc::new(ClientDoor(gusher.clone())),
            Door::GusherMaster => Arc::new(MasterDoor(gusher.clone())),
            Door::Ops => Arc::new(OpsDoor),
        }
    };
    Listener {
        address,
        names: spec.doors.iter().map(|door| door.word().to_owned()).collect(),
        doors: spec.doors.iter().map(door).collect(),
        path_prefix: spec.path_prefix.clone(),
        stays_open: spec.doors == [Door::Ops],
        trust: Trust {
            trusted: spec.trusted,
            allow: spec.allow.clone(),
            token: spec.token.clone(),
            hosts: spec.hosts.clone(),
        },
        trusted_proxies: config.trusted_proxies.clone().into(),
        seats: (0..config.shards).map(|_| AtomicUsize::new(0)).collect(),
        visitors: AtomicUsize::new(0),
    }
}
