//! Thousands lose their connection at once and come back as fast as they can, while others get events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::*;

/// Subscribers that keep their connections.
pub(super) const BYSTANDERS: usize = 500;
const RATE: u32 = 50;
/// How long the timetable of messages is cut: the storm's end is looked for after each piece.
const PIECE: Duration = Duration::from_millis(200);

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let connections = run.options.connections.unwrap_or(run.scale.storm_connections);
    let figures = vec![
        Figure::plain("back_s", "until all are back, s"),
        Figure::plain("back_p99_ms", "one comes back, p99 ms"),
        Figure::plain("refused_connects", "connections refused"),
        Figure::delay("p99_ms", "the others' deliveries, p99 ms"),
        Figure::delay("max_ms", "the others' deliveries, longest, ms"),
        nothing_amiss(run),
        run.goal(Figure::plain("closed", "connections of others closed"), Goal::Never),
        Figure::plain("cpu_us_per_connection", "server CPU, us each"),
    ];
    let case = format!("{connections} of {} come back", connections + BYSTANDERS);
    let calm = || of_server(run, connections, false);
    let storm = || of_server(run, connections, true);
    Ok(vec![run.in_turns(Scenario::ReconnectStorm, case, figures, "no storm", &storm, Some(&calm))?])
}

fn of_server(run: &Run<'_>, connections: usize, is_storm: bool) -> Result<Measure> {
    let mut on = run.server()?;
    let memory_before = on.watched.memory()?;
    let mut bystanders = Client::open(run.clock, &on.site, vec![Subscription::Channel(0); BYSTANDERS])?;
    let mut crowd = Client::open(run.clock, &on.site, vec![Subscription::Channel(1); connections])?;
    let mut publisher = run.publisher(&mut on)?;
    let mut message = run.warm_up(&on, &mut bystanders, &mut publisher, SMALL_FRAME_BYTES, BYSTANDERS as u64)?;

    let mut phases = Phases::new(memory_before);
    let (mut back_s, mut refused, mut refusal, mut times) = (Vec::new(), 0, None, delays());
    let cpu_before = on.watched.cpu()?;
    for _ in 0..run.scale.storms {
        let is_over = AtomicBool::new(false);
        let opened = thread::scope(|scope| {
            let crowd = &mut crowd;
            let is_over = &is_over;
            let storm = scope.spawn(move || {
                let opened = if is_storm {
                    crowd.drop_all().and_then(|()| crowd.reopen(Opening::STORM, &mut Tally::empty())).map(Some)
                } else {
                    thread::sleep(PIECE * 10);
                    Ok(None)
                };
                is_over.store(true, Ordering::Relaxed);
                opened
            });
            while !is_over.load(Ordering::Relaxed) {
                let messages = (PIECE.as_secs_f64() * f64::from(RATE)) as u32;
                let plan = Plan::to_one_channel(message, messages, Duration::from_secs(1) / RATE, SMALL_FRAME_BYTES);
                message += messages;
                phases.add(run.deliver(&on, &mut bystanders, &mut publisher, &plan, BYSTANDERS as u64)?);
            }
            storm.join().map_err(|_| anyhow!("the storm's thread failed"))?
        })?;
        if let Some(opened) = opened {
            back_s.push(opened.elapsed.as_secs_f64());
            refused += opened.refused;
            refusal = refusal.or(opened.refusal);
            // of equal bounds
            let _ = times.add(&opened.times);
        }
        // the next storm finds a server at rest
        thread::sleep(run.scale.settle);
    }
    let cpu = cpu_since(&on.watched, cpu_before)?;
    let mut measure = phases.measure(&on.watched)?;
    if is_storm {
        if let Some(refusal) = refusal {
            eprintln!("  a connection was refused: {refusal}");
        }
        let all = connections as f64 * f64::from(run.scale.storms);
        measure.set("back_s", percentile(&back_s, 50));
        measure.set("back_p99_ms", percentile_ms(&times, 99.0));
        measure.set("refused_connects", refused as f64);
        // with what the others' events cost meanwhile
        measure.set_known("cpu_us_per_connection", cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / all));
    }
    close(bystanders, &on)?;
    close(crowd, &on)?;
    Ok(measure)
}
