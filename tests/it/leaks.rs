//! Whatever clients do, and however they go, nothing of them is left.

use std::thread;

use crate::client::{event, eventually, metrics, next, path, publish, start, subscribe};
use crate::http::Wire;
use crate::server::Server;
use crate::websocket::{self, Frame, TEXT, WebSocket};

const LOOPS: usize = 8;
const CYCLES: usize = 250;

/// One client after the other, each of which goes in another way.
fn come_and_go(server: &Server, number: usize) {
    let path = path(&format!("u{}", number % 3));
    let own = format!("own{number}");
    for cycle in 0..CYCLES {
        let answer = websocket::ask(server.addresses.public, &path, &[]).unwrap();
        if cycle % 7 == 0 {
            continue; // gone with its handshake
        }
        let mut socket = WebSocket::accept(answer).unwrap();
        if cycle % 7 == 1 {
            let command = format!(r#"{{"event":"gusher.subscribe","data":{{"channel":"{own}"}}}}"#);
            socket.send(true, TEXT, command.as_bytes()).unwrap();
            continue; // gone before the answer
        }
        subscribe(&mut socket, &own);
        // the last, for from here on anything may come
        subscribe(&mut socket, "everybody");
        if cycle % 7 == 2 {
            continue; // gone as it is
        }
        assert_eq!(publish(server, &own, &cycle.to_string()).status, 200);
        assert_eq!(publish(server, "everybody", "0").status, 200);
        if cycle % 7 == 3 {
            continue; // gone with something unread
        }
        let mine = Frame::Text(event(&own, &cycle.to_string()));
        while next(&mut socket).unwrap() != mine {}
        if cycle % 7 == 4 {
            socket.send(true, TEXT, b"this is none of the commands").unwrap();
            while !matches!(next(&mut socket).unwrap(), Frame::Close(1007, _)) {}
            continue; // sent away
        }
        socket.send_close(1000, "").unwrap();
        while !matches!(next(&mut socket).unwrap(), Frame::Close(1000, _)) {}
        socket.finish(1000).unwrap();
    }
    // and some who never become clients
    for begun in ["", "GET ", "POST /gcs/auth HTTP/1.1\r\nContent-Length: 9\r\n\r\n"] {
        Wire::open(server.addresses.public).unwrap().write(begun.as_bytes()).unwrap();
    }
}

#[test]
fn nothing_is_left_of_two_thousand_clients() {
    let server = start(&[("node.shards", "2")]);
    thread::scope(|scope| {
        for number in 0..LOOPS {
            let server = &server;
            scope.spawn(move || come_and_go(server, number));
        }
    });
    let gauges = [
        "connections",
        "subscriptions",
        "channels",
        "users",
        "outbox_bytes",
        "outbox_frames_bytes",
        "backlog_bytes",
        "memory_bytes{of=\"connections\"}",
        "memory_bytes{of=\"events\"}",
        "memory_bytes{of=\"caches\"}",
        "memory_bytes{of=\"rosters\"}",
    ];
    eventually("every gauge is 0", || {
        let metrics = metrics(&server);
        // the scrape itself is a socket
        gauges.iter().all(|name| metrics[*name] == 0.0) && metrics["http_connections"] == 1.0
    });
    let metrics = metrics(&server);
    let clients = (LOOPS * CYCLES) as f64;
    assert_eq!(metrics["connections_opened_total"], clients);
    let closed: f64 =
        metrics.iter().filter(|(name, _)| name.starts_with("connections_closed_total")).map(|(_, n)| n).sum();
    assert_eq!(closed, clients);
    assert_eq!(metrics["panics_total"], 0.0);
}
