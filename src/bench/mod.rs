//! Measures a server beside the floor: the least work with which the same result could be had.
//!
//! Microseconds differ from machine to machine and from hour to hour; the ratio of two processes that took turns in
//! the same minute does so much less. So each figure is measured for both, in turns, several times, and the ratio is
//! what counts. `docs/benchmarks.md` tells what is measured and what can go wrong with it.

pub mod client;
pub mod floor;
pub mod process;
pub mod publisher;
pub mod report;
mod scenario;
pub mod server;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use self::report::{Environment, Failure, Report};
use self::scenario::{Run, Scale};

/// Open files that a process has beside those for subscribers.
const OTHER_FILES_MAX: u64 = 500;

/// One group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 50 messages a second to 1,000 subscribers.
    Isolated,
    /// 100 messages back to back to 1,000 subscribers.
    Burst,
    /// 300 messages a second to 1,000 subscribers.
    Overload,
    /// Memory of 10,000 connections that do nothing.
    Idle,
    /// Memory after 10,000 connections have come and gone, ten times.
    Churn,
    /// Connect, subscribe, close.
    Connect,
    /// Publish to a channel without subscribers.
    Publish,
    /// 500 messages a second to 4 subscribers.
    Small,
    /// 100 of 1,000 subscribers stop reading.
    Stalled,
}

/// What to measure, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// These only; empty: all.
    pub only: Vec<Scenario>,
    /// Everything tiny and once: to see that it runs, not to measure.
    pub quick: bool,
    /// How often each figure is taken, at least 1.
    pub rounds: usize,
    /// Keep-alive connections that publish, at least 1.
    pub publishers: usize,
    /// Distinct users among the subscribers, at least 1.
    pub users: usize,
}

/// Measures. A scenario that fails is noted in the report, and the next one begins.
///
/// # Errors
/// When the system allows too few open files, or SIGINT or SIGTERM arrives; every child has ended by then.
pub fn run(options: &Options) -> Result<Report> {
    let scenarios: Vec<Scenario> = Scenario::value_variants()
        .iter()
        .copied()
        .filter(|one| options.only.is_empty() || options.only.contains(one))
        .collect();
    let scale = if options.quick { Scale::quick() } else { Scale::full(options.rounds) };
    for scenario in &scenarios {
        allow_open_files(*scenario, scale.connections_max(*scenario) as u64 + OTHER_FILES_MAX)?;
    }
    process::watch_signals()?;
    let environment = Environment::read();
    for warning in environment.warnings() {
        eprintln!("warning: {warning}");
    }

    let run = Run::new(options, scale)?;
    let mut report = Report { environment, rows: Vec::new(), failures: Vec::new() };
    for scenario in scenarios {
        eprintln!("{}", name(scenario));
        match run.measure(scenario) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                process::check_interrupted()?;
                report.failures.push(Failure { scenario: name(scenario), error: format!("{error:#}") });
            }
        }
    }
    Ok(report)
}

/// Raises this process's limit, which its children inherit.
fn allow_open_files(scenario: Scenario, needed: u64) -> Result<()> {
    let allowed = rlimit::increase_nofile_limit(u64::MAX)?;
    ensure!(
        allowed >= needed,
        "`{}` needs {needed} open files in each process, and the system allows {allowed}: raise the hard limit \
         (ulimit -Hn), or choose other scenarios with --only",
        name(scenario)
    );
    Ok(())
}

/// The scenario's name on the command line.
fn name(scenario: Scenario) -> String {
    scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
