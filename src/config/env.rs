//! `HYDRANT_*` variables, `--set key=value`, and files of variables.

use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, Findings, nearest};
use super::file::{read_text, toml_value};
use super::tree::{Node, Origin, SourceText, Value};

/// Variables of the command line, not settings.
const OTHERS: [&str; 5] = ["CONFIG", "PUBLISH_SECRET", "PUBLISH_TOKEN", "BENCH_SECRET", "BENCH_JWT"];
const PREFIX: &str = "HYDRANT_";

/// The environment of this process, with what is not UTF-8 replaced.
pub fn process_env() -> Vec<(String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// The tree that the `HYDRANT_*` variables among `vars` describe. `known` are the dotted paths that may be set; a
/// variable beside them is a problem. An empty variable counts as not set.
pub(super) fn variables(vars: &[(String, String)], known: &[String], found: &mut Findings) -> Node {
    let mut tree = Node::empty();
    for (name, value) in vars {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if OTHERS.contains(&rest) || is_service_link(rest, value) {
            continue;
        }
        let at = Origin::Env(name.clone());
        let Some(path) = known.iter().find(|path| variable(path) == *name) else {
            let names: Vec<String> = known.iter().map(|path| variable(path)).collect();
            let hint = match nearest(name, names.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => "names are HYDRANT_<SECTION>__<KEY>, as in HYDRANT_LIMITS__OUTBOX_BYTES_MAX".into(),
            };
            found.problem_at(at, "", format!("no such setting; {hint}"));
            continue;
        };
        if !value.is_empty() {
            tree.overlay(Node::nested(path, untyped(value, at)));
        }
    }
    tree
}

/// The tree that `--set key=value` flags describe; `known` as in [`variables`].
pub(super) fn set_flags(flags: &[String], known: &[String], found: &mut Findings) -> Node {
    let mut tree = Node::empty();
    for flag in flags {
        let Some((path, value)) = flag.split_once('=') else {
            found.problem_at(Origin::Set, flag, "expected KEY=VALUE, as in limits.outbox_bytes_max=65536");
            continue;
        };
        let path = path.trim();
        if known.iter().any(|known| known == path) {
            tree.overlay(Node::nested(path, untyped(value.trim(), Origin::Set)));
            continue;
        }
        let hint = match nearest(path, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "keys are dotted, as in limits.outbox_bytes_max; lists are given whole".into(),
        };
        found.problem_at(Origin::Set, path, format!("no such key; {hint}"));
    }
    tree
}

/// The variable that sets a dotted path.
fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// A value without a type of its own: TOML if it is that, else text.
fn untyped(text: &str, at: Origin) -> Node {
    let mut node = toml_value(text.trim(), &at).unwrap_or_else(|| Node::text(text, at));
    if !matches!(node.value, Value::Text(_)) {
        node.raw = Some(text.to_owned());
    }
    node
}

/// Whether a variable (its prefix taken off) comes from Kubernetes, which tells every container about each service in
/// its namespace: `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT=tcp://…`, `<SERVICE>_PORT_6001_TCP_ADDR`. A service named
/// after the program must not keep it from starting.
pub(super) fn is_service_link(rest: &str, value: &str) -> bool {
    let is_port =
        |rest: &str| rest.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest == "PORT" && value.contains("://")
        || is_port(rest)
}

/// Reads a file of variables, one a line: `NAME=value` or `export NAME=value`. A value may be in single quotes, as it
/// is, or in double quotes, with `\n`, `\"`, `\\` and `\$`. `#` begins a comment, on its own line or after white space.
pub fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Findings::default();
    let name = path.display().to_string();
    let vars = match read_text(path) {
        Ok(text) => env_file(&Arc::new(SourceText { name, text }), &mut found),
        Err(reason) => {
            found.broken(Origin::Whole(name), reason);
            Vec::new()
        }
    };
    found.into_error().map_or(Ok(vars), Err)
}

pub(super) fn env_file(source: &Arc<SourceText>, found: &mut Findings) -> Vec<(String, String)> {
    let mut vars = Vec::new();
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        let at = Origin::File(source.clone(), start..start);
        start += line.len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        // The line itself is not quoted: it may be a secret.
        match line.split_once('=') {
            None => found.problem_at(at, "", "expected NAME=value"),
            Some((name, value)) => match (is_name(name.trim_end()), unquote(value)) {
                (false, _) => found.problem_at(at, "", "expected NAME=value, with a name of A-Z, 0-9 and _"),
                (true, Err(reason)) => found.problem_at(at, name.trim_end(), reason),
                (true, Ok(value)) => vars.push((name.trim_end().to_owned(), value)),
            },
        }
    }
    vars
}

fn is_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_word) && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The value of a variable, without its quotes or the comment behind it.
fn unquote(value: &str) -> Result<String, &'static str> {
    let mut chars = value.trim_start().chars();
    let Some(quote) = chars.next().filter(|c| matches!(c, '\'' | '"')) else {
        let is_comment = |at: &usize| value[..*at].ends_with(|c: char| c.is_whitespace());
        let end = value.match_indices('#').map(|(at, _)| at).find(is_comment).unwrap_or(value.len());
        return Ok(value[..end].trim().to_owned());
    };
    let mut text = String::new();
    loop {
        match chars.next() {
            None => return Err("the quote is not closed on this line"),
            Some(c) if c == quote => break,
            Some('\\') if quote == '"' => match chars.next() {
                Some('n') => text.push('\n'),
                Some(c @ ('"' | '\\' | '$')) => text.push(c),
                _ => return Err("in double quotes, a backslash stands before n, \", \\ or $ only"),
            },
            Some(c) => text.push(c),
        }
    }
    let rest = chars.as_str().trim_start();
    if rest.is_empty() || rest.starts_with('#') { Ok(text) } else { Err("something stands behind the closing quote") }
}
