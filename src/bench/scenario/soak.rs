//! Everything at once and for long: steady subscribers, bursts, connections that come and go, readers that stall, members
//! that join and leave, channels that vanish, reconnect waves. What the server holds must not grow.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::super::http::HttpConnection;
use super::super::measure::{figures, median};
use super::super::target::Kind;
use super::*;

/// The most connections beside the steady subscribers'.
pub(super) const OTHERS_MAX: usize = 400;

/// The steady subscribers' channel.
const STEADY: u32 = 0;
/// Channel of the large events that stalled readers do not read.
const LARGE: u32 = 1;
/// Channel of those that come back in waves.
const WAVE: u32 = 2;
const PRESENCE: u32 = 3;
/// The first number of those channels that nobody has used before.
const NEW_CHANNELS: u32 = 1_000_000;

/// Steady messages in a second.
const RATE: u32 = 10;
const PUBLISHERS: usize = 2;
/// Connections that come and go together, each to a channel of its own.
const PASSERS: u32 = 5;
const PASSERS_INTERVAL: Duration = Duration::from_millis(100);
/// Groups of stalled readers, of which one after the other is replaced: at any time they are of all ages.
const STALLED_GROUPS: usize = 10;
/// As large as fits the server's default for an event: an outbox of 1 MiB is full within some 20 s.
const LARGE_FRAME_BYTES: usize = 8 << 10;
const LARGE_INTERVAL: Duration = Duration::from_millis(100);
/// Members who stay.
const MEMBERS: u32 = 20;
/// Members who join and leave together.
const GUESTS: u32 = 5;
const GUESTS_INTERVAL: Duration = Duration::from_millis(250);
/// From one look at sockets that have little to say to the next.
const SIDE_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// For gauges to come back after all clients have left.
const REST_MAX: Duration = Duration::from_secs(30);

/// How much more the last third may show than the second...
const GROWTH_MAX: f64 = 1.05;
/// ...beyond so many bytes, or so many of what is counted.
const SLACK_BYTES: f64 = 1e6;
const SLACK_COUNT: f64 = 10.0;
/// How much more memory the server may have at the end, without clients, than after the first minutes...
const IDLE_GROWTH_MAX: f64 = 1.25;
/// ...beyond so many bytes.
const IDLE_SLACK_BYTES: f64 = 8e6;

const RESIDENT: &str = "resident_bytes";
const OPEN_FILES: &str = "open_files";
/// Gauges of the server's metrics, as they are called here and there.
const GAUGES: [(&str, &str); 10] = [
    ("connections", "hydrant_connections"),
    ("channels", "hydrant_channels"),
    ("subscriptions", "hydrant_subscriptions"),
    ("users", "hydrant_users"),
    ("http_connections", "hydrant_http_connections"),
    ("outbox_bytes", "hydrant_outbox_bytes"),
    ("memory_connections_bytes", "hydrant_memory_bytes{of=\"connections\"}"),
    ("memory_events_bytes", "hydrant_memory_bytes{of=\"events\"}"),
    ("memory_caches_bytes", "hydrant_memory_bytes{of=\"caches\"}"),
    ("memory_rosters_bytes", "hydrant_memory_bytes{of=\"rosters\"}"),
];

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    /// Before what counts: the server's memory after it is what the end is held against.
    first: Duration,
    length: Duration,
    sample_interval: Duration,
    /// Steady messages that are waited for together.
    piece: u32,
    burst: u32,
    burst_interval: Duration,
    /// From one group of stalled readers that is replaced to the next.
    stalled_interval: Duration,
    wave: usize,
    wave_interval: Duration,
}

impl Timetable {
    fn of(minutes: u64, is_quick: bool) -> Self {
        let length = Duration::from_secs(minutes * 60);
        if is_quick {
            return Self {
                first: Duration::from_millis(400),
                length: Duration::from_secs(2),
                sample_interval: Duration::from_secs(1),
                piece: 2,
                burst: 10,
                burst_interval: Duration::from_millis(500),
                stalled_interval: Duration::from_millis(200),
                wave: 20,
                wave_interval: Duration::from_millis(500),
            };
        }
        let second = Duration::from_secs(1);
        Self {
            first: (length / 10).min(second * 120),
            length,
            sample_interval: (length / 30).min(second * 60),
            piece: RATE,
            burst: 100,
            burst_interval: second * 10,
            stalled_interval: second * 30 / STALLED_GROUPS as u32,
            wave: 200,
            wave_interval: second * 60,
        }
    }
}

/// What all threads count.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    deliveries: u64,
    /// Lost, wrong or twice: by steady subscribers.
    amiss: u64,
    /// The same, by those who come and go.
    passers_amiss: u64,
    refused: u64,
    refused_connects: u64,
    passers: u64,
    given_up: u64,
    cpu: Duration,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    totals: Mutex<Totals>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Soak<'a> {
    run: &'a Run<'a>,
    on: &'a Subject,
    timetable: Timetable,
}

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let timetable = Timetable::of(run.options.minutes, run.options.quick);
    let on = run.server()?;
    run.wake(&on)?;
    let soak = Soak { run, on: &on, timetable };
    let before = soak.sample()?;

    eprintln!("  soak: the first {}", words(timetable.first));
    soak.load(timetable.first, &mut Vec::new())?;
    let idle = soak.rest(&before)?;
    let mut samples = Vec::new();
    eprintln!("  soak: {}, with a line each {}", words(timetable.length), words(timetable.sample_interval));
    let mut measure = soak.load(timetable.length, &mut samples)?;
    let after = soak.rest(&before)?;

    set_growth(&mut measure, &samples);
    let left = above(&before, &after);
    for (name, was, is) in &left {
        eprintln!("  soak: without clients, {name} is {is} and was {was}");
    }
    if on.ops.is_some() {
        measure.set("gauges_left", left.len() as f64);
    }
    if let (Some(was), Some(is)) = (idle.get(RESIDENT), after.get(RESIDENT)) {
        measure.set("idle_growth", growth(was, is, IDLE_SLACK_BYTES));
        measure.set("idle_first_mb", was / 1e6);
        measure.set("idle_last_mb", is / 1e6);
    }
    // these hold whatever lies between
    let goal = |figure: Figure, max| if run.is_own() { figure.goal(Goal::ValueMax(max)) } else { figure };
    let shown = vec![
        run.goal(Figure::plain("amiss", "steady: deliveries lost, wrong or twice"), Goal::Never),
        run.goal(Figure::plain("closed", "steady: connections closed"), Goal::Never),
        run.goal(Figure::plain("passers_amiss", "passers-by: deliveries lost, wrong or twice"), Goal::Never),
        run.goal(Figure::plain("refused", "publishes refused"), Goal::Never),
        goal(Figure::plain("resident_growth", "resident memory, last third over second"), GROWTH_MAX),
        goal(Figure::plain("open_files_growth", "open files, last third over second"), GROWTH_MAX),
        goal(Figure::plain("gauges_growth", "the gauge that grew most, last third over second"), GROWTH_MAX),
        run.goal(Figure::plain("gauges_left", "gauges not back after all left"), Goal::Never),
        goal(Figure::plain("idle_growth", "resident memory after all left, end over beginning"), IDLE_GROWTH_MAX),
        Figure::plain("resident_mb", "resident MB, last third"),
        Figure::plain("idle_last_mb", "resident MB after all left"),
        Figure::plain("passers", "connections that came and went"),
        Figure::plain("given_up", "stalled readers closed by the server"),
        Figure::delay("p99_ms", "steady: delivery, p99 ms"),
        Figure::plain("server_cores", "server, cores"),
        Figure::plain("client_cores", "client, cores"),
    ];
    let case = format!("{} of everything, {} steady", words(timetable.length), subscribers(run));
    let (scenario, server, beside) = (Scenario::Soak.word(), vec![measure], Vec::new());
    Ok(vec![Case { scenario, case, beside_what: "", server, beside, figures: shown, samples }])
}

impl Soak<'_> {
    /// Everything at once; all clients have left when it returns.
    fn load(&self, length: Duration, samples: &mut Vec<Measure>) -> Result<Measure> {
        const PARTS: [fn(&Soak<'_>, &Shared) -> Result<()>; 4] = [pass, stall, join_and_leave, come_in_waves];
        let shared = Shared::default();
        let (began, cpu_before, own_cpu_before) = (Instant::now(), self.on.watched.cpu()?, thread_cpu());
        let phases = thread::scope(|scope| {
            let shared = &shared;
            let parts = PARTS.map(|part| {
                scope.spawn(move || {
                    let went = part(self, shared);
                    if went.is_err() {
                        shared.end();
                    }
                    shared.totals().cpu += thread_cpu();
                    went
                })
            });
            let phases = steady(self, shared, length, samples);
            shared.end();
            for part in parts {
                part.join().map_err(|_| anyhow!("a thread failed"))??;
            }
            phases
        })?;
        let elapsed_s = began.elapsed().as_secs_f64();
        let totals = *shared.totals();
        let publishing = phases.published.as_ref().map_or(Duration::ZERO, |published| published.cpu);
        let own_cpu = totals.cpu + publishing + thread_cpu().saturating_sub(own_cpu_before);
        let server_cpu = cpu_since(&self.on.watched, cpu_before)?;
        let mut measure = phases.measure(&self.on.watched)?;
        measure.set("passers_amiss", totals.passers_amiss as f64);
        measure.set("refused", totals.refused as f64);
        measure.set("refused_connects", totals.refused_connects as f64);
        measure.set("passers", totals.passers as f64);
        measure.set("given_up", totals.given_up as f64);
        measure.set("client_cpu_s", own_cpu.as_secs_f64());
        measure.set("client_cores", own_cpu.as_secs_f64() / elapsed_s);
        measure.set_known("server_cores", server_cpu.map(|cpu| cpu.as_secs_f64() / elapsed_s));
        Ok(measure)
    }

    /// What the server holds now.
    fn sample(&self) -> Result<Measure> {
        let mut sample = Measure::default();
        let memory = self.on.watched.memory()?;
        sample.set_known(RESIDENT, memory.map(|memory| memory.resident_bytes as f64));
        if let Some(held) = self.on.watched.held() {
            sample.set(OPEN_FILES, held.open_files as f64);
            sample.set("threads", held.threads as f64);
        }
        if let Some(ops) = self.on.ops {
            let mut connection = HttpConnection::connect(ops)?;
            connection.send(format!("GET /metrics HTTP/1.1\r\nHost: {ops}\r\n\r\n").as_bytes())?;
            let metrics = String::from_utf8(connection.answer()?.body).context("metrics")?;
            for (name, metric) in GAUGES {
                let value = gauge(&metrics, metric).with_context(|| format!("no {metric} in /metrics"))?;
                sample.set(name, value);
            }
        }
        Ok(sample)
    }

    /// Waits until the gauges are what they were, or for half a minute, and a little more for memory to be given back.
    fn rest(&self, before: &Measure) -> Result<Measure> {
        let began = Instant::now();
        while !above(before, &self.sample()?).is_empty() && began.elapsed() < REST_MAX {
            check_interrupted()?;
            thread::sleep(self.run.scale.settle);
        }
        thread::sleep(self.run.scale.settle * 5);
        self.sample()
    }

    /// A client for a few connections, which nobody waits for.
    fn side_client(&self, subscriptions: impl IntoIterator<Item = Subscription>, shared: &Shared) -> Result<Client> {
        let mut client = Client::with_poll_sets(self.run.clock, self.on.site.clone(), 1)?;
        self.come(&mut client, subscriptions, shared)?;
        Ok(client)
    }

    /// Opens these connections in place of the client's.
    fn come(
        &self,
        client: &mut Client,
        subscriptions: impl IntoIterator<Item = Subscription>,
        shared: &Shared,
    ) -> Result<()> {
        client.clear();
        let opened = client.add(subscriptions, Opening::STORM, &mut Tally::empty())?;
        shared.totals().refused_connects += opened.refused;
        Ok(())
    }
}

/// Steady subscribers get a flow of events, and bursts. Samples are taken here.
fn steady(soak: &Soak<'_>, shared: &Shared, length: Duration, samples: &mut Vec<Measure>) -> Result<Phases> {
    let (run, on, timetable) = (soak.run, soak.on, soak.timetable);
    let subscribers = subscribers(run);
    let mut client = Client::open(run.clock, &on.site, vec![Subscription::Channel(STEADY); subscribers])?;
    let mut publisher = Publisher::connect(&on.site, PUBLISHERS)?;
    let mut phases = Phases::new(on.watched.memory()?);
    let (began, mut first_message) = (Instant::now(), 0);
    let (mut next_burst, mut next_sample) = (timetable.burst_interval, timetable.sample_interval);
    let mut shown = Totals::default();
    while began.elapsed() < length && !shared.is_over() {
        let mut pieces = vec![(timetable.piece, Duration::from_secs(1) / RATE)];
        if began.elapsed() >= next_burst {
            next_burst += timetable.burst_interval;
            pieces.push((timetable.burst, Duration::ZERO));
        }
        for (messages, interval) in pieces {
            let plan = Plan::to_one_channel(first_message, messages, interval, SMALL_FRAME_BYTES);
            first_message += messages;
            let delivered = run.deliver(on, &mut client, &mut publisher, &plan, subscribers as u64)?;
            let (deliveries, amiss, refused) = outcome(&delivered);
            phases.add(delivered);
            let mut totals = shared.totals();
            totals.deliveries += deliveries;
            totals.amiss += amiss;
            totals.refused += refused;
        }
        if began.elapsed() >= next_sample {
            next_sample += timetable.sample_interval;
            let totals = *shared.totals();
            let mut sample = soak.sample()?;
            sample.set("elapsed_s", began.elapsed().as_secs_f64());
            sample.set("deliveries", (totals.deliveries - shown.deliveries) as f64);
            let lost = totals.amiss + totals.passers_amiss - shown.amiss - shown.passers_amiss;
            sample.set("lost", lost as f64);
            sample.set("refused", (totals.refused - shown.refused) as f64);
            eprintln!("  soak {}", line(&sample));
            samples.push(sample);
            shown = totals;
        }
    }
    client.close()?;
    Ok(phases)
}

/// Connections come, each to a channel that nobody has used before, get an event there, and go: every second time without
/// a word.
fn pass(soak: &Soak<'_>, shared: &Shared) -> Result<()> {
    let (run, on) = (soak.run, soak.on);
    let mut client = soak.side_client([], shared)?;
    let mut publisher = Publisher::connect(&on.site, 1)?;
    for turn in 0.. {
        if shared.is_over() {
            break;
        }
        let began = Instant::now();
        let plan = Plan {
            first_message: turn * PASSERS,
            messages: PASSERS,
            interval: Duration::ZERO,
            frame_bytes: SMALL_FRAME_BYTES,
            first_channel: NEW_CHANNELS + turn * PASSERS,
            channels: PASSERS,
        };
        let channels = (0..PASSERS).map(|passer| Subscription::Channel(plan.first_channel + passer));
        soak.come(&mut client, channels, shared)?;
        let delivered = run.deliver(on, &mut client, &mut publisher, &plan, 1)?;
        let (deliveries, amiss, refused) = outcome(&delivered);
        {
            let mut totals = shared.totals();
            totals.deliveries += deliveries;
            totals.passers_amiss += amiss;
            totals.refused += refused;
            totals.passers += u64::from(PASSERS);
            totals.cpu += delivered.published.cpu;
        }
        if turn % 2 == 0 {
            client.close_all()?
        } else {
            client.drop_all()?
        }
        thread::sleep(PASSERS_INTERVAL.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// Readers stop reading; half of them are sent more than the server can keep for them. What a server closes cannot be seen
/// without reading: so all are replaced in their turn, and what had become of them is seen then.
fn stall(soak: &Soak<'_>, shared: &Shared) -> Result<()> {
    let (run, on) = (soak.run, soak.on);
    let group = [Subscription::Channel(LARGE), Subscription::Channel(STEADY)];
    let mut groups = Vec::new();
    for _ in 0..STALLED_GROUPS {
        let mut client = soak.side_client(group, shared)?;
        client.stall(group.len());
        groups.push(client);
    }
    let mut publisher = Publisher::connect(&on.site, 1)?;
    let (began, mut next, mut turn) = (Instant::now(), soak.timetable.stalled_interval, 0);
    let mut sent = 0;
    while !shared.is_over() {
        // replacing readers takes its time, and what was due meanwhile is sent now
        let due = (began.elapsed().as_millis() / LARGE_INTERVAL.as_millis()) as u32 + 1;
        let messages = Plan::to_one_channel(sent, due - sent, Duration::ZERO, LARGE_FRAME_BYTES);
        let plan = Plan { first_channel: LARGE, ..messages };
        sent = due;
        let prepared = publisher.prepare(&on.site, &plan)?;
        let published = publisher.publish(run.clock, run.clock.now_ns(), &prepared)?;
        {
            let mut totals = shared.totals();
            totals.refused += u64::from(published.refused);
            totals.cpu += published.cpu;
        }
        if began.elapsed() >= next {
            next += soak.timetable.stalled_interval;
            let client = &mut groups[turn % STALLED_GROUPS];
            turn += 1;
            let given_up = client.stalled_closed()?;
            shared.totals().given_up += given_up as u64;
            client.drop_all()?;
            soak.come(client, group, shared)?;
            client.stall(group.len());
        }
        thread::sleep(LARGE_INTERVAL);
    }
    groups.into_iter().try_for_each(Client::close)
}

/// Members join a presence channel and leave it, under names that nobody has had before; where there are such channels.
fn join_and_leave(soak: &Soak<'_>, shared: &Shared) -> Result<()> {
    if soak.run.credentials().kind() != Kind::Pusher {
        return Ok(());
    }
    let mut members = soak.side_client((0..MEMBERS).map(|user| Subscription::Member(PRESENCE, user)), shared)?;
    let mut guests = soak.side_client([], shared)?;
    for turn in 0.. {
        if shared.is_over() {
            break;
        }
        let first = MEMBERS + turn * GUESTS;
        let users = (first..first + GUESTS).map(|user| Subscription::Member(PRESENCE, user));
        soak.come(&mut guests, users, shared)?;
        listen(&mut [&mut members, &mut guests], GUESTS_INTERVAL, shared)?;
        if turn % 2 == 0 {
            guests.close_all()?
        } else {
            guests.drop_all()?
        }
        listen(&mut [&mut members], GUESTS_INTERVAL, shared)?;
    }
    members.close()
}

/// Connections end together and come back as fast as they can.
fn come_in_waves(soak: &Soak<'_>, shared: &Shared) -> Result<()> {
    let Timetable { wave, wave_interval, .. } = soak.timetable;
    let mut client = soak.side_client(vec![Subscription::Channel(WAVE); wave], shared)?;
    // not when samples are taken
    listen(&mut [&mut client], wave_interval / 2, shared)?;
    while !shared.is_over() {
        client.drop_all()?;
        soak.come(&mut client, vec![Subscription::Channel(WAVE); wave], shared)?;
        listen(&mut [&mut client], wave_interval, shared)?;
    }
    client.close()
}

/// Reads what comes, for so long or until it is all over.
fn listen(clients: &mut [&mut Client], length: Duration, shared: &Shared) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < length && !shared.is_over() {
        for client in &mut *clients {
            client.look(&mut Tally::empty())?;
        }
        thread::sleep(SIDE_LOOK_INTERVAL);
    }
    Ok(())
}

/// Steady subscribers.
pub(super) fn subscribers(run: &Run<'_>) -> usize {
    run.options.subscribers.unwrap_or(run.scale.subscribers)
}

/// Deliveries; those lost, wrong or twice; publishes refused.
fn outcome(delivered: &Delivered) -> (u64, u64, u64) {
    let Delivered { tally, published, readers, .. } = delivered;
    let expected = readers * u64::from(tally.plan.messages - published.refused.min(tally.plan.messages));
    let amiss = expected.saturating_sub(tally.deliveries) + tally.wrong + tally.duplicates;
    (tally.deliveries, amiss, published.refused.into())
}

/// How the last third's medians stand to the second's.
fn set_growth(measure: &mut Measure, samples: &[Measure]) {
    let third = samples.len() / 3;
    if third == 0 {
        return;
    }
    let middle = |samples: &[Measure], name: &str| median(&figures(samples, name));
    let growth_of = |name: &str| {
        let slack = if name.ends_with("_bytes") { SLACK_BYTES } else { SLACK_COUNT };
        samples[0].get(name)?;
        let second = middle(&samples[third..2 * third], name);
        let last = middle(&samples[samples.len() - third..], name);
        Some(growth(second, last, slack))
    };
    measure.set_known("resident_growth", growth_of(RESIDENT));
    measure.set_known("open_files_growth", growth_of(OPEN_FILES));
    let gauges = GAUGES.iter().filter_map(|(name, _)| Some((name, growth_of(name)?)));
    if let Some((name, most)) = gauges.max_by(|(_, one), (_, other)| one.total_cmp(other)) {
        measure.set("gauges_growth", most);
        eprintln!("  soak: of the gauges, {name} grew most");
    }
    let resident = middle(&samples[samples.len() - third..], RESIDENT);
    measure.set_known("resident_mb", (!resident.is_nan()).then_some(resident / 1e6));
}

/// `after`, less the slack, over `before`.
fn growth(before: f64, after: f64, slack: f64) -> f64 {
    // where there was nothing, what is within the slack is no growth
    if after <= slack { 0.0 } else { (after - slack) / before }
}

/// The gauges that are above what they were: name, before, after.
fn above(before: &Measure, after: &Measure) -> Vec<(&'static str, f64, f64)> {
    let both = GAUGES.iter().filter_map(|(name, _)| Some((*name, before.get(name)?, after.get(name)?)));
    both.filter(|(_, before, after)| after > before).collect()
}

/// The value of a gauge in a text of OpenMetrics.
fn gauge(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn line(sample: &Measure) -> String {
    let value = |name| sample.get(name).map_or_else(|| "-".to_owned(), |value| format!("{value}"));
    let mb = |name| sample.get(name).map_or_else(|| "-".to_owned(), |bytes| format!("{:.2}", bytes / 1e6));
    let gauges = GAUGES.iter().filter(|(name, _)| sample.get(name).is_some()).map(|(name, _)| {
        name.strip_suffix("_bytes")
            .map_or_else(|| format!(", {name} {}", value(name)), |what| format!(", {what} MB {}", mb(name)))
    });
    format!(
        "{}: {} MB resident, {} open files, {} threads{}; {} deliveries, {} lost, {} refused",
        words(Duration::from_secs(sample.get("elapsed_s").unwrap_or(0.0).round() as u64)),
        mb(RESIDENT),
        value(OPEN_FILES),
        value("threads"),
        gauges.collect::<String>(),
        value("deliveries"),
        value("lost"),
        value("refused"),
    )
}

fn words(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s if s > 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_last_third_beyond_the_slack() {
        let check = |resident: &[f64], expected: Option<f64>| {
            let sample = |value: &f64| {
                let mut sample = Measure::default();
                sample.set(RESIDENT, *value);
                sample
            };
            let mut measure = Measure::default();
            set_growth(&mut measure, &resident.iter().map(sample).collect::<Vec<_>>());
            assert_eq!(measure.get("resident_growth"), expected, "{resident:?}");
        };
        check(&[1e6, 1e6], None);
        check(&[1e7, 1e7, 1e7], Some(0.9));
        check(&[9e9, 1e7, 2.1e7], Some(2.0)); // the first third is not looked at
        check(&[1e7, 1e7, 1e7, 1e7, 1.1e7, 9e9], Some(growth(1e7, median(&[1.1e7, 9e9]), SLACK_BYTES)));
        assert_eq!((growth(0.0, 5.0, 10.0), growth(0.0, 11.0, 10.0)), (0.0, f64::INFINITY));
    }

    #[test]
    fn gauges_are_found_by_their_whole_name() {
        let metrics = "# TYPE hydrant_memory_bytes gauge\nhydrant_memory_bytes{of=\"events\"} 12\n\
                       hydrant_connections_opened_total 9\nhydrant_connections 3\n";
        assert_eq!(gauge(metrics, "hydrant_connections"), Some(3.0));
        assert_eq!(gauge(metrics, "hydrant_memory_bytes{of=\"events\"}"), Some(12.0));
        assert_eq!(gauge(metrics, "hydrant_users"), None);
    }
}
