//! Every word that Push1ST answers with: statuses, codes and texts stand here and nowhere else.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use crate::core::{CloseReason, Rejection};
use crate::credential::access::AccessError;
use crate::credential::signature::RequestError;
use crate::protocol::json;
use crate::shard::door::Farewell;
use crate::shard::http::{self, BodyError, Response};
use crate::shard::ws::handshake::NotAnUpgrade;
use crate::shard::ws::session::Refusal;

use super::message::Fault;
use super::session::Denied;

// ---------------------------------------------------------------------- HTTP

/// Of every answer, also of the tokens, which are bare text.
const JSON: &str = "application/json; charset=utf-8";

/// 200 with JSON, or with a token.
pub(super) fn ok(body: impl Into<Bytes>) -> Response {
    http::response(StatusCode::OK, JSON, body)
}

/// `{"error":…}`.
fn error(status: StatusCode, words: &str) -> Response {
    http::response(status, JSON, format!("{{\"error\":{}}}", json::string(words)))
}

/// The API has no such call.
pub(super) fn no_such_call() -> Response {
    error(StatusCode::NOT_FOUND, "no such call: there are token/session, token/access, events, channels, channels/NAME")
}

/// Nobody is subscribed to the channel.
pub(super) fn no_such_channel() -> Response {
    error(StatusCode::NOT_FOUND, "the channel has no subscriber")
}

/// The path names no app: by its id under the API, by its key under a socket.
pub(super) fn unknown_app(by: &str) -> Response {
    error(StatusCode::FORBIDDEN, &format!("there is no app of this {by}"))
}

/// The app may not be used.
pub(super) fn app_disabled() -> Response {
    error(StatusCode::FORBIDDEN, "the app is disabled")
}

/// Without a secret there are no tokens.
pub(super) fn app_without_secret() -> Response {
    error(StatusCode::FORBIDDEN, "the app has no secret to make tokens with")
}

/// 400, as for everything that a backend does wrong.
pub(super) fn wrong_method(allow: &str) -> Response {
    http::allow(error(StatusCode::BAD_REQUEST, &format!("this call is made with {allow}")), allow)
}

/// The request needs a signature and has none.
pub(super) fn unsigned() -> Response {
    let words = "this listener takes signed requests only: auth_key, auth_timestamp, auth_version, auth_signature and, \
                 with a body, body_md5 in the query";
    error(StatusCode::UNAUTHORIZED, words)
}

/// The signature proves nothing.
pub(super) fn wrong_signature(wrong: &RequestError) -> Response {
    let words = match wrong {
        RequestError::Signature { string_to_sign, .. } => format!(
            "{wrong}: it is the HMAC-SHA256, by the app's secret and in hex, of {}",
            json::string(string_to_sign)
        ),
        _ => wrong.to_string(),
    };
    error(StatusCode::UNAUTHORIZED, &words)
}

/// The body was not read; the connection ends with the answer.
pub(super) fn wrong_body(wrong: BodyError) -> Response {
    let (status, words) = match wrong {
        BodyError::TooLarge(bytes_max, limit) => {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over {bytes_max} bytes (limits.{limit})"))
        }
        BodyError::Late => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()),
        BodyError::Broken => (StatusCode::BAD_REQUEST, "the body could not be read".to_owned()),
    };
    let mut response = error(status, &words);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// 400: the body does not say what the call needs.
pub(super) fn wrong_request(fault: Fault) -> Response {
    error(StatusCode::BAD_REQUEST, &words(fault))
}

/// Why a handshake was not completed.
pub(super) fn refusal(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::NotAnUpgrade(why) => not_an_upgrade(*why),
        Refusal::Rejected(rejection) => rejected(*rejection),
    }
}

/// The request opens no WebSocket.
pub(super) fn not_an_upgrade(why: NotAnUpgrade) -> Response {
    let status = match why {
        NotAnUpgrade::Key => StatusCode::BAD_REQUEST,
        NotAnUpgrade::Method
        | NotAnUpgrade::HttpVersion
        | NotAnUpgrade::Upgrade
        | NotAnUpgrade::Connection
        | NotAnUpgrade::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
    };
    let mut response = error(status, &why.to_string());
    let headers = response.headers_mut();
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// The table from the core's refusals to statuses and words.
pub(super) fn rejected(rejection: Rejection) -> Response {
    let (status, words) = match rejection {
        Rejection::ChannelNameReserved => {
            (StatusCode::BAD_REQUEST, "a channel's name is not empty and does not begin with #")
        }
        Rejection::ChannelNameTooLong => {
            (StatusCode::BAD_REQUEST, "a channel's name is too long (limits.channel_name_bytes_max)")
        }
        Rejection::NodeFull => (StatusCode::SERVICE_UNAVAILABLE, "too many connections"),
        Rejection::AppFull => (StatusCode::SERVICE_UNAVAILABLE, "too many connections of this app"),
        Rejection::AddressFull => (StatusCode::TOO_MANY_REQUESTS, "too many connections from this address"),
        Rejection::NodeMemory => (StatusCode::SERVICE_UNAVAILABLE, "out of memory for connections"),
        Rejection::AppMemory => (StatusCode::SERVICE_UNAVAILABLE, "out of memory for connections of this app"),
        Rejection::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded, try again"),
        Rejection::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "too many requests, try again"),
        Rejection::Draining => (StatusCode::SERVICE_UNAVAILABLE, "shutting down, try again"),
        // what follows is told on sockets, by [`refused`], and does not come of an HTTP request
        Rejection::UserIdTooLong | Rejection::MemberTooLarge => (StatusCode::BAD_REQUEST, "too long"),
        Rejection::TooManySubscriptions | Rejection::TooManyPermissions => {
            (StatusCode::BAD_REQUEST, "too many channels")
        }
        Rejection::NotPermitted | Rejection::NotSubscribed | Rejection::ChannelFull | Rejection::OtherUser => {
            (StatusCode::FORBIDDEN, "not permitted")
        }
    };
    let mut response = error(status, words);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What is wrong with a request's body, or with a message.
fn words(fault: Fault) -> Cow<'static, str> {
    match fault {
        Fault::NotAnObject => "not a JSON object".into(),
        Fault::Missing(member) => format!("{member} is missing").into(),
        Fault::WrongType(member, right) => format!("{member} is not {right}").into(),
        Fault::NameTooLong(max) => format!("the event's name is over {max} bytes (limits.event_name_bytes_max)").into(),
        Fault::TooManyChannels(max) => format!("more than {max} channels (limits.event_channels_max)").into(),
        Fault::ReservedName => "clients may not push events of this name: it begins as the server's own do".into(),
        Fault::KindNotPushed => "clients may not push to channels of this kind (the app's socket_push)".into(),
        Fault::TooOften(per_s) => {
            format!("more than {per_s} pushes in a second (the app's client_events_per_s)").into()
        }
    }
}

// ---------------------------------------------------------------------- WebSocket

/// The code for what a client must not do, or may not.
const POLICY: u16 = 1008;
/// The code for what may go well in a moment (IANA's registry of close codes).
const TRY_AGAIN: u16 = 1013;

fn farewell_of(code: u16, reason: impl Into<Cow<'static, str>>) -> Farewell {
    Farewell { code, reason: reason.into() }
}

/// Why a client was not let in.
pub(super) fn denied(why: Denied) -> Farewell {
    let words = match why {
        Denied::NoChannel => "no channel in the path: open /ws/app/KEY/CHANNEL",
        Denied::Origin => "the app does not admit pages of this origin",
        Denied::Session => "session= is too long, has blanks or begins with a dot",
        Denied::Kind => "the app's clients may not use channels of this kind",
        Denied::NoToken => "the channel needs an access token: token= or Authorization: Bearer",
        Denied::Token(AccessError::Invalid) => "the token is not an access token of this app",
        Denied::Token(AccessError::Expired) => "the access token has expired: get another",
        Denied::OtherChannel => "the access token is for another channel",
        Denied::OtherOrigin => "the access token is for pages of another origin",
        Denied::Name(rejection) => return refused(rejection),
    };
    farewell_of(POLICY, words)
}

/// The message cannot be taken.
pub(super) fn violation(fault: Fault) -> Farewell {
    farewell_of(POLICY, words(fault))
}

/// The table from the core's refusals, of a subscribe or of a push, to close codes and reasons.
pub(super) fn refused(rejection: Rejection) -> Farewell {
    match rejection {
        Rejection::NotPermitted => farewell_of(POLICY, "not permitted"),
        Rejection::ChannelNameReserved => {
            farewell_of(POLICY, "a channel's name is not empty and does not begin with #")
        }
        Rejection::ChannelNameTooLong => farewell_of(POLICY, "a channel's name is too long"),
        Rejection::TooManySubscriptions => farewell_of(POLICY, "too many channels"),
        Rejection::NotSubscribed => farewell_of(POLICY, "push only to channels that this connection's path names"),
        Rejection::RateLimited => farewell_of(POLICY, "too many messages in too short a time"),
        Rejection::Overloaded => farewell_of(TRY_AGAIN, "overloaded; reconnect"),
        Rejection::Draining => farewell_of(TRY_AGAIN, "the server is shutting down; reconnect"),
        // what follows comes of a handshake, which [`rejected`] answers, or of what raw sockets do not have
        Rejection::NodeFull
        | Rejection::AppFull
        | Rejection::AddressFull
        | Rejection::NodeMemory
        | Rejection::AppMemory => farewell_of(TRY_AGAIN, "full"),
        Rejection::TooManyPermissions
        | Rejection::UserIdTooLong
        | Rejection::ChannelFull
        | Rejection::MemberTooLarge
        | Rejection::OtherUser => farewell_of(POLICY, "not permitted"),
    }
}

/// What a client is told when its connection is taken down.
pub(super) fn farewell(reason: CloseReason) -> Farewell {
    let (code, reason) = match reason {
        CloseReason::Client => (1000, ""),
        CloseReason::Violation => (POLICY, "the message is not one of this protocol"),
        CloseReason::SlowReader => (TRY_AGAIN, "too slow to read what was sent; reconnect and read faster"),
        CloseReason::NoPong => (1001, "no answer to a ping; reconnect"),
        CloseReason::Unsubscribed => (POLICY, "no subscription for too long"),
        CloseReason::Unauthorized | CloseReason::Terminated => (POLICY, "ended by the server"),
        CloseReason::AppDisabled => (POLICY, "the app was disabled"),
        CloseReason::AppRemoved => (POLICY, "the app was removed"),
        CloseReason::Draining => (1001, "the server is shutting down; reconnect"),
        CloseReason::Internal => (1011, "internal error; reconnect"),
    };
    farewell_of(code, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rejections() {
        let row = |rejection: Rejection| {
            let (status, code) = (rejected(rejection).status().as_u16(), refused(rejection).code);
            format!("{} {status} {code}", rejection.label())
        };
        assert_eq!(
            Rejection::ALL.map(row),
            [
                "not_permitted 403 1008",
                "channel_name_reserved 400 1008",
                "channel_name_too_long 400 1008",
                "too_many_subscriptions 400 1008",
                "too_many_permissions 400 1008",
                "user_id_too_long 400 1008",
                "node_full 503 1013",
                "app_full 503 1013",
                "address_full 429 1013",
                "node_memory 503 1013",
                "app_memory 503 1013",
                "overloaded 503 1013",
                "not_subscribed 403 1008",
                "channel_full 403 1008",
                "member_too_large 400 1008",
                "other_user 403 1008",
                "rate_limited 429 1008",
                "draining 503 1013",
            ]
        );
    }

    #[test]
    fn the_table_of_farewells() {
        let row = |reason: CloseReason| format!("{} {}", reason.label(), farewell(reason).code);
        assert_eq!(
            CloseReason::ALL.map(row),
            [
                "client 1000",
                "violation 1008",
                "slow_reader 1013",
                "no_pong 1001",
                "unsubscribed 1008",
                "unauthorized 1008",
                "terminated 1008",
                "app_disabled 1008",
                "app_removed 1008",
                "draining 1001",
                "internal 1011",
            ]
        );
    }

    #[test]
    fn reasons_fit_their_frame() {
        let faults = [
            Fault::NotAnObject,
            Fault::Missing("options.delivery"),
            Fault::WrongType("options.delivery", "an array of strings"),
            Fault::NameTooLong(usize::MAX),
            Fault::TooManyChannels(usize::MAX),
            Fault::ReservedName,
            Fault::KindNotPushed,
            Fault::TooOften(usize::MAX),
        ];
        let denials = [
            Denied::NoChannel,
            Denied::Origin,
            Denied::Session,
            Denied::Kind,
            Denied::NoToken,
            Denied::Token(AccessError::Invalid),
            Denied::Token(AccessError::Expired),
            Denied::OtherChannel,
            Denied::OtherOrigin,
            Denied::Name(Rejection::ChannelNameTooLong),
        ];
        let all = faults.map(violation).into_iter().chain(denials.map(denied));
        let all = all.chain(CloseReason::ALL.map(farewell)).chain(Rejection::ALL.map(refused));
        for Farewell { code, reason } in all {
            assert!((1000..1015).contains(&code) && reason.len() <= 123, "{code} {reason}");
        }
    }
}
