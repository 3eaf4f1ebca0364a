//! What hooks are told, in the words of each format.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::core::{AppKey, ChannelName, Event, Member, Observation, Observed, SessionName, UserId};

use super::settings::{Format, Kind};

/// What an observation weighs beside its texts, in bytes: roughly, and places in queues included.
const WEIGHT_OF_ITS_OWN: usize = 256;

/// An observation on its way to endpoints; shared by all that are told of it.
#[derive(Debug)]
pub(super) struct Happening {
    pub(super) app: AppKey,
    pub(super) channel: ChannelName,
    pub(super) what: Observed,
    pub(super) kind: Kind,
    /// What it takes in memory, in bytes.
    pub(super) weight: usize,
}

impl Happening {
    pub(super) fn new(observation: Observation) -> Self {
        let Observation { app, channel, what } = observation;
        let texts = match &what {
            Observed::MemberAdded { user, info } => user.as_str().len() + info.len(),
            Observed::MemberRemoved { user } => user.as_str().len(),
            Observed::ClientEvent { event, .. } => event.weight(),
            Observed::Joined { member: Some(Member { user, info }), .. } => user.as_str().len() + info.len(),
            _ => 0,
        };
        let weight = WEIGHT_OF_ITS_OWN + channel.as_str().len() + texts;
        Self { kind: Kind::of(&what), app, channel, what, weight }
    }
}

/// Pusher's body: `{"time_ms":…,"events":[…]}`. What Pusher has no word for is left out.
pub(super) fn pusher<'a>(events: impl Iterator<Item = &'a Happening>, time_ms: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        time_ms: u64,
        events: Vec<PusherEvent<'a>>,
    }
    let body = Body { time_ms, events: events.filter_map(pusher_event).collect() };
    serde_json::to_vec(&body).expect("strings, numbers and raw JSON are JSON")
}

#[derive(Default, Serialize)]
struct PusherEvent<'a> {
    name: &'a str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_count: Option<u64>,
}

/// A JSON string.
#[derive(Serialize)]
#[serde(untagged)]
enum Text<'a> {
    /// As it was written.
    String(&'a RawValue),
    /// The text of another JSON value.
    Json(&'a str),
}

fn pusher_event(happening: &Happening) -> Option<PusherEvent<'_>> {
    let name = happening.kind.word(Format::Pusher)?;
    let mut told = PusherEvent { name, channel: happening.channel.as_str(), ..PusherEvent::default() };
    match &happening.what {
        Observed::MemberAdded { user, .. } | Observed::MemberRemoved { user } => told.user_id = Some(user.as_str()),
        Observed::ClientEvent { event, session, user } => {
            let json = raw(event.data.json());
            let is_string = json.get().starts_with('"');
            told.event = Some(&event.name);
            told.data = Some(if is_string { Text::String(json) } else { Text::Json(json.get()) });
            told.socket_id = Some(session.id.to_dotted());
            told.user_id = user.as_ref().map(UserId::as_str);
        }
        Observed::SubscriptionCount(count) => told.subscription_count = Some(*count),
        Observed::Occupied | Observed::Vacated | Observed::Joined { .. } | Observed::Left(_) | Observed::CacheMiss => {}
    }
    Some(told)
}

/// What Push1ST tells of: the fields of its body but for `app` and `channel`, and the arguments of `OnTrigger`.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Trigger {
    /// `register`, `unregister`, `join`, `leave` or `push`.
    pub(super) event: &'static str,
    /// The connection's session; empty where there is none.
    pub(super) session: String,
    /// JSON text.
    pub(super) data: String,
}

/// What Push1ST tells of it; `None` if it has no word for it.
pub(super) fn trigger(happening: &Happening) -> Option<Trigger> {
    let event = happening.kind.word(Format::Push1st)?;
    let (session, data) = match &happening.what {
        Observed::Joined { session, member } => (session.to_string(), member.as_ref().map(identity)),
        Observed::Left(session) => (session.to_string(), None),
        Observed::ClientEvent { event, session, .. } => {
            (session.to_string(), Some(message(&happening.channel, event, session)))
        }
        _ => (String::new(), None),
    };
    Some(Trigger { event, session, data: data.unwrap_or_else(|| "null".to_owned()) })
}

/// Push1ST's body: keys sorted, `data` a JSON text in a string.
pub(super) fn push1st(app_id: &str, happening: &Happening) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    struct Body<'a> {
        app: &'a str,
        channel: &'a str,
        data: &'a str,
        event: &'a str,
        session: &'a str,
    }
    let Trigger { event, session, data } = trigger(happening)?;
    let body = Body { app: app_id, channel: happening.channel.as_str(), data: &data, event, session: &session };
    Some(serde_json::to_vec(&body).expect("strings are JSON"))
}

fn identity(member: &Member) -> String {
    #[derive(Serialize)]
    struct Identity<'a> {
        #[serde(rename = "user-id")]
        user_id: &'a str,
        #[serde(rename = "user-info")]
        user_info: &'a RawValue,
    }
    let identity = Identity { user_id: member.user.as_str(), user_info: raw(&member.info) };
    serde_json::to_string(&identity).expect("strings and raw JSON are JSON")
}

/// A client's message with what Push1ST adds to it, its keys sorted.
fn message(channel: &ChannelName, event: &Event, session: &SessionName) -> String {
    #[derive(Serialize)]
    struct Message<'a> {
        #[serde(rename = "#msg-arrival")]
        arrival_ns: u64,
        #[serde(rename = "#msg-delivery")]
        delivery: &'a str,
        #[serde(rename = "#msg-expired")]
        expired: u64,
        #[serde(rename = "#msg-from")]
        from: String,
        #[serde(rename = "#msg-id")]
        id: u64,
        channel: &'a str,
        data: &'a RawValue,
        event: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        headers: Option<&'a RawValue>,
    }
    let headers = event.about.as_ref().map(|about| &about.headers).filter(|headers| !headers.is_empty());
    let message = Message {
        arrival_ns: event.id, // a number that begins as the time of arrival in nanoseconds
        delivery: "broadcast",
        expired: 0,
        from: session.to_string(),
        id: event.id,
        channel: channel.as_str(),
        data: raw(event.data.json()),
        event: &event.name,
        headers: headers.map(raw),
    };
    serde_json::to_string(&message).expect("strings, numbers and raw JSON are JSON")
}

/// JSON of the core's, `null` if there is none.
fn raw(json: &Bytes) -> &RawValue {
    serde_json::from_slice(json).unwrap_or(RawValue::NULL)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::{About, ConnectionId, Data};

    fn happening(what: Observed) -> Happening {
        Happening::new(Observation { app: "k".into(), channel: "presence-x".into(), what })
    }

    fn session(prefix: Option<&str>) -> SessionName {
        let id = ConnectionId { nonce: 1, slot: 2, shard: 0, node: 0 };
        SessionName { prefix: prefix.map(Into::into), id }
    }

    fn client_event(data: &'static str, user: Option<&str>) -> Observed {
        let event = Event::new("client-x", Data::AsSent(Bytes::from_static(data.as_bytes())), 42);
        Observed::ClientEvent { event, session: session(Some("bob")), user: user.map(Into::into) }
    }

    #[test]
    fn pusher_bodies() {
        let check = |what: Observed, event: &str| {
            let body = pusher([&happening(what)].into_iter(), 1_327_078_148_132);
            let expected = format!(r#"{{"time_ms":1327078148132,"events":[{event}]}}"#);
            assert_eq!(String::from_utf8(body).unwrap(), expected);
        };
        check(Observed::Occupied, r#"{"name":"channel_occupied","channel":"presence-x"}"#);
        check(Observed::Vacated, r#"{"name":"channel_vacated","channel":"presence-x"}"#);
        check(
            Observed::MemberAdded { user: "1".into(), info: Bytes::from_static(b"{}") },
            r#"{"name":"member_added","channel":"presence-x","user_id":"1"}"#,
        );
        check(
            Observed::MemberRemoved { user: "1".into() },
            r#"{"name":"member_removed","channel":"presence-x","user_id":"1"}"#,
        );
        check(Observed::CacheMiss, r#"{"name":"cache_miss","channel":"presence-x"}"#);
        check(
            Observed::SubscriptionCount(3),
            r#"{"name":"subscription_count","channel":"presence-x","subscription_count":3}"#,
        );
        check(Observed::Joined { session: session(None), member: None }, "");
        let sent = |data: &str, user: &str| {
            let begin = r#"{"name":"client_event","channel":"presence-x","event":"client-x""#;
            format!(r#"{begin},"data":{data},"socket_id":"32.2"{user}}}"#)
        };
        check(client_event(r#"{"a":9007199254740993}"#, None), &sent(r#""{\"a\":9007199254740993}""#, ""));
        check(client_event(r#""\u00e9 \ud800\n""#, Some("u")), &sent(r#""\u00e9 \ud800\n""#, r#","user_id":"u""#));
        check(client_event("null", None), &sent(r#""null""#, ""));
    }

    #[test]
    fn several_events_in_one_body() {
        let (occupied, vacated) = (happening(Observed::Occupied), happening(Observed::Vacated));
        let body = pusher([&occupied, &vacated].into_iter(), 1);
        let expected = r#"{"time_ms":1,"events":[{"name":"channel_occupied","channel":"presence-x"},{"name":"channel_vacated","channel":"presence-x"}]}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn push1st_bodies() {
        let check = |happening: Happening, expected: &str| {
            let body = push1st("app-test", &happening).map(|body| String::from_utf8(body).unwrap());
            assert_eq!(body.as_deref().unwrap_or("none"), expected);
        };
        let plain = |event: &str, session: &str| {
            format!(
                r#"{{"app":"app-test","channel":"presence-x","data":"null","event":"{event}","session":"{session}"}}"#
            )
        };
        check(happening(Observed::Occupied), &plain("register", ""));
        check(happening(Observed::Vacated), &plain("unregister", ""));
        check(happening(Observed::Joined { session: session(None), member: None }), &plain("join", "32.2"));
        check(happening(Observed::Left(session(Some("bob")))), &plain("leave", "bob.32.2"));
        check(happening(Observed::CacheMiss), "none");
        let joined = |info: &'static str| {
            let member = Member { user: "1".into(), info: Bytes::from_static(info.as_bytes()) };
            happening(Observed::Joined { session: session(None), member: Some(member) })
        };
        check(
            joined(r#"{"n":1}"#),
            r#"{"app":"app-test","channel":"presence-x","data":"{\"user-id\":\"1\",\"user-info\":{\"n\":1}}","event":"join","session":"32.2"}"#,
        );
        check(
            joined(""),
            r#"{"app":"app-test","channel":"presence-x","data":"{\"user-id\":\"1\",\"user-info\":null}","event":"join","session":"32.2"}"#,
        );
        check(
            happening(client_event(r#"{"x": 1}"#, None)),
            r##"{"app":"app-test","channel":"presence-x","data":"{\"#msg-arrival\":42,\"#msg-delivery\":\"broadcast\",\"#msg-expired\":0,\"#msg-from\":\"bob.32.2\",\"#msg-id\":42,\"channel\":\"presence-x\",\"data\":{\"x\": 1},\"event\":\"client-x\"}","event":"push","session":"bob.32.2"}"##,
        );
        let about = About { headers: Bytes::from_static(b"[1]"), ..About::default() };
        let event = Event { about: Some(Arc::new(about)), ..Event::new("e", Data::Value(Bytes::from_static(b"1")), 1) };
        let with_headers = trigger(&happening(Observed::ClientEvent { event, session: session(None), user: None }));
        assert!(with_headers.unwrap().data.ends_with(r#""event":"e","headers":[1]}"#));
    }
}
