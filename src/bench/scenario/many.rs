//! Many channels with few subscribers each: the publish itself is most of the cost.

use std::time::Duration;

use anyhow::Result;

use super::*;

/// Subscribers of each channel.
const AUDIENCE: usize = 4;
const RATE: u32 = 500;
/// Where few hear an event no floor says what a publish may cost. This is the best of other servers of these protocols,
/// on one core at 2.8 GHz.
const CPU_US_MAX: f64 = 69.0;

fn audience(run: &Run<'_>) -> usize {
    run.options.subscribers.unwrap_or(AUDIENCE)
}

fn channels(run: &Run<'_>) -> Vec<u32> {
    match run.options.channels {
        Some(channels) => vec![channels],
        None => vec![1, run.scale.many_channels],
    }
}

pub(super) fn connections(run: &Run<'_>) -> usize {
    channels(run).into_iter().max().unwrap_or_default() as usize * audience(run)
}

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    channels(run).into_iter().map(|channels| of_channels(run, channels)).collect()
}

fn of_channels(run: &Run<'_>, channels: u32) -> Result<Case> {
    let audience = audience(run);
    let rate = run.options.rate.unwrap_or(RATE);
    let figures = vec![
        run.goal(Figure::work(CPU, CPU_LABEL), Goal::ValueMax(CPU_US_MAX)),
        Figure::median_delay("delivery, p50 ms"),
        Figure::delay("p99_ms", "delivery, p99 ms"),
        nothing_amiss(run),
    ];
    let case = format!("{rate}/s to {channels} x {audience}");
    run.in_turns(Scenario::Many, case, figures, "", &|| of_server(run, channels, audience, rate), None)
}

fn of_server(run: &Run<'_>, channels: u32, audience: usize, rate: u32) -> Result<Measure> {
    let mut on = run.server()?;
    let memory_before = on.watched.memory()?;
    let everyone = (0..channels).flat_map(|channel| (0..audience).map(move |_| Subscription::Channel(channel)));
    let mut client = Client::open(run.clock, &on.site, everyone)?;
    let mut publisher = run.publisher(&mut on)?;
    let frame_bytes = run.options.bytes.unwrap_or(SMALL_FRAME_BYTES);
    let first_message = run.warm_up(&on, &mut client, &mut publisher, frame_bytes, audience as u64)?;
    let time = run.options.seconds.map_or(run.scale.paced, Duration::from_secs);
    let plan = Plan {
        first_message,
        messages: ((time.as_secs_f64() * f64::from(rate)) as u32).max(1),
        interval: Duration::from_secs(1) / rate,
        frame_bytes,
        first_channel: 0,
        channels,
    };
    let mut phases = Phases::new(memory_before);
    phases.add(run.deliver(&on, &mut client, &mut publisher, &plan, audience as u64)?);
    let measure = phases.measure(&on.watched)?;
    close(client, &on)?;
    Ok(measure)
}
