//! `/healthz`, `/readyz`, `/version`: on the ops listener, beside Pusher's doors, and on gusher's two sides as its v3 has them.

use hyper::{Method, StatusCode};

use crate::core::Query;
use crate::shard::http::{self, Exchange, Response};
use crate::shard::route::Route;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Health's calls. Whatever may be asked for with GET may be with HEAD.
pub const ROUTES: &[Route] = &[("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/version")];

/// Whether the path is one of health's.
pub fn owns(path: &str) -> bool {
    ROUTES.iter().any(|(_, route)| *route == path)
}

/// Answers one of health's paths: 200 `ok`, 200 `ready` or 503 with the reason, the version.
pub async fn answer(exchange: &Exchange) -> Response {
    if !matches!(*exchange.request.method(), Method::GET | Method::HEAD) {
        return http::allow(http::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"), "GET, HEAD");
    }
    match exchange.path.as_str() {
        "/healthz" => http::text(StatusCode::OK, "ok"),
        "/version" => http::text(StatusCode::OK, VERSION),
        _ => ready(exchange).await,
    }
}

/// Ready: every listener serves, every shard answers, and the node is not shutting down.
async fn ready(exchange: &Exchange) -> Response {
    let shared = exchange.shard.shared();
    let not_ready = |words: &'static str| http::text(StatusCode::SERVICE_UNAVAILABLE, words);
    if *shared.draining.borrow() {
        return not_ready("shutting down");
    }
    if !shared.is_ready() {
        return not_ready("starting");
    }
    let alive = exchange.shard.ask(|core, request| {
        core.query(request, Query::UsersPerApp);
        Ok(())
    });
    match tokio::time::timeout(std::time::Duration::from_secs(1), alive).await {
        Ok(Ok(_)) => http::text(StatusCode::OK, "ready"),
        _ => not_ready("a shard does not answer"),
    }
}
