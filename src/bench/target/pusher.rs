//! Pusher Channels, protocol 7: a greeting, public channels, signed requests.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::json;

use crate::credential::signature::AppSecrets;

use super::{EVENT, Endpoint, Heard, JSON, Publish, Subscription, Target, channel_name, contains, post};

/// A Pusher server's app.
pub struct Pusher {
    socket_path: String,
    api: Endpoint,
    api_path: String,
    secrets: AppSecrets,
}

impl Pusher {
    /// An app with these credentials.
    pub fn new(sockets: Endpoint, api: Endpoint, id: &str, key: &str, secret: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            socket_path: format!(
                "{}/app/{key}?protocol=7&client=hydrant-bench&version={version}&flash=false",
                sockets.prefix
            ),
            api_path: format!("{}/apps/{id}", api.prefix),
            api,
            secrets: AppSecrets::new(key, [secret]),
        }
    }
}

impl Target for Pusher {
    fn request_target(&self, _index: usize, _subscription: Subscription) -> String {
        self.socket_path.clone()
    }

    fn greets(&self) -> bool {
        true
    }

    fn subscribe(&self, subscription: Subscription, socket_id: &str) -> Option<String> {
        let name = name(subscription)?;
        let data = match subscription {
            Subscription::Member(_, user) => {
                let user = format!(r#"{{"user_id":"u{user}"}}"#);
                json!({ "channel": name, "auth": self.secrets.sign_channel(socket_id, &name, Some(&user)), "channel_data": user })
            }
            _ => json!({ "channel": name }),
        };
        Some(json!({ "event": "pusher:subscribe", "data": data }).to_string())
    }

    fn unsubscribe(&self, subscription: Subscription) -> Option<String> {
        Some(json!({ "event": "pusher:unsubscribe", "data": { "channel": name(subscription)? } }).to_string())
    }

    fn hear(&self, text: &[u8]) -> Heard {
        hear(text)
    }

    fn ping(&self) -> Option<&'static str> {
        Some(r#"{"event":"pusher:ping","data":{}}"#)
    }

    fn pong(&self) -> Option<&'static str> {
        Some(r#"{"event":"pusher:pong","data":{}}"#)
    }

    fn publish(&self, events: &[Publish]) -> Result<Vec<u8>> {
        let (path, body) = match events {
            [Publish { channel, data }] => {
                let body = json!({ "name": EVENT, "channels": [channel_name(*channel)], "data": data });
                (format!("{}/events", self.api_path), body)
            }
            _ => {
                let event = |Publish { channel, data }: &Publish| json!({ "name": EVENT, "channel": channel_name(*channel), "data": data });
                let batch: Vec<_> = events.iter().map(event).collect();
                (format!("{}/batch_events", self.api_path), json!({ "batch": batch }))
            }
        };
        let body = body.to_string();
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let query = self.secrets.sign_request("POST", &path, &[], body.as_bytes(), unix_s);
        Ok(post(&self.api.host, &format!("{path}?{query}"), JSON, &body))
    }
}

fn name(subscription: Subscription) -> Option<String> {
    match subscription {
        Subscription::None => None,
        Subscription::Channel(channel) => Some(channel_name(channel)),
        Subscription::Member(channel, _) => Some(format!("presence-{}", channel_name(channel))),
    }
}

/// What a message of this protocol means. The order of its members is the server's business.
pub(super) fn hear(text: &[u8]) -> Heard {
    const INTERNAL: &[u8] = b"pusher_internal:";
    if let Some(start) = text.windows(INTERNAL.len()).position(|window| window == INTERNAL) {
        let event = &text[start + INTERNAL.len()..];
        return match event {
            _ if event.starts_with(b"subscription_succeeded") => Heard::Subscribed,
            _ if event.starts_with(b"member_") => Heard::Notice,
            _ => Heard::Other,
        };
    }
    match text {
        _ if contains(text, "pusher:connection_established") => socket_id(text).map_or(Heard::Other, Heard::Greeting),
        _ if contains(text, "pusher:pong") => Heard::Pong,
        _ if contains(text, "pusher:ping") => Heard::Ping,
        _ if contains(text, "pusher:error") || contains(text, "pusher:subscription_error") => {
            Heard::Refused(String::from_utf8_lossy(text).into_owned())
        }
        _ => Heard::Other,
    }
}

/// The id in a greeting, whose `data` is JSON in a string.
fn socket_id(greeting: &[u8]) -> Option<String> {
    let text = str::from_utf8(greeting).ok()?;
    let rest = text.split_once("socket_id")?.1;
    let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = rest.find(['\\', '"'])?;
    Some(rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_pusher_servers_are_understood_in_any_order() {
        let check = |text: &str, expected| assert_eq!(hear(text.as_bytes()), expected, "{text}");
        let greeting =
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"12.34\",\"activity_timeout\":120}"}"#;
        check(greeting, Heard::Greeting("12.34".into()));
        let other =
            r#"{"data":"{\"activity_timeout\":30,\"socket_id\":\"12.34\"}","event":"pusher:connection_established"}"#;
        check(other, Heard::Greeting("12.34".into()));
        check(r#"{"event":"pusher_internal:subscription_succeeded","channel":"c"}"#, Heard::Subscribed);
        check(r#"{"event":"pusher_internal:member_added","channel":"presence-c","data":"{}"}"#, Heard::Notice);
        check(r#"{"event":"pusher_internal:subscription_count","channel":"c","data":"{}"}"#, Heard::Other);
        check(r#"{"event":"pusher:pong","data":{}}"#, Heard::Pong);
        check(r#"{"event":"pusher:ping"}"#, Heard::Ping);
        let error = r#"{"event":"pusher:error","data":{"code":4001}}"#;
        check(error, Heard::Refused(error.into()));
        check(r#"{"event":"greeting"}"#, Heard::Other);
    }

    #[test]
    fn publishes_are_signed_as_the_protocol_has_it() {
        let at = Endpoint::parse("ws://127.0.0.1:6001/x", "ws").unwrap();
        let pusher = Pusher::new(at.clone(), at, "7", "key", "secret");
        let event = Publish { channel: 3, data: "hyb".into() };
        let request = String::from_utf8(pusher.publish(std::slice::from_ref(&event)).unwrap()).unwrap();
        assert!(request.starts_with("POST /x/apps/7/events?auth_key=key&auth_timestamp="), "{request}");
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"channels":["c3"],"data":"hyb","name":"e"}"#);
        let query = head.split(['?', ' ']).nth(2).unwrap();
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let promised = pusher.secrets.check_head("POST", "/x/apps/7/events", query, unix_s).unwrap();
        assert!(promised.check_body(body.as_bytes()).is_ok());
        let batch = String::from_utf8(pusher.publish(&[event.clone(), event]).unwrap()).unwrap();
        assert!(batch.starts_with("POST /x/apps/7/batch_events?") && batch.contains(r#"{"batch":[{"#), "{batch}");
    }

    #[test]
    fn members_sign_themselves_in() {
        let at = Endpoint::at(([127, 0, 0, 1], 1).into());
        let pusher = Pusher::new(at.clone(), at, "7", "key", "secret");
        let text = pusher.subscribe(Subscription::Member(1, 2), "1.2").unwrap();
        assert!(text.contains(r#""channel":"presence-c1""#) && text.contains(r#"{\"user_id\":\"u2\"}"#), "{text}");
        assert_eq!(pusher.subscribe(Subscription::None, "1.2"), None);
    }
}
