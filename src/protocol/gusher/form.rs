//! Form fields as gusher's v1 reads them: from a urlencoded body, then from the query.

use std::borrow::Cow;

use hyper::header::{self, HeaderMap};
use percent_encoding::percent_decode;

/// The fields of one request.
pub(super) struct Form<'a> {
    body: &'a [u8],
    query: &'a [u8],
}

impl<'a> Form<'a> {
    /// A body of any other type than `application/x-www-form-urlencoded` counts as no fields.
    pub(super) fn new(headers: &HeaderMap, body: &'a [u8], query: &'a str) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        let is_form = kind.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        Self { body: if is_form { body } else { b"" }, query: query.as_bytes() }
    }

    /// The first field of that name; empty if there is none. Invalid UTF-8 becomes U+FFFD, byte by byte. A field with a
    /// malformed escape or a `;` is dropped.
    pub(super) fn get(&self, name: &str) -> String {
        let fields = self.body.split(|byte| *byte == b'&').chain(self.query.split(|byte| *byte == b'&'));
        for field in fields.filter(|field| !field.contains(&b';')) {
            let mut parts = field.splitn(2, |byte| *byte == b'=');
            let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            if decode(key).is_some_and(|key| *key == *name.as_bytes())
                && let Some(value) = decode(value)
            {
                return lossy(&value);
            }
        }
        String::new()
    }
}

/// Undoes `+` and `%XX`; `None` if an escape is malformed.
fn decode(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let well_formed = text
        .split(|byte| *byte == b'%')
        .skip(1)
        .all(|after| after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit));
    if !well_formed {
        return None;
    }
    if !text.contains(&b'+') {
        return Some(percent_decode(text).into());
    }
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Some(Cow::Owned(percent_decode(&spaced).collect()))
}

fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let check = |body: &str, query: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8".parse().unwrap());
            assert_eq!(Form::new(&headers, body.as_bytes(), query).get("data"), expected, "{body:?} {query:?}");
        };
        check("data=body", "data=query", "body");
        check("other=1", "data=query", "query");
        check("data=a+b%20c", "", "a b c");
        check("d%61ta=x", "", "x");
        check("data=%zz", "", "");
        check("data=%2", "", "");
        check("data=a;b", "", "");
        check("data=1&data=2", "", "1");
        check("data=%ff%fe!", "", "\u{fffd}\u{fffd}!");
        check("data", "", "");
        check("", "", "");
        assert_eq!(Form::new(&HeaderMap::new(), b"data=x", "").get("data"), "");
    }
}
