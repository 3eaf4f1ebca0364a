//! Clients and server SDKs that nobody here wrote, against the built program. What must come true is said step by step in
//! `tests/clients/`; here those programs are started, and the server as often as they ask. `scripts/test` installs the
//! packages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "support/installed.rs"]
mod installed;
#[path = "support/network.rs"]
mod network;
#[path = "support/hydrant.rs"]
mod program;

use std::fs;
use std::process::Command;
use std::time::Duration;

use installed::{installed, project};
use program::{PROGRAM, Running, Server, command};

/// Of the server; of the app's own backend, which a client program plays.
const ADDRESSES: [&str; 2] = ["127.0.0.1:6001", "127.0.0.1:6009"];
/// Id, key and secret of the app. An SDK takes no ids but numbers.
const APP: [&str; 3] = ["4711", "app-key", "app secret"];

const CONFIG: &str = r#"
[[listen]]
address = "127.0.0.1:6001"
doors = ["pusher"]

[[apps]]
id = "4711"
key = "app-key"
secret = "app secret"
previous_secrets = ["previous secret"]
client_events = true
subscription_count = true
watchlist = true

[[apps.hooks]]
url = "http://127.0.0.1:6009/hook"

[[apps]]
id = "4712"
key = "only-for-another-site"
origins = ["another.example"]

[pusher]
activity_timeout_ms = 1000

[shutdown]
grace_ms = 500

[log]
level = "hydrant=debug"
"#;

/// How long a step may take; the programs themselves give up earlier, and say what they waited for.
const STEP_MAX: Duration = Duration::from_secs(90);

fn python() -> String {
    installed("venv/bin/python").display().to_string()
}

/// Runs a program of `tests/clients/` with a server beside it, in a network of their own.
fn converse(test: &str, interpreter: &str, script: &str) {
    network::own(test, || {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hydrant.toml"), CONFIG).unwrap();
        let start = || {
            Server::start(command(PROGRAM).current_dir(folder.path()).args(["serve", "--config", "hydrant.toml"]), 1)
        };
        let mut server = start();
        let mut client = Running::start(&mut client(interpreter, script));
        loop {
            let line = client.stdout.next(STEP_MAX);
            let Ok(Some(line)) = line else { break };
            println!("{line}");
            match &*line {
                "kill the server" => server.running.signal("KILL"),
                "stop the server" => server.running.signal("TERM"),
                _ => continue,
            }
            server.running.wait();
            server = start();
        }
        let ended = client.wait();
        let said = server.running.stop();
        assert!(
            ended.success(),
            "{script}: {}\n{}\nserver:\n{}",
            client.stdout.all(),
            client.stderr.all(),
            said.stderr
        );
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    });
}

fn client(interpreter: &str, script: &str) -> Command {
    let mut client = command(interpreter);
    client.arg(project("tests/clients").join(script)).args(ADDRESSES).args(APP);
    client
        .env("NODE_MODULES", installed("node/node_modules"))
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    client
}

#[test]
fn pusher_js() {
    converse("pusher_js", "node", "pusher_js.mjs");
}

#[test]
fn pusher_js_in_chromium() {
    converse("pusher_js_in_chromium", "node", "chromium.mjs");
}

#[test]
fn pusher_sdk_of_python() {
    converse("pusher_sdk_of_python", &python(), "pusher_sdk.py");
}

#[test]
fn pysher() {
    converse("pysher", &python(), "pysher_client.py");
}
