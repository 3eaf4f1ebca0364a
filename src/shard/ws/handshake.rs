//! The server's side of the opening handshake (RFC 6455 §4.2).

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use thiserror::Error;

/// What a server appends to the key to prove that it speaks WebSocket (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request does not open a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAnUpgrade {
    /// The method is not GET.
    #[error("A WebSocket is opened with GET")]
    Method,
    /// Not HTTP/1.1, the only version whose connections can be upgraded.
    #[error("A WebSocket is opened over HTTP/1.1")]
    HttpVersion,
    /// No `websocket` in `Upgrade`: most likely a plain request.
    #[error("The header \"Upgrade: websocket\" is missing")]
    Upgrade,
    /// No `Upgrade` in `Connection`: often a proxy that drops it.
    #[error("The header \"Connection: Upgrade\" is missing; does a proxy in between drop it?")]
    Connection,
    /// Another protocol version; the answer should carry `Sec-WebSocket-Version: 13` (RFC 6455 §4.2.2).
    #[error("The header \"Sec-WebSocket-Version\" must be 13")]
    WebSocketVersion,
    /// No key, several, or one that is not 16 bytes in base64.
    #[error("The header \"Sec-WebSocket-Key\" must be 16 bytes in base64")]
    Key,
}

/// Checks that a request opens a WebSocket, and returns the value of `Sec-WebSocket-Accept` for the answer.
///
/// # Errors
/// The first thing that is missing, in the order of the variants.
pub fn accept<B>(request: &Request<B>) -> Result<HeaderValue, NotAnUpgrade> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(NotAnUpgrade::Method);
    }
    if request.version() != Version::HTTP_11 {
        return Err(NotAnUpgrade::HttpVersion);
    }
    if !lists(headers, UPGRADE, "websocket") {
        return Err(NotAnUpgrade::Upgrade);
    }
    if !lists(headers, CONNECTION, "upgrade") {
        return Err(NotAnUpgrade::Connection);
    }
    if only(headers, SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(NotAnUpgrade::WebSocketVersion);
    }
    let key = only(headers, SEC_WEBSOCKET_KEY).ok_or(NotAnUpgrade::Key)?;
    if BASE64_STANDARD.decode(key).map_or(0, |nonce| nonce.len()) != 16 {
        return Err(NotAnUpgrade::Key);
    }
    let mut sha1 = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(key);
    sha1.update(GUID);
    // Base64 is visible ASCII, which every header value may be.
    Ok(HeaderValue::try_from(BASE64_STANDARD.encode(sha1.finish())).expect("base64 is visible ASCII"))
}

/// The answer 101 to a request that passed [`accept`], with the extension that was agreed on.
pub fn switching_protocols<B: Default>(accept: HeaderValue, extension: Option<HeaderValue>) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(extension) = extension {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, extension);
    }
    response
}

/// Whether a header, a list over commas and repetitions (RFC 9110 §5.6.1), holds a token in any case.
fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let mut items = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The value of a header that must stand exactly once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes().trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const VALID: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/app/key").body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        request
    }

    /// The valid request with one header replaced by others of the same name.
    fn with(name: &str, values: &[&str]) -> Request<()> {
        let others = VALID.into_iter().filter(|(other, _)| *other != name);
        request(&others.chain(values.iter().map(|value| (name, *value))).collect::<Vec<_>>())
    }

    #[test]
    fn the_worked_example_of_the_rfc() {
        let value = accept(&request(&VALID)).unwrap();
        assert_eq!(value, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let response: Response<String> = switching_protocols(value, None);
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[CONNECTION], "Upgrade");
        assert_eq!(response.headers()[UPGRADE], "websocket");
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn headers() {
        let check = |name: &str, values: &[&str], expected: Result<(), NotAnUpgrade>| {
            assert_eq!(accept(&with(name, values)).map(drop), expected, "{name}: {values:?}");
        };
        check("Upgrade", &["WebSocket"], Ok(()));
        check("Upgrade", &["h2c, websocket"], Ok(()));
        check("Upgrade", &["h2c", "websocket"], Ok(()));
        check("Upgrade", &[], Err(NotAnUpgrade::Upgrade));
        check("Upgrade", &["h2c"], Err(NotAnUpgrade::Upgrade));
        check("Upgrade", &["websocket2"], Err(NotAnUpgrade::Upgrade));

        check("Connection", &["upgrade"], Ok(()));
        check("Connection", &["keep-alive, Upgrade"], Ok(()));
        check("Connection", &["Upgrade,keep-alive"], Ok(()));
        check("Connection", &["keep-alive", "\tUPGRADE ,"], Ok(()));
        check("Connection", &[], Err(NotAnUpgrade::Connection));
        check("Connection", &["keep-alive"], Err(NotAnUpgrade::Connection));
        check("Connection", &["upgrade-insecure-requests"], Err(NotAnUpgrade::Connection));
        check("Connection", &["keep-alive Upgrade"], Err(NotAnUpgrade::Connection));

        check("Sec-WebSocket-Version", &[], Err(NotAnUpgrade::WebSocketVersion));
        check("Sec-WebSocket-Version", &["8"], Err(NotAnUpgrade::WebSocketVersion));
        check("Sec-WebSocket-Version", &["013"], Err(NotAnUpgrade::WebSocketVersion));
        check("Sec-WebSocket-Version", &["13, 8"], Err(NotAnUpgrade::WebSocketVersion));
        check("Sec-WebSocket-Version", &["13", "8"], Err(NotAnUpgrade::WebSocketVersion));

        check("Sec-WebSocket-Key", &["AAAAAAAAAAAAAAAAAAAAAA=="], Ok(()));
        check("Sec-WebSocket-Key", &[], Err(NotAnUpgrade::Key));
        check("Sec-WebSocket-Key", &[""], Err(NotAnUpgrade::Key));
        check("Sec-WebSocket-Key", &[KEY, KEY], Err(NotAnUpgrade::Key));
        check("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZQ"], Err(NotAnUpgrade::Key));
        check("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25j"], Err(NotAnUpgrade::Key));
        check("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZXMh"], Err(NotAnUpgrade::Key));
        check("Sec-WebSocket-Key", &["not base64, not at all!="], Err(NotAnUpgrade::Key));
    }

    #[test]
    fn only_get_over_http_1_1() {
        let mut post = request(&VALID);
        *post.method_mut() = Method::POST;
        assert_eq!(accept(&post), Err(NotAnUpgrade::Method));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let mut request = request(&VALID);
            *request.version_mut() = version;
            assert_eq!(accept(&request), Err(NotAnUpgrade::HttpVersion));
        }
    }
}
