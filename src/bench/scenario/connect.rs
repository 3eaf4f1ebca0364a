//! Connect, subscribe, close.

use anyhow::Result;

use super::super::target::Kind;
use super::*;

/// Connections open at a time.
pub(super) const TOGETHER: usize = 500;

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let cpu = Figure::plain("cpu_us_per_connection", "server CPU, us each");
    let figures = vec![
        // v3's handshakes bring an RSA signature each, which no bare upgrade has to check
        if run.credentials().kind() == Kind::GusherV3 { cpu } else { run.goal(cpu, Goal::RatioMax(1.7)) },
        Figure::new("connections_per_s", "connections/s"),
        Figure::new("open_p50_ms", "connect and subscribe, p50 ms"),
        Figure::new("open_p99_ms", "connect and subscribe, p99 ms"),
    ];
    let server = || of_subject(run, run.server()?);
    let floor = || of_subject(run, run.floor(Floor::Upgrade, 0)?);
    Ok(vec![run.beside_floor(Scenario::Connect, "", figures, server, floor)?])
}

fn of_subject(run: &Run<'_>, on: Subject) -> Result<Measure> {
    let together = TOGETHER.min(run.scale.connects);
    let everyone = || vec![Subscription::Channel(0); together];
    Client::open(run.clock, &on.site, everyone())?.close()?;

    let times = run.scale.connects / together;
    let mut open_times = delays();
    let memory_before = on.watched.memory()?;
    let (cpu_before, began_ns, client_cpu) = (on.watched.cpu()?, run.clock.now_ns(), thread_cpu());
    for _ in 0..times {
        let mut client = Client::new(run.clock, on.site.clone())?;
        let opened = client.add(everyone(), Opening::CALM, &mut Tally::empty())?;
        // of equal bounds
        let _ = open_times.add(&opened.times);
        client.close()?;
    }
    let elapsed_s = (run.clock.now_ns() - began_ns) as f64 / 1e9;
    let client_cpu_s = (thread_cpu() - client_cpu).as_secs_f64();
    let all = (times * together) as f64;
    let mut measure = Measure::default();
    let cpu = cpu_since(&on.watched, cpu_before)?;
    measure.set_known("cpu_us_per_connection", cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / all));
    measure.set("connections", all);
    measure.set("connections_per_s", all / elapsed_s);
    measure.set("open_p50_ms", percentile_ms(&open_times, 50.0));
    measure.set("open_p99_ms", percentile_ms(&open_times, 99.0));
    set_memory(&mut measure, memory_before, on.watched.memory()?);
    measure.set("client_cpu_s", client_cpu_s);
    measure.set("client_busy", client_cpu_s / elapsed_s);
    Ok(measure)
}
