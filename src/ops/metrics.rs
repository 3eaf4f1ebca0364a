//! The ops listener: Prometheus metrics, health and build info, hooks, the description of all calls.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::core::{Answer, AppKey, CloseReason, Memory, Query, Rejection, Stats, TURN_BUCKETS_US, TlsFailure};
use crate::hooks::AppTotals;
use crate::shard::door::{Answering, FrontDoor};
use crate::shard::http::{self, Exchange, Response};
use crate::shard::route::{self, NoRoute, Route};

use super::{health, hooks, memory};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every call of every door, in OpenAPI's form.
pub const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// The calls of the ops door, beside those of health.
pub const ROUTES: &[Route] = &[
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/hooks"),
    ("GET", "/hooks/parked"),
    ("POST", "/hooks/replay"),
    ("POST", "/hooks/discard"),
];

/// The ops door: `/metrics`, `/openapi.json`, and the paths of health and hooks.
#[derive(Debug)]
pub struct OpsDoor;

impl FrontDoor for OpsDoor {
    fn owns(&self, path: &str) -> bool {
        health::owns(path) || ROUTES.iter().any(|(_, route)| *route == path)
    }

    fn answer(&self, exchange: Exchange) -> Answering<'_> {
        Box::pin(async move {
            if health::owns(&exchange.path) {
                return health::answer(&exchange).await;
            }
            let segments: Vec<&str> = exchange.path.split('/').skip(1).collect();
            match route::find(ROUTES, exchange.request.method(), &segments) {
                Err(NoRoute::Path) => http::not_found(),
                Err(NoRoute::Method(methods)) => {
                    http::allow(http::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"), &methods)
                }
                Ok(()) => match &*exchange.path {
                    "/metrics" => metrics(&exchange).await,
                    "/openapi.json" => http::response(StatusCode::OK, "application/json", OPENAPI),
                    _ => hooks::answer(exchange).await,
                },
            }
        })
    }
}

async fn metrics(exchange: &Exchange) -> Response {
    let asked = exchange.shard.ask(|core, request| {
        core.query(request, Query::Stats);
        Ok(())
    });
    let Ok(Answer::Stats(stats)) = asked.await else {
        return http::text(StatusCode::SERVICE_UNAVAILABLE, "a shard does not answer\n");
    };
    let (shared, settings) = (exchange.shard.shared(), exchange.shard.settings());
    let per_app: HashMap<AppKey, usize> = shared.node.admission.per_app().into_iter().collect();
    let count = |app: &AppKey| per_app.get(app).map_or(0, |count| *count as u64);
    let connections_of_apps = settings.apps.keys().map(|app| (app.as_str().to_owned(), count(app))).collect();
    let per_app: HashMap<AppKey, usize> = shared.node.admission.memory_per_app().into_iter().collect();
    let bytes = |app: &AppKey| per_app.get(app).map_or(0, |bytes| *bytes as u64);
    let memory_of_apps = settings.apps.keys().map(|app| (app.as_str().to_owned(), bytes(app))).collect();
    let scrape = Scrape {
        stats: *stats,
        connections_of_apps,
        memory_of_apps,
        memory: shared.node.admission.memory(),
        memory_bytes_max: settings.limits.memory_bytes_max,
        resident_bytes: memory::resident_bytes(),
        event_bytes: shared.node.ledger.bytes() as u64,
        backlog_bytes: shared.node.backlog.iter().map(|bytes| bytes.load(Ordering::Relaxed) as u64).sum(),
        http_connections: shared.http_connections.load(Ordering::Relaxed) as u64,
        hooks: shared.hooks.totals(),
        hook_overflows: shared.hooks.overflows(),
    };
    let mut registry = Registry::with_prefix("hydrant");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => http::response(StatusCode::OK, OPEN_METRICS, text),
        Err(_) => http::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"),
    }
}

/// The numbers of one moment.
#[derive(Debug)]
struct Scrape {
    stats: Stats,
    connections_of_apps: Vec<(String, u64)>,
    memory_of_apps: Vec<(String, u64)>,
    memory: Memory,
    /// 0 = no limit.
    memory_bytes_max: usize,
    resident_bytes: Option<usize>,
    event_bytes: u64,
    backlog_bytes: u64,
    http_connections: u64,
    hooks: Vec<AppTotals>,
    hook_overflows: u64,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.stats;
        for (name, help, value) in [
            ("connections", "Client connections alive", stats.connections),
            ("subscriptions", "Connection and channel pairs alive", stats.subscriptions),
            ("channels", "Channels with a subscriber", stats.channels),
            ("cache_bytes", "Events kept for newcomers to cache channels", stats.cache_bytes),
            ("users", "Distinct users connected", stats.users),
            (
                "outbox_bytes",
                "Bytes waiting for connections to read them, shared ones counted for each",
                stats.outbox_bytes,
            ),
            ("outbox_frames_bytes", "Encoded events in memory, shared ones counted once", self.event_bytes),
            ("backlog_bytes", "Events accepted and not yet fanned out", self.backlog_bytes),
            ("http_connections", "Sockets that are not client connections", self.http_connections),
        ] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            ("connections_opened", "Client connections ever opened", stats.connections_opened),
            ("events_in", "Events accepted for channels", stats.events_in),
            ("events_out", "Events queued for connections", stats.events_out),
            ("frames_encoded", "Frames written for events and notices of channels", stats.frames_encoded),
            ("frames_deflated", "Frames written for them that were deflated", stats.frames_deflated),
            ("commands", "Client messages received", stats.commands),
            ("bytes_in", "Bytes read from client connections", stats.bytes_in),
            ("bytes_out", "Bytes written to client connections", stats.bytes_out),
            ("writes", "Write calls on client connections", stats.writes),
            (
                "http_connections_refused",
                "Sockets closed at once because a listener had too many",
                stats.http_connections_refused,
            ),
            ("panics", "Panics caught", stats.panics),
            (
                "hook_overflows",
                "Things that happened and no hook was told of, because too many were on their way",
                self.hook_overflows,
            ),
            (
                "outbox_overflows",
                "Connections closed because they did not read what they were sent",
                stats.connections_closed[CloseReason::SlowReader.index()],
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let closed = CloseReason::ALL.map(|reason| (reason.label(), stats.connections_closed[reason.index()]));
        counters(&mut encoder, "connections_closed", "Client connections ever closed", "reason", &closed)?;
        let rejected = Rejection::ALL.map(|rejection| (rejection.label(), stats.rejections[rejection.index()]));
        counters(&mut encoder, "rejections", "Refusals", "reason", &rejected)?;
        let [full, resumed] = stats.tls_handshakes;
        let shaken = [("full", full), ("resumed", resumed)];
        counters(&mut encoder, "tls_handshakes", "TLS handshakes completed", "kind", &shaken)?;
        let failed = TlsFailure::ALL.map(|failure| (failure.label(), stats.tls_failures[failure.index()]));
        counters(&mut encoder, "tls_handshake_failures", "TLS handshakes that came to nothing", "reason", &failed)?;
        let events: Vec<(&str, u64)> = stats.app_events_in.iter().map(|(app, count)| (app.as_str(), *count)).collect();
        counters(&mut encoder, "app_events_in", "Events accepted for channels, per configured app", "app", &events)?;
        for (name, help, apps) in [
            ("app_connections", "Client connections alive, per configured app", &self.connections_of_apps),
            ("app_memory_bytes", "Estimate of the memory that a configured app takes", &self.memory_of_apps),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (app, count) in apps {
                ConstGauge::new(*count as i64).encode(family.encode_family(&[("app", app.as_str())])?)?;
            }
        }
        self.encode_memory(&mut encoder)?;
        self.encode_hooks(&mut encoder)?;
        let mut build = encoder.encode_descriptor("build", "Version of this build", None, MetricType::Info)?;
        build.encode_info(&[("version", health::VERSION)])?;
        let bounds = TURN_BUCKETS_US.map(|us| us as f64 / 1e6).into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(stats.turns).collect();
        let mut turns =
            encoder.encode_descriptor("turn_seconds", "Length of a shard's turn", None, MetricType::Histogram)?;
        turns.encode_histogram::<NoLabelSet>(stats.turns_us as f64 / 1e6, stats.turns.iter().sum(), &buckets, None)
    }
}

impl Scrape {
    fn encode_memory(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Memory { connections, events, caches, rosters } = self.memory;
        let help = "Estimate of the memory that connections and what is kept for them take";
        let mut family = encoder.encode_descriptor("memory_bytes", help, None, MetricType::Gauge)?;
        for (of, bytes) in [("connections", connections), ("events", events), ("caches", caches), ("rosters", rosters)]
        {
            ConstGauge::new(bytes as i64).encode(family.encode_family(&[("of", of)])?)?;
        }
        let left = self.memory_bytes_max.saturating_sub(self.memory.total());
        for (name, help, value) in [
            (
                "memory_left_bytes",
                "What is left of the budget for new connections",
                (self.memory_bytes_max > 0).then_some(left),
            ),
            ("resident_bytes", "Memory of the process that is in use", self.resident_bytes),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value as i64);
                gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
        Ok(())
    }

    fn encode_hooks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "What became of events for hooks, per app with hooks; failed: of attempts";
        let mut family = encoder.encode_descriptor("hook_deliveries", help, None, MetricType::Counter)?;
        for app in &self.hooks {
            let results = [
                ("delivered", app.delivered),
                ("failed", app.failed),
                ("parked", app.parked),
                ("dropped", app.dropped),
            ];
            for (result, count) in results {
                let labels = [("app", app.app.as_str()), ("result", result)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in [
            ("hook_queued", "Events that hooks are yet to be told of", (|app| app.queued) as fn(&AppTotals) -> u64),
            ("hook_parked", "Events that are kept for an operator to replay or discard", |app| app.parked_now),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for app in &self.hooks {
                let labels = [("app", app.app.as_str())];
                ConstGauge::new(value(app) as i64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Counters of one name, told apart by a label.
fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
