//! How gusher writes an event: `{"channel":…,"event":…,"data":…}`, data as the publisher wrote it.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::core::{ChannelName, Data, Dialect, Event};
use crate::shard::ws::codec;

use crate::protocol::json;

/// gusher's dialect, the same for v1 and v3.
#[derive(Debug)]
pub struct Gusher;

impl Dialect for Gusher {
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8> {
        codec::text_frame(&event_text(channel.as_str(), &event.name, &value(&event.data)))
    }
}

/// What gusher's clients read: values, also those that came encoded as a string.
fn value(data: &Data) -> Cow<'_, [u8]> {
    let Data::Encoded(json) = data else { return Cow::Borrowed(data.json()) };
    match serde_json::from_slice::<String>(json) {
        Ok(text) if serde_json::from_str::<&RawValue>(&text).is_ok() => Cow::Owned(text.into_bytes()),
        _ => Cow::Borrowed(json),
    }
}

/// The text of an event; a push to a channel is answered with the same.
pub(super) fn event_text(channel: &str, name: &str, data: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(40 + channel.len() + name.len() + data.len());
    text.extend_from_slice(b"{\"channel\":");
    json::write_string(&mut text, channel);
    text.extend_from_slice(b",\"event\":");
    json::write_string(&mut text, name);
    text.extend_from_slice(b",\"data\":");
    text.extend_from_slice(data);
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_data_is_verbatim() {
        let text = event_text("a\"b", "e", b"{\"z\": 1.50, \"a\":9007199254740993}");
        assert_eq!(text, br#"{"channel":"a\"b","event":"e","data":{"z": 1.50, "a":9007199254740993}}"#);
    }
}
