//! soketi's `SOKETI_*` environment. Its port becomes a listener with the door `pusher`, its default app an app.

use serde::Deserialize;

use super::{Vars, ops_listener, resolved};
use crate::config::env::is_service_link;
use crate::config::error::{Findings, nearest};
use crate::config::keys;
use crate::config::tree::{Node, Origin, Value};
use crate::config::values::{Door, HookEvent, HookFormat};

const PREFIX: &str = "SOKETI_";
const APP_ID: &str = "SOKETI_DEFAULT_APP_ID";
const APP_KEY: &str = "SOKETI_DEFAULT_APP_KEY";
const APP_SECRET: &str = "SOKETI_DEFAULT_APP_SECRET";
const APP_WEBHOOKS: &str = "SOKETI_DEFAULT_APP_WEBHOOKS";
const BATCHING: &str = "SOKETI_WEBHOOKS_BATCHING";
const BATCHING_MS: &str = "SOKETI_WEBHOOKS_BATCHING_DURATION";
const DEBUG: &str = "SOKETI_DEBUG";
const HOST: &str = "SOKETI_HOST";
const PORT: &str = "SOKETI_PORT";
const PATH_PREFIX: &str = "SOKETI_PATH_PREFIX";
const SSL_CERT: &str = "SOKETI_SSL_CERT";
const SSL_KEY: &str = "SOKETI_SSL_KEY";
const METRICS: &str = "SOKETI_METRICS_ENABLED";
const METRICS_HOST: &str = "SOKETI_METRICS_HOST";
const METRICS_PORT: &str = "SOKETI_METRICS_SERVER_PORT";

/// What has a meaning of its own here.
const MEANT: [&str; 15] = [
    APP_ID,
    APP_KEY,
    APP_SECRET,
    APP_WEBHOOKS,
    BATCHING,
    BATCHING_MS,
    DEBUG,
    HOST,
    PORT,
    PATH_PREFIX,
    SSL_CERT,
    SSL_KEY,
    METRICS,
    METRICS_HOST,
    METRICS_PORT,
];

/// Whether something is so: the keys of the app.
const APP_SWITCHES: [(&str, &str); 3] = [
    ("SOKETI_DEFAULT_APP_ENABLED", "enabled"),
    ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "client_events"),
    ("SOKETI_DEFAULT_APP_USER_AUTHENTICATION", "authorized_connections"),
];

/// How much of something: the keys of the app.
const APP_NUMBERS: [(&str, &str, Unit); 9] = [
    ("SOKETI_DEFAULT_APP_MAX_CONNS", "connections_max", Unit::OrNone),
    ("SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC", "publishes_per_s", Unit::OrNone),
    ("SOKETI_DEFAULT_APP_MAX_READ_REQ_PER_SEC", "reads_per_s", Unit::OrNone),
    ("SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC", "client_events_per_s", Unit::OrNone),
    ("SOKETI_USER_AUTHENTICATION_TIMEOUT", "authorize_timeout_ms", Unit::Times(1.0)),
    ("SOKETI_PRESENCE_MAX_MEMBERS", "presence_members_max", Unit::Times(1.0)),
    ("SOKETI_PRESENCE_MAX_MEMBER_SIZE", "presence_member_bytes_max", Unit::Times(1024.0)),
    ("SOKETI_EVENT_MAX_SIZE_IN_KB", "event_bytes_max", Unit::Times(1024.0)),
    ("SOKETI_EVENT_MAX_SIZE_IN_KB", "client_event_bytes_max", Unit::Times(1024.0)),
];

/// How much of something: the keys of the node.
const NODE_NUMBERS: [(&str, &str, Unit); 7] = [
    ("SOKETI_EVENT_MAX_BATCH_SIZE", "limits.pusher_batch_events_max", Unit::Times(1.0)),
    ("SOKETI_EVENT_MAX_CHANNELS_AT_ONCE", "limits.event_channels_max", Unit::Times(1.0)),
    ("SOKETI_EVENT_MAX_NAME_LENGTH", "limits.event_name_bytes_max", Unit::Times(1.0)),
    ("SOKETI_CHANNEL_LIMITS_MAX_NAME_LENGTH", "limits.channel_name_bytes_max", Unit::Times(1.0)),
    ("SOKETI_CHANNEL_CACHE_TTL", "limits.cache_ttl_ms", Unit::Times(1000.0)),
    ("SOKETI_HTTP_MAX_REQUEST_SIZE", "limits.body_bytes_max", Unit::Times(1_048_576.0)),
    ("SOKETI_SHUTDOWN_GRACE_PERIOD", "shutdown.grace_ms", Unit::Times(1.0)),
];

/// What has no meaning here, by the beginning of its name, and why.
const MEANINGLESS: [(&str, &str); 13] = [
    ("SOKETI_ADAPTER_", NO_CLUSTER),
    ("SOKETI_APP_MANAGER_", "apps are kept in the configuration, under [[apps]]"),
    ("SOKETI_CACHE_", "what is cached is in this process; limits.cache_bytes_max bounds it"),
    ("SOKETI_CLUSTER_", NO_CLUSTER),
    ("SOKETI_DB_", "there is no database"),
    ("SOKETI_HTTP_ACCEPT_TRAFFIC_", "memory is bounded by limits.outbox_total_bytes_max and its like"),
    ("SOKETI_METRICS_DRIVER", "metrics are Prometheus's"),
    ("SOKETI_METRICS_PROMETHEUS_PREFIX", "the names of metrics begin with hydrant_"),
    ("SOKETI_MODE", "there is one kind of process"),
    ("SOKETI_NODE_", NO_CLUSTER),
    ("SOKETI_QUEUE_", "webhooks wait in this process; limits.hook_queue_max bounds them"),
    ("SOKETI_RATE_LIMITER_", "rates are counted in this process"),
    ("SOKETI_SSL_", "keys are not encrypted here, and nobody is asked for a client certificate"),
];

const NO_CLUSTER: &str = "there is one node, which needs nothing between its parts";

/// How a number becomes one of this server's.
#[derive(Clone, Copy)]
enum Unit {
    /// So many of the smaller unit; fractions are allowed.
    Times(f64),
    /// A count in which -1, here 0, is no limit.
    OrNone,
}

/// The tree that the `SOKETI_*` variables among `vars` describe. An empty variable counts as not set.
pub(in crate::config) fn variables(vars: &[(String, String)], found: &mut Findings) -> Node {
    let mut tree = Node::empty();
    let given = Vars(vars);
    for (name, path, unit) in NODE_NUMBERS {
        if let Some(value) = given.get(name) {
            tree.overlay(Node::nested(path, number(name, value, unit, found)));
        }
    }
    if given.get(DEBUG).is_some_and(|value| switch(DEBUG, value, found)) {
        tree.overlay(Node::nested("log.level", Node::text("debug", Origin::Legacy(DEBUG.into()))));
    }
    let app = app(given, found);
    let is_listening =
        [HOST, PORT, PATH_PREFIX, SSL_CERT, SSL_KEY, METRICS_PORT].into_iter().any(|name| given.get(name).is_some());
    if app.is_some() || is_listening {
        tree.overlay(Node::nested("listen", listeners(given, found)));
    }
    if let Some(app) = app {
        let at = app.at.clone();
        tree.overlay(Node::nested("apps", Node::list(vec![app], at)));
    }
    for (name, value) in vars {
        warn_of_meaningless(name, value, found);
    }
    tree
}

/// The default app. Its id and key may be those that soketi has by default, its secret may not: everybody knows it.
fn app(given: Vars<'_>, found: &mut Findings) -> Option<Node> {
    let at = |name: &str| Origin::Legacy(name.to_owned());
    let Some(secret) = given.get(APP_SECRET) else {
        let of_an_app = APP_SWITCHES.iter().map(|(name, _)| *name).chain([APP_ID, APP_KEY, APP_WEBHOOKS]);
        let of_an_app = of_an_app.chain(APP_NUMBERS.iter().map(|(name, ..)| *name));
        let mut ignored: Vec<&str> = of_an_app.filter(|name| given.get(name).is_some()).collect();
        ignored.dedup();
        if !ignored.is_empty() {
            let names = ignored.join(", ");
            found.warnings.push(format!("{APP_SECRET} is not set, so there is no such app, and {names} say nothing"));
        }
        return None;
    };
    let name = |variable: &str, default| Node::text(given.get(variable).unwrap_or(default), at(variable));
    let mut app = vec![("id", name(APP_ID, "app-id")), ("key", name(APP_KEY, "app-key"))];
    app.push(("secret", Node::text(secret, at(APP_SECRET))));
    for (name, key) in APP_SWITCHES {
        if let Some(value) = given.get(name) {
            app.push((key, Node::new(Value::Bool(switch(name, value, found)), at(name))));
        }
    }
    for (name, key, unit) in APP_NUMBERS {
        if let Some(value) = given.get(name) {
            app.push((key, number(name, value, unit, found)));
        }
    }
    if let Some(hooks) = given.get(APP_WEBHOOKS).and_then(|text| hooks(text, given, found)) {
        app.push(("hooks", hooks));
    }
    Some(Node::table(app, at(APP_SECRET)))
}

/// One of soketi's webhooks. What is not named here makes no difference.
#[derive(Deserialize)]
struct Webhook {
    #[serde(default)]
    url: String,
    #[serde(default)]
    event_types: Vec<String>,
    #[serde(default)]
    filters: Filters,
    #[serde(default)]
    headers: serde_json::Map<String, serde_json::Value>,
}

#[derive(Default, Deserialize)]
struct Filters {
    channel_name_starts_with: Option<String>,
    channel_name_ends_with: Option<String>,
}

fn hooks(text: &str, given: Vars<'_>, found: &mut Findings) -> Option<Node> {
    /// soketi's default.
    const BATCHING_MS_DEFAULT: &str = "50";
    let at = Origin::Legacy(APP_WEBHOOKS.into());
    let Ok(webhooks) = serde_json::from_str::<Vec<Webhook>>(text) else {
        let message = "expected JSON, as in [{\"url\": \"https://…\", \"event_types\": [\"channel_occupied\"]}]";
        found.problem_at(at, "", message);
        return None;
    };
    let is_batching = given.get(BATCHING).is_some_and(|value| switch(BATCHING, value, found));
    let mut hooks = Vec::new();
    for (index, webhook) in webhooks.into_iter().enumerate() {
        let mut warn = |what: &str| found.warnings.push(format!("{APP_WEBHOOKS}: webhook {} {what}", index + 1));
        if webhook.url.is_empty() {
            warn("is ignored: it has no url");
            continue;
        }
        if webhook.filters.channel_name_ends_with.is_some() {
            warn("is told of more channels: there is no filter by the end of a name");
        }
        if !webhook.headers.is_empty() {
            warn("is sent without its own headers");
        }
        let is_event = |word: &str| {
            HookEvent::ALL.iter().any(|event| event.word() == word && event.format() == HookFormat::Pusher)
        };
        let (events, unknown): (Vec<_>, Vec<_>) = webhook.event_types.iter().partition(|word| is_event(word));
        if !unknown.is_empty() {
            warn("names events that there are not");
        }
        if events.is_empty() {
            continue; // no events is none to soketi, and all here
        }
        let texts = |texts: Vec<&String>| {
            Node::list(texts.into_iter().map(|text| Node::text(text, at.clone())).collect(), at.clone())
        };
        let mut hook = vec![("url", Node::text(webhook.url, at.clone())), ("events", texts(events))];
        if let Some(start) = &webhook.filters.channel_name_starts_with {
            hook.push(("channel_prefix", texts(vec![start])));
        }
        if is_batching {
            let duration = given.get(BATCHING_MS).unwrap_or(BATCHING_MS_DEFAULT);
            hook.push(("batch_ms", number(BATCHING_MS, duration, Unit::Times(1.0), found)));
        }
        hooks.push(Node::table(hook, at.clone()));
    }
    Some(Node::list(hooks, at))
}

/// soketi's two ports.
fn listeners(given: Vars<'_>, found: &mut Findings) -> Node {
    const METRICS_PORT_DEFAULT: &str = "9601";
    let origin = |names: &[&str]| {
        let name = names.iter().find(|name| given.get(name).is_some()).unwrap_or(&APP_SECRET);
        Origin::Legacy((*name).to_owned())
    };
    let at = origin(&[PORT, HOST]);
    let host = given.get(HOST).unwrap_or("0.0.0.0");
    let host = if host.contains(':') { format!("[{}]", host.trim_matches(['[', ']'])) } else { host.to_owned() };
    let address = resolved(&format!("{host}:{}", given.get(PORT).unwrap_or("6001")));
    let mut public = keys::listener(Node::text(address, at.clone()), &[Door::Pusher], false, &at);
    if let Some(prefix) = given.get(PATH_PREFIX).map(|prefix| prefix.trim_matches('/')).filter(|p| !p.is_empty()) {
        let prefix = Node::text(format!("/{prefix}"), Origin::Legacy(PATH_PREFIX.into()));
        public.overlay(Node::nested("path_prefix", prefix));
    }
    for (name, key) in [(SSL_CERT, "tls_certificate"), (SSL_KEY, "tls_key")] {
        if let Some(file) = given.get(name) {
            public.overlay(Node::nested(key, Node::text(file, Origin::Legacy(name.into()))));
        }
    }
    let mut ops = ops_listener();
    if let (Some(ops), Some(port)) = (&mut ops, given.get(METRICS_PORT)) {
        let address = Node::text(format!("127.0.0.1:{port}"), Origin::Legacy(METRICS_PORT.into()));
        ops.overlay(Node::nested("address", address));
    }
    if given.get(METRICS).is_some_and(|value| switch(METRICS, value, found)) {
        let port = given.get(METRICS_PORT).unwrap_or(METRICS_PORT_DEFAULT);
        found.warnings.push(format!(
            "{METRICS}: metrics are on 127.0.0.1:{port}, which other machines do not reach; a [[listen]] with the door \
             `ops`, and `allow` or `token`, opens them"
        ));
    }
    Node::list([public].into_iter().chain(ops).collect(), at)
}

fn number(name: &str, value: &str, unit: Unit, found: &mut Findings) -> Node {
    let at = Origin::Legacy(name.to_owned());
    let whole = match (value.parse::<f64>(), unit) {
        (Ok(-1.0), Unit::OrNone) => 0.0,
        (Ok(0.0), Unit::OrNone) => {
            found.problem_at(
                at.clone(),
                "",
                "0 would refuse everything, and is no limit here: -1 is no limit to soketi",
            );
            0.0
        }
        (Ok(count), Unit::OrNone) => count,
        (Ok(count), Unit::Times(factor)) => (count * factor).round(),
        (Err(_), _) => f64::NAN,
    };
    // What is no number stays for the error to show.
    let is_count = whole.fract() == 0.0 && (0.0..1e15).contains(&whole);
    if is_count { Node::new(Value::Integer(whole as i64), at) } else { Node::text(value, at) }
}

fn switch(name: &str, value: &str, found: &mut Findings) -> bool {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => true,
        "0" | "false" | "no" | "off" | "null" => false,
        _ => {
            found.problem_at(Origin::Legacy(name.to_owned()), "", "expected true or false");
            false
        }
    }
}

fn warn_of_meaningless(name: &str, value: &str, found: &mut Findings) {
    let Some(rest) = name.strip_prefix(PREFIX) else { return };
    let of_numbers = || APP_NUMBERS.iter().chain(&NODE_NUMBERS).map(|(name, ..)| *name);
    let meant = || MEANT.into_iter().chain(APP_SWITCHES.map(|(name, _)| name)).chain(of_numbers());
    // soketi's way to say that there is no cluster
    let is_default = value == "local" || value == "sync" || value == "array" || value == "memory";
    if value.is_empty() || is_default || meant().any(|meant| meant == name) || is_service_link(rest, value) {
        return;
    }
    let reason = match MEANINGLESS.iter().find(|(start, _)| name.starts_with(start)) {
        Some((_, reason)) => (*reason).to_owned(),
        None => match nearest(name, meant()) {
            Some(near) => format!("there is no such setting; did you mean {near}?"),
            None => "there is no such setting".into(),
        },
    };
    found.warnings.push(format!("{name} is ignored: {reason}"));
}

/// Every name that is known here; of what has no meaning, the beginnings with a `*` behind.
#[cfg(test)]
pub(in crate::config) fn names() -> impl Iterator<Item = String> {
    let numbers = APP_NUMBERS.into_iter().chain(NODE_NUMBERS).map(|(name, ..)| name);
    let meant = MEANT.into_iter().chain(APP_SWITCHES.map(|(name, _)| name)).chain(numbers).map(str::to_owned);
    let start = |start: &str| if start.ends_with('_') { format!("{start}*") } else { start.to_owned() };
    meant.chain(MEANINGLESS.map(|(name, _)| start(name)))
}
