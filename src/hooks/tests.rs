//! The hooks as a whole, with endpoints that are scripts and a clock that is not the world's.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::core::{ConnectionId, Data, Event, Observed, SessionName};

use settings::Events;

/// What an endpoint does with a request; the last goes on for ever.
#[derive(Clone, Copy, Debug)]
enum Act {
    Take,
    Refuse,
    Hang,
}

/// Endpoints by URL: what they do, and what they were sent.
#[derive(Clone)]
struct Sink {
    acts: Arc<Mutex<HashMap<String, VecDeque<Act>>>>,
    sent: UnboundedSender<(String, String)>,
    most_at_once: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
}

impl Sink {
    fn new() -> (Self, UnboundedReceiver<(String, String)>) {
        let (sent, received) = unbounded_channel();
        (Self { acts: Arc::default(), sent, most_at_once: Arc::default(), at_once: Arc::default() }, received)
    }

    fn act(&self, url: &str, acts: &[Act]) {
        self.acts.lock().unwrap().insert(url.to_owned(), acts.iter().copied().collect());
    }

    fn post(&self) -> Post {
        let sink = self.clone();
        Arc::new(move |request| {
            let sink = sink.clone();
            Box::pin(async move {
                let act = {
                    let mut acts = sink.acts.lock().unwrap();
                    let acts = acts.entry(request.url.clone()).or_default();
                    if acts.len() > 1 { acts.pop_front() } else { acts.front().copied() }
                };
                let at_once = sink.at_once.fetch_add(1, Ordering::Relaxed) + 1;
                sink.most_at_once.fetch_max(at_once, Ordering::Relaxed);
                let result = match act.unwrap_or(Act::Take) {
                    Act::Take => Ok(()),
                    Act::Refuse => Err("answered 500 Internal Server Error".to_owned()),
                    Act::Hang => {
                        sleep(request.timeout).await;
                        Err("no answer".to_owned())
                    }
                };
                sink.at_once.fetch_sub(1, Ordering::Relaxed);
                if result.is_ok() {
                    let _ = sink.sent.send((request.url, String::from_utf8(request.body).unwrap()));
                }
                result
            })
        })
    }
}

fn start(sink: &Sink) -> Hooks {
    // the first test of the process installs it; all others find it there
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings { inbox_max: 100, ..Settings::default() };
    let http = Arc::new(Http::default());
    Hooks::start_with(Handle::current(), &settings, http, sink.post(), || 0.0)
}

fn endpoint(url: &str, format: Format) -> Endpoint {
    let events = Events::all(format);
    Endpoint { url: url.into(), format, events, channel_prefix: Vec::new(), batch: Duration::ZERO }
}

fn app(endpoints: Vec<Endpoint>) -> AppHooks {
    let sign = Arc::new(|body: &[u8]| format!("{} bytes", body.len()));
    AppHooks { app: "key".into(), app_id: "id".into(), sign, endpoints }
}

fn see(hooks: &Hooks, channel: &str, what: Observed) {
    hooks.observe(Observation { app: "key".into(), channel: channel.into(), what });
}

fn joined(slot: u32) -> Observed {
    Observed::Joined { session: session(slot), member: None }
}

fn session(slot: u32) -> SessionName {
    SessionName { prefix: None, id: ConnectionId { nonce: 0, slot, shard: 0, node: 0 } }
}

/// The events in a body of either format, by name and channel.
fn names(body: &str) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or("").to_owned();
    match body["events"].as_array() {
        Some(events) => {
            events.iter().map(|event| format!("{} {}", text(event, "name"), text(event, "channel"))).collect()
        }
        None => vec![format!("{} {}", text(&body, "event"), text(&body, "channel"))],
    }
}

/// What arrives next, and after how long.
async fn next(received: &mut UnboundedReceiver<(String, String)>) -> (String, Vec<String>) {
    let (url, body) = received.recv().await.unwrap();
    (url, names(&body))
}

async fn expect(received: &mut UnboundedReceiver<(String, String)>, url: &str, events: &[&str]) {
    let arrived = next(received).await;
    assert_eq!((arrived.0.as_str(), arrived.1), (url, events.iter().map(|event| (*event).to_owned()).collect()));
}

/// Lets everything happen that can without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

const A: &str = "http://a/";
const B: &str = "http://b/";

#[tokio::test(start_paused = true)]
async fn every_endpoint_gets_every_event_it_asks_for() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    let narrow = Endpoint { channel_prefix: vec!["priv".into()], ..endpoint("http://c/", Format::Pusher) };
    let apps = [app(vec![endpoint(A, Format::Pusher), endpoint(B, Format::Push1st), narrow])];
    assert!(!hooks.has_hooks(&"key".into()));
    hooks.replace(&Settings::default(), &apps).unwrap();
    assert!(hooks.has_hooks(&"key".into()) && !hooks.has_hooks(&"id".into()));
    see(&hooks, "x", Observed::Occupied);
    see(&hooks, "x", joined(7));
    see(&hooks, "private-y", Observed::Occupied);
    hooks.observe(Observation { app: "other".into(), channel: "x".into(), what: Observed::Occupied });
    hooks.finish(Duration::from_secs(1)).await;
    let mut all = Vec::new();
    while let Ok((url, body)) = received.try_recv() {
        all.push(format!("{url} {}", names(&body).join(",")));
    }
    all.sort();
    assert_eq!(
        all,
        [
            "http://a/ channel_occupied private-y",
            "http://a/ channel_occupied x",
            "http://b/ join x",
            "http://b/ register private-y",
            "http://b/ register x",
            "http://c/ channel_occupied private-y",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_channel_waits_others_go_on_and_order_is_kept() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    hooks.replace(&Settings::default(), &[app(vec![endpoint(A, Format::Push1st)])]).unwrap();
    sink.act(A, &[Act::Refuse, Act::Take]);
    let began = Instant::now();
    see(&hooks, "x", Observed::Occupied);
    settle().await;
    see(&hooks, "x", joined(1));
    see(&hooks, "y", Observed::Occupied);
    expect(&mut received, A, &["register y"]).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    expect(&mut received, A, &["register x"]).await;
    assert_eq!(began.elapsed().as_secs(), 1);
    expect(&mut received, A, &["join x"]).await;
    let report = &hooks.report()[0];
    assert_eq!((report.delivered, report.failed, report.queued), (3, 1, 0));
    let error = report.last_error.as_ref().unwrap();
    assert_eq!(error.error, "answered 500 Internal Server Error");
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_delays_nobody() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    // nothing is to be had from the pool: each endpoint has its own request
    let settings = Settings { in_flight_max: 0, ..Settings::default() };
    hooks.replace(&settings, &[app(vec![endpoint(A, Format::Pusher), endpoint(B, Format::Pusher)])]).unwrap();
    sink.act(A, &[Act::Hang]);
    let began = Instant::now();
    for number in 0..50 {
        see(&hooks, &number.to_string(), Observed::Occupied);
    }
    for number in 0..50 {
        expect(&mut received, B, &[&format!("channel_occupied {number}")]).await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(hooks.report()[0].queued, 50);
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_endpoint_go_side_by_side_up_to_a_number() {
    let (sink, _received) = Sink::new();
    let hooks = start(&sink);
    sink.act(A, &[Act::Hang]);
    hooks.replace(&Settings::default(), &[app(vec![endpoint(A, Format::Pusher)])]).unwrap();
    for number in 0..50 {
        see(&hooks, &number.to_string(), Observed::Occupied);
    }
    settle().await;
    assert_eq!(sink.at_once.load(Ordering::Relaxed), 8);
    // with the eighth failure it is down; when those that took the places of the first seven have failed too, it is
    // asked by one at a time
    sleep(Duration::from_secs(22)).await;
    assert_eq!(sink.at_once.load(Ordering::Relaxed), 1);
    let settings = Settings { in_flight_max: 3, ..Settings::default() };
    let apps = [app(vec![endpoint("http://c/", Format::Pusher), endpoint("http://d/", Format::Pusher)])];
    hooks.replace(&settings, &apps).unwrap();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(sink.at_once.load(Ordering::Relaxed), 0);
    sink.act("http://c/", &[Act::Hang]);
    sink.act("http://d/", &[Act::Hang]);
    for number in 0..20 {
        see(&hooks, &number.to_string(), Observed::Occupied);
    }
    settle().await;
    assert_eq!(sink.at_once.load(Ordering::Relaxed), 2 + 3, "one each, and three from the pool");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_for_five_minutes_is_parked_and_can_be_replayed() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    hooks.replace(&Settings::default(), &[app(vec![endpoint("http://u:p@a/?key=1", Format::Pusher)])]).unwrap();
    sink.act("http://u:p@a/?key=1", &[Act::Refuse]);
    for channel in ["x", "y", "z"] {
        see(&hooks, channel, Observed::Occupied);
    }
    sleep(Duration::from_secs(299)).await;
    assert_eq!((hooks.report()[0].queued, hooks.report()[0].parked), (3, 0));
    sleep(Duration::from_secs(5)).await;
    assert_eq!((hooks.report()[0].queued, hooks.report()[0].parked), (0, 3));
    let (parked, count) = hooks.parked(2);
    assert_eq!((parked.len(), count), (2, 3));
    assert_eq!(parked[0].url, "http://***@a/?***");
    assert_eq!(parked[0].error, "answered 500 Internal Server Error");
    assert_eq!(parked[0].events, [ParkedEvent { name: "channel_occupied", channel: "x".into() }]);
    assert!(parked[0].attempts >= 1);
    let y = HashSet::from([parked[1].id.clone(), "1-999".to_owned(), "nonsense".to_owned()]);
    assert_eq!(hooks.discard(&Chosen::Ids(y)), 1);
    sink.act("http://u:p@a/?key=1", &[Act::Take]);
    assert_eq!(hooks.replay(&Chosen::All), 2);
    let (mut one, mut other) = (next(&mut received).await.1, next(&mut received).await.1);
    if one > other {
        std::mem::swap(&mut one, &mut other);
    }
    assert_eq!((one, other), (vec!["channel_occupied x".into()], vec!["channel_occupied z".into()]));
    settle().await;
    let totals = hooks.totals();
    assert_eq!((totals[0].parked, totals[0].parked_now, totals[0].delivered, totals[0].dropped), (3, 0, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn pusher_hears_three_seconds_later_of_who_stays_away() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    hooks
        .replace(&Settings::default(), &[app(vec![endpoint(A, Format::Pusher), endpoint(B, Format::Push1st)])])
        .unwrap();
    let began = Instant::now();
    see(&hooks, "x", Observed::Vacated);
    expect(&mut received, B, &["unregister x"]).await;
    see(&hooks, "x", Observed::Occupied);
    expect(&mut received, B, &["register x"]).await;
    see(&hooks, "y", Observed::Vacated);
    expect(&mut received, B, &["unregister y"]).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    expect(&mut received, A, &["channel_vacated y"]).await;
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!(received.try_recv().is_err());
    // the end of the process waits for nothing
    see(&hooks, "z", Observed::Vacated);
    let began = Instant::now();
    hooks.finish(Duration::from_secs(10)).await;
    expect(&mut received, B, &["unregister z"]).await;
    expect(&mut received, A, &["channel_vacated z"]).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn batches_are_signed_as_a_whole() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    let batched = Endpoint { batch: Duration::from_millis(50), ..endpoint(A, Format::Pusher) };
    hooks.replace(&Settings::default(), &[app(vec![batched])]).unwrap();
    let event = Event::new("client-x", Data::AsSent("{}".into()), 1);
    see(&hooks, "x", Observed::Occupied);
    see(&hooks, "x", Observed::ClientEvent { event, session: session(1), user: None });
    see(&hooks, "y", Observed::Occupied);
    let began = Instant::now();
    expect(&mut received, A, &["channel_occupied x", "client_event x", "channel_occupied y"]).await;
    assert_eq!(began.elapsed().as_millis(), 50);
}

#[tokio::test(start_paused = true)]
async fn what_the_inbox_cannot_hold_is_lost_and_counted() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    hooks.replace(&Settings::default(), &[app(vec![endpoint(A, Format::Push1st)])]).unwrap();
    settle().await;
    // nothing runs between these lines
    for number in 0..110 {
        see(&hooks, &number.to_string(), Observed::Occupied);
    }
    assert_eq!(hooks.overflows(), 10);
    for _ in 0..100 {
        received.recv().await.unwrap();
    }
    see(&hooks, "later", Observed::Occupied);
    expect(&mut received, A, &["register later"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_the_queues_of_endpoints_that_stay() {
    let (sink, mut received) = Sink::new();
    let hooks = start(&sink);
    let apps = [app(vec![endpoint(A, Format::Push1st), endpoint(B, Format::Push1st)])];
    hooks.replace(&Settings::default(), &apps).unwrap();
    sink.act(A, &[Act::Refuse]);
    sink.act(B, &[Act::Refuse]);
    see(&hooks, "x", Observed::Occupied);
    sleep(Duration::from_millis(500)).await;
    let wrong = [app(vec![endpoint("ftp://u:hunter2@a/", Format::Push1st)])];
    let error = hooks.replace(&Settings::default(), &wrong).unwrap_err();
    assert_eq!(error, hooks.check(&Settings::default(), &wrong).unwrap_err());
    assert_eq!(error.to_string(), "app id: a hook's URL must be http://… or https://…, not ftp://***@a/");
    assert_eq!(hooks.report().len(), 2);
    let numbers: Vec<u64> = hooks.report().iter().map(|report| report.endpoint).collect();
    let narrow = Endpoint { events: Events::read(Format::Push1st, ["leave"]).unwrap(), ..endpoint(A, Format::Push1st) };
    hooks.replace(&Settings::default(), &[app(vec![endpoint("http://c/", Format::Push1st), narrow])]).unwrap();
    let reports = hooks.report();
    assert_eq!((reports[1].endpoint, reports[1].queued), (numbers[0], 1));
    assert!(!numbers.contains(&reports[0].endpoint));
    sink.act(A, &[Act::Take]);
    expect(&mut received, A, &["register x"]).await;
    see(&hooks, "y", Observed::Occupied);
    see(&hooks, "y", Observed::Left(session(1)));
    let mut told = [next(&mut received).await, next(&mut received).await, next(&mut received).await];
    told.sort();
    assert_eq!(told[0], (A.to_owned(), vec!["leave y".to_owned()]));
    assert_eq!(told[2].0, "http://c/");
    // what became of events of endpoints that are gone still counts for their app
    let totals = &hooks.totals()[0];
    assert!(totals.failed >= 2 && totals.delivered == 4, "{totals:?}");
}

#[tokio::test(start_paused = true)]
async fn they_end_with_their_last_clone() {
    let (sink, received) = Sink::new();
    let hooks = start(&sink);
    hooks.replace(&Settings::default(), &[app(vec![endpoint(A, Format::Push1st)])]).unwrap();
    let means = Arc::downgrade(&hooks.0.office.means);
    drop((hooks, sink));
    settle().await;
    assert!(means.upgrade().is_none());
    assert!(received.is_closed());
}
