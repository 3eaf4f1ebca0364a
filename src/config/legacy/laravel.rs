//! The names that Laravel applications have in their environment: `REVERB_*` for Reverb, `PUSHER_APP_*` for Pusher.
//!
//! They are there wherever such an application runs, and are often meant for another server. So they count only if one
//! app stands in them whole, and no other source has apps.

use super::{Vars, ops_listener, resolved};
use crate::config::error::Findings;
use crate::config::keys;
use crate::config::tree::{Node, Origin, Value};
use crate::config::values::Door;

const REVERB_APP: [&str; 3] = ["REVERB_APP_ID", "REVERB_APP_KEY", "REVERB_APP_SECRET"];
const PUSHER_APP: [&str; 3] = ["PUSHER_APP_ID", "PUSHER_APP_KEY", "PUSHER_APP_SECRET"];
const HOST: &str = "REVERB_SERVER_HOST";
const PORT: &str = "REVERB_SERVER_PORT";
const PATH: &str = "REVERB_SERVER_PATH";
const CLIENT_EVENTS: &str = "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM";
const SCALING: &str = "REVERB_SCALING_ENABLED";
const RATE_LIMITING: &str = "REVERB_APP_RATE_LIMITING_ENABLED";

/// How much of something, for the app (`apps.`) or the node, and how many of ours one of theirs is.
const NUMBERS: [(&str, &str, i64); 7] = [
    ("REVERB_MAX_REQUEST_SIZE", "limits.body_bytes_max", 1),
    ("REVERB_MAX_REQUEST_SIZE", "apps.event_bytes_max", 1),
    ("REVERB_APP_MAX_MESSAGE_SIZE", "limits.message_bytes_max", 1),
    ("REVERB_APP_MAX_MESSAGE_SIZE", "apps.client_event_bytes_max", 1),
    ("REVERB_APP_MAX_CONNECTIONS", "apps.connections_max", 1),
    ("REVERB_APP_ACTIVITY_TIMEOUT", "pusher.activity_timeout_ms", 1000),
    ("REVERB_APP_PING_INTERVAL", "limits.ping_interval_ms", 1000),
];

/// The tree that these variables describe, to be laid under everything else. An empty variable counts as not set.
pub(in crate::config) fn variables(vars: &[(String, String)], found: &mut Findings) -> Node {
    let given = Vars(vars);
    if let Some(app) = app(given, REVERB_APP) {
        return reverb(given, app, found);
    }
    let mut tree = Node::empty();
    if let Some(app) = app(given, PUSHER_APP) {
        found.warnings.push(format!("the app is that of {}, since no other is configured", PUSHER_APP.join(", ")));
        tree.overlay(apps(app));
    }
    tree
}

fn app(given: Vars<'_>, names: [&'static str; 3]) -> Option<Vec<(&'static str, Node)>> {
    let part = |(name, key)| Some((key, Node::text(given.get(name)?, Origin::Legacy(String::from(name)))));
    names.into_iter().zip(["id", "key", "secret"]).map(part).collect()
}

fn apps(app: Vec<(&'static str, Node)>) -> Node {
    let at = app[0].1.at.clone(); // it has an id at least
    Node::nested("apps", Node::list(vec![Node::table(app, at.clone())], at))
}

fn reverb(given: Vars<'_>, mut app: Vec<(&'static str, Node)>, found: &mut Findings) -> Node {
    let mut tree = Node::empty();
    for (name, path, factor) in NUMBERS {
        let Some(value) = given.get(name) else { continue };
        let at = Origin::Legacy(name.to_owned());
        let node = match value.parse::<i64>() {
            Ok(count) => Node::new(Value::Integer(count.saturating_mul(factor)), at),
            Err(_) => Node::text(value, at),
        };
        match path.strip_prefix("apps.") {
            Some(key) => app.push((key, node)),
            None => tree.overlay(Node::nested(path, node)),
        }
    }
    // Reverb takes them unless it is told otherwise.
    let takes_client_events = given.get(CLIENT_EVENTS) != Some("none");
    app.push(("client_events", Node::new(Value::Bool(takes_client_events), Origin::Legacy(CLIENT_EVENTS.into()))));
    if [HOST, PORT, PATH].into_iter().any(|name| given.get(name).is_some()) {
        let at = Origin::Legacy(if given.get(PORT).is_some() { PORT } else { HOST }.to_owned());
        let (host, port) = (given.get(HOST).unwrap_or("0.0.0.0"), given.get(PORT).unwrap_or("8080"));
        let address = Node::text(resolved(&format!("{host}:{port}")), at.clone());
        let mut public = keys::listener(address, &[Door::Pusher], false, &at);
        if let Some(path) = given.get(PATH).map(|path| path.trim_matches('/')).filter(|path| !path.is_empty()) {
            let path = Node::text(format!("/{path}"), Origin::Legacy(PATH.into()));
            public.overlay(Node::nested("path_prefix", path));
        }
        let listeners = [public].into_iter().chain(ops_listener()).collect();
        tree.overlay(Node::nested("listen", Node::list(listeners, at)));
    }
    for (name, reason) in [
        (SCALING, "there is one node"),
        (RATE_LIMITING, "an app's limits are `client_events_per_s`, `publishes_per_s` and `reads_per_s`"),
    ] {
        if given.get(name).is_some_and(|value| !matches!(value, "false" | "0")) {
            found.warnings.push(format!("{name} is ignored: {reason}"));
        }
    }
    tree.overlay(apps(app));
    tree
}

/// Every name that is known here.
#[cfg(test)]
pub(in crate::config) fn names() -> impl Iterator<Item = &'static str> {
    let others = [HOST, PORT, PATH, CLIENT_EVENTS, SCALING, RATE_LIMITING];
    let numbers = NUMBERS.map(|(name, ..)| name);
    REVERB_APP.into_iter().chain(PUSHER_APP).chain(others).chain(numbers)
}
