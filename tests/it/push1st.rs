//! Push1ST's API and raw sockets: what one bad message costs, who needs a signature, and who hears what is for one session.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use hydrant::credential::signature::AppSecrets;
use serde_json::{Value, json};

use crate::client::start_with;
use crate::http;
use crate::server::Server;
use crate::websocket::{self, Frame, TEXT, WebSocket};

const API: &str = "address = \"127.0.0.1:0\"\ndoors = [\"push1st\"]\ntrusted = true";
const SIGNED_API: &str = "address = \"127.0.0.1:0\"\ndoors = [\"push1st\"]\npath_prefix = \"/push\"";
const SOCKETS: &str = "address = \"127.0.0.1:0\"\ndoors = [\"push1st-socket\", \"pusher\"]";

/// A server with one app, and where its listeners are.
struct Push1st {
    server: Server,
    api: SocketAddr,
    signed_api: SocketAddr,
    sockets: SocketAddr,
}

impl Push1st {
    fn start() -> Self {
        let app = r#"[{ id = "app-test", key = "app-key", secret = "secret", socket_push = ["public"] }]"#;
        let server = start_with(&[("apps", app)], &[API, SIGNED_API, SOCKETS]);
        let listening: Vec<SocketAddr> = server.listening().iter().map(|address| address.parse().unwrap()).collect();
        Self { server, api: listening[0], signed_api: listening[1], sockets: listening[2] }
    }

    fn post(&self, call: &str, body: &str) -> (u16, Value) {
        post(self.api, &format!("/apps/app-test/{call}"), body)
    }

    fn socket(&self, path: &str) -> WebSocket {
        WebSocket::accept(websocket::ask(self.sockets, path, &[]).unwrap()).unwrap()
    }

    /// It serves as before.
    fn assert_well(&self) {
        let mut socket = self.socket("/ws/app/app-key/well");
        let (status, answer) = self.post("events", r#"{"name":"e","channel":"well","data":[1]}"#);
        assert_eq!((status, &answer["channels"]), (200, &json!({ "well": 1 })));
        let event = event(&mut socket);
        assert_eq!((&event["event"], &event["data"]), (&json!("e"), &json!([1])));
        let panics = crate::client::metric(&self.server, "panics_total");
        assert_eq!(panics, 0.0);
    }
}

fn post(address: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    let response = http::request(address, "POST", path, &[], body.as_bytes()).unwrap();
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

fn event(socket: &mut WebSocket) -> Value {
    match socket.receive().unwrap() {
        Frame::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What a raw socket that sends this is told at its end.
fn end_of(push1st: &Push1st, message: &str) -> Frame {
    let mut socket = push1st.socket("/ws/app/app-key/news");
    socket.send(true, TEXT, message.as_bytes()).unwrap();
    socket.receive().unwrap()
}

#[test]
fn p2_an_event_without_data_is_refused() {
    let push1st = Push1st::start();
    for body in [r#"{"name":"e","channels":["news"]}"#, r#"{"name":"e","channel":"news"}"#, "{}", "null"] {
        assert_eq!(push1st.post("events", body), (400, json!({ "error": "data is missing" })), "{body}");
    }
    push1st.assert_well();
}

#[test]
fn p3_a_path_without_a_key_is_refused() {
    let push1st = Push1st::start();
    for path in ["/ws/app", "/ws/app/", "/ws/app//news"] {
        assert_eq!(websocket::ask(push1st.sockets, path, &[]).unwrap().status, 403, "{path}");
    }
    for path in ["/apps/", "/apps//events"] {
        assert_eq!(post(push1st.api, path, "{}").0, 403, "{path}");
    }
    push1st.assert_well();
}

#[test]
fn p4_a_client_event_on_a_joined_channel_is_delivered() {
    let push1st = Push1st::start();
    let mut one = push1st.socket("/ws/app/app-key/news?session=bob");
    let mut other = push1st.socket("/ws/app/app-key/news");
    one.send(true, TEXT, br#"{"event":"client-x","channel":"news","data":{"channel":7}}"#).unwrap();
    let event = event(&mut other);
    assert_eq!((&event["event"], &event["data"]), (&json!("client-x"), &json!({ "channel": 7 })));
    assert!(event["#msg-from"].as_str().unwrap().starts_with("bob."), "{event}");
    push1st.assert_well();
}

#[test]
fn p5_an_event_whose_name_is_a_number_has_it_as_text() {
    let push1st = Push1st::start();
    let mut one = push1st.socket("/ws/app/app-key/news");
    let mut other = push1st.socket("/ws/app/app-key/news");
    one.send(true, TEXT, br#"{"event":7,"channel":"news","data":1}"#).unwrap();
    assert_eq!(event(&mut other)["event"], "7");
    assert_eq!(push1st.post("events", r#"{"name":-1.50,"channel":"news","data":1}"#).0, 200);
    assert_eq!(event(&mut other)["event"], "-1.50");
    let closed = Frame::Close(1008, "event is not a string".to_owned());
    assert_eq!(end_of(&push1st, r#"{"event":[],"channel":"news","data":1}"#), closed);
    push1st.assert_well();
}

#[test]
fn p6_a_message_without_an_event_ends_its_connection_alone() {
    let push1st = Push1st::start();
    let closed = |reason: &str| Frame::Close(1008, reason.to_owned());
    assert_eq!(end_of(&push1st, r#"{"data":{}}"#), closed("channel is missing"));
    assert_eq!(end_of(&push1st, r#"{"data":{},"channel":"news"}"#), closed("event is missing"));
    assert_eq!(end_of(&push1st, r#"{"event":"e","channel":"news"}"#), closed("data is missing"));
    for message in ["", "[]", "null,", "\u{0}", "{\"event\":"] {
        assert_eq!(end_of(&push1st, message), closed("not a JSON object"), "{message:?}");
    }
    push1st.assert_well();
}

#[test]
fn a_signature_is_needed_where_the_listener_is_not_trusted() {
    let push1st = Push1st::start();
    let body = r#"{"name":"e","channel":"news","data":1}"#;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sign = |secret: &str, path: &str| {
        AppSecrets::new("app-key", [secret]).sign_request("POST", path, &[], body.as_bytes(), now)
    };
    let (below, whole) = ("/apps/app-test/events", "/push/apps/app-test/events");
    let public = |query: &str, body: &str| post(push1st.signed_api, &format!("{whole}?{query}"), body).0;
    let trusted = |query: &str| post(push1st.api, &format!("{below}?{query}"), body).0;
    assert_eq!(public("", body), 401);
    assert_eq!(public(&sign("secret", whole), body), 200);
    assert_eq!(public(&sign("secret", below), body), 200);
    assert_eq!(public(&sign("secret", "/apps/other/events"), body), 401);
    assert_eq!(public(&sign("other", whole), body), 401);
    assert_eq!(public(&sign("secret", whole), "{}"), 401);
    // none is needed on a trusted listener, but one that is there counts
    assert_eq!(trusted(""), 200);
    assert_eq!(trusted(&sign("secret", below)), 200);
    assert_eq!(trusted(&sign("other", below)), 401);
}

#[test]
fn what_is_for_one_session_is_not_kept_for_newcomers() {
    let push1st = Push1st::start();
    let publish = |data: &str, more: &str| {
        let body = format!(r#"{{"name":"e","channel":"cache-news","data":"{data}"{more}}}"#);
        assert_eq!(push1st.post("events", &body).0, 200);
    };
    publish("for all", "");
    publish("for one", r#","options":{"delivery":"multicast","session":"bob"}"#);
    publish("for another", r#","options":{"delivery":"unicast","session":"bob.1.2"}"#);
    let mut newcomer = push1st.socket("/app/app-key");
    event(&mut newcomer);
    newcomer.send(true, TEXT, br#"{"event":"pusher:subscribe","data":{"channel":"cache-news"}}"#).unwrap();
    event(&mut newcomer);
    assert_eq!(event(&mut newcomer)["data"], "for all");
}
