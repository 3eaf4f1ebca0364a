//! What can be driven: one [`Target`] for each protocol, and where one of its servers is.
//!
//! A target uses only what its protocol documents, so that any server of it can be driven as it is.

mod floor;
mod gusher;
mod push1st;
mod pusher;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use reqwest::Url;
use rustls::pki_types::ServerName;

use super::tls;

pub use self::floor::Floor;
pub use self::gusher::{Gusher, Version};
pub use self::push1st::Push1st;
pub use self::pusher::Pusher;

/// A protocol that servers are driven with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Pusher Channels: Hydrant, soketi, sockudo, Reverb
    #[default]
    Pusher,
    /// gusher.cluster, v1
    GusherV1,
    /// gusher.cluster, v3
    GusherV3,
    /// Push1ST's raw sockets and API
    Push1st,
}

impl Kind {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pusher => "pusher",
            Self::GusherV1 => "gusher-v1",
            Self::GusherV3 => "gusher-v3",
            Self::Push1st => "push1st",
        }
    }
}

/// What a connection subscribes to once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// Nothing.
    None,
    /// The public channel of this number.
    Channel(u32),
    /// The presence channel of this number, as the member of this number.
    Member(u32, u32),
}

impl Subscription {
    /// The number of the channel.
    pub fn channel(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Channel(channel) | Self::Member(channel, _) => Some(channel),
        }
    }
}

/// The name of the public channel of a number.
pub fn channel_name(channel: u32) -> String {
    format!("c{channel}")
}

/// What a server said that is no event of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The connection is open; the socket's id, where the protocol tells one.
    Greeting(String),
    /// The subscription has begun.
    Subscribed,
    /// The answer to [`Target::ping`].
    Pong,
    /// The server wants the answer [`Target::pong`].
    Ping,
    /// A member came or went.
    Notice,
    /// A command or the connection is refused; in the server's words.
    Refused(String),
    /// Nothing that matters here.
    Other,
}

/// An event to be published.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Number of the channel.
    pub channel: u32,
    /// Letters and digits.
    pub data: String,
}

/// A protocol, with the credentials of one server.
pub trait Target: Send + Sync {
    /// Fetches what handshakes need, if there is such a thing and it has become old.
    ///
    /// # Errors
    /// When the server does not give it.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Path and query of the handshake of the connection with this index.
    fn request_target(&self, index: usize, subscription: Subscription) -> String;

    /// Whether the server speaks first.
    fn greets(&self) -> bool {
        false
    }

    /// The command that subscribes; `None` if the handshake has said it all. `socket_id` is empty without a greeting.
    fn subscribe(&self, subscription: Subscription, socket_id: &str) -> Option<String>;

    /// The command that ends a subscription, where there is one.
    fn unsubscribe(&self, subscription: Subscription) -> Option<String>;

    /// What a message that is no event of ours means.
    fn hear(&self, text: &[u8]) -> Heard;

    /// A message that is answered with a [`Heard::Pong`]; `None`: a WebSocket ping.
    fn ping(&self) -> Option<&'static str> {
        None
    }

    /// The answer to [`Heard::Ping`].
    fn pong(&self) -> Option<&'static str> {
        None
    }

    /// An HTTP request that publishes one event, or, where the protocol has such a thing, several at once.
    ///
    /// # Errors
    /// When it has not, or a request cannot be signed.
    fn publish(&self, events: &[Publish]) -> Result<Vec<u8>>;
}

/// A server, and how to speak to it.
pub struct Site {
    /// How.
    pub target: Arc<dyn Target>,
    /// What the `Host` header of handshakes says.
    pub host: String,
    /// Where clients connect.
    pub sockets: SocketAddr,
    /// The server's name there, where it is TLS that they speak.
    pub sockets_tls: Option<ServerName<'static>>,
    /// Where events are published.
    pub api: SocketAddr,
    /// The server's name there, in TLS.
    pub api_tls: Option<ServerName<'static>>,
    /// Whether clients offer permessage-deflate, and insist on it.
    pub is_deflate: bool,
}

impl Site {
    /// A server at these addresses.
    pub fn new(target: Arc<dyn Target>, sockets: SocketAddr, api: SocketAddr) -> Arc<Self> {
        let (sockets, api) = (Endpoint::at(sockets), Endpoint::at(api));
        Self::of(target, &sockets, &api, false)
    }

    /// The same, in TLS where the endpoints are, and deflated if that is wanted.
    pub fn of(target: Arc<dyn Target>, sockets: &Endpoint, api: &Endpoint, is_deflate: bool) -> Arc<Self> {
        Arc::new(Self {
            target,
            host: sockets.host.clone(),
            sockets: sockets.address,
            sockets_tls: sockets.tls.clone(),
            api: api.address,
            api_tls: api.tls.clone(),
            is_deflate,
        })
    }
}

/// Credentials for an app; what a protocol does not know is left out.
#[derive(Clone, Debug, Default)]
pub struct App {
    /// Its id.
    pub id: Option<String>,
    /// Its public key.
    pub key: Option<String>,
    /// What backends sign with.
    pub secret: Option<String>,
    /// gusher: a PEM file with the RSA key that users' tokens are signed with.
    pub jwt_key: Option<PathBuf>,
    /// gusher: a user's token, instead of tokens signed with `jwt_key`.
    pub jwt: Option<String>,
}

/// An endpoint of a server: `scheme://host:port/prefix`.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What a `Host` header says.
    pub host: String,
    /// The first address of the name.
    pub address: SocketAddr,
    /// Without a slash at the end; often empty.
    pub prefix: String,
    /// The server's name in TLS, if that is spoken.
    pub tls: Option<ServerName<'static>>,
}

impl Endpoint {
    /// An endpoint without a prefix.
    pub fn at(address: SocketAddr) -> Self {
        Self { host: address.to_string(), address, prefix: String::new(), tls: None }
    }

    /// The same in TLS.
    pub fn secure(self) -> Self {
        let tls = Some(tls::server_name("", self.address));
        Self { tls, ..self }
    }

    /// Reads a URL of this scheme, or with an `s` behind it.
    ///
    /// # Errors
    /// When it is none, or its name has no address.
    pub fn parse(url: &str, scheme: &str) -> Result<Self> {
        let parsed = Url::parse(url).with_context(|| format!("{url}: expected {scheme}://HOST:PORT"))?;
        let is_tls = parsed.scheme().strip_prefix(scheme) == Some("s");
        ensure!(is_tls || parsed.scheme() == scheme, "{url}: expected {scheme}://HOST:PORT, or {scheme}s:// for TLS");
        let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
            bail!("{url}: expected {scheme}://HOST:PORT");
        };
        let (name, host) = (host, format!("{host}:{port}"));
        let mut addresses = host.to_socket_addrs().with_context(|| format!("{url}: no address for {host}"))?;
        let address = addresses.next().with_context(|| format!("{url}: no address for {host}"))?;
        let tls = is_tls.then(|| tls::server_name(name, address));
        Ok(Self { host, address, prefix: parsed.path().trim_end_matches('/').to_owned(), tls })
    }

    /// Where a protocol's API is by default, seen from where its sockets are.
    fn api_beside(&self, kind: Kind) -> Result<Self> {
        let port = match (kind, self.address.port()) {
            (Kind::Pusher, port) => return Ok(Self { address: self.address, ..self.clone_with_port(port) }),
            // the originals' own ports
            (Kind::GusherV1 | Kind::GusherV3, 8888) => 7777,
            (_, port) => port.checked_add(1).context("--api is needed")?,
        };
        // where only a server's own backends come, TLS is rare: a URL says so
        Ok(Self { prefix: String::new(), tls: None, ..self.clone_with_port(port) })
    }

    fn clone_with_port(&self, port: u16) -> Self {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let mut address = self.address;
        address.set_port(port);
        Self { host: format!("{name}:{port}"), address, prefix: self.prefix.clone(), tls: self.tls.clone() }
    }

    fn prefix_or(&self, default: &str) -> String {
        if self.prefix.is_empty() { default.to_owned() } else { self.prefix.clone() }
    }
}

/// What speaks for an app: its credentials, checked for one protocol.
#[derive(Clone, Debug)]
pub struct Credentials {
    kind: Kind,
    app: App,
    /// Users' tokens, where the protocol has such.
    tokens: Arc<[String]>,
}

impl Credentials {
    /// Checks that nothing is missing that the protocol needs, and signs tokens for so many users if it has such.
    ///
    /// # Errors
    /// When something is missing, or cannot be used.
    pub fn new(kind: Kind, app: App, users: usize) -> Result<Self> {
        let need = |value: &Option<String>, flag: &str| {
            ensure!(value.is_some(), "--target {} needs {flag}", kind.word());
            Ok(())
        };
        need(&app.key, "--key")?;
        let mut tokens = Vec::new();
        match kind {
            Kind::Pusher => {
                need(&app.id, "--app-id")?;
                need(&app.secret, "--secret")?;
            }
            Kind::Push1st => need(&app.id, "--app-id")?,
            Kind::GusherV1 | Kind::GusherV3 => match (&app.jwt, &app.jwt_key) {
                (Some(jwt), _) => tokens.push(jwt.clone()),
                (None, Some(key)) => {
                    let users = if kind == Kind::GusherV1 { users.min(gusher::SESSIONS_MAX) } else { users };
                    tokens = gusher::sign_tokens(key, app.key.as_deref().unwrap_or_default(), users)?;
                }
                (None, None) => bail!("--target {} needs --jwt-key or --jwt", kind.word()),
            },
        }
        Ok(Self { kind, app, tokens: tokens.into() })
    }

    /// The protocol.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What drives a server that is there.
    pub fn target(&self, sockets: Endpoint, api: Endpoint) -> Arc<dyn Target> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (id, key) = (text(&self.app.id), text(&self.app.key));
        let gusher =
            |version, sockets, api, key| Arc::new(Gusher::new(version, sockets, api, key, self.tokens.clone()));
        match self.kind {
            Kind::Pusher => Arc::new(Pusher::new(sockets, api, &id, &key, &text(&self.app.secret))),
            Kind::Push1st => Arc::new(Push1st::new(sockets, api, &id, &key, self.app.secret.as_deref())),
            Kind::GusherV1 => gusher(Version::V1, sockets, api, key),
            Kind::GusherV3 => gusher(Version::V3, sockets, api, key),
        }
    }
}

/// A server that somebody else started.
///
/// # Errors
/// When a URL is none.
pub fn site(credentials: &Credentials, url: &str, api: Option<&str>, is_deflate: bool) -> Result<Arc<Site>> {
    let sockets = Endpoint::parse(url, "ws").context("--url")?;
    let api = match api {
        Some(api) => Endpoint::parse(api, "http").context("--api")?,
        None => sockets.api_beside(credentials.kind)?,
    };
    Ok(Site::of(credentials.target(sockets.clone(), api.clone()), &sockets, &api, is_deflate))
}

/// Whether the text has that part.
fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}

/// An HTTP request with a body.
fn post(host: &str, path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

const JSON: &str = "application/json";
/// The name of all events.
const EVENT: &str = "e";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_looked_for_where_the_protocol_has_it() {
        let check = |kind, url: &str, expected: &str| {
            let api = Endpoint::parse(url, "ws").unwrap().api_beside(kind).unwrap();
            assert_eq!(format!("{}{}", api.host, api.prefix), expected, "{url}");
        };
        check(Kind::Pusher, "ws://127.0.0.1:6001", "127.0.0.1:6001");
        check(Kind::Pusher, "ws://127.0.0.1:6001/push/", "127.0.0.1:6001/push");
        check(Kind::GusherV1, "ws://127.0.0.1:8888", "127.0.0.1:7777");
        check(Kind::GusherV3, "ws://127.0.0.1:6001", "127.0.0.1:6002");
        check(Kind::Push1st, "ws://127.0.0.1:6001/x", "127.0.0.1:6002");
    }

    #[test]
    fn what_is_no_address_is_refused_with_words() {
        let check = |url, part: &str| {
            let error = format!("{:#}", Endpoint::parse(url, "ws").unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        check("127.0.0.1:6001", "expected ws://HOST:PORT");
        check("http://127.0.0.1:6001", "expected ws://HOST:PORT");
        check("http://127.0.0.1:6001", "or wss:// for TLS");
        let secure = Endpoint::parse("wss://127.0.0.1:6001", "ws").unwrap();
        assert!(secure.tls.is_some() && secure.api_beside(Kind::Pusher).unwrap().tls.is_some());
        assert!(secure.api_beside(Kind::GusherV3).unwrap().tls.is_none());
        let app = App { key: Some("k".into()), ..App::default() };
        let missing = |kind| format!("{:#}", Credentials::new(kind, app.clone(), 1).unwrap_err());
        assert_eq!(missing(Kind::Pusher), "--target pusher needs --app-id");
        assert_eq!(missing(Kind::GusherV1), "--target gusher-v1 needs --jwt-key or --jwt");
    }
}
