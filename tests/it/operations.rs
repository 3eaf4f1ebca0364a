//! What an operator sees is what the documentation says.

use std::collections::BTreeSet;

use crate::client::{connect, get, metric, metrics, start};
use crate::http;

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// The first cell of each row that names such a thing in code.
fn documented(prefix: &str) -> BTreeSet<String> {
    let cells = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    let names = cells.flat_map(|(cell, _)| cell.split(", ").map(|name| name.trim_matches('`').to_owned()));
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn every_metric_is_documented_and_of_its_kind() {
    let server = start(&[("apps", "[{id = \"a\", key = \"a\"}]")]);
    let response = get(server.addresses.ops, "/metrics");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(response.header("Content-Type"), Some(kind));
    let text = String::from_utf8(response.body).unwrap();
    let told: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    assert_eq!(told, documented("hydrant_"));
    for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        let row = DOCUMENT.lines().find(|line| line.starts_with(&format!("| `{name}"))).unwrap();
        assert!(row.contains(&format!(" | {kind} | ")), "{name} is a {kind}");
    }
    // the last bucket of a histogram holds all
    let metrics = metrics(&server);
    assert_eq!(metrics["turn_seconds_bucket{le=\"+Inf\"}"], metrics["turn_seconds_count"]);
    for (family, label) in [("connections_closed_total", "client"), ("rejections_total", "not_permitted")] {
        let begin = format!("{family}{{reason=\"");
        let reasons = metrics.keys().filter_map(|name| name.strip_prefix(&begin)?.strip_suffix("\"}"));
        let known = documented("");
        let missing: Vec<&str> = reasons.filter(|reason| !known.contains(*reason)).collect();
        assert!(missing.is_empty() && known.contains(label), "{family}: {missing:?}");
    }
    assert_eq!(metrics["app_connections{app=\"a\"}"], 0.0);
    let socket = connect(&server, "u1");
    assert_eq!(metric(&server, "app_connections{app=\"a\"}"), 1.0);
    drop(socket);
}

#[test]
fn hooks_are_looked_after_on_the_ops_listener() {
    let server = start(&[]);
    let ask = |method: &str, path: &str, body: &str| {
        let response = http::request(server.addresses.ops, method, path, &[], body.as_bytes()).unwrap();
        let allow = response.header("Allow").unwrap_or_default().to_owned();
        (response.status, String::from_utf8(response.body).unwrap(), allow)
    };
    let ok = |body: &str| (200, format!("{body}\n"), String::new());
    assert_eq!(ask("GET", "/hooks", ""), ok(r#"{"endpoints":[],"overflows":0}"#));
    assert_eq!(ask("GET", "/hooks/parked?limit=5", ""), ok(r#"{"parked":[],"count":0}"#));
    assert_eq!(ask("POST", "/hooks/replay", r#"{"all":true}"#), ok(r#"{"replayed":0}"#));
    assert_eq!(ask("POST", "/hooks/discard", r#"{"ids":["1-2"]}"#), ok(r#"{"discarded":0}"#));
    assert_eq!(ask("GET", "/hooks/replay", ""), (405, "Method Not Allowed\n".into(), "POST".into()));
    assert_eq!(ask("POST", "/hooks", ""), (405, "Method Not Allowed\n".into(), "GET".into()));
    let (status, words, _) = ask("POST", "/hooks/replay", "");
    assert!(status == 400 && words.starts_with(r#"the body has to be {"ids":["…"]} or {"all":true}: "#), "{words}");
    assert_eq!(get(server.addresses.ops, "/hooks/").status, 404);
    let foreign = [("Origin".to_owned(), "https://evil.example.org".to_owned())];
    let response = http::request(server.addresses.ops, "POST", "/hooks/discard", &foreign, br#"{"all":true}"#).unwrap();
    assert_eq!(response.status, 403);
}
