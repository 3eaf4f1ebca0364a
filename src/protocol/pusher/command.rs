//! What a Pusher client says: JSON objects with `event` and `data`, one command each.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::protocol::json::Object;

/// A command of protocol version 7.
#[derive(Debug)]
pub(super) enum Command<'a> {
    Ping,
    Pong,
    Subscribe(Subscribe),
    Unsubscribe { channel: String },
    SignIn { auth: String, user_data: String },
    ClientEvent { name: String, channel: String, data: &'a RawValue },
}

#[derive(Debug)]
pub(super) struct Subscribe {
    pub(super) channel: String,
    pub(super) auth: String,
    pub(super) channel_data: Option<String>,
}

/// Reads one message.
///
/// # Errors
/// A sentence that says what is wrong with it. The connection goes on.
pub(super) fn parse(text: &str) -> Result<Command<'_>, Cow<'static, str>> {
    let object: Object<'_> = serde_json::from_str(text).map_err(|_| "The message is no JSON object")?;
    let event = object.get("event").and_then(string).ok_or("The message has no event: a string is needed")?;
    let data = object.get("data");
    match &*event {
        "pusher:ping" => Ok(Command::Ping),
        "pusher:pong" => Ok(Command::Pong),
        "pusher:subscribe" => {
            let (data, channel) = about_channel("subscribe", data)?;
            let text = |name: &'static str| match data.get(name) {
                Some(value) if value.get() != "null" => match string(value) {
                    Some(text) => Ok(Some(text)),
                    None => Err(Cow::from(format!("pusher:subscribe: {name} must be a string"))),
                },
                _ => Ok(None),
            };
            let (auth, channel_data) = (text("auth")?.unwrap_or_default(), text("channel_data")?);
            Ok(Command::Subscribe(Subscribe { channel, auth, channel_data }))
        }
        "pusher:unsubscribe" => {
            let (_, channel) = about_channel("unsubscribe", data)?;
            Ok(Command::Unsubscribe { channel })
        }
        "pusher:signin" => {
            let data = data.and_then(members).ok_or("pusher:signin: data is missing or no object")?;
            let text = |name| data.get(name).and_then(string);
            let user_data = text("user_data").ok_or("pusher:signin: user_data is missing or no string")?;
            Ok(Command::SignIn { auth: text("auth").unwrap_or_default(), user_data })
        }
        name if name.starts_with("client-") => {
            let channel = object.get("channel").and_then(string);
            let channel = channel.ok_or_else(|| format!("{name}: channel is missing or no string"))?;
            let data = data.unwrap_or(RawValue::NULL);
            Ok(Command::ClientEvent { name: event, channel, data })
        }
        other => Err(format!("Unsupported event received on socket: {}", short(other)).into()),
    }
}

fn about_channel<'a>(command: &str, data: Option<&'a RawValue>) -> Result<(Object<'a>, String), Cow<'static, str>> {
    let data = data.and_then(members).ok_or_else(|| format!("pusher:{command}: data is missing or no object"))?;
    let channel = data.get("channel").and_then(string);
    let channel = channel.ok_or_else(|| format!("pusher:{command}: channel is missing or no string"))?;
    Ok((data, channel))
}

fn members(value: &RawValue) -> Option<Object<'_>> {
    serde_json::from_str(value.get()).ok().filter(|_| value.get().starts_with('{'))
}

fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// What is quoted back to a client is kept short.
pub(super) fn short(text: &str) -> &str {
    const BYTES_MAX: usize = 200;
    &text[..text.floor_char_boundary(BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_wrong() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        let no_event = "The message has no event: a string is needed";
        for text in ["", "x", "[]", "1", "\"a\"", "{} {}", &"[".repeat(100_000)] {
            check(text, "The message is no JSON object");
        }
        for text in ["{}", "null", r#"{"event":5}"#, r#"{"event":{}}"#, r#"{"data":{}}"#] {
            check(text, no_event);
        }
        let subscribe = |data: &str| format!(r#"{{"event":"pusher:subscribe"{data}}}"#);
        for data in ["", r#","data":null"#, r#","data":[]"#, r#","data":"x""#, r#","data":5"#] {
            check(&subscribe(data), "pusher:subscribe: data is missing or no object");
        }
        check(&subscribe(r#","data":{}"#), "pusher:subscribe: channel is missing or no string");
        check(&subscribe(r#","data":{"channel":{}}"#), "pusher:subscribe: channel is missing or no string");
        check(&subscribe(r#","data":{"channel":"c","auth":5}"#), "pusher:subscribe: auth must be a string");
        check(r#"{"event":"pusher:signin","data":{"auth":"x"}}"#, "pusher:signin: user_data is missing or no string");
        check(r#"{"event":"client-x","data":{"channel":"a"}}"#, "client-x: channel is missing or no string");
        check(r#"{"event":"pusher:nonsense"}"#, "Unsupported event received on socket: pusher:nonsense");
        assert_eq!(short(&"é".repeat(150)).len(), 200);
    }

    #[test]
    fn commands() {
        assert!(matches!(parse(r#"{"event":"pusher:ping","data":""}"#), Ok(Command::Ping)));
        assert!(matches!(parse(r#"{"event":"pusher:pong"}"#), Ok(Command::Pong)));
        let text = r#"{"event":"pusher:subscribe","data":{"auth":null,"channel":"c","channel_data":null}}"#;
        match parse(text) {
            Ok(Command::Subscribe(Subscribe { channel, auth, channel_data: None })) => {
                assert_eq!((&*channel, &*auth), ("c", ""));
            }
            other => panic!("{other:?}"),
        }
    }
}
