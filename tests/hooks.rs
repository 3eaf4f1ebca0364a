//! Webhooks against a real HTTP server, and what operators see of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "support/port.rs"]
mod port;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hydrant::config;
use hydrant::core::{ConnectionId, Data, Event, Observation, Observed, SessionName};
use hydrant::hooks::jobs::{Jobs, Target};
use hydrant::hooks::settings::{AppHooks, Endpoint, Events, Format, Settings};
use hydrant::hooks::{Chosen, Hooks};
use hydrant::node::{Node, Parts};
use hydrant::ops::metrics::OpsDoor;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use port::ReservedPort;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// For what has to come in time, but not at a known one.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What the server does with a request; the last is done for ever.
#[derive(Clone)]
enum Act {
    /// Answers with this status and body.
    Answer(u16, Bytes),
    /// Never answers.
    Hang,
}

fn status(status: u16) -> Act {
    Act::Answer(status, Bytes::from_static(b"{}"))
}

struct Seen {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.first().map_or("", |value| value.to_str().unwrap())
    }
}

struct Sink {
    address: String,
    seen: UnboundedReceiver<Seen>,
    connections: Arc<AtomicUsize>,
}

impl Sink {
    async fn start(acts: &[Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acts = Arc::new(Mutex::new(acts.iter().cloned().collect::<VecDeque<_>>()));
        let (telling, seen) = unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (acts, telling) = (acts.clone(), telling.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (acts, telling) = (acts.clone(), telling.clone());
                    async move {
                        let line = format!("{} {} {:?}", request.method(), request.uri(), request.version());
                        let headers = request.headers().clone();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let act = {
                            let mut acts = acts.lock().unwrap();
                            if acts.len() > 1 { acts.pop_front() } else { acts.front().cloned() }
                        };
                        let _ = telling.send(Seen { line, headers, body });
                        match act.unwrap() {
                            Act::Answer(status, body) => {
                                let response = Response::builder().status(status).header("Location", "/elsewhere");
                                Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
                            }
                            Act::Hang => std::future::pending().await,
                        }
                    }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        Sink { address, seen, connections }
    }

    async fn next(&mut self) -> Seen {
        tokio::time::timeout(WAIT_MAX, self.seen.recv()).await.expect("a request").unwrap()
    }
}

fn start() -> Hooks {
    // the first test of the process installs it; all others find it there
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Hooks::start(Handle::current(), &Settings::default())
}

fn quick() -> Settings {
    Settings { retry_pause: Duration::from_millis(10), timeout: WAIT_MAX, ..Settings::default() }
}

fn sign(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn app(url: &str, format: Format, secret: &'static str) -> AppHooks {
    let sign = Arc::new(move |body: &[u8]| sign(secret, body));
    let events = Events::all(format);
    let endpoint = Endpoint { url: url.into(), format, events, channel_prefix: Vec::new(), batch: Duration::ZERO };
    AppHooks { app: "key".into(), app_id: "id".into(), sign, endpoints: vec![endpoint] }
}

fn see(hooks: &Hooks, channel: &str, what: Observed) {
    hooks.observe(Observation { app: "key".into(), channel: channel.into(), what });
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {WAIT_MAX:?}"));
}

#[tokio::test]
async fn a_pusher_webhook_is_signed_and_of_the_exact_type() {
    let mut sink = Sink::start(&[status(204)]).await;
    let hooks = start();
    let url = format!("http://user:pass%20word@{}/hooks/in?app=1", sink.address);
    hooks.replace(&quick(), &[app(&url, Format::Pusher, "secret")]).unwrap();
    let session = SessionName { prefix: None, id: ConnectionId { nonce: 0, slot: 5, shard: 0, node: 0 } };
    let event = Event::new("client-é", Data::AsSent(r#"{"a":"ü"}"#.into()), 1);
    see(&hooks, "presence-x", Observed::ClientEvent { event, session, user: Some("u".into()) });
    let seen = sink.next().await;
    assert_eq!(seen.line, "POST /hooks/in?app=1 HTTP/1.1");
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("x-pusher-key"), "key");
    assert_eq!(seen.header("x-pusher-signature"), sign("secret", &seen.body));
    assert_eq!(seen.header("authorization"), "Basic dXNlcjpwYXNzIHdvcmQ=");
    assert_eq!(seen.header("host"), sink.address);
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(now_ms - body["time_ms"].as_u64().unwrap() < 60_000);
    assert_eq!(
        body["events"].to_string(),
        r#"[{"channel":"presence-x","data":"{\"a\":\"ü\"}","event":"client-é","name":"client_event","socket_id":"0.5","user_id":"u"}]"#
    );
}

#[tokio::test]
async fn headers_are_written_as_documented() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hooks = start();
    let url = format!("http://{}/in", listener.local_addr().unwrap());
    hooks.replace(&quick(), &[app(&url, Format::Pusher, "secret")]).unwrap();
    see(&hooks, "x", Observed::Occupied);
    let (mut stream, _) = tokio::time::timeout(WAIT_MAX, listener.accept()).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"]}") {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let signature = format!("X-Pusher-Signature: {}", sign("secret", body.as_bytes()));
    for line in ["POST /in HTTP/1.1", "Content-Type: application/json", "X-Pusher-Key: key", &signature] {
        assert!(head.split("\r\n").any(|sent| sent == line), "{line} in {head}");
    }
}

#[tokio::test]
async fn a_push1st_hook_is_as_the_original_sends_it() {
    let mut sink = Sink::start(&[status(200)]).await;
    let hooks = start();
    let url = format!("http://{}/", sink.address);
    hooks.replace(&quick(), &[app(&url, Format::Push1st, "secret")]).unwrap();
    see(&hooks, "hk", Observed::Occupied);
    let seen = sink.next().await;
    assert_eq!(seen.header("content-type"), "application/json");
    assert_eq!(seen.header("accept"), "application/json");
    assert_eq!(seen.body, r#"{"app":"id","channel":"hk","data":"null","event":"register","session":""}"#);
    // the connection is used again
    see(&hooks, "hk", Observed::Vacated);
    assert!(sink.next().await.body.starts_with(br#"{"app":"id","channel":"hk","data":"null","event":"unregister""#));
    assert_eq!(sink.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn any_2xx_is_done_and_all_else_is_tried_again() {
    let large = Act::Answer(201, vec![b'x'; 1 << 20].into());
    let acts = [status(500), status(302), status(404), status(429), large, status(200)];
    let mut sink = Sink::start(&acts).await;
    let hooks = start();
    let url = format!("http://{}/in", sink.address);
    hooks.replace(&quick(), &[app(&url, Format::Pusher, "secret")]).unwrap();
    see(&hooks, "x", Observed::Occupied);
    see(&hooks, "x", Observed::CacheMiss);
    for _ in 0..5 {
        let seen = sink.next().await;
        assert_eq!(seen.line, "POST /in HTTP/1.1");
        assert!(seen.body.ends_with(br#""events":[{"name":"channel_occupied","channel":"x"}]}"#));
        assert_eq!(seen.header("x-pusher-signature"), sign("secret", &seen.body));
    }
    assert!(sink.next().await.body.ends_with(br#""events":[{"name":"cache_miss","channel":"x"}]}"#));
    until("both told", || hooks.report()[0].delivered == 2).await;
    assert_eq!(hooks.report()[0].failed, 4);
    assert_eq!(hooks.report()[0].last_error.as_ref().unwrap().error, "answered 429 Too Many Requests");
}

#[tokio::test]
async fn an_endpoint_that_hangs_or_is_not_there() {
    let mut sink = Sink::start(&[Act::Hang, status(200)]).await;
    let hooks = start();
    let url = format!("http://{}/?key=hunter2", sink.address);
    let settings = Settings { timeout: Duration::from_millis(100), ..quick() };
    hooks.replace(&settings, &[app(&url, Format::Pusher, "secret")]).unwrap();
    see(&hooks, "x", Observed::Occupied);
    sink.next().await;
    sink.next().await;
    let error = || hooks.report()[0].last_error.clone().map(|last| last.error).unwrap_or_default();
    assert_eq!(error(), "no answer within 100 ms");
    let nobody = ReservedPort::new();
    let url = format!("http://u:hunter2@127.0.0.1:{}/?hunter2", nobody.number);
    hooks.replace(&quick(), &[app(&url, Format::Pusher, "s")]).unwrap();
    see(&hooks, "x", Observed::Occupied);
    until("a failure", || !error().is_empty()).await;
    assert!(error().contains("onnection refused") && !error().contains("hunter2"), "{}", error());
}

#[tokio::test]
async fn a_replayed_delivery_is_signed_anew() {
    let mut sink = Sink::start(&[status(500), status(200)]).await;
    let hooks = start();
    let url = format!("http://{}/", sink.address);
    let settings = Settings { retry: Duration::ZERO, ..quick() };
    hooks.replace(&settings, &[app(&url, Format::Pusher, "old")]).unwrap();
    see(&hooks, "x", Observed::Occupied);
    let first = sink.next().await;
    assert_eq!(first.header("x-pusher-signature"), sign("old", &first.body));
    until("it is parked", || hooks.report()[0].parked == 1).await;
    hooks.replace(&settings, &[app(&url, Format::Pusher, "new")]).unwrap();
    assert_eq!(hooks.replay(&Chosen::All), 1);
    let again = sink.next().await;
    assert_eq!(again.header("x-pusher-signature"), sign("new", &again.body));
    until("it is told", || hooks.report()[0].delivered == 1).await;
    assert_eq!(hooks.parked(10), (Vec::new(), 0));
}

#[tokio::test]
async fn operators_see_what_is_parked_and_replay_it() {
    let mut sink = Sink::start(&[status(500), status(200)]).await;
    let hooks = start();
    let listener = config::Listener {
        address: config::Address::Tcp(([127, 0, 0, 1], 0).into()),
        doors: vec![config::Door::Ops],
        trusted: true,
        ..config::Listener::blank()
    };
    let node = Node::launch(Parts {
        shards: 1,
        settings: Default::default(),
        jobs: Jobs::start(Target::None, WAIT_MAX, 1, Handle::current()).unwrap(),
        hooks: hooks.clone(),
        grace: Duration::ZERO,
        trusted_proxies: Vec::new(),
        listeners: vec![(listener, vec![Arc::new(OpsDoor)])],
    })
    .unwrap();
    let ops = node.listeners()[0].address.to_string();
    let client = reqwest::Client::new();
    let get = async |path: &str| client.get(format!("http://{ops}{path}")).send().await.unwrap().text().await.unwrap();
    let url = format!("http://user:hunter2@{}/in?key=hunter2", sink.address);
    let settings = Settings { retry: Duration::ZERO, ..quick() };
    hooks.replace(&settings, &[app(&url, Format::Pusher, "secret")]).unwrap();
    see(&hooks, "x", Observed::Occupied);
    sink.next().await;
    until("it is parked", || hooks.report()[0].parked == 1).await;
    let shown = format!("http://***@{}/in?***", sink.address);
    let report: serde_json::Value = serde_json::from_str(&get("/hooks").await).unwrap();
    let endpoint = &report["endpoints"][0];
    assert!(endpoint["last_error"]["at_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(endpoint["last_error"]["error"], "answered 500 Internal Server Error");
    assert_eq!((&endpoint["url"], &endpoint["format"]), (&shown.as_str().into(), &"pusher".into()));
    assert_eq!((&endpoint["parked"], &endpoint["failed"], &endpoint["queued"]), (&1.into(), &1.into(), &0.into()));
    let listed: serde_json::Value = serde_json::from_str(&get("/hooks/parked").await).unwrap();
    let parked = &listed["parked"][0];
    assert_eq!(parked["events"].to_string(), r#"[{"channel":"x","name":"channel_occupied"}]"#);
    assert_eq!((&parked["app"], &parked["attempts"], &listed["count"]), (&"key".into(), &1.into(), &1.into()));
    let metrics = get("/metrics").await;
    for line in [
        r#"hydrant_hook_deliveries_total{app="key",result="failed"} 1"#,
        r#"hydrant_hook_deliveries_total{app="key",result="parked"} 1"#,
        r#"hydrant_hook_parked{app="key"} 1"#,
        r#"hydrant_hook_queued{app="key"} 0"#,
        "hydrant_hook_overflows_total 0",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line} in\n{metrics}");
    }
    let ids = serde_json::json!({ "ids": [parked["id"]] }).to_string();
    let replay = client.post(format!("http://{ops}/hooks/replay")).body(ids).send().await.unwrap();
    assert_eq!(replay.text().await.unwrap(), "{\"replayed\":1}\n");
    sink.next().await;
    until("it is told", || hooks.report()[0].delivered == 1).await;
    node.drain().await;
}

/// What stands in the documentation between two texts.
fn documented<'a>(begin: &str, end: &str) -> &'a str {
    const DOCUMENT: &str = include_str!("../docs/hooks.md");
    let (_, rest) = DOCUMENT.split_once(begin).unwrap_or_else(|| panic!("{begin:?} is in the documentation"));
    rest.split_once(end).unwrap_or_else(|| panic!("{end:?} follows {begin:?}")).0
}

#[tokio::test]
async fn the_documentation_shows_what_is_so() {
    let body = documented("\n\n{\"time_ms\":", "\n");
    let signature = documented("\nX-Pusher-Signature: ", "\n");
    assert_eq!(sign(documented("\nsecret = \"", "\""), format!("{{\"time_ms\":{body}").as_bytes()), signature);
    for line in documented("in a string:\n\n```\n", "\n```").lines().chain(documented("/hooks\n", "\n$").lines()) {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), documented("```lua\n", "```")).unwrap();
    let url = format!("lua://{}", script.path().display());
    let hooks = start();
    hooks.replace(&Settings::default(), &[app(&url, Format::Lua, "")]).unwrap();
    let session = SessionName { prefix: None, id: ConnectionId { nonce: 0, slot: 5, shard: 0, node: 0 } };
    let event = Event::new("hi", Data::AsSent(r#"{"text":"hello"}"#.into()), 1);
    see(&hooks, "room-1", Observed::Occupied);
    see(&hooks, "room-1", Observed::ClientEvent { event, session, user: None });
    until("both calls", || hooks.report()[0].delivered + hooks.report()[0].failed == 2).await;
    assert_eq!(hooks.report()[0].last_error, None);
}
