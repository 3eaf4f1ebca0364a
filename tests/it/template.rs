//! Text with `{names}` in it: filled in before it is sent, matched against what came.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// What names stand for so far.
#[derive(Default)]
pub(crate) struct Bindings(pub(crate) BTreeMap<String, String>);

/// A template cut at its names: text, name, text, name, ... text.
fn pieces(template: &str) -> (Vec<&str>, Vec<&str>) {
    let name = Regex::new(r"\{([a-z_][a-z0-9_]*)\}").expect("a constant");
    (name.split(template).collect(), name.captures_iter(template).map(|found| found.extract::<1>().1[0]).collect())
}

impl Bindings {
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Replaces every name; an unbound one is an error.
    pub(crate) fn fill(&self, template: &str) -> Result<String, String> {
        let (texts, names) = pieces(template);
        let mut filled = texts[0].to_owned();
        for (name, text) in names.iter().zip(&texts[1..]) {
            filled += self.0.get(*name).ok_or_else(|| format!("{{{name}}} is not bound"))?;
            filled += text;
        }
        Ok(filled)
    }

    /// Compares the whole of `actual`. A name that is not bound yet takes the shortest text that fits, and stands for
    /// it from then on; `{_}` takes any text every time.
    pub(crate) fn match_text(&mut self, template: &str, actual: &str) -> Result<(), String> {
        let (texts, names) = pieces(template);
        let mut found = Vec::new();
        if !self.fits(&texts, &names, actual, &mut found) {
            return Err(format!("came      {actual:?}\n expected {template:?}\n known    {:?}", self.0));
        }
        self.0.extend(found.into_iter().filter(|(name, _)| name != "_"));
        Ok(())
    }

    fn fits(&self, texts: &[&str], names: &[&str], actual: &str, found: &mut Vec<(String, String)>) -> bool {
        let Some(rest) = actual.strip_prefix(texts[0]) else { return false };
        let Some((&name, names)) = names.split_first() else { return rest.is_empty() };
        let texts = &texts[1..];
        let before = found.iter().find(|(earlier, _)| earlier == name && name != "_").map(|(_, value)| value);
        if let Some(value) = before.or(self.0.get(name)) {
            let after = rest.strip_prefix(value.as_str());
            return after.is_some_and(|rest| self.fits(texts, names, rest, found));
        }
        let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
        for end in ends.filter(|end| rest[*end..].starts_with(texts[0])) {
            found.push((name.to_owned(), rest[..end].to_owned()));
            if self.fits(texts, names, &rest[end..], found) {
                return true;
            }
            found.pop();
        }
        false
    }

    /// Compares as JSON in which the order of arrays and members does not count, nor within strings that hold JSON.
    pub(crate) fn match_unordered(&self, template: &str, actual: &str) -> Result<(), String> {
        let sorted = |text: &str| serde_json::from_str(text).map(sort).map_err(|e| format!("not JSON: {e}: {text:?}"));
        let expected = self.fill(template)?;
        if sorted(&expected)? == sorted(actual)? {
            return Ok(());
        }
        Err(format!("came      {actual:?}\n expected {expected:?}, arrays in any order"))
    }
}

/// Whether a template is JSON, whatever its names stand for: a string's contents or a number.
pub(crate) fn is_json(template: &str) -> bool {
    let (texts, _) = pieces(template);
    serde_json::from_str::<serde::de::IgnoredAny>(&texts.join("0")).is_ok()
}

fn sort(value: Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(sort).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(key, field)| (key, sort(field))).collect()),
        // a string stays apart from what it holds
        Value::String(text) if text.starts_with(['{', '[']) => match serde_json::from_str(&text) {
            Ok(held) => Value::Array(vec!["a string of".into(), sort(held)]),
            Err(_) => Value::String(text),
        },
        other => other,
    }
}

#[test]
fn names_bind_at_first_sight() {
    let mut bindings = Bindings::default();
    bindings.match_text(r#"{"id":"{sid}","n":{n}}"#, r#"{"id":"a-b","n":5}"#).unwrap();
    assert_eq!(bindings.fill("{sid}/{n}").unwrap(), "a-b/5");
    bindings.match_text("<{sid}>", "<a-b>").unwrap();
    assert!(bindings.match_text("<{sid}>", "<other>").unwrap_err().contains("came      \"<other>\""));
    assert_eq!(bindings.fill("{new}").unwrap_err(), "{new} is not bound");
}

#[test]
fn matching_is_exact() {
    let check = |template: &str, actual: &str, matches: bool| {
        assert_eq!(Bindings::default().match_text(template, actual).is_ok(), matches, "{template} {actual}");
    };
    check("{}", "{}", true);
    check("a.c", "abc", false);
    check("abc", "abc\n", false);
    check("{x}-{x}", "1-1", true);
    check("{x}-{x}", "1-2", false);
    check("{_}-{_}", "1-2", true);
    check("{x}", "two\nlines", true);
    check(r#"{"k":{1}}"#, r#"{"k":{1}}"#, true);
}

#[test]
fn arrays_in_any_order() {
    let bindings = Bindings(BTreeMap::from([("x".to_owned(), "AA".to_owned())]));
    bindings.match_unordered(r#"["{x}","BB"]"#, r#"["BB","AA"]"#).unwrap();
    bindings.match_unordered(r#"{"k":[1,2]}"#, r#"{"k":[2,1]}"#).unwrap();
    bindings.match_unordered(r#"{"d":"{\"a\":[1,2],\"b\":0}"}"#, r#"{"d":"{\"b\":0,\"a\":[2,1]}"}"#).unwrap();
    assert!(bindings.match_unordered(r#"{"d":"{}"}"#, r#"{"d":{}}"#).is_err());
    assert!(bindings.match_unordered(r#"["{x}"]"#, r#"["AA","AA"]"#).is_err());
}
