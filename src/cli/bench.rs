//! `hydrant bench`: measures this program as a server, beside the floor.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::bench::floor::{self, Floor};
use crate::bench::{self, Options, Scenario};

/// Measure this build's CPU time, memory and delay, next to the least that would do the same
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Measure this only (may be given several times; default: everything)
    #[arg(long, value_name = "NAME", value_enum)]
    only: Vec<Scenario>,

    /// Run everything tiny and once, within seconds: shows that it works, measures nothing
    #[arg(long)]
    quick: bool,

    /// How often each figure is taken; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,

    /// Keep-alive connections that publish
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    publishers: usize,

    /// Distinct users among the subscribers; each costs an RSA signature before the run begins
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = at_least_one)]
    users: usize,

    /// Also write every figure of every round to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Be the floor (the benchmark starts itself so)
    #[arg(long, value_name = "KIND", value_enum, hide = true)]
    floor: Option<Floor>,

    /// Subscribers of the fan-out floor
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    connections: usize,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// Measures and prints the table. A goal that is missed is no error.
///
/// # Errors
/// When a scenario could not be measured (after the table of the others), the machine does not allow what is needed,
/// or the run is interrupted.
pub fn run(args: BenchArgs) -> Result<()> {
    if let Some(kind) = args.floor {
        return floor::run(kind, args.connections);
    }
    let BenchArgs { only, quick, rounds, publishers, users, json, .. } = args;
    let users = if quick { users.min(QUICK_USERS_MAX) } else { users };
    let report = bench::run(&Options { only, quick, rounds, publishers, users })?;
    print!("{}", report.text());
    if let Some(path) = json {
        report.write_json(&path).with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(report.failures.is_empty(), "{} scenarios could not be measured", report.failures.len());
    Ok(())
}

const QUICK_USERS_MAX: usize = 4;
