//! What a gusher client says: JSON objects with `event` and `data`, one command each.

use serde_json::value::RawValue;

use crate::shard::door::Farewell;

use super::reply::violation;
use crate::protocol::json::Object;

/// A command of the API document.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Subscribe { channel: String },
    MultiSubscribe { channels: Vec<String> },
    Unsubscribe { channel: String },
    QueryChannel,
    Ping { data: &'a RawValue },
    Remote { remote: String, uid: String, payload: &'a RawValue, debug: bool },
}

/// Reads one message.
///
/// # Errors
/// It is not a command; the connection ends with a reason that says what was wrong. (The originals drop the socket
/// without a word.)
pub(super) fn parse(text: &str) -> Result<Command<'_>, Farewell> {
    let object = Object::first(text.as_bytes()).ok_or_else(|| {
        let is_json =
            serde_json::Deserializer::from_str(text).into_iter::<&RawValue>().next().is_some_and(|v| v.is_ok());
        if is_json {
            violation(1008, "the message is no JSON object")
        } else {
            violation(1007, "the message is no JSON")
        }
    })?;
    let event = object.get("event").and_then(as_string).ok_or_else(|| violation(1008, "event: a string is needed"))?;
    let data = object.get("data").ok_or_else(|| violation(1008, "data is missing"))?;
    let members = || Object::first(data.get().as_bytes()).filter(|_| data.get().starts_with('{'));
    let member = |name: &'static str| {
        members()
            .and_then(|members| members.get(name))
            .ok_or_else(|| violation(1008, format!("data.{name} is missing")))
    };
    let string = |name: &'static str| {
        as_string(member(name)?).ok_or_else(|| violation(1008, format!("data.{name}: a string is needed")))
    };
    Ok(match &*event {
        "gusher.subscribe" => Command::Subscribe { channel: string("channel")? },
        "gusher.unsubscribe" => Command::Unsubscribe { channel: string("channel")? },
        "gusher.multi_subscribe" => {
            let members = members().ok_or_else(|| violation(1008, "data: an object is needed"))?;
            Command::MultiSubscribe { channels: members.get("multi_channel").map(as_list).unwrap_or_default() }
        }
        "gusher.querychannel" => Command::QueryChannel,
        "gusher.ping" => Command::Ping { data },
        "gusher.remote" => Command::Remote {
            remote: string("remote")?,
            uid: string("uid")?,
            payload: member("payload")?,
            debug: object.get("debug").is_some_and(|debug| debug.get() == "true"),
        },
        unknown => {
            let shown: String = unknown.chars().take(24).collect();
            return Err(violation(1008, format!("event {shown:?} is unknown")));
        }
    })
}

fn as_string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The items of a list; what is no string counts as its text. Anything but a list is an empty one.
fn as_list(value: &RawValue) -> Vec<String> {
    let items: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
    items.into_iter().map(|item| as_string(item).unwrap_or_else(|| item.get().to_owned())).collect()
}

/// The data of a ping as v1 and v3 really echo it: a string's content, of any other value its text.
pub(super) fn legacy_ping_bytes(data: &RawValue) -> Vec<u8> {
    let text = data.get();
    let content = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    content.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let check = |text: &str, expected: &str| {
            let seen = match parse(text) {
                Ok(command) => format!("{command:?}"),
                Err(farewell) => format!("{} {}", farewell.code, farewell.reason),
            };
            assert_eq!(seen, expected, "{text}");
        };
        check(r#"{"event":"gusher.subscribe","data":{"channel":"AA","x":1}}"#, r#"Subscribe { channel: "AA" }"#);
        check(r#"{"event":"gusher.subscribe","data":{"channel":"AA"}} x"#, r#"Subscribe { channel: "AA" }"#);
        check(r#"{"event":"gusher.unsubscribe","data":{"channel":""}}"#, r#"Unsubscribe { channel: "" }"#);
        check(
            r#"{"event":"gusher.multi_subscribe","data":{"multi_channel":["a",1,null]}}"#,
            r#"MultiSubscribe { channels: ["a", "1", "null"] }"#,
        );
        check(r#"{"event":"gusher.multi_subscribe","data":{}}"#, "MultiSubscribe { channels: [] }");
        check(r#"{"event":"gusher.multi_subscribe","data":{"multi_channel":7}}"#, "MultiSubscribe { channels: [] }");
        check(r#"{"event":"gusher.multi_subscribe","data":[]}"#, "1008 data: an object is needed");
        check(r#"{"event":"gusher.querychannel","data":{}}"#, "QueryChannel");
        check(r#"{"event":"gusher.querychannel"}"#, "1008 data is missing");
        check(r#"{"event":"gusher.subscribe","data":"AA"}"#, "1008 data.channel is missing");
        check(r#"{"event":"gusher.subscribe","data":{"channel":1}}"#, "1008 data.channel: a string is needed");
        check(r#"{"event":"gusher.remote","data":{"remote":"a","uid":"b"}}"#, "1008 data.payload is missing");
        check(r#"{"event":"nonsense","data":{}}"#, "1008 event \"nonsense\" is unknown");
        check(r#"{"event":7,"data":{}}"#, "1008 event: a string is needed");
        check(r#"{"data":{}}"#, "1008 event: a string is needed");
        check("[]", "1008 the message is no JSON object");
        check("", "1007 the message is no JSON");
        check("{\"event\":", "1007 the message is no JSON");
    }
}
