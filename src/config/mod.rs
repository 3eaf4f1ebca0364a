//! Configuration: many sources in, one [`Config`] out, with nothing left to interpret.
//!
//! Each source becomes a tree of values that know where they were written (`tree`, `file`, `env`, `legacy`). The trees
//! are laid over each other, and `keys`, the one list of every key, is walked over the result: once to read it (`read`)
//! and once to print it (`print`). `validate` then looks at what no single value shows. All problems of all sources are
//! reported together.
//!
//! A source counts more than those before it: defaults, `GUSHER_*`, the file, `HYDRANT_*`, `--set`, other flags.

mod env;
mod error;
mod file;
mod keys;
mod legacy;
mod overrides;
mod print;
mod read;
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
pub use values::{Address, Door, FileMode, LogFormat, PublicKeyPem, Secret, SecretUrl};

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
    /// Who may sign gusher tokens for it; if empty, [`Gusher::public_keys`].
    pub gusher_public_keys: Vec<PublicKeyPem>,
    /// Whether it may be used.
    pub enabled: bool,
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
                Listener { address: tcp([0, 0, 0, 0], 6001), doors: vec![Door::GusherClient], ..Listener::blank() },
                Listener {
                    address: tcp([127, 0, 0, 1], 6002),
                    doors: vec![Door::GusherMaster],
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
        }
    }
}

impl App {
    /// An app before anything is said about it: without names, enabled.
    pub fn blank() -> App {
        App { id: String::new(), key: String::new(), secret: None, gusher_public_keys: Vec::new(), enabled: true }
    }
}

/// Everything that a configuration is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file: `.toml`, `.yaml` or `.yml`.
    pub file: Option<PathBuf>,
    /// Environment variables; those that begin with `HYDRANT_` count, except `HYDRANT_CONFIG` and
    /// `HYDRANT_PUBLISH_TOKEN`.
    pub env: Vec<(String, String)>,
    /// Environment variables; those that begin with `GUSHER_` count.
    pub legacy_env: Vec<(String, String)>,
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
    let mut is_readable = true;
    if let Some(path) = &sources.file {
        match file::load(path, &mut found) {
            Some(file) => tree.overlay(file),
            None => is_readable = false,
        }
    }
    tree.overlay(env::variables(&sources.env, &known, &mut found));
    tree.overlay(env::set_flags(&sources.set, &known, &mut found));
    tree.overlay(sources.overrides.to_tree(&tree, &mut found));
    let mut config = Config::default();
    // What stands in an unreadable file is missing in the tree: to look on would find fault with what is not wrong.
    if is_readable {
        read::config(tree, &mut config, &mut found);
        validate::config(&config, &mut found);
        legacy::gusher::warn_of_open_master(&config, &mut found);
    }
    config.warnings = std::mem::take(&mut found.warnings);
    let origins = std::mem::take(&mut found.origins);
    found.into_error().map_or(Ok(Loaded { config, origins }), Err)
}
