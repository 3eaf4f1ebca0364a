//! How Pusher Channels writes events: `{"event":…,"channel":…,"data":…}`, `data` a string.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::core::{ChannelName, Data, Dialect, Event, Member, Notice, UserId};
use crate::protocol::json;
use crate::shard::ws::codec;

/// Pusher's dialect, protocol versions 5 to 7.
#[derive(Debug)]
pub struct Pusher;

impl Dialect for Pusher {
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8> {
        codec::text_frame(event_text(channel, event).as_bytes())
    }

    fn notice(&self, notice: &Notice<'_>) -> Vec<u8> {
        codec::text_frame(notice_text(notice).as_bytes())
    }
}

/// A notice as it is sent.
pub(super) fn notice_text(notice: &Notice<'_>) -> String {
    match *notice {
        Notice::MemberAdded(channel, member) => member_added(channel, member),
        Notice::MemberRemoved(channel, user) => {
            let data = format!("{{\"user_id\":{}}}", json::string(user.as_str()));
            internal("member_removed", channel.as_str(), &data)
        }
        Notice::SubscriptionCount(channel, count) => {
            internal("subscription_count", channel.as_str(), &format!("{{\"subscription_count\":{count}}}"))
        }
        Notice::UserState { user, online } => {
            let users = std::slice::from_ref(user);
            watchlist_events(if online { users } else { &[] }, if online { &[] } else { users })
        }
    }
}

/// An event as it is sent.
pub(super) fn event_text(channel: &ChannelName, event: &Event) -> String {
    let data = data_text(&event.data);
    let mut text = Vec::with_capacity(40 + channel.as_str().len() + event.name.len() + data.len());
    text.extend_from_slice(b"{\"event\":");
    json::write_string(&mut text, &event.name);
    text.extend_from_slice(b",\"channel\":");
    json::write_string(&mut text, channel.as_str());
    text.extend_from_slice(b",\"data\":");
    text.extend_from_slice(data.as_bytes());
    if let Some(user) = event.about.as_ref().and_then(|about| about.user.as_ref()) {
        text.extend_from_slice(b",\"user_id\":");
        json::write_string(&mut text, user.as_str());
    }
    text.push(b'}');
    // the parts are UTF-8: texts, and JSON that was read from UTF-8
    String::from_utf8(text).unwrap_or_default()
}

/// `data` as JSON: a string whose content is the data, except for what a client sent.
pub(super) fn data_text(data: &Data) -> Cow<'_, str> {
    let json = String::from_utf8_lossy(data.json());
    match data {
        Data::AsSent(_) | Data::Encoded(_) => json,
        // a text stays as it is, unless clients would take it for the JSON that it looks like
        Data::Value(_) => match serde_json::from_str::<String>(&json) {
            Ok(text) if serde_json::from_str::<&RawValue>(&text).is_err() => json,
            _ => Cow::Owned(json::string(&json)),
        },
    }
}

/// `{"event":"pusher_internal:…","channel":…,"data":"…"}`; `data` is JSON, and becomes a string.
pub(super) fn internal(event: &str, channel: &str, data: &str) -> String {
    let (channel, data) = (json::string(channel), json::string(data));
    format!("{{\"event\":\"pusher_internal:{event}\",\"channel\":{channel},\"data\":{data}}}")
}

fn member_added(channel: &ChannelName, member: &Member) -> String {
    let info = match &member.info[..] {
        b"" => String::new(),
        info => format!(",\"user_info\":{}", String::from_utf8_lossy(info)),
    };
    let data = format!("{{\"user_id\":{}{info}}}", json::string(member.user.as_str()));
    internal("member_added", channel.as_str(), &data)
}

/// Who of the watched users is online, and who is not; a list that is empty is left out.
pub(super) fn watchlist_events(online: &[UserId], offline: &[UserId]) -> String {
    let event = |(name, users): (&str, &[UserId])| {
        let ids: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let ids = serde_json::to_string(&ids).unwrap_or_default();
        (!users.is_empty()).then(|| format!("{{\"name\":\"{name}\",\"user_ids\":{ids}}}"))
    };
    let events: Vec<String> = [("online", online), ("offline", offline)].into_iter().filter_map(event).collect();
    let data = json::string(&format!("{{\"events\":[{}]}}", events.join(",")));
    format!("{{\"event\":\"pusher_internal:watchlist_events\",\"data\":{data}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_a_string() {
        let check = |data: Data, expected: &str| assert_eq!(data_text(&data), expected, "{data:?}");
        let value = |json: &'static str| Data::Value(json.into());
        check(value(r#"{"z":1.50, "a":9007199254740993}"#), r#""{\"z\":1.50, \"a\":9007199254740993}""#);
        check(value("null"), r#""null""#);
        check(value(r#""hello""#), r#""hello""#);
        check(value(r#""""#), r#""""#);
        check(value(r#""5""#), r#""\"5\"""#);
        check(value(r#""{\"a\":1}""#), r#""\"{\\\"a\\\":1}\"""#);
        check(Data::Encoded(r#""{\"a\":1}""#.into()), r#""{\"a\":1}""#);
        check(Data::Encoded(r#""5""#.into()), r#""5""#);
        check(Data::AsSent(r#"{"a":1}"#.into()), r#"{"a":1}"#);
    }
}
