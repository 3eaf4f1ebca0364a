//! Publishes to a channel without subscribers, as fast as the connections allow.

use anyhow::{Result, anyhow};

use super::super::http::HttpConnection;
use super::super::publisher::{data, repeat};
use super::super::tally::Stamp;
use super::super::target::{Kind, Publish};
use super::*;

/// Where nobody listens.
const NOBODY: u32 = 999_999;
const BATCH: u32 = 10;
/// Different requests that take turns: a server that looked for repeats would find none next to each other.
const ALTERNATIVES: u32 = 64;

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Requests behind each other on a connection before an answer is awaited.
    pipeline: u32,
    /// Events of a request.
    events: u32,
}

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let kept = Manner { pipeline: 1, events: 1 };
    let pipelined = Manner { pipeline: run.options.pipeline, events: 1 };
    let batch = Manner { pipeline: 1, events: BATCH };
    let kind = run.credentials().kind();
    let mut cases = vec![of_manner(run, "kept-alive".into(), kept)?];
    // Push1ST answers the first of several requests only, and has no batches
    if kind != Kind::Push1st || run.is_own() {
        cases.push(of_manner(run, format!("{} pipelined", pipelined.pipeline), pipelined)?);
    }
    if kind != Kind::Push1st {
        cases.push(of_manner(run, format!("batches of {BATCH}"), batch)?);
    }
    Ok(cases)
}

fn of_manner(run: &Run<'_>, case: String, manner: Manner) -> Result<Case> {
    let cpu = Figure::plain("cpu_us_per_request", "server CPU, us per request");
    let is_reference = manner.pipeline == 1 && manner.events == 1;
    let figures = vec![
        if is_reference { run.goal(cpu, Goal::RatioMax(1.7)) } else { cpu },
        Figure::new("events_per_s", "events/s"),
        Figure::median_delay("answer, p50 ms"),
        Figure::delay("p99_ms", "answer, p99 ms"),
    ];
    let server = || of_subject(run, manner, run.server()?);
    let floor = || of_subject(run, manner, run.floor(Floor::Answer, 0)?);
    run.beside_floor(Scenario::Publish, case, figures, server, floor)
}

fn of_subject(run: &Run<'_>, manner: Manner, on: Subject) -> Result<Measure> {
    let Manner { pipeline, events } = manner;
    let request = |number: u32| {
        let event = |index| {
            let stamp = Stamp { message: number * events + index, channel: NOBODY };
            Ok(Publish { channel: NOBODY, data: data(SMALL_FRAME_BYTES, stamp)? })
        };
        on.site.target.publish(&(0..events).map(event).collect::<Result<Vec<_>>>()?)
    };
    let bundle = |number: u32| {
        let requests: Result<Vec<_>> = (0..pipeline).map(|index| request(number * pipeline + index)).collect();
        Ok(requests?.concat())
    };
    let bundles: Vec<Vec<u8>> = (0..ALTERNATIVES).map(bundle).collect::<Result<_>>()?;
    let connections =
        (0..run.options.publishers).map(|_| HttpConnection::connect_as(on.site.api, on.site.api_tls.as_ref()));
    let mut connections: Vec<_> = connections.collect::<Result<_>>()?;
    let wave = pipeline * connections.len() as u32;
    let waves = (run.scale.publishes / events).div_ceil(wave);
    let requests = waves * wave;
    repeat(&mut connections, &bundles, pipeline, waves.div_ceil(20))?;

    let memory_before = on.watched.memory()?;
    let (cpu_before, began_ns) = (on.watched.cpu()?, run.clock.now_ns());
    let published = repeat(&mut connections, &bundles, pipeline, waves)?;
    let elapsed_s = (run.clock.now_ns() - began_ns) as f64 / 1e9;
    if let Some(refusal) = published.refusal {
        return Err(anyhow!("{} of {requests} publishes were refused: {refusal}", published.refused));
    }
    let mut measure = Measure::default();
    let cpu = cpu_since(&on.watched, cpu_before)?;
    measure.set_known("cpu_us_per_request", cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / f64::from(requests)));
    measure.set("requests", f64::from(requests));
    measure.set("events_per_s", f64::from(requests * events) / elapsed_s);
    for (name, percent) in [("p50_ms", 50.0), ("p99_ms", 99.0), ("p999_ms", 99.9), ("max_ms", 100.0)] {
        measure.set(name, percentile_ms(&published.answers, percent));
    }
    set_memory(&mut measure, memory_before, on.watched.memory()?);
    measure.set("client_cpu_s", published.cpu.as_secs_f64());
    measure.set("client_busy", published.busy);
    Ok(measure)
}
