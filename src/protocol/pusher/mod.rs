//! The Pusher Channels protocol, version 7 (and 5 and 6, which differ in nothing that a server notices): sockets at
//! `/app/{key}`, the signed HTTP API at `/apps/{id}/…`.

mod command;
pub mod dialect;
pub mod idempotency;
mod reply;
mod rest;
mod session;

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::core::{About, ChannelName, Data, Event, Permissions, UserId};
use crate::limits::Limits;
use crate::ops::health;
use crate::protocol::apps::Apps;
use crate::protocol::rate::Rate;
use crate::protocol::{PUSHER, is_json};
use crate::shard::door::{Answering, FrontDoor};
use crate::shard::http::{Exchange, Response, not_found};
use crate::shard::ws::session::{Refusal, Welcome, open, refuse};

use command::{Command, Subscribe};
use idempotency::Idempotency;
use reply::NotOpened;
use session::PusherSession;

pub use rest::ROUTES;

/// Versions of the protocol that clients may ask for.
const VERSIONS: std::ops::RangeInclusive<u64> = 5..=7;
/// What a client speaks that does not say.
const VERSION_DEFAULT: u64 = 7;
/// Longest channel name, in bytes (HTTP API; its libraries stop a little later), where `channel_name_bytes_max` is not
/// less.
const CHANNEL_NAME_BYTES_MAX: usize = 200;

/// Sockets and the signed API.
pub struct PusherDoor {
    /// Who may come.
    pub apps: Arc<Apps>,
    /// After how long a silence clients are to ask for a sign of life.
    pub activity_timeout: Duration,
    /// Answers to publishes that may be asked for again.
    pub idempotency: Arc<Idempotency>,
}

impl FrontDoor for PusherDoor {
    fn owns(&self, path: &str) -> bool {
        socket_key(path).is_some() || rest::owns(path) || health::owns(path)
    }

    fn answer(&self, exchange: Exchange) -> Answering<'_> {
        Box::pin(async move {
            if let Some(key) = socket_key(&exchange.path) {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                self.connect(exchange, &key)
            } else if rest::owns(&exchange.path) {
                rest::answer(self, exchange).await
            } else if health::owns(&exchange.path) {
                health::answer(&exchange).await
            } else {
                not_found()
            }
        })
    }
}

/// The app's key in the path of a socket, which may be empty.
fn socket_key(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/pusher").unwrap_or(path);
    let key = path.strip_prefix("/app").filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    Some(key.trim_matches('/'))
}

impl PusherDoor {
    fn connect(&self, mut exchange: Exchange, key: &str) -> Response {
        let not_opened = match self.try_connect(&mut exchange, key) {
            Ok(response) => return response,
            Err(not_opened) => not_opened,
        };
        let words = reply::error(Some(not_opened.code), &not_opened.message);
        refuse(&mut exchange, Some(words), not_opened.farewell()).unwrap_or_else(reply::not_an_upgrade)
    }

    fn try_connect(&self, exchange: &mut Exchange, key: &str) -> Result<Response, NotOpened> {
        check_version(exchange.query())?;
        if key.is_empty() {
            return Err(NotOpened::no_key());
        }
        let app = self.apps.by_key(key).ok_or_else(|| NotOpened::unknown_app(key))?.clone();
        if !app.options.enabled {
            return Err(NotOpened::disabled_app());
        }
        if !app.allows_origin(exchange.request.headers()) {
            return Err(NotOpened::origin());
        }
        let welcome = Welcome {
            app: app.key.clone(),
            user: UserId::from(""),
            permissions: Permissions::default(),
            dialect: PUSHER,
            session: None,
            must_authorize: true,
        };
        let activity_timeout_s = self.activity_timeout.as_secs().max(1);
        let session = PusherSession {
            app,
            activity_timeout_s,
            in_flight: None,
            client_events: Rate::default(),
            presence_leaves: Rate::default(),
        };
        match open(exchange, welcome, |_| Box::new(session)) {
            Ok(response) => Ok(response),
            Err(Refusal::NotAnUpgrade(reason)) => Ok(reply::not_an_upgrade(reason)),
            Err(Refusal::Rejected(rejection)) => Err(NotOpened::rejected(rejection)),
        }
    }
}

fn check_version(query: &str) -> Result<(), NotOpened> {
    let Some(version) = query.split('&').find_map(|pair| pair.strip_prefix("protocol=")) else {
        return check_number(VERSION_DEFAULT);
    };
    check_number(version.parse().map_err(|_| NotOpened::version_string(version))?)
}

fn check_number(version: u64) -> Result<(), NotOpened> {
    if VERSIONS.contains(&version) { Ok(()) } else { Err(NotOpened::unsupported_version(version)) }
}

/// Whether a text has only characters that names of channels and users may have.
fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte);
    !text.is_empty() && text.bytes().all(is_plain)
}

/// What keeps a text from being a channel's name. `any_character`: only its length counts, as for the clients of an
/// older server.
fn channel_name_problem(name: &str, limits: &Limits, any_character: bool) -> Option<String> {
    let bytes_max = if any_character { usize::MAX } else { CHANNEL_NAME_BYTES_MAX };
    let bytes_max = bytes_max.min(limits.channel_name_bytes_max);
    if name.len() > bytes_max {
        return Some(format!("Invalid channel name: over {bytes_max} bytes"));
    }
    if any_character && !name.is_empty() && !name.starts_with('#') || is_name(name) {
        return None;
    }
    let name = command::short(name);
    Some(format!("Invalid channel name {name:?}: use letters, digits and the characters _-=@,.;"))
}

/// Runs every parser of outside bytes of this protocol over `data`: as a client's message, as what a backend signs, as a
/// body of the API, as a query and a path. For fuzz targets.
///
/// # Panics
/// If what is passed on as JSON, in any dialect, is none.
pub fn fuzz(data: &[u8]) {
    rest::fuzz(data);
    let Ok(text) = str::from_utf8(data) else { return };
    session::fuzz(text);
    let _ = (socket_key(text), channel_name_problem(text, &Limits::default(), true));
    if let Err(not_opened) = check_version(text) {
        assert!(is_json(reply::error(Some(not_opened.code), &not_opened.message).as_bytes()));
    }
    match command::parse(text) {
        Ok(Command::Subscribe(Subscribe { channel, channel_data, .. })) => {
            let problem = channel_name_problem(&channel, &Limits::default(), false).unwrap_or_default();
            let refused = reply::subscription_error(command::short(&channel), reply::NAME_ERROR, &problem);
            assert!(is_json(refused.as_bytes()));
            session::fuzz(&channel_data.unwrap_or_default());
        }
        Ok(Command::SignIn { user_data, .. }) => session::fuzz(&user_data),
        Ok(Command::ClientEvent { name, channel, data }) => {
            let about = About { user: Some(UserId::from(&*name)), ..About::default() };
            let data = Data::AsSent(data.get().as_bytes().to_vec().into());
            let event = Event { about: Some(Arc::new(about)), ..Event::new(name, data, 1) };
            super::fuzz_event(&ChannelName::from(&*channel), &event);
        }
        Ok(Command::Ping | Command::Pong | Command::Unsubscribe { .. }) => {}
        Err(words) => assert!(is_json(reply::error(None, &words).as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_can_be_read() {
        for seed in [
            r#"{"event":"pusher:subscribe","data":{"auth":"k:0a","channel":"presence-a","channel_data":"{\"user_id\":1.50,\"user_info\":{\"n\":\"\\ud800\"}}"}}"#,
            r#"{"event":"pusher:signin","data":{"auth":"k:0a","user_data":"{\"id\":\"u\",\"user_info\":[1],\"watchlist\":[\"v\"]}"}}"#,
            r#"{"event":"client-x","channel":"private-a","data":{"x":1e400,"y":"\ud800"}}"#,
            r#"{"name":"e","channels":["a","b"],"channel":null,"data":"{\"x\":\"\\u0000\"}","socket_id":"1.2","info":"cache"}"#,
            r#"{"batch":[{"name":"e","channel":"a","data":{"x":9007199254740993}},{"data":"\ud83d"},null]}"#,
            "/apps/1/channels/presence-a/users",
            "protocol=8&channels[]=a+b&channels%5B%5D=%ff",
        ] {
            fuzz(seed.as_bytes());
            for cut in 0..seed.len() {
                fuzz(&seed.as_bytes()[..cut]);
            }
        }
    }

    #[test]
    fn socket_paths() {
        for (path, expected) in [
            ("/app/key", Some("key")),
            ("/app/key/", Some("key")),
            ("/app/", Some("")),
            ("/app", Some("")),
            ("/pusher/app/key", Some("key")),
            ("/apps/1/events", None),
            ("/application", None),
            ("/pusher", None),
            ("/", None),
        ] {
            assert_eq!(socket_key(path), expected, "{path}");
        }
    }

    #[test]
    fn versions() {
        let code = |query: &str| check_version(query).err().map(|not_opened| not_opened.code);
        for query in ["", "client=js", "protocol=7&client=js&version=8.6.0&flash=false", "a=b&protocol=5"] {
            assert_eq!(code(query), None, "{query}");
        }
        for query in ["protocol=1", "protocol=4", "protocol=0", "protocol=8"] {
            assert_eq!(code(query), Some(4007), "{query}");
        }
        for query in ["protocol=", "protocol=x", "protocol=-1", "protocol=7.0"] {
            assert_eq!(code(query), Some(4006), "{query}");
        }
    }

    #[test]
    fn channel_names() {
        let check = |name: &str, legacy: bool, fits: bool| {
            assert_eq!(channel_name_problem(name, &Limits::default(), legacy).is_none(), fits, "{name}");
        };
        check("my-channel_1=@,.;", false, true);
        for name in ["", "a b", "a/b", "ü", "a:b", "a\n", "#a", "a#", "a\"b"] {
            check(name, false, false);
        }
        check(&"a".repeat(200), false, true);
        check(&"a".repeat(201), false, false);
        check("a b/ü:", true, true);
        check("", true, false);
        check("#a", true, false);
        check(&"a".repeat(255), true, true);
        check(&"a".repeat(256), true, false);
    }
}
