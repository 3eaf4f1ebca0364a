//! Configurations of other servers, read as if they were written for this one.

pub(super) mod gusher;
pub(super) mod laravel;
pub(super) mod push1st;
pub(super) mod soketi;

use super::error::Findings;
use super::tree::{Node, Origin};
use super::values::Door;
use super::{Config, Listener, keys};

/// Environment variables. An empty one counts as not set, and of two with one name the later counts.
#[derive(Clone, Copy)]
struct Vars<'a>(&'a [(String, String)]);

impl<'a> Vars<'a> {
    fn get(self, name: &str) -> Option<&'a str> {
        let given = self.0.iter().rev().find(|(given, value)| given == name && !value.is_empty());
        given.map(|(_, value)| value.trim())
    }
}

/// The default listener for operations, which other servers do not have.
fn ops_listener() -> Option<Node> {
    let is_ops = |listener: &Listener| listener.doors == [Door::Ops];
    let ops = Config::default().listen.into_iter().find(is_ops)?;
    let address = Node::text(ops.address.to_string(), Origin::Default);
    Some(keys::listener(address, &ops.doors, ops.trusted, &Origin::Default))
}

/// A list of texts.
fn texts(texts: &[&str], at: &Origin) -> Node {
    Node::list(texts.iter().map(|text| Node::text(*text, at.clone())).collect(), at.clone())
}

/// `allow` of a trusted listener that was open to everybody, and stays so; `name` says by what.
/// [`warn_of_open_listeners`] finds it.
fn everybody(name: &str) -> Node {
    texts(&["0.0.0.0/0", "::/0"], &Origin::Legacy(name.to_owned()))
}

/// Says so if a trusted listener is as open as the original's, unless another source has the last word on it.
pub(super) fn warn_of_open_listeners(config: &Config, found: &mut Findings) {
    for (index, listener) in config.listen.iter().enumerate() {
        if let Origin::Legacy(name) = found.origin(&format!("listen[{index}].allow")) {
            let (whose, way_out) = match listener.doors.contains(&Door::Push1st) {
                true => ("the API", "name who may in `api.whitelist`, listen on loopback (`tcp://127.0.0.1:6002`)"),
                false => ("the master's API", "listen on loopback (GUSHER_MASTER_API_LISTEN=127.0.0.1:7777)"),
            };
            found.warnings.push(format!(
                "{name}: {whose} on {} knows no credentials and is open to whoever reaches it, as it was. To close it, \
                 {way_out}, or write the listeners into a configuration file with `allow` or `token`",
                listener.address
            ));
        }
    }
}

/// An address without the one name that is sure to mean the same everywhere; the originals resolve names.
fn resolved(address: &str) -> String {
    address.strip_prefix("localhost:").map_or_else(|| address.to_owned(), |port| format!("127.0.0.1:{port}"))
}
