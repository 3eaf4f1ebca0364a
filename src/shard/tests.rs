//! Whole shards on threads of their own, with a front door that does what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use hyper::StatusCode;
use tokio::sync::mpsc::unbounded_channel;
use tokio_tungstenite::tungstenite::{self, Message as Frame, WebSocket};

use super::http::{Exchange, text};
use super::listener::{Socket, Trust, bind};
use super::ws::session::{Welcome, open};
use super::*;
use crate::config::{Address, FileMode};
use crate::core::{Admission, AppKey, Ledger, Occupancy, Permissions, UserId};
use crate::hooks::jobs::{Job, JobError, Target};
use crate::shard::door::{Answering, Farewell, FrontDoor, Heard, Session, Step};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Size of the reply to `weigh`.
const REPLY_BYTES: usize = 100_000;
/// The most that waited for a client when it said `weigh`.
static HEAVIEST: AtomicUsize = AtomicUsize::new(0);

struct Door;

impl FrontDoor for Door {
    fn owns(&self, _path: &str) -> bool {
        true
    }

    fn answer(&self, mut exchange: Exchange) -> Answering<'_> {
        assert_ne!(exchange.path, "/panic/at/once");
        Box::pin(async move {
            let shard = exchange.shard.clone();
            match &*exchange.path {
                "/panic" => panic!("as told"),
                "/panic/after/lending" => {
                    // what a panic in the midst of a read leaves behind
                    shard.scratch.take();
                    panic!("as told");
                }
                "/panics" => text(StatusCode::OK, shard.core.borrow().stats().panics.to_string()),
                "/shard" => text(StatusCode::OK, shard.index.to_string()),
                path => {
                    if path == "/overtaken" {
                        // by a reload, between what the door decided and what the core is told
                        let settings = Arc::new(Settings::clone(&shard.settings()));
                        let reload = Mail::Reload(settings, shard.doors.borrow().clone());
                        assert!(shard.mailboxes[usize::from(shard.index)].send(reload).is_ok());
                    }
                    let (app, user) = (AppKey::from("app"), UserId::from("user"));
                    let (permissions, session) = (Permissions::default(), None);
                    let welcome = Welcome { app, user, permissions, dialect: 0, session, must_authorize: false };
                    let is_broken = path == "/broken";
                    let opened = open(&mut exchange, welcome, |_| {
                        assert!(!is_broken, "as told");
                        Box::new(Told { farewell_panics: false })
                    });
                    opened.unwrap_or_else(|_| text(StatusCode::FORBIDDEN, "refused"))
                }
            }
        })
    }
}

struct Told {
    farewell_panics: bool,
}

impl Session for Told {
    fn protocol(&self) -> &'static str {
        "told"
    }

    fn text(&mut self, heard: Heard<'_>) -> Step {
        match heard.text {
            "panic" => panic!("as told"),
            "panic twice" => {
                self.farewell_panics = true;
                panic!("as told");
            }
            "panic later" => {
                self.farewell_panics = true;
                Step::Reply(String::new())
            }
            "weigh" => {
                HEAVIEST.fetch_max(heard.connection.outbox().weight(), Ordering::Relaxed);
                Step::Reply("x".repeat(REPLY_BYTES))
            }
            "subscribe" => Step::Subscribe(Vec::new()),
            "job" => Step::Job(Job { app_key: String::new(), remote: String::new(), payload: "{}".into() }),
            other => Step::Reply(other.to_owned()),
        }
    }

    fn done(&mut self, _outcome: Outcome) -> Step {
        panic!("as told")
    }

    fn job_done(&mut self, _result: Result<(), JobError>) -> Option<String> {
        panic!("as told")
    }

    fn farewell(&self, reason: CloseReason) -> Farewell {
        assert!(!self.farewell_panics, "as told");
        Farewell { code: if reason == CloseReason::Internal { 1011 } else { 1001 }, reason: "sorry".into() }
    }
}

/// Shards that all listen on one address.
struct Shards {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    mailboxes: Arc<[UnboundedSender<Mail>]>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Ends with the shards.
    _draining: watch::Sender<bool>,
}

impl Shards {
    fn start(count: usize, address: &Address) -> Self {
        let counters = || (0..count).map(|_| AtomicUsize::new(0)).collect();
        let (address, sockets) = bind(address, FileMode(0o600), count).unwrap();
        let listener = Arc::new(Listener {
            address,
            names: Vec::new(),
            index: 0,
            path_prefix: String::new(),
            tls: None,
            stays_open: false,
            deflates: false,
            trust: Trust { trusted: false, allow: Vec::new(), token: None, hosts: Vec::new() },
            trusted_proxies: Arc::new([]),
            seats: counters(),
            visitors: AtomicUsize::new(0),
        });
        let (draining, is_draining) = watch::channel(false);
        let ledger = Ledger::default();
        let control = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let shared = Arc::new(Shared {
            node: Node {
                number: 0,
                shards: count as ShardIndex,
                hash_seed: 1,
                dialects: Arc::new([]),
                deflate: |_, _| None,
                admission: Admission::new(ledger.clone()),
                ledger,
                backlog: counters().into_vec().into(),
                occupancy: Occupancy::default(),
            },
            jobs: Jobs::start(Target::None, PATIENCE, 1, control.handle().clone()).unwrap(),
            hooks: Hooks::start(control.handle().clone(), &Default::default()),
            ready: AtomicBool::new(true),
            http_connections: AtomicUsize::new(0),
            draining: is_draining,
        });
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded_channel()).unzip();
        let mailboxes: Arc<[_]> = senders.into();
        let sockets: Mutex<Vec<Socket>> = Mutex::new(sockets);
        let epoch = Instant::now();
        let threads = receivers.into_iter().enumerate().map(|(index, mailbox)| {
            let doors: Doors = Arc::new([vec![Arc::new(Door) as Arc<dyn FrontDoor>]]);
            let (shared, mailboxes, settings) = (shared.clone(), mailboxes.clone(), Arc::default());
            let given = Given { shared, settings, doors, mailboxes, epoch };
            let socket = sockets.lock().unwrap().pop();
            let listeners = socket.map(|socket| (listener.clone(), socket)).into_iter().collect();
            let (started, _) = std::sync::mpsc::channel();
            thread::spawn(move || {
                let index = index as ShardIndex;
                Shard::run(index, given, mailbox, listeners, started)
            })
        });
        let threads = threads.collect();
        Self { shared, listener, mailboxes, threads, _draining: draining }
    }

    fn connect(&self) -> Box<dyn Stream> {
        match &self.listener.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(stream)
            }
        }
    }

    fn client(&self) -> WebSocket<Box<dyn Stream>> {
        tungstenite::client("ws://localhost/", self.connect()).unwrap().0
    }

    fn seats(&self) -> Vec<usize> {
        self.listener.seats.iter().map(|seats| seats.load(Ordering::Relaxed)).collect()
    }

    /// Ends every thread, none of which may have ended before.
    fn stop(self) {
        for mailbox in self.mailboxes.iter() {
            mailbox.send(Mail::Stop).unwrap();
        }
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Status and body of the answer; the connection stays.
fn get(stream: &mut Box<dyn Stream>, path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.trim().is_empty()) {
        lines.push(String::new());
        reader.read_line(lines.last_mut().unwrap()).unwrap();
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (lines[0].trim().to_owned(), String::from_utf8(body).unwrap())
}

#[test]
fn a_handshake_that_a_reload_overtakes_is_asked_again() {
    let shards = Shards::start(1, &Address::Tcp("127.0.0.1:0".parse().unwrap()));
    let refused = tungstenite::client("ws://localhost/overtaken", shards.connect()).err().unwrap();
    assert!(refused.to_string().contains("403"), "{refused}");
    assert_eq!(shards.shared.node.admission.total(), 0);
    echo(&mut shards.client());
    shards.stop();
}

fn echo(client: &mut WebSocket<Box<dyn Stream>>) {
    client.send(Frame::text("hello")).unwrap();
    assert_eq!(client.read().unwrap(), Frame::text("hello"));
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn loopback() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

#[test]
fn a_panic_costs_one_connection_and_no_other() {
    let shards = Shards::start(1, &loopback());
    let mut bystander = shards.client();
    let mut keep_alive = shards.connect();
    let mut panics = 0;
    let mut expect = |count: u64, bystander: &mut WebSocket<_>| {
        panics += count;
        echo(bystander);
        echo(&mut shards.client());
        assert_eq!(get(&mut keep_alive, "/panics").1, panics.to_string());
    };
    for text in ["panic", "subscribe", "job"] {
        let mut client = shards.client();
        client.send(Frame::text(text)).unwrap();
        let Frame::Close(Some(farewell)) = client.read().unwrap() else { panic!("no farewell after {text}") };
        assert_eq!((u16::from(farewell.code), &*farewell.reason), (1011, "sorry"), "{text}");
        expect(1, &mut bystander);
    }
    let mut client = shards.client();
    client.send(Frame::text("panic twice")).unwrap();
    assert!(client.read().is_err(), "there is nobody left to say goodbye");
    expect(2, &mut bystander);
    for path in ["/panic", "/panic/at/once", "/panic/after/lending"] {
        let mut stream = shards.connect();
        let internal_error = ("HTTP/1.1 500 Internal Server Error".to_owned(), "internal error\n".to_owned());
        assert_eq!(get(&mut stream, path), internal_error, "{path}");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection ends with it");
        expect(1, &mut bystander);
    }
    assert!(tungstenite::client("ws://localhost/broken", shards.connect()).is_err());
    expect(1, &mut bystander);

    // what was counted is given back
    drop(keep_alive);
    eventually("only the bystander is left", || {
        shards.shared.node.admission.total() == 1
            && shards.seats() == [1]
            && shards.shared.http_connections.load(Ordering::Relaxed) == 0
            && shards.listener.visitors.load(Ordering::Relaxed) == 0
    });
    echo(&mut bystander);
    shards.stop();
}

#[test]
fn a_panic_at_one_goodbye_does_not_spoil_the_others() {
    let shards = Shards::start(1, &loopback());
    let mut clients: Vec<_> = (0..3).map(|_| shards.client()).collect();
    clients[1].send(Frame::text("panic later")).unwrap();
    clients[1].read().unwrap();
    let (drained, _is_drained) = oneshot::channel();
    shards.mailboxes[0].send(Mail::Drain(Duration::ZERO, drained)).unwrap();
    for (number, mut client) in clients.into_iter().enumerate() {
        match client.read() {
            Ok(Frame::Close(Some(farewell))) if number != 1 => assert_eq!(u16::from(farewell.code), 1001),
            Err(_) if number == 1 => {}
            other => panic!("{number}: {other:?}"),
        }
    }
    eventually("nobody is left", || shards.shared.node.admission.total() == 0);
    shards.stop();
}

#[test]
fn replies_to_a_row_of_commands_do_not_pile_up() {
    let shards = Shards::start(1, &loopback());
    let mut client = shards.client();
    for _ in 0..200 {
        client.write(Frame::text("weigh")).unwrap();
    }
    client.flush().unwrap();
    eventually("who does not read is closed", || shards.shared.node.admission.total() == 0);
    let limit = crate::limits::Limits::default().outbox_bytes_max;
    let heaviest = HEAVIEST.load(Ordering::Relaxed);
    assert!(heaviest > 0 && heaviest <= limit + 2 * REPLY_BYTES, "{heaviest} bytes waited");
    drop(client);
    shards.stop();
}

/// How many of these connections are on the shard that has fewest of them, and how many on the one that has most.
fn spread(streams: &mut [Box<dyn Stream>], shards: usize) -> (usize, usize) {
    let mut counts = vec![0; shards];
    for stream in streams {
        counts[get(stream, "/shard").1.parse::<usize>().unwrap()] += 1;
    }
    (counts.iter().copied().min().unwrap_or(0), counts.iter().copied().max().unwrap_or(0))
}

#[test]
fn a_few_connections_are_spread_over_the_shards() {
    let shards = Shards::start(2, &loopback());
    let mut streams: Vec<_> = (0..9).map(|_| shards.connect()).collect();
    let (fewest, most) = spread(&mut streams, 2);
    assert!(most - fewest <= 2, "{fewest} and {most}");
    assert_eq!(shards.seats().iter().sum::<usize>(), 9);
    drop(streams);
    eventually("all seats are free", || shards.seats() == [0, 0]);
    shards.stop();
}

#[test]
fn a_burst_on_a_unix_socket_is_spread_over_the_shards() {
    let directory = tempfile::tempdir().unwrap();
    let shards = Shards::start(3, &Address::Unix(directory.path().join("socket")));
    // client connections count as others do
    let mut clients: Vec<_> = (0..4).map(|_| shards.client()).collect();
    let mut streams: Vec<_> = (0..32).map(|_| shards.connect()).collect();
    spread(&mut streams, 3);
    let seats = shards.seats();
    assert_eq!(seats.iter().sum::<usize>(), 36);
    assert!(seats.iter().max().unwrap() - seats.iter().min().unwrap() <= 2, "{seats:?}");
    clients.iter_mut().for_each(echo);
    drop((clients, streams));
    eventually("all seats are free", || shards.seats() == [0, 0, 0]);
    shards.stop();
}
