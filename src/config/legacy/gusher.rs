//! gusher.cluster's `GUSHER_*` environment (v1 and v3). Its master and slave become two listeners of one node.

use super::{Vars, everybody, ops_listener, resolved, texts};
use crate::config::env::is_service_link;
use crate::config::error::{Findings, nearest};
use crate::config::keys;
use crate::config::tree::{Node, Origin, Value};
use crate::config::values::{Address, Door};

const CLIENT_LISTEN: &str = "GUSHER_API_LISTEN";
const CLIENT_PREFIX: &str = "GUSHER_API_URI_PREFIX";
const MASTER_LISTEN: &str = "GUSHER_MASTER_API_LISTEN";
const MASTER_PREFIX: &str = "GUSHER_MASTER_URI_PREFIX";
const PUBLIC_KEY: &str = "GUSHER_PUBLIC_PEM_FILE";
const MESSAGE_BYTES_MAX: &str = "GUSHER_RECEIVE_MAX_MESSAGE_SIZE";
const JOB_REDIS: &str = "GUSHER_JOB_REDIS_ADDR";
const JOB_REDIS_DB: &str = "GUSHER_JOB_REDIS_DBNO";
const LOG_FORMAT: &str = "GUSHER_LOG_FORMAT";
const LOG_OUTPUT: &str = "GUSHER_LOG_OUTPUT";

/// What has a meaning here.
const MEANT: [&str; 10] = [
    CLIENT_LISTEN,
    CLIENT_PREFIX,
    MASTER_LISTEN,
    MASTER_PREFIX,
    PUBLIC_KEY,
    MESSAGE_BYTES_MAX,
    JOB_REDIS,
    JOB_REDIS_DB,
    LOG_FORMAT,
    LOG_OUTPUT,
];

/// What has none, and why.
const MEANINGLESS: [(&str, &str); 19] = [
    ("GUSHER_REDIS_ADDR", NO_BUS),
    ("GUSHER_REDIS_DBNO", NO_BUS),
    ("GUSHER_REDIS_MAX_IDLE", NO_BUS),
    ("GUSHER_REDIS_MAX_CONN", NO_BUS),
    ("GUSHER_NATS_ADDR", NO_BUS),
    ("GUSHER_NATS_CREDS", NO_BUS),
    ("GUSHER_JOB_REDIS_MAX_IDLE", NO_POOL),
    ("GUSHER_JOB_REDIS_MAX_CONN", NO_POOL),
    ("GUSHER_DECODE_SERVICE", "tokens are verified in this process, by gusher.public_keys"),
    ("GUSHER_WRITE_BUFFER", NO_BUFFERS),
    ("GUSHER_READ_BUFFER", NO_BUFFERS),
    ("GUSHER_SCAN_INTERVAL", "who is online is known at every moment, without scanning"),
    ("GUSHER_LOG_SYS_INTERVAL", "system figures are metrics, on the ops listener"),
    ("GUSHER_LOG_FORMATTER", "use GUSHER_LOG_FORMAT, text or json"),
    ("GUSHER_LOG_FILE", NO_LOG_FILE),
    ("GUSHER_LOG_MAX_SIZE_MB", NO_LOG_FILE),
    ("GUSHER_LOG_MAX_BACKUPS", NO_LOG_FILE),
    ("GUSHER_LOG_MAX_AGE_DAYS", NO_LOG_FILE),
    ("GUSHER_LOG_COMPRESS", NO_LOG_FILE),
];

const NO_BUS: &str = "master and slave are one process, and need nothing between them";
const NO_POOL: &str = "one connection carries all jobs; gusher.remote.in_flight_max bounds them";
const NO_BUFFERS: &str = "a connection has no buffers of its own; limits.outbox_bytes_max bounds what waits for it";
const NO_LOG_FILE: &str = "the log is written to the process's output; whoever runs the process keeps and rotates it";

/// The tree that the `GUSHER_*` variables among `vars` describe. An empty variable counts as not set.
pub(in crate::config) fn variables(vars: &[(String, String)], found: &mut Findings) -> Node {
    let mut tree = Node::empty();
    let value = |name: &str| Vars(vars).get(name);
    let at = |name: &str| Origin::Legacy(name.to_owned());
    let mut set = |path: &str, node: Node| tree.overlay(Node::nested(path, node));

    let listen = (value(CLIENT_LISTEN), value(MASTER_LISTEN));
    if let (Some(client), Some(master)) = listen {
        set("listen", listeners(client, master));
    } else if listen != (None, None) {
        let (there, missing) = match listen.0 {
            Some(_) => (CLIENT_LISTEN, MASTER_LISTEN),
            None => (MASTER_LISTEN, CLIENT_LISTEN),
        };
        let message = format!("{missing} is not set. One process is both master and slave here: set both");
        found.problem_at(at(there), "", message);
    }
    for (name, path) in [(CLIENT_PREFIX, "gusher.client_prefix"), (MASTER_PREFIX, "gusher.master_prefix")] {
        if let Some(prefix) = value(name) {
            let bare = prefix.trim_matches('/');
            let prefix = if bare.is_empty() { "/".to_owned() } else { format!("/{bare}/") };
            set(path, Node::text(prefix, at(name)));
        }
    }
    if let Some(path) = value(PUBLIC_KEY) {
        let key = Node::text(path, at(PUBLIC_KEY));
        set("gusher.public_keys", Node::list(vec![key], at(PUBLIC_KEY)));
        set("gusher.open_apps", Node::new(Value::Bool(true), at(PUBLIC_KEY)));
    }
    if let Some(bytes) = value(MESSAGE_BYTES_MAX) {
        set("limits.command_bytes_max", whole_number(bytes, at(MESSAGE_BYTES_MAX)));
    }
    match (value(JOB_REDIS), value(JOB_REDIS_DB)) {
        (Some(address), db) => match db.unwrap_or("0").parse() {
            Ok(db) => set("gusher.remote.redis", Node::text(redis_url(address, db), at(JOB_REDIS))),
            Err(_) => found.problem_at(at(JOB_REDIS_DB), "", "expected the number of a database"),
        },
        (None, Some(_)) => found.warnings.push(format!("{JOB_REDIS_DB} is ignored: {JOB_REDIS} is not set")),
        (None, None) => {}
    }
    match value(LOG_FORMAT).map(str::to_ascii_lowercase) {
        Some(format) if matches!(format.as_str(), "json" | "text") => {
            set("log.format", Node::text(format, at(LOG_FORMAT)));
        }
        Some(_) => found.warnings.push(format!("{LOG_FORMAT} is ignored: it is neither json nor text")),
        None => {}
    }
    if value(LOG_OUTPUT).is_some_and(|output| output != "stdout") {
        found.warnings.push(format!("{LOG_OUTPUT} is ignored: {NO_LOG_FILE}"));
    }
    for (name, value) in vars {
        warn_of_meaningless(name, value, found);
    }
    tree
}

fn warn_of_meaningless(name: &str, value: &str, found: &mut Findings) {
    let Some(rest) = name.strip_prefix("GUSHER_") else { return };
    if value.is_empty() || MEANT.contains(&name) || is_service_link(rest, value) {
        return;
    }
    let reason = match MEANINGLESS.iter().find(|(meaningless, _)| *meaningless == name) {
        Some((_, reason)) => (*reason).to_owned(),
        None => match nearest(name, names()) {
            Some(near) => format!("there is no such setting; did you mean {near}?"),
            None => "there is no such setting".into(),
        },
    };
    found.warnings.push(format!("{name} is ignored: {reason}"));
}

/// The slave's and the master's listener, and the one for operations.
fn listeners(client: &str, master: &str) -> Node {
    let listener = |name: &str, address: &str, door: Door| {
        let at = Origin::Legacy(name.to_owned());
        keys::listener(Node::text(address, at.clone()), &[door], door.needs_trust(), &at)
    };
    let (client, master) = (resolved(client), resolved(master));
    let mut trusted = listener(MASTER_LISTEN, &master, Door::GusherMaster);
    // Backends call the master by whatever name they know it.
    trusted.overlay(Node::nested("hosts", texts(&["*"], &Origin::Legacy(MASTER_LISTEN.to_owned()))));
    if Address::parse(&master).is_ok_and(|address| !address.is_local()) {
        trusted.overlay(Node::nested("allow", everybody(MASTER_LISTEN)));
    }
    let listeners = [listener(CLIENT_LISTEN, &client, Door::GusherClient), trusted];
    Node::list(listeners.into_iter().chain(ops_listener()).collect(), Origin::Legacy(CLIENT_LISTEN.to_owned()))
}

/// Every name that is known here.
pub(in crate::config) fn names() -> impl Iterator<Item = &'static str> {
    MEANT.into_iter().chain(MEANINGLESS.map(|(name, _)| name))
}

/// A whole number, or the text for the error to show.
fn whole_number(text: &str, at: Origin) -> Node {
    match text.parse() {
        Ok(number) => Node::new(Value::Integer(number), at),
        Err(_) => Node::text(text, at),
    }
}

/// `HOST:PORT` and a database number as a URL. Host and port may be missing, as the originals allow.
fn redis_url(address: &str, db: u32) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    format!("redis://{host}:{port}/{db}")
}
