//! What no single value shows: rules between keys, and the meaning of texts.

use tracing_subscriber::EnvFilter;

use super::error::{Findings, nearest};
use super::values::{Address, Door, HookFormat, HookTarget, SecretUrl};
use super::{App, Config, Listener, RemoteTarget};
use crate::limits::Limits;

/// Notes every problem of `config`, and what is only worth a warning. Where reading already found a problem, rules that
/// would look at the same keys are passed over.
pub(super) fn config(config: &Config, found: &mut Findings) {
    listeners(&config.listen, found);
    prefixes(config, found);
    apps(config, found);
    gusher(config, found);
    limits(&config.limits, found);
    if found.is_sound("log.level")
        && let Err(reason) = log_level(&config.log.level)
    {
        found.problem("log.level", reason);
    }
}

/// Limits that bound each other.
fn limits(limits: &Limits, found: &mut Findings) {
    let (one, total) = (limits.outbox_bytes_max, limits.outbox_total_bytes_max);
    if one > total {
        let message =
            format!("one connection's outbox ({one}) must fit into the node's total (outbox_total_bytes_max, {total})");
        blame(found, ["limits.outbox_bytes_max", "limits.outbox_total_bytes_max"], message);
    }
    let (least, most) = (limits.deflate_bytes_min, limits.deflate_bytes_max);
    if least > most {
        let message = format!("from {least} to {most} bytes (deflate_bytes_max) is nothing: nothing would be deflated");
        blame(found, ["limits.deflate_bytes_min", "limits.deflate_bytes_max"], message);
    }
}

/// Notes that two keys contradict each other, at the one that was written, the first if both were.
fn blame(found: &mut Findings, paths: [&str; 2], message: String) {
    if paths.iter().all(|path| found.is_sound(path)) {
        let path = paths.into_iter().find(|path| found.origins.contains_key(*path)).unwrap_or(paths[0]);
        found.problem(path, message);
    }
}

fn listeners(listeners: &[Listener], found: &mut Findings) {
    if listeners.is_empty() && found.is_sound("listen") {
        found.problem("listen", "the list is empty: nobody could reach this node");
    }
    for (index, one) in listeners.iter().enumerate() {
        let path = format!("listen[{index}]");
        if !found.is_sound(&path) {
            continue;
        }
        listener(&path, one, found);
        // Port 0 is another port each time.
        let is_any_port = matches!(one.address, Address::Tcp(address) if address.port() == 0);
        let earlier = listeners[..index].iter().position(|earlier| earlier.address == one.address);
        if let Some(earlier) = earlier.filter(|_| !is_any_port) {
            let place = found.origin(&format!("listen[{earlier}].address"));
            let message = format!(
                "listen[{earlier}] has the same address ({place}): move one, or put both doors on one listener"
            );
            found.problem(&format!("{path}.address"), message);
        }
    }
}

fn listener(path: &str, listener: &Listener, found: &mut Findings) {
    if listener.doors.is_empty() {
        let words = Door::ALL.map(Door::word).join(", ");
        found.problem(&format!("{path}.doors"), format!("a listener serves at least one door of {words}"));
    }
    if let Some(door) = listener.doors.iter().find(|door| door.needs_trust() && !listener.trusted) {
        let message = format!(
            "the door `{}` knows no credentials: whoever gets here may do everything. If that is meant, set \
             `trusted = true` on this listener, and keep it on loopback, a unix socket, or behind `allow` or `token`",
            door.word()
        );
        found.problem(&format!("{path}.doors"), message);
    }
    if listener.doors.contains(&Door::Pusher) && listener.doors.contains(&Door::Push1st) {
        let message = "the doors `pusher` and `push1st` both answer under /apps/, each in its own words: give each a \
                       listener of its own (`push1st-socket` may stand beside either)";
        found.problem(&format!("{path}.doors"), message);
    }
    if listener.trusted && !listener.address.is_local() && listener.allow.is_empty() && listener.token.is_none() {
        let message = format!(
            "{} is trusted, but other machines reach it. Say who may: `allow = [\"10.0.0.0/8\"]`, or a `token` that \
             requests must bring; `allow = [\"0.0.0.0/0\", \"::/0\"]` opens it to everybody on purpose",
            listener.address
        );
        found.problem(&format!("{path}.address"), message);
    }
    match listener.address {
        Address::Unix(_) if !listener.allow.is_empty() => {
            let message = "a unix socket knows no IP addresses; `unix_mode` says who may connect";
            found.problem(&format!("{path}.allow"), message);
        }
        Address::Tcp(_) if found.origins.contains_key(&format!("{path}.unix_mode")) => {
            found.problem(&format!("{path}.unix_mode"), "this is no unix socket; `allow` says who may connect");
        }
        _ => {}
    }
    tls(path, listener, found);
    let prefix = &listener.path_prefix;
    if !prefix.is_empty() && (prefix.ends_with('/') || !is_path(prefix)) {
        let message = "expected nothing, or a path that begins with / and does not end with it, as in /push";
        found.problem(&format!("{path}.path_prefix"), message);
    }
    if listener.token.as_ref().is_some_and(|token| !token.expose().bytes().all(|b| b.is_ascii_graphic())) {
        let message = "a token travels in a header: use visible ASCII characters without spaces";
        found.problem(&format!("{path}.token"), message);
    }
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    for host in listener.hosts.iter().filter(|host| *host != "*") {
        if host.is_empty() || !host.chars().all(is_name_char) {
            let message = format!("{host:?} is no host name: write names without scheme and port, or \"*\" for any");
            found.problem(&format!("{path}.hosts"), message);
        }
    }
}

fn tls(path: &str, listener: &Listener, found: &mut Findings) {
    let (certificate, key) = (format!("{path}.tls_certificate"), format!("{path}.tls_key"));
    let has = [&certificate, &key].map(|path| found.origins.contains_key(path));
    match has {
        [true, false] => found.problem(&certificate, "`tls_key` is missing: the file of the certificate's private key"),
        [false, true] => found.problem(&key, "`tls_certificate` is missing: the file of the key's certificate"),
        [true, true] if listener.tls_self_signed => {
            let message = "`tls_certificate` and `tls_self_signed` exclude each other: keep one of them";
            found.problem(&format!("{path}.tls_self_signed"), message);
        }
        _ => {}
    }
    if matches!(listener.address, Address::Unix(_)) && (has != [false, false] || listener.tls_self_signed) {
        let message = "a unix socket speaks no TLS: nobody can listen in on it. Give TLS to a listener on TCP";
        found.problem(&format!("{path}.address"), message);
    }
}

fn prefixes(config: &Config, found: &mut Findings) {
    let gusher = &config.gusher;
    for (path, prefix) in
        [("gusher.client_prefix", &gusher.client_prefix), ("gusher.master_prefix", &gusher.master_prefix)]
    {
        if !found.is_sound(path) {
            continue;
        }
        if !prefix.ends_with('/') || !is_path(prefix) {
            found.problem(path, "expected a path that begins and ends with /, as in /push/");
        } else if prefix.starts_with("/v1/") {
            found.problem(path, "/v1/ is taken by gusher's v3 API, which every gusher door serves");
        }
    }
    for (path, prefix, door) in [
        ("gusher.client_prefix", &gusher.client_prefix, Door::GusherClient),
        ("gusher.master_prefix", &gusher.master_prefix, Door::GusherMaster),
    ] {
        let hides_others =
            |listener: &Listener| listener.doors[..].split_last().is_some_and(|(_, all)| all.contains(&door));
        if prefix == "/"
            && let Some(index) = config.listen.iter().position(hides_others)
        {
            let message =
                format!("/ leaves nothing to the doors behind {:?} in listen[{index}]: name it last", door.word());
            found.problem(path, message);
        }
    }
    let serves_both = |listener: &Listener| {
        listener.doors.contains(&Door::GusherClient) && listener.doors.contains(&Door::GusherMaster)
    };
    if gusher.client_prefix == gusher.master_prefix
        && let Some(index) = config.listen.iter().position(serves_both)
    {
        let message = format!("it is also `client_prefix`, and listen[{index}] serves both doors: give each its own");
        found.problem("gusher.master_prefix", message);
    }
}

/// Whether a text is the start of a URL's path: plain characters, no empty segments.
fn is_path(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\');
    text.starts_with('/') && !text.contains("//") && text.chars().all(is_plain)
}

fn apps(config: &Config, found: &mut Findings) {
    if config.apps.is_empty() && !config.gusher.open_apps && found.is_sound("apps") {
        found.warnings.push("there are no apps, so nobody can connect: add [[apps]] to the configuration".into());
    }
    let is_socket = |door: &Door| matches!(door, Door::Pusher | Door::Push1stSocket);
    let has_sockets = config.listen.iter().any(|listener| listener.doors.iter().any(is_socket));
    for (index, app) in config.apps.iter().enumerate() {
        let path = format!("apps[{index}]");
        if !found.is_sound(&path) {
            continue;
        }
        app_name(&path, index, "id", &config.apps, |app| &app.id, found);
        app_name(&path, index, "key", &config.apps, |app| &app.key, found);
        app_uses(&path, app, found);
        let has_tokens = !app.gusher_public_keys.is_empty() || !config.gusher.public_keys.is_empty();
        if app.enabled && !has_tokens && !has_sockets {
            found.warnings.push(format!(
                "nobody can connect to app {} through gusher: neither its `gusher_public_keys` nor \
                 `gusher.public_keys` has a key to verify tokens with",
                app.id
            ));
        } else if app.enabled && !has_tokens && app.secret.is_none() {
            found.warnings.push(format!(
                "app {} has no `secret` to sign with and no public key to verify gusher's tokens with: its clients \
                 have public channels only",
                app.id
            ));
        }
    }
}

/// The rules about what an app's clients may do, and about its hooks.
fn app_uses(path: &str, app: &App, found: &mut Findings) {
    for origin in &app.origins {
        let host = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host);
        if host.is_empty() || host.contains('/') || !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!(
                "{origin:?} is no origin: write a host or a scheme, host and port, without a path, as in \"shop.example\", \
                 \"*.shop.example\" or \"https://shop.example:8443\""
            );
            found.problem(&format!("{path}.origins"), message);
        }
    }
    if app.secret.is_none() && !app.previous_secrets.is_empty() {
        found.problem(&format!("{path}.previous_secrets"), "`secret` is missing: the one that is signed with");
    }
    for (index, hook) in app.hooks.iter().enumerate() {
        let path = format!("{path}.hooks[{index}]");
        if matches!(hook.target, HookTarget::Lua(_)) && found.origins.contains_key(&format!("{path}.format")) {
            found.problem(&format!("{path}.format"), "a script is always called in Push1ST's words: leave it out");
        }
        if hook.format == HookFormat::Push1st && !hook.batch.is_zero() {
            let message = "Push1ST's form tells events one by one: only the format \"pusher\" has batches";
            found.problem(&format!("{path}.batch_ms"), message);
        }
        if let Some(event) = hook.events.iter().find(|event| event.format() != hook.format) {
            let message = format!(
                "`{}` is an event of the format \"{}\", and this hook has the format \"{}\"",
                event.word(),
                event.format().word(),
                hook.format.word()
            );
            found.problem(&format!("{path}.events"), message);
        }
        if hook.format == HookFormat::Pusher && app.secret.is_none() {
            let message = "Pusher's webhooks are signed with the app's `secret`, which is missing";
            found.problem(&format!("{path}.url"), message);
        }
    }
}

/// One of an app's two names: its characters, and that no earlier app has it.
fn app_name(path: &str, index: usize, what: &str, apps: &[App], of: fn(&App) -> &String, found: &mut Findings) {
    let name = of(&apps[index]);
    let path = format!("{path}.{what}");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() || !name.chars().all(is_plain) {
        found.problem(&path, format!("{name:?} is no {what}: use letters, digits, `_`, `.` and `-`"));
    } else if let Some(earlier) = apps[..index].iter().position(|earlier| of(earlier) == name) {
        let place = found.origin(&format!("apps[{earlier}].{what}"));
        found.problem(&path, format!("apps[{earlier}] has the same {what} ({place})"));
    }
}

fn gusher(config: &Config, found: &mut Findings) {
    let gusher = &config.gusher;
    if gusher.open_apps && gusher.public_keys.is_empty() && found.is_sound("gusher.public_keys") {
        let message = "every app that a verified token names is open, but nothing verifies tokens: give \
                       `gusher.public_keys`";
        found.problem("gusher.open_apps", message);
    }
    match gusher.remote.as_ref().map(|remote| &remote.target) {
        None => {
            let is_set = |path: &&str| found.origins.contains_key(*path);
            let given = ["gusher.remote.timeout_ms", "gusher.remote.in_flight_max"].into_iter().find(is_set);
            if let Some(path) = given.filter(|_| found.is_sound("gusher.remote")) {
                found.problem(path, "`redis` or `url` is missing: it says where remote commands go");
            }
        }
        Some(RemoteTarget::Redis(url)) => {
            let rest = ["redis", "rediss", "unix"].iter().find_map(|scheme| after_scheme(url, scheme));
            if rest.is_none_or(str::is_empty) {
                let message = "expected redis://HOST:PORT/DB, rediss://… (TLS) or unix://PATH";
                found.problem("gusher.remote.redis", message);
            }
        }
        Some(RemoteTarget::Http(url)) => {
            if let Err(reason) = url_template(url) {
                found.problem("gusher.remote.url", reason);
            }
        }
    }
}

fn after_scheme<'a>(url: &'a SecretUrl, scheme: &str) -> Option<&'a str> {
    url.expose().strip_prefix(scheme)?.strip_prefix("://")
}

/// Checks an HTTP URL with `{app}` and `{remote}` in it. These come from tokens, so they may not choose a host.
fn url_template(url: &SecretUrl) -> Result<(), String> {
    const WANTED: &str = "expected http://HOST:PORT/PATH or https://…, with {app} and {remote} for the names";
    let rest = after_scheme(url, "http").or_else(|| after_scheme(url, "https")).ok_or(WANTED)?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if host.is_empty() || !rest.chars().all(|c| c.is_ascii_graphic()) {
        return Err(WANTED.into());
    }
    if host.contains(['{', '}']) {
        return Err("{app} and {remote} may stand in the path and the query only: tokens must not choose a host".into());
    }
    let bare = path.replace("{app}", "").replace("{remote}", "");
    if bare.contains(['{', '}']) {
        return Err("the names in braces are {app} and {remote}".into());
    }
    Ok(())
}

/// Checks a log filter. A bare word would be taken as the name of a target, and so silence everything else: here it
/// must be a level.
fn log_level(filter: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in filter.split(',').map(str::trim).filter(|part| !part.contains(['=', '['])) {
        if LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part)) {
            continue;
        }
        let hint = match nearest(part, LEVELS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of {}, or target=level", LEVELS.join(", ")),
        };
        return Err(format!("there is no level `{part}`; {hint}"));
    }
    // Its parser cuts at byte offsets.
    if !filter.is_ascii() {
        return Err("a log filter is of ASCII characters".into());
    }
    EnvFilter::builder().parse(filter).map(drop).map_err(|error| format!("this is no log filter: {error}"))
}
