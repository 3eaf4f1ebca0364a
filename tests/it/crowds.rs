//! What only many clients of Pusher's, or very slow ones, see.

use std::time::Instant;

use crate::client::{metric, narrow, next};
use crate::http::{self, Wire};
use crate::server::{App, Server, Settings};
use crate::websocket::{self, Frame, TEXT, WebSocket};

fn start(values: &[(&str, &str)], options: &[(&str, &str)]) -> Server {
    let owned =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let options: Vec<(String, String)> = owned(options);
    let values: Vec<(String, String)> = owned(values);
    let app = App { options, ..App::numbered("one", 1) };
    Server::start(&Settings { values: values.into_iter().collect(), apps: vec![app], ..Settings::default() }).unwrap()
}

/// A socket that is subscribed to the channel `news`; what it was sent so far is read.
fn subscribed(wire: Wire) -> WebSocket {
    let response = websocket::ask_on(wire, "localhost", "/app/one-key?protocol=7", &[]).unwrap();
    let mut socket = WebSocket::accept(response).unwrap();
    socket.send(true, TEXT, br#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#).unwrap();
    while !text(&mut socket).contains("subscription_succeeded") {}
    socket
}

fn text(socket: &mut WebSocket) -> String {
    match next(socket).unwrap() {
        Frame::Text(text) => text,
        frame => panic!("{frame:?}"),
    }
}

#[test]
fn more_than_a_hundred_are_told_of_their_number_every_five_seconds() {
    let server = start(&[], &[("subscription_count", "true")]);
    let open = || subscribed(Wire::open(server.addresses.public).unwrap());
    let mut first = open();
    let mut others: Vec<WebSocket> = (2..=100).map(|_| open()).collect();
    let told = |count: usize| {
        let data = format!(r#""{{\"subscription_count\":{count}}}""#);
        format!(r#"{{"event":"pusher_internal:subscription_count","channel":"news","data":{data}}}"#)
    };
    for count in 1..=100 {
        assert_eq!(text(&mut first), told(count));
    }
    let began = Instant::now();
    others.extend((101..=130).map(|_| open()));
    let mut notices = Vec::new();
    while notices.last() != Some(&told(130)) {
        notices.push(text(&mut first));
    }
    // the time since the hundredth is a little longer
    let spans = began.elapsed().as_secs() / 5 + 1;
    assert!(notices.len() as u64 <= spans, "{notices:?}");
    // at once again, when they are fewer
    others.truncate(98);
    while text(&mut first) != told(99) {}
}

#[test]
fn who_is_too_slow_to_read_is_told_to_come_back_later() {
    let server = start(&[("limits.outbox_bytes_max", "20000")], &[]);
    let mut stalled = subscribed(narrow(server.addresses.public));
    let body = format!(r#"{{"name":"e","channel":"news","data":"{}"}}"#, "x".repeat(5000));
    let mut sent = 0;
    while metric(&server, "outbox_overflows_total") == 0.0 {
        assert!(sent < 400, "still open");
        let path = "/apps/7001/events";
        assert_eq!(http::request(server.addresses.trusted, "POST", path, &[], body.as_bytes()).unwrap().status, 200);
        sent += 1;
    }
    let farewell = loop {
        match stalled.receive().unwrap() {
            Frame::Text(_) => {}
            frame => break frame,
        }
    };
    assert_eq!(farewell, Frame::Close(4100, "too slow to read what was sent".to_owned()));
    stalled.finish(4100).unwrap();
}
