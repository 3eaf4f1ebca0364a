//! What is done in each scenario, and which figures come of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::client::{Client, Clock, Door, Subscription, Tally};
use super::floor::{self, Floor};
use super::process::{Process, check_interrupted};
use super::publisher::{Plan, Publisher};
use super::report::{Goal, Row, percentile};
use super::server::{self, Bench};
use super::{Options, Scenario, name};

/// A frame as small as most events are.
const SMALL_FRAME_BYTES: usize = 120;
const LARGE_FRAME_BYTES: usize = 1024;
/// Frames that fill an outbox of 1 MiB within some hundred messages.
const STALLING_FRAME_BYTES: usize = 4096;
/// Beyond any delivery's delay: what has not arrived so long after the one before is lost.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// What a phase may take beyond four times its timetable.
const PHASE_EXTRA_MAX: Duration = Duration::from_secs(30);
const WARM_UP_INTERVAL: Duration = Duration::from_millis(20);
/// Connections open together in `connect`.
const CONNECTING_TOGETHER: usize = 500;
/// Where few hear an event, the publish itself is most of the cost: no floor says what that may be. This is the best
/// of today's servers for these protocols, on one core at 2.8 GHz.
const SMALL_US_MAX: f64 = 69.0;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    rounds: usize,
    subscribers: usize,
    paced: Duration,
    warm_up_messages: u32,
    bursts: u32,
    idle_connections: usize,
    churn_rounds: u8,
    connects: usize,
    publishes: u32,
    stalled_interval: Duration,
    /// Time for memory to be given back.
    settle: Duration,
}

impl Scale {
    pub(super) fn full(rounds: usize) -> Self {
        Self {
            rounds,
            subscribers: 1_000,
            paced: Duration::from_secs(4),
            warm_up_messages: 20,
            bursts: 5,
            idle_connections: 10_000,
            churn_rounds: 10,
            connects: 5_000,
            publishes: 20_000,
            stalled_interval: Duration::from_millis(20),
            settle: Duration::from_secs(1),
        }
    }

    pub(super) fn quick() -> Self {
        Self {
            rounds: 1,
            subscribers: 20,
            paced: Duration::from_millis(200),
            warm_up_messages: 2,
            bursts: 1,
            idle_connections: 100,
            churn_rounds: 2,
            connects: 100,
            publishes: 100,
            stalled_interval: Duration::from_millis(1),
            settle: Duration::from_millis(50),
        }
    }

    /// The most connections that a scenario has open at a time.
    pub(super) fn connections_max(&self, scenario: Scenario) -> usize {
        match scenario {
            Scenario::Idle | Scenario::Churn => self.idle_connections,
            Scenario::Connect => CONNECTING_TOGETHER,
            Scenario::Publish | Scenario::Small => 0,
            Scenario::Isolated | Scenario::Burst | Scenario::Overload | Scenario::Stalled => self.subscribers,
        }
    }
}

/// Messages to subscribers of one channel.
#[derive(Clone, Copy, Debug)]
struct FanOut {
    subscribers: usize,
    stalled: usize,
    frame_bytes: usize,
    messages: u32,
    interval: Duration,
    /// How often the messages are sent, each time after the last have arrived.
    times: u32,
}

/// What a fan-out cost.
#[derive(Clone, Debug)]
struct Cost {
    /// CPU time of the process under measurement, for one delivery.
    cpu_us: f64,
    /// The same with the reader's: on loopback, some of a sender's work is done in the reader's time.
    total_us: f64,
    /// From a message's due time to its last delivery, for each message.
    last_ms: Vec<f64>,
    /// Deliveries missing or too many, of messages that were not refused.
    lost: f64,
    /// Publishes that were not answered 200.
    refused: f64,
    stalled_closed: usize,
    resident_bytes_peak: f64,
}

/// What became of one row of messages.
struct Delivered {
    tally: Tally,
    /// CPU time that reading took.
    reading: Duration,
    refused: u32,
}

/// All that the scenarios share.
pub(super) struct Run {
    scale: Scale,
    publishers: usize,
    clock: Clock,
    bench: Bench,
}

impl Run {
    pub(super) fn new(options: &Options, scale: Scale) -> Result<Self> {
        let bench = Bench::new(options.users)?;
        Ok(Self { scale, publishers: options.publishers, clock: Clock::start(), bench })
    }

    pub(super) fn measure(&self, scenario: Scenario) -> Result<Vec<Row>> {
        match scenario {
            Scenario::Isolated => self.isolated(),
            Scenario::Burst => self.burst(),
            Scenario::Overload => self.overload(),
            Scenario::Idle => self.idle(),
            Scenario::Churn => self.churn(),
            Scenario::Connect => self.connect(),
            Scenario::Publish => self.publish(),
            Scenario::Small => self.small(),
            Scenario::Stalled => self.stalled(),
        }
    }

    fn isolated(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (frame_bytes, cpu_goal) in [(SMALL_FRAME_BYTES, 1.3), (LARGE_FRAME_BYTES, 1.5)] {
            let costs = self.beside_floor(self.paced(self.scale.subscribers, 50, frame_bytes))?;
            let row = |figure: &str| Row::new(name(Scenario::Isolated), format!("{frame_bytes} B: {figure}"));
            rows.extend([
                costs.row(row(CPU_US), |cost| cost.cpu_us).with_goal(Goal::RatioMax(cpu_goal)),
                costs.row(row(TOTAL_US), |cost| cost.total_us),
                costs.row(row("last delivery, p50 ms"), |cost| percentile(&cost.last_ms, 50)),
                costs
                    .row(row("last delivery, p99 ms"), |cost| percentile(&cost.last_ms, 99))
                    .with_goal(Goal::RatioMax(1.5)),
                costs.server_row(row(LOST), |cost| cost.lost).with_goal(Goal::Never),
            ]);
        }
        Ok(rows)
    }

    fn burst(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (frame_bytes, cpu_goal) in [(SMALL_FRAME_BYTES, 0.10), (LARGE_FRAME_BYTES, 0.15)] {
            let costs = self.beside_floor(FanOut {
                subscribers: self.scale.subscribers,
                stalled: 0,
                frame_bytes,
                messages: 100,
                interval: Duration::ZERO,
                times: self.scale.bursts,
            })?;
            let row = |figure: &str| Row::new(name(Scenario::Burst), format!("{frame_bytes} B: {figure}"));
            rows.extend([
                costs.row(row(CPU_US), |cost| cost.cpu_us).with_goal(Goal::RatioMax(cpu_goal)),
                costs.row(row(TOTAL_US), |cost| cost.total_us),
                // All messages of a burst are due at its beginning, so the slowest one's delay is the burst's length.
                costs.row(row("whole burst delivered, ms"), |cost| percentile(&cost.last_ms, 100)),
                costs.server_row(row(LOST), |cost| cost.lost).with_goal(Goal::Never),
                costs.server_row(row(REFUSED), |cost| cost.refused).with_goal(Goal::Never),
            ]);
        }
        Ok(rows)
    }

    fn overload(&self) -> Result<Vec<Row>> {
        let costs = self.beside_floor(self.paced(self.scale.subscribers, 300, SMALL_FRAME_BYTES))?;
        let row = |figure: &str| Row::new(name(Scenario::Overload), format!("{SMALL_FRAME_BYTES} B: {figure}"));
        Ok(vec![
            costs.row(row(CPU_US), |cost| cost.cpu_us).with_goal(Goal::RatioMax(0.6)),
            costs.row(row(TOTAL_US), |cost| cost.total_us),
            costs
                .row(row("last delivery, p99 ms"), |cost| percentile(&cost.last_ms, 99))
                .with_goal(Goal::ValueMax(60.0)),
            costs.server_row(row(LOST), |cost| cost.lost).with_goal(Goal::Never),
            costs.server_row(row(REFUSED), |cost| cost.refused).with_goal(Goal::Never),
        ])
    }

    fn small(&self) -> Result<Vec<Row>> {
        let costs = self.beside_floor(self.paced(4, 500, SMALL_FRAME_BYTES))?;
        let row = |figure: &str| Row::new(name(Scenario::Small), format!("{SMALL_FRAME_BYTES} B: {figure}"));
        Ok(vec![
            costs.row(row(CPU_US), |cost| cost.cpu_us).with_goal(Goal::ValueMax(SMALL_US_MAX)),
            costs.row(row("last delivery, p99 ms"), |cost| percentile(&cost.last_ms, 99)),
            costs.server_row(row(LOST), |cost| cost.lost).with_goal(Goal::Never),
        ])
    }

    fn stalled(&self) -> Result<Vec<Row>> {
        let stalled = self.scale.subscribers / 10;
        let with = FanOut {
            subscribers: self.scale.subscribers,
            stalled,
            frame_bytes: STALLING_FRAME_BYTES,
            messages: 400,
            interval: self.scale.stalled_interval,
            times: 1,
        };
        let without = FanOut { subscribers: with.subscribers - stalled, stalled: 0, ..with };
        let costs = self.in_turns(|| self.server_fan_out(with), || self.server_fan_out(without))?;
        let row = |figure: &str| Row::new(name(Scenario::Stalled), format!("{STALLING_FRAME_BYTES} B: {figure}"));
        let left_open = |cost: &Cost| (stalled - cost.stalled_closed) as f64;
        Ok(vec![
            costs
                .row(row("others' last delivery, p99 ms (beside: none stalled)"), |cost| percentile(&cost.last_ms, 99))
                .with_goal(Goal::RatioMax(1.3)),
            costs.server_row(row("lost by others"), |cost| cost.lost).with_goal(Goal::Never),
            costs.server_row(row("stalled readers not closed"), left_open).with_goal(Goal::Never),
            costs.row(row("peak resident MB (beside: none stalled)"), |cost| cost.resident_bytes_peak / 1e6),
        ])
    }

    fn idle(&self) -> Result<Vec<Row>> {
        let memory =
            self.in_turns(|| self.idle_memory(Subscription::Shared), || self.idle_memory(Subscription::Own))?;
        let row = |figure: &str| Row::new(name(Scenario::Idle), figure);
        let own: Vec<f64> = memory.beside.iter().zip(&memory.server).map(|(own, shared)| own - shared).collect();
        Ok(vec![
            memory
                .server_row(row("resident B per connection, one shared channel"), |bytes| *bytes)
                .with_goal(Goal::ValueMax(2500.0)),
            Row { server: own, ..row("more B with a channel each") }.with_goal(Goal::ValueMax(500.0)),
        ])
    }

    /// Resident bytes that one connection adds.
    fn idle_memory(&self, subscription: Subscription) -> Result<f64> {
        let server = server::start(&self.bench)?;
        let door = self.door(server.public, subscription);
        // What the first connection and the first event bring into memory is not the idle connections'.
        Client::open(self.clock, &door, 1)?.close()?;
        self.publish_quietly(&mut Publisher::connect(server.trusted, "c", 1)?, 1)?;
        thread::sleep(self.scale.settle);
        let before = server.process.resident_bytes()?;
        let client = Client::open(self.clock, &door, self.scale.idle_connections)?;
        thread::sleep(self.scale.settle);
        let after = server.process.resident_bytes()?;
        client.close()?;
        Ok(after.saturating_sub(before) as f64 / self.scale.idle_connections as f64)
    }

    fn churn(&self) -> Result<Vec<Row>> {
        let server = server::start(&self.bench)?;
        let mut resident_mb = Vec::new();
        for round in 0..self.scale.churn_rounds {
            let source = Ipv4Addr::new(127, 0, 0, 2 + round);
            let door = Door { source, ..self.door(server.public, Subscription::Shared) };
            Client::open(self.clock, &door, self.scale.idle_connections)?.close()?;
            thread::sleep(self.scale.settle);
            resident_mb.push(server.process.resident_bytes()? as f64 / 1e6);
        }
        let row = |figure: &str| Row::new(name(Scenario::Churn), figure);
        let (first, last) = (resident_mb.first().copied(), resident_mb.last().copied());
        Ok(vec![
            Row {
                server: last.into_iter().collect(),
                beside: first.into_iter().collect(),
                ..row("resident MB after the last round (beside: after the first)")
            }
            .with_goal(Goal::RatioMax(1.05)),
            Row { server: resident_mb, ..row("resident MB, median of all rounds") },
        ])
    }

    fn connect(&self) -> Result<Vec<Row>> {
        let of_floor = || {
            let floor = floor::start(Floor::Upgrade, 0)?;
            self.connect_us(&floor.process, &self.door(floor.address, Subscription::Shared))
        };
        let by_session = || {
            let server = server::start(&self.bench)?;
            let request_targets = self.bench.session_request_targets(&server)?;
            let door = Door { request_targets, ..self.door(server.public, Subscription::Shared) };
            self.connect_us(&server.process, &door)
        };
        let by_jwt = || {
            let server = server::start(&self.bench)?;
            self.connect_us(&server.process, &self.door(server.public, Subscription::Shared))
        };
        let row = |figure| Row::new(name(Scenario::Connect), figure);
        let by_session = self.in_turns(by_session, of_floor)?;
        let by_jwt = self.in_turns(by_jwt, of_floor)?;
        let session_row = row("connect, subscribe, close: CPU us (beside: hyper upgrade)");
        Ok(vec![
            by_session.row(session_row, |us| *us).with_goal(Goal::RatioMax(1.7)),
            by_jwt.row(row("the same with an RSA-signed token each"), |us| *us),
        ])
    }

    fn connect_us(&self, process: &Process, door: &Door) -> Result<f64> {
        let together = CONNECTING_TOGETHER.min(self.scale.connects);
        Client::open(self.clock, door, together)?.close()?;
        let before = process.cpu()?;
        let times = self.scale.connects / together;
        for _ in 0..times {
            Client::open(self.clock, door, together)?.close()?;
        }
        Ok(process.cpu()?.since(&before).as_secs_f64() * 1e6 / (times * together) as f64)
    }

    fn publish(&self) -> Result<Vec<Row>> {
        let of_server = || {
            let server = server::start(&self.bench)?;
            self.publish_us(&server.process, server.trusted)
        };
        let of_floor = || {
            let floor = floor::start(Floor::Answer, 0)?;
            self.publish_us(&floor.process, floor.address)
        };
        let cpu_us = self.in_turns(of_server, of_floor)?;
        let row = Row::new(name(Scenario::Publish), "publish to nobody: CPU us (beside: hyper 200 OK)");
        Ok(vec![cpu_us.row(row, |us| *us).with_goal(Goal::RatioMax(1.7))])
    }

    fn publish_us(&self, process: &Process, address: SocketAddr) -> Result<f64> {
        let mut publisher = Publisher::connect(address, "nobody", self.publishers)?;
        self.publish_quietly(&mut publisher, self.scale.publishes / 20)?;
        let before = process.cpu()?;
        self.publish_quietly(&mut publisher, self.scale.publishes)?;
        Ok(process.cpu()?.since(&before).as_secs_f64() * 1e6 / f64::from(self.scale.publishes))
    }

    /// Publishes back to back where nobody listens.
    fn publish_quietly(&self, publisher: &mut Publisher, messages: u32) -> Result<()> {
        let plan = Plan { first_message: 0, messages, interval: Duration::ZERO, frame_bytes: SMALL_FRAME_BYTES };
        match publisher.publish(self.clock, &plan)? {
            0 => Ok(()),
            refused => Err(anyhow!("{refused} of {messages} publishes were not answered 200")),
        }
    }

    fn paced(&self, subscribers: usize, messages_per_s: u32, frame_bytes: usize) -> FanOut {
        let messages = (self.scale.paced.as_secs_f64() * f64::from(messages_per_s)) as u32;
        FanOut {
            subscribers,
            stalled: 0,
            frame_bytes,
            messages,
            interval: Duration::from_secs(1) / messages_per_s,
            times: 1,
        }
    }

    fn door(&self, address: SocketAddr, subscription: Subscription) -> Door {
        let request_targets = self.bench.request_targets();
        Door { address, source: Ipv4Addr::LOCALHOST, request_targets, subscription }
    }

    fn beside_floor(&self, fan_out: FanOut) -> Result<Pairs<Cost>> {
        self.in_turns(|| self.server_fan_out(fan_out), || self.floor_fan_out(fan_out))
    }

    fn server_fan_out(&self, fan_out: FanOut) -> Result<Cost> {
        let server = server::start(&self.bench)?;
        let client = Client::open(self.clock, &self.door(server.public, Subscription::Shared), fan_out.subscribers)?;
        let publisher = Publisher::connect(server.trusted, "c", self.publishers)?;
        self.fan_out(fan_out, &server.process, client, publisher)
    }

    fn floor_fan_out(&self, fan_out: FanOut) -> Result<Cost> {
        let floor = floor::start(Floor::FanOut, fan_out.subscribers)?;
        let client = Client::open(self.clock, &self.door(floor.address, Subscription::None), fan_out.subscribers)?;
        self.fan_out(fan_out, &floor.process, client, Publisher::Pipe(floor.commands))
    }

    fn fan_out(
        &self,
        fan_out: FanOut,
        process: &Process,
        mut client: Client,
        mut publisher: Publisher,
    ) -> Result<Cost> {
        let warm_up = Plan {
            first_message: 0,
            messages: self.scale.warm_up_messages,
            interval: WARM_UP_INTERVAL,
            frame_bytes: fan_out.frame_bytes,
        };
        self.deliver(&mut client, &mut publisher, &warm_up, fan_out.subscribers)?;
        client.stall(fan_out.stalled);

        let readers = fan_out.subscribers - fan_out.stalled;
        let (mut cpu, mut reader_cpu, mut deliveries) = (Duration::ZERO, Duration::ZERO, 0);
        let (mut last_ms, mut lost, mut refused) = (Vec::new(), 0, 0);
        let mut first_message = warm_up.messages;
        for _ in 0..fan_out.times {
            let plan = Plan {
                first_message,
                messages: fan_out.messages,
                interval: fan_out.interval,
                frame_bytes: fan_out.frame_bytes,
            };
            first_message += fan_out.messages;
            let before = process.cpu()?;
            let Delivered { tally, reading, refused: refused_now } =
                self.deliver(&mut client, &mut publisher, &plan, readers)?;
            cpu += process.cpu()?.since(&before);
            reader_cpu += reading;
            deliveries += tally.deliveries;
            refused += refused_now;
            last_ms.extend(tally.messages.iter().map(|message| message.last_ns as f64 / 1e6));
            lost += tally.messages.iter().map(|message| (message.deliveries as usize).abs_diff(readers)).sum::<usize>();
        }
        let us_each = |time: Duration| time.as_secs_f64() * 1e6 / deliveries as f64;
        Ok(Cost {
            cpu_us: us_each(cpu),
            total_us: us_each(cpu + reader_cpu),
            last_ms,
            lost: lost.saturating_sub(refused as usize * readers) as f64,
            refused: f64::from(refused),
            stalled_closed: client.stalled_closed(),
            resident_bytes_peak: process.resident_bytes_peak()? as f64,
        })
    }

    /// Publishes while this thread reads.
    fn deliver(
        &self,
        client: &mut Client,
        publisher: &mut Publisher,
        plan: &Plan,
        readers: usize,
    ) -> Result<Delivered> {
        let mut tally = Tally::new(plan.first_message, plan.messages);
        let all = u64::from(plan.messages) * readers as u64;
        let time_max = plan.duration() * 4 + PHASE_EXTRA_MAX;
        let (reading, refused) = thread::scope(|scope| {
            let publishing = scope.spawn(|| publisher.publish(self.clock, plan));
            let sent = || publishing.is_finished();
            let reading = client.read_until(&mut tally, time_max, QUIET_MAX, sent, |tally| tally.deliveries >= all);
            let refused = publishing.join().map_err(|_| anyhow!("the publisher's thread failed"))?;
            anyhow::Ok((reading?, refused?))
        })?;
        Ok(Delivered { tally, reading, refused })
    }

    /// Measures both as often as there are rounds, the one that goes first changing.
    fn in_turns<T>(&self, server: impl Fn() -> Result<T>, beside: impl Fn() -> Result<T>) -> Result<Pairs<T>> {
        let mut pairs = Pairs { server: Vec::new(), beside: Vec::new() };
        for round in 0..self.scale.rounds {
            check_interrupted()?;
            if round % 2 == 0 {
                pairs.beside.push(beside()?);
                pairs.server.push(server()?);
            } else {
                pairs.server.push(server()?);
                pairs.beside.push(beside()?);
            }
        }
        Ok(pairs)
    }
}

const CPU_US: &str = "CPU us per delivery";
const TOTAL_US: &str = "CPU us per delivery with the reader's";
const LOST: &str = "deliveries lost";
const REFUSED: &str = "publishes refused";

/// What was measured of both in the same rounds.
struct Pairs<T> {
    server: Vec<T>,
    beside: Vec<T>,
}

impl<T> Pairs<T> {
    fn row(&self, row: Row, figure: impl Fn(&T) -> f64) -> Row {
        Row {
            server: self.server.iter().map(&figure).collect(),
            beside: self.beside.iter().map(&figure).collect(),
            ..row
        }
    }

    fn server_row(&self, row: Row, figure: impl Fn(&T) -> f64) -> Row {
        Row { server: self.server.iter().map(figure).collect(), ..row }
    }
}
