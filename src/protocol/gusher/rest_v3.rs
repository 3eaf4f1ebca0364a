//! gusher v3 over HTTP: paths and JSON bodies in, the same verbs as v1, v3's words out.

use bytes::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use crate::core::{Answer, AppKey, ChannelName, Publication, Query};
use crate::credential::jwt::ClockPolicy;
use crate::shard::http::{BodyError, Exchange, Response, not_found};
use crate::shard::route::{self, NoRoute, Route};

use super::Gusher;
use super::dialect::event_text;
use super::form::Form;
use super::reply;
use super::rest_v1::{self, Called, about_socket, about_user, event, pattern};
use crate::protocol::json::{self, Object};

/// The calls of the client side, below `/v1/`. Whatever may be asked for with GET may be with HEAD.
pub const V3_CLIENT: &[Route] = &[("POST", "auth"), ("GET", "apps/{app}/ws")];

/// The calls of the master side, below `/v1/`.
pub const V3_MASTER: &[Route] = &[
    ("GET", "stats"),
    ("GET", "apps"),
    ("POST", "auth/decode"),
    ("GET", "apps/{app}/channels"),
    ("GET", "apps/{app}/channels/count"),
    ("GET", "apps/{app}/users"),
    ("GET", "apps/{app}/users/count"),
    ("GET", "apps/{app}/channels/{channel}/users"),
    ("GET", "apps/{app}/channels/{channel}/users/count"),
    ("POST", "apps/{app}/messages"),
    ("POST", "apps/{app}/messages/batch"),
    ("POST", "apps/{app}/channels/{channel}/messages"),
    ("POST", "apps/{app}/users/{user}/messages"),
    ("POST", "apps/{app}/sockets/{socket}/messages"),
    ("POST", "apps/{app}/users/{user}/channels"),
    ("PUT", "apps/{app}/users/{user}/channels"),
];

/// Looks a request up; the answer to one that there is no call for.
fn look_up(routes: &[Route], method: &Method, segments: &[&str]) -> Result<(), Response> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    route::find(routes, method, segments).map_err(|no_route| match no_route {
        NoRoute::Path => not_found(),
        NoRoute::Method(allow) => reply::method_not_allowed_v3(&allow.replace("GET", "GET, HEAD")),
    })
}

/// Splits a path into decoded segments; an escaped separator stays inside its segment. `None` where v3 finds no page.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/')
        .map(|segment| {
            let decoded = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
            (!decoded.is_empty()).then_some(decoded)
        })
        .collect()
}

/// Whether a path below `/v1/` is the client side's.
pub(super) fn is_client_path(path: &str) -> bool {
    path == "auth" || path.starts_with("apps/") && path.ends_with("/ws") && path.split('/').count() == 3
}

/// A call of the client side, `path` below `/v1/`.
pub(super) async fn client(gusher: &Gusher, mut exchange: Exchange, path: &str) -> Response {
    let Some(segments) = segments(path) else { return not_found() };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if *segments == ["auth"] && *exchange.request.method() == Method::OPTIONS {
        return reply::preflight();
    }
    if let Err(response) = look_up(V3_CLIENT, exchange.request.method(), &segments) {
        return response;
    }
    match *segments {
        ["auth"] => reply::for_any_origin(auth(gusher, &mut exchange).await.unwrap_or_else(|response| response)),
        ["apps", app, "ws"] => {
            let token = Form::new(exchange.request.headers(), b"", exchange.query()).get("token");
            gusher.connect(exchange, app, &token, ClockPolicy::AcceptFutureIat).await
        }
        _ => not_found(),
    }
}

async fn auth(gusher: &Gusher, exchange: &mut Exchange) -> Called {
    let body = exchange.body_of_stranger().await.map_err(BodyError::response)?;
    let jwt = Object::first(&body)
        .and_then(|body| json::optional_string(body.get_any_case("jwt")))
        .ok_or_else(|| reply::client_error(StatusCode::BAD_REQUEST, "body decode fail\n"))?;
    let claims = gusher.tokens.check_for_app(&jwt, exchange.shard.unix_s(), ClockPolicy::AcceptFutureIat);
    match claims.filter(|claims| claims.get().gusher.is_some()) {
        Some(_) => Ok(reply::json(format!("{{\"token\":{}}}\n", json::string(&jwt)))),
        None => Err(reply::client_error(StatusCode::UNAUTHORIZED, "jwt decode fail\n")),
    }
}

/// A call of the master side, `path` below `/v1/`.
pub(super) async fn master(gusher: &Gusher, exchange: Exchange, path: &str) -> Response {
    let Some(segments) = segments(path) else { return not_found() };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = exchange.request.method().clone();
    if let Err(response) = look_up(V3_MASTER, &method, &segments) {
        return response;
    }
    let result = match &*segments {
        ["stats"] => stats(&exchange).await,
        ["apps"] => apps(&exchange).await,
        ["auth", "decode"] => decode(gusher, exchange).await,
        ["apps", key, call @ ..] => match gusher.tokens.app(key) {
            Some(app) => of_app(gusher, exchange, app, call, &method).await,
            None => Err(reply::unknown_app()),
        },
        _ => Err(not_found()),
    };
    result.unwrap_or_else(|response| response)
}

async fn of_app(gusher: &Gusher, exchange: Exchange, app: AppKey, call: &[&str], method: &Method) -> Called {
    match *call {
        ["channels"] => gusher.query(&exchange, Query::Channels(app)).await,
        ["channels", "count"] => gusher.query(&exchange, Query::ChannelCount(app)).await,
        ["users"] => gusher.query(&exchange, Query::Users(app)).await,
        ["users", "count"] => gusher.query(&exchange, Query::UserCount(app)).await,
        ["channels", channel, "users"] => gusher.query(&exchange, Query::Members(app, channel.into())).await,
        ["channels", channel, "users", "count"] => {
            gusher.query(&exchange, Query::MemberCount(app, channel.into())).await
        }
        ["messages"] => push_pattern(exchange, app).await,
        ["messages", "batch"] => push_batch(exchange, app).await,
        ["channels", channel, "messages"] => push(exchange, app, channel).await,
        ["users", user, "messages"] => push_user(exchange, app, user).await,
        ["sockets", socket, "messages"] => push_socket(exchange, app, socket).await,
        ["users", user, "channels"] if *method == Method::PUT => reload(exchange, app, user).await,
        ["users", user, "channels"] => add(exchange, app, user).await,
        _ => Err(not_found()),
    }
}

async fn body(exchange: &mut Exchange) -> Result<Bytes, Response> {
    exchange.body().await.map_err(BodyError::response)
}

fn wrong_body() -> Response {
    reply::bad_request("body decode error")
}

/// A member that must be a string where it is given at all.
fn string(object: &Object<'_>, name: &str) -> Result<String, Response> {
    json::optional_string(object.get_any_case(name)).ok_or_else(wrong_body)
}

fn data(object: &Object<'_>) -> Vec<u8> {
    object.get_any_case("data").map_or("null", RawValue::get).as_bytes().to_vec()
}

async fn push(mut exchange: Exchange, app: AppKey, channel: &str) -> Called {
    let body = body(&mut exchange).await?;
    let object = Object::first(&body).ok_or_else(wrong_body)?;
    let name = string(&object, "event")?;
    if name.is_empty() {
        return Err(reply::bad_request("empty event"));
    }
    let data = data(&object);
    let answer = event_text(channel, &name, &data);
    let event = event(&exchange, &name, data)?;
    exchange
        .shard
        .act(|core| core.publish(&app, Publication::new(ChannelName::from(channel), event)))
        .map_err(reply::rejected)?;
    Ok(reply::json(answer))
}

async fn push_pattern(mut exchange: Exchange, app: AppKey) -> Called {
    let body = body(&mut exchange).await?;
    let object = Object::first(&body).ok_or_else(wrong_body)?;
    let (text, name) = (string(&object, "channel_pattern")?, string(&object, "event")?);
    if text.is_empty() || name.is_empty() {
        return Err(reply::bad_request("empty param"));
    }
    let pattern = pattern(&exchange, &text)?;
    let event = event(&exchange, &name, data(&object))?;
    rest_v1::publish_matching(&exchange, app, pattern, &text, event).await
}

async fn push_batch(mut exchange: Exchange, app: AppKey) -> Called {
    let body = body(&mut exchange).await?;
    let items: Option<Vec<Object<'_>>> =
        serde_json::Deserializer::from_slice(&body).into_iter().next().and_then(Result::ok).ok_or_else(wrong_body)?;
    let items = items.unwrap_or_default();
    let total = rest_v1::publish_batch(&exchange, &app, items, Object::get_any_case, "body decode error")?;
    Ok(reply::json(format!("{{\"total\":{total}}}")))
}

/// The data of a push to a user or socket, as it is.
async fn bare_data(exchange: &mut Exchange) -> Result<String, Response> {
    let body = body(exchange).await?;
    let object = Object::first(&body).ok_or_else(wrong_body)?;
    Ok(object.get_any_case("data").map_or("null", RawValue::get).to_owned())
}

async fn push_user(mut exchange: Exchange, app: AppKey, user: &str) -> Called {
    let data = bare_data(&mut exchange).await?;
    rest_v1::send_to_user(&exchange, &app, user, data.as_bytes(), about_user(user, &data))
}

async fn push_socket(mut exchange: Exchange, app: AppKey, socket: &str) -> Called {
    let data = bare_data(&mut exchange).await?;
    rest_v1::send_to_socket(&exchange, &app, socket, data.as_bytes(), about_socket(socket, &data))
}

async fn add(mut exchange: Exchange, app: AppKey, user: &str) -> Called {
    let body = body(&mut exchange).await?;
    let channel = string(&Object::first(&body).ok_or_else(wrong_body)?, "channel")?;
    if channel.is_empty() {
        return Err(reply::bad_request("channel empty error"));
    }
    rest_v1::add_channel(&exchange, &app, user, &channel).await
}

async fn reload(mut exchange: Exchange, app: AppKey, user: &str) -> Called {
    let body = body(&mut exchange).await?;
    let object = Object::first(&body).ok_or_else(wrong_body)?;
    let given = object.get_any_case("channels").map_or("null", RawValue::get);
    let channels: Option<Vec<String>> = serde_json::from_str(given).map_err(|_| wrong_body())?;
    let told = serde_json::to_string(&channels).unwrap_or_default();
    rest_v1::replace_channels(&exchange, &app, user, channels, about_user(user, &told)).await
}

async fn decode(gusher: &Gusher, mut exchange: Exchange) -> Called {
    let body = body(&mut exchange).await?;
    let jwt = string(&Object::first(&body).ok_or_else(wrong_body)?, "jwt")?;
    match gusher.tokens.check(&jwt, exchange.shard.unix_s(), ClockPolicy::AcceptFutureIat) {
        Some(claims) => Ok(reply::json(claims.get().to_json_v3())),
        None => Err(reply::bad_request("data error")),
    }
}

/// Connections and distinct users of each app that has one, by name.
async fn per_app(exchange: &Exchange) -> Result<Vec<(AppKey, usize, u64)>, Response> {
    let answer = exchange
        .shard
        .ask(|core, request| {
            core.query(request, Query::UsersPerApp);
            Ok(())
        })
        .await
        .map_err(reply::rejected)?;
    let users = if let Answer::PerApp(users) = answer { users } else { Vec::new() };
    let users_of = |app: &AppKey| users.iter().find(|(held, _)| held == app).map_or(0, |(_, count)| *count);
    let mut apps: Vec<_> = exchange
        .shard
        .shared()
        .node
        .admission
        .per_app()
        .into_iter()
        .map(|(app, connections)| {
            let users = users_of(&app);
            (app, connections, users)
        })
        .collect();
    apps.sort();
    Ok(apps)
}

async fn stats(exchange: &Exchange) -> Called {
    let apps = per_app(exchange).await?;
    let connections: usize = apps.iter().map(|(_, connections, _)| connections).sum();
    let users: u64 = apps.iter().map(|(_, _, users)| users).sum();
    Ok(reply::json(format!("{{\"apps\":{},\"connections\":{connections},\"users\":{users}}}", apps.len())))
}

async fn apps(exchange: &Exchange) -> Called {
    let list: Vec<String> = per_app(exchange)
        .await?
        .into_iter()
        .map(|(app, connections, users)| {
            format!("{{\"app\":{},\"connections\":{connections},\"users\":{users}}}", json::string(app.as_str()))
        })
        .collect();
    Ok(reply::json(format!("[{}]", list.join(","))))
}
