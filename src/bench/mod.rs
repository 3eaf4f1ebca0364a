//! `hydrant bench`: drives a server, and measures it beside the floor: the least work with which the same result could
//! be had.
//!
//! Microseconds differ from machine to machine and from hour to hour; the ratio of two processes that took turns in
//! the same minute does so much less. So each figure is measured for both, in turns, several times, and the ratio is
//! what counts. `docs/performance.md` tells what is measured and what can go wrong with it.
//!
//! [`target`] says what a protocol's clients and backends say, [`client`] holds the sockets, [`publisher`] sends,
//! [`tally`] counts; [`measure`] judges, and [`report`] shows.

pub mod client;
pub mod floor;
pub mod http;
pub mod measure;
pub mod process;
pub mod publisher;
pub mod report;
mod scenario;
pub mod server;
pub mod stream;
pub mod tally;
pub mod target;
pub mod tls;
pub mod ws;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use self::process::Watched;
use self::report::{Failure, Machine, Report, Subject};
use self::scenario::{Place, Run, Scale};
use self::server::OwnServer;
use self::tally::Clock;
use self::target::{App, Credentials, Kind};

pub use self::scenario::Scenario;

/// Open files that a process has beside those for subscribers.
const OTHER_FILES_MAX: u64 = 500;

/// A server that somebody else started.
#[derive(Clone, Debug)]
pub struct There {
    /// `ws://HOST:PORT[/PATH]`.
    pub url: String,
    /// `http://HOST:PORT[/PATH]`; `None`: where the protocol has it by default.
    pub api: Option<String>,
    /// Credentials.
    pub app: App,
    /// Its processes.
    pub pids: Vec<u32>,
}

/// What lies between the messages and TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// TLS. Of a server that somebody else started, its URLs say so.
    pub is_tls: bool,
    /// permessage-deflate between sockets.
    pub is_deflate: bool,
}

/// What to measure, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// These only; empty: all.
    pub scenarios: Vec<Scenario>,
    /// The protocol.
    pub kind: Kind,
    /// The server; `None`: this program starts itself.
    pub there: Option<There>,
    /// Settings for the server that is started, `KEY=VALUE`.
    pub set: Vec<String>,
    /// How clients and the server that is started speak.
    pub transport: Transport,
    /// Whether floors are measured beside it.
    pub floor: bool,
    /// Everything tiny and once: to see that it runs, not to measure.
    pub quick: bool,
    /// How often each figure is taken, at least 1.
    pub rounds: usize,
    /// Keep-alive connections that publish, at least 1.
    pub publishers: usize,
    /// Requests behind each other on a connection where they are pipelined, at least 1.
    pub pipeline: u32,
    /// Distinct users among gusher's subscribers, at least 1.
    pub users: usize,
    /// Subscribers, of a channel each where there are many.
    pub subscribers: Option<usize>,
    /// Messages in a second.
    pub rate: Option<u32>,
    /// Frame size.
    pub bytes: Option<usize>,
    /// Messages at once, instead of a rate.
    pub burst: Option<u32>,
    /// How long messages are sent.
    pub seconds: Option<u64>,
    /// Channels.
    pub channels: Option<u32>,
    /// How long a soak takes, in minutes; at least 1.
    pub minutes: u64,
    /// Connections that do nothing, or come and go.
    pub connections: Option<usize>,
}

/// Measures. A scenario that fails is noted in the report, and the next one begins.
///
/// # Errors
/// When the server cannot be driven, the system allows too few open files, or SIGINT or SIGTERM arrives; every child
/// has ended by then.
pub fn run(options: &Options) -> Result<Report> {
    process::watch_signals()?;
    let machine = Machine::read();
    let place = match &options.there {
        Some(there) => {
            let credentials = Credentials::new(options.kind, there.app.clone(), options.users)?;
            let site = target::site(&credentials, &there.url, there.api.as_deref(), options.transport.is_deflate)?;
            Place::There { site, watched: Watched::new(there.pids.clone())?, credentials }
        }
        None => Place::Own(OwnServer::new(options.kind, options.users, options.set.clone(), options.transport)?),
    };
    let scale = if options.quick { Scale::quick() } else { Scale::full(options.rounds) };
    let run = Run { options, scale, clock: Clock::start(), place };
    let asked = |scenario: &Scenario| match options.scenarios.as_slice() {
        [] => match scenario {
            // its channels are Pusher's
            Scenario::Presence => options.kind == Kind::Pusher,
            // where it takes seconds
            Scenario::Soak => options.quick,
            _ => true,
        },
        some => some.contains(scenario),
    };
    let scenarios: Vec<Scenario> = Scenario::value_variants().iter().copied().filter(asked).collect();
    for scenario in &scenarios {
        allow_open_files(*scenario, run.connections_max(*scenario) as u64 + OTHER_FILES_MAX)?;
    }
    for warning in machine.warnings(cfg!(debug_assertions)) {
        eprintln!("warning: {warning}");
    }
    let url = options.there.as_ref().map(|there| there.url.clone());
    let (target, is_quick) = (options.kind.word(), options.quick);
    let is_tls = options.transport.is_tls || url.as_ref().is_some_and(|url| url.starts_with("wss:"));
    let transport = Transport { is_tls, ..options.transport };
    let subject = Subject { target, url, is_quick, transport };
    let mut report = Report { subject, machine, cases: Vec::new(), failures: Vec::new() };
    for scenario in scenarios {
        eprintln!("{}", scenario.word());
        match run.measure(scenario) {
            Ok(cases) => report.cases.extend(cases),
            Err(error) => {
                process::check_interrupted()?;
                eprintln!("  failed: {error:#}");
                report.failures.push(Failure { scenario: scenario.word(), error: format!("{error:#}") });
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
         (ulimit -Hn), choose fewer connections, or other scenarios",
        scenario.word()
    );
    Ok(())
}
