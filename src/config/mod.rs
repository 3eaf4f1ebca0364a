//! Configuration: many sources in, one [`Config`] out, with nothing left to interpret.
//!
//! Each source becomes a tree of values that know where they were written (`tree`, `file`, `env`, `legacy`). The trees
//! are laid over each other, and `keys`, the one list of every key, is walked over the result: once to read it (`read`)
//! and once to print it (`print`). `validate` then looks at what no single value shows. All problems of all sources are
//! reported together.
//!
//! A source counts more than those before it: defaults, the variables of other servers (`REVERB_*` and `PUSHER_APP_*`,
//! `GUSHER_*`, `SOKETI_*`), Push1ST's files, the file, `HYDRANT_*`, `--set`, other flags.

mod env;
mod error;
mod file;
mod keys;
mod legacy;
mod overrides;
mod print;
mod read;
mod reload;
mod tree;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::limits::Limits;

pub use env::{process_env, read_env_file};
pub use error::{ConfigError, ErrorKind};
pub use overrides::Overrides;
pub use print::print_effective;
pub use reload::{Change, Difference, What, difference};
pub use values::{
    Address, Certificate, ChannelKind, Door, FileMode, HookEvent, HookFormat, HookTarget, LogFormat, PrivateKey,
    PublicKeyPem, Secret, SecretUrl,
};

use error::Findings;
use tree::Origin;

/// A valid configuration. The doc of a field is in `docs/configuration.md`, in full.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that own connections, 1 to 64; one per core by default.
    pub shards: usize,
    /// Where the node listens; at least one.
    pub listen: Vec<Listener>,
    /// The tenants.
    pub apps: Vec<App>,
    /// The gusher protocol.
    pub gusher: Gusher,
    /// The Pusher protocol.
    pub pusher: Pusher,
    /// What a node accepts before it says no.
    pub limits: Limits,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How the node ends.
    pub shutdown: Shutdown,
    /// What the node says while it runs.
    pub log: Log,
    /// What to say at start: nothing here keeps the node from working.
    pub warnings: Vec<String>,
}

/// One address, and what is served there.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where.
    pub address: Address,
    /// Permission bits of a unix socket; without meaning on TCP.
    pub unix_mode: FileMode,
    /// What; at least one.
    pub doors: Vec<Door>,
    /// Whether everybody who gets through may do everything. Required by [`Door::needs_trust`].
    pub trusted: bool,
    /// Taken off the front of each path before the doors look: empty, or `/x` without a slash at its end.
    pub path_prefix: String,
    /// Who may connect; empty is everybody.
    pub allow: Vec<IpNet>,
    /// What each request must bring as `Authorization: Bearer …`.
    pub token: Option<Secret>,
    /// The names, besides IP addresses and `localhost`, that a trusted listener goes by in `Host` and `Origin`; `*` is
    /// any.
    pub hosts: Vec<String>,
    /// The certificate of a listener that speaks TLS, with [`Listener::tls_key`].
    pub tls_certificate: Option<Certificate>,
    /// Its key.
    pub tls_key: Option<PrivateKey>,
    /// Whether it speaks TLS with a certificate of its own making.
    pub tls_self_signed: bool,
    /// Whether messages may be deflated here (permessage-deflate, RFC 7692), whatever the app.
    pub permessage_deflate: bool,
}

/// What a listener shows to clients that ask for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// A certificate and its key, each from a file.
    Files {
        /// The certificate.
        certificate: Certificate,
        /// Its key.
        key: PrivateKey,
    },
    /// A certificate that is made at the start.
    SelfSigned,
}

/// A tenant.
#[derive(Clone, Debug)]
pub struct App {
    /// Unique name, of letters, digits, `_`, `.` and `-`.
    pub id: String,
    /// What clients and tokens name it by: unique, of the same characters.
    pub key: String,
    /// What its backends sign with, where a protocol has signatures.
    pub secret: Option<Secret>,
    /// Accepted as [`App::secret`] is, and never signed with: so a secret can be changed without a moment in which
    /// somebody is refused.
    pub previous_secrets: Vec<Secret>,
    /// Who may sign gusher tokens for it; if empty, [`Gusher::public_keys`].
    pub gusher_public_keys: Vec<PublicKeyPem>,
    /// Whether it may be used.
    pub enabled: bool,
    /// `Origin`s of the browsers that may open its Pusher and Push1ST sockets: host names or whole origins, `*` standing
    /// for any run of characters. Empty is any.
    pub origins: Vec<String>,
    /// The kinds of channels that Pusher and Push1ST clients may use.
    pub channels: Vec<ChannelKind>,
    /// Whether Pusher clients may send events to each other (`client-…`).
    pub client_events: bool,
    /// The kinds of channels to which raw Push1ST sockets may push.
    pub socket_push: Vec<ChannelKind>,
    /// Whether Pusher clients are told how many connections are subscribed to their channels.
    pub subscription_count: bool,
    /// Whether signed-in Pusher users are told who of their watchlist is online.
    pub watchlist: bool,
    /// Whether a Pusher connection is closed (4009) unless it signs in or subscribes to a private or presence channel
    /// within [`App::authorize_timeout`].
    pub authorized_connections: bool,
    /// See [`App::authorized_connections`].
    pub authorize_timeout: Duration,
    /// How long a member whose connection was lost is kept before the others are told that it has left.
    pub presence_grace: Duration,
    /// Members of one presence channel. Beyond it: the subscribe is refused.
    pub presence_members_max: usize,
    /// `channel_data` of one member, in bytes. Beyond it: the subscribe is refused.
    pub presence_member_bytes_max: usize,
    /// Live client connections on this node; 0 = no limit but the node's. Beyond it: 4004 for a Pusher client, 503 for
    /// others.
    pub connections_max: usize,
    /// Memory of its connections, caches and rosters on this node, by an estimate; 0 = no limit but the node's. Beyond it:
    /// 4100 for a new Pusher client, 503 for others; who is connected goes on.
    pub memory_bytes_max: usize,
    /// Publishes to this node per second, each event of a batch counted; 0 = no limit. Beyond it: 429.
    pub publishes_per_s: usize,
    /// Queries to this node per second; 0 = no limit. Beyond it: 429.
    pub reads_per_s: usize,
    /// Client events of one connection per second; 0 = no limit. Beyond it: error 4301, and the event is dropped; a raw
    /// Push1ST socket, which has no errors, is closed with 1008.
    pub client_events_per_s: usize,
    /// `data` of one client event, in bytes. Beyond it: an error, and the event is dropped.
    pub client_event_bytes_max: usize,
    /// `data` of one event of a Pusher publish, decoded, in bytes. Beyond it: 413.
    pub event_bytes_max: usize,
    /// Whether messages from and to its clients may be deflated (permessage-deflate, RFC 7692), whatever the listener.
    pub permessage_deflate: bool,
    /// Whether access tokens that Push1ST itself made are accepted.
    pub legacy_push1st_tokens: bool,
    /// Whether Pusher clients and backends may name channels by any characters, as Push1ST lets them.
    pub legacy_channel_names: bool,
    /// Whether a signed presence subscription without a `user_id` is accepted, without making a member.
    pub legacy_presence: bool,
    /// Who is told what happens on its channels.
    pub hooks: Vec<Hook>,
}

/// Somebody who is told what happens on an app's channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where to.
    pub target: HookTarget,
    /// In whose words; [`HookFormat::Push1st`] for a script.
    pub format: HookFormat,
    /// Of what; empty is all that the format has.
    pub events: Vec<HookEvent>,
    /// Channels of which it is told, by the beginning of their names; empty is all.
    pub channel_prefix: Vec<String>,
    /// How long events are gathered for one request; zero sends each on its own.
    pub batch: Duration,
}

/// The Pusher protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pusher {
    /// After how much silence a client is to ask whether the server is still there; it is told whole seconds.
    pub activity_timeout: Duration,
}

/// The gusher protocol.
#[derive(Clone, Debug)]
pub struct Gusher {
    /// Where the client side's paths begin; it begins and ends with `/`.
    pub client_prefix: String,
    /// Where the master's paths begin; it begins and ends with `/`.
    pub master_prefix: String,
    /// Who may sign tokens for apps without keys of their own, and for open apps.
    pub public_keys: Vec<PublicKeyPem>,
    /// Whether every app key that a token names, once one of `public_keys` verified it, is an app.
    pub open_apps: bool,
    /// Signs session tokens; without one, a secret of this boot does.
    pub session_secret: Option<Secret>,
    /// How long a session token is good for.
    pub session_ttl: Duration,
    /// Where `gusher.remote` commands go; `None` refuses them.
    pub remote: Option<Remote>,
    /// Whether `gusher.ping` is answered in the originals' words instead of the documented ones.
    pub legacy_pong: bool,
    /// Whether a push to a user or socket without data is accepted, as by the originals, instead of refused.
    pub legacy_empty_push: bool,
}

/// Where remote commands go.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The receiver.
    pub target: RemoteTarget,
    /// How long a delivery may take.
    pub timeout: Duration,
    /// Deliveries under way at once; beyond it commands are refused.
    pub in_flight_max: usize,
}

impl Remote {
    /// [`Remote::timeout`] unless it is set.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
    /// [`Remote::in_flight_max`] unless it is set.
    pub const IN_FLIGHT_MAX_DEFAULT: usize = 1024;
}

/// Who receives remote commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteTarget {
    /// A Redis server (`redis://`, `rediss://`, `unix://`); jobs are pushed to lists.
    Redis(SecretUrl),
    /// An HTTP endpoint; `{app}` and `{remote}` in its path or query stand for the names.
    Http(SecretUrl),
}

/// How the node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Over how long clients are closed.
    pub grace: Duration,
}

/// What the node says while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `tracing` filter: a level, or `target=level` parts with commas between.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let tcp = |ip: [u8; 4], port: u16| Address::Tcp((ip, port).into());
        Config {
            shards: cores.clamp(1, keys::SHARDS_MAX),
            listen: vec![
                Listener {
                    address: tcp([0, 0, 0, 0], 6001),
                    doors: vec![Door::Pusher, Door::Push1stSocket, Door::GusherClient],
                    ..Listener::blank()
                },
                Listener {
                    address: tcp([127, 0, 0, 1], 6002),
                    doors: vec![Door::Push1st, Door::GusherMaster],
                    trusted: true,
                    ..Listener::blank()
                },
                Listener {
                    address: tcp([127, 0, 0, 1], 9601),
                    doors: vec![Door::Ops],
                    trusted: true,
                    ..Listener::blank()
                },
            ],
            apps: Vec::new(),
            gusher: Gusher {
                client_prefix: "/gcs/".into(),
                master_prefix: "/api/".into(),
                public_keys: Vec::new(),
                open_apps: false,
                session_secret: None,
                session_ttl: Duration::from_secs(60),
                remote: None,
                legacy_pong: false,
                legacy_empty_push: false,
            },
            pusher: Pusher { activity_timeout: Duration::from_secs(120) },
            limits: Limits::default(),
            trusted_proxies: Vec::new(),
            shutdown: Shutdown { grace: Duration::from_secs(5) },
            log: Log { level: "info".into(), format: LogFormat::Text },
            warnings: Vec::new(),
        }
    }
}

impl Listener {
    /// A listener before anything is said about it. Its address is any port, and it has no doors.
    pub fn blank() -> Listener {
        Listener {
            address: Address::Tcp(([0, 0, 0, 0], 0).into()),
            unix_mode: FileMode(0o660),
            doors: Vec::new(),
            trusted: false,
            path_prefix: String::new(),
            allow: Vec::new(),
            token: None,
            hosts: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            tls_self_signed: false,
            permessage_deflate: false,
        }
    }

    /// Its TLS; none if it speaks plainly.
    pub fn tls(&self) -> Option<Tls> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::Files { certificate: certificate.clone(), key: key.clone() }),
            _ => self.tls_self_signed.then_some(Tls::SelfSigned),
        }
    }
}

impl App {
    /// An app before anything is said about it: without names, enabled.
    pub fn blank() -> App {
        App {
            id: String::new(),
            key: String::new(),
            secret: None,
            previous_secrets: Vec::new(),
            gusher_public_keys: Vec::new(),
            enabled: true,
            origins: Vec::new(),
            channels: ChannelKind::ALL.to_vec(),
            client_events: false,
            socket_push: Vec::new(),
            subscription_count: false,
            watchlist: false,
            authorized_connections: false,
            authorize_timeout: Duration::from_secs(30),
            presence_grace: Duration::ZERO,
            presence_members_max: 100,
            presence_member_bytes_max: 1024,
            connections_max: 0,
            memory_bytes_max: 0,
            publishes_per_s: 0,
            reads_per_s: 0,
            client_events_per_s: 10,
            client_event_bytes_max: 10_240,
            event_bytes_max: 10_240,
            permessage_deflate: false,
            legacy_push1st_tokens: false,
            legacy_channel_names: false,
            legacy_presence: false,
            hooks: Vec::new(),
        }
    }
}

impl Hook {
    /// Whether it is to be told of this event on this channel.
    pub fn wants(&self, event: HookEvent, channel: &str) -> bool {
        event.format() == self.format
            && (self.events.is_empty() || self.events.contains(&event))
            && (self.channel_prefix.is_empty() || self.channel_prefix.iter().any(|prefix| channel.starts_with(prefix)))
    }

    /// A hook before anything is said about it: to nowhere, in Pusher's words, of everything, unbatched.
    pub(crate) fn blank() -> Hook {
        Hook {
            target: HookTarget::Http(SecretUrl::new("")),
            format: HookFormat::Pusher,
            events: Vec::new(),
            channel_prefix: Vec::new(),
            batch: Duration::ZERO,
        }
    }
}

/// Everything that a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file: `.toml`, `.yaml` or `.yml`.
    pub file: Option<PathBuf>,
    /// Environment variables; those that begin with `HYDRANT_` count, except `HYDRANT_CONFIG`, `HYDRANT_PUBLISH_SECRET` and
    /// `HYDRANT_PUBLISH_TOKEN`.
    pub env: Vec<(String, String)>,
    /// Environment variables; those count that other servers have: `GUSHER_*`, `SOKETI_*`, `REVERB_*`, `PUSHER_APP_*`.
    pub legacy_env: Vec<(String, String)>,
    /// Push1ST's `server.yml`; it names the files of its apps.
    pub push1st: Option<PathBuf>,
    /// `--set` flags, each `key=value`.
    pub set: Vec<String>,
    /// Flags with a name of their own.
    pub overrides: Overrides,
}

/// A configuration, and where each of its values comes from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every file that it was made from or that it names, and the directories in which files were looked for.
    pub files: Vec<PathBuf>,
    /// Origins of what is not a default, by dotted path.
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where the value of a dotted path comes from, as in `hydrant.toml:12`, `--set` or `default`.
    pub fn origin(&self, path: &str) -> String {
        self.origins.get(path).unwrap_or(&Origin::Default).to_string()
    }
}

/// Runs the parsers of configuration files over `text`: as TOML, as YAML, as a file of variables. For fuzz targets.
pub fn fuzz(text: &str) {
    let source = Arc::new(tree::SourceText { name: "fuzz".into(), text: text.to_owned() });
    let mut found = Findings::default();
    let _ = file::toml(&source, &mut found);
    let _ = file::yaml(&source, &mut found);
    let _ = env::env_file(&source, &mut found);
    drop(found.into_error().map(|error| error.to_string()));
}

/// Makes a configuration from its sources. Reads the files that they name; opens nothing else.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut found = Findings::default();
    let known = keys::settable();
    let mut tree = legacy::gusher::variables(&sources.legacy_env, &mut found);
    tree.overlay(legacy::soketi::variables(&sources.legacy_env, &mut found));
    let mut is_readable = true;
    if let Some(path) = &sources.push1st {
        match legacy::push1st::load(path, &mut found) {
            Some(import) => tree.overlay(import),
            None => is_readable = false,
        }
    }
    if let Some(path) = &sources.file {
        match file::load(path, &mut found) {
            Some(file) => tree.overlay(file),
            None => is_readable = false,
        }
    }
    tree.overlay(env::variables(&sources.env, &known, &mut found));
    tree.overlay(env::set_flags(&sources.set, &known, &mut found));
    tree.overlay(sources.overrides.to_tree(&tree, &mut found));
    if is_readable && !tree.has("apps") {
        let above = std::mem::replace(&mut tree, legacy::laravel::variables(&sources.legacy_env, &mut found));
        tree.overlay(above);
    }
    let mut config = Config::default();
    // What stands in an unreadable file is missing in the tree: to look on would find fault with what is not wrong.
    if is_readable {
        read::config(tree, &mut config, &mut found);
        validate::config(&config, &mut found);
        legacy::warn_of_open_listeners(&config, &mut found);
    }
    config.warnings = std::mem::take(&mut found.warnings);
    let origins = std::mem::take(&mut found.origins);
    let mut files = reload::Values::of(&config).files;
    files.extend(sources.file.clone().into_iter().chain(std::mem::take(&mut found.files)));
    files.sort();
    files.dedup();
    found.into_error().map_or(Ok(Loaded { config, files, origins }), Err)
}
