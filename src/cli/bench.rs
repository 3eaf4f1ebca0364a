//! `hydrant bench`: drives a server, this program's own or another, and measures it beside the floor.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bench::floor::{self, Floor};
use crate::bench::measure::Verdict;
use crate::bench::target::{App, Kind};
use crate::bench::{self, Options, Scenario, There, Transport};

/// A goal that was missed.
const EXIT_MISSED: u8 = 2;
/// No verdict: the client was the bottleneck somewhere.
const EXIT_CLIENT_BOUND: u8 = 3;
const QUICK_USERS_MAX: usize = 4;

/// Drive a server, this build's or another, and measure CPU, memory and delay next to the least that would do the same
///
/// Without --url it starts this very program as the server, in turns with the floors, and holds the figures against goals.
/// The table, and behind it one line of JSON, go to standard output, progress to standard error. Exit code: 0 measured and
/// no goal missed, 2 a goal was missed, 3 no verdict since the client was the bottleneck, 1 something failed.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Measure these only [default: everything but soak]
    #[arg(value_name = "SCENARIO", value_enum)]
    scenarios: Vec<Scenario>,

    /// The protocol to drive the server with
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value_t)]
    target: Kind,

    /// A server that is running, instead of one of this build: ws:// or wss://HOST:PORT, with a path if it has a prefix
    #[arg(long, value_name = "URL", help_heading = "Another server")]
    url: Option<String>,

    /// Its HTTP API [default: pusher: the same address; gusher: port 7777 beside 8888; else the next port]
    #[arg(long, value_name = "URL", requires = "url", help_heading = "Another server")]
    api: Option<String>,

    /// The app's id (pusher, push1st)
    #[arg(long, value_name = "ID", requires = "url", help_heading = "Another server")]
    app_id: Option<String>,

    /// The app's key
    #[arg(long, value_name = "KEY", requires = "url", help_heading = "Another server")]
    key: Option<String>,

    /// The app's secret, or in the variable HYDRANT_BENCH_SECRET (pusher; push1st if its API wants signatures)
    // not clap's `env`: a variable that is set would ask for a --url
    #[arg(long, value_name = "SECRET", requires = "url", help_heading = "Another server")]
    secret: Option<String>,

    /// The RSA private key, a PEM file, that users' tokens are signed with (gusher)
    #[arg(long, value_name = "FILE", requires = "url", help_heading = "Another server")]
    jwt_key: Option<PathBuf>,

    /// A user's token for all connections, instead of --jwt-key; or in the variable HYDRANT_BENCH_JWT (gusher)
    #[arg(long, value_name = "TOKEN", requires = "url", help_heading = "Another server")]
    jwt: Option<String>,

    /// A process of the server on this machine, for CPU and memory; its children count too. Repeatable
    #[arg(long = "pid", value_name = "PID", requires = "url", help_heading = "Another server")]
    pids: Vec<u32>,

    /// Speak TLS with the server that is started; certificates are not verified. With --url: a wss:// URL
    #[arg(long, conflicts_with = "url")]
    tls: bool,

    /// Sockets agree on permessage-deflate; another server must have it switched on
    #[arg(long)]
    deflate: bool,

    /// Measure the floors beside it too, in turns (always done without --url)
    #[arg(long)]
    floor: bool,

    /// Run everything tiny and once, within seconds: shows that it works, measures nothing
    #[arg(long)]
    quick: bool,

    /// How often each figure is taken; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one::<usize>)]
    rounds: usize,

    /// Keep-alive connections that publish
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one::<usize>)]
    publishers: usize,

    /// publish: requests sent behind each other before an answer is awaited
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one::<u32>)]
    pipeline: u32,

    /// gusher: distinct users among the subscribers; each costs an RSA signature before the run begins
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = at_least_one::<usize>)]
    users: usize,

    /// Setting for the server that is started, such as node.shards=1; repeatable
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "url")]
    set: Vec<String>,

    /// fanout, slow, soak: subscribers; many: of each channel
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>, help_heading = "Shapes of your own")]
    subscribers: Option<usize>,

    /// fanout, many: messages in a second
    #[arg(long, value_name = "N", value_parser = at_least_one::<u32>, help_heading = "Shapes of your own")]
    rate: Option<u32>,

    /// fanout: messages at once, five times, instead of a rate
    #[arg(long, value_name = "N", value_parser = at_least_one::<u32>, conflicts_with = "rate", help_heading = "Shapes of your own")]
    burst: Option<u32>,

    /// fanout, many: size of a subscriber's WebSocket frame
    #[arg(long, value_name = "B", value_parser = at_least_one::<usize>, help_heading = "Shapes of your own")]
    bytes: Option<usize>,

    /// fanout, many: how long messages are sent
    #[arg(long, value_name = "S", value_parser = at_least_one::<u64>, help_heading = "Shapes of your own")]
    seconds: Option<u64>,

    /// many, idle: channels
    #[arg(long, value_name = "N", value_parser = at_least_one::<u32>, help_heading = "Shapes of your own")]
    channels: Option<u32>,

    /// idle, churn, reconnect-storm: connections
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>, help_heading = "Shapes of your own")]
    connections: Option<usize>,

    /// soak: how long everything goes on
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = at_least_one::<u64>, help_heading = "Shapes of your own")]
    minutes: u64,

    /// Also write the line of JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Be the floor (the benchmark starts itself so)
    #[arg(long, value_name = "KIND", value_enum, hide = true)]
    be_floor: Option<Floor>,
}

fn at_least_one<T: std::str::FromStr<Err: std::fmt::Display> + Default + PartialEq>(text: &str) -> Result<T, String> {
    match text.parse() {
        Ok(zero) if zero == T::default() => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// Measures, and prints the table and the line of JSON.
///
/// # Errors
/// When a scenario could not be measured (after the table of the others), the server cannot be driven, the machine does
/// not allow what is needed, or the run is interrupted.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    if let Some(kind) = args.be_floor {
        floor::run(kind, args.connections.unwrap_or(0))?;
        return Ok(ExitCode::SUCCESS);
    }
    let json = args.json.clone();
    let report = bench::run(&options(args))?;
    print!("{}", report.text());
    let line = report.json().to_string();
    println!("\n{line}");
    if let Some(path) = json {
        fs::write(&path, line + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(report.failures.is_empty(), "{} scenarios could not be measured", report.failures.len());
    Ok(match report.verdict() {
        None | Some(Verdict::Reached) => ExitCode::SUCCESS,
        Some(Verdict::Missed) => EXIT_MISSED.into(),
        Some(Verdict::ClientBound) => EXIT_CLIENT_BOUND.into(),
    })
}

fn options(args: BenchArgs) -> Options {
    let or_variable = |given: Option<String>, name: &str| given.or_else(|| std::env::var(name).ok());
    let there = args.url.map(|url| There {
        url,
        api: args.api,
        app: App {
            id: args.app_id,
            key: args.key,
            secret: or_variable(args.secret, "HYDRANT_BENCH_SECRET"),
            jwt_key: args.jwt_key,
            jwt: or_variable(args.jwt, "HYDRANT_BENCH_JWT"),
        },
        pids: args.pids,
    });
    Options {
        floor: args.floor || there.is_none(),
        scenarios: args.scenarios,
        kind: args.target,
        there,
        set: args.set,
        transport: Transport { is_tls: args.tls, is_deflate: args.deflate },
        quick: args.quick,
        rounds: args.rounds,
        publishers: args.publishers,
        pipeline: args.pipeline,
        users: if args.quick { args.users.min(QUICK_USERS_MAX) } else { args.users },
        subscribers: args.subscribers,
        rate: args.rate,
        bytes: args.bytes,
        burst: args.burst,
        seconds: args.seconds,
        channels: args.channels,
        minutes: args.minutes,
        connections: args.connections,
    }
}
