//! gusher.cluster, v1 and v3: tokens of users, no greeting, requests without credentials.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;

use crate::bench::http::HttpConnection;
use crate::bench::process::check_interrupted;
use crate::credential::jwt::GusherClaims;
use crate::credential::keygen;

use super::{EVENT, Endpoint, Heard, JSON, Publish, Subscription, Target, channel_name, contains, post};

const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Session tokens that connections share: each is good for any number of them.
pub(super) const SESSIONS_MAX: usize = 50;
/// Session tokens are good for a minute; they are renewed well before.
const SESSION_AGE_MAX: Duration = Duration::from_secs(30);

/// Which of the two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Forms, `/gcs/` and `/api/`; a handshake takes a session token.
    V1,
    /// JSON, `/v1/`; a handshake takes the user's own token.
    V3,
}

/// A token (JWT) for each of so many users, who may use every channel.
///
/// # Errors
/// When the file is no private key.
pub(super) fn sign_tokens(private_key: &Path, app_key: &str, users: usize) -> Result<Vec<String>> {
    let origin = private_key.display().to_string();
    let pem = std::fs::read(private_key).with_context(|| format!("read {origin}"))?;
    let expires = (SystemTime::now() + TOKEN_LIFETIME).duration_since(UNIX_EPOCH)?.as_secs();
    let token = |user: usize| {
        check_interrupted()?;
        let claims = GusherClaims {
            channels: Some(vec!["*".to_owned()]),
            user_id: format!("u{user}"),
            app_key: app_key.to_owned(),
            remotes: None,
        };
        Ok(keygen::sign(&pem, &origin, &claims, expires)?)
    };
    (0..users).map(token).collect()
}

/// A gusher server's app.
pub struct Gusher {
    version: Version,
    sockets: Endpoint,
    api: Endpoint,
    socket_path: String,
    api_path: String,
    key: String,
    tokens: Arc<[String]>,
    /// What the tokens were exchanged for, and when; v1 only.
    sessions: Mutex<(Vec<String>, Option<Instant>)>,
}

impl Gusher {
    /// An app whose users have these tokens.
    pub fn new(version: Version, sockets: Endpoint, api: Endpoint, key: String, tokens: Arc<[String]>) -> Self {
        let (socket_path, api_path) = match version {
            Version::V1 => (format!("{}/ws/{key}", sockets.prefix_or("/gcs")), api.prefix_or("/api")),
            Version::V3 => (format!("{}/v1/apps/{key}/ws", sockets.prefix), format!("{}/v1/apps/{key}", api.prefix)),
        };
        let sessions = Mutex::default();
        Self { version, sockets, api, socket_path, api_path, key, tokens, sessions }
    }

    fn fetch_sessions(&self) -> Result<Vec<String>> {
        let mut connection = HttpConnection::connect_as(self.sockets.address, self.sockets.tls.as_ref())?;
        let path = format!("{}/auth", self.sockets.prefix_or("/gcs"));
        let session = |jwt: &String| {
            let answer = connection.exchange(&post(&self.sockets.host, &path, FORM, &format!("jwt={jwt}")))?;
            let tokens: serde_json::Value = serde_json::from_slice(&answer.body)
                .with_context(|| format!("{path} answered {} instead of a session token", answer.status))?;
            Ok(tokens["token"].as_str().context("an answer without a session token")?.to_owned())
        };
        self.tokens.iter().map(session).collect()
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

impl Target for Gusher {
    fn prepare(&self) -> Result<()> {
        if self.version == Version::V1 {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            if sessions.1.is_none_or(|fetched| fetched.elapsed() > SESSION_AGE_MAX) {
                *sessions = (self.fetch_sessions()?, Some(Instant::now()));
            }
        }
        Ok(())
    }

    fn request_target(&self, index: usize, _subscription: Subscription) -> String {
        let token = |tokens: &[String]| tokens.get(index % tokens.len().max(1)).cloned().unwrap_or_default();
        let token = match self.version {
            Version::V1 => token(&self.sessions.lock().unwrap_or_else(PoisonError::into_inner).0),
            Version::V3 => token(&self.tokens),
        };
        format!("{}?token={token}", self.socket_path)
    }

    fn subscribe(&self, subscription: Subscription, _socket_id: &str) -> Option<String> {
        command("gusher.subscribe", subscription)
    }

    fn unsubscribe(&self, subscription: Subscription) -> Option<String> {
        command("gusher.unsubscribe", subscription)
    }

    fn hear(&self, text: &[u8]) -> Heard {
        match text {
            _ if contains(text, "gusher.subscribe_succeeded") => Heard::Subscribed,
            // the originals answer a ping in the second words
            _ if contains(text, "gusher.pong_succeeded") || contains(text, "gusher.querychannel_succeeded") => {
                Heard::Pong
            }
            _ if contains(text, "gusher.subscribe_error") => Heard::Refused(String::from_utf8_lossy(text).into_owned()),
            _ => Heard::Other,
        }
    }

    fn ping(&self) -> Option<&'static str> {
        Some(r#"{"event":"gusher.ping","data":{}}"#)
    }

    fn publish(&self, events: &[Publish]) -> Result<Vec<u8>> {
        let event = |Publish { channel, data }: &Publish| json!({ "channel": channel_name(*channel), "event": EVENT, "data": data });
        let (host, key, api) = (&self.api.host, &self.key, &self.api_path);
        Ok(match (self.version, events) {
            (Version::V1, [Publish { channel, data }]) => {
                let path = format!("{api}/push/{key}/{}/{EVENT}", channel_name(*channel));
                post(host, &path, FORM, &format!("data={data}"))
            }
            (Version::V1, _) => {
                let batch = json!(events.iter().map(event).collect::<Vec<_>>()).to_string();
                let escaped = percent_encoding::utf8_percent_encode(&batch, percent_encoding::NON_ALPHANUMERIC);
                post(host, &format!("{api}/push_batch/{key}"), FORM, &format!("batch_data={escaped}"))
            }
            (Version::V3, [Publish { channel, data }]) => {
                let path = format!("{api}/channels/{}/messages", channel_name(*channel));
                post(host, &path, JSON, &json!({ "event": EVENT, "data": data }).to_string())
            }
            (Version::V3, _) => {
                let batch = json!(events.iter().map(event).collect::<Vec<_>>()).to_string();
                post(host, &format!("{api}/messages/batch"), JSON, &batch)
            }
        })
    }
}

fn command(event: &str, subscription: Subscription) -> Option<String> {
    let name = channel_name(subscription.channel()?);
    Some(json!({ "event": event, "data": { "channel": name } }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gusher(version: Version) -> Gusher {
        let at = Endpoint::at(([127, 0, 0, 1], 1).into());
        Gusher::new(version, at.clone(), at, "app".into(), ["jwt".to_owned()].into())
    }

    #[test]
    fn both_versions_have_their_own_paths_and_bodies() {
        let event = Publish { channel: 1, data: "hyb".into() };
        let check = |version, events: &[Publish], start: &str, body: &str| {
            let request = String::from_utf8(gusher(version).publish(events).unwrap()).unwrap();
            assert!(request.starts_with(start), "{request}");
            assert_eq!(request.split_once("\r\n\r\n").unwrap().1, body);
        };
        let one = std::slice::from_ref(&event);
        check(Version::V1, one, "POST /api/push/app/c1/e HTTP/1.1\r\n", "data=hyb");
        check(Version::V3, one, "POST /v1/apps/app/channels/c1/messages ", r#"{"data":"hyb","event":"e"}"#);
        let (two, item) = ([event.clone(), event], r#"{"channel":"c1","data":"hyb","event":"e"}"#);
        check(Version::V3, &two, "POST /v1/apps/app/messages/batch ", &format!("[{item},{item}]"));
        assert_eq!(gusher(Version::V3).request_target(5, Subscription::None), "/v1/apps/app/ws?token=jwt");
        assert!(gusher(Version::V1).request_target(5, Subscription::None).starts_with("/gcs/ws/app?token="));
    }

    #[test]
    fn words_of_gusher_servers_are_understood() {
        let check = |text: &str, expected| assert_eq!(gusher(Version::V3).hear(text.as_bytes()), expected, "{text}");
        check(r#"{"event":"gusher.subscribe_succeeded","socket_id":"x","data":{"channel":"c"}}"#, Heard::Subscribed);
        check(r#"{"event":"gusher.querychannel_succeeded","socket_id":"x","data":"e30=","time":1}"#, Heard::Pong);
        check(r#"{"event":"gusher.unsubscribe_succeeded"}"#, Heard::Other);
    }
}
