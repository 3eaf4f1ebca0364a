//! What happened here, told to others: remote jobs, and hooks.
//!
//! **Hooks**: the shards hand each [`Observation`] to [`Hooks::observe`], which puts it into a bounded inbox. One task on
//! the control plane takes it from there to the endpoints of its app that want to know: into the queue of a webhook,
//! which a task of that endpoint empties, or into that of a Lua script, which has a thread of its own. So an endpoint
//! that is slow or dead delays neither a shard nor another endpoint.
//!
//! What is queued or parked lives in memory, and ends with the process.

mod body;
mod hold;
mod http;
pub mod jobs;
mod lua;
mod queue;
pub mod settings;
mod webhook;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::core::{AppKey, Observation};

use body::Happening;
use hold::Hold;
use http::{Http, Post};
use lua::{Script, Source, Tally};
use queue::Counts;
use settings::{AppHooks, Endpoint, Format, HookError, Settings, is_tls, masked, script_path};
use webhook::{Means, Orders, Webhook};

/// Observations that are handed on before anything else gets a turn.
const INBOX_BATCH: usize = 256;
/// How often [`Hooks::finish`] looks whether all is told.
const FINISH_STEP: Duration = Duration::from_millis(20);

/// The hooks of a node. Clones are the same hooks; when the last is gone, they end.
#[derive(Clone)]
pub struct Hooks(Arc<Inner>);

struct Inner {
    inbox: mpsc::Sender<Message>,
    office: Arc<Office>,
}

enum Message {
    Observed(Observation),
    /// Let go of all that is held back, then say so.
    Release(oneshot::Sender<()>),
}

/// What the task that empties the inbox shares with everybody.
struct Office {
    runtime: Handle,
    http: Arc<Http>,
    means: Arc<Means>,
    table: RwLock<Arc<Directory>>,
    /// One change of the directory at a time.
    changing: Mutex<()>,
    overflows: AtomicU64,
    last_endpoint: AtomicU64,
}

/// Who is told what.
#[derive(Default)]
struct Directory {
    hold: Duration,
    endpoint_bytes_max: usize,
    apps: BTreeMap<AppKey, App>,
}

#[derive(Default)]
struct App {
    id: Arc<str>,
    listed: Vec<Listed>,
    /// What became of events of endpoints that are no more.
    past: Counts,
}

struct Listed {
    number: u64,
    endpoint: Endpoint,
    receiver: Receiver,
}

#[derive(Clone)]
enum Receiver {
    Webhook(Arc<Webhook>),
    Script(Arc<Script>),
}

/// One endpoint, as [`Hooks::report`] shows it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EndpointReport {
    /// Its number: in this process no other endpoint has it.
    pub endpoint: u64,
    /// The key of its app.
    pub app: String,
    /// Its URL, masked.
    pub url: String,
    /// In whose words it is told.
    pub format: Format,
    /// Events that wait, are under way or are retried.
    pub queued: usize,
    /// Deliveries that have failed and wait to be tried again.
    pub retrying: usize,
    /// Events that it was told.
    pub delivered: u64,
    /// Attempts that failed; calls that failed, of a script.
    pub failed: u64,
    /// Events that are parked now.
    pub parked: usize,
    /// Events that were given up for want of room.
    pub dropped: u64,
    /// What went wrong last.
    pub last_error: Option<LastError>,
}

/// What went wrong.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LastError {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub error: String,
}

/// A delivery that was given up until somebody decides, as [`Hooks::parked`] shows it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ParkedReport {
    /// What [`Chosen::Ids`] names it by.
    pub id: String,
    /// The key of its app.
    pub app: String,
    /// The number of its endpoint.
    pub endpoint: u64,
    /// The endpoint's URL, masked.
    pub url: String,
    /// When it was parked, in milliseconds since 1970.
    pub since_ms: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong last.
    pub error: String,
    /// What it tells of.
    pub events: Vec<ParkedEvent>,
}

/// An event of a [`ParkedReport`], without what it says.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ParkedEvent {
    /// What the endpoint's format calls it.
    pub name: &'static str,
    /// The channel.
    pub channel: String,
}

/// Parked deliveries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chosen {
    /// All of them.
    All,
    /// Those with these ids; ids that there are not are nobody's.
    Ids(HashSet<String>),
}

impl Chosen {
    fn holds(&self, endpoint: u64, number: u64) -> bool {
        match self {
            Chosen::All => true,
            Chosen::Ids(ids) => ids.contains(&parked_id(endpoint, number)),
        }
    }
}

fn parked_id(endpoint: u64, number: u64) -> String {
    format!("{endpoint}-{number}")
}

/// What an app's hooks have come to, for metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppTotals {
    /// The app's key.
    pub app: String,
    /// Events that wait, are under way or are retried.
    pub queued: u64,
    /// Events that are parked now.
    pub parked_now: u64,
    /// Events told.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Events ever parked.
    pub parked: u64,
    /// Events given up for want of room.
    pub dropped: u64,
}

impl Hooks {
    /// Hooks that tell nobody yet, at work on `runtime`; of the settings only `inbox_max` counts.
    pub fn start(runtime: Handle, settings: &Settings) -> Self {
        let http = Arc::new(Http::default());
        let post: Post = {
            let http = http.clone();
            Arc::new(move |request| {
                let http = http.clone();
                Box::pin(async move { http.post(request).await })
            })
        };
        let random = || f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX);
        Self::start_with(runtime, settings, http, post, random)
    }

    fn start_with(
        runtime: Handle,
        settings: &Settings,
        http: Arc<Http>,
        post: Post,
        random: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        let (inbox, arriving) = mpsc::channel(settings.inbox_max.clamp(1, Semaphore::MAX_PERMITS));
        let office = Arc::new(Office {
            runtime: runtime.clone(),
            http,
            means: Arc::new(Means { post, random: Box::new(random) }),
            table: RwLock::default(),
            changing: Mutex::new(()),
            overflows: AtomicU64::new(0),
            last_endpoint: AtomicU64::new(0),
        });
        runtime.spawn(distribute(arriving, office.clone()));
        Self(Arc::new(Inner { inbox, office }))
    }

    /// Takes what a shard saw. Neither waits nor fails; where the control plane lags behind by `inbox_max`, it is lost and
    /// counted. Each channel's observations have to come in the order in which they happened.
    pub fn observe(&self, observation: Observation) {
        if self.0.inbox.try_send(Message::Observed(observation)).is_err() {
            self.0.office.overflows.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether anybody is told of what happens in the app.
    pub fn has_hooks(&self, app: &AppKey) -> bool {
        self.0.office.directory().apps.get(app).is_some_and(|app| !app.listed.is_empty())
    }

    /// Tells these endpoints from now on, with these settings. An endpoint that was there before under the same app, URL
    /// and format goes on with what is queued and parked for it, in its new ways. What is queued or parked for one that is
    /// gone is forgotten; what was under way comes to its end. A Lua script is loaded anew if its file or
    /// one of its limits has changed, and begins when the old one is through with what waits there.
    ///
    /// Blocks while scripts are loaded. rustls needs a process-wide crypto provider.
    ///
    /// # Errors
    /// An endpoint cannot be used; nothing has changed then.
    pub fn replace(&self, settings: &Settings, apps: &[AppHooks]) -> Result<(), HookError> {
        self.0.office.replace(settings, apps)
    }

    /// Whether [`replace`](Self::replace) would take them; changes nothing. Runs the scripts as far as loading does.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, settings: &Settings, apps: &[AppHooks]) -> Result<(), HookError> {
        for app in apps {
            for endpoint in &app.endpoints {
                if let Some(source) = self.0.office.usable(app, endpoint, settings)? {
                    self.0.office.load(app, source, Arc::default())?;
                }
            }
        }
        Ok(())
    }

    /// Tells what is held back or queued, for as long as that takes, but not longer than `patience`. For the end of the
    /// process, when nothing is observed any more.
    pub async fn finish(&self, patience: Duration) {
        let all = async {
            let (released, is_released) = oneshot::channel();
            if self.0.inbox.send(Message::Release(released)).await.is_ok() {
                let _ = is_released.await;
            }
            while self.totals().iter().any(|app| app.queued > 0) {
                sleep(FINISH_STEP).await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        let lost: u64 = self.totals().iter().map(|app| app.queued + app.parked_now).sum();
        if lost > 0 {
            tracing::warn!(events = lost, "hooks were not told of everything; what is left ends with the process");
        }
    }

    // ------------------------------------------------------------------ for operators

    /// Every endpoint, by app.
    pub fn report(&self) -> Vec<EndpointReport> {
        self.0.office.directory().listed().map(|(app, listed)| listed.report(app)).collect()
    }

    /// Up to `max` parked deliveries, the oldest of each endpoint first, and how many there are.
    pub fn parked(&self, max: usize) -> (Vec<ParkedReport>, usize) {
        let (mut shown, mut count) = (Vec::new(), 0);
        for (app, listed) in self.0.office.directory().listed() {
            let Receiver::Webhook(webhook) = &listed.receiver else { continue };
            webhook.with_queue(|queue| {
                count += queue.parked().count();
                let room = max - shown.len();
                shown.extend(queue.parked().take(room).map(|parked| ParkedReport {
                    id: parked_id(listed.number, parked.number),
                    app: app.as_str().to_owned(),
                    endpoint: listed.number,
                    url: masked(&listed.endpoint.url),
                    since_ms: unix_ms(parked.since),
                    attempts: parked.attempts,
                    error: parked.error.to_string(),
                    events:
                        parked.events.iter().filter_map(|event| parked_event(listed.endpoint.format, event)).collect(),
                }));
            });
        }
        (shown, count)
    }

    /// Puts parked deliveries back behind what waits, to be tried, retried and signed as if they had just happened.
    /// Returns how many.
    pub fn replay(&self, chosen: &Chosen) -> usize {
        let now = Instant::now();
        self.each_webhook(|number, webhook| {
            webhook.with_queue(|queue| queue.replay(|id| chosen.holds(number, id), now))
        })
    }

    /// Forgets parked deliveries. Returns how many.
    pub fn discard(&self, chosen: &Chosen) -> usize {
        self.each_webhook(|number, webhook| webhook.with_queue(|queue| queue.discard(|id| chosen.holds(number, id))))
    }

    fn each_webhook(&self, act: impl Fn(u64, &Webhook) -> usize) -> usize {
        let directory = self.0.office.directory();
        let webhooks = directory.listed().filter_map(|(_, listed)| match &listed.receiver {
            Receiver::Webhook(webhook) => Some(act(listed.number, webhook)),
            Receiver::Script(_) => None,
        });
        webhooks.sum()
    }

    /// What the hooks of each app have come to.
    pub fn totals(&self) -> Vec<AppTotals> {
        self.0.office.directory().totals()
    }

    /// How many observations were lost because the control plane lagged behind.
    pub fn overflows(&self) -> u64 {
        self.0.office.overflows.load(Ordering::Relaxed)
    }
}

fn parked_event(format: Format, event: &Happening) -> Option<ParkedEvent> {
    Some(ParkedEvent { name: event.kind.word(format)?, channel: event.channel.as_str().to_owned() })
}

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Office {
    fn directory(&self) -> Arc<Directory> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, directory: Directory) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(directory);
    }

    fn replace(&self, settings: &Settings, apps: &[AppHooks]) -> Result<(), HookError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.directory();
        let mut sources = Vec::new();
        for app in apps {
            for endpoint in &app.endpoints {
                sources.push(self.usable(app, endpoint, settings)?);
            }
        }
        // what can go wrong goes wrong before this line, but for scripts that do not run
        let mut sources = sources.into_iter();
        let mut left: HashMap<&AppKey, Vec<&Listed>> =
            old.apps.iter().map(|(app, known)| (app, known.listed.iter().collect())).collect();
        let shared = Arc::new(settings.clone());
        let pool = Arc::new(Semaphore::new(settings.in_flight_max.min(Semaphore::MAX_PERMITS)));
        let mut new =
            Directory { hold: settings.hold, endpoint_bytes_max: settings.endpoint_bytes_max, apps: BTreeMap::new() };
        let mut deeds: Vec<Box<dyn FnOnce() + '_>> = Vec::new();
        for app in apps {
            let known = left.entry(&app.app).or_default();
            let mut listed = Vec::new();
            for endpoint in &app.endpoints {
                let is_same =
                    |old: &&Listed| old.endpoint.url == endpoint.url && old.endpoint.format == endpoint.format;
                let old = known.iter().position(is_same).map(|place| known.remove(place));
                let receiver = match sources.next().flatten() {
                    Some(source) => self.script(app, source, old, &mut deeds)?,
                    None => {
                        let batch = if endpoint.format == Format::Pusher { endpoint.batch } else { Duration::ZERO };
                        let (app_id, sign) = (app.app_id.clone(), app.sign.clone());
                        let orders = Orders { app_id, sign, batch, settings: shared.clone(), pool: pool.clone() };
                        self.webhook(app, endpoint, Arc::new(orders), old, &mut deeds)
                    }
                };
                let number =
                    old.map_or_else(|| self.last_endpoint.fetch_add(1, Ordering::Relaxed) + 1, |old| old.number);
                listed.push(Listed { number, endpoint: endpoint.clone(), receiver });
            }
            let past = old.apps.get(&app.app).map_or_else(Counts::default, |app| app.past);
            new.apps.insert(app.app.clone(), App { id: app.app_id.as_str().into(), listed, past });
        }
        for (app, gone) in left {
            for listed in gone {
                if let Some(app) = new.apps.get_mut(app) {
                    app.past = sum(app.past, listed.counts());
                }
                if let Receiver::Webhook(webhook) = &listed.receiver {
                    let webhook = webhook.clone();
                    deeds.push(Box::new(move || {
                        let events = webhook.close();
                        let (app, endpoint) = (webhook.app.as_str(), masked(&webhook.url));
                        tracing::info!(app, endpoint, events, "a hook was removed, and what waited for it");
                    }));
                }
            }
        }
        for deed in deeds {
            deed();
        }
        self.put(new);
        Ok(())
    }

    /// Whether the endpoint can be used; the script, if it is one.
    fn usable(&self, app: &AppHooks, endpoint: &Endpoint, settings: &Settings) -> Result<Option<Source>, HookError> {
        let wrong = |expected| HookError::Url(app.app_id.clone(), expected, masked(&endpoint.url));
        if endpoint.format == Format::Lua {
            let path = script_path(&endpoint.url).ok_or_else(|| wrong("lua:// and the path of a script"))?;
            let source = Source::read(path, settings);
            return source.map(Some).map_err(|error| HookError::Script(app.app_id.clone(), error));
        }
        let is_tls = is_tls(&endpoint.url).ok_or_else(|| wrong("http://… or https://…"))?;
        self.http.need(is_tls).map_err(HookError::Http)?;
        Ok(None)
    }

    fn load(&self, app: &AppHooks, source: Source, tally: Arc<Tally>) -> Result<Script, HookError> {
        Script::start(source, tally).map_err(|error| HookError::Script(app.app_id.clone(), error))
    }

    fn script<'a>(
        &self,
        app: &AppHooks,
        source: Source,
        old: Option<&'a Listed>,
        deeds: &mut Vec<Box<dyn FnOnce() + 'a>>,
    ) -> Result<Receiver, HookError> {
        let Some(Receiver::Script(old)) = old.map(|old| &old.receiver) else {
            return Ok(Receiver::Script(Arc::new(self.load(app, source, Arc::default())?)));
        };
        if old.source == source {
            return Ok(Receiver::Script(old.clone()));
        }
        let new = Arc::new(self.load(app, source, old.tally.clone())?);
        let following = new.clone();
        deeds.push(Box::new(move || following.follow(old)));
        Ok(Receiver::Script(new))
    }

    fn webhook<'a>(
        &self,
        app: &AppHooks,
        endpoint: &Endpoint,
        orders: Arc<Orders>,
        old: Option<&'a Listed>,
        deeds: &mut Vec<Box<dyn FnOnce() + 'a>>,
    ) -> Receiver {
        if let Some(Receiver::Webhook(old)) = old.map(|old| &old.receiver) {
            deeds.push(Box::new(move || old.set(orders)));
            return Receiver::Webhook(old.clone());
        }
        let new = Arc::new(Webhook::new(app.app.clone(), endpoint, orders));
        let (starting, means, runtime) = (new.clone(), self.means.clone(), self.runtime.clone());
        deeds.push(Box::new(move || drop(runtime.spawn(starting.run(means)))));
        Receiver::Webhook(new)
    }
}

impl Directory {
    fn listed(&self) -> impl Iterator<Item = (&AppKey, &Listed)> {
        self.apps.iter().flat_map(|(app, entry)| entry.listed.iter().map(move |listed| (app, listed)))
    }

    fn totals(&self) -> Vec<AppTotals> {
        let total = |(key, app): (&AppKey, &App)| {
            let reports: Vec<EndpointReport> = app.listed.iter().map(|listed| listed.report(key)).collect();
            let Counts { delivered, failed, parked, dropped } =
                app.listed.iter().map(Listed::counts).fold(app.past, sum);
            AppTotals {
                app: key.as_str().to_owned(),
                queued: reports.iter().map(|report| report.queued as u64).sum(),
                parked_now: reports.iter().map(|report| report.parked as u64).sum(),
                delivered,
                failed,
                parked,
                dropped,
            }
        };
        self.apps.iter().map(total).collect()
    }

    /// Tells those endpoints of the happening's app that want to know and are `meant`.
    fn tell(&self, happening: &Arc<Happening>, meant: impl Fn(Format) -> bool) {
        let Some(app) = self.apps.get(&happening.app) else { return };
        let channel = happening.channel.as_str();
        for listed in &app.listed {
            if meant(listed.endpoint.format) && listed.endpoint.wants(happening.kind, channel) {
                match &listed.receiver {
                    Receiver::Webhook(webhook) => webhook.push(happening.clone()),
                    Receiver::Script(script) => script.push(&app.id, happening.clone(), self.endpoint_bytes_max),
                }
            }
        }
    }
}

impl Listed {
    fn counts(&self) -> Counts {
        match &self.receiver {
            Receiver::Webhook(webhook) => webhook.with_queue(|queue| queue.counts()),
            Receiver::Script(script) => {
                let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let Tally { delivered, failed, dropped, .. } = &*script.tally;
                Counts { delivered: count(delivered), failed: count(failed), parked: 0, dropped: count(dropped) }
            }
        }
    }

    fn report(&self, app: &AppKey) -> EndpointReport {
        let Counts { delivered, failed, dropped, .. } = self.counts();
        let (queued, retrying, parked, last_error) = match &self.receiver {
            Receiver::Webhook(webhook) => webhook.with_queue(|queue| {
                (queue.queued(), queue.retrying(), queue.parked_events(), queue.last_error().cloned())
            }),
            Receiver::Script(script) => {
                let last_error = script.tally.last_error.lock().unwrap_or_else(PoisonError::into_inner);
                (script.tally.queued.load(Ordering::Relaxed), 0, 0, last_error.clone())
            }
        };
        EndpointReport {
            endpoint: self.number,
            app: app.as_str().to_owned(),
            url: masked(&self.endpoint.url),
            format: self.endpoint.format,
            queued,
            retrying,
            delivered,
            failed,
            parked,
            dropped,
            last_error: last_error.map(|(at, error)| LastError { at_ms: unix_ms(at), error: error.to_string() }),
        }
    }
}

fn sum(one: Counts, other: Counts) -> Counts {
    Counts {
        delivered: one.delivered + other.delivered,
        failed: one.failed + other.failed,
        parked: one.parked + other.parked,
        dropped: one.dropped + other.dropped,
    }
}

/// Takes what the shards saw to whoever wants to know, until nobody can see anything any more.
async fn distribute(mut inbox: mpsc::Receiver<Message>, office: Arc<Office>) {
    let mut arrived = Vec::new();
    let mut hold = Hold::default();
    loop {
        let due = hold.next();
        tokio::select! {
            count = inbox.recv_many(&mut arrived, INBOX_BATCH) => if count == 0 { break },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let directory = office.directory();
        let now = Instant::now();
        let tell_pusher = |happening| directory.tell(&happening, |format| format == Format::Pusher);
        for message in arrived.drain(..) {
            match message {
                Message::Observed(observation) => {
                    let Some(app) = directory.apps.get(&observation.app) else { continue };
                    let happening = Arc::new(Happening::new(observation));
                    directory.tell(&happening, |format| format != Format::Pusher);
                    if app.listed.iter().any(|listed| listed.endpoint.format == Format::Pusher) {
                        hold.pass(happening, directory.hold, now, tell_pusher);
                    }
                }
                Message::Release(released) => {
                    hold.release_all(tell_pusher);
                    let _ = released.send(()); // nobody listening is fine
                }
            }
        }
        hold.release(now, tell_pusher);
    }
    for (_, listed) in office.directory().listed() {
        if let Receiver::Webhook(webhook) = &listed.receiver {
            webhook.close();
        }
    }
    office.put(Directory::default());
}
