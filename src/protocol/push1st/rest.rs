//! The API for backends: calls in, verbs called, Push1ST's words out.

use std::time::Instant;

use bytes::Bytes;
use hyper::Method;

use crate::core::{
    Access, Answer, ChannelInfo, ChannelKind, ChannelName, Destination, Publication, Query, Rejection, SessionInfo,
    Which,
};
use crate::credential::access::session_token;
use crate::credential::signature::{PromisedBody, RequestError};
use crate::protocol::apps::App;
use crate::protocol::json::{self, Object};
use crate::shard::http::{Exchange, Response};
use crate::shard::route::{self, NoRoute, Route};

use super::message::{self, Fault, Message};
use super::{ApiDoor, reply};

/// Every call. A slash at the end of a path means nothing, nor does what follows `events`. Whatever may be asked for with
/// GET may be with HEAD.
pub const ROUTES: &[Route] = &[
    ("POST", "/apps/{app_id}/token/session"),
    ("POST", "/apps/{app_id}/token/access"),
    ("POST", "/apps/{app_id}/events"),
    ("GET", "/apps/{app_id}/channels"),
    ("GET", "/apps/{app_id}/channels/{channel}"),
];

/// A call, by the shape of its path below the app. Segments are names as they stand there, not decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call<'a> {
    SessionToken,
    AccessToken,
    Events,
    Channels,
    Channel(&'a str),
}

/// The segments of a path that say which call it is for: `apps`, the app's id, and what follows.
fn segments(path: &str) -> Vec<&str> {
    let mut segments: Vec<&str> = path.split('/').skip(1).collect();
    segments.pop_if(|last| last.is_empty());
    if let ["apps", _, "events", ..] = segments[..] {
        segments.truncate(3);
    }
    segments
}

impl<'a> Call<'a> {
    fn of(method: &Method, segments: &[&'a str]) -> Result<Self, NoRoute> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        route::find(ROUTES, method, segments)?;
        // every route has as many segments
        match segments[2..] {
            ["token", "session"] => Ok(Call::SessionToken),
            ["token", "access"] => Ok(Call::AccessToken),
            ["events"] => Ok(Call::Events),
            ["channels"] => Ok(Call::Channels),
            ["channels", name] if !name.is_empty() => Ok(Call::Channel(name)),
            _ => Err(NoRoute::Path),
        }
    }
}

/// Reads a path, as an API's request is looked up. For fuzz targets.
pub(super) fn fuzz(path: &str) {
    let _ = Call::of(&Method::GET, &segments(path));
}

/// What a call comes to: the words of success, or those of what went wrong.
type Called = Result<Response, Response>;

/// Answers a request for a path of the API.
pub(super) async fn answer(door: &ApiDoor, exchange: Exchange) -> Response {
    call(door, exchange).await.unwrap_or_else(|response| response)
}

async fn call(door: &ApiDoor, mut exchange: Exchange) -> Called {
    let began = Instant::now();
    let path = exchange.path.clone();
    let segments = segments(&path);
    let id = segments.get(1).copied().unwrap_or_default();
    let app = door.apps.by_id(id).ok_or_else(|| reply::unknown_app("id"))?;
    if !app.options.enabled {
        return Err(reply::app_disabled());
    }
    let call = Call::of(exchange.request.method(), &segments).map_err(|no_route| match no_route {
        NoRoute::Path => reply::no_such_call(),
        NoRoute::Method(allow) => reply::wrong_method(&allow),
    })?;
    let is_signed = exchange.query().split('&').any(|pair| pair.starts_with("auth_signature="));
    if !is_signed && !door.trusted {
        return Err(reply::unsigned());
    }
    let wrong_signature = |error| reply::wrong_signature(&error);
    let promised = is_signed.then(|| check_signature(app, &exchange)).transpose().map_err(wrong_signature)?;
    let body = exchange.body().await.map_err(reply::wrong_body)?;
    promised.map(|promised| promised.check_body(&body)).transpose().map_err(wrong_signature)?;
    match call {
        Call::SessionToken => issue_session_token(app, &body),
        Call::AccessToken => issue_access_token(app, &body, exchange.shard.unix_s()),
        Call::Events => publish(app, &exchange, &body, began).await,
        Call::Channels => channels(app, &exchange).await,
        Call::Channel(name) => channel(app, &exchange, name).await,
    }
}

/// Checks a signature of Pusher's kind. It covers the path as its maker sent it: with the prefix of the listener, or
/// without, if a proxy added that.
fn check_signature(app: &App, exchange: &Exchange) -> Result<PromisedBody, RequestError> {
    let (method, query) = (exchange.request.method().as_str(), exchange.query());
    let (unix_s, full_path) = (exchange.shard.unix_s(), exchange.request.uri().path());
    let check = |path| app.secrets.check_head(method, path, query, unix_s);
    check(full_path).or_else(|error| match error {
        RequestError::Signature { .. } if full_path != exchange.path => check(&exchange.path).map_err(|_| error),
        _ => Err(error),
    })
}

fn object(body: &[u8]) -> Result<Object<'_>, Response> {
    message::object(body).map_err(reply::wrong_request)
}

fn string(object: &Object<'_>, name: &'static str) -> Result<String, Response> {
    message::string(object, name).map_err(reply::wrong_request)
}

fn issue_session_token(app: &App, body: &[u8]) -> Called {
    let object = object(body)?;
    let (session, channel) = (string(&object, "session")?, string(&object, "channel")?);
    let data = object.get("data").map_or(Ok(String::new()), |_| string(&object, "data"))?;
    token(session_token(&app.secrets, &session, &channel, &data))
}

fn issue_access_token(app: &App, body: &[u8], unix_s: u64) -> Called {
    let object = object(body)?;
    let (origin, channel) = (string(&object, "origin")?, string(&object, "channel")?);
    let ttl = object.get("ttl").ok_or_else(|| reply::wrong_request(Fault::Missing("ttl")))?;
    let ttl_s: f64 = serde_json::from_str(ttl.get())
        .map_err(|_| reply::wrong_request(Fault::WrongType("ttl", "a number of seconds")))?;
    token(app.access.issue(&origin, &channel, expires_unix_s(ttl_s, unix_s)))
}

/// When a token ends: 0, which is never, only for a life of 0. Part of a second is a whole one.
fn expires_unix_s(ttl_s: f64, unix_s: u64) -> u64 {
    if ttl_s == 0.0 { 0 } else { (unix_s as f64 + ttl_s).ceil().max(1.0) as u64 }
}

fn token(token: String) -> Called {
    if token.is_empty() { Err(reply::app_without_secret()) } else { Ok(reply::ok(token)) }
}

/// Publishes an event to its channels, and answers how many sockets each reaches. `began`: when the request came.
async fn publish(app: &App, exchange: &Exchange, body: &Bytes, began: Instant) -> Called {
    let object = object(body)?;
    let message = Message::read(&object, "name").map_err(reply::wrong_request)?;
    let channels = message::channels(&object).map_err(reply::wrong_request)?;
    let settings = exchange.shard.settings();
    let (limits, id) = (&settings.limits, exchange.shard.event_id());
    if message.name.len() > limits.event_name_bytes_max {
        return Err(reply::wrong_request(Fault::NameTooLong(limits.event_name_bytes_max)));
    }
    if channels.len() > limits.event_channels_max {
        return Err(reply::wrong_request(Fault::TooManyChannels(limits.event_channels_max)));
    }
    take(exchange, app.rates.publishes.take(1, app.options.publishes_per_s, exchange.shard.now_ms()))?;
    let target = message.target.clone();
    let event = message.into_event(id);
    let publications: Vec<_> = channels
        .iter()
        .map(|channel| Publication {
            to: Destination::Channel(ChannelName::from(&**channel)),
            event: event.clone(),
            target: target.clone(),
        })
        .collect();
    if publications.is_empty() {
        return Ok(reply::ok("{}"));
    }
    let asked = exchange.shard.ask(|core, request| core.publish_counted(request, &app.key, publications));
    let answer = asked.await.map_err(reply::rejected)?;
    let mut counts = if let Answer::PerChannel(counts) = answer { counts } else { Vec::new() };
    counts.sort();
    let counts: Vec<_> =
        counts.iter().map(|(channel, count)| format!("{}:{count}", json::string(channel.as_str()))).collect();
    let (counts, time_ns) = (counts.join(","), began.elapsed().as_nanos());
    Ok(reply::ok(format!("{{\"channels\":{{{counts}}},\"msg-id\":{id},\"msg-id-str\":\"{id}\",\"time\":{time_ns}}}")))
}

/// Answers no if a rate gave nothing.
fn take(exchange: &Exchange, taken: bool) -> Result<(), Response> {
    if taken {
        return Ok(());
    }
    Err(reply::rejected(exchange.shard.act(|core| core.rejected(Rejection::RateLimited))))
}

/// Asks the node, as far as the app's rate allows.
async fn ask(app: &App, exchange: &Exchange, query: Query) -> Result<Answer, Response> {
    take(exchange, app.rates.reads.take(1, app.options.reads_per_s, exchange.shard.now_ms()))?;
    let asked = exchange.shard.ask(|core, request| {
        core.query(request, query);
        Ok(())
    });
    asked.await.map_err(reply::rejected)
}

async fn channels(app: &App, exchange: &Exchange) -> Called {
    let answer = ask(app, exchange, Query::Describe(app.key.clone(), Which::Occupied("".into()))).await?;
    let mut channels = if let Answer::Channels(channels) = answer { channels } else { Vec::new() };
    channels.sort_by(|one, other| one.name.cmp(&other.name));
    let list = channels.iter().filter_map(|ChannelInfo { name, subscriptions, .. }| {
        let (kind, name) = (kind(name.as_str())?, json::string(name.as_str()));
        Some(format!("{{\"channel\":{name},\"close\":\"auto\",\"sess_count\":{subscriptions},\"type\":\"{kind}\"}}"))
    });
    Ok(reply::ok(format!("[{}]", list.collect::<Vec<_>>().join(","))))
}

async fn channel(app: &App, exchange: &Exchange, name: &str) -> Called {
    let kind = kind(name).ok_or_else(reply::no_such_channel)?;
    let answer = ask(app, exchange, Query::Sessions(app.key.clone(), ChannelName::from(name))).await?;
    let sessions = if let Answer::Sessions(sessions) = answer { sessions } else { Vec::new() };
    if sessions.is_empty() {
        return Err(reply::no_such_channel());
    }
    let session = |SessionInfo { name, address }: &SessionInfo| {
        let ip = address.map(|address| address.to_string()).unwrap_or_default();
        format!("{{\"id\":{},\"ip\":\"{ip}\"}}", json::string(&name.to_string()))
    };
    let mut sessions: Vec<_> = sessions.iter().map(session).collect();
    sessions.sort();
    let (name, sessions) = (json::string(name), sessions.join(","));
    Ok(reply::ok(format!("{{\"channel\":{name},\"close\":\"auto\",\"sessions\":[{sessions}],\"type\":\"{kind}\"}}")))
}

/// What Push1ST calls a channel of that name; nothing for the server's own.
fn kind(channel: &str) -> Option<&'static str> {
    match ChannelKind::of(channel).access {
        Access::Public => Some("public"),
        Access::Private => Some("private"),
        Access::Presence => Some("presence"),
        Access::Protected => Some("protected"),
        Access::Reserved => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let check = |path: &str, app: &str, method: Method, call: Option<Call<'_>>| {
            let segments = segments(path);
            assert_eq!(segments[1], app, "{path}");
            assert_eq!(Call::of(&method, &segments), call.ok_or(NoRoute::Path), "{path}");
        };
        let post = |path: &str, call| check(&format!("/apps/shop/{path}"), "shop", Method::POST, call);
        let get = |path: &str, call| check(&format!("/apps/shop/{path}"), "shop", Method::GET, call);
        post("token/session", Some(Call::SessionToken));
        post("token/session/", Some(Call::SessionToken));
        post("token/access/", Some(Call::AccessToken));
        for other in ["token", "token/", "token/other/", "token/session/more", "token/session//", "batch_events", ""] {
            post(other, None);
        }
        post("events", Some(Call::Events));
        post("events/more/and/more", Some(Call::Events));
        get("channels", Some(Call::Channels));
        get("channels/", Some(Call::Channels));
        get("channels/a%20b/", Some(Call::Channel("a%20b")));
        get("channels/a/users", None);
        get("channels//", None);
        check("/apps/shop/channels", "shop", Method::HEAD, Some(Call::Channels));
        check("/apps//events", "", Method::POST, Some(Call::Events));
        let other = |path: &str, method: Method, allow: &str| {
            assert_eq!(Call::of(&method, &segments(path)), Err(NoRoute::Method(allow.to_owned())), "{path}");
        };
        other("/apps/shop/events", Method::HEAD, "POST");
        other("/apps/shop/channels", Method::OPTIONS, "GET");
    }

    #[test]
    fn ends_of_tokens() {
        for (ttl_s, expected) in
            [(0.0, 0), (-0.0, 0), (60.0, 1060), (0.5, 1001), (-1.0, 999), (-0.5, 1000), (-1e300, 1), (1e300, u64::MAX)]
        {
            assert_eq!(expires_unix_s(ttl_s, 1000), expected, "{ttl_s}");
        }
    }
}
