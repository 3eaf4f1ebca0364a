//! What tests say to a server in one call: connect, subscribe, publish, read a metric.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::http::{self, PATIENCE, Response, Wire};
use crate::server::{Server, Settings};
use crate::token;
use crate::websocket::{self, Frame, TEXT, WebSocket};

/// A server of its own with these settings.
pub(crate) fn start(settings: &[(&str, &str)]) -> Server {
    start_with(settings, &[])
}

/// The same with further listeners.
pub(crate) fn start_with(settings: &[(&str, &str)], listeners: &[&str]) -> Server {
    let values = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let listeners = listeners.iter().map(|lines| (*lines).to_owned()).collect();
    Server::start(&Settings { values, listeners, ..Settings::default() }).unwrap()
}

/// Asks until it is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The path of a socket of app `a`, for a user who may subscribe to everything.
pub(crate) fn path(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let gusher = json!({ "app_key": "a", "user_id": user, "channels": ["*"] });
    let jwt = token::sign("RS256", "test", &json!({ "exp": now + 600, "gusher": gusher })).unwrap();
    format!("/gcs/ws/a?token={jwt}")
}

/// A socket of that user.
pub(crate) fn connect(server: &Server, user: &str) -> WebSocket {
    open(Wire::open(server.addresses.public).unwrap(), user)
}

/// The same on a connection that there is.
pub(crate) fn open(wire: Wire, user: &str) -> WebSocket {
    WebSocket::accept(websocket::ask_on(wire, "localhost", &path(user), &[]).unwrap()).unwrap()
}

/// A connection for which the kernel holds little that is not read.
pub(crate) fn narrow(address: SocketAddr) -> Wire {
    Wire::over(narrow_stream(address)).unwrap()
}

/// The same, yet to be wrapped.
pub(crate) fn narrow_stream(address: SocketAddr) -> TcpStream {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    TcpStream::from(socket)
}

/// Subscribes, and takes the reply.
pub(crate) fn subscribe(socket: &mut WebSocket, channel: &str) {
    let command = json!({ "event": "gusher.subscribe", "data": { "channel": channel } }).to_string();
    socket.send(true, TEXT, command.as_bytes()).unwrap();
    let reply = next(socket).unwrap();
    assert!(matches!(&reply, Frame::Text(text) if text.contains("gusher.subscribe_succeeded")), "{reply:?}");
}

/// The next frame but pings, which are answered.
pub(crate) fn next(socket: &mut WebSocket) -> Result<Frame, String> {
    loop {
        match socket.receive()? {
            Frame::Ping(payload) => socket.send(true, websocket::PONG, payload.as_bytes())?,
            frame => return Ok(frame),
        }
    }
}

/// The socket is alive, and has nothing to read.
pub(crate) fn assert_idle(socket: &mut WebSocket) {
    socket.send(true, TEXT, br#"{"event":"gusher.ping","data":"fence"}"#).unwrap();
    let reply = next(socket).unwrap();
    assert!(matches!(&reply, Frame::Text(text) if text.contains("fence")), "{reply:?}");
}

/// A request on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    http::request(address, "GET", path, &[], b"").unwrap()
}

/// Publishes the event `e` to a channel of app `a`; the answer.
pub(crate) fn publish(server: &Server, channel: &str, data: &str) -> Response {
    let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
    let body = format!("data={data}");
    let path = format!("/api/push/a/{channel}/e");
    http::request(server.addresses.trusted, "POST", &path, &form, body.as_bytes()).unwrap()
}

/// What subscribers of the channel read.
pub(crate) fn event(channel: &str, data: &str) -> String {
    format!(r#"{{"channel":"{channel}","event":"e","data":{data}}}"#)
}

/// A JSON string of so many bytes, quotes included, that begins with a number.
pub(crate) fn padded(number: usize, bytes: usize) -> String {
    let text = format!("\"{number}-");
    format!("{text}{}\"", "x".repeat(bytes - text.len() - 1))
}

/// Every metric by its name with labels, `hydrant_` left off.
pub(crate) fn metrics(server: &Server) -> BTreeMap<String, f64> {
    let response = get(server.addresses.ops, "/metrics");
    assert_eq!(response.status, 200);
    let text = String::from_utf8(response.body).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.trim_start_matches("hydrant_").to_owned(), value.parse().unwrap()))
        .collect()
}

/// One of them.
pub(crate) fn metric(server: &Server, name: &str) -> f64 {
    *metrics(server).get(name).unwrap_or_else(|| panic!("no metric {name}"))
}
