//! The HTTP API: `/apps/{id}/…`, signed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::core::{
    Access, Answer, ChannelInfo, ChannelKind, ChannelName, ConnectionId, Data, Destination, Event, Publication, Query,
    Rejection, Target, UserId, Which, owner_of,
};
use crate::credential::signature::{AUTH_PARAMETERS, PromisedBody, RequestError, auth_key};
use crate::protocol::apps::App;
use crate::protocol::json::{self, Object};
use crate::shard::http::{BodyError, Exchange, Response};
use crate::shard::route::{self, NoRoute, Route};

use super::idempotency::Known;
use super::{PusherDoor, channel_name_problem, dialect, reply};

/// Longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Every call. A library posts `/users/{id}/terminate_connections` without its app.
pub const ROUTES: &[Route] = &[
    ("POST", "/apps/{app_id}/events"),
    ("POST", "/apps/{app_id}/batch_events"),
    ("GET", "/apps/{app_id}/channels"),
    ("GET", "/apps/{app_id}/channels/{channel}"),
    ("GET", "/apps/{app_id}/channels/{channel}/users"),
    ("POST", "/apps/{app_id}/channels/{channel}/events"),
    ("POST", "/apps/{app_id}/users/{user_id}/terminate_connections"),
    ("POST", "/users/{user_id}/terminate_connections"),
];

/// A call, by the shape of its path; names as they stand in the path.
enum Call<'a> {
    Events,
    BatchEvents,
    Channels,
    Channel(&'a str),
    Users(&'a str),
    Terminate(&'a str),
    /// Deprecated: one event, its data the body.
    ChannelEvents(&'a str),
}

/// Whether a path belongs to the API.
pub(super) fn owns(path: &str) -> bool {
    let below = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    below("/apps") || below("/users")
}

impl<'a> Call<'a> {
    fn of(segments: &[&'a str]) -> Option<Self> {
        Some(match *segments {
            ["events"] => Call::Events,
            ["batch_events"] => Call::BatchEvents,
            ["channels"] => Call::Channels,
            ["channels", channel] => Call::Channel(channel),
            ["channels", channel, "users"] => Call::Users(channel),
            ["channels", channel, "events"] => Call::ChannelEvents(channel),
            ["users", user, "terminate_connections"] => Call::Terminate(user),
            _ => return None,
        })
    }
}

/// The answer to a publish that asks for no counts.
const DONE: Bytes = Bytes::from_static(b"{}");

/// What a call comes to: the words of success, or those of what went wrong.
type Called = Result<Response, Response>;

/// Answers a request for a path of the API.
pub(super) async fn answer(door: &PusherDoor, exchange: Exchange) -> Response {
    let response = match *exchange.request.method() {
        Method::OPTIONS => reply::preflight(),
        _ => call(door, exchange).await.unwrap_or_else(|response| response),
    };
    reply::for_any_origin(response)
}

async fn call(door: &PusherDoor, mut exchange: Exchange) -> Called {
    let path = exchange.path.clone();
    let segments: SmallVec<[&str; 8]> = path.trim_end_matches('/').split('/').skip(1).collect();
    let unknown = || reply::refuse(StatusCode::NOT_FOUND, "Unknown path: the API is below /apps/APP_ID");
    let (app, rest) = match &segments[..] {
        ["apps", id, rest @ ..] => {
            let id = decoded(id);
            (door.apps.by_id(&id).ok_or_else(|| reply::unknown_app(&id))?, rest)
        }
        rest @ ["users", ..] => {
            let key = auth_key(exchange.query()).unwrap_or_default();
            let words = RequestError::MissingParameter("auth_key");
            let unknown = if key.is_empty() { words } else { RequestError::UnknownKey };
            let app = door.apps.by_key(&key);
            (app.ok_or_else(|| reply::unauthorized(&unknown, exchange.shard.unix_s()))?, rest)
        }
        _ => return Err(unknown()),
    };
    let app = app.clone();
    route::find(ROUTES, exchange.request.method(), &segments).map_err(|no_route| match no_route {
        NoRoute::Path => unknown(),
        NoRoute::Method(allow) => reply::method_not_allowed(&allow),
    })?;
    let call = Call::of(rest).ok_or_else(unknown)?;
    let promised = check_signature(&app, &exchange)?;
    if !app.options.enabled {
        return Err(reply::refuse(StatusCode::FORBIDDEN, "The app is disabled"));
    }
    let body = exchange.body().await.map_err(BodyError::response)?;
    let has_parameters = promised.has_more_parameters;
    promised.check_body(&body).map_err(|error| reply::unauthorized(&error, exchange.shard.unix_s()))?;
    let key = idempotency_key(&exchange)?;
    let signed = Signed { door, exchange: &exchange, app: &app, body: &body, key, has_parameters };
    if *exchange.request.method() == Method::GET {
        signed.take_read()?;
    }
    match call {
        // pinned here: who takes a future by value has room for it several times over
        Call::Events => signed.once(pin!(signed.events())).await,
        Call::BatchEvents => signed.once(pin!(signed.batch_events())).await,
        // its answers are not kept
        Call::ChannelEvents(channel) => Signed { key: None, ..signed }.channel_events(&decoded(channel)),
        Call::Channels => signed.channels().await,
        Call::Channel(channel) => signed.channel(&decoded(channel)).await,
        Call::Users(channel) => signed.users(&decoded(channel)).await,
        Call::Terminate(user) => signed.terminate(&decoded(user)),
    }
}

fn idempotency_key(exchange: &Exchange) -> Result<Option<&str>, Response> {
    let Some(key) = exchange.request.headers().get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()));
    let words = format!("Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters");
    key.map(Some).ok_or_else(|| reply::bad_request(words))
}

fn decoded(segment: &str) -> Cow<'_, str> {
    if segment.contains('%') { percent_decode_str(segment).decode_utf8_lossy() } else { Cow::Borrowed(segment) }
}

/// The signature covers the path as its maker sent it: with the prefix of the listener, or without, if a proxy added it.
fn check_signature(app: &App, exchange: &Exchange) -> Result<PromisedBody, Response> {
    let (method, query) = (exchange.request.method().as_str(), exchange.query());
    let (unix_s, full_path) = (exchange.shard.unix_s(), exchange.request.uri().path());
    let check = |path| app.secrets.check_head(method, path, query, unix_s);
    let checked = match check(full_path) {
        Err(RequestError::Signature { .. }) if full_path != exchange.path => check(&exchange.path),
        checked => checked,
    };
    checked.map_err(|error| reply::unauthorized(&error, unix_s))
}

/// A request whose signature counts.
#[derive(Clone, Copy)]
struct Signed<'a> {
    door: &'a PusherDoor,
    exchange: &'a Exchange,
    app: &'a Arc<App>,
    body: &'a Bytes,
    /// `Idempotency-Key`.
    key: Option<&'a str>,
    /// The query has parameters besides those of the signature.
    has_parameters: bool,
}

/// An event of a publish, and which counts its publisher asks for.
struct Item {
    publications: Vec<Publication>,
    info: Info,
}

/// Which counts a caller asks for.
#[derive(Clone, Copy, Default)]
struct Info {
    user_count: bool,
    subscription_count: bool,
    cache: bool,
}

impl Info {
    fn parse(text: &str) -> Self {
        let asked = |name| text.split(',').any(|word| word.trim() == name);
        Self { user_count: asked("user_count"), subscription_count: asked("subscription_count"), cache: asked("cache") }
    }

    fn is_any(self) -> bool {
        self.user_count || self.subscription_count
    }

    /// The members of a JSON object that say what was asked for and applies to the channel.
    fn counts(self, info: &ChannelInfo) -> Vec<String> {
        let is_presence = ChannelKind::of(info.name.as_str()).access == Access::Presence;
        let users = self.user_count && is_presence;
        let subscriptions = self.subscription_count;
        let counts = [
            users.then(|| format!("\"user_count\":{}", info.members)),
            subscriptions.then(|| format!("\"subscription_count\":{}", info.subscriptions)),
        ];
        counts.into_iter().flatten().collect()
    }
}

impl Signed<'_> {
    fn take_read(&self) -> Result<(), Response> {
        let now_ms = self.exchange.shard.now_ms();
        let is_taken = self.app.rates.reads.take(1, self.app.options.reads_per_s, now_ms);
        is_taken.then_some(()).ok_or_else(|| self.rejected(Rejection::RateLimited))
    }

    fn take_publishes(&self, count: usize) -> Result<(), Response> {
        let now_ms = self.exchange.shard.now_ms();
        let is_taken = self.app.rates.publishes.take(count as u64, self.app.options.publishes_per_s, now_ms);
        is_taken.then_some(()).ok_or_else(|| self.rejected(Rejection::RateLimited))
    }

    /// A refusal that is not the core's, counted as if it were.
    fn rejected(&self, rejection: Rejection) -> Response {
        reply::rejected(self.exchange.shard.act(|core| core.rejected(rejection)))
    }

    /// Carries out a publish, or answers as an earlier one with the same `Idempotency-Key` was answered.
    async fn once(&self, publish: impl Future<Output = Result<Bytes, Response>>) -> Called {
        let Some(key) = self.key else { return publish.await.map(reply::json) };
        let settings = self.exchange.shard.settings();
        let limits = &settings.limits;
        let window_ms = limits.idempotency_window.as_millis() as u64;
        let (app, now_ms) = (&self.app.key, self.exchange.shard.now_ms());
        let store = &self.door.idempotency;
        let fingerprint = self.fingerprint();
        match store.begin(app, key, fingerprint, now_ms, (window_ms, limits.idempotency_keys_max)) {
            Known::New => {}
            Known::Answered(body) => return Ok(reply::json(body)),
            Known::UnderWay => {
                let words = "A request with this Idempotency-Key is under way, try again";
                return Err(reply::refuse(StatusCode::CONFLICT, words));
            }
            Known::OtherRequest => {
                let words = "This Idempotency-Key was used for another request";
                return Err(reply::bad_request(words));
            }
        }
        let answered = publish.await;
        store.end(app, key, answered.as_ref().ok().cloned());
        answered.map(reply::json)
    }

    /// Tells requests apart by what they say: not by their signature, which is new each time.
    fn fingerprint(&self) -> u128 {
        use std::hash::{BuildHasher, Hasher};
        let half = |seed| {
            let mut hasher = foldhash::quality::FixedState::with_seed(seed).build_hasher();
            hasher.write(self.exchange.path.as_bytes());
            for (name, value) in self.parameters().filter(|(name, _)| !AUTH_PARAMETERS.contains(&&**name)) {
                hasher.write(name.as_bytes());
                hasher.write(unescaped(value).as_bytes());
            }
            hasher.write(self.body);
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }

    // ------------------------------------------------------------------ publishing

    async fn events(&self) -> Result<Bytes, Response> {
        let object = self.object()?;
        let item = self.item(&object, true)?;
        if !item.info.is_any() {
            self.publish(item.publications, 1)?;
            return Ok(DONE);
        }
        let names: Vec<ChannelName> = item.publications.iter().filter_map(channel_of).collect();
        self.publish(item.publications, 1)?;
        let infos = self.describe(Which::Named(names.into())).await?;
        let counts = |info: &ChannelInfo| {
            format!("{}:{{{}}}", json::string(info.name.as_str()), item.info.counts(info).join(","))
        };
        let channels: Vec<String> = infos.iter().map(counts).collect();
        Ok(format!("{{\"channels\":{{{}}}}}", channels.join(",")).into())
    }

    async fn batch_events(&self) -> Result<Bytes, Response> {
        let object = self.object()?;
        let batch = object.get("batch").ok_or_else(|| reply::missing("batch"))?;
        let batch: Vec<Object<'_>> = serde_json::from_str(batch.get())
            .map_err(|_| reply::bad_request("Invalid parameter: batch must be a list of events"))?;
        let settings = self.exchange.shard.settings();
        let events_max = settings.limits.pusher_batch_events_max;
        if batch.len() > events_max {
            return Err(reply::bad_request(format!("Batch too large ({} > {events_max})", batch.len())));
        }
        let items: Result<Vec<Item>, Response> = batch.iter().map(|event| self.item(event, false)).collect();
        let mut items = items?;
        let is_asked = items.iter().any(|item| item.info.is_any());
        let first_of = |item: &Item| item.publications.first().and_then(channel_of);
        let names: Vec<Option<ChannelName>> = if is_asked { items.iter().map(first_of).collect() } else { Vec::new() };
        let publications = items.iter_mut().flat_map(|item| std::mem::take(&mut item.publications)).collect();
        self.publish(publications, items.len())?;
        if !is_asked {
            return Ok(DONE);
        }
        let asked: Vec<ChannelName> = names.iter().flatten().cloned().collect();
        let infos = self.describe(Which::Named(asked.into())).await?;
        let counts = |(item, name): (&Item, &Option<ChannelName>)| {
            let info = name.as_ref().and_then(|name| infos.iter().find(|info| info.name == *name));
            format!("{{{}}}", info.map(|info| item.info.counts(info).join(",")).unwrap_or_default())
        };
        let counts: Vec<String> = items.iter().zip(&names).map(counts).collect();
        Ok(format!("{{\"batch\":[{}]}}", counts.join(",")).into())
    }

    /// The deprecated call: `?name=…&socket_id=…`, the body being the data.
    fn channel_events(&self, channel: &str) -> Called {
        let name = self.parameter("name").ok_or_else(|| reply::missing("name"))?;
        let text = str::from_utf8(self.body).map_err(|_| reply::bad_request("The body is not UTF-8"))?;
        check_data(text.len(), self.app.options.event_bytes_max)?;
        let event = self.event(&name, Data::Encoded(json::string(text).into()))?;
        let target = target(self.parameter("socket_id").as_deref())?;
        self.publish(vec![Publication { to: self.destination(channel)?, event, target }], 1)?;
        let mut response = reply::json("{}");
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    fn publish(&self, publications: Vec<Publication>, count: usize) -> Result<(), Response> {
        self.take_publishes(count)?;
        let published = self.exchange.shard.act(|core| core.publish_all(&self.app.key, publications));
        published.map_err(reply::rejected)?;
        if let Some(key) = self.key {
            // whatever happens from here on, it must not be published again
            self.door.idempotency.end(&self.app.key, key, Some(DONE));
        }
        Ok(())
    }

    fn object(&self) -> Result<Object<'_>, Response> {
        if self.body.is_empty() {
            return Ok(Object::default());
        }
        let wrong = || reply::bad_request("Invalid JSON: the body must be a JSON object");
        serde_json::from_slice(self.body).map_err(|_| wrong())
    }

    /// One event as its publisher wrote it; `alone`: not one of a batch, so it may be for several channels, and have its
    /// parameters in the query.
    fn item(&self, object: &Object<'_>, alone: bool) -> Result<Item, Response> {
        let text = |parameter: &str| -> Result<Option<String>, Response> {
            Ok(string(object, parameter)?.or_else(|| if alone { self.parameter(parameter) } else { None }))
        };
        let name = text("name")?.ok_or_else(|| reply::missing("name"))?;
        let mut channels: Vec<String> = text("channel")?.into_iter().collect();
        if alone {
            channels.extend(list_of_channels(object)?);
            let listed = self.parameters().filter(|(name, _)| name == "channels[]");
            channels.extend(listed.map(|(_, value)| unescaped(value).into_owned()));
        }
        if channels.len() > 1 {
            let mut seen = HashSet::new();
            channels.retain(|channel| seen.insert(channel.clone()));
        }
        if channels.is_empty() {
            return Err(reply::missing("channel"));
        }
        let settings = self.exchange.shard.settings();
        let channels_max = settings.limits.event_channels_max;
        if channels.len() > channels_max {
            return Err(reply::bad_request(format!("Too many channels ({} > {channels_max})", channels.len())));
        }
        let data = match object.get("data") {
            Some(value) => data(value, self.app.options.event_bytes_max)?,
            None if alone => {
                let text = self.parameter("data").ok_or_else(|| reply::missing("data"))?;
                Data::Encoded(json::string(&text).into())
            }
            None => return Err(reply::missing("data")),
        };
        let event = self.event(&name, data)?;
        let target = target(text("socket_id")?.as_deref())?;
        let publication = |channel: &String| -> Result<Publication, Response> {
            Ok(Publication { to: self.destination(channel)?, event: event.clone(), target: target.clone() })
        };
        let publications = channels.iter().map(publication).collect::<Result<_, _>>()?;
        Ok(Item { publications, info: Info::parse(&text("info")?.unwrap_or_default()) })
    }

    fn event(&self, name: &str, data: Data) -> Result<Event, Response> {
        let bytes_max = self.exchange.shard.settings().limits.event_name_bytes_max;
        if name.len() > bytes_max {
            return Err(reply::bad_request(format!("Invalid event name: over {bytes_max} bytes")));
        }
        if name.is_empty() {
            return Err(reply::missing("name"));
        }
        Ok(Event::new(name, data, self.exchange.shard.event_id()))
    }

    fn destination(&self, channel: &str) -> Result<Destination, Response> {
        if let Some(user) = owner_of(channel) {
            return Ok(Destination::SignedIn(UserId::from(user)));
        }
        self.channel_name(channel).map(Destination::Channel)
    }

    fn channel_name(&self, channel: &str) -> Result<ChannelName, Response> {
        let settings = self.exchange.shard.settings();
        match channel_name_problem(channel, &settings.limits, self.app.options.legacy_channel_names) {
            Some(problem) => Err(reply::bad_request(problem)),
            None => Ok(ChannelName::from(channel)),
        }
    }

    // ------------------------------------------------------------------ queries

    async fn channels(&self) -> Called {
        let prefix = self.parameter("filter_by_prefix").unwrap_or_default();
        let info = Info::parse(&self.parameter("info").unwrap_or_default());
        if info.user_count && !prefix.starts_with("presence-") {
            // the words are the original's, spelling and all: clients may compare them
            return Err(reply::bad_request(
                "user_count may only be requested for presence channels - \
                 please supply filter_by_prefix begining with presence-",
            ));
        }
        let mut infos = self.describe(Which::Occupied(prefix.into())).await?;
        infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let channel =
            |found: &ChannelInfo| format!("{}:{{{}}}", json::string(found.name.as_str()), info.counts(found).join(","));
        let channels: Vec<String> = infos.iter().map(channel).collect();
        Ok(reply::json(format!("{{\"channels\":{{{}}}}}", channels.join(","))))
    }

    async fn channel(&self, channel: &str) -> Called {
        let name = self.channel_name(channel)?;
        let info = Info::parse(&self.parameter("info").unwrap_or_default());
        let kind = ChannelKind::of(channel);
        if info.user_count && kind.access != Access::Presence {
            return Err(reply::bad_request("Cannot retrieve the user count unless the channel is a presence channel"));
        }
        let infos = self.describe(Which::Named([name].into())).await?;
        let Some(found) = infos.first() else { return Err(reply::rejected(Rejection::Overloaded)) };
        let mut members = vec![format!("\"occupied\":{}", found.subscriptions > 0)];
        members.extend(info.counts(found));
        if info.cache && kind.is_cache {
            let cached = found.cached.as_ref().map(|(event, left_ms)| {
                format!("{{\"data\":{},\"ttl\":{}}}", dialect::data_text(&event.data), left_ms.div_ceil(1000))
            });
            members.push(format!("\"cache\":{}", cached.as_deref().unwrap_or("null")));
        }
        Ok(reply::json(format!("{{{}}}", members.join(","))))
    }

    async fn users(&self, channel: &str) -> Called {
        let name = self.channel_name(channel)?;
        let extraneous: Vec<String> = self
            .parameters()
            .map(|(name, _)| name.into_owned())
            .filter(|name| !AUTH_PARAMETERS.contains(&&**name))
            .collect();
        if !extraneous.is_empty() {
            let names = extraneous.join(", ");
            return Err(reply::bad_request(format!("The following query string parameters are extraneous: {names}")));
        }
        if ChannelKind::of(channel).access != Access::Presence {
            return Err(reply::bad_request("Users can only be retrieved for presence channels"));
        }
        let users = self.ask(Query::Present(self.app.key.clone(), name)).await?.into_names();
        let users: Vec<String> = users.iter().map(|user| format!("{{\"id\":{}}}", json::string(user))).collect();
        Ok(reply::json(format!("{{\"users\":[{}]}}", users.join(","))))
    }

    fn terminate(&self, user: &str) -> Called {
        self.take_publishes(1)?;
        self.exchange.shard.act(|core| core.terminate(&self.app.key, UserId::from(user)));
        Ok(reply::json("{}"))
    }

    async fn describe(&self, which: Which) -> Result<Vec<ChannelInfo>, Response> {
        match self.ask(Query::Describe(self.app.key.clone(), which)).await? {
            Answer::Channels(channels) => Ok(channels),
            _ => Ok(Vec::new()),
        }
    }

    async fn ask(&self, query: Query) -> Result<Answer, Response> {
        let asked = self.exchange.shard.ask(|core, request| {
            core.query(request, query);
            Ok(())
        });
        // boxed: most requests ask nothing, and should not have to carry it
        Box::pin(asked).await.map_err(reply::rejected)
    }

    fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().find(|(found, _)| found == name).map(|(_, value)| unescaped(value).into_owned())
    }

    /// Parameters of the query: names, and values as they stand there.
    fn parameters(&self) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
        parameters(if self.has_parameters { self.exchange.query() } else { "" })
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (unescaped(name), value))
}

/// A name or value of a query, decoded.
fn unescaped(text: &str) -> Cow<'_, str> {
    if text.contains('+') { Cow::Owned(decoded(&text.replace('+', " ")).into_owned()) } else { decoded(text) }
}

/// A parameter that is a string, if it is there and not `null`.
fn string(object: &Object<'_>, parameter: &str) -> Result<Option<String>, Response> {
    let value = object.get(parameter).map(|value| serde_json::from_str(value.get()));
    let wrong = |_| reply::bad_request(format!("Invalid parameter: {parameter} must be a string"));
    value.transpose().map(Option::flatten).map_err(wrong)
}

fn list_of_channels(object: &Object<'_>) -> Result<Vec<String>, Response> {
    let list = object.get("channels").map(|value| serde_json::from_str::<Option<_>>(value.get()));
    let wrong = |_| reply::bad_request("Invalid parameter: channels must be a list of strings");
    list.transpose().map(|list| list.flatten().unwrap_or_default()).map_err(wrong)
}

/// A string is data that was encoded; anything else is passed on as the value that it is.
fn data(value: &RawValue, bytes_max: usize) -> Result<Data, Response> {
    let json = Bytes::copy_from_slice(value.get().as_bytes());
    if !value.get().starts_with('"') {
        check_data(json.len(), bytes_max)?;
        return Ok(Data::Value(json));
    }
    // the limit is on what the string holds; only one with escapes has to be decoded for that. What half a surrogate
    // pair keeps from being decoded counts as it is written.
    let is_plain = !json.contains(&b'\\');
    let bytes = if is_plain {
        json.len() - 2
    } else {
        serde_json::from_str(value.get()).map_or(json.len() - 2, |text: Cow<'_, str>| text.len())
    };
    check_data(bytes, bytes_max)?;
    Ok(Data::Encoded(json))
}

fn check_data(bytes: usize, bytes_max: usize) -> Result<(), Response> {
    if bytes > bytes_max { Err(reply::data_too_large(bytes_max)) } else { Ok(()) }
}

fn channel_of(publication: &Publication) -> Option<ChannelName> {
    match &publication.to {
        Destination::Channel(channel) => Some(channel.clone()),
        Destination::SignedIn(_) => None,
    }
}

/// Everybody, or everybody but the connection that caused the event. One that is not there leaves nobody out.
fn target(socket_id: Option<&str>) -> Result<Target, Response> {
    let is_number = |half: &str| !half.is_empty() && half.bytes().all(|byte| byte.is_ascii_digit());
    match socket_id.filter(|text| !text.is_empty()) {
        None => Ok(Target::All),
        Some(text) if text.split_once('.').is_some_and(|(a, b)| is_number(a) && is_number(b)) => {
            Ok(ConnectionId::from_dotted(text).map_or(Target::All, Target::Except))
        }
        Some(text) => Err(reply::bad_request(format!("Invalid socket id: {}", super::command::short(text)))),
    }
}

/// Runs the parsers of requests over `bytes`: as a body, a query, a path. For fuzz targets.
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<Object<'_>>(bytes) {
        let batch = object.get("batch").and_then(|batch| serde_json::from_str::<Vec<Object<'_>>>(batch.get()).ok());
        for object in batch.into_iter().flatten().chain([object]) {
            let text = |parameter| string(&object, parameter).unwrap_or_default().unwrap_or_default();
            let _ = (Info::parse(&text("info")), target(Some(&text("socket_id"))));
            let channels = list_of_channels(&object).unwrap_or_default();
            if let Some(Ok(data)) = object.get("data").map(|value| data(value, usize::MAX)) {
                let channel = channels.into_iter().next().unwrap_or_else(|| text("channel"));
                crate::protocol::fuzz_event(&ChannelName::from(&*channel), &Event::new(text("name"), data, 1));
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let segments: Vec<&str> = text.split('/').collect();
    let _ = (
        Call::of(&segments).is_some(),
        owns(&text),
        target(Some(&text)),
        parameters(&text).map(|(_, value)| unescaped(value).len()).sum::<usize>(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_on_what_the_data_holds() {
        let check = |json: &str, bytes_max: usize, fits: bool| {
            let value: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(data(value, bytes_max).is_ok(), fits, "{json}");
        };
        check(r#""abc""#, 3, true);
        check(r#""abcd""#, 3, false);
        check(r#""\u0061\n\"""#, 3, true);
        check(r#""\u0061\n\"a""#, 3, false);
        check("[1]", 3, true);
        check("[12]", 3, false);
        check(r#""\ud800""#, 6, true);
        check(r#""\ud800""#, 5, false); // cannot be decoded, and has a limit none the less
    }
}
