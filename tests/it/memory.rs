//! What the server says of its memory is near what the kernel says of it, and a crowd that leaves takes it along.

use serde_json::json;

use crate::client::{assert_idle, eventually, metric, metrics, narrow, path, start, subscribe};
use crate::http;
use crate::server::Server;
use crate::websocket::{self, WebSocket};

const CONNECTIONS: usize = 2_000;

/// Bytes by the server's own estimate, and by the kernel.
fn memory(server: &Server) -> (f64, f64) {
    let metrics = metrics(server);
    let estimate = metrics.iter().filter(|(name, _)| name.starts_with("memory_bytes{")).map(|(_, bytes)| bytes).sum();
    (estimate, metrics["resident_bytes"])
}

/// Each with a channel that all have, and one of its own.
fn crowd(server: &Server, path: &str, count: usize) -> Vec<WebSocket> {
    let one = |number: usize| {
        let mut socket = WebSocket::accept(websocket::ask(server.addresses.public, path, &[]).unwrap()).unwrap();
        subscribe(&mut socket, "everybody");
        subscribe(&mut socket, &format!("own-channel-number-{number}"));
        socket
    };
    (0..count).map(one).collect()
}

#[test]
fn the_estimate_is_near_the_truth_and_comes_back_to_nothing() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let server = start(&[("node.shards", "2")]);
    let path = path("u1");
    // what the first clients cost once is none of theirs
    drop(crowd(&server, &path, 100));
    eventually("they are gone", || memory(&server).0 == 0.0);
    let (_, resident) = memory(&server);
    let left = metric(&server, "memory_left_bytes");
    let mut crowd = crowd(&server, &path, CONNECTIONS);
    let (estimate, resident) = (memory(&server).0, memory(&server).1 - resident);
    assert_eq!(metric(&server, "memory_left_bytes"), left - estimate);
    assert!(metric(&server, "memory_bytes{of=\"connections\"}") >= CONNECTIONS as f64 * 1_000.0);
    let ratio = estimate / resident;
    assert!((0.5..1.5).contains(&ratio), "{estimate} bytes by its estimate, {resident} by the kernel's");
    assert_idle(&mut crowd[CONNECTIONS - 1]);
    drop(crowd);
    eventually("nothing is left", || memory(&server).0 == 0.0);
}

/// Publishes 4 KB to each one's own channel, so many times.
fn flood(server: &Server, count: usize, times: usize) {
    let data = "x".repeat(4_000);
    let one = |number| json!({ "channel": format!("own-channel-number-{number}"), "event": "e", "data": data });
    let batch = json!((0..count).map(one).collect::<Vec<_>>());
    let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
    let body = format!("batch_data={batch}");
    for _ in 0..times {
        let answer = http::request(server.addresses.trusted, "POST", "/api/push_batch/a", &form, body.as_bytes());
        assert_eq!(answer.unwrap().status, 200);
    }
}

#[test]
fn a_storm_gives_its_memory_back() {
    const STALLED: usize = 300;
    let server = start(&[("node.shards", "2")]);
    let path = path("u1");
    let resident = || metric(&server, "resident_bytes");
    flood(&server, STALLED, 2);
    let before = resident();
    let stalled: Vec<WebSocket> = (0..STALLED)
        .map(|number| {
            let answer = websocket::ask_on(narrow(server.addresses.public), "localhost", &path, &[]).unwrap();
            let mut socket = WebSocket::accept(answer).unwrap();
            subscribe(&mut socket, &format!("own-channel-number-{number}"));
            socket
        })
        .collect();
    flood(&server, STALLED, 40);
    eventually("outboxes hold it", || metric(&server, "backlog_bytes") == 0.0);
    let (estimate, peak) = memory(&server);
    assert!(
        estimate > 12e6 && peak - before > 12e6,
        "{estimate} bytes by its estimate, {} by the kernel's",
        peak - before
    );
    drop(stalled);
    eventually("nothing is left", || memory(&server).0 == 0.0);
    eventually("the system has it back", || resident() - before < (peak - before) / 3.0);
}
