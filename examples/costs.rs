//! What Hydrant costs in instructions: fan-out, publishing, subscribing, reading a client's message. Counted by valgrind's
//! callgrind, and held against the ceilings in `costs.txt` beside this file, which says how to run it.
//!
//! Each piece of work is done twice, once more often than the other: the difference has no start in it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hydrant::core::{Data, DialectIndex, Event, Form};
use hydrant::protocol::{GUSHER, PUSH1ST, PUSHER, dialects};
use hydrant::shard::ws::codec::{Accepts, Decoder};
use hydrant::shard::ws::deflate::deflate;

use crowd::Crowd;
use raw::{Backend, Protocol, Served, Setup, masked};

#[path = "../tests/support/crowd.rs"]
mod crowd;
#[path = "../tests/support/raw.rs"]
mod raw;

/// Where the ceilings stand.
const CEILINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/costs.txt");
/// What a ceiling is above what was counted.
const MARGIN: f64 = 1.1;
/// What another protocol's delivery may cost over Pusher's.
const RATIO_MAX: f64 = 1.02;
/// Subscribers of a fan-out.
const SUBSCRIBERS: usize = 1_000;
/// Events of a burst.
const BURST: usize = 100;
/// What events say.
const DATA: &str = "120 bytes with all that is around it, and then some more of them";

/// A piece of work: what it is called, what is done so many times, how often at least, and what its count is divided by.
struct Work {
    name: &'static str,
    run: fn(usize),
    times: usize,
    units: usize,
}

const WORKS: [Work; 9] = [
    Work { name: "fan-out-pusher", run: |times| fan_out(PUSHER, 1, times), times: 10, units: SUBSCRIBERS },
    Work { name: "fan-out-gusher", run: |times| fan_out(GUSHER, 1, times), times: 10, units: SUBSCRIBERS },
    Work { name: "fan-out-push1st", run: |times| fan_out(PUSH1ST, 1, times), times: 10, units: SUBSCRIBERS },
    Work { name: "burst-pusher", run: |times| fan_out(PUSHER, BURST, times), times: 5, units: BURST * SUBSCRIBERS },
    Work { name: "burst-gusher", run: |times| fan_out(GUSHER, BURST, times), times: 5, units: BURST * SUBSCRIBERS },
    Work { name: "burst-push1st", run: |times| fan_out(PUSH1ST, BURST, times), times: 5, units: BURST * SUBSCRIBERS },
    Work { name: "publish", run: publish, times: 300, units: 1 },
    Work { name: "subscribe", run: subscribe, times: 300, units: 1 },
    Work { name: "decode", run: decode, times: 1_000, units: 1 },
];

fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => check(),
        ["--renew"] => renew(),
        ["run", name, times] => {
            let work = WORKS.iter().find(|work| work.name == *name).context("no such work")?;
            (work.run)(times.parse()?);
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("usage: costs [--renew | run NAME TIMES]"),
    }
}

/// Counts everything; says what is over its ceiling.
fn check() -> anyhow::Result<ExitCode> {
    let counts = count_all()?;
    let text = fs::read_to_string(CEILINGS).context(CEILINGS)?;
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let ceilings: Vec<(&str, f64)> =
        lines.map(|(name, max)| Ok((name, max.trim().parse()?))).collect::<anyhow::Result<_>>()?;
    ensure!(ceilings.iter().map(|(name, _)| *name).eq(WORKS.iter().map(|work| work.name)), "{CEILINGS}: other names");
    let mut faults = Vec::new();
    println!("{:16} {:>12} {:>12}", "instructions per", "counted", "at most");
    for ((name, max), count) in ceilings.iter().zip(&counts) {
        println!("{name:16} {count:12.1} {max:12.1}");
        if count > max && is_comparable() {
            faults.push(format!("{name}: {count:.1}, more than {max}"));
        }
        // not of bursts: what writing an event costs once is too much of so little
        if matches!(*name, "fan-out-gusher" | "fan-out-push1st") && *count > RATIO_MAX * counts[0] {
            faults.push(format!("{name}: {count:.1}, more than {RATIO_MAX} times what it is for Pusher"));
        }
    }
    if !is_comparable() {
        println!("the ceilings are for x86-64 with AVX2: only protocols are compared");
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Counts everything, and makes that the measure.
fn renew() -> anyhow::Result<ExitCode> {
    ensure!(is_comparable(), "the ceilings are for x86-64 with AVX2");
    let counts = count_all()?;
    let text = fs::read_to_string(CEILINGS).context(CEILINGS)?;
    let comment = text.lines().filter(|line| line.starts_with('#'));
    let mut text: String = comment.map(|line| format!("{line}\n")).collect();
    for (work, count) in WORKS.iter().zip(counts) {
        println!("{:16} {count:12.1}", work.name);
        writeln!(text, "{:16} {:10.1}", work.name, count * MARGIN)?;
    }
    fs::write(CEILINGS, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether this machine's instructions are those of the ceilings: libraries choose other ones where there are others.
fn is_comparable() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Instructions per unit of each work.
fn count_all() -> anyhow::Result<Vec<f64>> {
    ensure!(!cfg!(debug_assertions), "to be built with `--profile guard`");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/costs");
    fs::create_dir_all(&folder)?;
    let each = |work: &Work| {
        let few = callgrind(&folder, work.name, work.times)?;
        let many = callgrind(&folder, work.name, 3 * work.times)?;
        anyhow::Ok((many.saturating_sub(few)) as f64 / (2 * work.times * work.units) as f64)
    };
    WORKS.iter().map(each).collect()
}

/// Instructions of this program doing a work so many times: of its shard's thread alone, if it has one. What they were
/// spent on stays in `folder`, a file for each thread, for `callgrind_annotate`.
fn callgrind(folder: &Path, name: &str, times: usize) -> anyhow::Result<u64> {
    let out = folder.join(format!("callgrind.{name}"));
    let of_thread = |number: usize| out.with_extension(format!("{name}-{number:02}"));
    for number in 1..=2 {
        // what there is, is of an earlier run
        let _ = fs::remove_file(of_thread(number));
    }
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(std::env::current_exe()?).args(["run", name, &times.to_string()]);
    let ended = command.output().context("valgrind (`apt-get install valgrind`)")?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{name}: {}\n{said}", ended.status);
    // the first thread is the client; a shard's is the next
    let text = fs::read_to_string(of_thread(2)).or_else(|_| fs::read_to_string(of_thread(1)))?;
    let count = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    count.with_context(|| format!("{name}: no count\n{said}"))
}

/// So many bursts to a channel whose subscribers read the dialect; each takes as many turns as it takes.
fn fan_out(dialect: DialectIndex, burst: usize, times: usize) {
    let readers = std::iter::repeat_n(Form::new(dialect, false), SUBSCRIBERS);
    let mut crowd = Crowd::new(dialects(), deflate, readers);
    let text = Bytes::from(format!("\"{DATA}\""));
    // as the protocol's own backends say it
    let data = if dialect == PUSHER { Data::Encoded(text) } else { Data::Value(text) };
    for _ in 0..times {
        for id in 0..burst as u64 {
            crowd.publish(Event::new("e", data.clone(), id));
        }
        crowd.deliver();
    }
}

/// Signed publishes of one event to a channel without subscribers, over a connection that is kept.
fn publish(times: usize) {
    let setup = Setup::new(false);
    let server = Served::start(&setup.file());
    let mut backend = Backend::connect(server.public);
    let request = Backend::event("news", DATA);
    (0..times).for_each(|_| backend.publish(&request));
}

/// A Pusher client subscribes to a public channel and leaves it again; both in one write, and one answer.
fn subscribe(times: usize) {
    let setup = Setup::new(false);
    let server = Served::start(&setup.file());
    let mut socket = setup.subscribed(server.public, Protocol::Pusher, "other", "");
    let subscribe = masked(r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#);
    let unsubscribe = masked(r#"{"event":"pusher:unsubscribe","data":{"channel":"news"}}"#);
    let both = [subscribe, unsubscribe].concat();
    for _ in 0..times {
        socket.send_frames(&both);
        socket.receive(&mut [0; 512]);
    }
}

/// A client's message of some 110 bytes.
fn decode(times: usize) {
    let frame = masked(&format!(r#"{{"event":"client-e","channel":"private-news","data":"{DATA}"}}"#));
    let (mut decoder, accepts) = (Decoder::new(), Accepts { message_bytes_max: 65_400, deflated: false });
    let mut scratch = frame.clone();
    for _ in 0..times {
        scratch.copy_from_slice(&frame);
        let decoded = decoder.decode(&mut scratch, accepts).expect("a frame");
        assert!(decoded.message.is_some());
    }
}
