//! From a tree of values to a [`Config`]: types, ranges, unknown and missing keys.

use std::ops::RangeInclusive;

use super::Config;
use super::error::{Findings, nearest};
use super::keys::{self, Walk};
use super::tree::{Entry, Node, Origin, Table, Value};
use super::values::{Number, Setting};

/// Reads `tree` over the defaults in `config`, noting where each value comes from. Keys with a problem keep their
/// default.
pub(super) fn config(tree: Node, config: &mut Config, found: &mut Findings) {
    let Value::Table(table) = tree.value else { return }; // every source is a table
    let mut reading = Reading { table, path: String::new(), asked: Vec::new(), found };
    keys::config(&mut reading, config);
    reading.unknown_keys();
}

/// A walk that takes the values of one table, and in turn of each one within it.
struct Reading<'a> {
    /// What has not been asked for yet.
    table: Table,
    /// Dotted path of this table; empty at the top.
    path: String,
    /// The keys that have been asked for.
    asked: Vec<&'static str>,
    found: &'a mut Findings,
}

impl Reading<'_> {
    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Takes a key out of the table and notes where its value comes from.
    fn take(&mut self, name: &'static str) -> Option<Node> {
        self.asked.push(name);
        let Entry { node, .. } = self.table.remove(name)?;
        self.found.origins.insert(self.path_of(name), node.at.clone());
        Some(node)
    }

    fn read<T: Setting>(&mut self, name: &str, node: &Node) -> Option<T> {
        match T::read(node) {
            Ok(value) => Some(value),
            Err(wrongs) => {
                for wrong in wrongs {
                    self.found.problem_at(wrong.at, &self.path_of(name), wrong.message);
                }
                None
            }
        }
    }

    fn read_to<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        if let Some(node) = self.take(name)
            && let Some(read) = self.read(name, &node)
        {
            *value = read;
        }
    }

    /// Walks over a table within this one.
    fn within(&mut self, table: Table, path: String, body: impl FnOnce(&mut Self)) {
        let outer_table = std::mem::replace(&mut self.table, table);
        let outer_path = std::mem::replace(&mut self.path, path);
        let outer_asked = std::mem::take(&mut self.asked);
        body(self);
        self.unknown_keys();
        (self.table, self.path, self.asked) = (outer_table, outer_path, outer_asked);
    }

    /// Complains about what nobody asked for.
    fn unknown_keys(&mut self) {
        for (name, Entry { key_at, .. }) in std::mem::take(&mut self.table) {
            let hint = match nearest(&name, self.asked.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => match keys::all().into_iter().find(|path| path.rsplit('.').next() == Some(&name)) {
                    Some(elsewhere) => format!("it belongs to `{elsewhere}`"),
                    None => "hydrant.example.toml has them all".into(),
                },
            };
            self.found.problem_at(key_at, &self.path_of(&name), format!("no such key; {hint}"));
        }
    }

    fn missing(&mut self, name: &str) {
        let at = self.found.origin(&self.path);
        let path = self.path.clone();
        self.found.problem_at(at, &path, format!("`{name}` is missing"));
    }
}

impl Walk for Reading<'_> {
    fn table(&mut self, name: &'static str, body: impl FnOnce(&mut Self)) {
        let path = self.path_of(name);
        let table = match self.take(name) {
            None => Table::new(),
            Some(Node { value: Value::Table(table), .. }) => table,
            Some(node) => {
                let message = format!("expected a section, as in [{path}], found {}", node.kind());
                self.found.problem_at(node.at, &path, message);
                Table::new()
            }
        };
        self.within(table, path, body);
    }

    fn optional_table(&mut self, name: &'static str, _: bool, body: impl FnOnce(&mut Self)) {
        self.table(name, body);
    }

    fn list<T>(
        &mut self,
        name: &'static str,
        items: &mut Vec<T>,
        blank: impl Fn() -> T,
        body: impl Fn(&mut Self, &mut T),
    ) {
        let Some(node) = self.take(name) else { return };
        let path = self.path_of(name);
        let Value::List(nodes) = node.value else {
            let message = format!("expected a list, as in [[{}]], found {}", keys::header(&path), node.kind());
            return self.found.problem_at(node.at, &path, message);
        };
        items.clear();
        for (index, node) in nodes.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.found.origins.insert(path.clone(), node.at.clone());
            let mut item = blank();
            match node.value {
                Value::Table(table) => self.within(table, path, |reading| body(reading, &mut item)),
                _ => {
                    let message = format!("expected a table, as in {{ … }}, found {}", node.kind());
                    self.found.problem_at(node.at, &path, message);
                }
            }
            items.push(item);
        }
    }

    fn key<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        self.read_to(name, value);
    }

    fn required<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        if !self.table.contains_key(name) {
            self.missing(name);
        }
        self.read_to(name, value);
    }

    fn number<T: Number>(&mut self, name: &'static str, range: RangeInclusive<u64>, value: &mut T) {
        let Some(node) = self.take(name) else { return };
        let Some(read) = self.read::<T>(name, &node) else { return };
        let bound = match read.count() {
            count if count < *range.start() => format!("must be at least {}", range.start()),
            count if count > *range.end() => format!("must be at most {}", range.end()),
            _ => {
                *value = read;
                return;
            }
        };
        self.found.problem_at(node.at, &self.path_of(name), bound);
    }

    fn either<A: Setting, B: Setting>(
        &mut self,
        one: (&'static str, &mut Option<A>),
        other: (&'static str, &mut Option<B>),
    ) {
        let layer = |entry: Option<&Entry>| entry.map(|entry| entry.node.at.layer());
        let (first, second) = (layer(self.table.get(one.0)), layer(self.table.get(other.0)));
        if first.is_some() && first == second {
            let at = self.table.get(other.0).map_or(Origin::Default, |entry| entry.key_at.clone());
            let message = format!("`{}` and `{}` exclude each other: keep one of them", one.0, other.0);
            self.found.problem_at(at, &self.path_of(other.0), message);
        }
        // `None` is below every layer, so the weaker one is taken away only if both are there.
        let weaker = if first < second { one.0 } else { other.0 };
        if first != second {
            self.table.remove(weaker);
        }
        self.read_to(one.0, one.1);
        self.read_to(other.0, other.1);
    }
}
