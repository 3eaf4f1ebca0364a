//! What is wrong with a configuration, told all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use super::tree::Origin;

/// Whose mistake a [`ConfigError`] is, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Flags only (`EX_USAGE`, 64).
    Usage,
    /// A file or the environment, perhaps flags as well (`EX_CONFIG`, 78).
    Config,
}

/// Every problem found in the configuration. `Display` prints all of them, each with its place, the line it stands in
/// (secrets left out) and the way out; there is no newline at the end.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// Whether only flags are to blame.
    pub fn kind(&self) -> ErrorKind {
        let by_flag = |problem: &Problem| matches!(problem.at, Origin::Set | Origin::Flag(_));
        if self.problems.iter().all(by_flag) { ErrorKind::Usage } else { ErrorKind::Config }
    }

    /// How many problems there are; never 0.
    pub fn problem_count(&self) -> usize {
        self.problems.len()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong, and where.
#[derive(Debug)]
pub(super) struct Problem {
    at: Origin,
    /// Dotted key, empty where there is none.
    path: String,
    message: String,
    /// Whether the quoted line goes on behind the place: only where the text itself is broken. Elsewhere it stops
    /// there, since what follows a misspelt key may be a secret.
    whole_line: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { at, path, message, .. } = self;
        match at {
            Origin::File(source, span) => {
                let (line, column, text) = source.line_at(span.start);
                let path = if path.is_empty() { String::new() } else { format!(" {path}") };
                write!(f, "{}:{line}:{column}{path}: {message}", source.name)?;
                let width = source.text.get(span.clone()).map_or(0, |marked| marked.chars().count());
                f.write_str(&quote(line, column, width, text, self.whole_line))
            }
            Origin::Default => write!(f, "{path}: {message}"),
            Origin::Whole(_) => f.write_str(message), // it names the file itself
            Origin::Set => write!(f, "--set {path}: {message}"),
            Origin::Legacy(_) | Origin::Env(_) | Origin::Flag(_) => write!(f, "{at}: {message}"),
        }
    }
}

/// The source line with a caret under `width` characters from `column` on.
fn quote(line: usize, column: usize, width: usize, text: &str, whole_line: bool) -> String {
    const SHOWN_CHARS_MAX: usize = 160;
    // Tabs and worse would move the caret, or the terminal.
    let chars: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut end = if whole_line { chars.len() } else { (column - 1 + width).min(chars.len()) };
    if holds_secret(text) {
        end = end.min(chars.iter().position(|c| matches!(c, '=' | ':')).map_or(0, |at| at + 1));
    }
    end = end.min(SHOWN_CHARS_MAX);
    let shown: String = chars[..end].iter().collect();
    let more = if chars[end..].iter().any(|c| !c.is_whitespace()) { " …" } else { "" };
    let mut quoted = format!("\n{line:>5} | {}{more}", shown.trim_end());
    if column <= end + 1 {
        let carets = width.clamp(1, (end + 1 - column).max(1));
        quoted.push_str(&format!("\n      | {}{}", " ".repeat(column - 1), "^".repeat(carets)));
    }
    quoted
}

/// Whether a line of a file may hold something that does not belong into a log: a secret, a token, a URL's password.
fn holds_secret(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.contains("secret") || line.contains("token") || line.contains("://") && line.contains('@')
}

/// What loading has found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Where each key's value comes from, by dotted path; the keys not here have their default.
    pub(super) origins: BTreeMap<String, Origin>,
    /// Files and directories that were looked into, beside those that values name.
    pub(super) files: BTreeSet<PathBuf>,
    failed: BTreeSet<String>,
}

impl Findings {
    /// A text that is not what it should be at all, quoted with its whole line.
    pub(super) fn broken(&mut self, at: Origin, message: impl Into<String>) {
        self.problems.push(Problem { at, path: String::new(), message: message.into(), whole_line: true });
    }

    /// A problem at a place.
    pub(super) fn problem_at(&mut self, at: Origin, path: &str, message: impl Into<String>) {
        self.failed.insert(path.to_owned());
        self.problems.push(Problem { at, path: path.to_owned(), message: message.into(), whole_line: false });
    }

    /// A problem with the value of a key, wherever that comes from.
    pub(super) fn problem(&mut self, path: &str, message: impl Into<String>) {
        self.problem_at(self.origin(path), path, message);
    }

    /// Where the value of a key comes from.
    pub(super) fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// Whether nothing is wrong so far with `path` and what stands under it.
    pub(super) fn is_sound(&self, path: &str) -> bool {
        !self
            .failed
            .iter()
            .any(|failed| failed.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    }

    /// The problems in the order in which a reader meets them, if there are any.
    pub(super) fn into_error(mut self) -> Option<ConfigError> {
        self.problems.sort_by_key(|problem| {
            let offset = if let Origin::File(_, span) = &problem.at { span.start } else { 0 };
            (problem.at.layer(), offset)
        });
        (!self.problems.is_empty()).then_some(ConfigError { problems: self.problems })
    }
}

/// The candidate that `word` is most likely a slip of the pen for.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = (word.len() / 4).max(2).min(word.len().saturating_sub(1));
    let distances = candidates.into_iter().map(|candidate| (edit_distance(word, candidate), candidate));
    distances.min().filter(|(distance, _)| *distance <= slips_max).map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements from one word to another (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let check = |word, expected| {
            assert_eq!(nearest(word, ["outbox_bytes_max", "body_bytes_max", "url"]), expected, "{word}")
        };
        check("outbox_byte_max", Some("outbox_bytes_max"));
        check("ulr", Some("url"));
        check("body_bytes_max", Some("body_bytes_max"));
        check("channels", None);
    }

    #[test]
    fn quoting_leaves_secrets_out() {
        let check = |text, column, width, whole, expected| assert_eq!(quote(7, column, width, text, whole), expected);
        check("port = 5", 8, 1, false, "\n    7 | port = 5\n      |        ^");
        check("secert = \"x\"", 1, 6, false, "\n    7 | secert …\n      | ^^^^^^");
        check("token = 12345", 9, 5, false, "\n    7 | token = …");
        check("a = {token = 1", 15, 0, true, "\n    7 | a = …");
        check("redis = \"redis://:pw@h", 9, 0, true, "\n    7 | redis = …");
        check("a = \tb", 6, 1, true, "\n    7 | a =  b\n      |      ^");
        check("", 1, 0, true, "\n    7 | \n      | ^");
    }
}
