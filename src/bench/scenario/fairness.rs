//! Pings, subscribes and small channels while one large channel has bursts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::super::client::LOOK_INTERVAL;
use super::super::target::Target;
use super::*;

/// Small channels, numbered from 1; the large one is 0.
const SMALL_CHANNELS: u32 = 8;
/// Subscribers of each.
const AUDIENCE: u32 = 4;
const PINGERS: usize = 4;
const SUBSCRIBERS: usize = 4;
/// Connections of the small channels, pingers and subscribers.
pub(super) const PROBES: usize = (SMALL_CHANNELS * AUDIENCE) as usize + PINGERS + SUBSCRIBERS;
/// Messages to small channels in a second.
const RATE: u32 = 200;
/// From one ping, and one subscribe, to the next.
const ASK_INTERVAL: Duration = Duration::from_millis(5);
/// From one question to the next on the same connection: there are as many pingers as subscribers.
const ASKED_ANEW: Duration = ASK_INTERVAL.saturating_mul(PINGERS as u32);
const BURST: u32 = 20;
const BURSTS: u32 = 10;
/// From one burst's end to the next.
const BURST_PAUSE: Duration = Duration::from_millis(50);
/// Numbers of channels that are subscribed to anew.
const NEW_CHANNELS: u32 = 1_000_000;
const P99_MS_MAX: f64 = 15.0;

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let goal = Goal::ValueMax(P99_MS_MAX);
    let figures = vec![
        run.goal(Figure::delay("ping_p99_ms", "pings answered, p99 ms"), goal),
        run.goal(Figure::delay("subscribe_p99_ms", "subscribes answered, p99 ms"), goal),
        run.goal(Figure::delay("p99_ms", "small channels' deliveries, p99 ms"), goal),
        nothing_amiss(run),
        Figure::plain("burst_ms", "a burst delivered, median ms"),
    ];
    let case = format!("beside bursts of {BURST} to {}", run.scale.crowd);
    let with = || of_server(run, true);
    let without = || of_server(run, false);
    Ok(vec![run.in_turns(Scenario::Fairness, case, figures, "no bursts", &with, Some(&without))?])
}

fn of_server(run: &Run<'_>, has_bursts: bool) -> Result<Measure> {
    let mut on = run.server()?;
    let memory_before = on.watched.memory()?;
    let mut crowd = Client::open(run.clock, &on.site, vec![Subscription::Channel(0); run.scale.crowd])?;
    let mut publisher = run.publisher(&mut on)?;
    let mut message = run.warm_up(&on, &mut crowd, &mut publisher, SMALL_FRAME_BYTES, run.scale.crowd as u64)?;

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (on, is_over) = (&on, &is_over);
        let probing = scope.spawn(move || probe(run, on, is_over));
        let mut burst_ms = Vec::new();
        let mut bursts = || -> Result<()> {
            for _ in 0..run.scale.bursts * BURSTS / 5 {
                thread::sleep(BURST_PAUSE);
                if has_bursts {
                    let plan = Plan::to_one_channel(message, BURST, Duration::ZERO, SMALL_FRAME_BYTES);
                    message += BURST;
                    let burst = run.deliver(on, &mut crowd, &mut publisher, &plan, run.scale.crowd as u64)?;
                    burst_ms.push((burst.tally.last_arrival_ns - burst.tally.began_ns) as f64 / 1e6);
                } else {
                    thread::sleep(BURST_PAUSE * 4);
                }
            }
            Ok(())
        };
        let went = bursts();
        is_over.store(true, Ordering::Relaxed);
        let mut measure = probing.join().map_err(|_| anyhow!("the probes' thread failed"))??;
        went?;
        if has_bursts {
            measure.set("burst_ms", percentile(&burst_ms, 50));
        }
        set_memory(&mut measure, memory_before, on.watched.memory()?);
        Ok(measure)
    })
    .and_then(|measure| {
        close(crowd, &on)?;
        Ok(measure)
    })
}

/// Asks and listens until it is over.
fn probe(run: &Run<'_>, on: &Subject, is_over: &AtomicBool) -> Result<Measure> {
    let small = (1..=SMALL_CHANNELS).flat_map(|channel| (0..AUDIENCE).map(move |_| Subscription::Channel(channel)));
    let others = [Subscription::None; PINGERS + SUBSCRIBERS];
    let mut client = Client::open(run.clock, &on.site, small.chain(others))?;
    let mut publisher = Publisher::connect(&on.site, 4)?;
    let mut phases = Phases::new(None);
    let mut asking = Asking { target: &*on.site.target, next_ns: 0, asked: 0, pings: delays(), subscribes: delays() };
    let mut first_message = 0;
    while !is_over.load(Ordering::Relaxed) {
        let plan = Plan {
            first_message,
            messages: RATE / 5,
            interval: Duration::from_secs(1) / RATE,
            frame_bytes: SMALL_FRAME_BYTES,
            first_channel: 1,
            channels: SMALL_CHANNELS,
        };
        first_message += plan.messages;
        phases.add(run.deliver_and(
            on,
            &mut client,
            &mut publisher,
            &plan,
            u64::from(AUDIENCE),
            &mut |client, now_ns| asking.turn(client, now_ns),
        )?);
    }
    asking.end(&client);
    let mut measure = phases.measure(&Watched::default())?;
    for (name, delays) in [("ping_p99_ms", &asking.pings), ("subscribe_p99_ms", &asking.subscribes)] {
        if !delays.is_empty() {
            measure.set(name, percentile_ms(delays, 99.0));
        }
    }
    close(client, on)?;
    Ok(measure)
}

/// Pings and subscribes in turns.
struct Asking<'a> {
    target: &'a dyn Target,
    next_ns: u64,
    asked: u32,
    pings: Histogram<u32>,
    subscribes: Histogram<u32>,
}

impl Asking<'_> {
    /// Counts what has no answer although the next question is due, as if it were answered now.
    fn end(&mut self, client: &Client) {
        let first_pinger = client.connections() - PINGERS - SUBSCRIBERS;
        let first_subscriber = client.connections() - SUBSCRIBERS;
        for index in first_pinger..client.connections() {
            let delays = if index < first_subscriber { &mut self.pings } else { &mut self.subscribes };
            if let Some(waited_ns) = client.asked_for(index).filter(|ns| u128::from(*ns) > ASKED_ANEW.as_nanos()) {
                record(delays, waited_ns);
            }
        }
    }

    fn turn(&mut self, client: &mut Client, now_ns: u64) -> Result<()> {
        let first_pinger = client.connections() - PINGERS - SUBSCRIBERS;
        let first_subscriber = client.connections() - SUBSCRIBERS;
        for (index, delay_ns) in client.answers() {
            let delays = if index < first_subscriber { &mut self.pings } else { &mut self.subscribes };
            record(delays, delay_ns);
        }
        if now_ns < self.next_ns {
            return Ok(());
        }
        self.next_ns = now_ns.max(self.next_ns + ASK_INTERVAL.as_nanos() as u64);
        self.asked += 1;
        let pinger = first_pinger + self.asked as usize % PINGERS;
        if client.asked_for(pinger).is_none() {
            client.ask(pinger, self.target.ping())?;
        }
        let subscriber = first_subscriber + self.asked as usize % SUBSCRIBERS;
        let channel = Subscription::Channel(NEW_CHANNELS + self.asked);
        if let (None, Some(command)) = (client.asked_for(subscriber), self.target.subscribe(channel, "")) {
            client.ask(subscriber, Some(&command))?;
            // the unsubscribe of the one before: a connection does not gather them
            let before = Subscription::Channel(NEW_CHANNELS + self.asked - SUBSCRIBERS as u32);
            if let (true, Some(command)) = (self.asked > SUBSCRIBERS as u32, self.target.unsubscribe(before)) {
                client.say(subscriber, &command)?;
            }
        }
        Ok(())
    }
}

/// Notes an answer's delay, and those of the questions that were due on its connection meanwhile: none is asked while the one
/// before is open.
fn record(delays: &mut Histogram<u32>, delay_ns: u64) {
    let (delay_us, interval_us) = (delay_ns / 1000, ASKED_ANEW.as_micros() as u64);
    let mut missed_us = delay_us;
    loop {
        delays.saturating_record(missed_us);
        missed_us = match missed_us.checked_sub(interval_us) {
            Some(left_us) if left_us > 0 => left_us,
            _ => break,
        };
    }
}

const _: () = assert!(LOOK_INTERVAL.as_micros() < ASK_INTERVAL.as_micros(), "questions are asked between looks");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_waits_for_an_answer_is_counted_too() {
        let check = |delay_ms: u64, expected: &[u64]| {
            let mut noted = delays();
            record(&mut noted, delay_ms * 1_000_000);
            let recorded: Vec<u64> = noted.iter_recorded().map(|value| value.value_iterated_to() / 1000).collect();
            assert_eq!(recorded, expected, "{delay_ms} ms");
        };
        check(3, &[3]);
        check(20, &[20]);
        check(50, &[10, 30, 50]);
    }
}
