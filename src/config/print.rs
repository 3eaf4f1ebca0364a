//! The effective configuration as TOML, each line with its origin.

use std::ops::RangeInclusive;

use super::Loaded;
use super::keys::{self, Walk};
use super::values::{Number, Setting};

/// The whole configuration as TOML: every key with the value in effect and, as a comment, where that comes from.
/// Secrets are masked; otherwise the text is a configuration file with the same meaning. It ends with a newline.
pub fn print_effective(loaded: &Loaded) -> String {
    let mut printing = Printing { loaded, path: String::new(), text: String::new(), is_absent: false };
    keys::config(&mut printing, &mut loaded.config.clone());
    printing.text
}

/// A walk that writes each key down.
struct Printing<'a> {
    loaded: &'a Loaded,
    /// Dotted path of the table that is being written; empty at the top.
    path: String,
    text: String,
    /// Whether this table is there for the reader only.
    is_absent: bool,
}

impl Printing<'_> {
    /// Writes a table: `header` in its brackets.
    fn within(&mut self, header: &str, path: String, body: impl FnOnce(&mut Self)) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(header);
        let outer = std::mem::replace(&mut self.path, path);
        body(self);
        self.path = outer;
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn line(&mut self, line: &str) {
        let comment = if self.is_absent { "# " } else { "" };
        self.text.push_str(&format!("{comment}{line}\n"));
    }

    /// Writes a key down; whether it has a value.
    fn write<T: Setting>(&mut self, name: &str, value: &T) -> bool {
        let Some(value) = value.write() else { return false };
        let origin = self.loaded.origin(&self.path_of(name));
        self.line(&format!("{name} = {value}  # {origin}"));
        true
    }
}

impl Walk for Printing<'_> {
    fn table(&mut self, name: &'static str, body: impl FnOnce(&mut Self)) {
        let path = self.path_of(name);
        self.within(&format!("[{path}]"), path, body);
    }

    fn optional_table(&mut self, name: &'static str, present: bool, body: impl FnOnce(&mut Self)) {
        self.is_absent = !present;
        self.table(name, body);
        self.is_absent = false;
    }

    fn list<T>(&mut self, name: &'static str, items: &mut Vec<T>, _: impl Fn() -> T, body: impl Fn(&mut Self, &mut T)) {
        let path = self.path_of(name);
        if items.is_empty() {
            let header = keys::header(&path);
            self.text.push_str(&format!("\n# no [[{header}]]  # {}\n", self.loaded.origin(&path)));
        }
        for (index, item) in items.iter_mut().enumerate() {
            let item_path = format!("{path}[{index}]");
            let header = format!("[[{}]]  # {}", keys::header(&path), self.loaded.origin(&item_path));
            self.within(&header, item_path, |printing| body(printing, item));
        }
    }

    fn key<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        self.write(name, value);
    }

    fn required<T: Setting>(&mut self, name: &'static str, value: &mut T) {
        self.write(name, value);
    }

    fn number<T: Number>(&mut self, name: &'static str, _: RangeInclusive<u64>, value: &mut T) {
        self.write(name, value);
    }

    fn either<A: Setting, B: Setting>(
        &mut self,
        one: (&'static str, &mut Option<A>),
        other: (&'static str, &mut Option<B>),
    ) {
        if !self.write(one.0, one.1) && !self.write(other.0, other.1) {
            let absent = std::mem::replace(&mut self.is_absent, true);
            self.line(&format!("no {} or {}  # default", one.0, other.0));
            self.is_absent = absent;
        }
    }
}
