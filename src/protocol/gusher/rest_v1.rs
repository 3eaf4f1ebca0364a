//! gusher v1 over HTTP: paths and form fields in, verbs called, v1's words out.

use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use regex::RegexBuilder;
use serde_json::value::RawValue;

use crate::core::{AppKey, Assignment, ChannelName, ConnectionId, Data, Event, Publication, Query, Rejection, UserId};
use crate::credential::jwt::ClockPolicy;
use crate::protocol::GUSHER;
use crate::protocol::json::{self, Object};
use crate::shard::http::{BodyError, Exchange, Response, not_found};
use crate::shard::route::{self, Route};
use crate::shard::ws::codec;

use super::Gusher;
use super::dialect::event_text;
use super::form::Form;
use super::reply;

/// The calls of the client side, below its prefix.
pub const V1_CLIENT: &[Route] = &[("POST", "auth"), ("GET", "ws/{app}"), ("GET", "wtf/{app}"), ("GET", "ping")];

/// The calls of the master side, below its prefix.
pub const V1_MASTER: &[Route] = &[
    ("POST", "decode"),
    ("GET", "ping"),
    ("POST", "push/{app}"),
    ("POST", "push_batch/{app}"),
    ("POST", "push/user/{app}/{user}"),
    ("POST", "push/socket/{app}/{socket}"),
    ("POST", "push/{app}/{channel}/{event}"),
    ("POST", "reload/channel/user/{app}/{user}"),
    ("POST", "add/channel/user/{app}/{user}"),
    ("GET", "{app}/channels"),
    ("GET", "{app}/channels/count"),
    ("GET", "{app}/online"),
    ("GET", "{app}/online/count"),
    ("GET", "{app}/online/bychannel/{channel}"),
    ("GET", "{app}/online/bychannel/{channel}/count"),
];

/// Memory that a compiled pattern may take, in bytes; a pattern that needs more is refused as one that is none.
const PATTERN_COMPILED_BYTES_MAX: usize = 1 << 20;

/// What a handshake has beside its token, generously.
const HANDSHAKE_BYTES: usize = 2 << 10;

/// Splits a path below its prefix into decoded segments. `None` where v1 finds no page: an empty segment, or an escaped
/// separator.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/')
        .map(|segment| {
            let decoded = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
            (!decoded.is_empty() && !decoded.contains('/')).then_some(decoded)
        })
        .collect()
}

/// A call of the client side, `path` below its prefix.
pub(super) async fn client(gusher: &Gusher, mut exchange: Exchange, path: &str) -> Response {
    let Some(segments) = segments(path) else { return not_found() };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let Err(no_route) = route::find(V1_CLIENT, exchange.request.method(), &segments) {
        return reply::no_route_v1(&no_route);
    }
    match *segments {
        ["auth"] => reply::for_any_origin(auth(gusher, &mut exchange).await),
        ["ws" | "wtf", app] => {
            let token = form(&exchange, b"").get("token");
            gusher.connect(exchange, app, &token, ClockPolicy::RefuseFutureIat).await
        }
        ["ping"] => reply::plain("pong"),
        _ => not_found(),
    }
}

async fn auth(gusher: &Gusher, exchange: &mut Exchange) -> Response {
    let unix_s = exchange.shard.unix_s();
    match exchange.body_of_stranger().await {
        Err(error) => error.response(),
        Ok(body) => match gusher.tokens.exchange(&form(exchange, &body).get("jwt"), unix_s) {
            // found out here, where the client can read why, and not at the handshake
            Some(token) if token.len() + HANDSHAKE_BYTES > exchange.shard.settings().limits.header_bytes_max => {
                reply::client_error(StatusCode::BAD_REQUEST, "too many claims: the token fits into no URL\n")
            }
            Some(token) => reply::json(format!("{{\"token\":{}}}\n", json::string(&token))),
            None => reply::client_error(StatusCode::UNAUTHORIZED, "jwt decode fail\n"),
        },
    }
}

/// A call of the master side, by the shape of its path.
enum Call<'a> {
    Push { app: &'a str, channel: &'a str, event: &'a str },
    PushPattern { app: &'a str },
    PushBatch { app: &'a str },
    PushUser { app: &'a str, user: &'a str },
    PushSocket { app: &'a str, socket: &'a str },
    Reload { app: &'a str, user: &'a str },
    Add { app: &'a str, user: &'a str },
    Decode,
    Ping,
    Query { app: &'a str, query: fn(AppKey) -> Query },
    Members { app: &'a str, channel: &'a str, count: bool },
}

impl<'a> Call<'a> {
    fn of(segments: &[&'a str]) -> Option<Self> {
        Some(match *segments {
            ["decode"] => Call::Decode,
            ["ping"] => Call::Ping,
            ["push", app] => Call::PushPattern { app },
            ["push_batch", app] => Call::PushBatch { app },
            ["push", "user", app, user] => Call::PushUser { app, user },
            ["push", "socket", app, socket] => Call::PushSocket { app, socket },
            ["push", app, channel, event] => Call::Push { app, channel, event },
            ["reload", "channel", "user", app, user] => Call::Reload { app, user },
            ["add", "channel", "user", app, user] => Call::Add { app, user },
            [app, "channels"] => Call::Query { app, query: Query::Channels },
            [app, "channels", "count"] => Call::Query { app, query: Query::ChannelCount },
            [app, "online"] => Call::Query { app, query: Query::Users },
            [app, "online", "count"] => Call::Query { app, query: Query::UserCount },
            [app, "online", "bychannel", channel] => Call::Members { app, channel, count: false },
            [app, "online", "bychannel", channel, "count"] => Call::Members { app, channel, count: true },
            _ => return None,
        })
    }

    fn app(&self) -> Option<&'a str> {
        match *self {
            Call::Decode | Call::Ping => None,
            Call::Push { app, .. }
            | Call::PushPattern { app }
            | Call::PushBatch { app }
            | Call::PushUser { app, .. }
            | Call::PushSocket { app, .. }
            | Call::Reload { app, .. }
            | Call::Add { app, .. }
            | Call::Query { app, .. }
            | Call::Members { app, .. } => Some(app),
        }
    }
}

/// A call of the master side, `path` below its prefix.
pub(super) async fn master(gusher: &Gusher, exchange: Exchange, path: &str) -> Response {
    let Some(segments) = segments(path) else { return not_found() };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let Err(no_route) = route::find(V1_MASTER, exchange.request.method(), &segments) {
        return reply::no_route_v1(&no_route);
    }
    let Some(call) = Call::of(&segments) else { return not_found() };
    let app = match call.app() {
        None => None,
        Some(key) => match gusher.tokens.app(key) {
            Some(app) => Some(app),
            None => return reply::unknown_app(),
        },
    };
    let result = match (call, app) {
        (Call::Ping, _) => return reply::plain("pong"),
        (Call::Decode, _) => decode(gusher, exchange).await,
        (Call::Push { channel, event, .. }, Some(app)) => push(exchange, app, channel, event).await,
        (Call::PushPattern { .. }, Some(app)) => push_pattern(exchange, app).await,
        (Call::PushBatch { .. }, Some(app)) => push_batch(exchange, app).await,
        (Call::PushUser { user, .. }, Some(app)) => push_user(gusher, exchange, app, user).await,
        (Call::PushSocket { socket, .. }, Some(app)) => push_socket(gusher, exchange, app, socket).await,
        (Call::Reload { user, .. }, Some(app)) => reload(exchange, app, user).await,
        (Call::Add { user, .. }, Some(app)) => add(exchange, app, user).await,
        (Call::Query { query, .. }, Some(app)) => gusher.query(&exchange, query(app)).await,
        (Call::Members { channel, count, .. }, Some(app)) => {
            let channel = ChannelName::from(channel);
            let query = if count { Query::MemberCount(app, channel) } else { Query::Members(app, channel) };
            gusher.query(&exchange, query).await
        }
        (_, None) => return not_found(),
    };
    result.unwrap_or_else(|response| response)
}

/// What a call comes to: the words of success, or those of what went wrong.
pub(super) type Called = Result<Response, Response>;

/// Reads the body and picks one field; a body that cannot be read has its own answer.
async fn field(exchange: &mut Exchange, name: &str) -> Result<String, Response> {
    let [value] = fields(exchange, [name]).await?;
    Ok(value)
}

async fn fields<const N: usize>(exchange: &mut Exchange, names: [&str; N]) -> Result<[String; N], Response> {
    let body = exchange.body().await.map_err(BodyError::response)?;
    let form = form(exchange, &body);
    Ok(names.map(|name| form.get(name)))
}

fn form<'a>(exchange: &'a Exchange, body: &'a [u8]) -> Form<'a> {
    Form::new(exchange.request.headers(), body, exchange.query())
}

/// Checks an event's name and makes the event.
pub(super) fn event(exchange: &Exchange, name: &str, data: Vec<u8>) -> Result<Event, Response> {
    if name.len() > exchange.shard.settings().limits.event_name_bytes_max {
        return Err(reply::bad_request("event name too long"));
    }
    Ok(Event::new(name, Data::Value(data.into()), exchange.shard.event_id()))
}

/// Compiles a pattern: linear in time and bounded in memory, whatever it is.
pub(super) fn pattern(exchange: &Exchange, text: &str) -> Result<regex::Regex, Response> {
    let wrong = || reply::bad_request("channel_pattern cant regex");
    if text.len() > exchange.shard.settings().limits.pattern_bytes_max {
        return Err(wrong());
    }
    RegexBuilder::new(text).size_limit(PATTERN_COMPILED_BYTES_MAX).build().map_err(|_| wrong())
}

async fn push(mut exchange: Exchange, app: AppKey, channel: &str, name: &str) -> Called {
    let data = field(&mut exchange, "data").await?;
    if data.is_empty() {
        return Err(reply::bad_request("empty data"));
    }
    let data = json::string_or_json(&data);
    let answer = event_text(channel, name, &data);
    let event = event(&exchange, name, data)?;
    exchange.shard.act(|core| core.publish(&app, Publication::new(channel.into(), event))).map_err(reply::rejected)?;
    Ok(reply::json(answer))
}

async fn push_pattern(mut exchange: Exchange, app: AppKey) -> Called {
    let [text, name, data] = fields(&mut exchange, ["channel_pattern", "event", "data"]).await?;
    if text.is_empty() || name.is_empty() {
        return Err(reply::bad_request("empty param"));
    }
    let pattern = pattern(&exchange, &text)?;
    if data.is_empty() {
        return Err(reply::bad_request("empty data"));
    }
    let event = event(&exchange, &name, json::string_or_json(&data))?;
    publish_matching(&exchange, app, pattern, &text, event).await
}

/// Publishes and answers `{"total":2,"pattern":"^App"}`.
pub(super) async fn publish_matching(
    exchange: &Exchange,
    app: AppKey,
    pattern: regex::Regex,
    text: &str,
    event: Event,
) -> Called {
    let total = exchange
        .shard
        .ask(|core, request| core.publish_matching(request, &app, pattern, event))
        .await
        .map_err(reply::rejected)?
        .count();
    Ok(reply::json(format!("{{\"total\":{total},\"pattern\":{}}}", json::string(text))))
}

async fn push_batch(mut exchange: Exchange, app: AppKey) -> Called {
    let batch = field(&mut exchange, "batch_data").await?;
    if batch.is_empty() {
        return Err(reply::bad_request("empty batch data"));
    }
    let items: Option<Vec<Object<'_>>> = serde_json::from_str(&batch).map_err(|_| reply::bad_request("data error"))?;
    let total = publish_batch(&exchange, &app, items.unwrap_or_default(), Object::get, "data error")?;
    Ok(reply::json(format!("{{\"total\":{total},\"cap\":{}}}", batch.len())))
}

/// Publishes every item, in order, once all are known to be right. Returns how many they are. An item without a channel
/// counts, as in the originals, and reaches nobody.
pub(super) fn publish_batch<'a>(
    exchange: &Exchange,
    app: &AppKey,
    items: Vec<Object<'a>>,
    get: impl Fn(&Object<'a>, &str) -> Option<&'a RawValue>,
    wrong: &'static str,
) -> Result<usize, Response> {
    let settings = exchange.shard.settings();
    let limits = &settings.limits;
    if items.len() > limits.batch_events_max {
        return Err(reply::bad_request("batch too large"));
    }
    let mut events = Vec::with_capacity(items.len());
    for item in &items {
        let member = |name| json::optional_string(get(item, name)).ok_or_else(|| reply::bad_request(wrong));
        let (channel, name) = (member("channel")?, member("event")?);
        let data = get(item, "data").map_or("null", RawValue::get);
        let event = event(exchange, &name, data.as_bytes().to_vec())?;
        if !channel.is_empty() {
            events.push(Publication::new(ChannelName::from(&*channel), event));
        }
    }
    exchange.shard.act(|core| core.publish_all(app, events)).map_err(reply::rejected)?;
    Ok(items.len())
}

/// The data of a push to a user or socket: the field's text and its value.
async fn bare_data(gusher: &Gusher, exchange: &mut Exchange) -> Result<(String, Vec<u8>), Response> {
    let text = field(exchange, "data").await?;
    if text.is_empty() && !gusher.legacy_empty_push {
        return Err(reply::bad_request("empty data"));
    }
    let value = json::string_or_json(&text);
    Ok((text, value))
}

async fn push_user(gusher: &Gusher, mut exchange: Exchange, app: AppKey, user: &str) -> Called {
    let (text, value) = bare_data(gusher, &mut exchange).await?;
    let answer = about_user(user, &json::string(&text));
    send_to_user(&exchange, &app, user, &value, answer)
}

async fn push_socket(gusher: &Gusher, mut exchange: Exchange, app: AppKey, socket: &str) -> Called {
    let (text, value) = bare_data(gusher, &mut exchange).await?;
    let answer = about_socket(socket, &json::string(&text));
    send_to_socket(&exchange, &app, socket, &value, answer)
}

/// Sends a bare value to every connection of a user.
pub(super) fn send_to_user(exchange: &Exchange, app: &AppKey, user: &str, value: &[u8], answer: String) -> Called {
    let frame = codec::text_frame(value);
    let sent = exchange.shard.act(|core| core.send_to_user(app, UserId::from(user), GUSHER, frame));
    sent.map(|()| reply::json(answer)).map_err(reply::rejected)
}

/// Sends a bare value to one connection; one that is not there is not told from one that is.
pub(super) fn send_to_socket(exchange: &Exchange, app: &AppKey, socket: &str, value: &[u8], answer: String) -> Called {
    if let Some(id) = uuid::Uuid::parse_str(socket).ok().and_then(ConnectionId::from_uuid) {
        let frame = codec::text_frame(value);
        exchange.shard.act(|core| core.send_to_connection(app, id, GUSHER, frame)).map_err(reply::rejected)?;
    }
    Ok(reply::json(answer))
}

/// `{"user_id":…,"data":…}`; `data` is JSON.
pub(super) fn about_user(user: &str, data: &str) -> String {
    format!("{{\"user_id\":{},\"data\":{data}}}", json::string(user))
}

/// `{"socket_id":…,"data":…}`; `data` is JSON.
pub(super) fn about_socket(socket: &str, data: &str) -> String {
    format!("{{\"socket_id\":{},\"data\":{data}}}", json::string(socket))
}

async fn reload(mut exchange: Exchange, app: AppKey, user: &str) -> Called {
    let text = field(&mut exchange, "data").await?;
    let channels: Option<Vec<String>> =
        serde_json::from_str(&text).map_err(|_| reply::bad_request("data unmarshal error"))?;
    replace_channels(&exchange, &app, user, channels, about_user(user, &json::string(&text))).await
}

/// Replaces the channels of a user's connections; `None` takes all and is told as `null`.
pub(super) async fn replace_channels(
    exchange: &Exchange,
    app: &AppKey,
    user: &str,
    channels: Option<Vec<String>>,
    answer: String,
) -> Called {
    let frame = reply::reload_event(&serde_json::to_string(&channels).unwrap_or_default());
    let patterns = channels.unwrap_or_default().into_iter().map(String::into_boxed_str).collect();
    assign(exchange, app, user, Assignment::Replace(patterns), &frame).await?;
    Ok(reply::json(answer))
}

async fn add(mut exchange: Exchange, app: AppKey, user: &str) -> Called {
    let channel = field(&mut exchange, "data").await?;
    if channel.is_empty() {
        return Err(reply::bad_request("data empty error"));
    }
    add_channel(&exchange, &app, user, &channel).await
}

/// Adds a channel to what a user's connections may use.
pub(super) async fn add_channel(exchange: &Exchange, app: &AppKey, user: &str, channel: &str) -> Called {
    let frame = reply::add_event(channel);
    assign(exchange, app, user, Assignment::Add(channel.into()), &frame).await?;
    Ok(reply::json(about_user(user, &json::string(channel))))
}

async fn assign(
    exchange: &Exchange,
    app: &AppKey,
    user: &str,
    assignment: Assignment,
    told: &str,
) -> Result<(), Response> {
    let frame = codec::text_frame(told.as_bytes());
    let user = UserId::from(user);
    exchange
        .shard
        .ask(|core, request| core.assign(request, app, user, assignment, GUSHER, frame))
        .await
        .map(drop)
        .map_err(|rejection: Rejection| reply::rejected(rejection))
}

async fn decode(gusher: &Gusher, mut exchange: Exchange) -> Called {
    let jwt = field(&mut exchange, "data").await?;
    match gusher.tokens.check(&jwt, exchange.shard.unix_s(), ClockPolicy::RefuseFutureIat) {
        Some(claims) => Ok(reply::json(format!("{}\n", claims.get().to_json_v1()))),
        None => Err(reply::bad_request("data error")),
    }
}
