//! Push1ST's `server.yml` and the files of apps that it names. Its two ports become two listeners of one node.
//!
//! What the original reads and what it ignores was seen in its behaviour: a `whitelist` is not looked at, TLS and MQTT
//! are, and of an app's file the last app counts. Here a whitelist is kept, and every app counts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::{everybody, ops_listener, resolved, texts};
use crate::config::error::{Findings, nearest};
use crate::config::file::{read_text, yaml_with_empty_keys};
use crate::config::keys;
use crate::config::tree::{Entry, Node, Origin, SourceText, Table, Value};
use crate::config::values::{Address, Door};

const NO_TLS: &str = "connections here are plain; `tls_certificate` and `tls_key` of a [[listen]] give it TLS";
const NO_THREADS: &str = "there is one thread per core; `node.shards` changes that";
const NO_PATH: &str = "the paths here are those that Push1ST has by default";
const NO_IDLE_TIME: &str = "idle clients are pinged: `limits.ping_interval_ms`";

/// The tree that the file at `path` describes, with the apps of the files that it names.
pub(in crate::config) fn load(path: &Path, found: &mut Findings) -> Option<Node> {
    let (source, entries) = read(path, found)?;
    if !entries.contains_key("server") {
        let message = "`server` is missing: this is no server.yml of Push1ST";
        found.problem_at(Origin::File(source, 0..0), "", message);
        return None;
    }
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut file = Section { path: String::new(), entries, asked: Vec::new(), found };
    file.take("ssl"); // texts that other sections refer to
    file.ignore("cluster", "nodes do not talk to each other over UDP: there is one node");
    file.ignore("log", "the log is the process's output; `log.level` and `log.format` say what and how");
    let mut import = Import { directory, listen: Vec::new(), socket_push: Vec::new(), tree: Node::empty() };
    file.section("server", |section| import.server(section));
    file.section("api", |section| import.api(section));
    let apps = file.take("credentials").map(|credentials| import.apps(&credentials.node, file.found));
    file.end();
    let at = Origin::File(source, 0..0);
    import.listen.extend(ops_listener());
    let listen = Node::list(import.listen, at.clone());
    import.tree.overlay(Node::nested("listen", listen));
    if let Some(apps) = apps {
        import.tree.overlay(Node::nested("apps", Node::list(apps, at)));
    }
    Some(import.tree)
}

/// A YAML file whose top is a table.
fn read(path: &Path, found: &mut Findings) -> Option<(Arc<SourceText>, Table)> {
    found.files.insert(path.to_owned());
    let name = path.display().to_string();
    match read_text(path) {
        Ok(text) => {
            let source = Arc::new(SourceText { name, text });
            let Value::Table(entries) = yaml_with_empty_keys(&source, found)?.value else { return None };
            Some((source, entries))
        }
        Err(reason) => {
            found.broken(Origin::Whole(name), reason);
            None
        }
    }
}

/// What is gathered from a `server.yml`.
struct Import {
    /// Where it lies: what its paths are relative to.
    directory: PathBuf,
    listen: Vec<Node>,
    /// The kinds of channels that raw sockets may push to, for each app.
    socket_push: Vec<Node>,
    /// Everything else.
    tree: Node,
}

impl Import {
    fn set(&mut self, path: &str, node: Node) {
        self.tree.overlay(Node::nested(path, node));
    }

    /// Where clients connect.
    fn server(&mut self, section: &mut Section<'_>) {
        section.ignore("threads", NO_THREADS);
        section.ignore("accept", NO_THREADS);
        section.tls();
        for key in ["path", "app-path"] {
            section.only_path(key, "app");
        }
        let proto = section.take("proto").map(|entry| words(&entry.node)).unwrap_or_default();
        if let Some(mqtt) = proto.iter().find(|word| text(word) == Some("mqtt")) {
            section.warn(&mqtt.at, "MQTT is not served");
        }
        section.take("mqtt");
        let mut bytes_max = section.take("max-request-payload").map(|entry| entry.node);
        let mut doors = Vec::new();
        let mut whitelists = Vec::new();
        for (name, door) in [("pusher", Door::Pusher), ("websocket", Door::Push1stSocket)] {
            let enabled = proto.iter().find(|word| text(word) == Some(name));
            let mut whitelist = Vec::new();
            let is_there = section.section(name, |section| {
                section.only_path("path", if door == Door::Pusher { "pusher" } else { "ws" });
                if let Some(bytes) = section.take("max-request-payload") {
                    bytes_max = Some(bytes.node);
                }
                whitelist = section.take("whitelist").map(|entry| allowed(&entry.node, section)).unwrap_or_default();
                if door == Door::Pusher {
                    if let Some(timeout) = section.take("activity-timeout").and_then(|entry| milliseconds(entry.node)) {
                        self.set("pusher.activity_timeout_ms", timeout);
                    }
                } else {
                    section.ignore("activity-timeout", NO_IDLE_TIME);
                    self.socket_push = socket_push(section);
                }
            });
            if let Some(word) = enabled {
                if is_there {
                    doors.push(door);
                    whitelists.push(whitelist);
                } else {
                    section.warn(&word.at, &format!("`server.{name}` is missing, so it is not served, as by Push1ST"));
                }
            }
        }
        if let Some(bytes) = bytes_max {
            self.set("limits.message_bytes_max", bytes);
        }
        let Some(listen) = section.take("listen").filter(|_| !doors.is_empty()) else { return };
        let Some(address) = self.address(&listen.node, section.found) else { return };
        let mut listener = keys::listener(address, &doors, false, &listen.node.at);
        let texts = |nodes: &[Node]| nodes.iter().filter_map(text).map(str::to_owned).collect::<Vec<_>>();
        let is_one_list = whitelists.windows(2).all(|pair| texts(&pair[0]) == texts(&pair[1]));
        if let Some(first) = whitelists.iter().flatten().next() {
            if is_one_list {
                listener.overlay(Node::nested("allow", copied(&whitelists[0], &first.at)));
            } else {
                let message = "the whitelists of `server` are ignored: they differ, and a listener has one list";
                section.warn(&first.at, message);
            }
        }
        self.listen.push(listener);
    }

    /// Where backends push.
    fn api(&mut self, section: &mut Section<'_>) {
        section.take("interface"); // both of its words mean the same calls
        section.ignore("threads", NO_THREADS);
        section.ignore("accept", NO_THREADS);
        section.tls();
        section.section("module", |section| {
            section.section("smpp", |section| {
                if let Some(enable) = section.take("enable").filter(|entry| boolean(&entry.node) == Some(true)) {
                    section.warn(&enable.key_at, "SMPP is not served");
                }
                section.entries.clear();
            });
        });
        if let Some(timeout) = section.take("keep-alive-timeout").and_then(|entry| milliseconds(entry.node)) {
            self.set("limits.keep_alive_timeout_ms", timeout);
        }
        let path = section.entries.get("path").and_then(|entry| text(&entry.node));
        let prefix =
            path.and_then(|path| path.trim_matches('/').strip_suffix("/apps")).map(|prefix| format!("/{prefix}"));
        match prefix {
            Some(_) => drop(section.take("path")),
            None => section.only_path("path", "apps"),
        }
        let allowed = section.take("whitelist").map(|entry| allowed(&entry.node, section)).unwrap_or_default();
        let Some(listen) = section.take("listen") else { return };
        for item in words(&listen.node) {
            let Some(address) = self.address(&item, section.found) else { continue };
            let is_reached_by_others =
                text(&address).and_then(|text| Address::parse(text).ok()).is_some_and(|address| !address.is_local());
            let is_unix = text(&address).is_some_and(|text| text.starts_with("unix:"));
            let mut listener = keys::listener(address, &[Door::Push1st], true, &item.at);
            // Backends call the API by whatever name they know it.
            listener.overlay(Node::nested("hosts", texts(&["*"], &item.at)));
            if let Some(prefix) = &prefix {
                listener.overlay(Node::nested("path_prefix", Node::text(prefix, item.at.clone())));
            }
            if !is_unix && !allowed.is_empty() {
                listener.overlay(Node::nested("allow", copied(&allowed, &item.at)));
            } else if is_reached_by_others {
                listener.overlay(Node::nested("allow", everybody(&item.at.to_string())));
            }
            self.listen.push(listener);
        }
    }

    /// `tcp://HOST:PORT`, `unix://PATH`, or a word for none.
    fn address(&self, node: &Node, found: &mut Findings) -> Option<Node> {
        let Some(written) = text(node) else {
            found.problem_at(node.at.clone(), "", format!("expected tcp://HOST:PORT, found {}", node.describe()));
            return None;
        };
        let address = match written.split_once("://") {
            _ if matches!(written, "false" | "disable" | "disabled" | "") => return None,
            Some(("tcp", rest)) => {
                let host = rest.split('/').next().unwrap_or_default();
                resolved(&host.strip_prefix("*:").map_or_else(|| host.to_owned(), |port| format!("0.0.0.0:{port}")))
            }
            Some(("unix", path)) => format!("unix:{}", self.absolute(path).display()),
            _ => {
                let message = format!("expected tcp://HOST:PORT or unix://PATH, found {}", node.describe());
                found.problem_at(node.at.clone(), "", message);
                return None;
            }
        };
        Some(Node::text(address, node.at.clone()))
    }

    /// A path that is relative to `server.yml`, in whichever file it stands.
    fn absolute(&self, path: &str) -> PathBuf {
        let path = self.directory.join(path);
        std::path::absolute(&path).unwrap_or(path)
    }

    /// The apps of all files that `credentials` names, each name with `*` and `?` in its last part.
    fn apps(&self, credentials: &Node, found: &mut Findings) -> Vec<Node> {
        let mut apps = Vec::new();
        let mut names = BTreeSet::new();
        for pattern in words(credentials) {
            let path = self.directory.join(text(&pattern).unwrap_or_default());
            let directory = path.parent().unwrap_or(Path::new("")).to_owned();
            let mask = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let files = match matching_files(&directory, &mask) {
                Ok(files) => files,
                Err(error) => {
                    let message = format!("cannot read the directory {}: {error}", directory.display());
                    found.problem_at(pattern.at, "", message);
                    continue;
                }
            };
            found.files.insert(directory);
            if files.is_empty() {
                found.warnings.push(format!("{}: no file is called {}", pattern.at, path.display()));
            }
            for file in files {
                let Some((_, entries)) = read(&file, found) else { continue };
                for (id, entry) in entries {
                    apps.extend(self.app(id, entry, &mut names, found));
                }
            }
        }
        apps
    }

    /// One app; `names` are the ids and keys of those before it.
    fn app(&self, id: String, entry: Entry, names: &mut BTreeSet<String>, found: &mut Findings) -> Option<Node> {
        let Entry { key_at, node } = entry;
        let Value::Table(entries) = node.value else {
            found.warnings.push(format!("{key_at}: {}", ignored(&id, "it is no app")));
            return None;
        };
        let mut app = vec![("id", Node::text(id.as_str(), key_at.clone()))];
        let mut section = Section { path: id.clone(), entries, asked: Vec::new(), found };
        section.take("name");
        let key = section.take("key").map(|entry| entry.node);
        let names_of_it = [format!("id {id}"), format!("key {}", key.as_ref().and_then(text).unwrap_or_default())];
        app.extend(key.map(|key| ("key", key)));
        let secret = section.take("secret").filter(|entry| text(&entry.node) != Some(""));
        app.extend(secret.map(|entry| ("secret", entry.node)));
        if let Some(enable) = section.take("enable") {
            app.push(("enabled", as_boolean(enable.node)));
        }
        section.section("options", |section| {
            if let Some(allowed) = section.take("client-messages") {
                app.push(("client_events", as_boolean(allowed.node)));
            }
            if section.entries.get("statistic").is_some_and(|entry| boolean(&entry.node) == Some(true)) {
                section.ignore("statistic", "figures are metrics, on the ops listener");
            }
            section.take("statistic");
        });
        let kinds = section.take("channels").map(|entry| section.known_words(&entry.node, &KINDS)).unwrap_or_default();
        if let Some(origins) = section.take("origins") {
            let bare = |node: &Node| Some(Node::text(text(node)?.trim_end_matches('/'), node.at.clone()));
            let origins_of_it = words(&origins.node).iter().filter_map(bare).collect();
            app.push(("origins", Node::list(origins_of_it, origins.node.at)));
        }
        let mut hooks = Vec::new();
        section.section("hook", |section| hooks = self.hooks(section));
        if !hooks.is_empty() {
            app.push(("hooks", Node::list(hooks, key_at.clone())));
        }
        section.end();
        if kinds.is_empty() {
            let reason = "it has no `channels`, and Push1ST leaves such apps out";
            found.warnings.push(format!("{key_at}: {}", ignored(&id, reason)));
            return None;
        }
        if names_of_it.iter().any(|name| names.contains(name)) {
            let reason = "an app before it has the same id or key";
            found.warnings.push(format!("{key_at}: {}", ignored(&id, reason)));
            return None;
        }
        names.extend(names_of_it);
        app.push(("channels", copied(&kinds, &key_at)));
        app.push(("socket_push", copied(&self.socket_push, &key_at)));
        let yes = || Node::new(Value::Bool(true), key_at.clone());
        app.extend([("legacy_push1st_tokens", yes()), ("legacy_presence", yes()), ("legacy_channel_names", yes())]);
        // Push1ST knows no such limit, and its sockets would be closed by it
        app.push(("client_events_per_s", Node::new(Value::Integer(0), key_at.clone())));
        Some(Node::table(app, key_at.clone()))
    }

    /// Each endpoint of an app as a hook.
    fn hooks(&self, section: &mut Section<'_>) -> Vec<Node> {
        // Whether a connection serves several requests is not configured here.
        for key in ["http-pipelining", "keep-alive"] {
            section.take(key);
        }
        let trigger = section.take("trigger").map(|entry| section.known_words(&entry.node, &TRIGGERS));
        let endpoints = section.take("endpoint").map(|entry| words(&entry.node)).unwrap_or_default();
        let Some(trigger) = trigger.filter(|trigger| !trigger.is_empty()) else { return Vec::new() };
        let mut seen = BTreeSet::new();
        let mut hooks = Vec::new();
        for endpoint in endpoints {
            let at = endpoint.at.clone();
            let Some(url) = text(&endpoint).filter(|url| seen.insert((*url).to_owned())) else { continue };
            let hook = match url.split_once("://") {
                Some(("lua", path)) => vec![("url", format!("lua://{}", self.absolute(path).display()))],
                Some(("http" | "https", _)) => vec![("url", url.to_owned()), ("format", "push1st".to_owned())],
                _ => {
                    section.warn(&at, "this endpoint is ignored: it is neither http:// nor https:// nor lua://");
                    continue;
                }
            };
            let hook = hook.into_iter().map(|(key, value)| (key, Node::text(value, at.clone())));
            hooks.push(Node::table(hook.chain([("events", copied(&trigger, &at))]), at.clone()));
        }
        hooks
    }
}

const KINDS: [&str; 4] = ["public", "private", "presence", "protected"];
const TRIGGERS: [&str; 5] = ["register", "unregister", "join", "leave", "push"];

/// The kinds of channels that `push` of the `websocket` section names; without it, the original's default.
fn socket_push(section: &mut Section<'_>) -> Vec<Node> {
    /// What the original allows, whatever is written.
    const ALWAYS: [&str; 3] = ["public", "presence", "protected"];
    let Some(push) = section.take("push") else {
        return ALWAYS.map(|kind| Node::text(kind, Origin::Default)).into();
    };
    let kinds = section.known_words(&push.node, &KINDS);
    let missing = ALWAYS.iter().filter(|kind| !kinds.iter().any(|node| text(node) == Some(kind)));
    let missing: Vec<&str> = missing.copied().collect();
    if !missing.is_empty() {
        let message = format!(
            "sockets may push to the kinds of channels in `push` only; Push1ST lets them push to {} channels whatever \
             it says",
            missing.join(" and ")
        );
        section.warn(&push.key_at, &message);
    }
    kinds
}

/// The files of a directory whose names match `mask`, in which `*` is any text and `?` any character; in order.
fn matching_files(directory: &Path, mask: &str) -> std::io::Result<Vec<PathBuf>> {
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(listed)? {
        let name = entry?.file_name();
        let path = directory.join(&name);
        if matches(mask, &name.to_string_lossy()) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a name matches a mask; case does not count.
fn matches(mask: &str, name: &str) -> bool {
    let mut pattern = regex::escape(mask);
    for (wildcard, meaning) in [(r"\*", ".*"), (r"\?", ".")] {
        pattern = pattern.replace(wildcard, meaning);
    }
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .case_insensitive(true)
        .dot_matches_new_line(true)
        .build()
        .is_ok_and(|pattern| pattern.is_match(name))
}

/// The addresses of a whitelist. The original does not look at it, so that it may hold anything: what is no address is
/// told of and passed over.
fn allowed(whitelist: &Node, section: &mut Section<'_>) -> Vec<Node> {
    let mut addresses = words(whitelist);
    addresses.retain(|node| {
        let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok() || text.parse::<IpNet>().is_ok();
        let is_one = text(node).is_some_and(is_address);
        if !is_one {
            section.warn(&node.at, &format!("{} is ignored: it is no IP address or network", node.describe()));
        }
        is_one
    });
    addresses
}

fn ignored(what: &str, reason: &str) -> String {
    format!("`{what}` is ignored: {reason}")
}

/// The characters of a scalar.
fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => node.raw.as_deref(),
    }
}

/// The items of a list, the keys of a table (`{ public, private }` is one), or the one scalar.
fn words(node: &Node) -> Vec<Node> {
    let scalar = |node: &Node| Some(Node::text(text(node)?, node.at.clone()));
    match &node.value {
        Value::List(items) => items.iter().filter_map(scalar).collect(),
        Value::Table(entries) => entries.iter().map(|(key, entry)| Node::text(key, entry.key_at.clone())).collect(),
        _ => scalar(node).into_iter().collect(),
    }
}

/// A list of the same texts.
fn copied(nodes: &[Node], at: &Origin) -> Node {
    let copies = nodes.iter().filter_map(|node| Some(Node::text(text(node)?, node.at.clone())));
    Node::list(copies.collect(), at.clone())
}

/// Seconds as milliseconds; `None` for no time. What is no number stays for the error to show.
fn milliseconds(node: Node) -> Option<Node> {
    match node.value {
        Value::Integer(0) => None,
        Value::Integer(seconds) => Some(Node::new(Value::Integer(seconds.saturating_mul(1000)), node.at)),
        _ => Some(node),
    }
}

/// A truth value in any of YAML's older words.
fn boolean(node: &Node) -> Option<bool> {
    match text(node)?.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

fn as_boolean(node: Node) -> Node {
    match boolean(&node) {
        Some(value) => Node::new(Value::Bool(value), node.at),
        None => node,
    }
}

/// A table that is taken apart key by key; what is left of it at the end is told of.
struct Section<'a> {
    /// Dotted path, for messages; empty at the top.
    path: String,
    /// What has not been asked for yet.
    entries: Table,
    asked: Vec<&'static str>,
    found: &'a mut Findings,
}

impl Section<'_> {
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a key out, unless nothing is its value.
    fn take(&mut self, key: &'static str) -> Option<Entry> {
        self.asked.push(key);
        self.entries.remove(key).filter(|entry| !matches!(entry.node.value, Value::Null))
    }

    /// Looks into a table within this one; whether it is there.
    fn section(&mut self, key: &'static str, body: impl FnOnce(&mut Section<'_>)) -> bool {
        let path = self.path_of(key);
        let Some(entry) = self.take(key) else { return false };
        let Value::Table(entries) = entry.node.value else {
            self.warn(&entry.key_at, &ignored(&path, "it is no section"));
            return false;
        };
        let mut section = Section { path, entries, asked: Vec::new(), found: self.found };
        body(&mut section);
        section.end();
        true
    }

    /// Takes a key out that has no meaning here, and says why.
    fn ignore(&mut self, key: &'static str, reason: &str) {
        if let Some(entry) = self.take(key) {
            self.warn(&entry.key_at, &ignored(&self.path_of(key), reason));
        }
    }

    /// Takes a path out that can only be what it is by default.
    fn only_path(&mut self, key: &'static str, default: &str) {
        let Some(entry) = self.take(key) else { return };
        // A path of slashes is the default to the original.
        if text(&entry.node).is_some_and(|path| !["", default].contains(&path.trim_matches('/'))) {
            self.warn(&entry.key_at, &ignored(&self.path_of(key), NO_PATH));
        }
    }

    /// Takes the `ssl` table out.
    fn tls(&mut self) {
        let Some(ssl) = self.take("ssl") else { return };
        if let Value::Table(entries) = &ssl.node.value
            && entries.get("enable").is_some_and(|entry| boolean(&entry.node) == Some(true))
        {
            self.warn(&ssl.key_at, &ignored(&self.path_of("ssl"), NO_TLS));
        }
    }

    /// The words of a list that are among `known`; the others are told of.
    fn known_words(&mut self, node: &Node, known: &[&str]) -> Vec<Node> {
        let mut nodes = words(node);
        nodes.retain(|node| {
            let word = text(node).unwrap_or_default();
            let is_known = known.contains(&word);
            if !is_known {
                let hint = nearest(word, known.iter().copied());
                let hint = hint.map_or_else(|| known.join(", "), |near| format!("did you mean {near}?"));
                self.warn(&node.at, &ignored(word, &hint));
            }
            is_known
        });
        nodes
    }

    fn warn(&mut self, at: &Origin, message: &str) {
        self.found.warnings.push(format!("{at}: {message}"));
    }

    /// Tells of every key that nobody asked for.
    fn end(self) {
        for (key, entry) in self.entries {
            // A reference to another section, as `ssl: { *shared }` has it, stands where a key does.
            if key.is_empty() || matches!(entry.node.value, Value::Null) {
                continue;
            }
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let reason = match nearest(&key, self.asked.iter().copied()) {
                Some(near) => format!("there is no such setting; did you mean {near}?"),
                None => "there is no such setting".to_owned(),
            };
            self.found.warnings.push(format!("{}: {}", entry.key_at, ignored(&path, &reason)));
        }
    }
}
