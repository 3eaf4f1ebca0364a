//! What one configuration has that another has not, and which of that a running node can take over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::keys::{self, Walk};
use super::values::{Number, Setting};
use super::{Config, Loaded};

/// The beginnings of the paths whose values a node takes from its configuration once, at its start.
const STARTED_WITH: [&str; 6] = ["node.", "listen", "gusher.remote.", "proxy.", "shutdown.", "log."];

/// The ends of the paths among them of which a running node takes over another value.
const RENEWED: [&str; 2] = [".tls_certificate", ".tls_key"];

/// What has changed from one configuration to another.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// Each change, in the order of its paths; empty if the two mean the same.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted path of a key or of an item; apps go by their ids (`apps[shop].enabled`), other items by their place
    /// (`listen[0]`).
    pub path: String,
    /// What happened.
    pub what: What,
    /// Whether only a restart brings it into force.
    pub needs_restart: bool,
}

/// What happened to a part of the configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// A list has a new item.
    Added,
    /// A list has lost an item.
    Removed,
    /// A key has another value: the old and the new one as in a file, secrets masked; `None` is not set.
    Changed(Option<String>, Option<String>),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.what {
            What::Added => write!(f, "{path} added"),
            What::Removed => write!(f, "{path} removed"),
            // the mask over two secrets, or a file with something else in it
            What::Changed(old, new) if old == new => write!(f, "{path} changed"),
            What::Changed(old, new) => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                write!(f, "{path}: {} -> {}", shown(old), shown(new))
            }
        }
    }
}

/// What is different in `new`.
pub fn difference(old: &Loaded, new: &Loaded) -> Difference {
    let (old, new) = (Values::of(&old.config), Values::of(&new.config));
    let lone: Vec<&String> = old.items.symmetric_difference(&new.items).collect();
    // of an item that has come or gone, nothing within is told
    let is_told = |path: &&String| !lone.iter().any(|item| is_within(path, item));
    let mut changes = BTreeMap::new();
    for item in lone.iter().copied().filter(is_told) {
        changes.insert(item, if new.items.contains(item) { What::Added } else { What::Removed });
    }
    for path in old.values.keys().chain(new.values.keys()).filter(is_told) {
        let (before, after) = (old.values.get(path), new.values.get(path));
        if before.map(|value| &value.identity) != after.map(|value| &value.identity) {
            let shown = |value: Option<&Value>| value.map(|value| value.shown.clone());
            changes.insert(path, What::Changed(shown(before), shown(after)));
        }
    }
    let change = |(path, what): (&String, What)| {
        let is_other_certificate = matches!(what, What::Changed(Some(_), Some(_)))
            && path.starts_with("listen")
            && RENEWED.iter().any(|end| path.ends_with(end));
        let needs_restart = STARTED_WITH.iter().any(|start| path.starts_with(start)) && !is_other_certificate;
        Change { path: path.clone(), what, needs_restart }
    };
    Difference { changes: changes.into_iter().map(change).collect() }
}

/// Whether a path stands under an item of a list.
fn is_within(path: &str, item: &str) -> bool {
    path.strip_prefix(item).is_some_and(|rest| rest.starts_with('.'))
}

/// Every value of a configuration by its path.
#[derive(Default)]
pub(super) struct Values {
    path: String,
    values: BTreeMap<String, Value>,
    /// Paths of the items of lists.
    items: BTreeSet<String>,
    /// Every file that a value was read from.
    pub(super) files: Vec<PathBuf>,
}

struct Value {
    shown: String,
    identity: String,
}

impl Values {
    pub(super) fn of(config: &Config) -> Values {
        let mut values = Values::default();
        keys::config(&mut values, &mut config.clone());
        values
    }

    fn within(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        let outer = self.path.len();
        self.path.push_str(&format!("{name}."));
        body(self);
        self.path.truncate(outer);
    }

    fn note<T: Setting>(&mut self, name: &str, value: &T) {
        value.files(&mut self.files);
        if let (Some(shown), Some(identity)) = (value.write(), value.identity()) {
            self.values.insert(format!("{}{name}", self.path), Value { shown, identity });
        }
    }
}

impl Walk for Values {
    fn table(&mut self, name: &'static str, body: impl FnOnce(&mut Self)) {
        self.within(name, body);
    }

    fn optional_table(&mut self, name: &'static str, present: bool, body: impl FnOnce(&mut Self)) {
        if present {
            self.within(name, body);
        }
    }

    fn list<T>(&mut self, name: &'static str, items: &mut Vec<T>, _: impl Fn() -> T, body: impl Fn(&mut Self, &mut T)) {
        for (index, item) in items.iter_mut().enumerate() {
            let mut alone = Values::default();
            body(&mut alone, item);
            let id = alone.values.get("id").map(|id| id.shown.trim_matches('"').to_owned());
            let label = format!("{name}[{}]", id.unwrap_or_else(|| index.to_string()));
            self.items.insert(format!("{}{label}", self.path));
            self.within(&label, |values| body(values, item));
        }
    }

    fn key<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        self.note(name, value);
    }

    fn required<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        self.note(name, value);
    }

    fn number<T: Number>(&mut self, name: &'static str, _: RangeInclusive<u64>, value: &mut T) {
        self.note(name, value);
    }

    fn either<A: Setting, B: Setting>(
        &mut self,
        one: (&'static str, &mut Option<A>),
        other: (&'static str, &mut Option<B>),
    ) {
        self.note(one.0, one.1);
        self.note(other.0, other.1);
    }
}
