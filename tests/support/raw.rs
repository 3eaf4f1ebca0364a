//! A node to count in, and clients that allocate nothing once they are connected: plain sockets, read into one buffer.
#![allow(dead_code, reason = "each user takes the part it needs")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hydrant::config::{Address, Sources, load};
use hydrant::credential::jwt::GusherClaims;
use hydrant::credential::keygen;
use hydrant::credential::signature::AppSecrets;
use hydrant::node::Node;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long any read may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PUBLISH_PATH: &str = "/apps/7001/events";
const BATCH_PATH: &str = "/apps/7001/batch_events";
const MASK: [u8; 4] = [0x5a, 0x21, 0xc3, 0x7e];

/// Whose protocol a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Pusher,
    Gusher,
    Push1st,
}

/// A folder with `hydrant.toml`: one shard, an app for all protocols, the listeners `public` and `ops` on ports that the
/// kernel chooses.
pub(crate) struct Setup {
    folder: TempDir,
    gusher_token: String,
}

impl Setup {
    /// With `gusher`, there is a key for users of that protocol, which takes a moment to be made.
    pub(crate) fn new(gusher: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder for a configuration");
        let mut gusher_token = String::new();
        let mut keys = "[]".to_owned();
        if gusher {
            let pair = keygen::generate_rsa().expect("a key");
            let claims = GusherClaims {
                channels: Some(vec!["*".to_owned()]),
                user_id: "u".to_owned(),
                app_key: "key".to_owned(),
                remotes: None,
            };
            let expires = unix_s() + 3600;
            gusher_token = keygen::sign(pair.private_pem.as_bytes(), "its own", &claims, expires).expect("a token");
            let path = folder.path().join("public.pem");
            fs::write(&path, pair.public_pem).expect("a file for the key");
            keys = format!("[{path:?}]");
        }
        let toml = format!(
            r#"
node.shards = 1
limits.pusher_batch_events_max = 100
limits.ping_interval_ms = 3600000
[[listen]]
address = "127.0.0.1:0"
doors = ["pusher", "push1st-socket", "gusher"]
[[listen]]
address = "127.0.0.1:0"
doors = ["ops"]
trusted = true
[[apps]]
id = "7001"
key = "key"
secret = "only-for-counting"
permessage_deflate = true
gusher_public_keys = {keys}
"#
        );
        fs::write(folder.path().join("hydrant.toml"), toml).expect("a file for the configuration");
        Self { folder, gusher_token }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("hydrant.toml")
    }

    /// A client that is subscribed to the channel and has read what it is told of that.
    pub(crate) fn subscribed(&self, address: SocketAddr, protocol: Protocol, channel: &str, headers: &str) -> Socket {
        let path = match protocol {
            Protocol::Pusher => "/app/key?protocol=7".to_owned(),
            Protocol::Gusher => format!("/gcs/ws/key?token={}", self.gusher_token),
            Protocol::Push1st => format!("/ws/app/key/{channel}"),
        };
        let mut socket = Socket::open(address, &path, headers);
        let buffer = &mut [0; 512];
        match protocol {
            Protocol::Pusher => {
                socket.receive(buffer);
                socket.send(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#));
                socket.receive(buffer);
            }
            Protocol::Gusher => {
                socket.send(&format!(r#"{{"event":"gusher.subscribe","data":{{"channel":"{channel}"}}}}"#));
                socket.receive(buffer);
            }
            Protocol::Push1st => {}
        }
        socket
    }
}

/// A node in this process.
pub(crate) struct Served {
    runtime: Runtime,
    node: Option<Node>,
    pub(crate) public: SocketAddr,
    pub(crate) ops: SocketAddr,
}

impl Served {
    pub(crate) fn start(file: &Path) -> Self {
        let sources = Sources { file: Some(file.to_owned()), ..Sources::default() };
        let loaded = load(&sources).unwrap_or_else(|error| panic!("{error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let node = {
            let _entered = runtime.enter();
            Node::start(&loaded.config).expect("a node")
        };
        let address = |index: usize| match &node.listeners()[index].address {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("{path:?} is no TCP address"),
        };
        let (public, ops) = (address(0), address(1));
        Self { runtime, node: Some(node), public, ops }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.runtime.block_on(node.drain());
        }
    }
}

/// A client's connection after the handshake.
pub(crate) struct Socket(TcpStream);

impl Socket {
    /// `headers`: further lines, each with its end.
    pub(crate) fn open(address: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = connect(address);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).expect("a server that reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Self(stream)
    }

    /// Sends one text message.
    pub(crate) fn send(&mut self, text: &str) {
        self.0.write_all(&masked(text)).expect("a server that reads");
    }

    /// The payload of the next frame.
    pub(crate) fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> &'a [u8] {
        let head = &mut [0; 2];
        self.0.read_exact(head).expect("a frame");
        let length = match head[1] {
            126 => {
                let length = &mut [0; 2];
                self.0.read_exact(length).expect("a frame's length");
                usize::from(u16::from_be_bytes(*length))
            }
            length => usize::from(length),
        };
        self.0.read_exact(&mut buffer[..length]).expect("a frame's payload");
        &buffer[..length]
    }

    /// Sends bytes that are frames already.
    pub(crate) fn send_frames(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("a server that reads");
    }
}

/// A client's frame of one text message of at most 65,535 bytes.
pub(crate) fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(text.bytes().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A backend on a connection that it keeps.
pub(crate) struct Backend(TcpStream);

impl Backend {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self(connect(address))
    }

    /// A signed request of Pusher's: one event for the channel, good for ten minutes and as often as one likes.
    pub(crate) fn event(channel: &str, data: &str) -> Vec<u8> {
        request(PUBLISH_PATH, &event(channel, data))
    }

    /// The same of several at once.
    pub(crate) fn events(channel: &str, data: &str, count: usize) -> Vec<u8> {
        let events = vec![event(channel, data); count].join(",");
        request(BATCH_PATH, &format!(r#"{{"batch":[{events}]}}"#))
    }

    /// Has a request answered.
    pub(crate) fn publish(&mut self, request: &[u8]) {
        self.0.write_all(request).expect("a server that reads");
        let (buffer, mut read) = (&mut [0; 1024], 0);
        while !buffer[..read].ends_with(b"\r\n\r\n{}") {
            let more = self.0.read(&mut buffer[read..]).expect("an answer");
            assert!(more > 0 && buffer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..read]));
            read += more;
        }
    }
}

fn event(channel: &str, data: &str) -> String {
    format!(r#"{{"name":"e","channel":"{channel}","data":"{data}"}}"#)
}

fn request(path: &str, body: &str) -> Vec<u8> {
    let secrets = AppSecrets::new("key", ["only-for-counting"]);
    let query = secrets.sign_request("POST", path, &[], body.as_bytes(), unix_s());
    let length = body.len();
    format!(
        "POST {path}?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option of every TCP socket");
    stream
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("later than 1970").as_secs()
}
