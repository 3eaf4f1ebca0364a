//! Memory after connections have come and gone, again and again.

use std::thread;

use anyhow::Result;

use super::*;

/// Looks at memory, [`Scale::settle`] apart, in which it has not become less: it has settled.
const STEADY: u32 = 12;
/// Looks until it is taken as it is.
const LOOKS_MAX: u32 = 60;

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let connections = run.options.connections.unwrap_or(run.scale.idle_connections);
    let rounds = run.scale.churn_rounds;
    let figures = vec![
        run.goal(
            Figure::plain("growth", "resident memory after the last round, over after the first"),
            Goal::ValueMax(1.05),
        ),
        Figure::plain("first_mb", "resident MB after the first round"),
        Figure::plain("last_mb", "resident MB after the last"),
        Figure::work("cpu_us_per_connection", "server CPU, us per connection"),
    ];
    let server = || of_server(run, connections, rounds);
    let case = format!("{connections} connections, {rounds} times");
    Ok(vec![run.in_turns(Scenario::Churn, case, figures, "", &server, None)?])
}

fn of_server(run: &Run<'_>, connections: usize, rounds: u32) -> Result<Measure> {
    let on = run.server()?;
    let mut measure = Measure::default();
    let (before, cpu_before) = (on.watched.memory()?, on.watched.cpu()?);
    let mut resident_mb = Vec::new();
    for round in 1..=rounds {
        Client::open(run.clock, &on.site, vec![Subscription::Channel(0); connections])?.close()?;
        let is_judged = round == 1 || round == rounds;
        if let Some(megabytes) = if is_judged { settled_mb(run, &on)? } else { resident_now_mb(&on)? } {
            resident_mb.push(megabytes);
            eprintln!("  churn ({round}/{rounds}): {megabytes:.1} MB resident");
        }
    }
    let cpu = cpu_since(&on.watched, cpu_before)?;
    let all = (connections * rounds as usize) as f64;
    measure.set_known("cpu_us_per_connection", cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / all));
    measure.set_known("first_mb", resident_mb.first().copied());
    measure.set_known("last_mb", resident_mb.last().copied());
    measure.set_known("growth", resident_mb.first().zip(resident_mb.last()).map(|(first, last)| last / first));
    set_memory(&mut measure, before, on.watched.memory()?);
    Ok(measure)
}

fn resident_now_mb(on: &Subject) -> Result<Option<f64>> {
    Ok(on.watched.memory()?.map(|memory| memory.resident_bytes as f64 / 1e6))
}

/// Resident memory when it has not become less for [`STEADY`]: allocators give pages back when nobody has wanted them
/// for some seconds, and what is looked for is what never comes back.
fn settled_mb(run: &Run<'_>, on: &Subject) -> Result<Option<f64>> {
    let mut least = resident_now_mb(on)?;
    let mut steady = 0;
    for _ in 0..LOOKS_MAX {
        thread::sleep(run.scale.settle);
        let now = resident_now_mb(on)?;
        steady = if now < least { 0 } else { steady + 1 };
        least = now;
        if steady >= STEADY {
            break;
        }
    }
    Ok(least)
}
