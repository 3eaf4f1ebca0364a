//! How raw sockets read an event: one object, keys sorted, with what Push1ST says of every message under `#msg-…`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::{ChannelName, Dialect, Event};
use crate::protocol::json;
use crate::shard::ws::codec;

/// The dialect of raw sockets.
#[derive(Debug)]
pub struct Push1st;

impl Dialect for Push1st {
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8> {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        codec::text_frame(&event_text(channel, event, now_ns))
    }
}

/// The text of an event. `#msg-from` is the session that pushed it, or `api`; `#msg-time` is how long ago it was accepted,
/// in nanoseconds; `headers` stands there only if the publisher gave some.
pub(super) fn event_text(channel: &ChannelName, event: &Event, now_ns: u64) -> Vec<u8> {
    let about = event.about.as_deref();
    let from = about.and_then(|about| about.session.as_ref());
    let headers = about.map_or(&b""[..], |about| &about.headers);
    let data = event.data.json();
    let mut text = Vec::with_capacity(160 + channel.as_str().len() + event.name.len() + data.len() + headers.len());
    text.extend_from_slice(b"{\"#msg-from\":");
    json::write_string(&mut text, &from.map_or_else(|| "api".to_owned(), ToString::to_string));
    text.extend_from_slice(
        format!(",\"#msg-id\":{},\"#msg-time\":{}", event.id, now_ns.saturating_sub(event.id)).as_bytes(),
    );
    text.extend_from_slice(b",\"channel\":");
    json::write_string(&mut text, channel.as_str());
    text.extend_from_slice(b",\"data\":");
    text.extend_from_slice(data);
    text.extend_from_slice(b",\"event\":");
    json::write_string(&mut text, &event.name);
    if !headers.is_empty() {
        text.extend_from_slice(b",\"headers\":");
        text.extend_from_slice(headers);
    }
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::core::{About, ConnectionId, Data, SessionName};

    fn text(event: &Event) -> String {
        String::from_utf8(event_text(&"a\"b".into(), event, 1_500)).unwrap()
    }

    #[test]
    fn of_a_backend() {
        let check = |data: Data, json: &str| {
            let expected = format!(
                r##"{{"#msg-from":"api","#msg-id":1000,"#msg-time":500,"channel":"a\"b","data":{json},"event":"e"}}"##
            );
            assert_eq!(text(&Event::new("e", data, 1_000)), expected);
        };
        let value = r#"{"z": 1.50, "a":9007199254740993}"#;
        check(Data::Value(Bytes::from_static(value.as_bytes())), value);
        check(Data::AsSent(Bytes::from_static(b"[]")), "[]");
        // a string stays a string, whatever it holds
        check(Data::Encoded(Bytes::from_static(br#""{\"k\":1}""#)), r#""{\"k\":1}""#);
    }

    #[test]
    fn of_a_client() {
        let id = ConnectionId { nonce: 1, slot: 2, shard: 0, node: 0 };
        let about = |prefix: Option<&str>, headers: &'static str| {
            let session = Some(SessionName { prefix: prefix.map(Arc::from), id });
            Some(Arc::new(About { session, headers: Bytes::from_static(headers.as_bytes()), ..About::default() }))
        };
        let mut event = Event::new("e", Data::Value(Bytes::from_static(b"1")), 2_000);
        event.about = about(Some("bob"), r#"{"h":true}"#);
        let rest = r##""#msg-id":2000,"#msg-time":0,"channel":"a\"b","data":1,"event":"e""##;
        assert_eq!(text(&event), format!(r##"{{"#msg-from":"bob.32.2",{rest},"headers":{{"h":true}}}}"##));
        event.about = about(None, "");
        assert_eq!(text(&event), format!(r##"{{"#msg-from":"32.2",{rest}}}"##));
    }
}
