//! The one list of every key. It is walked to read a configuration, to print it, and to know which keys there are.

use std::ops::RangeInclusive;

use super::tree::{Node, Origin, Value};
use super::values::{Address, Door, HookFormat, HookTarget, Number, Secret, SecretFile, SecretUrl, Setting};
use super::{App, Config, Gusher, Hook, Listener, Remote, RemoteTarget};
use crate::limits::Limits;

/// More threads than this only wait for each other.
pub(super) const SHARDS_MAX: usize = 64;
/// Far above every sensible count, far below where sums overflow.
const COUNT_MAX: u64 = 1 << 40;
/// A year, in milliseconds: far above every sensible time, far below where clocks overflow.
const TIME_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// A count or size that must be something.
const COUNT: RangeInclusive<u64> = 1..=COUNT_MAX;
/// A count for which 0 is "no limit".
const COUNT_OR_NONE: RangeInclusive<u64> = 0..=COUNT_MAX;
/// A time that must be something.
const TIME_MS: RangeInclusive<u64> = 1..=TIME_MS_MAX;
/// A time that may be nothing.
const TIME_MS_OR_NONE: RangeInclusive<u64> = 0..=TIME_MS_MAX;

/// What Pusher clients are told is in whole seconds, and a zero would be no handshake to them.
const ACTIVITY_TIMEOUT_MS: RangeInclusive<u64> = 1000..=TIME_MS_MAX;

/// What is done with each key. The values hold the defaults at first; reading replaces them.
pub(super) trait Walk {
    /// A section.
    fn table(&mut self, name: &'static str, body: impl FnOnce(&mut Self));
    /// A section that is there only if something in it is, which `present` says.
    fn optional_table(&mut self, name: &'static str, present: bool, body: impl FnOnce(&mut Self));
    /// A list of tables, each of which starts as `blank`.
    fn list<T>(
        &mut self,
        name: &'static str,
        items: &mut Vec<T>,
        blank: impl Fn() -> T,
        body: impl Fn(&mut Self, &mut T),
    );
    /// A key with a default.
    fn key<T: Setting>(&mut self, name: &'static str, value: &mut T);
    /// A key that each table of a list must have.
    fn required<T: Setting>(&mut self, name: &'static str, value: &mut T);
    /// A key with a default whose count must lie in a range.
    fn number<T: Number>(&mut self, name: &'static str, range: RangeInclusive<u64>, value: &mut T);
    /// Two keys that exclude each other. Of two sources that give one each, the one that counts more wins.
    fn either<A: Setting, B: Setting>(
        &mut self,
        one: (&'static str, &mut Option<A>),
        other: (&'static str, &mut Option<B>),
    );
}

/// All keys.
pub(super) fn config(w: &mut impl Walk, config: &mut Config) {
    w.table("node", |w| w.number("shards", 1..=SHARDS_MAX as u64, &mut config.shards));
    w.list("listen", &mut config.listen, Listener::blank, listen);
    w.list("apps", &mut config.apps, App::blank, app);
    w.table("gusher", |w| gusher(w, &mut config.gusher));
    w.table("pusher", |w| w.number("activity_timeout_ms", ACTIVITY_TIMEOUT_MS, &mut config.pusher.activity_timeout));
    w.table("limits", |w| limits(w, &mut config.limits));
    w.table("proxy", |w| w.key("trusted", &mut config.trusted_proxies));
    w.table("shutdown", |w| w.number("grace_ms", TIME_MS_OR_NONE, &mut config.shutdown.grace));
    w.table("log", |w| {
        w.key("level", &mut config.log.level);
        w.key("format", &mut config.log.format);
    });
}

fn listen(w: &mut impl Walk, listener: &mut Listener) {
    w.required("address", &mut listener.address);
    w.required("doors", &mut listener.doors);
    w.key("trusted", &mut listener.trusted);
    w.key("allow", &mut listener.allow);
    secret(w, "token", "token_file", &mut listener.token);
    w.key("hosts", &mut listener.hosts);
    w.key("path_prefix", &mut listener.path_prefix);
    w.key("tls_certificate", &mut listener.tls_certificate);
    w.key("tls_key", &mut listener.tls_key);
    w.key("tls_self_signed", &mut listener.tls_self_signed);
    w.key("permessage_deflate", &mut listener.permessage_deflate);
    // Printed for unix sockets only: for others it is an error to write it.
    let mut unix_mode = matches!(listener.address, Address::Unix(_)).then_some(listener.unix_mode);
    w.key("unix_mode", &mut unix_mode);
    listener.unix_mode = unix_mode.unwrap_or(listener.unix_mode);
}

fn app(w: &mut impl Walk, app: &mut App) {
    w.required("id", &mut app.id);
    w.required("key", &mut app.key);
    secret(w, "secret", "secret_file", &mut app.secret);
    w.key("previous_secrets", &mut app.previous_secrets);
    w.key("gusher_public_keys", &mut app.gusher_public_keys);
    w.key("enabled", &mut app.enabled);
    w.key("origins", &mut app.origins);
    w.key("channels", &mut app.channels);
    w.key("client_events", &mut app.client_events);
    w.key("socket_push", &mut app.socket_push);
    w.key("subscription_count", &mut app.subscription_count);
    w.key("watchlist", &mut app.watchlist);
    w.key("authorized_connections", &mut app.authorized_connections);
    w.number("authorize_timeout_ms", TIME_MS, &mut app.authorize_timeout);
    w.number("presence_grace_ms", TIME_MS_OR_NONE, &mut app.presence_grace);
    w.number("presence_members_max", COUNT, &mut app.presence_members_max);
    w.number("presence_member_bytes_max", COUNT, &mut app.presence_member_bytes_max);
    w.number("connections_max", COUNT_OR_NONE, &mut app.connections_max);
    w.number("memory_bytes_max", COUNT_OR_NONE, &mut app.memory_bytes_max);
    w.number("publishes_per_s", COUNT_OR_NONE, &mut app.publishes_per_s);
    w.number("reads_per_s", COUNT_OR_NONE, &mut app.reads_per_s);
    w.number("client_events_per_s", COUNT_OR_NONE, &mut app.client_events_per_s);
    w.number("client_event_bytes_max", COUNT, &mut app.client_event_bytes_max);
    w.number("event_bytes_max", COUNT, &mut app.event_bytes_max);
    w.key("permessage_deflate", &mut app.permessage_deflate);
    w.key("legacy_push1st_tokens", &mut app.legacy_push1st_tokens);
    w.key("legacy_channel_names", &mut app.legacy_channel_names);
    w.key("legacy_presence", &mut app.legacy_presence);
    w.list("hooks", &mut app.hooks, Hook::blank, hook); // last: in TOML, no key of the app may follow
}

fn hook(w: &mut impl Walk, hook: &mut Hook) {
    w.required("url", &mut hook.target);
    // Printed for HTTP endpoints only: for scripts it is an error to write it.
    let mut format = matches!(hook.target, HookTarget::Http(_)).then_some(hook.format);
    w.key("format", &mut format);
    hook.format = match hook.target {
        HookTarget::Http(_) => format.unwrap_or(hook.format),
        HookTarget::Lua(_) => HookFormat::Push1st,
    };
    w.key("events", &mut hook.events);
    w.key("channel_prefix", &mut hook.channel_prefix);
    w.number("batch_ms", TIME_MS_OR_NONE, &mut hook.batch);
}

fn gusher(w: &mut impl Walk, gusher: &mut Gusher) {
    w.key("client_prefix", &mut gusher.client_prefix);
    w.key("master_prefix", &mut gusher.master_prefix);
    w.key("public_keys", &mut gusher.public_keys);
    w.key("open_apps", &mut gusher.open_apps);
    secret(w, "session_secret", "session_secret_file", &mut gusher.session_secret);
    w.number("session_ttl_ms", TIME_MS, &mut gusher.session_ttl);
    w.key("legacy_pong", &mut gusher.legacy_pong);
    w.key("legacy_empty_push", &mut gusher.legacy_empty_push);
    let present = gusher.remote.is_some();
    w.optional_table("remote", present, |w| remote(w, &mut gusher.remote));
}

fn remote(w: &mut impl Walk, remote: &mut Option<Remote>) {
    let mut timeout = Remote::TIMEOUT_DEFAULT;
    let mut in_flight_max = Remote::IN_FLIGHT_MAX_DEFAULT;
    let (mut redis, mut url): (Option<SecretUrl>, Option<SecretUrl>) = (None, None);
    if let Some(remote) = remote.take() {
        (timeout, in_flight_max) = (remote.timeout, remote.in_flight_max);
        match remote.target {
            RemoteTarget::Redis(target) => redis = Some(target),
            RemoteTarget::Http(target) => url = Some(target),
        }
    }
    w.either(("redis", &mut redis), ("url", &mut url));
    w.number("timeout_ms", TIME_MS, &mut timeout);
    w.number("in_flight_max", COUNT, &mut in_flight_max);
    let target = redis.map(RemoteTarget::Redis).or(url.map(RemoteTarget::Http));
    *remote = target.map(|target| Remote { target, timeout, in_flight_max });
}

fn limits(w: &mut impl Walk, limits: &mut Limits) {
    w.number("command_bytes_max", COUNT, &mut limits.command_bytes_max);
    w.number("message_bytes_max", COUNT, &mut limits.message_bytes_max);
    w.number("body_bytes_max", COUNT, &mut limits.body_bytes_max);
    w.number("header_bytes_max", 8192..=COUNT_MAX, &mut limits.header_bytes_max);
    w.number("channel_name_bytes_max", COUNT, &mut limits.channel_name_bytes_max);
    w.number("event_name_bytes_max", COUNT, &mut limits.event_name_bytes_max);
    w.number("user_id_bytes_max", COUNT, &mut limits.user_id_bytes_max);
    w.number("pattern_bytes_max", COUNT, &mut limits.pattern_bytes_max);
    w.number("batch_events_max", COUNT, &mut limits.batch_events_max);
    w.number("pusher_batch_events_max", COUNT, &mut limits.pusher_batch_events_max);
    w.number("event_channels_max", COUNT, &mut limits.event_channels_max);
    w.number("watchlist_max", COUNT, &mut limits.watchlist_max);
    w.number("subscriptions_per_connection_max", COUNT, &mut limits.subscriptions_per_connection_max);
    w.number("permissions_per_connection_max", COUNT, &mut limits.permissions_per_connection_max);
    w.number("connections_max", COUNT, &mut limits.connections_max);
    w.number("connections_per_app_max", COUNT_OR_NONE, &mut limits.connections_per_app_max);
    w.number("connections_per_ip_max", COUNT_OR_NONE, &mut limits.connections_per_ip_max);
    w.number("memory_bytes_max", COUNT_OR_NONE, &mut limits.memory_bytes_max);
    w.number("http_connections_max", COUNT, &mut limits.http_connections_max);
    w.number("tls_handshakes_max", COUNT, &mut limits.tls_handshakes_max);
    w.number("outbox_bytes_max", COUNT, &mut limits.outbox_bytes_max);
    w.number("outbox_total_bytes_max", COUNT, &mut limits.outbox_total_bytes_max);
    w.number("deflate_bytes_min", COUNT, &mut limits.deflate_bytes_min);
    w.number("deflate_bytes_max", COUNT, &mut limits.deflate_bytes_max);
    w.number("backlog_bytes_max", COUNT, &mut limits.backlog_bytes_max);
    w.number("cache_bytes_max", COUNT, &mut limits.cache_bytes_max);
    w.number("cache_ttl_ms", TIME_MS, &mut limits.cache_ttl);
    w.number("idempotency_keys_max", COUNT, &mut limits.idempotency_keys_max);
    w.number("idempotency_window_ms", TIME_MS, &mut limits.idempotency_window);
    w.number("hook_queue_max", COUNT, &mut limits.hook_queue_max);
    w.number("hook_in_flight_max", COUNT, &mut limits.hook_in_flight_max);
    w.number("hook_timeout_ms", TIME_MS, &mut limits.hook_timeout);
    w.number("hook_retry_ms", TIME_MS, &mut limits.hook_retry);
    w.number("lua_memory_bytes_max", COUNT, &mut limits.lua_memory_bytes_max);
    w.number("lua_time_ms", TIME_MS, &mut limits.lua_time);
    w.number("handshake_timeout_ms", TIME_MS, &mut limits.handshake_timeout);
    w.number("keep_alive_timeout_ms", TIME_MS, &mut limits.keep_alive_timeout);
    w.number("request_timeout_ms", TIME_MS, &mut limits.request_timeout);
    w.number("ping_interval_ms", TIME_MS, &mut limits.ping_interval);
    w.number("pong_timeout_ms", TIME_MS, &mut limits.pong_timeout);
    w.number("unsubscribed_timeout_ms", TIME_MS_OR_NONE, &mut limits.unsubscribed_timeout);
}

/// A secret, as itself or in a file.
fn secret(w: &mut impl Walk, name: &'static str, file_name: &'static str, secret: &mut Option<Secret>) {
    let (mut given, mut file) = SecretFile::split(secret.take());
    w.either((name, &mut given), (file_name, &mut file));
    *secret = SecretFile::join(given, file);
}

/// A dotted path as TOML's `[[…]]` has it: without the places in lists.
pub(super) fn header(path: &str) -> String {
    let parts = path.split('.').map(|part| part.split_once('[').map_or(part, |(list, _)| list));
    parts.collect::<Vec<_>>().join(".")
}

/// A listener as a source would write it.
pub(super) fn listener(address: Node, doors: &[Door], trusted: bool, at: &Origin) -> Node {
    let doors = doors.iter().map(|door| Node::text(door.word(), at.clone())).collect();
    let doors = Node::list(doors, at.clone());
    let trusted = Node::new(Value::Bool(trusted), at.clone());
    Node::table([("address", address), ("doors", doors), ("trusted", trusted)], at.clone())
}

/// The dotted paths of all keys, `listen[].address` for one in a list of tables.
pub(super) fn all() -> Vec<String> {
    let mut listing = Listing { prefix: String::new(), paths: Vec::new() };
    config(&mut listing, &mut Config::default());
    listing.paths
}

/// The dotted paths that a variable or `--set` can give a value: lists of tables as a whole.
pub(super) fn settable() -> Vec<String> {
    let whole = |path: String| path.split_once("[]").map(|(list, _)| list.to_owned()).unwrap_or(path);
    let mut paths: Vec<String> = all().into_iter().map(whole).collect();
    paths.dedup();
    paths
}

/// A walk that notes the keys.
struct Listing {
    prefix: String,
    paths: Vec<String>,
}

impl Listing {
    fn within(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        let outer = self.prefix.len();
        self.prefix.push_str(&format!("{name}."));
        body(self);
        self.prefix.truncate(outer);
    }

    fn note(&mut self, name: &str) {
        self.paths.push(format!("{}{name}", self.prefix));
    }
}

impl Walk for Listing {
    fn table(&mut self, name: &'static str, body: impl FnOnce(&mut Self)) {
        self.within(name, body);
    }

    fn optional_table(&mut self, name: &'static str, _: bool, body: impl FnOnce(&mut Self)) {
        self.within(name, body);
    }

    fn list<T>(&mut self, name: &'static str, _: &mut Vec<T>, blank: impl Fn() -> T, body: impl Fn(&mut Self, &mut T)) {
        self.within(&format!("{name}[]"), |listing| body(listing, &mut blank()));
    }

    fn key<T: Setting>(&mut self, name: &'static str, _: &mut T) {
        self.note(name);
    }

    fn required<T: Setting>(&mut self, name: &'static str, _: &mut T) {
        self.note(name);
    }

    fn number<T: Number>(&mut self, name: &'static str, _: RangeInclusive<u64>, _: &mut T) {
        self.note(name);
    }

    fn either<A: Setting, B: Setting>(
        &mut self,
        one: (&'static str, &mut Option<A>),
        other: (&'static str, &mut Option<B>),
    ) {
        self.note(one.0);
        self.note(other.0);
    }
}
