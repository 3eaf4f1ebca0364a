//! What an app's secret signs under the Pusher protocol, version 7: subscriptions, sign-ins, REST requests, webhooks.
//! Every signature is the HMAC-SHA256 of a text, in hex.

use super::{Verified, constant_time_eq, hex, unhex};
use aws_lc_rs::hmac;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use smallvec::SmallVec;
use std::borrow::Cow;

/// How far a request's `auth_timestamp` may be from the time here, either way, in seconds (HTTP API, "Authentication").
pub const TIMESTAMP_SKEW_S_MAX: u64 = 600;

/// Parameters of the signature, which every request may have.
pub const AUTH_PARAMETERS: [&str; 5] = ["auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"];

const SIGNATURE_BYTES: usize = 32;
/// What needs no escape in a query (RFC 3986 section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An app's public key with its secrets. Several secrets count at the same time, so that one can be replaced without a
/// gap: the first signs, all are accepted. Without any, nothing verifies, and what is signed is an empty text, which
/// nobody takes for a signature.
#[derive(Clone)]
pub struct AppSecrets {
    key: Box<str>,
    secrets: Vec<hmac::Key>,
}

impl std::fmt::Debug for AppSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AppSecrets({})", self.secrets.len())
    }
}

/// Proof that an app's backend lets a connection into a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelAuth {
    /// The channel's name.
    pub channel: String,
    /// Who the connection is there: JSON as it was signed, not yet looked into. `None` in the form for private channels.
    pub channel_data: Option<String>,
}

/// Proof of who a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAuth {
    /// The user: JSON as it was signed, not yet looked into.
    pub user_data: String,
}

/// Proof that a request comes from an app's backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestAuth;

/// What of a request its signature covers.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// As on the request line.
    pub method: &'a str,
    /// As on the request line, not decoded, without the query.
    pub path: &'a str,
    /// As on the request line, not decoded, without the `?`.
    pub query: &'a str,
    /// The body's bytes, all of them.
    pub body: &'a [u8],
}

/// Why an `auth` of a connection proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is empty.
    #[error("no auth is given")]
    Missing,
    /// It is not `KEY:` and 64 hex digits.
    #[error("the auth is not a key, a colon and 64 hex digits")]
    Malformed,
    /// It is for another app.
    #[error("the auth has another app's key")]
    UnknownKey,
    /// None of the app's secrets made it, or for something else.
    #[error("the signature is wrong")]
    Signature,
}

/// Why a request proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The query lacks the parameter, named.
    #[error("the query has no `{0}`")]
    MissingParameter(&'static str),
    /// `auth_key` is not the app's.
    #[error("`auth_key` is not the key of this app")]
    UnknownKey,
    /// `auth_version` is not `1.0`.
    #[error("`auth_version` is not 1.0")]
    Version,
    /// `auth_timestamp` is not a number of seconds.
    #[error("`auth_timestamp` is not in Unix seconds")]
    BadTimestamp,
    /// `auth_timestamp` is more than [`TIMESTAMP_SKEW_S_MAX`] from now.
    #[error("`auth_timestamp` is too far from the time here")]
    Expired {
        /// What it says, in Unix seconds.
        given: u64,
    },
    /// None of the app's secrets made `auth_signature`, or for something else.
    #[error("`auth_signature` is wrong")]
    Signature {
        /// What should have been signed; no secret is in it.
        string_to_sign: String,
        /// The signature as it came, decoded.
        given: String,
    },
    /// The signature is right, but `body_md5` is not the MD5 of the body in hex.
    #[error("`body_md5` is not that of the body")]
    BodyMd5,
}

/// The body that a signed request is to have.
#[derive(Debug)]
pub struct PromisedBody {
    md5: Option<[u8; 16]>,
    /// The query has other parameters than [`AUTH_PARAMETERS`].
    pub has_more_parameters: bool,
}

impl PromisedBody {
    /// Checks the body that came.
    pub fn check_body(self, body: &[u8]) -> Result<Verified<RequestAuth>, RequestError> {
        match self.md5 {
            Some(md5) if md5 != <[u8; 16]>::from(Md5::digest(body)) => Err(RequestError::BodyMd5),
            None if !body.is_empty() => Err(RequestError::MissingParameter("body_md5")),
            _ => Ok(Verified(RequestAuth)),
        }
    }
}

impl AppSecrets {
    /// The secrets of the app with this key. Empty ones are left out: everybody could sign with them.
    pub fn new<'a>(key: &str, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
        let secrets = secrets.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())).collect();
        Self { key: key.into(), secrets }
    }

    /// Checks the `auth` of a subscription: `KEY:` and the signature, in hex of either case, of
    /// `socket_id:channel`, or with `channel_data` of `socket_id:channel:channel_data`, byte for byte as it came
    /// (Channels docs, "Generating the authentication string"). So a private channel must get `None` there.
    pub fn check_channel(
        &self,
        socket_id: &str,
        channel: &str,
        channel_data: Option<&str>,
        auth: &str,
    ) -> Result<Verified<ChannelAuth>, AuthError> {
        self.check_auth(&channel_parts(socket_id, channel, channel_data), auth)?;
        let (channel, channel_data) = (channel.to_owned(), channel_data.map(str::to_owned));
        Ok(Verified(ChannelAuth { channel, channel_data }))
    }

    /// Checks the `auth` of a sign-in: as that of a subscription, over `socket_id::user::user_data`.
    pub fn check_user(&self, socket_id: &str, user_data: &str, auth: &str) -> Result<Verified<UserAuth>, AuthError> {
        self.check_auth(&user_parts(socket_id, user_data), auth)?;
        Ok(Verified(UserAuth { user_data: user_data.to_owned() }))
    }

    /// Checks a REST request, `unix_s` being the time now in seconds (HTTP API, "Authentication"). Signed is
    /// `METHOD\npath\nname=value&…`: all parameters of the query but `auth_signature`, percent-decoded with `+` as
    /// space, names in lower case, sorted by name.
    ///
    /// Values of one name stay in the order of the query, each with its name, brackets and all
    /// (`channels[]=a&channels[]=b`); of a name that this check itself asks for, the first counts.
    ///
    /// A body needs `body_md5`. A request without one may have it, as the MD5 of nothing.
    pub fn check_request(
        &self,
        request: &SignedRequest<'_>,
        unix_s: u64,
    ) -> Result<Verified<RequestAuth>, RequestError> {
        self.check_head(request.method, request.path, request.query, unix_s)?.check_body(request.body)
    }

    /// Checks what of a REST request is known before its body has come, so that who has no secret makes nobody read one.
    /// See [`Self::check_request`].
    pub fn check_head(&self, method: &str, path: &str, query: &str, unix_s: u64) -> Result<PromisedBody, RequestError> {
        let parameters = parameters(query);
        let find = |name: &str| parameters.iter().find(|found| *found.name == *name.as_bytes()).map(|it| &*it.value);
        let needed = |name| find(name).ok_or(RequestError::MissingParameter(name));
        if needed("auth_key")? != self.key.as_bytes() {
            return Err(RequestError::UnknownKey);
        }
        if needed("auth_version")? != b"1.0" {
            return Err(RequestError::Version);
        }
        let timestamp = str::from_utf8(needed("auth_timestamp")?).ok().and_then(|text| text.parse::<u64>().ok());
        let given = timestamp.ok_or(RequestError::BadTimestamp)?;
        if given.abs_diff(unix_s) > TIMESTAMP_SKEW_S_MAX {
            return Err(RequestError::Expired { given });
        }
        let signature = needed("auth_signature")?;
        let md5 = find("body_md5").map(|given| unhex(given).ok_or(RequestError::BodyMd5)).transpose();

        let string_to_sign = string_to_sign(method, path, &parameters);
        if !unhex(signature).is_some_and(|signature| self.have_signed(&[&string_to_sign], &signature)) {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            return Err(RequestError::Signature { string_to_sign: text(&string_to_sign), given: text(signature) });
        }
        let is_more = |it: &Parameter<'_>| !AUTH_PARAMETERS.iter().any(|known| known.as_bytes() == &*it.name);
        Ok(PromisedBody { md5: md5?, has_more_parameters: parameters.iter().any(is_more) })
    }

    /// The `auth` of a subscription, `KEY:hex`; see [`Self::check_channel`].
    pub fn sign_channel(&self, socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
        self.auth(&channel_parts(socket_id, channel, channel_data))
    }

    /// The `auth` of a sign-in, `KEY:hex`; see [`Self::check_user`].
    pub fn sign_user(&self, socket_id: &str, user_data: &str) -> String {
        self.auth(&user_parts(socket_id, user_data))
    }

    /// The whole query of a REST request at this time, without the `?`: `params` escaped, and what
    /// [`Self::check_request`] asks for, names that `params` must not have.
    pub fn sign_request(&self, method: &str, path: &str, params: &[(&str, &str)], body: &[u8], unix_s: u64) -> String {
        let (timestamp, body_md5) = (unix_s.to_string(), hex(&Md5::digest(body)));
        let mut all = vec![("auth_key", &*self.key), ("auth_timestamp", &*timestamp), ("auth_version", "1.0")];
        if !body.is_empty() {
            all.push(("body_md5", &*body_md5));
        }
        all.extend(params);
        let escape = |text| utf8_percent_encode(text, ESCAPED);
        let all: Vec<_> = all.into_iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        let query = all.join("&");
        let signature = self.sign(&[&string_to_sign(method, path, &parameters(&query))]);
        query + "&auth_signature=" + &signature
    }

    /// What `X-Pusher-Signature` says of a webhook with this body: 64 hex digits.
    pub fn sign_webhook(&self, body: &[u8]) -> String {
        self.sign(&[body])
    }

    /// The first secret's signature of the parts as one text: 64 hex digits, lower case.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> String {
        self.secrets.first().map(|secret| hex(mac(secret, parts).as_ref())).unwrap_or_default()
    }

    fn auth(&self, parts: &[&[u8]]) -> String {
        format!("{}:{}", self.key, self.sign(parts))
    }

    fn check_auth(&self, parts: &[&[u8]], auth: &str) -> Result<(), AuthError> {
        if auth.is_empty() {
            return Err(AuthError::Missing);
        }
        let (key, signature) = auth.rsplit_once(':').ok_or(AuthError::Malformed)?;
        let signature = unhex(signature.as_bytes()).ok_or(AuthError::Malformed)?;
        if key != &*self.key {
            return Err(AuthError::UnknownKey);
        }
        if self.have_signed(parts, &signature) { Ok(()) } else { Err(AuthError::Signature) }
    }

    fn have_signed(&self, parts: &[&[u8]], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.secrets.iter().any(|secret| constant_time_eq(mac(secret, parts).as_ref(), signature))
    }
}

/// The app that a REST request claims to come from: the first `auth_key` of a query, decoded. Nothing is verified: good
/// only for choosing whose secrets to try.
pub fn auth_key(query: &str) -> Option<Cow<'_, str>> {
    match parameters(query).into_iter().find(|it| *it.name == *b"auth_key")?.value {
        Cow::Borrowed(key) => str::from_utf8(key).ok().map(Cow::Borrowed),
        Cow::Owned(key) => String::from_utf8(key).ok().map(Cow::Owned),
    }
}

fn mac(secret: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut mac = hmac::Context::with_key(secret);
    parts.iter().for_each(|part| mac.update(part));
    mac.sign()
}

fn channel_parts<'a>(socket_id: &'a str, channel: &'a str, channel_data: Option<&'a str>) -> [&'a [u8]; 5] {
    let (colon, data) = channel_data.map_or(("", ""), |data| (":", data));
    [socket_id, ":", channel, colon, data].map(str::as_bytes)
}

fn user_parts<'a>(socket_id: &'a str, user_data: &'a str) -> [&'a [u8]; 3] {
    [socket_id, "::user::", user_data].map(str::as_bytes)
}

/// A parameter of a query, decoded; usually it borrows from the query.
struct Parameter<'a> {
    /// In lower case.
    name: Cow<'a, [u8]>,
    value: Cow<'a, [u8]>,
}

/// Sorted by name; those of one name stay in their order.
fn parameters(query: &str) -> SmallVec<[Parameter<'_>; 8]> {
    let pieces = query.as_bytes().split(|byte| *byte == b'&').filter(|piece| !piece.is_empty());
    let mut parameters: SmallVec<[Parameter<'_>; 8]> = pieces
        .map(|piece| {
            let end = piece.iter().position(|byte| *byte == b'=').unwrap_or(piece.len());
            let mut name = decoded(&piece[..end]);
            if name.iter().any(u8::is_ascii_uppercase) {
                name.to_mut().make_ascii_lowercase();
            }
            Parameter { name, value: decoded(piece.get(end + 1..).unwrap_or_default()) }
        })
        .collect();
    parameters.sort_by(|one, other| one.name.cmp(&other.name));
    parameters
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    // nearly always
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    // first, as an escaped `+` is none of them
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

fn string_to_sign(method: &str, path: &str, parameters: &[Parameter<'_>]) -> Vec<u8> {
    let lengths = parameters.iter().map(|it| it.name.len() + it.value.len() + 2);
    let mut text = Vec::with_capacity(method.len() + path.len() + 2 + lengths.sum::<usize>());
    for part in [method, "\n", path] {
        text.extend_from_slice(part.as_bytes());
    }
    let mut separator = b'\n';
    for Parameter { name, value } in parameters.iter().filter(|it| *it.name != *b"auth_signature") {
        text.push(separator);
        text.extend_from_slice(name);
        text.push(b'=');
        text.extend_from_slice(value);
        separator = b'&';
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "278d425bdf160c739803";
    const SECRET: &str = "7ad3773142a6692b25b8";
    const SOCKET: &str = "1234.1234";
    const PRIVATE: &str = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
    const CHANNEL_DATA: &str = r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#;
    const PRESENCE: &str = "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80";
    const USER: &str = "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba";
    const NOW: u64 = 1_353_088_179;
    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&\
        body_md5=ec365a775a4cd0599faeb73354201b6f&\
        auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";

    fn app() -> AppSecrets {
        AppSecrets::new(KEY, [SECRET])
    }

    fn request<'a>(query: &'a str, body: &'a [u8]) -> SignedRequest<'a> {
        SignedRequest { method: "POST", path: "/apps/3/events", query, body }
    }

    /// Signs a query as a client does that knows nothing of the code above.
    fn signed_query(query: &str, string_to_sign: &str) -> String {
        format!("{query}&auth_signature={}", app().sign(&[string_to_sign.as_bytes()]))
    }

    #[test]
    fn signatures_of_the_docs() {
        let auth = |signature: &str| format!("{KEY}:{signature}");
        assert_eq!(app().sign_channel(SOCKET, "private-foobar", None), auth(PRIVATE));
        assert_eq!(app().sign_channel(SOCKET, "presence-foobar", Some(CHANNEL_DATA)), auth(PRESENCE));
        assert_eq!(app().sign_user(SOCKET, r#"{"id":"12345"}"#), auth(USER));
        assert_eq!(app().sign_request("POST", "/apps/3/events", &[], BODY, NOW), QUERY);

        let private = app().check_channel(SOCKET, "private-foobar", None, &auth(PRIVATE)).unwrap();
        assert_eq!(*private.get(), ChannelAuth { channel: "private-foobar".into(), channel_data: None });
        let presence = app().check_channel(SOCKET, "presence-foobar", Some(CHANNEL_DATA), &auth(PRESENCE)).unwrap();
        assert_eq!(presence.get().channel_data.as_deref(), Some(CHANNEL_DATA));
        let user = app().check_user(SOCKET, r#"{"id":"12345"}"#, &auth(USER)).unwrap();
        assert_eq!(user.get().user_data, r#"{"id":"12345"}"#);
        app().check_request(&request(QUERY, BODY), NOW).unwrap();
    }

    #[test]
    fn channels_that_are_not_let_in() {
        let check = |auth: &str, error| {
            assert_eq!(app().check_channel(SOCKET, "private-foobar", None, auth).unwrap_err(), error, "{auth}");
            assert_eq!(app().check_user(SOCKET, "{}", auth).unwrap_err(), error, "{auth}");
        };
        let other = app().sign_channel(SOCKET, "private-other", None);
        check("", AuthError::Missing);
        for auth in ["x", ":", KEY, PRIVATE, &format!("{KEY}:"), &format!("{KEY}:{}", &PRIVATE[1..])] {
            check(auth, AuthError::Malformed);
        }
        check(&format!("{KEY}:{PRIVATE} "), AuthError::Malformed);
        check(&format!("{KEY}:{PRIVATE}00"), AuthError::Malformed);
        check(&format!("{KEY}:+{}", &PRIVATE[1..]), AuthError::Malformed);
        check(&format!(":{PRIVATE}"), AuthError::UnknownKey);
        check(&format!("{KEY}x:{PRIVATE}"), AuthError::UnknownKey);
        check(&format!("{KEY}:{KEY}:{PRIVATE}"), AuthError::UnknownKey);
        check(&other, AuthError::Signature);

        let auth = format!("{KEY}:{}", PRIVATE.to_uppercase());
        app().check_channel(SOCKET, "private-foobar", None, &auth).unwrap();
        for (socket, channel, data) in [
            ("1234.1235", "private-foobar", None),
            (SOCKET, "private-foobaR", None),
            (SOCKET, "private-foobar", Some("")),
            (SOCKET, "private-foobar", Some("{}")),
        ] {
            assert_eq!(app().check_channel(socket, channel, data, &auth).unwrap_err(), AuthError::Signature);
        }
    }

    #[test]
    fn secrets() {
        let both = AppSecrets::new(KEY, ["new", SECRET]);
        let auth = format!("{KEY}:{PRIVATE}");
        both.check_channel(SOCKET, "private-foobar", None, &auth).unwrap();
        both.check_request(&request(QUERY, BODY), NOW).unwrap();
        let auth = both.sign_channel(SOCKET, "private-foobar", None);
        AppSecrets::new(KEY, ["new"]).check_channel(SOCKET, "private-foobar", None, &auth).unwrap();
        assert_eq!(both.sign_webhook(b"{}"), AppSecrets::new("", ["new"]).sign_webhook(b"{}"));
        assert_eq!(
            app().check_channel(SOCKET, "private-foobar", None, &auth).unwrap_err(),
            AuthError::Signature,
            "a secret that is no more"
        );

        for none in [AppSecrets::new(KEY, []), AppSecrets::new(KEY, [""])] {
            let by_nobody = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b""), b"1.2:private-x");
            let auth = format!("{KEY}:{}", hex(by_nobody.as_ref()));
            assert_eq!(none.check_channel("1.2", "private-x", None, &auth).unwrap_err(), AuthError::Signature);
            assert_eq!(none.sign_channel("1.2", "private-x", None), format!("{KEY}:"));
            assert_eq!(none.sign_webhook(b"{}"), "");
            let query = none.sign_request("POST", "/apps/3/events", &[], BODY, NOW);
            assert!(none.check_request(&request(&query, BODY), NOW).is_err());
        }
        assert_eq!(format!("{both:?}"), "AppSecrets(2)");
    }

    #[test]
    fn what_a_request_must_have() {
        let check = |query: &str, body: &[u8], error| {
            assert_eq!(app().check_request(&request(query, body), NOW).unwrap_err(), error, "{query}");
        };
        for name in ["auth_key", "auth_version", "auth_timestamp", "auth_signature"] {
            check(&QUERY.replace(name, "x"), BODY, RequestError::MissingParameter(name));
        }
        check("", b"", RequestError::MissingParameter("auth_key"));
        let without = app().sign_request("POST", "/apps/3/events", &[], b"", NOW);
        check(&without, BODY, RequestError::MissingParameter("body_md5"));
        check(&QUERY.replace(KEY, "x"), BODY, RequestError::UnknownKey);
        check(&QUERY.replace("1.0", "1.1"), BODY, RequestError::Version);
        for timestamp in ["", "x", "-1", "1353088179.5", "1e9", "99999999999999999999", "%FF"] {
            check(&QUERY.replace("1353088179", timestamp), BODY, RequestError::BadTimestamp);
        }
        check(QUERY, b"{}", RequestError::BodyMd5);
        check(QUERY, b"", RequestError::BodyMd5);
        let string_to_sign = "POST\n/apps/3/events\nauth_key=278d425bdf160c739803&auth_timestamp=1353088179&\
            auth_version=1.0&body_md5=x é"
            .to_owned();
        let query = QUERY.replace("ec365a775a4cd0599faeb73354201b6f", "x+%c3%A9");
        let given = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c".to_owned();
        check(&query, BODY, RequestError::Signature { string_to_sign, given });

        for (now, is_fresh) in [(NOW - 601, false), (NOW - 600, true), (NOW + 600, true), (NOW + 601, false)] {
            let expected = if is_fresh { Ok(Verified(RequestAuth)) } else { Err(RequestError::Expired { given: NOW }) };
            assert_eq!(app().check_request(&request(QUERY, BODY), now), expected);
        }
        for now in [0, u64::MAX] {
            assert_eq!(app().check_request(&request(QUERY, BODY), now), Err(RequestError::Expired { given: NOW }));
        }
    }

    #[test]
    fn queries_as_clients_write_them() {
        let check = |query: &str, parameters: &str| {
            let auth = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";
            let query = signed_query(&query.replace("AUTH", auth), &parameters.replace("AUTH", auth));
            let request = SignedRequest { method: "GET", path: "/apps/3/channels", query: &query, body: b"" };
            app().check_request(&request, NOW).unwrap();
        };
        let get = |parameters: &str| format!("GET\n/apps/3/channels\n{parameters}");
        check("AUTH", &get("AUTH"));
        check("AUTH&info=user_count,subscription_count", &get("AUTH&info=user_count,subscription_count"));
        check("info=user_count%2Csubscription_count&AUTH", &get("AUTH&info=user_count,subscription_count"));
        check("filter_by_prefix=presence-%3d%C3%BC&AUTH", &get("AUTH&filter_by_prefix=presence-=ü"));
        check("AUTH&Info=A+b%20c%2Bd=e", &get("AUTH&info=A b c+d=e"));
        check("&x&AUTH&&y=", &get("AUTH&x=&y="));
        check("AUTH&z%5B%5D=b&z[]=a&a=1&z%5b%5d=c", &get("a=1&AUTH&z[]=b&z[]=a&z[]=c"));
        // a body_md5 where there is no body, as some clients send it
        check("AUTH&body_md5=d41d8cd98f00b204e9800998ecf8427e", &get("AUTH&body_md5=d41d8cd98f00b204e9800998ecf8427e"));
        check("AUTH&body_md5=D41D8CD98F00B204E9800998ECF8427E", &get("AUTH&body_md5=D41D8CD98F00B204E9800998ECF8427E"));
        // the first of several counts, and all are signed
        check("AUTH&auth_version=2", &get("AUTH&auth_version=2"));
    }

    #[test]
    fn finds_the_app() {
        let check = |query: &str, key: Option<&str>| assert_eq!(auth_key(query).as_deref(), key, "{query}");
        check(QUERY, Some(KEY));
        check("a=b&AUTH_KEY=k%31+&auth_key=k2", Some("k1 "));
        check("auth_key", Some(""));
        check("auth_key=%FF", None);
        check("a=auth_key", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn changed_requests_are_refused(
            part in 0usize..4,
            at in 0usize..10_000,
            byte in 0x21u8..0x7f,
            cut in any::<bool>(),
            info in "[a-zA-Z0-9,+%&= ü]{0,12}",
        ) {
            let query = app().sign_request("POST", "/apps/3/events", &[("info", &info), ("x[]", "y")], BODY, NOW);
            let original = ["POST".as_bytes(), b"/apps/3/events", query.as_bytes(), BODY];
            let mut changed = original.map(<[u8]>::to_vec);
            let at = at % changed[part].len();
            if cut { changed[part].truncate(at) } else { changed[part][at] = byte }
            let [method, path, new_query] = [0, 1, 2].map(|part| str::from_utf8(&changed[part]).unwrap());
            // another way to write the same is the same
            let signs = |query| string_to_sign("", "", &parameters(query));
            let signature = |query: &str| query.rsplit_once('=').map(|(_, it)| it.to_lowercase());
            let is_same = signs(new_query) == signs(&query) && signature(new_query) == signature(&query);
            prop_assume!(part == 2 && !is_same || part != 2 && changed[part] != original[part]);
            let changed = SignedRequest { method, path, query: new_query, body: &changed[3] };
            prop_assert!(app().check_request(&changed, NOW).is_err(), "{changed:?}");
        }

        #[test]
        fn what_is_signed_is_accepted(
            method in "[A-Z]{1,7}", path in "/[!-~]{0,30}", name in "[a-z\\[\\]ü ]{1,8}", value in ".{0,20}",
            body in proptest::collection::vec(any::<u8>(), 0..20), key in ".{0,10}",
        ) {
            let app = AppSecrets::new(&key, [SECRET]);
            let query = app.sign_request(&method, &path, &[(&name, &value), (&name, "2")], &body, NOW);
            let found = auth_key(&query);
            prop_assert_eq!(found.as_deref(), Some(&*key));
            let request = SignedRequest { method: &method, path: &path, query: &query, body: &body };
            prop_assert_eq!(app.check_request(&request, NOW), Ok(Verified(RequestAuth)));
            let auth = app.sign_channel(SOCKET, &value, Some(&name));
            app.check_channel(SOCKET, &value, Some(&name), &auth).unwrap();
        }

        #[test]
        fn changed_auths_are_refused(at in 0usize..10_000, byte in 0x20u8..0x7f, cut in any::<bool>()) {
            let original = app().sign_channel(SOCKET, "presence-x", Some("{}"));
            let mut auth = original.clone().into_bytes();
            let at = at % auth.len();
            if cut { auth.truncate(at) } else { auth[at] = byte }
            let auth = String::from_utf8(auth).unwrap();
            prop_assume!(auth.to_lowercase() != original);
            let channel = app().check_channel(SOCKET, "presence-x", Some("{}"), &auth);
            let user = app().check_user(SOCKET, "{}", &auth);
            prop_assert!(channel.is_err() && user.is_err());
        }
    }
}
