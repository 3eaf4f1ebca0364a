//! One webhook endpoint: a task that empties its queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::core::AppKey;

use super::body::{self, Happening};
use super::http::{Post, Request};
use super::queue::{DOWN_FAILURES, Delivery, Queue};
use super::settings::{Endpoint, Format, Settings, Sign, masked};

/// Requests of one endpoint that are under way at once.
const ENDPOINT_IN_FLIGHT_MAX: usize = 8;
/// At most one log line about events parked and dropped in this time.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How an endpoint is told; changes with the configuration.
pub(super) struct Orders {
    pub(super) app_id: String,
    pub(super) sign: Sign,
    pub(super) batch: Duration,
    pub(super) settings: Arc<Settings>,
    /// Requests of all endpoints beyond the one of its own that each has.
    pub(super) pool: Arc<Semaphore>,
}

/// What never changes.
pub(super) struct Means {
    pub(super) post: Post,
    /// 0 up to 1, each time another.
    pub(super) random: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// See the module.
pub(super) struct Webhook {
    pub(super) app: AppKey,
    pub(super) url: String,
    pub(super) format: Format,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    queue: Queue,
    orders: Arc<Orders>,
    /// Taken out of the configuration.
    closed: bool,
}

impl Webhook {
    pub(super) fn new(app: AppKey, endpoint: &Endpoint, orders: Arc<Orders>) -> Self {
        let queue = Queue::new(orders.settings.clone(), orders.batch);
        let state = Mutex::new(State { queue, orders, closed: false });
        Self { app, url: endpoint.url.clone(), format: endpoint.format, state, changed: Notify::new() }
    }

    /// Takes an event; neither waits nor fails.
    pub(super) fn push(&self, happening: Arc<Happening>) {
        let mut state = self.state();
        if !state.closed {
            state.queue.push(happening, Instant::now());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Goes on with other orders.
    pub(super) fn set(&self, orders: Arc<Orders>) {
        let mut state = self.state();
        state.queue.set(orders.settings.clone(), orders.batch);
        state.orders = orders;
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets everything; a request under way comes to its end. Returns how many events were queued or parked.
    pub(super) fn close(&self) -> usize {
        let mut state = self.state();
        state.closed = true;
        let events = state.queue.clear();
        drop(state);
        self.changed.notify_one();
        events
    }

    /// Looks at the queue, or changes what is parked.
    pub(super) fn with_queue<T>(&self, look: impl FnOnce(&mut Queue) -> T) -> T {
        let result = look(&mut self.state().queue);
        self.changed.notify_one();
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers until it is closed.
    pub(super) async fn run(self: Arc<Self>, means: Arc<Means>) {
        let mut requests = JoinSet::new();
        let mut under_way: HashMap<Id, (Delivery, Option<OwnedSemaphorePermit>)> = HashMap::new();
        let mut spare: Option<OwnedSemaphorePermit> = None;
        let mut log = LossLog::default();
        loop {
            let now = Instant::now();
            let mut wake = None;
            let mut wants_permit = false;
            let pool = {
                let mut state = self.state();
                if state.closed && under_way.is_empty() {
                    return;
                }
                let in_flight_max = if state.queue.is_down() { 1 } else { ENDPOINT_IN_FLIGHT_MAX };
                while under_way.len() < in_flight_max
                    && let Some(at) = state.queue.next(now)
                {
                    if at > now {
                        wake = Some(at);
                        break;
                    }
                    // the first request needs no permit, so that no other endpoint can keep this one from it
                    let permit = if under_way.values().all(|(_, permit)| permit.is_some()) {
                        None
                    } else if let Some(permit) = spare.take().or_else(|| try_acquire(&state.orders.pool)) {
                        Some(permit)
                    } else {
                        wants_permit = true;
                        break;
                    };
                    let Some(delivery) = state.queue.take(now) else { break };
                    let happenings: Vec<Arc<Happening>> = delivery.happenings().cloned().collect();
                    let request =
                        requests.spawn(self.clone().attempt(means.post.clone(), state.orders.clone(), happenings));
                    under_way.insert(request.id(), (delivery, permit));
                }
                log.look(&self, &state.queue, now);
                state.orders.pool.clone()
            };
            spare = None;
            tokio::select! {
                () = self.changed.notified() => {}
                Some(ended) = requests.join_next_with_id() => {
                    let (id, result) = match ended {
                        Ok(ended) => ended,
                        Err(error) => (error.id(), Err("a fault of the server".to_owned())),
                    };
                    if let Some((delivery, _permit)) = under_way.remove(&id) {
                        self.settle(delivery, result, (means.random)());
                    }
                }
                permit = pool.acquire_owned(), if wants_permit => spare = permit.ok(),
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    async fn attempt(
        self: Arc<Self>,
        post: Post,
        orders: Arc<Orders>,
        happenings: Vec<Arc<Happening>>,
    ) -> Result<(), String> {
        let timeout = orders.settings.timeout;
        let url = self.url.clone();
        let json = ("content-type", "application/json".to_owned());
        let request = if self.format == Format::Pusher {
            let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
            let body = body::pusher(happenings.iter().map(|happening| &**happening), time_ms);
            let signature = (orders.sign)(&body);
            let key = self.app.as_str().to_owned();
            let headers = vec![json, ("x-pusher-key", key), ("x-pusher-signature", signature)];
            Request { url, headers, body, timeout }
        } else {
            let body = happenings.first().and_then(|happening| body::push1st(&orders.app_id, happening));
            let headers = vec![json, ("accept", "application/json".to_owned())];
            Request { url, headers, body: body.unwrap_or_default(), timeout }
        };
        post(request).await
    }

    fn settle(&self, delivery: Delivery, result: Result<(), String>, random: f64) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let app = self.app.as_str();
        match result {
            Ok(()) => {
                if state.queue.is_down() {
                    tracing::info!(app, endpoint = masked(&self.url), "a hook's endpoint takes events again");
                }
                state.queue.delivered(&delivery);
            }
            Err(error) => {
                state.queue.failed(delivery, &error, Instant::now(), random);
                if state.queue.failures() == DOWN_FAILURES {
                    tracing::warn!(app, endpoint = masked(&self.url), error, "a hook's endpoint takes no events");
                }
            }
        }
    }
}

fn try_acquire(pool: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    pool.clone().try_acquire_owned().ok()
}

/// Says when events were parked or dropped, not at each.
#[derive(Default)]
struct LossLog {
    logged: Option<Instant>,
    parked: u64,
    dropped: u64,
}

impl LossLog {
    fn look(&mut self, webhook: &Webhook, queue: &Queue, now: Instant) {
        let counts = queue.counts();
        let (parked, dropped) = (counts.parked - self.parked, counts.dropped - self.dropped);
        if parked + dropped > 0 && self.logged.is_none_or(|logged| now - logged >= LOSS_LOG_INTERVAL) {
            *self = Self { logged: Some(now), parked: counts.parked, dropped: counts.dropped };
            let (app, endpoint) = (webhook.app.as_str(), masked(&webhook.url));
            tracing::warn!(app, endpoint, parked, dropped, "a hook's events were given up for now");
        }
    }
}
