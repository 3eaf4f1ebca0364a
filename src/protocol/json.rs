//! JSON whose values pass through byte for byte.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object whose values are left as they were written. Of equal keys the last counts; `null` is an empty object.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Object<'a>(Vec<(Key<'a>, &'a RawValue)>);

/// A member's name: as it stands there, unless it has escapes.
#[derive(Debug, Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Object<'a> {
    /// Reads the first value of `bytes`; `None` if that is no object.
    pub(in crate::protocol) fn first(bytes: &'a [u8]) -> Option<Self> {
        serde_json::Deserializer::from_slice(bytes).into_iter().next()?.ok()
    }

    /// A member by its exact name.
    pub(in crate::protocol) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(Key(key), _)| key == name).map(|(_, value)| *value)
    }

    /// A member by its name in any case, as v3 reads bodies.
    pub(in crate::protocol) fn get_any_case(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(Key(key), _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Object::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_any(Members)
    }
}

/// A string, or nothing for `null`; `None` for any other type.
pub(in crate::protocol) fn optional_string(value: Option<&RawValue>) -> Option<String> {
    match value {
        None => Some(String::new()),
        Some(value) => Some(serde_json::from_str::<Option<String>>(value.get()).ok()?.unwrap_or_default()),
    }
}

/// The "string or json" rule of the API document: text that is one JSON value as a whole counts as that value, any
/// other as a string.
pub(in crate::protocol) fn string_or_json(text: &str) -> Vec<u8> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => value.get().as_bytes().to_vec(),
        Err(_) => string(text).into_bytes(),
    }
}

/// Text as a JSON string.
pub(in crate::protocol) fn string(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len() + 2);
    write_string(&mut bytes, text);
    // the parts are UTF-8: `text` and ASCII
    String::from_utf8(bytes).unwrap_or_default()
}

/// Appends text as a JSON string.
pub(in crate::protocol) fn write_string(out: &mut Vec<u8>, text: &str) {
    // writing into memory cannot fail
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts() {
        let object = Object::first(br#" {"a":1,"B":"x","\u0061": [2 ]} trailing"#).unwrap();
        assert_eq!(object.get("a").unwrap().get(), "[2 ]");
        assert!(object.get("b").is_none());
        assert_eq!(object.get_any_case("b").unwrap().get(), "\"x\"");
        assert!(Object::first(b"null").unwrap().get("a").is_none());
        for text in ["", "[]", "1", "{", "{\"a\":}", "x"] {
            assert!(Object::first(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn string_or_json_rule() {
        for (text, expected) in [
            ("42", "42"),
            (" 42 ", "42"),
            ("\"hello\"", "\"hello\""),
            ("true", "true"),
            ("{\"a\":", "\"{\\\"a\\\":\""),
            ("{\"a\":1} x", "\"{\\\"a\\\":1} x\""),
            ("{ \"b\":1.50,\"a\":1e3}", "{ \"b\":1.50,\"a\":1e3}"),
            ("hello", "\"hello\""),
            ("\0", "\"\\u0000\""),
        ] {
            assert_eq!(string_or_json(text), expected.as_bytes(), "{text:?}");
        }
    }
}
