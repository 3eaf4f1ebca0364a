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
/// How long an event waits, at the least, before it is parked without having been tried.
const UNTRIED_MIN: Duration = Duration::from_secs(10);

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
        let patience = self.settings.retry.max(UNTRIED_MIN);
        let has_passed = |since: Instant| now.saturating_duration_since(since) >= patience;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Observation, Observed};
    use proptest::prelude::*;

    /// A queue and a clock; events are known by their number in the order of [`push`](Bench::push).
    struct Bench {
        queue: Queue,
        start: Instant,
        ms: u64,
        pushed: u64,
    }

    impl Bench {
        fn new(settings: Settings, batch_ms: u64) -> Self {
            let queue = Queue::new(Arc::new(settings), Duration::from_millis(batch_ms));
            Bench { queue, start: Instant::now(), ms: 0, pushed: 0 }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_millis(self.ms)
        }

        fn push(&mut self, channel: &str) {
            let what = Observed::SubscriptionCount(self.pushed);
            let observation = Observation { app: "k".into(), channel: channel.into(), what };
            self.queue.push(Arc::new(Happening::new(observation)), self.now());
            self.pushed += 1;
        }

        /// What is to be tried now.
        fn take(&mut self) -> Option<Delivery> {
            let now = self.now();
            self.queue.next(now).filter(|at| *at <= now)?;
            Some(self.queue.take(now).expect("next said so"))
        }

        /// In how many ms there is something to try.
        fn next(&mut self) -> Option<u64> {
            let now = self.now();
            self.queue.next(now).map(|at| (at - now).as_millis() as u64)
        }

        fn fail(&mut self, delivery: Delivery) {
            self.queue.failed(delivery, "answered 500", self.now(), 0.0);
        }
    }

    fn number(happening: &Happening) -> u64 {
        match happening.what {
            Observed::SubscriptionCount(number) => number,
            _ => unreachable!("the bench pushes nothing else"),
        }
    }

    fn numbers(delivery: &Delivery) -> Vec<u64> {
        delivery.happenings().map(|happening| number(happening)).collect()
    }

    fn parked(queue: &Queue) -> Vec<(u32, Vec<u64>)> {
        let numbers = |parked: &Parked| parked.events.iter().map(|event| number(event)).collect();
        queue.parked().map(|parked| (parked.attempts, numbers(parked))).collect()
    }

    #[test]
    fn a_channel_waits_for_its_own_delivery_and_for_no_other() {
        let mut bench = Bench::new(Settings::default(), 0);
        for channel in ["a", "a", "b", "a"] {
            bench.push(channel);
        }
        let first = bench.take().unwrap();
        assert_eq!(numbers(&first), [0]);
        let other = bench.take().unwrap();
        assert_eq!(numbers(&other), [2]);
        assert!(bench.take().is_none());
        bench.fail(first);
        bench.queue.delivered(&other);
        bench.push("b");
        let other = bench.take().unwrap();
        assert_eq!(numbers(&other), [4]);
        assert_eq!(bench.next(), Some(1_000));
        bench.ms = 1_000;
        let again = bench.take().unwrap();
        assert_eq!(numbers(&again), [0]);
        bench.queue.delivered(&again);
        assert_eq!(numbers(&bench.take().unwrap()), [1]);
        assert_eq!(bench.queue.counts(), Counts { delivered: 2, failed: 1, ..Counts::default() });
    }

    #[test]
    fn retries_back_off_until_the_event_is_too_old() {
        let mut bench = Bench::new(Settings::default(), 0);
        bench.push("a");
        bench.push("a");
        let mut attempts = Vec::new();
        while parked(&bench.queue).is_empty() {
            bench.ms += bench.next().unwrap();
            attempts.push(bench.ms);
            let delivery = bench.take().unwrap();
            bench.fail(delivery);
        }
        let s = [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 300];
        assert_eq!(attempts, s.map(|s| s * 1_000));
        assert_eq!(parked(&bench.queue), [(11, vec![0])]);
        // the next is as old, and the endpoint has taken nothing in all that time
        bench.ms += bench.next().unwrap_or(0);
        assert!(bench.take().is_none());
        assert_eq!(parked(&bench.queue), [(11, vec![0]), (0, vec![1])]);
        assert_eq!(bench.queue.queued(), 0);
    }

    #[test]
    fn chance_shortens_a_pause_by_half_at_most() {
        for (random, expected) in [(0.0, 1_000), (0.5, 750), (0.999, 501)] {
            let mut bench = Bench::new(Settings::default(), 0);
            bench.push("a");
            let delivery = bench.take().unwrap();
            bench.queue.failed(delivery, "", bench.start, random);
            let next = bench.queue.next(bench.start).unwrap() - bench.start;
            assert_eq!(next.as_micros().div_ceil(1_000), expected, "{random}");
        }
    }

    #[test]
    fn without_retries_each_event_is_tried_once() {
        let mut bench = Bench::new(Settings { retry: Duration::ZERO, ..Settings::default() }, 0);
        for number in 0..3 {
            bench.push("a");
            bench.ms += 1;
            let delivery = bench.take().unwrap();
            bench.fail(delivery);
            assert_eq!(parked(&bench.queue)[number as usize], (1, vec![number]));
            bench.ms += 1;
        }
    }

    #[test]
    fn one_attempt_is_made_however_long_an_event_has_waited() {
        let mut bench = Bench::new(Settings::default(), 0);
        bench.push("a");
        bench.push("a");
        let first = bench.take().unwrap();
        bench.ms = 400_000;
        bench.queue.delivered(&first);
        let second = bench.take().unwrap();
        bench.fail(second);
        assert_eq!(parked(&bench.queue), [(1, vec![1])]);
    }

    #[test]
    fn an_endpoint_that_is_down_is_asked_once_a_second_and_recovers() {
        let mut bench = Bench::new(Settings::default(), 0);
        for number in 0..20 {
            bench.push(&number.to_string());
        }
        for _ in 0..DOWN_FAILURES {
            let delivery = bench.take().unwrap();
            bench.fail(delivery);
        }
        assert!(bench.queue.is_down());
        assert_eq!(bench.next(), Some(1_000));
        bench.ms = 1_000;
        let delivery = bench.take().unwrap();
        bench.fail(delivery);
        assert!(bench.take().is_none());
        assert_eq!(bench.next(), Some(1_000));
        bench.ms = 2_000;
        let delivery = bench.take().unwrap();
        bench.queue.delivered(&delivery);
        assert!(!bench.queue.is_down());
        let mut told = 1;
        while let Some(delivery) = bench.take() {
            bench.queue.delivered(&delivery);
            told += 1;
        }
        assert!(told >= 12, "{told}");
    }

    #[test]
    fn a_batch_goes_when_it_is_old_or_full() {
        let mut bench = Bench::new(Settings::default(), 200);
        bench.push("a");
        bench.ms = 150;
        bench.push("b");
        bench.push("a");
        assert_eq!(bench.next(), Some(50));
        assert!(bench.take().is_none());
        bench.ms = 200;
        let batch = bench.take().unwrap();
        assert_eq!(numbers(&batch), [0, 1, 2]);
        // behind it: what is on its channels waits, the rest does not
        bench.push("a");
        bench.push("c");
        assert_eq!(bench.next(), Some(200));
        bench.ms = 400;
        assert_eq!(numbers(&bench.take().unwrap()), [4]);
        bench.fail(batch);
        assert_eq!(bench.next(), Some(1_000));
        bench.ms = 1_400;
        let batch = bench.take().unwrap();
        assert_eq!(numbers(&batch), [0, 1, 2]);
        bench.queue.delivered(&batch);
        assert_eq!(numbers(&bench.take().unwrap()), [3]);
        for _ in 0..BATCH_EVENTS_MAX {
            bench.push("d");
        }
        assert_eq!(bench.take().unwrap().events.len(), BATCH_EVENTS_MAX);
    }

    #[test]
    fn a_batch_is_bounded_in_bytes() {
        let mut bench = Bench::new(Settings::default(), 200);
        let large = "x".repeat(300 << 10);
        for _ in 0..5 {
            bench.push(&large);
        }
        assert_eq!(bench.take().unwrap().events.len(), 3);
    }

    #[test]
    fn what_finds_no_room_is_parked_and_then_dropped() {
        let settings = Settings { queue_max: 2, parked_max: 1, ..Settings::default() };
        let mut bench = Bench::new(settings, 0);
        for _ in 0..4 {
            bench.push("a");
        }
        assert_eq!(parked(&bench.queue), [(0, vec![2])]);
        assert_eq!(bench.queue.counts(), Counts { parked: 1, dropped: 1, ..Counts::default() });
        let happening_bytes = bench.queue.bytes / 3;
        let settings = Settings { endpoint_bytes_max: 2 * happening_bytes, ..Settings::default() };
        let mut bench = Bench::new(settings, 0);
        for _ in 0..3 {
            bench.push("a");
        }
        assert_eq!(bench.queue.counts(), Counts { dropped: 1, ..Counts::default() });
        for _ in 0..2 {
            let delivery = bench.take().unwrap();
            bench.queue.delivered(&delivery);
        }
        bench.push("a");
        assert_eq!(numbers(&bench.take().unwrap()), [3]);
    }

    #[test]
    fn parked_deliveries_are_replayed_or_discarded() {
        let settings = Settings { queue_max: 0, ..Settings::default() };
        let mut bench = Bench::new(settings, 0);
        for channel in ["a", "b", "a"] {
            bench.push(channel);
        }
        let second = bench.queue.parked().nth(1).unwrap().number;
        assert_eq!(bench.queue.discard(|number| number == second), 1);
        bench.ms = 1_000_000;
        assert_eq!(bench.queue.replay(|_| true, bench.now()), 2);
        assert_eq!((bench.queue.parked_events(), bench.queue.queued()), (0, 2));
        let first = bench.take().unwrap();
        assert_eq!(numbers(&first), [0]);
        bench.fail(first);
        assert_eq!(bench.next(), Some(1_000), "it has all its time again");
        assert_eq!(bench.queue.replay(|_| true, bench.now()), 0);
    }

    proptest! {
        /// Whatever comes, succeeds and fails in whatever order: no channel's events overtake each other or are told
        /// twice, none has two deliveries under way, and in the end nothing is left over.
        #[test]
        fn order_is_kept(steps in prop::collection::vec((0..8_u8, 0..4_u8), 0..200), batch_ms in prop_oneof![Just(0), Just(50)]) {
            let settings = Settings { retry: Duration::from_secs(20), queue_max: 30, parked_max: 10, ..Settings::default() };
            let mut bench = Bench::new(settings, batch_ms);
            let mut under_way: VecDeque<Delivery> = VecDeque::new();
            let mut told: HashMap<ChannelName, u64> = HashMap::new();
            let mut succeed = |bench: &mut Bench, delivery: Delivery| {
                bench.queue.delivered(&delivery);
                for happening in delivery.happenings() {
                    let last = told.insert(happening.channel.clone(), number(happening));
                    assert!(last.is_none_or(|last| last < number(happening)));
                }
            };
            for (step, value) in steps {
                match step {
                    0..3 => bench.push(&value.to_string()),
                    3 | 4 => if let Some(delivery) = bench.take() {
                        let busy = |channel: &ChannelName| {
                            under_way.iter().any(|other| other.happenings().any(|event| event.channel == *channel))
                        };
                        assert!(!delivery.happenings().any(|event| busy(&event.channel)));
                        under_way.push_back(delivery);
                    },
                    5 => if let Some(delivery) = under_way.pop_front() { succeed(&mut bench, delivery) },
                    6 => if let Some(delivery) = under_way.pop_back() { bench.fail(delivery) },
                    _ => bench.ms += 700 * u64::from(value),
                }
            }
            while let Some(delivery) = under_way.pop_front() {
                succeed(&mut bench, delivery);
            }
            while let Some(wait) = bench.next() {
                bench.ms += wait;
                if let Some(delivery) = bench.take() { succeed(&mut bench, delivery) }
            }
            let counts = bench.queue.counts();
            prop_assert_eq!(counts.delivered + counts.parked + counts.dropped, bench.pushed);
            bench.queue.discard(|_| true);
            let queue = &bench.queue;
            prop_assert_eq!((queue.queued, queue.bytes, queue.ready_events, queue.ready_bytes, queue.parked_events), (0, 0, 0, 0, 0));
            prop_assert!(queue.lanes.is_empty() && queue.ready.is_empty() && queue.retries.is_empty());
        }
    }
}
