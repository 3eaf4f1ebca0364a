//! A tenth of the subscribers stop reading.

use anyhow::Result;

use super::*;

/// Frames that fill an outbox of 1 MiB within some hundred messages.
const FRAME_BYTES: usize = 4096;
const MESSAGES: u32 = 400;

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let subscribers = run.options.subscribers.unwrap_or(run.scale.subscribers);
    let stalled = subscribers / 10;
    let figures = vec![
        run.goal(Figure::delay("last_p99_ms", "the others' last delivery, p99 ms"), Goal::RatioMax(1.3)),
        Figure::delay("p99_ms", "the others' deliveries, p99 ms"),
        run.goal(Figure::plain("stalled_left_open", "stalled readers not closed"), Goal::Never),
        Figure::plain("peak_mb", "peak resident MB"),
        nothing_amiss(run),
    ];
    let case = format!("{stalled} of {subscribers} stalled, {FRAME_BYTES} B");
    let with = || of_server(run, subscribers, stalled);
    let without = || of_server(run, subscribers - stalled, 0);
    Ok(vec![run.in_turns(Scenario::Slow, case, figures, "none stalled", &with, Some(&without))?])
}

fn of_server(run: &Run<'_>, subscribers: usize, stalled: usize) -> Result<Measure> {
    let mut on = run.server()?;
    let memory_before = on.watched.memory()?;
    let mut client = Client::open(run.clock, &on.site, vec![Subscription::Channel(0); subscribers])?;
    let mut publisher = run.publisher(&mut on)?;
    let first_message = run.warm_up(&on, &mut client, &mut publisher, FRAME_BYTES, subscribers as u64)?;
    client.stall(stalled);
    let plan = Plan::to_one_channel(first_message, MESSAGES, run.scale.slow_interval, FRAME_BYTES);
    let mut phases = Phases::new(memory_before);
    phases.add(run.deliver(&on, &mut client, &mut publisher, &plan, (subscribers - stalled) as u64)?);
    let mut measure = phases.measure(&on.watched)?;
    measure.set("stalled_left_open", (stalled - client.stalled_closed()?) as f64);
    measure.set_known("peak_mb", measure.get("server_rss_peak_bytes").map(|bytes| bytes / 1e6));
    close(client, &on)?;
    Ok(measure)
}
