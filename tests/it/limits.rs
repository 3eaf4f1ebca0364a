//! Every limit at its edge: what it allows passes, what is beyond is refused as documented, and what is given back can
//! be had again. Most are transcripts, `limit_*.txt`; those about time, connections and memory are here, and those that
//! need another clock or a script beside what they limit.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{
    assert_idle, connect, event, eventually, get, metric, metrics, narrow, next, open, padded, publish, start,
    subscribe,
};
use crate::http::{self, PATIENCE, Wire};
use crate::player;
use crate::server::Server;
use crate::tls::handshakes_at_once;
use crate::websocket::{Frame, TEXT, WebSocket};

/// Limits that are tested where they are kept: file and test.
const ELSEWHERE: [(&str, &str, &str); 3] = [
    (
        "hook_in_flight_max",
        include_str!("../../src/hooks/tests.rs"),
        "requests_of_one_endpoint_go_side_by_side_up_to_a_number",
    ),
    ("lua_memory_bytes_max", include_str!("../../src/hooks/lua.rs"), "what_takes_too_much_memory_fails"),
    ("lua_time_ms", include_str!("../../src/hooks/lua.rs"), "what_takes_too_long_is_stopped_whatever_it_catches"),
];

/// One test for each limit, of its name; and one that no limit has none.
macro_rules! limits {
    ($($limit:ident: $edge:ident)*) => {
        $(#[test]
        fn $limit() {
            $edge();
        })*

        #[test]
        fn every_limit_has_a_test() {
            let here = [$(stringify!($limit)),*];
            let example = include_str!("../../hydrant.example.toml");
            let limits = example.split_once("\n[limits]\n").expect("a section").1.split("\n\n").next().unwrap();
            let mut count = 0;
            for line in limits.lines() {
                let limit = line.split(' ').next().unwrap();
                let file = format!("limit_{limit}.txt");
                let is_transcript =
                    ["gusher", "pusher", "push1st"].iter().any(|protocol| player::folder(protocol).join(&file).exists());
                let is_elsewhere = ELSEWHERE
                    .iter()
                    .any(|(name, text, test)| *name == limit && text.contains(&format!("fn {test}(")));
                assert!(here.contains(&limit) || is_transcript || is_elsewhere, "{limit} has no test");
                count += 1;
            }
            assert!(count >= 38, "{count} limits are not all");
        }
    };
}

limits! {
    header_bytes_max: headers
    http_connections_max: sockets_that_are_no_clients
    http_connections_max_of_refused: sockets_that_are_refused
    tls_handshakes_max: handshakes_at_once
    outbox_bytes_max: one_outbox
    outbox_total_bytes_max: all_outboxes
    backlog_bytes_max: backlog
    handshake_timeout_ms: first_request
    keep_alive_timeout_ms: later_requests
    request_timeout_ms: body
    ping_interval_ms: silence
    pong_timeout_ms: no_answer_to_a_ping
}

// ---------------------------------------------------------------------- HTTP

/// A request line and headers of so many bytes together.
fn head(method: &str, bytes: usize, more: &str) -> Vec<u8> {
    let rest = |pad: &str| format!("{method} /healthz HTTP/1.1\r\nHost: localhost\r\n{more}X-Pad: {pad}\r\n\r\n");
    rest(&"x".repeat(bytes - rest("").len())).into_bytes()
}

fn headers() {
    let server = start(&[("limits.header_bytes_max", "8192")]);
    let send = |head: &[u8], split: usize| {
        let mut wire = Wire::open(server.addresses.ops).unwrap();
        let (first, second) = head.split_at(split);
        wire.write(first).unwrap();
        if !second.is_empty() {
            thread::sleep(Duration::from_millis(20)); // so that it comes in two pieces, mostly
            wire.write(second).unwrap();
        }
        http::response(wire, true).unwrap()
    };
    for split in [8192, 8191, 4000] {
        assert_eq!(send(&head("GET", 8192, ""), split).status, 200, "{split}");
        let mut refused = send(&head("GET", 8193, ""), split);
        assert_eq!(refused.status, 431, "{split}");
        refused.wire.ended().unwrap();
    }
    // the line counts
    let line = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8192));
    assert_eq!(send(line.as_bytes(), line.len()).status, 431);
    // the body does not
    let mut request = head("POST", 8192, "Content-Length: 20000\r\n");
    request.extend([b'x'; 20_000]);
    assert_eq!(send(&request, 8200).status, 405);
}

/// The server ended the connection without a word.
fn assert_dropped(mut wire: Wire) {
    let _ = wire.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.ended().unwrap();
}

/// A keep-alive connection that has had an answer.
fn idle(address: SocketAddr) -> Wire {
    let response = get(address, "/healthz");
    assert_eq!(response.status, 200);
    response.wire
}

/// The same once there is room: who has gone, or become a client, is counted for a moment longer.
fn idle_again(address: SocketAddr) -> Wire {
    let mut answered = None;
    eventually("there is room again", || {
        answered = http::request(address, "GET", "/healthz", &[], b"").ok();
        answered.is_some()
    });
    answered.unwrap().wire
}

fn sockets_that_are_no_clients() {
    // so many that scrapes, each on a socket of its own, never need them all
    let server = start(&[("limits.http_connections_max", "8")]);
    let public = server.addresses.public;
    eventually("the sockets of the start are gone", || metric(&server, "http_connections") == 1.0);
    let mut idles: Vec<Wire> = (0..8).map(|_| idle(public)).collect();
    assert_dropped(Wire::open(public).unwrap());
    // each listener has its own
    eventually("it is counted", || metric(&server, "http_connections_refused_total") == 1.0);
    eventually("only they and the scrape are left", || metric(&server, "http_connections") == 9.0);
    // a client connection is none of them any more
    let mut client = open(idles.pop().unwrap(), "u1");
    assert_idle(&mut client);
    idles.push(idle_again(public));
    assert_dropped(Wire::open(public).unwrap());
    drop(idles.pop());
    idle_again(public);
    assert_idle(&mut client);
}

/// A handshake that is completed only to say no holds its socket for a moment longer.
fn sockets_that_are_refused() {
    let server = start(&[]);
    let refused = || {
        let mut wire = Wire::open(server.addresses.public).unwrap();
        wire.write(
            b"GET /app/nobody?protocol=7 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
        let response = http::response(wire, true).unwrap();
        assert_eq!(response.status, 101);
        response
    };
    let are_gone = || eventually("all but the scrape are gone", || metric(&server, "http_connections") == 1.0);
    // again if the scrape before is still counted, or the moment was over before this one
    eventually("it is counted", || {
        are_gone();
        let _response = refused();
        metric(&server, "http_connections") == 2.0
    });
    are_gone();
}

/// Sends a byte now and then, over and over, until the server has ended the connection.
pub(crate) fn dribble(mut wire: Wire, bytes: &[u8]) {
    let began = Instant::now();
    let mut bytes = bytes.iter().cycle();
    while bytes.next().is_some_and(|byte| wire.write(&[*byte]).is_ok()) {
        assert!(began.elapsed() < PATIENCE, "still open");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The time limit of these tests: long enough that what is to be in time is, however busy the machine.
pub(crate) const SLOW: Duration = Duration::from_secs(1);

fn first_request() {
    let server = start(&[("limits.handshake_timeout_ms", "1000")]);
    let public = server.addresses.public;
    let began = Instant::now();
    Wire::open(public).unwrap().ended().unwrap();
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    let began = Instant::now();
    dribble(Wire::open(public).unwrap(), b"GET /healthz HTTP/1.1\r\nX: y\r\nX:");
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    // whoever was in time has the time of later requests
    let wire = idle(public);
    thread::sleep(SLOW * 2);
    assert_eq!(http::request_on(wire, "localhost", "GET", "/healthz", &[], b"").unwrap().status, 200);
}

fn later_requests() {
    let server = start(&[("limits.keep_alive_timeout_ms", "1000")]);
    let public = server.addresses.public;
    // the first has another time
    let first = Wire::open(public).unwrap();
    thread::sleep(SLOW * 2);
    let first = http::request_on(first, "localhost", "GET", "/healthz", &[], b"").unwrap();
    let began = Instant::now();
    let mut wire = http::request_on(first.wire, "localhost", "GET", "/healthz", &[], b"").unwrap().wire;
    wire.ended().unwrap();
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    let began = Instant::now();
    dribble(idle(public), b"GET /healthz HTTP/1.1\r\nX: y\r\nX:");
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    // nor may an answer be left unread: this one is as large as its request
    let mut unread = narrow(server.addresses.trusted);
    let body = format!("data={}", "x".repeat(4 << 20));
    let head = format!(
        "POST /api/push/a/AA/e HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    unread.write(head.as_bytes()).unwrap();
    unread.write(body.as_bytes()).unwrap();
    eventually("it was accepted", || metric(&server, "events_in_total") == 1.0);
    eventually("it is closed", || metric(&server, "http_connections") == 1.0);
}

fn body() {
    let server = start(&[("limits.request_timeout_ms", "1000")]);
    let head = "POST /gcs/auth HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\n";
    let mut wire = Wire::open(server.addresses.public).unwrap();
    wire.write(head.as_bytes()).unwrap();
    wire.write(b"jwt").unwrap();
    wire.write(b"=abc").unwrap();
    let answered = http::response(wire, true).unwrap();
    assert_eq!(answered.status, 401);
    let mut wire = answered.wire;
    let began = Instant::now();
    wire.write(head.as_bytes()).unwrap();
    wire.write(b"jwt=ab").unwrap();
    let mut late = http::response(wire, true).unwrap();
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    assert_eq!((late.status, &*late.body), (408, &b"the body did not arrive in time\n"[..]));
    late.wire.ended().unwrap();
}

// ---------------------------------------------------------------------- signs of life

fn silence() {
    let server = start(&[("limits.ping_interval_ms", "400")]);
    let mut socket = connect(&server, "u1");
    // from here on the next is due in a while
    assert!(matches!(socket.receive().unwrap(), Frame::Ping(_)));
    for _ in 0..2 {
        let said = Instant::now();
        socket.send(true, TEXT, br#"{"event":"gusher.ping","data":1}"#).unwrap();
        assert!(matches!(socket.receive().unwrap(), Frame::Text(_)));
        // a quarter earlier at most, so that not all who came together are asked together
        assert!(matches!(socket.receive().unwrap(), Frame::Ping(_)));
        assert!(said.elapsed() >= Duration::from_millis(300), "{:?}", said.elapsed());
    }
}

fn no_answer_to_a_ping() {
    let server = start(&[("limits.ping_interval_ms", "200"), ("limits.pong_timeout_ms", "3000")]);
    let online = || String::from_utf8(get(server.addresses.trusted, "/api/a/online").body).unwrap();
    let began = Instant::now();
    // it reads nothing and says nothing, as if its network had gone
    let vanished = connect(&server, "vanished");
    let mut socket = connect(&server, "u1");
    assert!(online().contains("vanished"));
    assert!(matches!(socket.receive().unwrap(), Frame::Ping(_)));
    // any frame will do
    let said = Instant::now();
    socket.send(true, TEXT, br#"{"event":"gusher.ping","data":1}"#).unwrap();
    assert!(matches!(socket.receive().unwrap(), Frame::Text(_)));
    assert!(matches!(socket.receive().unwrap(), Frame::Ping(_)));
    assert_eq!(socket.receive().unwrap(), Frame::Close(1001, "no answer to a ping; reconnect".to_owned()));
    assert!(said.elapsed() >= Duration::from_millis(150 + 3000), "{:?}", said.elapsed());
    socket.finish(1001).unwrap();
    eventually("the vanished one is gone too", || online() == "[]");
    assert!(began.elapsed() >= Duration::from_millis(150 + 3000));
    assert_eq!(metric(&server, "connections_closed_total{reason=\"no_pong\"}"), 2.0);
    drop(vanished);
}

// ---------------------------------------------------------------------- memory

/// What is read next, which must be a text.
fn text(socket: &mut WebSocket) -> String {
    match next(socket).unwrap() {
        Frame::Text(text) => text,
        frame => panic!("{frame:?}"),
    }
}

const OVERFLOWS: &str = "outbox_overflows_total";

fn one_outbox() {
    let server = start(&[("limits.outbox_bytes_max", "20000")]);
    let mut readers: Vec<WebSocket> = (0..4).map(|_| connect(&server, "reader")).collect();
    let mut stalled = open(narrow(server.addresses.public), "stalled");
    readers.iter_mut().chain([&mut stalled]).for_each(|socket| subscribe(socket, "AA"));
    let mut sent = Vec::new();
    while metric(&server, OVERFLOWS) == 0.0 {
        assert!(sent.len() < 400, "still open");
        let data = padded(sent.len(), 5000);
        assert_eq!(publish(&server, "AA", &data).status, 200);
        sent.push(event("AA", &data));
        // the others have every event, in order and at once
        for reader in &mut readers {
            assert_eq!(Some(text(reader)), sent.last().cloned());
        }
    }
    // it has missed nothing of what came before, and is told why it ends
    let mut came = 0;
    let farewell = loop {
        match stalled.receive().unwrap() {
            Frame::Text(text) => {
                assert_eq!(text, sent[came]);
                came += 1;
            }
            frame => break frame,
        }
    };
    assert!(came < sent.len());
    let reason = "too slow to read what was sent; reconnect and read faster";
    assert_eq!(farewell, Frame::Close(1013, reason.to_owned()));
    stalled.finish(1013).unwrap();
    assert_eq!(metric(&server, "connections_closed_total{reason=\"slow_reader\"}"), 1.0);
    assert_eq!(get(server.addresses.trusted, "/api/a/online").body, b"[\"reader\"]");

    // one frame may be larger if it is alone
    let large = padded(0, 1 << 20);
    assert_eq!(publish(&server, "AA", &large).status, 200);
    for reader in &mut readers {
        assert_eq!(text(reader), event("AA", &large));
        assert_idle(reader);
    }

    // replies count as events do
    let mut asking = open(narrow(server.addresses.public), "asking");
    let command = format!(r#"{{"event":"gusher.ping","data":"{}"}}"#, "x".repeat(450));
    let mut count = 0;
    while metric(&server, OVERFLOWS) == 1.0 {
        assert!(count < 2000, "still open");
        (0..10).for_each(|_| drop(asking.send(true, TEXT, command.as_bytes())));
        count += 10;
    }
    assert_eq!(metric(&server, OVERFLOWS), 2.0);
    // the frame that was half written is kept until the client has hung up
    drop(asking);
    let began = Instant::now();
    while metric(&server, "outbox_frames_bytes") != 0.0 {
        assert!(began.elapsed() < PATIENCE, "frames of nobody");
    }
}

fn all_outboxes() {
    let server = start(&[("limits.outbox_bytes_max", "300000"), ("limits.outbox_total_bytes_max", "300000")]);
    let mut reader = connect(&server, "reader");
    subscribe(&mut reader, "AA");
    let mut stalled: Vec<WebSocket> = (0..8).map(|_| open(narrow(server.addresses.public), "stalled")).collect();
    for (number, socket) in stalled.iter_mut().enumerate() {
        subscribe(socket, &format!("S{number}"));
    }
    let data = padded(0, 20_000);
    for round in 0..40 {
        for number in 0..stalled.len() {
            assert_eq!(publish(&server, &format!("S{number}"), &data).status, 200);
        }
        assert_eq!(publish(&server, "AA", &padded(round, 1000)).status, 200);
        assert_eq!(text(&mut reader), event("AA", &padded(round, 1000)));
        // beyond the limit there is at most what was begun to be written to each
        let bytes = metric(&server, "outbox_frames_bytes");
        assert!(bytes < 300_000.0 + 9.0 * 20_100.0, "{bytes} in round {round}");
    }
    let counted = metrics(&server);
    assert!(counted[OVERFLOWS] > 0.0);
    assert_eq!(counted["connections_closed_total{reason=\"slow_reader\"}"], counted[OVERFLOWS]);
    assert_idle(&mut reader);
    drop(stalled);
    eventually("everything is free again", || {
        let metrics = metrics(&server);
        metrics["connections"] == 1.0 && metrics["outbox_frames_bytes"] == 0.0
    });
}

/// Several POSTs in one write, so that the later ones are there before the first is fanned out; status and body of the
/// answers.
fn pipelined(server: &Server, requests: &[(&str, &str, &str)]) -> Vec<(u16, String)> {
    let mut bytes = String::new();
    for (path, content_type, body) in requests {
        bytes += &format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{content_type}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    let mut wire = Wire::open(server.addresses.trusted).unwrap();
    wire.write(bytes.as_bytes()).unwrap();
    let mut answers = Vec::new();
    for _ in requests {
        let response = http::response(wire, true).unwrap();
        assert_eq!(response.header("Retry-After"), (response.status == 503).then_some("1"));
        answers.push((response.status, String::from_utf8(response.body).unwrap()));
        wire = response.wire;
    }
    answers
}

fn backlog() {
    let data = padded(0, 3000);
    let frame_bytes = event("AA", &data).len() + 4;
    // one shard: what it has accepted waits until it has taken the next request too
    let server = start(&[("limits.backlog_bytes_max", &frame_bytes.to_string()), ("node.shards", "1")]);
    let mut socket = connect(&server, "u1");
    subscribe(&mut socket, "AA");
    let form = format!("data={data}");
    let batch = r#"batch_data=[{"channel":"AA","event":"e","data":1}]"#;
    let push = ("/api/push/a/AA/e", "x-www-form-urlencoded", &*form);
    let requests = [
        push,
        push,
        push,
        ("/api/push_batch/a", "x-www-form-urlencoded", batch),
        ("/api/push/a", "x-www-form-urlencoded", "channel_pattern=A&event=e&data=1"),
        ("/api/push/user/a/u1", "x-www-form-urlencoded", "data=1"),
        ("/v1/apps/a/channels/AA/messages", "json", r#"{"event":"e","data":1}"#),
    ];
    eventually("it was behind", || {
        let answers = pipelined(&server, &requests);
        // what was accepted arrives, what was refused does not
        for (answer, (path, ..)) in answers.iter().zip(requests).filter(|(answer, _)| answer.0 == 200) {
            let expected = if path.contains("user") {
                "1".to_owned()
            } else {
                event("AA", if path == push.0 { &data } else { "1" })
            };
            assert_eq!(text(&mut socket), expected, "{path} {answer:?}");
        }
        assert_idle(&mut socket);
        let overloaded = (503, "overloaded, try again".to_owned());
        // exactly the limit may wait
        answers.iter().map(|answer| answer.0).take(2).eq([200, 200])
            && answers[2..].iter().all(|answer| *answer == overloaded)
    });
    assert!(metric(&server, "rejections_total{reason=\"overloaded\"}") >= 5.0);
    assert_eq!(publish(&server, "AA", &data).status, 200);
    assert_eq!(text(&mut socket), event("AA", &data));
}
