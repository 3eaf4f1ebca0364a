//! What a backend and a raw socket push: an event with its data, and who of the subscribers it is for.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::core::{About, ConnectionId, Data, Event, SessionName, Target};
use crate::protocol::json::{self, Object};

/// What is wrong with what was sent. [`super::reply`] has the words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It is not one JSON object.
    NotAnObject,
    /// A member is missing.
    Missing(&'static str),
    /// A member is not of the type that is named after it.
    WrongType(&'static str, &'static str),
    /// The event's name has more than so many bytes.
    NameTooLong(usize),
    /// The event is for more than so many channels.
    TooManyChannels(usize),
    /// A client may not publish under that name.
    ReservedName,
    /// The app's clients may not push to channels of that kind.
    KindNotPushed,
    /// More than so many pushes in a second.
    TooOften(usize),
}

/// An event, and who it is for.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) name: String,
    data: Data,
    headers: Bytes,
    /// Who of the subscribers it is for.
    pub(super) target: Target,
}

impl Message {
    /// Reads `data`, `socket_id`, `options` and `headers`, and the event's name from the member of that name. Members
    /// that it does not know mean nothing.
    pub(super) fn read(object: &Object<'_>, name: &'static str) -> Result<Self, Fault> {
        let data = object.get("data").ok_or(Fault::Missing("data"))?;
        let headers = object.get("headers").filter(|headers| headers.get() != "null");
        Ok(Self {
            name: event_name(object, name)?,
            data: if data.get().starts_with('"') { Data::Encoded(copy(data)) } else { Data::Value(copy(data)) },
            headers: headers.map(copy).unwrap_or_default(),
            target: target(object)?,
        })
    }

    /// The event, under its number.
    pub(super) fn into_event(self, id: u64) -> Event {
        let about = About { headers: self.headers, ..About::default() };
        let about = (!about.headers.is_empty()).then(|| Arc::new(about));
        Event { about, ..Event::new(self.name, self.data, id) }
    }
}

/// The whole of a text as an object.
pub(super) fn object(bytes: &[u8]) -> Result<Object<'_>, Fault> {
    serde_json::from_slice(bytes).map_err(|_| Fault::NotAnObject)
}

/// A member that must be there and be a string.
pub(super) fn string(object: &Object<'_>, name: &'static str) -> Result<String, Fault> {
    let value = object.get(name).ok_or(Fault::Missing(name))?;
    serde_json::from_str(value.get()).map_err(|_| Fault::WrongType(name, "a string"))
}

/// The channels that an event is for: `channels`, or `channel` alone.
pub(super) fn channels(object: &Object<'_>) -> Result<Vec<String>, Fault> {
    let channels = object.get("channels").map(|list| serde_json::from_str::<Option<Vec<String>>>(list.get()));
    match channels.transpose() {
        Ok(Some(Some(channels))) => Ok(channels),
        Ok(_) if object.get("channel").is_some() => Ok(vec![string(object, "channel")?]),
        Ok(_) => Err(Fault::Missing("channels")),
        Err(_) => Err(Fault::WrongType("channels", "an array of strings")),
    }
}

/// A number for a name is its text.
fn event_name(object: &Object<'_>, member: &'static str) -> Result<String, Fault> {
    let value = object.get(member).ok_or(Fault::Missing(member))?.get();
    if value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return Ok(value.to_owned());
    }
    serde_json::from_str(value).map_err(|_| Fault::WrongType(member, "a string"))
}

/// Who a message is for. `options` that are no object, an unknown way of delivery and a session that nobody has mean
/// nothing; delivery to a session that is not named, or named wrongly, reaches nobody.
fn target(object: &Object<'_>) -> Result<Target, Fault> {
    let options: Object<'_> =
        object.get("options").and_then(|options| serde_json::from_str(options.get()).ok()).unwrap_or_default();
    let ttl = options.get("ttl").map(|ttl| serde_json::from_str::<Option<f64>>(ttl.get()));
    ttl.transpose().map_err(|_| Fault::WrongType("options.ttl", "a number"))?;
    let text =
        |value: Option<&RawValue>, member| json::optional_string(value).ok_or(Fault::WrongType(member, "a string"));
    let delivery = text(options.get("delivery"), "options.delivery")?;
    let session = text(options.get("session"), "options.session")?;
    let socket = text(object.get("socket_id"), "socket_id")?;
    Ok(match &*delivery {
        "multicast" => Target::Sessions(session.into()),
        // no session's name begins with a dot
        "unicast" => session_name(&session).map_or_else(|| Target::Sessions("".into()), Target::Only),
        _ => {
            let except = if session.is_empty() { socket } else { session };
            session_name(&except).map_or(Target::All, |name| Target::Except(name.id))
        }
    })
}

/// Reads a session's full name; `None` for what is none.
pub(super) fn session_name(text: &str) -> Option<SessionName> {
    let dot = text.rfind('.')?;
    match text[..dot].rfind('.') {
        None => Some(SessionName { prefix: None, id: ConnectionId::from_dotted(text)? }),
        Some(end) => {
            let id = ConnectionId::from_dotted(&text[end + 1..])?;
            Some(SessionName { prefix: Some(text[..end].into()), id })
        }
    }
}

fn copy(value: &RawValue) -> Bytes {
    Bytes::copy_from_slice(value.get().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Message, Fault> {
        Message::read(&object(text.as_bytes())?, "name")
    }

    #[test]
    fn events() {
        let check = |text: &str, name: &str, data: Data, headers: &str| {
            let message = read(text).unwrap();
            assert_eq!((&*message.name, &message.data, &*message.headers), (name, &data, headers.as_bytes()), "{text}");
        };
        let value = |json: &'static str| Data::Value(Bytes::from_static(json.as_bytes()));
        let encoded = |json: &'static str| Data::Encoded(Bytes::from_static(json.as_bytes()));
        check(r#"{"name":"e","data":null}"#, "e", value("null"), "");
        check(
            r#"{"data":{"b": 1.50,"a":9007199254740993} , "name":""}"#,
            "",
            value(r#"{"b": 1.50,"a":9007199254740993}"#),
            "",
        );
        check(r#"{"name":"e","data":"x\u0041"}"#, "e", encoded(r#""x\u0041""#), "");
        check(r#"{"name":-7,"data":1,"headers":{"h": 1}}"#, "-7", value("1"), r#"{"h": 1}"#);
        check(r#"{"name":"e","data":1,"headers":null,"else":[]}"#, "e", value("1"), "");
    }

    #[test]
    fn faults() {
        let check = |text: &str, fault: Fault| assert_eq!(read(text).unwrap_err(), fault, "{text}");
        for text in ["", "[]", "1", "\"x\"", "{", "{} x", "{\"data\":\"\u{1}\"}"] {
            check(text, Fault::NotAnObject);
        }
        check("null", Fault::Missing("data"));
        check(r#"{"name":"e"}"#, Fault::Missing("data"));
        check(r#"{"data":1}"#, Fault::Missing("name"));
        for name in ["null", "true", "[]", "{}", r#""\ud800""#] {
            check(&format!(r#"{{"data":1,"name":{name}}}"#), Fault::WrongType("name", "a string"));
        }
        let with = |more: &str| format!(r#"{{"name":"e","data":1,{more}}}"#);
        check(&with(r#""socket_id":1"#), Fault::WrongType("socket_id", "a string"));
        check(&with(r#""options":{"session":1}"#), Fault::WrongType("options.session", "a string"));
        check(&with(r#""options":{"delivery":[]}"#), Fault::WrongType("options.delivery", "a string"));
        check(&with(r#""options":{"ttl":"5"}"#), Fault::WrongType("options.ttl", "a number"));
    }

    #[test]
    fn channels_or_channel() {
        let check = |text: &str, expected: Result<&[&str], Fault>| {
            let found = channels(&object(text.as_bytes()).unwrap());
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(found, expected, "{text}");
        };
        check(r#"{"channels":["a","b","a"]}"#, Ok(&["a", "b", "a"]));
        check(r#"{"channels":[],"channel":"c"}"#, Ok(&[]));
        check(r#"{"channel":"c"}"#, Ok(&["c"]));
        check(r#"{"channels":null,"channel":"c"}"#, Ok(&["c"]));
        check("{}", Err(Fault::Missing("channels")));
        check(r#"{"channels":null}"#, Err(Fault::Missing("channels")));
        check(r#"{"channels":"a","channel":"c"}"#, Err(Fault::WrongType("channels", "an array of strings")));
        check(r#"{"channels":["a",1]}"#, Err(Fault::WrongType("channels", "an array of strings")));
        check(r#"{"channel":7}"#, Err(Fault::WrongType("channel", "a string")));
    }

    #[test]
    fn targets() {
        let id = ConnectionId { nonce: 1, slot: 2, shard: 0, node: 0 };
        let check = |more: &str, expected: Target| {
            let text = format!(r#"{{"name":"e","data":1{more}}}"#);
            assert_eq!(read(&text).unwrap().target, expected, "{text}");
        };
        let nobody = || Target::Sessions("".into());
        let bob = || SessionName { prefix: Some("bob".into()), id };
        check("", Target::All);
        check(r#","socket_id":null"#, Target::All);
        check(r#","socket_id":"""#, Target::All);
        check(r#","socket_id":"nobody""#, Target::All);
        check(r#","socket_id":"32.2""#, Target::Except(id));
        check(r#","socket_id":"bob.32.2""#, Target::Except(id));
        check(r#","options":7"#, Target::All);
        check(r#","options":{"delivery":"broadcast","ttl":60}"#, Target::All);
        check(r#","options":{"delivery":"unheard-of","session":null,"ttl":null}"#, Target::All);
        check(r#","socket_id":"64.3","options":{"session":"bob.32.2"}"#, Target::Except(id));
        check(r#","options":{"delivery":"multicast","session":"bob"}"#, Target::Sessions("bob".into()));
        check(r#","options":{"delivery":"multicast"}"#, nobody());
        check(r#","options":{"delivery":"unicast","session":"bob.32.2"}"#, Target::Only(bob()));
        check(r#","options":{"delivery":"unicast","session":"32.2"}"#, Target::Only(SessionName { prefix: None, id }));
        check(r#","options":{"delivery":"unicast","session":"bob"}"#, nobody());
        check(r#","socket_id":"32.2","options":{"delivery":"unicast"}"#, nobody());
    }

    #[test]
    fn names_of_sessions() {
        let id = ConnectionId { nonce: 1, slot: 2, shard: 0, node: 0 };
        for prefix in ["bob", "a.b", "1.2", "", "é"] {
            let name = SessionName { prefix: Some(prefix.into()), id };
            assert_eq!(session_name(&name.to_string()), Some(name));
        }
        let plain = SessionName { prefix: None, id };
        assert_eq!(session_name(&plain.to_string()), Some(plain));
        for other in ["", ".", "..", "bob", "bob.32", "bob.32.x", "32.2.", "bob.032.2"] {
            assert_eq!(session_name(other), None, "{other}");
        }
    }
}
