//! Start and end of a server: signals, exit codes, what a watcher sees meanwhile.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::client::{connect, event, eventually, get, metric, next, path, start, start_with};
use crate::http::{self, Wire};
use crate::server::{App, Server, Settings};
use crate::websocket::{self, Frame, WebSocket};

/// Waits until new connections are refused.
fn refuses(address: SocketAddr) {
    eventually("connections are refused", || TcpStream::connect(address).is_err());
}

/// So many sockets of one user.
fn crowd(server: &Server, count: usize) -> Vec<WebSocket> {
    let path = path("u1");
    let open = || WebSocket::accept(websocket::ask(server.addresses.public, &path, &[]).unwrap()).unwrap();
    (0..count).map(|_| open()).collect()
}

#[test]
fn whoever_was_connected_before_the_signal_is_answered() {
    let mut server = start(&[]);
    // nothing waits for these to be accepted, let alone read
    let ping = |_| {
        let mut wire = Wire::open(server.addresses.trusted).unwrap();
        wire.write(b"GET /api/ping HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        wire
    };
    let wires: Vec<Wire> = (0..50).map(ping).collect();
    server.signal("TERM");
    for wire in wires {
        let mut answer = http::response(wire, true).unwrap();
        assert_eq!(answer.body, b"pong");
        answer.wire.ended().unwrap();
    }
    assert_eq!(server.exit_code(), Some(0));
}

/// A POST whose body, `data=1`, the server waits for.
fn begin(address: SocketAddr, path: &str) -> Wire {
    let mut wire = Wire::open(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 6\r\n\r\n"
    );
    wire.write(head.as_bytes()).unwrap();
    let waits = http::response(wire, false).unwrap();
    assert_eq!(waits.status, 100);
    waits.wire
}

fn assert_goodbye(socket: &mut WebSocket) {
    assert_eq!(next(socket).unwrap(), Frame::Close(1001, "the server is shutting down; reconnect".to_owned()));
}

#[test]
fn clients_are_closed_over_the_grace_period_and_a_watcher_sees_it() {
    let mut server = start(&[("shutdown.grace_ms", "3000"), ("node.shards", "2")]);
    let sockets = crowd(&server, 240);
    let watcher = get(server.addresses.ops, "/readyz");
    assert_eq!((watcher.status, &*watcher.body), (200, &b"ready"[..]));
    let signalled = Instant::now();
    server.signal("TERM");
    // nobody new, neither clients nor backends; whoever watches stays, and newcomers may watch
    refuses(server.addresses.public);
    refuses(server.addresses.trusted);
    let watcher = http::request_on(watcher.wire, "localhost", "GET", "/readyz", &[], b"").unwrap();
    assert_eq!((watcher.status, &*watcher.body), (503, &b"shutting down"[..]));
    assert_eq!(get(server.addresses.ops, "/readyz").status, 503);
    assert_eq!(get(server.addresses.ops, "/healthz").status, 200);
    assert!(metric(&server, "connections") > 0.0, "they are not closed all at once");
    for mut socket in sockets {
        assert_goodbye(&mut socket);
        socket.finish(1001).unwrap();
    }
    // one of the two shards has half of them or more: one each 20 ms
    assert!(signalled.elapsed() >= Duration::from_millis(119 * 20), "{:?}", signalled.elapsed());
    assert_eq!(server.exit_code(), Some(0));
    let mut wire = watcher.wire;
    wire.ended().unwrap();
    refuses(server.addresses.ops);
}

#[test]
fn clients_are_told_in_their_protocol_when_to_come_back() {
    let values = [("shutdown.grace_ms".to_owned(), "100".to_owned())].into();
    let mut server =
        Server::start(&Settings { values, apps: vec![App::numbered("one", 1)], ..Settings::default() }).unwrap();
    let open = |path: &str| WebSocket::accept(websocket::ask(server.addresses.public, path, &[]).unwrap()).unwrap();
    let (mut pusher, mut raw) = (open("/app/one-key?protocol=7"), open("/ws/app/one-key/news"));
    assert!(matches!(next(&mut pusher).unwrap(), Frame::Text(text) if text.contains("connection_established")));
    server.signal("TERM");
    // at once, and elsewhere
    assert_eq!(next(&mut pusher).unwrap(), Frame::Close(4200, "the server is shutting down, reconnect".to_owned()));
    pusher.finish(4200).unwrap();
    assert_goodbye(&mut raw);
    raw.finish(1001).unwrap();
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn requests_under_way_are_answered_and_idle_connections_closed() {
    let mut server = start(&[("shutdown.grace_ms", "100")]);
    let mut socket = connect(&server, "u1");
    let mut push = begin(server.addresses.trusted, "/api/push/a/AA/e");
    let mut idle = get(server.addresses.public, "/gcs/ping").wire;
    server.signal("INT");
    idle.ended().unwrap();
    push.write(b"data=1").unwrap();
    let mut answer = http::response(push, true).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, event("AA", "1").as_bytes()));
    answer.wire.ended().unwrap();
    refuses(server.addresses.trusted);
    assert_goodbye(&mut socket);
    socket.finish(1001).unwrap();
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_handshake_during_the_end_is_refused() {
    let mut server = start(&[]);
    let held = begin(server.addresses.trusted, "/api/push/a/AA/e");
    let late = Wire::open(server.addresses.public).unwrap();
    // the scrape itself is one
    eventually("it is accepted", || metric(&server, "http_connections") == 3.0);
    let path = path("u1");
    server.signal("TERM");
    refuses(server.addresses.public);
    let refused = websocket::ask_on(late, "localhost", &path, &[]).unwrap();
    assert_eq!((refused.status, &*refused.body), (503, &b"shutting down, try again"[..]));
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(metric(&server, "rejections_total{reason=\"draining\"}"), 1.0);
    drop(held);
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let mut server = start(&[("shutdown.grace_ms", "3600000"), ("node.shards", "1")]);
        let sockets = crowd(&server, 200);
        server.signal(signals[0]);
        refuses(server.addresses.public);
        assert_eq!(get(server.addresses.ops, "/readyz").status, 503);
        server.signal(signals[1]);
        assert_eq!(server.exit_code(), Some(0));
        let told = sockets.into_iter().filter_map(|mut socket| socket.receive().ok()).count();
        assert!(told < 200, "it went on to the end");
    }
}

// ---------------------------------------------------------------------- start

/// Runs the binary to its end.
fn run(arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    child.args(arguments).env_clear().output().unwrap()
}

#[test]
fn an_address_in_use_is_said_and_nothing_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let config = directory.path().join("hydrant.toml");
    let listeners = format!(
        "[[listen]]\naddress = \"unix:{}\"\ndoors = [\"gusher\"]\n[[listen]]\naddress = \"{address}\"\n\
         doors = [\"gusher\"]\n",
        socket.display()
    );
    fs::write(&config, listeners).unwrap();
    let output = run(&["serve", "--config", config.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("error: cannot listen on {address}: another program listens there")), "{told}");
    assert!(!told.contains("listening"), "{told}");
    assert!(!socket.exists(), "the first listener's socket is left");
}

#[test]
fn exit_codes_tell_flags_from_configuration() {
    for (arguments, code) in [
        (&["serve", "--no-such-flag"][..], 64),
        (&["serve", "--set", "limits.no_such_limit=1"], 64),
        (&["serve", "--config", "/no/such/file.toml"], 78),
        (&["--version"], 0),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
    }
}

#[test]
fn a_unix_socket_is_replaced_if_stale_and_removed_at_the_end() {
    let listeners = [
        "address = \"unix:{directory}/public\"\ndoors = [\"gusher\"]",
        "address = \"unix:{directory}/ops\"\ndoors = [\"ops\"]\ntrusted = true",
    ];
    let mut server = start_with(&[("shutdown.grace_ms", "200")], &listeners);
    let (public, ops) = (server.directory().join("public"), server.directory().join("ops"));
    let open = |file| websocket::ask_on(Wire::open_unix(file).unwrap(), "localhost", &path("u1"), &[]);
    let mut socket = WebSocket::accept(open(&public).unwrap()).unwrap();
    let held = begin(server.addresses.trusted, "/api/push/a/AA/e");
    server.signal("TERM");
    eventually("it is gone at once", || !public.exists());
    assert!(UnixStream::connect(&public).is_err());
    let watched = http::request_on(Wire::open_unix(&ops).unwrap(), "localhost", "GET", "/readyz", &[], b"").unwrap();
    assert_eq!(watched.status, 503);
    assert_goodbye(&mut socket);
    drop((socket, held));
    assert_eq!(server.exit_code(), Some(0));
    assert!(!ops.exists());
}

#[test]
fn a_stale_socket_is_taken_over_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    let listener = format!("address = \"unix:{}\"\ndoors = [\"gusher\"]", socket.display());
    let server = start_with(&[], &[&listener]);
    let ping =
        || http::request_on(Wire::open_unix(&socket).unwrap(), "localhost", "GET", "/gcs/ping", &[], b"").unwrap();
    assert_eq!(ping().body, b"pong");
    let config = directory.path().join("hydrant.toml");
    fs::write(&config, format!("[[listen]]\n{listener}\n")).unwrap();
    let second = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert_eq!(ping().body, b"pong", "the first one still has it");
    drop(server);
}
