//! Joining and leaving presence channels of different sizes.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::publisher::{Publisher, floor_frame};
use super::super::target::Kind;
use super::*;

/// What the others are told, as the floor sends it.
const NOTICES: [&str; 2] = [
    r#"{"event":"pusher_internal:member_added","channel":"presence-c0","data":"{\"user_id\":\"u10000\"}"}"#,
    r#"{"event":"pusher_internal:member_removed","channel":"presence-c0","data":"{\"user_id\":\"u10000\"}"}"#,
];
const PATIENCE: Duration = Duration::from_secs(20);
/// How much dearer, beside the floor, a notice may be on the largest channel than on a smaller one.
const GROWTH_MAX: f64 = 1.3;
const GROWTH: &str = "ratio_to_floor";

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    ensure!(run.credentials().kind() == Kind::Pusher, "presence channels are Pusher's: --target pusher");
    let mut cases = Vec::new();
    for members in run.scale.presence_members {
        let figures = vec![
            Figure::work("cpu_us_per_join", "join and leave: server CPU, us"),
            Figure::work("cpu_us_per_notice", "the same for each notice"),
            Figure::delay("notice_p99_ms", "last of the others is told, p99 ms"),
        ];
        let server = || of_subject(run, *members, run.server()?);
        let floor = || of_subject(run, *members, run.floor(Floor::FanOut, *members as usize)?);
        cases.push(run.beside_floor(Scenario::Presence, format!("{members} members"), figures, server, floor)?);
    }
    // the same cost for each notice, whatever the size: beside the floor, since the kernel's own grows with it
    if let [.., smaller, largest] = cases.as_slice() {
        let ratios = |case: &Case| {
            let ratios = case.ratios(&case.figures[0]).into_iter();
            ratios
                .map(|ratio| {
                    let mut measure = Measure::default();
                    measure.set(GROWTH, ratio);
                    measure
                })
                .collect()
        };
        let (server, beside): (Vec<Measure>, Vec<Measure>) = (ratios(largest), ratios(smaller));
        if !server.is_empty() {
            let figure = run.goal(
                Figure::plain(GROWTH, "cost over the floor's, beside a smaller channel"),
                Goal::RatioMax(GROWTH_MAX),
            );
            let case = format!("{} beside {}", largest.case, smaller.case);
            let scenario = Scenario::Presence.word();
            let (beside_what, figures, samples) = ("smaller channel", vec![figure], Vec::new());
            cases.push(Case { scenario, case, beside_what, server, beside, figures, samples });
        }
    }
    Ok(cases)
}

fn of_subject(run: &Run<'_>, members: u32, mut on: Subject) -> Result<Measure> {
    let is_floor = on.commands.is_some();
    let mut client = Client::new(run.clock, on.site.clone())?;
    let everyone = (0..members).map(|user| Subscription::Member(0, user));
    client.add(everyone, Opening::CALM, &mut Tally::empty())?;
    let mut floor = if is_floor { Some(run.publisher(&mut on)?) } else { None };
    // each joins once: what one connection does over and over is not told at once
    let joins = run.scale.presence_joins;
    let mut joiners = Client::new(run.clock, on.site.clone())?;
    if !is_floor {
        joiners.add(vec![Subscription::None; joins as usize], Opening::CALM, &mut Tally::empty())?;
    }
    // what filling the channel left behind
    let mut rest = Tally::empty();
    client.read_until(&mut rest, PATIENCE, run.scale.settle, || true, |_| false)?;

    let (memory_before, cpu_before) = (on.watched.memory()?, on.watched.cpu()?);
    let mut told_ms = Vec::new();
    let (mut cpu, mut busy_cpu, mut busy_time) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for join in 0..joins {
        let joining = Subscription::Member(0, members + join);
        let socket_id = if is_floor { String::new() } else { joiners.socket_id(join as usize).to_owned() };
        let commands = [on.site.target.subscribe(joining, &socket_id), on.site.target.unsubscribe(joining)];
        for (command, notice) in commands.into_iter().zip(NOTICES) {
            let began_ns = run.clock.now_ns();
            match &mut floor {
                Some(Publisher::Pipe(pipe)) => pipe.write_all(&floor_frame(notice))?,
                _ => joiners.say(join as usize, &command.context("a command")?)?,
            }
            let mut tally = Tally::empty();
            let all = u64::from(members);
            let reading = client.read_until(&mut tally, PATIENCE, PATIENCE, || true, |tally| tally.notices >= all)?;
            ensure!(tally.notices == all, "{} of {all} members were told", tally.notices);
            told_ms.push((run.clock.now_ns() - began_ns) as f64 / 1e6);
            cpu += reading.cpu;
            busy_cpu += reading.busy_cpu;
            busy_time += reading.busy_time;
            // the joiner's own list of members
            joiners.look(&mut Tally::empty())?;
        }
    }
    let mut measure = Measure::default();
    let notices = f64::from(2 * joins * members);
    if let Some(cpu) = cpu_since(&on.watched, cpu_before)? {
        measure.set("cpu_us_per_join", cpu.as_secs_f64() * 1e6 / f64::from(joins));
        measure.set("cpu_us_per_notice", cpu.as_secs_f64() * 1e6 / notices);
    }
    measure.set("notices", notices);
    measure.set("notice_p50_ms", percentile(&told_ms, 50));
    measure.set("notice_p99_ms", percentile(&told_ms, 99));
    set_memory(&mut measure, memory_before, on.watched.memory()?);
    measure.set("client_cpu_s", cpu.as_secs_f64());
    measure.set("client_busy", busy_cpu.as_secs_f64() / busy_time.as_secs_f64().max(f64::EPSILON));
    drop(floor);
    close(joiners, &on)?;
    close(client, &on)?;
    Ok(measure)
}
