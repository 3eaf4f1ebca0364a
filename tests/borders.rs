//! What the parts of this project never name, and what its documents must: checked in the text of the sources.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A file of this project: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The lines of code with their numbers: without comments, and without the tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let lines = self.text[..tests].lines().enumerate();
        lines.map(|(index, line)| (index + 1, if line.trim_start().starts_with("//") { "" } else { uncommented(line) }))
    }
}

/// A line of code without the comment behind it. What begins a comment here stands after white space, which `//` in a
/// URL does not.
fn uncommented(line: &str) -> &str {
    line.find(" // ").map_or(line, |at| &line[..at])
}

/// Files below a folder, by the ends of their names; without what is built or downloaded.
fn files(folder: &str, ends: &[&str]) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !matches!(name, "target" | "node_modules" | ".git") {
                folders.push(path);
            } else if ends.iter().any(|end| name.ends_with(end)) && path.is_file() {
                let text = fs::read_to_string(&path).unwrap();
                found.push(File { path: path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), text });
            }
        }
    }
    assert!(!found.is_empty(), "no files in {folder}");
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Where code matches, as `path:line: what was found`.
fn places(files: &[File], pattern: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let place = |file: &File, number, line| {
        let found: Vec<&str> = pattern.find_iter(line).map(|found| found.as_str()).collect();
        (!found.is_empty()).then(|| format!("{}:{number}: {}", file.path, found.join(", ")))
    };
    files.iter().flat_map(|file| file.code().filter_map(move |(number, line)| place(file, number, line))).collect()
}

#[track_caller]
fn nowhere(files: &[File], pattern: &str) {
    let places = places(files, pattern);
    assert!(places.is_empty(), "\n{}", places.join("\n"));
}

/// Nowhere but in these files, each of which still has it; the reason stands beside its name.
#[track_caller]
fn only_in(allowed: &[(&str, &str)], files: &[File], pattern: &str) {
    let places = places(files, pattern);
    let is_in = |place: &str, path: &str| {
        place.starts_with(path) && (path.ends_with('/') || place[path.len()..].starts_with(':'))
    };
    let others: Vec<_> = places.iter().filter(|place| !allowed.iter().any(|(path, _)| is_in(place, path))).collect();
    assert!(others.is_empty(), "\n{others:#?}");
    for (path, reason) in allowed {
        assert!(places.iter().any(|place| is_in(place, path)), "{path} needs no exception any more: {reason}");
    }
}

#[test]
fn the_core_knows_no_protocol_no_network_and_no_clock() {
    let core = files("src/core", &[".rs"]);
    nowhere(&core, r"(?i)gusher|pusher|push1st");
    nowhere(&core, r"\b(hyper|hyper_util|tokio|socket2|redis|reqwest|tracing)\b");
    nowhere(&core, r"\bstd::fs\b|\bInstant::now\b|\bSystemTime\b|\bstd::thread\b");
    let net = places(&core, r"\bnet::.*");
    assert!(net.iter().all(|place| place.ends_with(": net::IpAddr;")), "{net:#?}");
}

#[test]
fn protocols_do_not_know_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol");
    let folders = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let names: Vec<String> = folders.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    for name in &names {
        let folder = files(&format!("src/protocol/{name}"), &[".rs"]);
        for other in names.iter().map(String::as_str).chain(["gusher", "pusher", "push1st"]) {
            if other != name {
                nowhere(&folder, &format!("(?i){other}"));
            }
        }
    }
}

#[test]
fn tokens_are_made_and_checked_in_one_place() {
    only_in(&[("src/credential/", "the place")], &files("src", &[".rs"]), r"\bjsonwebtoken\b");
}

#[test]
fn settings_come_from_the_configuration() {
    let src = files("src", &[".rs"]);
    let variables = [
        ("src/config/env.rs", "the place"),
        ("src/cli/sources.rs", "HYDRANT_CONFIG says where the configuration is"),
        ("src/cli/publish.rs", "a command, not the server: HYDRANT_PUBLISH_… keep secrets off its command line"),
        ("src/cli/bench.rs", "a command, not the server: HYDRANT_BENCH_… keep secrets off its command line"),
        ("src/bench/server.rs", "the measured server takes none of the settings of whoever measures it"),
    ];
    only_in(&variables, &src, r#"\benv::vars?(_os)?\(|\benv!\("(HYDRANT|GUSHER)|[(, ]env = ""#);
    let read_or_written = [
        ("src/config/file.rs", "the place"),
        ("src/config/legacy/push1st.rs", "lists the directory in which Push1ST has its apps"),
        ("src/cli/watch.rs", "sees whether a file of the configuration has changed"),
        ("src/cli/serve.rs", "makes the directory of a unix socket"),
        ("src/cli/dev.rs", "writes key files where a flag says"),
        ("src/cli/token.rs", "a command, not the server: reads the key that it is told to sign with"),
        ("src/hooks/lua.rs", "a hook's script, of which only the interpreter can say whether it is one"),
        ("src/shard/listener.rs", "the file of a unix socket"),
        ("src/ops/memory.rs", "how much memory there is: the kernel's word"),
        ("src/bench/", "the measuring client: what the kernel counts, its server's files"),
        ("src/cli/bench.rs", "a command, not the server: its report"),
    ];
    let src: Vec<File> = src.into_iter().filter(|file| file.path != "src/config/tests.rs").collect();
    only_in(
        &read_or_written,
        &src,
        r"\bfs::(read|write|read_to_string|OpenOptions|File|remove|set_|create|metadata)|\bFile::",
    );
}

#[test]
fn nothing_is_unsafe() {
    let rust: Vec<File> = files("", &[".rs"]);
    nowhere(&rust, r#"\bunsafe\b[^"]*$"#);
    for root in ["src/lib.rs", "src/main.rs"] {
        let file = rust.iter().find(|file| file.path == root).unwrap();
        assert!(file.text.contains("#![forbid(unsafe_code)]"), "{root}");
    }
}

#[test]
fn lints_are_switched_off_for_a_reason() {
    let switch = Regex::new(r"#!?\[(allow|expect)\(").unwrap();
    let mut without = Vec::new();
    for file in files("", &[".rs"]) {
        let mut before = "";
        for (index, line) in file.text.lines().enumerate() {
            let has_reason =
                line.contains("reason = \"") || line.contains("// ") || before.trim_start().starts_with("// ");
            if switch.is_match(line) && !line.trim_start().starts_with("//") && !has_reason {
                without.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
            before = line;
        }
    }
    assert!(without.is_empty(), "\n{}", without.join("\n"));
}

// -------------------------------------------------------------- documents

/// A document's text without its blocks of code.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        is_code ^= fence;
        !fence && !is_code
    });
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    Regex::new("`[^`\n]*`").unwrap().replace_all(&text, "").into_owned()
}

/// The names that a document's headings can be linked by.
fn anchors(text: &str) -> Vec<String> {
    let mut is_code = false;
    let headings = text.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let name = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    };
    headings.map(name).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let elsewhere = Regex::new("^[a-z]+:").unwrap();
    let mut broken = Vec::new();
    for file in files("", &[".md"]) {
        for found in link.captures_iter(&prose(&file.text)) {
            let target = &found[1];
            if elsewhere.is_match(target) {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => root.join(&file.path),
                path => root.join(&file.path).parent().unwrap().join(path),
            };
            let is_there = |path: &PathBuf| match anchor {
                "" => path.exists(),
                anchor => fs::read_to_string(path).is_ok_and(|text| anchors(&text).iter().any(|name| name == anchor)),
            };
            if !is_there(&path) {
                broken.push(format!("{}: {target}", file.path));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

// ------------------------------------------------------- of these checks

#[test]
fn what_the_checks_see() {
    let text =
        "use tokio::net; // tokio\n// tokio\nlet url = \"http://tokio\";\n#[cfg(test)]\nmod tests {\n use tokio;\n}\n";
    let file = File { path: "a.rs".to_owned(), text: text.to_owned() };
    assert_eq!(places(&[file], "tokio"), ["a.rs:1: tokio", "a.rs:3: tokio"]);
    assert_eq!(prose("a `b` c\n```\nd\n```\ne\n"), "a  c\ne\n");
    assert_eq!(anchors("# A b\n```\n# no\n```\n## `C`, d-e!\n"), ["a-b", "c-d-e"]);
}
