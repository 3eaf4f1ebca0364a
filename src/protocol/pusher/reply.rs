//! Every word that the Pusher doors answer with: statuses, codes and texts stand here and nowhere else.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use crate::core::{CloseReason, Rejection};
use crate::credential::signature::{AuthError, RequestError, TIMESTAMP_SKEW_S_MAX};
use crate::protocol::json;
use crate::shard::door::Farewell;
use crate::shard::http::{self, Response};
use crate::shard::ws::handshake::NotAnUpgrade;

use super::command::short;

// ---------------------------------------------------------------------- WebSocket

/// `{"event":"pusher:error","data":{"code":…,"message":…}}`; without a code the connection goes on as if nothing had
/// been said.
pub(super) fn error(code: Option<u16>, message: &str) -> String {
    let code = code.map_or_else(|| "null".to_owned(), |code| code.to_string());
    format!("{{\"event\":\"pusher:error\",\"data\":{{\"code\":{code},\"message\":{}}}}}", json::string(message))
}

/// The first message on a connection.
pub(super) fn connection_established(socket: &str, activity_timeout_s: u64) -> String {
    let data = json::string(&format!("{{\"socket_id\":\"{socket}\",\"activity_timeout\":{activity_timeout_s}}}"));
    format!("{{\"event\":\"pusher:connection_established\",\"data\":{data}}}")
}

pub(super) const PONG: &str = "{\"event\":\"pusher:pong\",\"data\":{}}";

/// A subscription that did not come about: clients know by `channel` which.
pub(super) fn subscription_error(channel: &str, (kind, status): (&str, u16), message: &str) -> String {
    let (channel, message) = (json::string(channel), json::string(message));
    format!(
        "{{\"event\":\"pusher:subscription_error\",\"channel\":{channel},\
         \"data\":{{\"type\":\"{kind}\",\"error\":{message},\"status\":{status}}}}}"
    )
}

/// The type and status of a subscription that the credential does not allow.
pub(super) const AUTH_ERROR: (&str, u16) = ("AuthError", 401);
/// Those of a channel whose name is none.
pub(super) const NAME_ERROR: (&str, u16) = ("ChannelNameError", 400);
/// Those of a channel of a kind that the app does not offer.
pub(super) const KIND_ERROR: (&str, u16) = ("ChannelKindError", 403);

/// Those of a member that says more of itself than the app allows.
pub(super) const MEMBER_TOO_LARGE: (&str, u16) = ("MemberError", 413);

/// The table from the core's refusals of a subscription to type, status and words.
pub(super) fn subscription_refused(channel: &str, rejection: Rejection) -> String {
    let (kind, words) = match rejection {
        Rejection::NotPermitted | Rejection::NotSubscribed | Rejection::OtherUser => {
            (AUTH_ERROR, "this connection may not subscribe to this channel")
        }
        Rejection::ChannelNameReserved => (NAME_ERROR, "the channel name is empty or reserved"),
        Rejection::ChannelNameTooLong => (NAME_ERROR, "the channel name is too long"),
        Rejection::UserIdTooLong => (("MemberError", 400), "the user id is too long"),
        Rejection::MemberTooLarge => (MEMBER_TOO_LARGE, "the member's data is over the app's limit"),
        Rejection::ChannelFull => (("LimitReached", 4100), "the channel has as many members as the app allows"),
        Rejection::TooManySubscriptions => (("LimitReached", 4100), "too many subscriptions on this connection"),
        Rejection::TooManyPermissions
        | Rejection::NodeFull
        | Rejection::AppFull
        | Rejection::AddressFull
        | Rejection::NodeMemory
        | Rejection::AppMemory
        | Rejection::Overloaded
        | Rejection::RateLimited
        | Rejection::Draining => (("LimitReached", 4100), "the server cannot take this now, try again"),
    };
    subscription_error(channel, kind, words)
}

/// What is wrong with the `auth` of a subscription or sign-in; `signed` is what the signature is to be made of.
pub(super) fn auth_error(error: AuthError, asked: &str, signed: &str, auth: &str) -> String {
    match error {
        AuthError::Missing => format!("Auth info required to {asked}"),
        AuthError::Malformed => {
            format!("Invalid key in subscription auth data: '{}' (expected KEY:SIGNATURE in hex)", short(auth))
        }
        AuthError::UnknownKey => format!("Invalid key in subscription auth data: '{}'", short(auth)),
        AuthError::Signature => {
            let given = auth.rsplit_once(':').map_or(auth, |(_, signature)| signature);
            format!("Invalid signature: Expected HMAC SHA256 hex digest of {signed}, but got {}", short(given))
        }
    }
}

/// Why a connection is not opened: told on the socket, since clients look for it there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NotOpened {
    pub(super) code: u16,
    pub(super) message: String,
}

impl NotOpened {
    pub(super) fn unknown_app(key: &str) -> Self {
        let key = short(key);
        Self {
            code: 4001,
            message: format!("App key {key} not in this cluster. Did you forget to specify the cluster?"),
        }
    }

    pub(super) fn disabled_app() -> Self {
        Self { code: 4003, message: "The app is disabled".into() }
    }

    pub(super) fn no_key() -> Self {
        Self { code: 4005, message: "Path not found: connect to /app/KEY".into() }
    }

    pub(super) fn version_string(version: &str) -> Self {
        Self { code: 4006, message: format!("Invalid protocol version: {:?} is no number", short(version)) }
    }

    pub(super) fn unsupported_version(version: u64) -> Self {
        Self { code: 4007, message: format!("Unsupported protocol version {version}: this server speaks 5, 6 and 7") }
    }

    pub(super) fn origin() -> Self {
        Self { code: 4009, message: "Origin not allowed: the app's `origins` do not list it".into() }
    }

    /// The table from the core's refusals of a connection.
    pub(super) fn rejected(rejection: Rejection) -> Self {
        let (code, message) = match rejection {
            Rejection::AppFull => (4004, "The app is over its quota of connections"),
            Rejection::NodeFull | Rejection::NodeMemory => (4100, "The server is over capacity, try again"),
            // not the quota that keeps clients away: memory is there again when others have gone or read
            Rejection::AppMemory => (4100, "The app is over its quota of memory, try again"),
            Rejection::AddressFull => (4100, "Too many connections from this address, try again later"),
            Rejection::Draining => (4200, "The server is shutting down, reconnect"),
            Rejection::NotPermitted
            | Rejection::ChannelNameReserved
            | Rejection::ChannelNameTooLong
            | Rejection::TooManySubscriptions
            | Rejection::TooManyPermissions
            | Rejection::UserIdTooLong
            | Rejection::Overloaded
            | Rejection::NotSubscribed
            | Rejection::ChannelFull
            | Rejection::MemberTooLarge
            | Rejection::OtherUser
            | Rejection::RateLimited => (4100, "The server cannot take this connection now, try again"),
        };
        Self { code, message: message.into() }
    }

    pub(super) fn farewell(&self) -> Farewell {
        let end = self.message.floor_char_boundary(123);
        Farewell { code: self.code, reason: self.message[..end].to_owned().into() }
    }
}

/// What a client is told when its connection is taken down: the code tells it whether and when to come back.
pub(super) fn farewell(reason: CloseReason) -> Farewell {
    let (code, reason) = match reason {
        CloseReason::Client => (1000, ""),
        CloseReason::Violation => (1008, "the message is not one of this protocol"),
        CloseReason::SlowReader => (4100, "too slow to read what was sent"),
        CloseReason::NoPong => (4201, "Pong reply not received"),
        CloseReason::Unsubscribed => (4202, "closed after inactivity: no subscription for too long"),
        CloseReason::Unauthorized => (4009, "Connection not authorized within timeout"),
        CloseReason::Terminated => (4009, "connection terminated by the app"),
        CloseReason::AppDisabled => (4003, "The app is disabled"),
        CloseReason::AppRemoved => (4001, "The app does not exist any more"),
        CloseReason::Draining => (4200, "the server is shutting down, reconnect"),
        CloseReason::Internal => (4200, "internal error, reconnect"),
    };
    Farewell { code, reason: Cow::Borrowed(reason) }
}

/// The error that precedes some of these.
pub(super) fn last_words(reason: CloseReason) -> Option<String> {
    let is_told = matches!(reason, CloseReason::Unauthorized | CloseReason::AppDisabled | CloseReason::AppRemoved);
    let Farewell { code, reason } = farewell(reason);
    is_told.then(|| error(Some(code), &reason))
}

// ---------------------------------------------------------------------- HTTP

/// 200 with JSON.
pub(super) fn json(body: impl Into<Bytes>) -> Response {
    http::response(StatusCode::OK, "application/json", body)
}

/// A sentence that says what is wrong.
pub(super) fn refuse(status: StatusCode, words: impl Into<String>) -> Response {
    let mut words: String = words.into();
    words.push('\n');
    let mut response = http::text(status, words);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// 400.
pub(super) fn bad_request(words: impl Into<String>) -> Response {
    refuse(StatusCode::BAD_REQUEST, words)
}

pub(super) fn missing(parameter: &str) -> Response {
    bad_request(format!("Missing required parameter: {parameter}"))
}

pub(super) fn unknown_app(id: &str) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("Unknown app: {}", short(id)))
}

pub(super) fn data_too_large(bytes_max: usize) -> Response {
    refuse(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!(
            "The data content of this event exceeds the allowed maximum ({bytes_max} bytes). \
             See https://pusher.com/docs/channels/server_api/http-api#publishing-events for more info"
        ),
    )
}

pub(super) fn method_not_allowed(allow: &str) -> Response {
    http::allow(refuse(StatusCode::METHOD_NOT_ALLOWED, format!("Method not allowed, use {allow}")), allow)
}

/// A plain request for the address of sockets.
pub(super) fn not_an_upgrade(reason: NotAnUpgrade) -> Response {
    let mut response = refuse(StatusCode::UPGRADE_REQUIRED, format!("This is the address of WebSockets. {reason}"));
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// Why a request's signature does not count. `unix_s`: the time here.
pub(super) fn unauthorized(error: &RequestError, unix_s: u64) -> Response {
    let words = match error {
        RequestError::MissingParameter(name) => format!("Missing required query parameter: {name}"),
        RequestError::UnknownKey => "Unknown auth_key".to_owned(),
        RequestError::Version => "Invalid auth_version: must be 1.0".to_owned(),
        RequestError::BadTimestamp => "Invalid auth_timestamp: must be seconds since 1970".to_owned(),
        RequestError::Expired { given } => format!(
            "Timestamp expired: Given timestamp ({}) not within {TIMESTAMP_SKEW_S_MAX}s of server time ({})",
            utc(*given),
            utc(unix_s)
        ),
        RequestError::Signature { string_to_sign, given } => format!(
            "Invalid signature: you should have sent HmacSHA256Hex({}, your_secret_key), but you sent {:?}",
            json::string(string_to_sign),
            short(given)
        ),
        RequestError::BodyMd5 => "Invalid body_md5: it is not the MD5 of the body that was sent".to_owned(),
    };
    refuse(StatusCode::UNAUTHORIZED, words)
}

/// Seconds since 1970 as ISO 8601 writes them, in UTC.
fn utc(unix_s: u64) -> String {
    // days since 0000-03-01, for a year that begins in March has its odd day at its end
    let days = unix_s / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (unix_s / 3600 % 24, unix_s / 60 % 60, unix_s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The table from the core's refusals to statuses and words.
pub(super) fn rejected(rejection: Rejection) -> Response {
    let (status, words) = match rejection {
        Rejection::NotPermitted | Rejection::NotSubscribed | Rejection::OtherUser => {
            (StatusCode::FORBIDDEN, "Not permitted")
        }
        Rejection::ChannelNameReserved => (StatusCode::BAD_REQUEST, "The channel name is empty or reserved"),
        Rejection::ChannelNameTooLong => (StatusCode::BAD_REQUEST, "The channel name is too long"),
        Rejection::UserIdTooLong => (StatusCode::BAD_REQUEST, "The user id is too long"),
        Rejection::MemberTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The member's data is too large"),
        Rejection::ChannelFull | Rejection::TooManySubscriptions | Rejection::TooManyPermissions => {
            (StatusCode::FORBIDDEN, "A limit is reached")
        }
        Rejection::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many requests for this app, try again"),
        Rejection::AddressFull => (StatusCode::TOO_MANY_REQUESTS, "Too many connections from this address"),
        Rejection::NodeFull
        | Rejection::AppFull
        | Rejection::NodeMemory
        | Rejection::AppMemory
        | Rejection::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "The server is overloaded, try again"),
        Rejection::Draining => (StatusCode::SERVICE_UNAVAILABLE, "The server is shutting down, try again"),
    };
    refuse(status, words)
}

/// Lets a page of any site call: what protects the API is the signature, which no page has by itself.
pub(super) fn for_any_origin(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// The answer to a browser that asks whether it may call.
pub(super) fn preflight() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let allowed = HeaderValue::from_static("Content-Type, Idempotency-Key, X-Requested-With");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_rejections() {
        let row = |rejection: Rejection| {
            let (http, opening) = (rejected(rejection).status().as_u16(), NotOpened::rejected(rejection).code);
            let refused: serde_json::Value = serde_json::from_str(&subscription_refused("c", rejection)).unwrap();
            format!("{} {http} {opening} {} {}", rejection.label(), refused["data"]["type"], refused["data"]["status"])
        };
        let table: Vec<String> = Rejection::ALL.into_iter().map(row).collect();
        assert_eq!(
            table,
            [
                "not_permitted 403 4100 \"AuthError\" 401",
                "channel_name_reserved 400 4100 \"ChannelNameError\" 400",
                "channel_name_too_long 400 4100 \"ChannelNameError\" 400",
                "too_many_subscriptions 403 4100 \"LimitReached\" 4100",
                "too_many_permissions 403 4100 \"LimitReached\" 4100",
                "user_id_too_long 400 4100 \"MemberError\" 400",
                "node_full 503 4100 \"LimitReached\" 4100",
                "app_full 503 4004 \"LimitReached\" 4100",
                "address_full 429 4100 \"LimitReached\" 4100",
                "node_memory 503 4100 \"LimitReached\" 4100",
                "app_memory 503 4100 \"LimitReached\" 4100",
                "overloaded 503 4100 \"LimitReached\" 4100",
                "not_subscribed 403 4100 \"AuthError\" 401",
                "channel_full 403 4100 \"LimitReached\" 4100",
                "member_too_large 413 4100 \"MemberError\" 413",
                "other_user 403 4100 \"AuthError\" 401",
                "rate_limited 429 4100 \"LimitReached\" 4100",
                "draining 503 4200 \"LimitReached\" 4100",
            ]
        );
    }

    #[test]
    fn close_codes() {
        let row = |reason: CloseReason| {
            let farewell = farewell(reason);
            assert!(farewell.reason.len() <= 123);
            format!("{} {}", reason.label(), farewell.code)
        };
        let table: Vec<String> = CloseReason::ALL.into_iter().map(row).collect();
        assert_eq!(
            table,
            [
                "client 1000",
                "violation 1008",
                "slow_reader 4100",
                "no_pong 4201",
                "unsubscribed 4202",
                "unauthorized 4009",
                "terminated 4009",
                "app_disabled 4003",
                "app_removed 4001",
                "draining 4200",
                "internal 4200",
            ]
        );
    }

    #[test]
    fn times() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_380_443_806, "2013-09-29T08:36:46Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(unix_s), expected);
        }
    }
}
