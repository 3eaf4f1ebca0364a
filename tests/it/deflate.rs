//! permessage-deflate in bursts, and what it costs.

use std::thread;

use serde_json::json;

use crate::client::{eventually, metric, metrics, next, path, start};
use crate::http::{self, Wire};
use crate::server::Server;
use crate::websocket::{self, DEFLATED, Frame, TEXT, WebSocket};

/// A socket on the channel `news` of the app `a`, which offers permessage-deflate or not.
fn subscribed(server: &Server, offers: bool) -> WebSocket {
    let offer = ("Sec-WebSocket-Extensions".to_owned(), "permessage-deflate; client_max_window_bits".to_owned());
    let headers = if offers { vec![offer] } else { Vec::new() };
    let wire = Wire::open(server.addresses.public).unwrap();
    let mut socket = WebSocket::accept(websocket::ask_on(wire, "localhost", &path("u"), &headers).unwrap()).unwrap();
    socket.send(true, TEXT, br#"{"event":"gusher.subscribe","data":{"channel":"news"}}"#).unwrap();
    assert!(matches!(next(&mut socket), Ok(Frame::Text(_))));
    socket
}

#[test]
fn a_burst_is_deflated_once_and_each_message_stands_alone() {
    const ROUNDS: usize = 20;
    let server = start(&[("node.shards", "2"), ("apps", r#"[{id = "a", key = "a", permessage_deflate = true}]"#)]);
    let mut sockets: Vec<WebSocket> = (0..12).map(|at| subscribed(&server, at % 3 > 0)).collect();
    // every third is large
    let data: Vec<String> =
        (0..100).map(|at| format!("{at} {}", "words ".repeat(if at % 3 == 0 { 200 } else { 2 }))).collect();
    let batch: Vec<_> = data.iter().map(|data| json!({ "channel": "news", "event": "e", "data": data })).collect();
    let body = format!("batch_data={}", json!(batch));
    let publisher = thread::spawn({
        let address = server.addresses.trusted;
        move || {
            let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
            for _ in 0..ROUNDS {
                let response = http::request(address, "POST", "/api/push_batch/a", &form, body.as_bytes()).unwrap();
                assert_eq!(response.status, 200);
            }
        }
    });
    for (at, socket) in sockets.iter_mut().enumerate() {
        for data in data.iter().cycle().take(ROUNDS * data.len()) {
            let text = format!(r#"{{"channel":"news","event":"e","data":{}}}"#, json!(data));
            let is_deflated = at % 3 > 0 && text.len() >= 512;
            let expected = if is_deflated { Frame::Deflated(text) } else { Frame::Text(text) };
            assert_eq!(next(socket).unwrap(), expected);
        }
    }
    publisher.join().unwrap();
    let events = (ROUNDS * data.len()) as f64;
    let metrics = metrics(&server);
    assert_eq!(metrics["events_out_total"], events * sockets.len() as f64);
    assert_eq!(metrics["frames_encoded_total"], events);
    assert_eq!(metrics["frames_deflated_total"], (ROUNDS * 34) as f64);
    drop(sockets);
    eventually("nothing of it is left", || metric(&server, "outbox_frames_bytes") == 0.0);
}

#[test]
fn what_holds_a_thousand_times_its_bytes_is_heard_whole_and_in_order() {
    const MESSAGES: usize = 200;
    let apps = r#"[{id = "a", key = "a", permessage_deflate = true}]"#;
    let server = start(&[("node.shards", "1"), ("limits.command_bytes_max", "65000"), ("apps", apps)]);
    let mut socket = subscribed(&server, true);
    let mut frames = Vec::new();
    for number in 0..MESSAGES {
        let message = format!(r#"{{"event":"gusher.ping","data":"{number}"{}}}"#, " ".repeat(60_000));
        let payload = websocket::deflate(message.as_bytes());
        assert!(payload.len() <= 125, "{}", payload.len());
        // under a mask of zeros
        frames.extend([0x80 | DEFLATED | TEXT, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
        frames.extend(payload);
    }
    socket.send_raw(&frames).unwrap();
    for number in 0..MESSAGES {
        let Ok(Frame::Text(text)) = next(&mut socket) else { panic!("no answer to {number}") };
        assert!(text.contains(&format!(r#""data":"{number}""#)), "{number}: {text}");
    }
}
