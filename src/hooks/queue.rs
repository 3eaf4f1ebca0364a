//! What one webhook endpoint has yet to be told: a state machine without I/O, clock handed in.
//!
//! Events of one channel are delivered one after the other, those of different channels side by side. So a channel is
//! *busy* while a delivery with an event of it is under way or waits to be tried again; what else happens on it waits
//! in its lane. A delivery holds one event, or, if the endpoint takes batches, the oldest ones of all lanes that are
//! not busy.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::core::ChannelName;

use super::body::Happening;
use super::settings::Settings;

/// Events in one batch.
const BATCH_EVENTS_MAX: usize = 50;
/// Weight of the events in one batch; a single event may be larger.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// The longest pause between two attempts.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// After so many failures without any success between them, the endpoint is *down*…
pub(super) const DOWN_FAILURES: u32 = 8;
/// …and asked no more often than this, whatever waits for it.
const DOWN_PAUSE: Duration = Duration::from_secs(1);

/// What has become of events, in events; of attempts, in attempts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    /// Events told.
    pub(super) delivered: u64,
    /// Attempts that failed.
    pub(super) failed: u64,
    /// Events ever parked.
    pub(super) parked: u64,
    /// Events given up for want of room.
    pub(super) dropped: u64,
}

/// An event that waits.
#[derive(Debug)]
struct Waiting {
    number: u64,
    at: Instant,
    happening: Arc<Happening>,
}

/// Events that are told together, with one request.
#[derive(Debug)]
pub(super) struct Delivery {
    number: u64,
    events: Vec<Waiting>,
    attempts: u32,
}

impl Delivery {
    /// What is to be told.
    pub(super) fn happenings(&self) -> impl Iterator<Item = &Arc<Happening>> {
        self.events.iter().map(|waiting| &waiting.happening)
    }
}

/// A delivery that was given up, for an operator to decide about.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub(super) number: u64,
    pub(super) since: SystemTime,
    pub(super) events: Vec<Arc<Happening>>,
    pub(super) attempts: u32,
    pub(super) error: Arc<str>,
}

/// One channel's part of the queue.
#[derive(Default, Debug)]
struct Lane {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    busy: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    settings: Arc<Settings>,
    batch: Duration,
    lanes: HashMap<ChannelName, Lane>,
    /// The lanes that are not busy, by the number of their first event.
    ready: BTreeMap<u64, ChannelName>,
    /// Events and bytes in those lanes.
    ready_events: usize,
    ready_bytes: usize,
    /// Deliveries that failed, by when they are tried again.
    retries: BTreeMap<(Instant, u64), Delivery>,
    parked: VecDeque<Parked>,
    parked_events: usize,
    /// Events that wait, are under way or are retried.
    queued: usize,
    /// Weight of all events, parked ones included.
    bytes: usize,
    last_number: u64,
    /// Failed attempts since the last success.
    failures: u32,
    /// When the first of them was.
    failing_since: Option<Instant>,
    /// No attempt before this.
    paused_until: Option<Instant>,
    counts: Counts,
    last_error: Option<(SystemTime, Arc<str>)>,
}

impl Queue {
    pub(super) fn new(settings: Arc<Settings>, batch: Duration) -> Self {
        Self {
            settings,
            batch,
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            ready_events: 0,
            ready_bytes: 0,
            retries: BTreeMap::new(),
            parked: VecDeque::new(),
            parked_events: 0,
            queued: 0,
            bytes: 0,
            last_number: 0,
            failures: 0,
            failing_since: None,
            paused_until: None,
            counts: Counts::default(),
            last_error: None,
        }
    }

    /// Goes on with other settings.
    pub(super) fn set(&mut self, settings: Arc<Settings>, batch: Duration) {
        self.settings = settings;
        self.batch = batch;
    }

    /// Takes an event, if there is room for it.
    pub(super) fn push(&mut self, happening: Arc<Happening>, now: Instant) {
        if self.bytes + happening.weight > self.settings.endpoint_bytes_max {
            self.counts.dropped += 1;
        } else if self.queued < self.settings.queue_max {
            self.enqueue(happening, now);
        } else {
            self.park(vec![happening], 0, "too many events waited".into());
        }
    }

    fn enqueue(&mut self, happening: Arc<Happening>, at: Instant) {
        let number = self.number();
        let weight = happening.weight;
        let lane = self.lanes.entry(happening.channel.clone()).or_default();
        if !lane.busy {
            if lane.waiting.is_empty() {
                self.ready.insert(number, happening.channel.clone());
            }
            self.ready_events += 1;
            self.ready_bytes += weight;
        }
        lane.bytes += weight;
        lane.waiting.push_back(Waiting { number, at, happening });
        self.queued += 1;
        self.bytes += weight;
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// When [`take`](Self::take) has something; not later than `now` if it has it now. Parks what has waited so long that
    /// it would not be tried again, if the endpoint has taken nothing in all that time.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let retry = self.settings.retry;
        let has_passed = |since: Instant| now.saturating_duration_since(since) >= retry;
        if self.failing_since.is_some_and(has_passed) {
            while let Some(first) = self.first_ready().filter(|first| has_passed(first.at)) {
                let happening = first.happening.clone();
                self.pop_ready();
                self.queued -= 1;
                self.bytes -= happening.weight;
                let error = self.last_error.as_ref().map_or_else(|| "".into(), |(_, error)| error.clone());
                self.park(vec![happening], 0, error);
            }
        }
        let batch_is_full = self.ready_events >= BATCH_EVENTS_MAX || self.ready_bytes >= BATCH_BYTES_MAX;
        let batch = if batch_is_full { Duration::ZERO } else { self.batch };
        let fresh = self.first_ready().map(|first| first.at + batch);
        let retry = self.retries.first_key_value().map(|((at, _), _)| *at);
        let first = fresh.into_iter().chain(retry).min()?;
        Some(self.paused_until.map_or(first, |until| until.max(first)))
    }

    fn first_ready(&self) -> Option<&Waiting> {
        let (_, channel) = self.ready.first_key_value()?;
        self.lanes.get(channel)?.waiting.front()
    }

    /// Takes the oldest event of the lanes that are not busy.
    fn pop_ready(&mut self) -> Option<Waiting> {
        let (_, channel) = self.ready.pop_first()?;
        let lane = self.lanes.get_mut(&channel)?;
        let waiting = lane.waiting.pop_front()?;
        let weight = waiting.happening.weight;
        lane.bytes -= weight;
        self.ready_events -= 1;
        self.ready_bytes -= weight;
        match lane.waiting.front() {
            Some(first) => drop(self.ready.insert(first.number, channel)),
            None => drop(self.lanes.remove(&channel)),
        }
        Some(waiting)
    }

    /// The delivery that is to be tried now, after [`next`](Self::next) said that there is one. Its channels are busy until
    /// [`delivered`](Self::delivered) or [`failed`](Self::failed) is told of it.
    pub(super) fn take(&mut self, now: Instant) -> Option<Delivery> {
        if let Some(retry) = self.retries.first_entry().filter(|retry| retry.key().0 <= now) {
            return Some(retry.remove());
        }
        let events_max = if self.batch.is_zero() { 1 } else { BATCH_EVENTS_MAX };
        let (mut events, mut bytes): (Vec<Waiting>, usize) = (Vec::new(), 0);
        while events.len() < events_max
            && let Some(first) = self.first_ready()
            && (events.is_empty() || bytes + first.happening.weight <= BATCH_BYTES_MAX)
            && let Some(event) = self.pop_ready()
        {
            bytes += event.happening.weight;
            events.push(event);
        }
        for event in &events {
            let lane = self.lanes.entry(event.happening.channel.clone()).or_default();
            if !lane.busy {
                lane.busy = true;
                self.ready_events -= lane.waiting.len();
                self.ready_bytes -= lane.bytes;
                if let Some(first) = lane.waiting.front() {
                    self.ready.remove(&first.number);
                }
            }
        }
        let number = self.number();
        (!events.is_empty()).then_some(Delivery { number, events, attempts: 0 })
    }

    /// The endpoint has taken it.
    pub(super) fn delivered(&mut self, delivery: &Delivery) {
        self.counts.delivered += delivery.events.len() as u64;
        self.failures = 0;
        self.failing_since = None;
        self.paused_until = None;
        self.finish(delivery);
    }

    /// The endpoint has not taken it: it is tried again later, or parked. `random`: 0 up to 1.
    pub(super) fn failed(&mut self, mut delivery: Delivery, error: &str, now: Instant, random: f64) {
        let error: Arc<str> = error.into();
        self.last_error = Some((SystemTime::now(), error.clone()));
        self.counts.failed += 1;
        self.failures += 1;
        self.failing_since.get_or_insert(now);
        if self.is_down() {
            self.paused_until = Some(now + DOWN_PAUSE);
        }
        delivery.attempts += 1;
        let deadline = delivery.events[0].at + self.settings.retry; // no delivery is without an event
        if now < deadline {
            let doubled = 2_u32.saturating_pow(delivery.attempts - 1);
            let pause = self.settings.retry_pause.saturating_mul(doubled).min(RETRY_PAUSE_MAX);
            let at = (now + pause.mul_f64(1.0 - random / 2.0)).min(deadline);
            self.retries.insert((at, delivery.number), delivery);
        } else {
            self.finish(&delivery);
            let events = delivery.events.into_iter().map(|waiting| waiting.happening).collect();
            self.park(events, delivery.attempts, error);
        }
    }

    /// Takes a delivery off the queue; what waited behind it may go.
    fn finish(&mut self, delivery: &Delivery) {
        for happening in delivery.happenings() {
            self.queued -= 1;
            self.bytes -= happening.weight;
            if let Some(lane) = self.lanes.get_mut(&happening.channel)
                && lane.busy
            {
                lane.busy = false;
                self.ready_events += lane.waiting.len();
                self.ready_bytes += lane.bytes;
                match lane.waiting.front() {
                    Some(first) => drop(self.ready.insert(first.number, happening.channel.clone())),
                    None => drop(self.lanes.remove(&happening.channel)),
                }
            }
        }
    }

    fn park(&mut self, events: Vec<Arc<Happening>>, attempts: u32, error: Arc<str>) {
        if self.parked_events + events.len() > self.settings.parked_max {
            self.counts.dropped += events.len() as u64;
            return;
        }
        self.counts.parked += events.len() as u64;
        self.parked_events += events.len();
        self.bytes += weight(&events);
        let number = self.number();
        self.parked.push_back(Parked { number, since: SystemTime::now(), events, attempts, error });
    }

    // ------------------------------------------------------------------ for operators

    /// What is parked, oldest first.
    pub(super) fn parked(&self) -> impl Iterator<Item = &Parked> {
        self.parked.iter()
    }

    /// Puts parked deliveries back behind what waits, as if it had just happened. Returns how many.
    pub(super) fn replay(&mut self, chosen: impl Fn(u64) -> bool, now: Instant) -> usize {
        let parked = self.unpark(chosen);
        for happening in parked.iter().flat_map(|parked| &parked.events) {
            self.enqueue(happening.clone(), now);
        }
        parked.len()
    }

    /// Forgets parked deliveries. Returns how many.
    pub(super) fn discard(&mut self, chosen: impl Fn(u64) -> bool) -> usize {
        self.unpark(chosen).len()
    }

    fn unpark(&mut self, chosen: impl Fn(u64) -> bool) -> Vec<Parked> {
        let all = std::mem::take(&mut self.parked);
        let (chosen, others) = all.into_iter().partition::<Vec<_>, _>(|parked| chosen(parked.number));
        self.parked = others.into();
        for parked in &chosen {
            self.parked_events -= parked.events.len();
            self.bytes -= weight(&parked.events);
        }
        chosen
    }

    /// Forgets everything but what is under way, of which `delivered` or `failed` are not to be told any more. Returns
    /// how many events that are.
    pub(super) fn clear(&mut self) -> usize {
        let events = self.queued + self.parked_events;
        let (settings, batch, counts) = (self.settings.clone(), self.batch, self.counts);
        *self = Self { counts, ..Self::new(settings, batch) };
        events
    }

    /// Whether the endpoint has failed too often in a row.
    pub(super) fn is_down(&self) -> bool {
        self.failures >= DOWN_FAILURES
    }

    /// Failed attempts since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Events that wait, are under way or are retried.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Deliveries that have failed and wait to be tried again.
    pub(super) fn retrying(&self) -> usize {
        self.retries.len()
    }

    /// Events that are parked.
    pub(super) fn parked_events(&self) -> usize {
        self.parked_events
    }

    /// What has become of events so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The last failure, and when it was.
    pub(super) fn last_error(&self) -> Option<&(SystemTime, Arc<str>)> {
        self.last_error.as_ref()
    }
}

fn weight(events: &[Arc<Happening>]) -> usize {
    events.iter().map(|happening| happening.weight).sum()
}
