//! HTTP/1 on a shard: one connection at a time, trust checks, and the way to the front door that owns a path.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::listener::{Listener, Trust};
use super::stream::Stream;
use super::tls::handshake::shake_hands;
use super::{Running, Shard, Shared};
use crate::core::Settings;
use crate::credential::constant_time_eq;

/// A response; bodies here are short and complete.
pub type Response = hyper::Response<Full<Bytes>>;

/// A request on its way to its front door.
pub struct Exchange {
    /// The request; its path still has the listener's prefix.
    pub request: hyper::Request<Incoming>,
    /// The raw path, without the listener's prefix.
    pub path: String,
    /// The client's address: the peer's, or what a trusted proxy says.
    pub client: Option<IpAddr>,
    /// Where the request is.
    pub shard: Rc<Shard>,
    pub(super) seat: Rc<Seat>,
    pub(super) visitor: Rc<Visitor>,
    /// The settings in force when the request came.
    pub(super) settings: Arc<Settings>,
}

/// Why a body was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// Over a limit: its bytes and its name.
    TooLarge(usize, &'static str),
    /// Not there after `request_timeout`.
    Late,
    /// The client went away, or sent something that is no body.
    Broken,
}

impl BodyError {
    /// What the client is told, in plain text; the connection ends with it.
    pub fn response(self) -> Response {
        let (status, words) = match self {
            BodyError::TooLarge(bytes_max, limit) => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over {bytes_max} bytes (limits.{limit})\n"))
            }
            BodyError::Late => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n".to_owned()),
            BodyError::Broken => (StatusCode::BAD_REQUEST, "the body could not be read\n".to_owned()),
        };
        let mut response = text(status, words);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

impl Exchange {
    /// The query string; empty if there is none.
    pub fn query(&self) -> &str {
        self.request.uri().query().unwrap_or("")
    }

    /// Reads the whole body, up to `body_bytes_max`.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn body(&mut self) -> Result<Bytes, BodyError> {
        let bytes_max = self.settings.limits.body_bytes_max;
        self.body_up_to(bytes_max, "body_bytes_max").await
    }

    /// Reads the body of somebody of whom nothing is known yet. It holds a token, which must fit into a request line
    /// later: up to `header_bytes_max`, for what is held for all strangers together must stay small.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn body_of_stranger(&mut self) -> Result<Bytes, BodyError> {
        let limits = &self.settings.limits;
        let header_bytes_max = limits.header_bytes_max;
        if header_bytes_max < limits.body_bytes_max {
            self.body_up_to(header_bytes_max, "header_bytes_max").await
        } else {
            self.body().await
        }
    }

    async fn body_up_to(&mut self, bytes_max: usize, limit: &'static str) -> Result<Bytes, BodyError> {
        let too_large = BodyError::TooLarge(bytes_max, limit);
        let request_timeout = self.settings.limits.request_timeout;
        let body = self.request.body_mut();
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large);
        }
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        match tokio::time::timeout(request_timeout, Limited::new(body, bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
            Ok(Err(_)) => Err(BodyError::Broken),
            Err(_) => Err(BodyError::Late),
        }
    }
}

/// A response with a body of that type.
pub fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    response(status, "text/plain; charset=utf-8", body)
}

/// An unknown path.
pub fn not_found() -> Response {
    sniff_not(text(StatusCode::NOT_FOUND, "404 page not found\n"))
}

/// A response that names the methods there are: `GET, HEAD`.
pub fn allow(mut response: Response, methods: &str) -> Response {
    if let Ok(methods) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

/// Tells browsers not to guess at the type.
pub fn sniff_not(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Counts a socket on its listener and shard while it lives.
pub(super) struct Seat {
    listener: Arc<Listener>,
    shard: usize,
}

impl Seat {
    pub(super) fn take(listener: Arc<Listener>, shard: usize) -> Self {
        listener.seats[shard].fetch_add(1, Ordering::Relaxed);
        Self { listener, shard }
    }

    /// Whether its listener speaks TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.listener.tls.is_some()
    }

    /// Whether messages may be deflated on its listener.
    pub(super) fn deflates(&self) -> bool {
        self.listener.deflates
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.listener.seats[self.shard].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a socket that is not a client connection.
pub(super) struct Visitor {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
}

impl Visitor {
    /// One more on the node and on its listener; none if that has as many as it may have.
    fn enter(shared: Arc<Shared>, listener: Arc<Listener>, max: usize) -> Option<Self> {
        shared.http_connections.fetch_add(1, Ordering::Relaxed);
        let is_admitted = listener.visitors.fetch_add(1, Ordering::Relaxed) < max;
        let visitor = Self { shared, listener };
        is_admitted.then_some(visitor)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.shared.http_connections.fetch_sub(1, Ordering::Relaxed);
        self.listener.visitors.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one accepted socket until it is closed or becomes a client connection.
pub(super) async fn serve(shard: Rc<Shard>, seat: Seat, stream: Stream) {
    let shared = shard.shared.clone();
    let settings = shard.settings();
    let limits = &settings.limits;
    let (listener, seat) = (seat.listener.clone(), Rc::new(seat));
    let max = limits.http_connections_max;
    let Some(visitor) = Visitor::enter(shared.clone(), listener.clone(), max).map(Rc::new) else {
        shard.core.borrow_mut().stats_mut().http_connections_refused += 1;
        return;
    };
    let peer = stream.peer();
    let first_due = Instant::now() + limits.handshake_timeout;
    let stream = match (stream, &listener.tls) {
        // boxed: the handshake is over before the first request, and its size must not stay
        (Stream::Tcp(socket), Some(tls)) => match Box::pin(shake_hands(&shard, tls, socket, first_due)).await {
            Some(stream) => Stream::Tls(Box::new(stream)),
            None => return,
        },
        (stream, _) => stream,
    };
    let due = Rc::new(Due::first(first_due));
    let keep_alive = limits.keep_alive_timeout;
    let (due_of_service, shard_of_service) = (due.clone(), shard.clone());
    let service = service_fn(move |request| {
        let (due, shard, seat, visitor) =
            (due_of_service.clone(), shard_of_service.clone(), seat.clone(), visitor.clone());
        let listener = seat.listener.clone();
        async move {
            let _running = Running::new(shard.clone());
            due.began.set(true);
            due.at.set(None);
            let response = unless_panics(respond(shard.clone(), (seat, visitor), peer, request)).await;
            let mut response = response.unwrap_or_else(|| internal_error(&shard));
            if !listener.stays_open && *shard.shared.draining.borrow() {
                response.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
            }
            due.at.set(Some(Instant::now() + keep_alive));
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None)
            .title_case_headers(true)
            .max_buf_size(limits.header_bytes_max)
            .max_header_size(limits.header_bytes_max)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let mut overdue = std::pin::pin!(due.passed(keep_alive));
    let mut draining = shared.draining.clone();
    let mut drain = std::pin::pin!(draining.wait_for(|draining| *draining));
    let mut waits_for_drain = !listener.stays_open;
    loop {
        tokio::select! {
            _ = &mut connection => return,
            () = &mut overdue => return,
            _ = &mut drain, if waits_for_drain => {
                waits_for_drain = false;
                // one that has yet to send its first request may just have been accepted: it is still served
                if due.began.get() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Waits for a future; none if it panics, which costs nobody else anything.
async fn unless_panics<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

fn internal_error(shard: &Shard) -> Response {
    shard.core.borrow_mut().stats_mut().panics += 1;
    let mut response = text(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// By when a connection must have moved on: read the last answer, and sent the headers of its next request.
struct Due {
    /// `None` while a request is answered, which has limits of its own.
    at: Cell<Option<Instant>>,
    /// The headers of a first request have come.
    began: Cell<bool>,
}

impl Due {
    fn first(at: Instant) -> Self {
        Self { at: Cell::new(Some(at)), began: Cell::new(false) }
    }

    /// Waits until the time has passed. `keep_alive`: how long after an answer that is; the first time may be sooner.
    async fn passed(&self, keep_alive: Duration) {
        loop {
            let now = Instant::now();
            match self.at.get() {
                Some(at) if at <= now => return,
                // whatever is set meanwhile is no sooner than `keep_alive` from now
                at => tokio::time::sleep_until(at.map_or(now + keep_alive, |at| at.min(now + keep_alive))).await,
            }
        }
    }
}

async fn respond(
    shard: Rc<Shard>,
    (seat, visitor): (Rc<Seat>, Rc<Visitor>),
    peer: Option<IpAddr>,
    request: hyper::Request<Incoming>,
) -> Response {
    let listener = &*seat.listener.clone();
    let client = listener.client(peer, request.headers());
    if let Err(words) = check_trust(listener, client, &request) {
        return text(StatusCode::FORBIDDEN, words);
    }
    let Some(path) = request.uri().path().strip_prefix(&*listener.path_prefix) else {
        return not_found();
    };
    let path = path.to_owned();
    let (doors, settings) = (shard.doors.borrow().clone(), shard.settings());
    match doors[listener.index].iter().find(|door| door.owns(&path)) {
        Some(door) => door.answer(Exchange { request, path, client, shard, seat, visitor, settings }).await,
        None => not_found(),
    }
}

/// What a listener demands of everyone; `Err` says in words what is missing.
fn check_trust<B>(listener: &Listener, client: Option<IpAddr>, request: &hyper::Request<B>) -> Result<(), String> {
    let Trust { allow, token, hosts, trusted } = &listener.trust;
    if !allow.is_empty()
        && let Some(client) = client
        && !allow.iter().any(|net| net.contains(&client))
    {
        return Err(format!("{client} is not in this listener's allow list\n"));
    }
    if let Some(token) = token {
        let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let scheme = given.len().min(b"Bearer ".len());
        let (scheme, given) = given.split_at(scheme);
        let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
        if !is_bearer || !constant_time_eq(given, token.expose().as_bytes()) {
            return Err("this listener needs its token: Authorization: Bearer …\n".to_owned());
        }
    }
    if *trusted {
        check_same_site(request.uri(), request.headers(), hosts)?;
    }
    Ok(())
}

/// A web page of another site, open in a browser near the server, must not use an API that asks for no credentials:
/// neither directly (foreign `Origin`) nor by a name that its owner points here (foreign `Host`).
fn check_same_site(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> Result<(), String> {
    let host =
        headers.get(header::HOST).and_then(|host| host.to_str().ok()).or_else(|| uri.authority().map(|a| a.as_str()));
    let Some(host) = host else { return Ok(()) };
    let name = without_port(host);
    // a public name has a dot in it; service names of a private network do not
    let is_near = !name.contains('.') || name.parse::<IpAddr>().is_ok();
    if !is_near && !hosts.iter().any(|listed| listed == "*" || listed.eq_ignore_ascii_case(name)) {
        return Err(format!("the name {name:?} is not among this listener's hosts\n"));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let site = origin.split_once("://").map_or("", |(_, site)| site);
        if !site.eq_ignore_ascii_case(host) {
            return Err(format!("requests from pages of {origin:?} are not accepted here\n"));
        }
    }
    Ok(())
}

fn without_port(host: &str) -> &str {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.split(']').next().unwrap_or(v6);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_site() {
        let check = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            check_same_site(&Uri::from_static("/"), &headers, &["push.example.org".to_owned()]).is_ok()
        };
        for (host, origin, expected) in [
            ("127.0.0.1:6002", None, true),
            ("[::1]:6002", None, true),
            ("localhost:6002", None, true),
            ("hydrant:6002", None, true),
            ("push.example.org", None, true),
            ("PUSH.example.org:80", None, true),
            ("evil.example.org:6002", None, false),
            ("127.0.0.1.evil.org", None, false),
            ("127.0.0.1:6002", Some("http://127.0.0.1:6002"), true),
            ("127.0.0.1:6002", Some("http://127.0.0.1:8080"), false),
            ("127.0.0.1:6002", Some("https://evil.example.org"), false),
            ("127.0.0.1:6002", Some("null"), false),
        ] {
            assert_eq!(check(host, origin), expected, "{host} {origin:?}");
        }
    }
}
