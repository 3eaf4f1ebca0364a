//! `/openapi.json` describes what is answered: every call of every door, and no other.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hydrant::ops::{health, metrics};
use hydrant::protocol::{gusher, push1st, pusher};
use hydrant::shard::route::Route;
use serde_json::Value;

use crate::client::{get, start_with};
use crate::http;
use crate::server::Server;

/// A door, and the lists that its requests are looked up in, each behind its prefix.
type Door = (&'static str, Vec<(&'static str, &'static [Route])>);

/// Addresses of sockets, which are not looked up.
const PUSHER_SOCKETS: &[Route] = &[("GET", "/app/{app_key}"), ("GET", "/pusher/app/{app_key}")];
const RAW_SOCKETS: &[Route] = &[("GET", "/ws/app/{app_key}/{channels}")];

fn doors() -> [Door; 6] {
    let health = ("", health::ROUTES);
    [
        ("gusher", vec![("/gcs/", gusher::V1_CLIENT), ("/v1/", gusher::V3_CLIENT), health]),
        ("gusher-master", vec![("/api/", gusher::V1_MASTER), ("/v1/", gusher::V3_MASTER), health]),
        ("pusher", vec![("", PUSHER_SOCKETS), ("", pusher::ROUTES), health]),
        ("push1st", vec![("", push1st::ROUTES)]),
        ("push1st-socket", vec![("", RAW_SOCKETS)]),
        ("ops", vec![("", metrics::ROUTES), health]),
    ]
}

/// A call as the document has it.
struct Operation {
    method: String,
    path: String,
    about: Value,
}

impl Operation {
    fn is_of(&self, door: &str) -> bool {
        self.about["tags"].as_array().unwrap().iter().any(|tag| tag == door)
    }

    fn opens_socket(&self) -> bool {
        self.about["responses"].get("101").is_some()
    }
}

fn document() -> Value {
    serde_json::from_str(metrics::OPENAPI).unwrap()
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap().iter();
    let methods = |(path, methods): (&String, &Value)| {
        let operation = |(method, about): (&String, &Value)| Operation {
            method: method.to_uppercase(),
            path: path.clone(),
            about: about.clone(),
        };
        methods.as_object().unwrap().iter().map(operation).collect::<Vec<_>>()
    };
    paths.flat_map(methods).collect()
}

/// What a reference leads to, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    value["$ref"].as_str().map_or(value, |path| document.pointer(path.trim_start_matches('#')).unwrap())
}

/// A path whose parameters have no names: `/apps/{}/events`.
fn nameless(path: &str) -> String {
    let nameless = |segment: &str| if segment.starts_with('{') { "{}".to_owned() } else { segment.to_owned() };
    path.split('/').map(nameless).collect::<Vec<_>>().join("/")
}

#[test]
fn every_call_is_described_and_no_other() {
    let document = document();
    assert_eq!(document["info"]["version"], health::VERSION);
    let operations = operations(&document);
    for (door, lists) in doors() {
        let calls = lists.iter().flat_map(|(prefix, routes)| {
            routes.iter().map(move |(method, path)| format!("{method} {}", nameless(&format!("{prefix}{path}"))))
        });
        let described = operations.iter().filter(|operation| operation.is_of(door));
        let described = described.map(|operation| format!("{} {}", operation.method, nameless(&operation.path)));
        assert_eq!(described.collect::<BTreeSet<_>>(), calls.collect::<BTreeSet<_>>(), "{door}");
    }
}

/// The path with an example for each of its parameters.
fn example(document: &Value, operation: &Operation) -> String {
    let segment = |segment: &str| {
        let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            return segment.to_owned();
        };
        let parameters = operation.about["parameters"].as_array().unwrap();
        let mut parameters = parameters.iter().map(|parameter| resolved(document, parameter));
        let parameter = parameters.find(|parameter| parameter["name"] == name && parameter["in"] == "path");
        parameter.unwrap_or_else(|| panic!("{}: {name}", operation.path))["example"].as_str().unwrap().to_owned()
    };
    operation.path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// A server with every door, and where each is.
fn server() -> (Server, Vec<(&'static str, SocketAddr)>) {
    let app = r#"[{ id = "shop", key = "shop-key", secret = "secret" }]"#;
    let server = start_with(&[("apps", app)], &[]);
    let addresses = server.addresses;
    let doors = [
        ("gusher", addresses.public),
        ("gusher-master", addresses.trusted),
        ("ops", addresses.ops),
        ("pusher", addresses.public),
        ("push1st", addresses.api),
        ("push1st-socket", addresses.public),
    ];
    (server, doors.to_vec())
}

/// Without tokens, signatures or bodies most are refused, but in ways that are described.
#[test]
fn every_described_call_is_answered() {
    let document = document();
    let operations = operations(&document);
    let (_server, doors) = server();
    for (door, address) in doors {
        for operation in operations.iter().filter(|operation| operation.is_of(door)) {
            // one call has its app only here
            let path = example(&document, operation) + "?auth_key=shop-key";
            let what = format!("{door}: {} {path}", operation.method);
            let response = http::request(address, &operation.method, &path, &[], b"").unwrap();
            assert!(!matches!(response.status, 404 | 405), "{what}: {}", response.status);
            let described = &operation.about["responses"][response.status.to_string()];
            assert!(described.is_object(), "{what}: {} is not described", response.status);
            let kind = response.header("Content-Type").unwrap().split(';').next().unwrap();
            let kinds = &resolved(&document, described)["content"];
            assert!(kinds.get(kind).is_some(), "{what}: {} is {kind}, not {kinds}", response.status);
            if !operation.opens_socket() || door == "gusher" {
                let response = http::request(address, "DELETE", &path, &[], b"").unwrap();
                let wrong_method = if door == "push1st" { 400 } else { 405 };
                assert_eq!(response.status, wrong_method, "{what}");
            }
        }
    }
}

#[test]
fn the_document_is_served() {
    let (server, _) = server();
    let response = get(server.addresses.ops, "/openapi.json");
    assert_eq!((response.status, response.header("Content-Type")), (200, Some("application/json")));
    assert!(response.body == metrics::OPENAPI.as_bytes());
    assert_eq!(get(server.addresses.public, "/openapi.json").status, 404);
}
