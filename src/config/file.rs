//! Configuration files: TOML or YAML in, a [`Node`] tree out.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned as YamlSpanned, UserMessageFormatter};
use toml::Spanned as TomlSpanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::Findings;
use super::tree::{Entry, Node, Origin, SourceText, Table, Value};

/// Files beyond this size are not configuration. TOML and YAML of this size take milliseconds.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Tables and lists within each other. The deepest value here is four down; the parser recurses, and takes some 30 KB
/// of stack a level when it is not optimised.
const YAML_DEPTH_MAX: usize = 16;

/// What aliases may repeat, in values and brackets.
const YAML_REPEATED_MAX: usize = 10_000;

/// Reads a text file: UTF-8 (a byte order mark is dropped), 1 MiB at most. The error is a phrase that names the file.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let shown = path.display();
    if let Err(error) = read {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file".into(),
            std::io::ErrorKind::PermissionDenied => "permission denied".into(),
            std::io::ErrorKind::IsADirectory => "it is a directory".into(),
            _ => error.to_string(),
        };
        return Err(format!("cannot read {shown}: {reason}"));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("cannot read {shown}: it is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("cannot read {shown}: it is not UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads and parses a configuration file in the format that its name says.
pub(super) fn load(path: &Path, found: &mut Findings) -> Option<Node> {
    let name = path.display().to_string();
    let text = match read_text(path) {
        Ok(text) => text,
        Err(reason) => {
            found.broken(Origin::Whole(name), reason);
            return None;
        }
    };
    let source = Arc::new(SourceText { name: name.clone(), text });
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml(&source, found),
        Some("yaml" | "yml") => yaml(&source, found),
        _ => {
            let message = format!("cannot tell the format of {name}: name the file .toml, .yaml or .yml");
            found.broken(Origin::Whole(name), message);
            None
        }
    }
}

/// Parses TOML.
pub(super) fn toml(source: &Arc<SourceText>, found: &mut Findings) -> Option<Node> {
    match DeTable::parse(&source.text) {
        Ok(table) => {
            let span = table.span();
            let value = Value::Table(toml_table(table.get_ref(), &|span| Origin::File(source.clone(), span)));
            Some(Node::new(value, Origin::File(source.clone(), span)))
        }
        Err(error) => {
            found.broken(Origin::File(source.clone(), error.span().unwrap_or(0..0)), error.message());
            None
        }
    }
}

/// Parses one TOML value that stands alone; `None` if the text is none.
pub(super) fn toml_value(text: &str, at: &Origin) -> Option<Node> {
    DeValue::parse(text).ok().map(|value| toml_node(&value, &|_| at.clone()))
}

fn toml_table(table: &DeTable<'_>, place: &dyn Fn(Range<usize>) -> Origin) -> Table {
    let entry = |(key, value): (&TomlSpanned<DeString<'_>>, _)| {
        (key.get_ref().to_string(), Entry { key_at: place(key.span()), node: toml_node(value, place) })
    };
    table.iter().map(entry).collect()
}

fn toml_node(value: &TomlSpanned<DeValue<'_>>, place: &dyn Fn(Range<usize>) -> Origin) -> Node {
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Other("a number out of range"),
        },
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => Value::List(items.iter().map(|item| toml_node(item, place)).collect()),
        DeValue::Table(table) => Value::Table(toml_table(table, place)),
    };
    Node::new(converted, place(value.span()))
}

/// Parses YAML (1.2). A key without a value counts as not written.
pub(super) fn yaml(source: &Arc<SourceText>, found: &mut Findings) -> Option<Node> {
    let mut root = yaml_with_empty_keys(source, found)?;
    root.drop_empty_keys();
    Some(root)
}

/// Parses YAML (1.2). A key without a value is there, with nothing as its value.
pub(super) fn yaml_with_empty_keys(source: &Arc<SourceText>, found: &mut Findings) -> Option<Node> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: YAML_DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_REPEATED_MAX },
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<YamlSpanned<Yaml>>(&source.text, options) {
        Ok(root) => {
            let mut node = yaml_node(root, source);
            if matches!(node.value, Value::Null) {
                node.value = Value::Table(Table::new());
            }
            if matches!(node.value, Value::Table(_)) {
                return Some(node);
            }
            found.broken(node.at.clone(), format!("expected sections such as `limits:`, found {}", node.describe()));
            None
        }
        Err(error) => {
            let offset = error.location().map_or(0, |location| {
                let chars = usize::try_from(location.span().offset()).unwrap_or(usize::MAX);
                source.text.char_indices().nth(chars).map_or(source.text.len(), |(offset, _)| offset)
            });
            let message = UserMessageFormatter.format_message(&error).into_owned();
            found.broken(Origin::File(source.clone(), offset..offset), message);
            None
        }
    }
}

/// Any YAML value, with the places of all values and keys.
enum Yaml {
    Null,
    Bool(bool),
    Integer(i64),
    Other(&'static str),
    Text(String),
    List(Vec<YamlSpanned<Yaml>>),
    Table(Vec<(YamlSpanned<Key>, YamlSpanned<Yaml>)>),
}

/// A key: its text, or none for one of another type, which goes by the characters it was written with.
struct Key(Option<String>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Yaml::deserialize(deserializer).map(|key| Key(if let Yaml::Text(text) = key { Some(text) } else { None }))
    }
}

fn yaml_node(yaml: YamlSpanned<Yaml>, source: &Arc<SourceText>) -> Node {
    let span = |location: serde_saphyr::Location| {
        let number = |offset: Option<u64>| offset.and_then(|offset| usize::try_from(offset).ok()).unwrap_or(0);
        let start = number(location.span().byte_offset());
        start..start.saturating_add(number(location.span().byte_len()))
    };
    let mut place = span(yaml.referenced);
    let mut raw = None;
    let value = match yaml.value {
        Yaml::Null => Value::Null,
        Yaml::Text(text) => Value::Text(text),
        Yaml::List(items) => {
            // The parser says where a list begins; for a caret under it, its last item says where it ends.
            place.end = items.last().map_or(place.end, |last| span(last.referenced).end.max(place.end));
            Value::List(items.into_iter().map(|item| yaml_node(item, source)).collect())
        }
        Yaml::Table(entries) => {
            let entry = |(key, value): (YamlSpanned<Key>, _)| {
                let key_at = Origin::File(source.clone(), span(key.referenced));
                let written = source.text.get(span(key.defined)).unwrap_or_default();
                (key.value.0.unwrap_or_else(|| written.to_owned()), Entry { key_at, node: yaml_node(value, source) })
            };
            Value::Table(entries.into_iter().map(entry).collect())
        }
        scalar => {
            raw = source.text.get(span(yaml.defined)).map(str::to_owned);
            match scalar {
                Yaml::Bool(value) => Value::Bool(value),
                Yaml::Integer(value) => Value::Integer(value),
                Yaml::Other(words) => Value::Other(words),
                _ => Value::Null, // the other shapes are matched above
            }
        }
    };
    Node { value, at: Origin::File(source.clone(), place), raw }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(i64::try_from(value).map_or(Yaml::Other("a number out of range"), Yaml::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Yaml, E> {
        Ok(Yaml::Other("a number that is not whole"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Yaml::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Yaml, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Yaml::Table(table))
    }
}
