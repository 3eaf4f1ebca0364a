//! Memory of connections that do nothing.

use std::thread;

use anyhow::Result;

use super::*;

const EACH: &str = "bytes_per_connection";
const MORE: &str = "bytes_more_with_own_channel";

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    let connections = run.options.connections.unwrap_or(run.scale.idle_connections);
    let shared = |run: &Run<'_>, channels| of_server(run, connections, channels);
    let figures = vec![
        run.goal(Figure::plain(EACH, "resident B per connection"), Goal::ValueMax(2500.0)),
        Figure::new("open_p99_ms", "connect and subscribe, p99 ms"),
    ];
    if let Some(channels) = run.options.channels {
        let case = format!("{connections} on {channels} channels");
        return Ok(vec![run.in_turns(Scenario::Idle, case, figures, "", &|| shared(run, channels), None)?]);
    }
    let case = format!("{connections} on one channel");
    let mut cases = vec![run.in_turns(Scenario::Idle, case, figures, "", &|| shared(run, 1), None)?];
    // another server has memory from the first crowd for the second
    if run.is_own() {
        let figures = vec![
            Figure::plain(EACH, "resident B per connection"),
            run.goal(Figure::plain(MORE, "more B than on one channel"), Goal::ValueMax(500.0)),
        ];
        let case = format!("{connections} on a channel each");
        let own = || shared(run, connections as u32);
        let mut own = run.in_turns(Scenario::Idle, case, figures, "", &own, None)?;
        for (own, shared) in own.server.iter_mut().zip(&cases[0].server) {
            let more = own.get(EACH).zip(shared.get(EACH)).map(|(own, shared)| own - shared);
            own.set_known(MORE, more);
        }
        cases.push(own);
    }
    Ok(cases)
}

fn of_server(run: &Run<'_>, connections: usize, channels: u32) -> Result<Measure> {
    let on = run.server()?;
    run.wake(&on)?;
    let before = on.watched.memory()?;
    let mut client = Client::new(run.clock, on.site.clone())?;
    let everyone = (0..connections).map(|index| Subscription::Channel(index as u32 % channels));
    let client_cpu = thread_cpu();
    let opened = client.add(everyone, Opening::CALM, &mut Tally::empty())?;
    let client_cpu_s = thread_cpu().saturating_sub(client_cpu).as_secs_f64();
    thread::sleep(run.scale.settle);
    let after = on.watched.memory()?;
    let mut measure = Measure::default();
    if let (Some(before), Some(after)) = (before, after) {
        let more = after.resident_bytes.saturating_sub(before.resident_bytes);
        measure.set(EACH, more as f64 / connections as f64);
    }
    measure.set("connections", connections as f64);
    measure.set("open_s", opened.elapsed.as_secs_f64());
    measure.set("open_p99_ms", percentile_ms(&opened.times, 99.0));
    set_memory(&mut measure, before, after);
    measure.set("client_cpu_s", client_cpu_s);
    measure.set("client_busy", client_cpu_s / opened.elapsed.as_secs_f64().max(f64::EPSILON));
    client.close()?;
    Ok(measure)
}
