//! What a source said, before it means anything: a tree of values, each of which knows where it was written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that was read, kept for the lines that errors quote.
pub(super) struct SourceText {
    /// The file's name as it was given.
    pub(super) name: String,
    pub(super) text: String,
}

impl fmt::Debug for SourceText {
    /// The name only: the text may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl SourceText {
    /// Line and column of a byte offset, both from 1, and that line's text. Any offset is good: it is clamped.
    pub(super) fn line_at(&self, offset: usize) -> (usize, usize, &str) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let start = self.text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or("");
        let number = self.text[..start].matches('\n').count() + 1;
        (number, self.text[start..offset].chars().count() + 1, line)
    }
}

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// Nowhere: the built-in value.
    Default,
    /// A variable of another server, by name, or what else stands for one of its settings.
    Legacy(String),
    /// Bytes of a configuration file.
    File(Arc<SourceText>, Range<usize>),
    /// A file as a whole, by name: it could not be read.
    Whole(String),
    /// A `HYDRANT_*` variable, by name.
    Env(String),
    /// `--set`.
    Set,
    /// Another flag, with its dashes.
    Flag(&'static str),
}

impl Origin {
    /// The source's place in the order in which sources override each other.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::Legacy(_) => 1,
            Origin::File(..) | Origin::Whole(_) => 2,
            Origin::Env(_) => 3,
            Origin::Set => 4,
            Origin::Flag(_) => 5,
        }
    }

    /// A path as this source means it: one in a file is relative to that file, any other to the working directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        match self {
            Origin::File(source, _) => Path::new(&source.name).parent().unwrap_or(Path::new("")).join(path),
            _ => PathBuf::from(path),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Legacy(name) | Origin::Whole(name) => f.write_str(name),
            Origin::File(source, span) => write!(f, "{}:{}", source.name, source.line_at(span.start).0),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Set => f.write_str("--set"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value and where it was written.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Origin,
    /// The characters of an unquoted scalar (environment, `--set`, YAML), for a key that wants text after all: there
    /// `0660` and `no` are as good as `"0660"` and `"no"`.
    pub(super) raw: Option<String>,
}

/// The shapes that every source has in common.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// A scalar that no key wants, in words.
    Other(&'static str),
    Text(String),
    List(Vec<Node>),
    Table(Table),
}

/// Keys with their values.
pub(super) type Table = BTreeMap<String, Entry>;

/// One key of a table.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where the key itself was written.
    pub(super) key_at: Origin,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn new(value: Value, at: Origin) -> Node {
        Node { value, at, raw: None }
    }

    /// A source that says nothing.
    pub(super) fn empty() -> Node {
        Node::new(Value::Table(Table::new()), Origin::Default)
    }

    pub(super) fn text(text: impl Into<String>, at: Origin) -> Node {
        Node::new(Value::Text(text.into()), at)
    }

    pub(super) fn list(items: Vec<Node>, at: Origin) -> Node {
        Node::new(Value::List(items), at)
    }

    /// A table with these keys, all written at the same place as their values.
    pub(super) fn table<'a>(entries: impl IntoIterator<Item = (&'a str, Node)>, at: Origin) -> Node {
        let entries = entries.into_iter().map(|(key, node)| (key.to_owned(), Entry { key_at: node.at.clone(), node }));
        Node::new(Value::Table(entries.collect()), at)
    }

    /// The tables around a dotted path, with `leaf` at its end.
    pub(super) fn nested(path: &str, leaf: Node) -> Node {
        path.rsplit('.').fold(leaf, |node, key| {
            let at = node.at.clone();
            Node::table([(key, node)], at)
        })
    }

    /// Lays a source that counts more over this one: tables key by key, everything else replaced whole.
    pub(super) fn overlay(&mut self, above: Node) {
        match (&mut self.value, above) {
            (Value::Table(below), Node { value: Value::Table(above), .. }) => {
                for (key, entry) in above {
                    match below.entry(key) {
                        Slot::Vacant(slot) => {
                            slot.insert(entry);
                        }
                        Slot::Occupied(mut slot) => {
                            slot.get_mut().key_at = entry.key_at;
                            slot.get_mut().node.overlay(entry.node);
                        }
                    }
                }
            }
            (_, above) => *self = above,
        }
    }

    /// Whether this is a table that has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        matches!(&self.value, Value::Table(entries) if entries.contains_key(key))
    }

    /// Takes out the keys that have nothing as their value.
    pub(super) fn drop_empty_keys(&mut self) {
        match &mut self.value {
            Value::Table(entries) => {
                entries.retain(|_, entry| !matches!(entry.node.value, Value::Null));
                entries.values_mut().for_each(|entry| entry.node.drop_empty_keys());
            }
            Value::List(items) => items.iter_mut().for_each(Node::drop_empty_keys),
            _ => {}
        }
    }

    /// The value in words, for "expected …, found …".
    pub(super) fn describe(&self) -> String {
        const SHOWN_CHARS_MAX: usize = 60;
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => format!("the whole number {value}"),
            Value::Other(words) => (*words).into(),
            Value::Text(text) if text.chars().count() > SHOWN_CHARS_MAX => "a longer text".into(),
            Value::Text(text) => format!("the text {text:?}"),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
        }
    }

    /// What kind of value it is, in words that hold nothing of it: for what may be, or hold, a secret.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) => "a number",
            Value::Other(words) => words,
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}
