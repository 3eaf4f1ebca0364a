//! Flags with a name of their own.

use std::path::PathBuf;

use super::error::Findings;
use super::tree::{Node, Origin, Value};
use super::values::Door;
use super::{Config, keys};

/// Flags with a name of their own. An address is written as in a file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--public`: moves the default listener with the door `gusher`.
    pub public: Option<String>,
    /// `--trusted`: moves the default listener with the door `gusher-master`.
    pub trusted: Option<String>,
    /// `--ops`: moves the default listener with the door `ops`.
    pub ops: Option<String>,
    /// `--app`: `ID:KEY:SECRET` each (`ID:KEY` without secret); if any, they are all the apps there are.
    pub apps: Vec<String>,
    /// `--gusher-public-key`: a PEM file, the only one of `gusher.public_keys`.
    pub gusher_public_key: Option<PathBuf>,
}

impl Overrides {
    /// The tree that these flags describe, to be laid over `below`.
    pub(super) fn to_tree(&self, below: &Node, found: &mut Findings) -> Node {
        let mut tree = Node::empty();
        if let Some(listen) = self.listen(below, found) {
            tree.overlay(Node::nested("listen", listen));
        }
        if !self.apps.is_empty() {
            let apps = self.apps.iter().filter_map(|flag| app(flag, found)).collect();
            tree.overlay(Node::nested("apps", Node::list(apps, Origin::Flag("--app"))));
        }
        if let Some(path) = &self.gusher_public_key {
            let at = Origin::Flag("--gusher-public-key");
            let keys = Node::list(vec![Node::text(path.to_string_lossy(), at.clone())], at);
            tree.overlay(Node::nested("gusher.public_keys", keys));
        }
        tree
    }

    /// The default listeners with their addresses replaced, if any is.
    fn listen(&self, below: &Node, found: &mut Findings) -> Option<Node> {
        let moves = [
            (Door::GusherClient, "--public", &self.public),
            (Door::GusherMaster, "--trusted", &self.trusted),
            (Door::Ops, "--ops", &self.ops),
        ];
        let first = moves.iter().find(|(_, _, address)| address.is_some())?;
        if let Value::Table(keys) = &below.value
            && let Some(listen) = keys.get("listen")
        {
            let place = &listen.node.at;
            let advice = format!("it moves a default listener, but {place} says where to listen: change it there");
            found.problem_at(Origin::Flag(first.1), "", advice);
            return None;
        }
        let listeners = Config::default().listen.into_iter().map(|listener| {
            let moved = moves.iter().find(|(door, _, address)| address.is_some() && listener.doors.contains(door));
            let address = match moved {
                Some((_, flag, Some(address))) => Node::text(address, Origin::Flag(flag)),
                _ => Node::text(listener.address.to_string(), Origin::Default),
            };
            keys::listener(address, &listener.doors, listener.trusted, &Origin::Default)
        });
        Some(Node::list(listeners.collect(), Origin::Flag(first.1)))
    }
}

fn app(flag: &str, found: &mut Findings) -> Option<Node> {
    let at = Origin::Flag("--app");
    let mut parts = flag.splitn(3, ':');
    let (Some(id), Some(key)) = (parts.next(), parts.next()) else {
        found.problem_at(at, "", "expected ID:KEY:SECRET");
        return None;
    };
    let secret = parts.next().map(|secret| ("secret", Node::text(secret, at.clone())));
    let names = [("id", Node::text(id, at.clone())), ("key", Node::text(key, at.clone()))];
    Some(Node::table(names.into_iter().chain(secret), at))
}
