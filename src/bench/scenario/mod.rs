//! What is done in each scenario, and which figures come of it: one scenario, one file. Here: what they share.

mod churn;
mod connect;
mod fairness;
mod fanout;
mod idle;
mod many;
mod presence;
mod publish;
mod slow;
mod soak;
mod storm;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use clap::ValueEnum;
use hdrhistogram::Histogram;

use super::client::{Client, Opening, Reading};
use super::floor::{self, Floor, FloorProcess};
use super::measure::{Case, Figure, Goal, Measure, percentile};
use super::process::{Cpu, Memory, Watched, check_interrupted, thread_cpu};
use super::publisher::{Published, Publisher};
use super::server::{OwnServer, Subject};
use super::tally::{Clock, Plan, Tally, delays, percentile_ms};
use super::target::{self, Credentials, Endpoint, Site, Subscription};
use super::{Options, Transport};

/// A frame as small as most events are.
const SMALL_FRAME_BYTES: usize = 120;
const LARGE_FRAME_BYTES: usize = 1024;
/// Beyond any delivery's delay: what has not arrived so long after the one before is lost.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// What a phase may take beyond four times its timetable.
const PHASE_EXTRA_MAX: Duration = Duration::from_secs(30);
const WARM_UP_INTERVAL: Duration = Duration::from_millis(20);
/// From the beginning of a phase to its first message: for publishers to get ready.
const LEAD_NS: u64 = 5_000_000;

/// One group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Events to many subscribers of one channel: isolated, in bursts, more than is comfortable
    Fanout,
    /// Many channels with few subscribers each
    Many,
    /// Publishes to a channel without subscribers: kept-alive, pipelined, in batches
    Publish,
    /// Memory of connections that do nothing
    Idle,
    /// Memory after connections have come and gone, ten times
    Churn,
    /// Connect, subscribe, close
    Connect,
    /// A tenth of the subscribers stop reading
    Slow,
    /// Joining and leaving presence channels of different sizes
    Presence,
    /// Thousands lose their connection at once and come back, while others get events
    ReconnectStorm,
    /// Pings, subscribes and small channels while one large channel has bursts
    Fairness,
    /// Everything at once for half an hour: memory, descriptors and gauges stay flat (only where it is named)
    Soak,
}

impl Scenario {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Many => "many",
            Self::Publish => "publish",
            Self::Idle => "idle",
            Self::Churn => "churn",
            Self::Connect => "connect",
            Self::Slow => "slow",
            Self::Presence => "presence",
            Self::ReconnectStorm => "reconnect-storm",
            Self::Fairness => "fairness",
            Self::Soak => "soak",
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub rounds: usize,
    pub subscribers: usize,
    pub crowd: usize,
    pub paced: Duration,
    pub warm_up_messages: u32,
    pub bursts: u32,
    pub many_channels: u32,
    pub idle_connections: usize,
    pub churn_rounds: u32,
    pub connects: usize,
    pub publishes: u32,
    pub slow_interval: Duration,
    pub presence_members: &'static [u32],
    pub presence_joins: u32,
    pub storm_connections: usize,
    pub storms: u32,
    /// Time for memory to be given back, and for what a phase left behind.
    pub settle: Duration,
}

impl Scale {
    pub(super) fn full(rounds: usize) -> Self {
        Self {
            rounds,
            subscribers: 1_000,
            crowd: 10_000,
            paced: Duration::from_secs(4),
            warm_up_messages: 20,
            bursts: 5,
            many_channels: 2_000,
            idle_connections: 10_000,
            churn_rounds: 10,
            connects: 5_000,
            publishes: 60_000,
            slow_interval: Duration::from_millis(20),
            presence_members: &[100, 1_000, 5_000],
            presence_joins: 50,
            storm_connections: 5_000,
            storms: 3,
            settle: Duration::from_secs(1),
        }
    }

    pub(super) fn quick() -> Self {
        Self {
            rounds: 1,
            subscribers: 20,
            crowd: 50,
            paced: Duration::from_millis(200),
            warm_up_messages: 2,
            bursts: 1,
            many_channels: 10,
            idle_connections: 100,
            churn_rounds: 2,
            connects: 100,
            publishes: 100,
            slow_interval: Duration::from_millis(1),
            presence_members: &[5, 20],
            presence_joins: 3,
            storm_connections: 50,
            storms: 1,
            settle: Duration::from_millis(50),
        }
    }
}

/// A server to be driven.
pub(super) enum Place {
    /// This program, started afresh for each measurement.
    Own(OwnServer),
    /// One that somebody else started.
    There { site: Arc<Site>, watched: Watched, credentials: Credentials },
}

/// All that the scenarios share.
pub(super) struct Run<'a> {
    pub options: &'a Options,
    pub scale: Scale,
    pub clock: Clock,
    pub place: Place,
}

impl Run<'_> {
    /// The figures of one scenario.
    pub(super) fn measure(&self, scenario: Scenario) -> Result<Vec<Case>> {
        match scenario {
            Scenario::Fanout => fanout::measure(self),
            Scenario::Many => many::measure(self),
            Scenario::Publish => publish::measure(self),
            Scenario::Idle => idle::measure(self),
            Scenario::Churn => churn::measure(self),
            Scenario::Connect => connect::measure(self),
            Scenario::Slow => slow::measure(self),
            Scenario::Presence => presence::measure(self),
            Scenario::ReconnectStorm => storm::measure(self),
            Scenario::Fairness => fairness::measure(self),
            Scenario::Soak => soak::measure(self),
        }
    }

    /// The most connections that a scenario has open at a time.
    pub(super) fn connections_max(&self, scenario: Scenario) -> usize {
        let Scale { subscribers, crowd, idle_connections, storm_connections, .. } = self.scale;
        match scenario {
            Scenario::Fanout => fanout::shapes(self).iter().map(|shape| shape.subscribers).max().unwrap_or_default(),
            Scenario::Many => many::connections(self),
            Scenario::Publish => self.options.publishers,
            Scenario::Idle | Scenario::Churn => self.options.connections.unwrap_or(idle_connections),
            Scenario::Connect => connect::TOGETHER,
            Scenario::Slow => self.options.subscribers.unwrap_or(subscribers),
            Scenario::Presence => {
                self.scale.presence_members.iter().copied().max().unwrap_or_default() as usize
                    + self.scale.presence_joins as usize
            }
            Scenario::ReconnectStorm => self.options.connections.unwrap_or(storm_connections) + storm::BYSTANDERS,
            Scenario::Fairness => crowd + fairness::PROBES,
            Scenario::Soak => soak::subscribers(self) + soak::OTHERS_MAX,
        }
    }

    /// The server: a new one, or the one that is there.
    fn server(&self) -> Result<Subject> {
        match &self.place {
            Place::Own(own) => own.start(),
            Place::There { site, watched, .. } => {
                Ok(Subject { site: site.clone(), watched: watched.clone(), commands: None, ops: None, child: None })
            }
        }
    }

    fn is_own(&self) -> bool {
        matches!(self.place, Place::Own(_))
    }

    fn credentials(&self) -> &Credentials {
        match &self.place {
            Place::Own(own) => own.credentials(),
            Place::There { credentials, .. } => credentials,
        }
    }

    /// A floor for so many connections.
    fn floor(&self, kind: Floor, connections: usize) -> Result<Subject> {
        let FloorProcess { process, address, commands } = floor::start(kind, connections)?;
        let like = self.credentials().target(Endpoint::at(address), Endpoint::at(address));
        let target = target::Floor { like, is_asked: kind == Floor::Upgrade };
        Ok(Subject {
            site: Site::new(Arc::new(target), address, address),
            watched: Watched::new(vec![process.id()])?,
            commands: Some(commands),
            ops: None,
            child: Some(process),
        })
    }

    /// A goal that holds for our own server beside its own floor; where more lies between than TCP, only what must not
    /// happen at all.
    fn goal(&self, figure: Figure, goal: Goal) -> Figure {
        let is_plain = self.options.transport == Transport::default();
        if self.is_own() && (is_plain || goal == Goal::Never) { figure.goal(goal) } else { figure }
    }

    /// Measures the server, and a floor beside it where floors are wanted, as often as there are rounds; the one that goes
    /// first changes.
    fn beside_floor(
        &self,
        scenario: Scenario,
        case: impl Into<String>,
        figures: Vec<Figure>,
        server: impl Fn() -> Result<Measure>,
        floor: impl Fn() -> Result<Measure>,
    ) -> Result<Case> {
        let floor: Option<&dyn Fn() -> Result<Measure>> = if self.options.floor { Some(&floor) } else { None };
        self.in_turns(scenario, case.into(), figures, "floor", &server, floor)
    }

    /// Measures both as often as there are rounds, the one that goes first changing.
    fn in_turns(
        &self,
        scenario: Scenario,
        case: String,
        figures: Vec<Figure>,
        beside_what: &'static str,
        server: &dyn Fn() -> Result<Measure>,
        beside: Option<&dyn Fn() -> Result<Measure>>,
    ) -> Result<Case> {
        let word = scenario.word();
        let (server_figures, beside_figures, samples) = (Vec::new(), Vec::new(), Vec::new());
        let mut done = Case {
            scenario: word,
            case,
            beside_what,
            server: server_figures,
            beside: beside_figures,
            figures,
            samples,
        };
        let rounds = self.rounds(scenario);
        for round in 0..rounds {
            check_interrupted()?;
            for turn in [round, round + 1] {
                match (turn % 2 == 0, beside) {
                    (true, Some(beside)) => done.beside.push(beside()?),
                    (true, None) => (),
                    (false, _) => done.server.push(server()?),
                }
            }
            progress(&done, round, rounds);
        }
        Ok(done)
    }

    /// How often a scenario is measured. A server that goes on has the memory of a first crowd ready for a second, which
    /// would seem to cost nothing.
    fn rounds(&self, scenario: Scenario) -> usize {
        if scenario == Scenario::Idle && !self.is_own() { 1 } else { self.scale.rounds }
    }

    /// Publishes while this thread reads.
    fn deliver(
        &self,
        on: &Subject,
        client: &mut Client,
        publisher: &mut Publisher,
        plan: &Plan,
        readers: u64,
    ) -> Result<Delivered> {
        self.deliver_and(on, client, publisher, plan, readers, &mut |_, _| Ok(()))
    }

    /// Publishes while this thread reads, and does something else between two looks.
    fn deliver_and(
        &self,
        on: &Subject,
        client: &mut Client,
        publisher: &mut Publisher,
        plan: &Plan,
        readers: u64,
        between: &mut dyn FnMut(&mut Client, u64) -> Result<()>,
    ) -> Result<Delivered> {
        let prepared = publisher.prepare(&on.site, plan)?;
        let cpu_before = on.watched.cpu()?;
        let began_ns = self.clock.now_ns() + LEAD_NS;
        let mut tally = Tally::new(*plan, began_ns, client.connections());
        let expected = u64::from(plan.messages) * readers;
        let time_max = plan.duration() * 4 + PHASE_EXTRA_MAX;
        let (reading, published) = thread::scope(|scope| {
            let publishing = scope.spawn(|| publisher.publish(self.clock, began_ns, &prepared));
            let sent = || publishing.is_finished();
            let enough = |tally: &Tally| tally.deliveries >= expected;
            let reading = client.read_and(&mut tally, time_max, QUIET_MAX, sent, enough, between);
            let published = publishing.join().map_err(|_| anyhow!("the publisher's thread failed"))?;
            anyhow::Ok((reading?, published?))
        })?;
        let server_cpu = cpu_since(&on.watched, cpu_before)?;
        Ok(Delivered { tally, reading, published, server_cpu, readers })
    }

    /// Slow messages that are not counted, until everything has arrived; their number.
    ///
    /// # Errors
    /// When they are refused, or not one arrives: there is nothing to measure then.
    fn warm_up(
        &self,
        on: &Subject,
        client: &mut Client,
        publisher: &mut Publisher,
        frame_bytes: usize,
        readers: u64,
    ) -> Result<u32> {
        let plan = Plan::to_one_channel(0, self.scale.warm_up_messages, WARM_UP_INTERVAL, frame_bytes);
        let Delivered { tally, published, .. } = self.deliver(on, client, publisher, &plan, readers)?;
        if let Some(refusal) = published.refusal {
            bail!("{} of the first {} publishes were refused: {refusal}", published.refused, plan.messages);
        }
        ensure!(tally.deliveries > 0, "nothing of the first {} messages has arrived at a subscriber", plan.messages);
        Ok(plan.messages)
    }

    fn publisher(&self, on: &mut Subject) -> Result<Publisher> {
        match on.commands.take() {
            Some(pipe) => Ok(Publisher::Pipe(pipe)),
            None => Publisher::connect(&on.site, self.options.publishers),
        }
    }

    /// What the first connection and the first event bring into memory is nobody else's.
    fn wake(&self, on: &Subject) -> Result<()> {
        Client::open(self.clock, &on.site, [Subscription::Channel(0)])?.close()?;
        let mut publisher = Publisher::connect(&on.site, 1)?;
        let prepared = publisher.prepare(&on.site, &Plan::to_one_channel(0, 1, Duration::ZERO, SMALL_FRAME_BYTES))?;
        publisher.publish(self.clock, self.clock.now_ns(), &prepared)?;
        thread::sleep(self.scale.settle);
        Ok(())
    }
}

fn progress(case: &Case, round: usize, rounds: usize) {
    let first = case.figures.first().and_then(|figure| Some((figure, case.server.last()?.get(figure.name)?)));
    let Some((figure, value)) = first else { return };
    let ratio = case.ratios(figure).last().map(|ratio| format!(", {ratio:.2} x {}", case.beside_what));
    eprintln!(
        "  {} {} ({}/{rounds}): {} {}{}",
        case.scenario,
        case.case,
        round + 1,
        figure.label,
        super::report::short(value),
        ratio.unwrap_or_default()
    );
}

/// The CPU time of watched processes since an earlier reading.
fn cpu_since(watched: &Watched, before: Option<Cpu>) -> Result<Option<Duration>> {
    let Some(before) = before else { return Ok(None) };
    Ok(watched.cpu()?.map(|now| now.since(&before)))
}

/// What became of one row of messages.
struct Delivered {
    tally: Tally,
    reading: Reading,
    published: Published,
    server_cpu: Option<Duration>,
    /// Who should have got each message.
    readers: u64,
}

/// What became of several rows of messages on one server.
struct Phases {
    delays: Histogram<u32>,
    last_ms: Vec<f64>,
    deliveries: u64,
    wire_bytes: u64,
    clear_bytes: u64,
    lost: u64,
    wrong: u64,
    duplicates: u64,
    closed: usize,
    delivering: Duration,
    server_cpu: Option<Duration>,
    reader_cpu: Duration,
    busy_cpu: Duration,
    busy_time: Duration,
    look_gaps: Histogram<u32>,
    published: Option<Published>,
    memory_before: Option<Memory>,
}

impl Phases {
    fn new(memory_before: Option<Memory>) -> Self {
        let [delays, look_gaps] = [delays(), delays()];
        let zero = Duration::ZERO;
        Self {
            delays,
            last_ms: Vec::new(),
            deliveries: 0,
            wire_bytes: 0,
            clear_bytes: 0,
            lost: 0,
            wrong: 0,
            duplicates: 0,
            closed: 0,
            delivering: zero,
            server_cpu: None,
            reader_cpu: zero,
            busy_cpu: zero,
            busy_time: zero,
            look_gaps,
            published: None,
            memory_before,
        }
    }

    fn add(&mut self, delivered: Delivered) {
        let Delivered { tally, reading, published, server_cpu, readers } = delivered;
        // of equal bounds
        let _ = self.delays.add(&tally.delays);
        let _ = self.look_gaps.add(&reading.look_gaps);
        let arrived = tally.messages.iter().filter(|message| message.deliveries > 0);
        self.last_ms.extend(arrived.map(|message| message.last_ns as f64 / 1e6));
        let expected = readers * u64::from(tally.plan.messages - published.refused.min(tally.plan.messages));
        self.deliveries += tally.deliveries;
        self.wire_bytes += tally.wire_bytes;
        self.clear_bytes += tally.clear_bytes;
        self.lost += expected.saturating_sub(tally.deliveries);
        self.wrong += tally.wrong;
        self.duplicates += tally.duplicates;
        self.closed += tally.closed;
        self.delivering += Duration::from_nanos(tally.last_arrival_ns - tally.began_ns);
        self.server_cpu = server_cpu.map(|cpu| cpu + self.server_cpu.unwrap_or_default());
        self.reader_cpu += reading.cpu;
        self.busy_cpu += reading.busy_cpu;
        self.busy_time += reading.busy_time;
        match &mut self.published {
            Some(all) => all.add(&published),
            none => *none = Some(published),
        }
    }

    /// All figures that a row of messages has.
    fn measure(self, watched: &Watched) -> Result<Measure> {
        let mut measure = Measure::default();
        let deliveries = self.deliveries as f64;
        let per_million = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries;
        measure.set("deliveries", deliveries);
        measure.set("deliveries_per_s", deliveries / self.delivering.as_secs_f64());
        if self.deliveries > 0 {
            measure.set("bytes_per_delivery", self.wire_bytes as f64 / deliveries);
            measure.set("deflate_ratio", self.wire_bytes as f64 / self.clear_bytes as f64);
        }
        measure.set("lost", self.lost as f64);
        measure.set("wrong", self.wrong as f64);
        measure.set("duplicate", self.duplicates as f64);
        measure.set("amiss", (self.lost + self.wrong + self.duplicates) as f64);
        measure.set("closed", self.closed as f64);
        for (name, percent) in [("p50_ms", 50.0), ("p99_ms", 99.0), ("p999_ms", 99.9), ("max_ms", 100.0)] {
            measure.set(name, percentile_ms(&self.delays, percent));
        }
        measure.set("last_p50_ms", percentile(&self.last_ms, 50));
        measure.set("last_p99_ms", percentile(&self.last_ms, 99));
        measure.set("last_max_ms", percentile(&self.last_ms, 100));
        measure.set_known("server_cpu_s_per_million", self.server_cpu.map(per_million));
        measure.set_known("total_cpu_s_per_million", self.server_cpu.map(|cpu| per_million(cpu + self.reader_cpu)));
        set_memory(&mut measure, self.memory_before, watched.memory()?);
        let mut client_cpu = self.reader_cpu;
        if let Some(published) = &self.published {
            client_cpu += published.cpu;
            if let Some(refusal) = &published.refusal {
                eprintln!("  {} publishes were refused: {refusal}", published.refused);
            }
            measure.set("refused", f64::from(published.refused));
            measure.set("answer_p99_ms", percentile_ms(&published.answers, 99.0));
            measure.set("publisher_late_p99_ms", percentile_ms(&published.own_delays, 99.0));
        }
        measure.set("client_cpu_s", client_cpu.as_secs_f64());
        measure.set("client_busy", self.busy_cpu.as_secs_f64() / self.busy_time.as_secs_f64().max(f64::EPSILON));
        measure.set("look_gap_p99_ms", percentile_ms(&self.look_gaps, 99.0));
        Ok(measure)
    }
}

fn set_memory(measure: &mut Measure, before: Option<Memory>, after: Option<Memory>) {
    let (Some(before), Some(after)) = (before, after) else { return };
    // the peak is of the process's whole life: where it was before, this phase's own is between the two
    let resident_peak = before.resident_bytes.max(after.resident_bytes);
    let peak = if after.peak_bytes > before.peak_bytes { after.peak_bytes } else { resident_peak };
    measure.set("server_rss_before_bytes", before.resident_bytes as f64);
    measure.set("server_rss_peak_bytes", peak as f64);
    measure.set("server_rss_after_bytes", after.resident_bytes as f64);
}

/// What is to be nothing, whatever is delivered.
fn nothing_amiss(run: &Run<'_>) -> Figure {
    run.goal(Figure::plain("amiss", "deliveries lost, wrong or twice"), Goal::Never)
}

const CPU: &str = "server_cpu_s_per_million";
const CPU_LABEL: &str = "server CPU, us per delivery";

/// Ends the connections to a server that goes on; one of ours, and a floor, end by themselves.
fn close(client: Client, on: &Subject) -> Result<()> {
    if on.child.is_some() { Ok(()) } else { client.close() }
}
