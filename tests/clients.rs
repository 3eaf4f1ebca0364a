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
use std::path::{Path, PathBuf};
use std::time::Duration;

use installed::{installed, project};
use program::{PROGRAM, Running, Server, command, http, openssl_pair, run};

/// Where clients come.
const PUBLIC: &str = "127.0.0.1:6001";
/// Where clients come with TLS.
const SECURE: &str = "127.0.0.1:6443";
/// Where backends come that need no credentials.
const TRUSTED: &str = "127.0.0.1:6002";
/// Of the app's own backend, which a program plays.
const BACKEND: &str = "127.0.0.1:6009";
/// Id, key and secret of the app. An SDK takes no ids but numbers.
const APP: [&str; 3] = ["4711", "app-key", "app secret"];

const CONFIG: &str = r#"
[[listen]]
address = "127.0.0.1:6001"
doors = ["pusher", "push1st-socket", "gusher"]

[[listen]]
address = "127.0.0.1:6443"
doors = ["pusher"]
tls_certificate = "certificate.pem"
tls_key = "certificate.key"

[[listen]]
address = "127.0.0.1:6002"
doors = ["push1st", "gusher-master", "ops"]
trusted = true

[[apps]]
id = "4711"
key = "app-key"
secret = "app secret"
previous_secrets = ["previous secret"]
gusher_public_keys = ["public.pem"]
client_events = true
socket_push = ["public", "private"]
subscription_count = true
watchlist = true

[[apps.hooks]]
url = "http://127.0.0.1:6009/hook"

[[apps]]
id = "4712"
key = "for-another-site"
secret = "app secret"
origins = ["another.example"]

[[apps]]
id = "4713"
key = "for-the-authorized"
secret = "app secret"
authorized_connections = true
authorize_timeout_ms = 3000

[pusher]
activity_timeout_ms = 1000

[limits]
ping_interval_ms = 1000

[shutdown]
grace_ms = 500

[log]
level = "hydrant=debug"
"#;

/// Whether permessage-deflate may be agreed on. Most clients offer it.
#[derive(Clone, Copy, PartialEq)]
enum Deflate {
    Off,
    /// For messages of any size.
    On,
}

impl Deflate {
    fn config(self) -> String {
        match self {
            Self::Off => CONFIG.to_owned(),
            Self::On => CONFIG
                .replacen("client_events = true", "client_events = true\nclient_events_per_s = 0", 1)
                .replacen("watchlist = true", "watchlist = true\npermessage_deflate = true", 1)
                .replacen("[limits]", "[limits]\ndeflate_bytes_min = 1", 1),
        }
    }
}

/// How long a step may take; the programs themselves give up earlier, and say what they waited for.
const STEP_MAX: Duration = Duration::from_secs(90);

/// Runs a program of `tests/clients/` with a server beside it, in a network of their own. `more`: further arguments, given
/// the folder of the server.
fn converse(test: &str, deflate: Deflate, interpreter: &Path, script: &str, more: impl Fn(&Path) -> Vec<String>) {
    network::own(test, || {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        openssl_pair(folder);
        openssl_certificate(folder);
        fs::write(folder.join("hydrant.toml"), deflate.config()).unwrap();
        let start = || {
            let mut serve = command(PROGRAM);
            Server::start(serve.current_dir(folder).args(["serve", "--config", "hydrant.toml"]), 3)
        };
        let mut server = start();
        let mut client = command(interpreter);
        client.arg(project("tests/clients").join(script)).args([PUBLIC, BACKEND]).args(APP).args(more(folder));
        client.env("NODE_MODULES", installed("node/node_modules"));
        client.env("SECURE", SECURE).env("NODE_EXTRA_CA_CERTS", folder.join("certificate.pem"));
        client.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        let mut client = Running::start(&mut client);
        while let Ok(Some(line)) = client.stdout.next(STEP_MAX) {
            println!("{line}");
            match &*line {
                "kill the server" => server.running.signal("KILL"),
                "stop the server" => server.running.signal("TERM"),
                _ => continue,
            }
            server.running.wait();
            server = start();
        }
        let status = client.wait();
        let (_, metrics) = http(TRUSTED.parse().unwrap(), "GET /metrics", "");
        let ended = server.running.stop();
        let came_true = status.success() && ended.code == Some(0) && !ended.stderr.contains("panicked");
        let complaints = client.stderr.all();
        assert!(came_true, "{script}: {status}\n{complaints}\nserver: {:?}\n{}", ended.code, ended.stderr);
        let deflated = metrics.lines().find_map(|line| line.strip_prefix("hydrant_frames_deflated_total "));
        assert_eq!(deflated.unwrap() != "0", deflate == Deflate::On, "{deflated:?} frames were deflated");
    });
}

/// A certificate for this machine that nobody knows, and its key.
fn openssl_certificate(folder: &Path) {
    let mut openssl = command("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-keyout", "certificate.key", "-out", "certificate.pem"]);
    let ended = run(openssl.current_dir(folder));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

fn node() -> PathBuf {
    "node".into()
}

fn python() -> PathBuf {
    installed("venv/bin/python")
}

fn nothing(_: &Path) -> Vec<String> {
    Vec::new()
}

#[test]
fn pusher_js() {
    converse("pusher_js", Deflate::Off, &node(), "pusher_js.mjs", nothing);
}

#[test]
fn pusher_js_in_chromium() {
    converse("pusher_js_in_chromium", Deflate::On, &node(), "chromium.mjs", nothing);
}

#[test]
fn pusher_sdk_of_python() {
    converse("pusher_sdk_of_python", Deflate::Off, &python(), "pusher_sdk.py", nothing);
}

#[test]
fn pysher() {
    converse("pysher", Deflate::Off, &python(), "pysher_client.py", nothing);
}

#[test]
fn websockets_of_python_deflate() {
    converse("websockets_of_python_deflate", Deflate::On, &python(), "deflate.py", nothing);
}

#[test]
fn laravel_echo() {
    converse("laravel_echo", Deflate::Off, &node(), "laravel_echo.mjs", nothing);
}

#[test]
fn crossing() {
    converse("crossing", Deflate::On, &node(), "crossing.mjs", |folder| {
        let mut token = command(PROGRAM);
        token.args(["token", "gusher", "--key"]).arg(folder.join("private.pem"));
        let token = run(token.args(["--app", APP[1], "--user", "alice", "--channel", "*"]));
        let websocat = installed("ci-tools/bin/websocat");
        vec![TRUSTED.into(), token.stdout.trim_end().into(), websocat.display().to_string()]
    });
}
