//! Every word that gusher answers with: statuses, codes and texts stand here and nowhere else.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};

use crate::core::{CloseReason, ConnectionId, Rejection};
use crate::shard::door::Farewell;
use crate::shard::http::{self, Response, sniff_not};
use crate::shard::route::NoRoute;
use crate::shard::ws::session::Refusal;

use super::token::TokenError;
use crate::protocol::json;

// ---------------------------------------------------------------------- HTTP

const JSON: &str = "application/json;charset=UTF-8";

/// 200 with JSON.
pub(super) fn json(body: impl Into<Bytes>) -> Response {
    http::response(StatusCode::OK, JSON, body)
}

/// 200 with plain text.
pub(super) fn plain(words: impl Into<Bytes>) -> Response {
    http::text(StatusCode::OK, words)
}

/// `["a","b"]`.
pub(super) fn names(names: &[Arc<str>]) -> Response {
    let list: Vec<&str> = names.iter().map(|name| &**name).collect();
    json(serde_json::to_vec(&list).unwrap_or_default())
}

/// `{"count":2}`.
pub(super) fn count(count: u64) -> Response {
    json(format!("{{\"count\":{count}}}"))
}

/// 400 with bare words: what a backend did wrong.
pub(super) fn bad_request(words: &'static str) -> Response {
    http::text(StatusCode::BAD_REQUEST, words)
}

/// An app key that the configuration does not name, on a server that is not open to any.
pub(super) fn unknown_app() -> Response {
    http::text(StatusCode::NOT_FOUND, "app not found")
}

/// v1 answers a wrong method with nothing at all.
pub(super) fn no_route_v1(no_route: &NoRoute) -> Response {
    if *no_route == NoRoute::Path {
        return http::not_found();
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

/// v3 says which methods there are.
pub(super) fn method_not_allowed_v3(allow: &str) -> Response {
    http::allow(sniff_not(http::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")), allow)
}

/// 401 or 400 of the client side: words with a line end.
pub(super) fn client_error(status: StatusCode, words: &'static str) -> Response {
    sniff_not(http::text(status, words))
}

/// Lets a page of any site read the answer: `auth` is called from browsers.
pub(super) fn for_any_origin(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// The answer to a browser that asks whether it may post JSON.
pub(super) fn preflight() -> Response {
    let mut response = for_any_origin(Response::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Why a client was not let in.
pub(super) fn token_error(error: TokenError) -> Response {
    let words = match error {
        // the words are the originals', wrong as they are: clients may compare them
        TokenError::Missing => "app_key is nil\n",
        TokenError::Invalid => "token error\n",
        TokenError::OtherApp => "appkey error\n",
    };
    client_error(StatusCode::UNAUTHORIZED, words)
}

/// Why a handshake was not completed.
pub(super) fn refusal(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::NotAnUpgrade(_) => {
            let mut response = client_error(StatusCode::BAD_REQUEST, "Bad Request\n");
            response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            response
        }
        Refusal::Rejected(rejection) => rejected(*rejection),
    }
}

/// The table from the core's refusals to gusher's statuses and words.
pub(super) fn rejected(rejection: Rejection) -> Response {
    let (status, words) = match rejection {
        Rejection::NotPermitted => (StatusCode::FORBIDDEN, "channel not permitted"),
        Rejection::ChannelNameReserved => (StatusCode::BAD_REQUEST, "channel name empty or reserved"),
        Rejection::ChannelNameTooLong => (StatusCode::BAD_REQUEST, "channel name too long"),
        Rejection::TooManySubscriptions => (StatusCode::BAD_REQUEST, "too many subscriptions"),
        Rejection::TooManyPermissions => (StatusCode::BAD_REQUEST, "too many channels"),
        Rejection::UserIdTooLong => (StatusCode::BAD_REQUEST, "user id too long"),
        Rejection::NodeFull => (StatusCode::SERVICE_UNAVAILABLE, "too many connections"),
        Rejection::AppFull => (StatusCode::SERVICE_UNAVAILABLE, "too many connections of this app"),
        Rejection::AddressFull => (StatusCode::TOO_MANY_REQUESTS, "too many connections from this address"),
        Rejection::NodeMemory => (StatusCode::SERVICE_UNAVAILABLE, "out of memory for connections"),
        Rejection::AppMemory => (StatusCode::SERVICE_UNAVAILABLE, "out of memory for connections of this app"),
        Rejection::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded, try again"),
        // a gusher client neither publishes nor signs in, and is no member
        Rejection::NotSubscribed => (StatusCode::FORBIDDEN, "not subscribed"),
        Rejection::ChannelFull => (StatusCode::FORBIDDEN, "channel full"),
        Rejection::MemberTooLarge => (StatusCode::BAD_REQUEST, "member data too large"),
        Rejection::OtherUser => (StatusCode::FORBIDDEN, "other user"),
        Rejection::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "too many requests, try again"),
        Rejection::Draining => (StatusCode::SERVICE_UNAVAILABLE, "shutting down, try again"),
    };
    let mut response = http::text(status, words);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

// ---------------------------------------------------------------------- WebSocket

/// `{"event":…,"socket_id":…,"data":…}`; `data` is JSON.
pub(super) fn event(name: &str, socket: ConnectionId, data: &str) -> String {
    format!("{{\"event\":\"{name}\",\"socket_id\":\"{}\",\"data\":{data}}}", socket.to_uuid())
}

/// `{"channel":"AA"}`.
pub(super) fn channel_data(channel: &str) -> String {
    format!("{{\"channel\":{}}}", json::string(channel))
}

/// The originals' clients read `channel`; the API document says `multi_channel`.
pub(super) fn multi_channel_data(channels: &[String]) -> String {
    let list = serde_json::to_string(channels).unwrap_or_default();
    format!("{{\"channel\":{list},\"multi_channel\":{list}}}")
}

/// What a user's connections are told when the user's channels are replaced; `channels` is JSON.
pub(super) fn reload_event(channels: &str) -> String {
    format!("{{\"data\":{{\"channels\":{channels}}},\"event\":\"gusher.reloadchannel\",\"socket_id\":\"\"}}")
}

/// What a user's connections are told when the user may use one more channel.
pub(super) fn add_event(channel: &str) -> String {
    format!("{{\"data\":{},\"event\":\"gusher.addchannel\",\"socket_id\":\"\"}}", channel_data(channel))
}

/// What a client is told when its connection is taken down. gusher's clients reconnect after any code.
pub(super) fn farewell(reason: CloseReason) -> Farewell {
    let (code, reason) = match reason {
        CloseReason::Client => (1000, ""),
        CloseReason::Violation => (1008, "the message is not one of this protocol"),
        CloseReason::SlowReader => (1013, "too slow to read what was sent; reconnect and read faster"),
        CloseReason::NoPong => (1001, "no answer to a ping; reconnect"),
        CloseReason::Unsubscribed => (1008, "no subscription for too long; subscribe after connecting"),
        CloseReason::Unauthorized | CloseReason::Terminated => (1008, "ended by the server"),
        CloseReason::AppDisabled => (1008, "the app was disabled"),
        CloseReason::AppRemoved => (1008, "the app was removed"),
        CloseReason::Draining => (1001, "the server is shutting down; reconnect"),
        CloseReason::Internal => (1011, "internal error; reconnect"),
    };
    Farewell { code, reason: Cow::Borrowed(reason) }
}

/// The message cannot be understood; code 1007 if it is no JSON at all.
pub(super) fn violation(code: u16, reason: impl Into<Cow<'static, str>>) -> Farewell {
    Farewell { code, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_rejections() {
        let table: Vec<String> = Rejection::ALL
            .into_iter()
            .map(|rejection| format!("{} {}", rejection.label(), rejected(rejection).status().as_u16()))
            .collect();
        assert_eq!(
            table,
            [
                "not_permitted 403",
                "channel_name_reserved 400",
                "channel_name_too_long 400",
                "too_many_subscriptions 400",
                "too_many_permissions 400",
                "user_id_too_long 400",
                "node_full 503",
                "app_full 503",
                "address_full 429",
                "node_memory 503",
                "app_memory 503",
                "overloaded 503",
                "not_subscribed 403",
                "channel_full 403",
                "member_too_large 400",
                "other_user 403",
                "rate_limited 429",
                "draining 503",
            ]
        );
    }

    #[test]
    fn close_codes_fit_their_frame() {
        for reason in CloseReason::ALL {
            let farewell = farewell(reason);
            assert!((1000..5000).contains(&farewell.code) && farewell.reason.len() <= 123);
        }
    }
}
