//! gusher.cluster's API, v1.13 and v3: a client side for sockets, a master side for backends.
//!
//! Both versions share one set of verbs, tokens and sockets; they differ in paths and in how bodies are written.

mod command;
pub mod dialect;
mod form;
mod reply;
mod rest_v1;
mod rest_v3;
mod session;
pub mod token;

use std::sync::Arc;

use crate::core::{Answer, ChannelName, Data, Event, Permissions, Query, UserId};
use crate::credential::jwt::ClockPolicy;
use crate::ops::health;
use crate::protocol::{GUSHER, json};
use crate::shard::door::{Answering, FrontDoor};
use crate::shard::http::{Exchange, Response};
use crate::shard::ws::session::{Welcome, open};

use rest_v1::Called;
use session::GusherSession;
use token::Tokens;

pub use rest_v1::{V1_CLIENT, V1_MASTER};
pub use rest_v3::{V3_CLIENT, V3_MASTER};

/// Where v3's calls are; its paths are fixed.
const V3_PREFIX: &str = "/v1/";

/// What both sides of gusher know.
pub struct Gusher {
    /// Apps and their keys.
    pub tokens: Tokens,
    /// Prefix of v1's client side, such as `/gcs/`.
    pub client_prefix: String,
    /// Prefix of v1's master side, such as `/api/`.
    pub master_prefix: String,
    /// Answer pings as v1 and v3 really do, not as their API document says.
    pub legacy_pong: bool,
    /// Accept pushes of nothing to users and sockets.
    pub legacy_empty_push: bool,
}

/// The client side: tokens and sockets.
pub struct ClientDoor(pub Arc<Gusher>);

/// The master side: pushes and queries, without credentials.
pub struct MasterDoor(pub Arc<Gusher>);

impl FrontDoor for ClientDoor {
    fn owns(&self, path: &str) -> bool {
        path.starts_with(&self.0.client_prefix)
            || path.strip_prefix(V3_PREFIX).is_some_and(rest_v3::is_client_path)
            || health::owns(path)
    }

    fn answer(&self, exchange: Exchange) -> Answering<'_> {
        Box::pin(async move {
            let path = exchange.path.clone();
            // v1 last: its prefix may be `/`
            if health::owns(&path) {
                health::answer(&exchange).await
            } else if let Some(path) = path.strip_prefix(V3_PREFIX) {
                rest_v3::client(&self.0, exchange, path).await
            } else {
                rest_v1::client(&self.0, exchange, path.strip_prefix(&self.0.client_prefix).unwrap_or("")).await
            }
        })
    }
}

impl FrontDoor for MasterDoor {
    fn owns(&self, path: &str) -> bool {
        // the client side's paths of v3 lie among the master side's
        path.strip_prefix(V3_PREFIX).is_some_and(|path| !rest_v3::is_client_path(path))
            || path.starts_with(&self.0.master_prefix)
            || health::owns(path)
    }

    fn answer(&self, exchange: Exchange) -> Answering<'_> {
        Box::pin(async move {
            let path = exchange.path.clone();
            if health::owns(&path) {
                health::answer(&exchange).await
            } else if let Some(path) = path.strip_prefix(V3_PREFIX) {
                rest_v3::master(&self.0, exchange, path).await
            } else {
                rest_v1::master(&self.0, exchange, path.strip_prefix(&self.0.master_prefix).unwrap_or("")).await
            }
        })
    }
}

impl Gusher {
    /// Opens a socket for whoever holds a token of the app.
    async fn connect(&self, mut exchange: Exchange, app: &str, token: &str, policy: ClockPolicy) -> Response {
        let unix_s = exchange.shard.unix_s();
        let (app, claims) = match self.tokens.admit(app, token, unix_s, policy) {
            Ok(admitted) => admitted,
            Err(error) => return reply::token_error(error),
        };
        let channels = claims.get().channels.iter().flatten().map(String::as_str);
        let welcome = Welcome {
            app,
            user: UserId::from(&*claims.get().user_id),
            permissions: Permissions::new(&claims, channels),
            dialect: GUSHER,
            session: None,
            must_authorize: false,
        };
        let remotes = claims.get().remotes.iter().flatten().filter(|(_, allowed)| **allowed);
        let remotes = remotes.map(|(remote, _)| remote.as_str().into()).collect();
        let legacy_pong = self.legacy_pong;
        let opened =
            open(&mut exchange, welcome, |id| Box::new(GusherSession { id, remotes, legacy_pong, in_flight: None }));
        opened.unwrap_or_else(|refusal| reply::refusal(&refusal))
    }

    /// Asks the node and answers with names or a count, as the question was.
    async fn query(&self, exchange: &Exchange, query: Query) -> Called {
        let answer = exchange
            .shard
            .ask(|core, request| {
                core.query(request, query);
                Ok(())
            })
            .await
            .map_err(reply::rejected)?;
        Ok(match answer {
            Answer::Count(count) => reply::count(count),
            other => reply::names(&other.into_names()),
        })
    }
}

/// Runs every parser of outside bytes of this protocol over `data`: as a client's message, a form, a JSON body and a path.
/// For fuzz targets.
///
/// # Panics
/// If what is passed on as JSON, in any dialect, is none.
pub fn fuzz(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        drop(command::parse(text));
        let _ = (rest_v1::segments(text), rest_v3::segments(text));
    }
    let mut headers = hyper::HeaderMap::new();
    let form_type = hyper::header::HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(hyper::header::CONTENT_TYPE, form_type);
    let field = form::Form::new(&headers, data, "").get("data");
    let event = Event::new(&*field, Data::Value(json::string_or_json(&field).into()), 1);
    super::fuzz_event(&ChannelName::from(&*field), &event);
    if let Some(object) = json::Object::first(data) {
        let _ = json::optional_string(object.get_any_case("channel"));
    }
}
