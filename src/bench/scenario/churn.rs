//! Memory after connections have come and gone, again and again.

use std::thread;

use anyhow::Result;

use super::*;

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
        Figure::new("cpu_us_per_connection", "server CPU, us per connection"),
    ];
    // one server, many rounds: no rounds of rounds
    let measure = of_server(run, connections, rounds)?;
    let case = format!("{connections} connections, {rounds} times");
    let scenario = Scenario::Churn.word();
    let (server, beside, samples) = (vec![measure], Vec::new(), Vec::new());
    Ok(vec![Case { scenario, case, beside_what: "", server, beside, figures, samples }])
}

fn of_server(run: &Run<'_>, connections: usize, rounds: u32) -> Result<Measure> {
    let on = run.server()?;
    let mut measure = Measure::default();
    let (before, cpu_before) = (on.watched.memory()?, on.watched.cpu()?);
    let mut resident_mb = Vec::new();
    for round in 1..=rounds {
        Client::open(run.clock, &on.site, vec![Subscription::Channel(0); connections])?.close()?;
        thread::sleep(run.scale.settle);
        if let Some(memory) = on.watched.memory()? {
            resident_mb.push(memory.resident_bytes as f64 / 1e6);
            eprintln!("  churn ({round}/{rounds}): {:.1} MB resident", resident_mb[resident_mb.len() - 1]);
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
