//! Push1ST's protocol: an API for backends, and raw WebSockets that hear the channels which their path names.
//!
//! Both push events of the same form, which `message` reads.

pub mod dialect;
mod message;
mod reply;
mod rest;
mod session;

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::protocol::apps::Apps;
use crate::shard::door::{Answering, FrontDoor};
use crate::shard::http::Exchange;

pub use rest::ROUTES;

/// Where the API's calls are.
const API_PREFIX: &str = "/apps/";
/// Where raw sockets are opened.
const SOCKET_PREFIX: &str = "/ws/app/";

/// The API for backends.
pub struct ApiDoor {
    /// The apps.
    pub apps: Arc<Apps>,
    /// Whether a request needs no signature; one that it brings is checked all the same.
    pub trusted: bool,
}

/// The raw sockets of these apps.
pub struct SocketDoor(pub Arc<Apps>);

impl FrontDoor for ApiDoor {
    fn owns(&self, path: &str) -> bool {
        path.starts_with(API_PREFIX)
    }

    fn answer(&self, exchange: Exchange) -> Answering<'_> {
        Box::pin(rest::answer(self, exchange))
    }
}

impl FrontDoor for SocketDoor {
    fn owns(&self, path: &str) -> bool {
        path.starts_with(SOCKET_PREFIX) || path == SOCKET_PREFIX.trim_end_matches('/')
    }

    fn answer(&self, exchange: Exchange) -> Answering<'_> {
        Box::pin(session::connect(&self.0, exchange))
    }
}

/// A parameter of a query, decoded; the first of that name.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy())
}

/// Runs every parser of outside bytes of this protocol over `data`: as a client's push, as a body of the API, as a query
/// and a path. For fuzz targets.
///
/// # Panics
/// If what is passed on as JSON, in any dialect, is none.
pub fn fuzz(data: &[u8]) {
    for name in ["name", "event"] {
        if let Ok(object) = message::object(data)
            && let Ok(channels) = message::channels(&object)
            && let Ok(message) = message::Message::read(&object, name)
        {
            let channel = channels.first().map_or("", String::as_str).into();
            super::fuzz_event(&channel, &message.into_event(1));
        }
    }
    if let Ok(text) = str::from_utf8(data) {
        let _ = (parameter(text, "token"), message::session_name(text), session::is_session(text, 255));
        rest::fuzz(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = "session=a%20b&token=h1.x%7E&empty=&bare&session=c";
        let check = |name: &str, expected: Option<&str>| assert_eq!(parameter(query, name).as_deref(), expected);
        check("session", Some("a b"));
        check("token", Some("h1.x~"));
        check("empty", Some(""));
        check("bare", Some(""));
        check("none", None);
        check("ession", None);
    }

    #[test]
    fn what_each_door_owns() {
        let api = ApiDoor { apps: Arc::default(), trusted: true };
        let sockets = SocketDoor(Arc::default());
        let check = |path: &str, is_api: bool, is_socket: bool| {
            assert_eq!((api.owns(path), sockets.owns(path)), (is_api, is_socket), "{path}");
        };
        check("/apps/shop/events", true, false);
        check("/apps/", true, false);
        check("/apps", false, false);
        check("/ws/app/key/news", false, true);
        check("/ws/app/", false, true);
        check("/ws/app", false, true);
        check("/ws/apple", false, false);
        check("/ws/", false, false);
        check("/", false, false);
    }

    #[test]
    fn any_bytes_can_be_read() {
        for seed in [
            r#"{"name":"e","channels":["a","b"],"data":{"x":1.50},"headers":{"h":1},"socket_id":null}"#,
            r#"{"event":7,"channel":"a","data":"\ud800","options":{"delivery":"unicast","session":"s.1.2","ttl":5}}"#,
            "session=a&token=%ff",
            "/apps/shop/channels/a/",
            "\u{0}",
        ] {
            fuzz(seed.as_bytes());
            for cut in 0..seed.len() {
                fuzz(&seed.as_bytes()[..cut]);
            }
        }
    }
}
