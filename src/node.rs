//! One node: the only place that knows every part. Builds in order, drains in reverse.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnet::IpNet;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::config::{self, Address, Config, Door, Hook, HookFormat, HookTarget, PublicKeyPem, RemoteTarget};
use crate::core::{self, Admission, AppKey, AppSettings, Ledger, Settings};
use crate::credential::session::SessionKey;
use crate::credential::signature::AppSecrets;
use crate::hooks::Hooks;
use crate::hooks::jobs::{Jobs, Target};
use crate::hooks::settings::{self as told, AppHooks, Endpoint, Events, Format};
use crate::limits::Limits;
use crate::ops::memory::Budget;
use crate::ops::metrics::OpsDoor;
use crate::protocol::apps::Apps;
use crate::protocol::dialects;
use crate::protocol::gusher::token::Tokens;
use crate::protocol::gusher::{ClientDoor, Gusher, MasterDoor};
use crate::protocol::push1st::{ApiDoor, SocketDoor};
use crate::protocol::pusher::PusherDoor;
use crate::protocol::pusher::idempotency::Idempotency;
use crate::shard::door::FrontDoor;
use crate::shard::listener::{Listener, Socket, Trust, bind};
use crate::shard::tls::{Identity, Tls};
use crate::shard::ws::deflate::deflate;
use crate::shard::{Doors, Given, Mail, Shard, Shared};

/// What a shard may take, beside its own goodbyes, before it is given up.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long hooks are told, at the end, of what happened until then.
const HOOKS_PATIENCE: Duration = Duration::from_secs(2);

/// A running node.
pub struct Node {
    listeners: Vec<Arc<Listener>>,
    mailboxes: Arc<[UnboundedSender<Mail>]>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    draining: watch::Sender<bool>,
    hooks: Hooks,
    grace: Duration,
    /// What is needed to put another configuration into force: the listeners as they were bound, and what outlives it.
    reloading: Option<(Vec<config::Listener>, Kept)>,
}

/// What a node keeps when its configuration is replaced.
struct Kept {
    /// Signs gusher's session tokens where no secret is configured.
    session: SessionKey,
    /// The last apps, for what they have taken of their rates.
    apps: Mutex<Arc<Apps>>,
    /// Answers to publishes that may be asked for again.
    idempotency: Arc<Idempotency>,
}

impl Kept {
    fn new() -> Self {
        Self { session: SessionKey::generate(), apps: Mutex::default(), idempotency: Arc::default() }
    }

    /// From here on sockets that are open use these apps.
    fn put_in_force(&self, apps: Arc<Apps>) {
        let mut before = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        before.replaced_by(&apps);
        *before = apps;
    }
}

/// What a node is made of. [`Node::start`] makes it from a configuration; an embedder may bring its own doors.
pub struct Parts {
    /// How many shards, each a thread; 1 to 1,024.
    pub shards: usize,
    /// Limits and apps; a `memory_bytes_max` of 0 is no limit.
    pub settings: Settings,
    /// Where jobs are handed on.
    pub jobs: Jobs,
    /// Who is told of what happens.
    pub hooks: Hooks,
    /// Over how long goodbyes are spread when the node drains.
    pub grace: Duration,
    /// Proxies whose word about a client's address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Where it listens, and what is answered there.
    pub listeners: Vec<(config::Listener, Vec<Arc<dyn FrontDoor>>)>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", in_words(reason))]
pub struct ListenError {
    /// Place among the listeners of [`Config::listen`] or [`Parts::listeners`].
    pub index: usize,
    /// The address.
    pub address: Address,
    /// What the kernel said.
    pub reason: io::Error,
}

fn in_words(reason: &io::Error) -> String {
    match reason.kind() {
        io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => reason.to_string(),
    }
}

impl Node {
    /// Starts a node as configured. See [`Node::launch`].
    ///
    /// # Errors
    /// A key cannot be used; or as [`Node::launch`].
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let kept = Kept::new();
        let (doors, apps) = doors(config, &kept)?;
        kept.put_in_force(apps);
        let hooks = Hooks::start(tokio::runtime::Handle::current(), &hook_settings(config));
        hooks.replace(&hook_settings(config), &app_hooks(config))?;
        let with_doors = |listener: &config::Listener| (listener.clone(), doors.of(listener));
        let parts = Parts {
            shards: config.shards,
            settings: settings(config),
            jobs: jobs(config)?,
            hooks,
            grace: config.shutdown.grace,
            trusted_proxies: config.trusted_proxies.clone(),
            listeners: config.listen.iter().map(with_doors).collect(),
        };
        let node = Self { reloading: Some((config.listen.clone(), kept)), ..Self::launch(parts)? };
        let budget = Budget::of(&config.limits);
        tracing::info!(bytes = budget.bytes, origin = budget.origin, "memory for connections");
        Ok(node)
    }

    /// Puts the apps, limits, secrets and keys of another configuration into force; each shard changes from the old ones to the
    /// new ones between two turns. What else the configuration says stays as it was when the node started.
    ///
    /// # Errors
    /// A key cannot be used; then nothing has changed.
    pub fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let Some((listeners, kept)) = &self.reloading else { bail!("this node was not started from a configuration") };
        let (doors, apps) = doors(config, kept)?;
        let identities = self.new_identities(listeners, config)?;
        self.hooks.replace(&hook_settings(config), &app_hooks(config))?;
        kept.put_in_force(apps);
        for (tls, spec, identity) in identities {
            tls.replace(spec, identity);
        }
        let doors: Doors = listeners.iter().map(|listener| doors.of(listener)).collect();
        let settings = Arc::new(settings(config));
        for mailbox in self.mailboxes.iter() {
            let _ = mailbox.send(Mail::Reload(settings.clone(), doors.clone()));
        }
        Ok(())
    }

    /// The certificates that have become others since listeners show them. A listener is known by its address.
    fn new_identities(
        &self,
        bound: &[config::Listener],
        config: &Config,
    ) -> anyhow::Result<Vec<(&Tls, config::Tls, Identity)>> {
        let mut identities = Vec::new();
        for (index, (listener, before)) in self.listeners.iter().zip(bound).enumerate() {
            // several may have the address of any port
            let same = |other: &&config::Listener| other.address == before.address;
            let place = bound[..index].iter().filter(same).count();
            let spec = config.listen.iter().enumerate().filter(|(_, other)| same(other)).nth(place);
            if let Some(tls) = &listener.tls
                && let Some((place, after)) = spec
                && let Some(spec) = after.tls()
                && tls.is_renewed_by(&spec)
                && let Some((spec, identity)) = identity(place, after)?
            {
                identities.push((tls, spec, identity));
            }
        }
        Ok(identities)
    }

    /// Whether keys, secrets and the target of jobs are fit for use: what only their users can tell. Listens and
    /// connects nowhere. To be called in a runtime, as [`Node::start`].
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(config: &Config) -> anyhow::Result<()> {
        doors(config, &Kept::new())?;
        for (index, listener) in config.listen.iter().enumerate() {
            identity(index, listener)?;
        }
        let hooks = Hooks::start(tokio::runtime::Handle::current(), &hook_settings(config));
        hooks.check(&hook_settings(config), &app_hooks(config))?;
        jobs(config)?;
        Ok(())
    }

    /// Binds every listener and starts every shard; when this returns the node serves.
    ///
    /// # Errors
    /// An address cannot be had ([`ListenError`]), or a thread cannot be started. Nothing is left running.
    pub fn launch(parts: Parts) -> anyhow::Result<Self> {
        let shards = parts.shards;
        let trusted_proxies: Arc<[IpNet]> = parts.trusted_proxies.into();
        let mut listeners = Vec::new();
        let mut sockets: Vec<Vec<(Arc<Listener>, Socket)>> = (0..shards).map(|_| Vec::new()).collect();
        let mut all_doors = Vec::new();
        for (index, (spec, doors)) in parts.listeners.into_iter().enumerate() {
            all_doors.push(doors);
            let (address, bound) = bind(&spec.address, spec.unix_mode, shards).map_err(|reason| ListenError {
                index,
                address: spec.address.clone(),
                reason,
            })?;
            let listener = Arc::new(listener(index, spec, address, trusted_proxies.clone(), shards)?);
            for (shard, socket) in bound.into_iter().enumerate() {
                sockets[shard].push((listener.clone(), socket));
            }
            listeners.push(listener);
        }
        let (draining, is_draining) = watch::channel(false);
        let ledger = Ledger::default();
        let shared = Arc::new(Shared {
            node: core::Node {
                number: 0,
                shards: shards as core::ShardIndex,
                hash_seed: uuid::Uuid::new_v4().as_u128() as u64,
                dialects: dialects(),
                deflate,
                admission: Admission::new(ledger.clone()),
                ledger,
                backlog: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
                occupancy: core::Occupancy::default(),
            },
            jobs: parts.jobs,
            hooks: parts.hooks.clone(),
            ready: AtomicBool::new(false),
            http_connections: AtomicUsize::new(0),
            draining: is_draining,
        });
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| unbounded_channel()).unzip();
        let (mailboxes, threads) = (senders.into(), Vec::new());
        let (hooks, grace) = (parts.hooks, parts.grace);
        let mut node = Self { listeners, mailboxes, threads, draining, hooks, grace, reloading: None };
        let (settings, doors) = (Arc::new(parts.settings), Doors::from(all_doors));
        let mailboxes = node.mailboxes.clone();
        let given = Given { shared: shared.clone(), settings, doors, mailboxes, epoch: Instant::now() };
        let mut starting = Vec::new();
        for (index, (mailbox, sockets)) in receivers.into_iter().zip(sockets).enumerate() {
            let given = given.clone();
            let (started, is_started) = mpsc::channel();
            let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                let index = index as core::ShardIndex;
                Shard::run(index, given, mailbox, sockets, started)
            })?;
            node.threads.push(thread);
            starting.push(is_started);
        }
        if starting.into_iter().any(|is_started| is_started.recv().is_err()) {
            node.stop().context("a shard cannot start")?;
            bail!("a shard cannot start");
        }
        shared.ready.store(true, Ordering::Release);
        Ok(node)
    }

    /// Every listener, with its true address.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// Stops accepting, says goodbye to every connection within the grace period, tells hooks what is left to tell, and ends
    /// every thread.
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
        self.hooks.finish(HOOKS_PATIENCE).await;
        if let Err(error) = self.stop() {
            tracing::error!(%error, "a shard had failed");
        }
    }

    /// Ends every thread; says what one of them failed of, if one did.
    fn stop(self) -> io::Result<()> {
        for mailbox in self.mailboxes.iter() {
            let _ = mailbox.send(Mail::Stop);
        }
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.into_iter().try_for_each(|ended| ended.unwrap_or_else(|_| Err(io::Error::other("it panicked"))))
    }
}

/// One of each door that a listener may name. Of one that is laxer on a trusted listener there are two: for listeners that
/// are trusted and for those that are not.
struct OneOfEach(Vec<(Door, Option<bool>, Arc<dyn FrontDoor>)>);

impl OneOfEach {
    fn of(&self, listener: &config::Listener) -> Vec<Arc<dyn FrontDoor>> {
        let named = |door: &Door| {
            let fits = |trusted: Option<bool>| trusted.is_none_or(|trusted| trusted == listener.trusted);
            self.0.iter().find(|(name, trusted, _)| name == door && fits(*trusted)).map(|(_, _, door)| door.clone())
        };
        listener.doors.iter().filter_map(named).collect()
    }
}

/// The doors of a configuration, and the apps behind some of them, which are not in force yet.
fn doors(config: &Config, kept: &Kept) -> anyhow::Result<(OneOfEach, Arc<Apps>)> {
    let gusher = Arc::new(gusher(config, kept)?);
    let before = kept.apps.lock().unwrap_or_else(PoisonError::into_inner);
    let apps = Arc::new(Apps::new(&config.apps, &before));
    let idempotency = kept.idempotency.clone();
    let pusher = PusherDoor { apps: apps.clone(), activity_timeout: config.pusher.activity_timeout, idempotency };
    let push1st = |trusted| Arc::new(ApiDoor { apps: apps.clone(), trusted });
    let doors = OneOfEach(vec![
        (Door::Pusher, None, Arc::new(pusher)),
        (Door::Push1st, Some(true), push1st(true)),
        (Door::Push1st, Some(false), push1st(false)),
        (Door::Push1stSocket, None, Arc::new(SocketDoor(apps.clone()))),
        (Door::GusherClient, None, Arc::new(ClientDoor(gusher.clone()))),
        (Door::GusherMaster, None, Arc::new(MasterDoor(gusher))),
        (Door::Ops, None, Arc::new(OpsDoor)),
    ]);
    Ok((doors, apps))
}

/// What the core must know of the configuration.
fn settings(config: &Config) -> Settings {
    let app = |app: &config::App| AppSettings {
        enabled: app.enabled,
        connections_max: app.connections_max,
        memory_bytes_max: app.memory_bytes_max,
        presence_grace: app.presence_grace,
        presence_members_max: app.presence_members_max,
        presence_member_bytes_max: app.presence_member_bytes_max,
        subscription_count: app.subscription_count,
        authorize_within: app.authorized_connections.then_some(app.authorize_timeout),
        observed: !app.hooks.is_empty(),
        deflates: app.permessage_deflate,
    };
    let apps = config.apps.iter().map(|one| (AppKey::from(&*one.key), app(one))).collect();
    let limits = Limits { memory_bytes_max: Budget::of(&config.limits).bytes, ..config.limits.clone() };
    Settings { limits, apps }
}

fn hook_settings(config: &Config) -> told::Settings {
    let limits = &config.limits;
    told::Settings {
        timeout: limits.hook_timeout,
        retry: limits.hook_retry,
        queue_max: limits.hook_queue_max,
        parked_max: limits.hook_queue_max,
        in_flight_max: limits.hook_in_flight_max,
        lua_memory_bytes_max: limits.lua_memory_bytes_max,
        lua_time: limits.lua_time,
        ..told::Settings::default()
    }
}

/// Who is told of each app.
fn app_hooks(config: &Config) -> Vec<AppHooks> {
    let endpoint = |hook: &Hook| {
        let (url, format) = match (&hook.target, hook.format) {
            (HookTarget::Lua(path), _) => (format!("lua://{}", path.display()), Format::Lua),
            (HookTarget::Http(url), HookFormat::Pusher) => (url.expose().to_owned(), Format::Pusher),
            (HookTarget::Http(url), HookFormat::Push1st) => (url.expose().to_owned(), Format::Push1st),
        };
        let events = match &hook.events[..] {
            [] => Events::all(format),
            // the configuration takes no words but those of the format
            events => Events::read(format, events.iter().map(|event| event.word())).unwrap_or_default(),
        };
        Endpoint { url, format, events, channel_prefix: hook.channel_prefix.clone(), batch: hook.batch }
    };
    let app = |app: &config::App| {
        let secrets = AppSecrets::new(&app.key, app.secret.iter().map(config::Secret::expose));
        AppHooks {
            app: AppKey::from(&*app.key),
            app_id: app.id.clone(),
            sign: Arc::new(move |body| secrets.sign_webhook(body)),
            endpoints: app.hooks.iter().map(endpoint).collect(),
        }
    };
    // those of a disabled app too: they are told that its clients have left
    config.apps.iter().filter(|app| !app.hooks.is_empty()).map(app).collect()
}

fn gusher(config: &Config, kept: &Kept) -> anyhow::Result<Gusher> {
    fn pems(keys: &[PublicKeyPem]) -> Vec<(&[u8], &str)> {
        keys.iter().map(|key| (&*key.pem, &*key.origin)).collect()
    }
    let session = match &config.gusher.session_secret {
        Some(secret) => SessionKey::from_secret(secret.expose().as_bytes(), "gusher.session_secret")?,
        None => kept.session.clone(),
    };
    Ok(Gusher {
        tokens: Tokens::new(
            config.apps.iter().map(|app| (&*app.key, app.enabled.then(|| pems(&app.gusher_public_keys)))),
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

/// To be called in the control plane's runtime, where jobs are done: nothing that waits for others runs on a shard.
fn jobs(config: &Config) -> anyhow::Result<Jobs> {
    let control = tokio::runtime::Handle::current();
    Ok(match &config.gusher.remote {
        None => Jobs::start(Target::None, Duration::from_secs(1), 1, control)?,
        Some(remote) => {
            let target = match &remote.target {
                RemoteTarget::Redis(url) => Target::Redis(url.expose().to_owned()),
                RemoteTarget::Http(url) => Target::Http(url.expose().to_owned()),
            };
            Jobs::start(target, remote.timeout, remote.in_flight_max, control).context("gusher.remote")?
        }
    })
}

/// What a listener is to show, if it is to speak TLS.
fn identity(index: usize, listener: &config::Listener) -> anyhow::Result<Option<(config::Tls, Identity)>> {
    let Some(tls) = listener.tls() else { return Ok(None) };
    let ip = match listener.address {
        Address::Tcp(address) => Some(address.ip()),
        Address::Unix(_) => None,
    };
    let identity = Identity::new(&tls, ip).with_context(|| format!("listen[{index}]"))?;
    Ok(Some((tls, identity)))
}

fn listener(
    index: usize,
    spec: config::Listener,
    address: Address,
    trusted_proxies: Arc<[IpNet]>,
    shards: usize,
) -> anyhow::Result<Listener> {
    let tls = identity(index, &spec)?.map(|(spec, identity)| Tls::new(spec, identity));
    Ok(Listener {
        address,
        tls,
        names: spec.doors.iter().map(|door| door.word().to_owned()).collect(),
        index,
        path_prefix: spec.path_prefix,
        stays_open: spec.doors == [Door::Ops],
        deflates: spec.permessage_deflate,
        trust: Trust { trusted: spec.trusted, allow: spec.allow, token: spec.token, hosts: spec.hosts },
        trusted_proxies,
        seats: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
        visitors: AtomicUsize::new(0),
    })
}
