//! The command line: one subcommand, one file.

pub mod bench;
pub mod check_config;
pub mod dev;
pub mod publish;
pub mod serve;
pub mod sources;
pub mod token;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::config::{self, Config, ConfigError};
use crate::node::Node;

/// A flag that cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// A configuration that cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// Self-hosted realtime push server: clients subscribe to channels over WebSocket, backends push over HTTP.
#[derive(Debug, Parser)]
#[command(name = "hydrant", version, about, long_about = None)]
struct Cli {
    /// Without one, `dev`
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Args),
    Serve(serve::Args),
    CheckConfig(check_config::Args),
    Token(token::Args),
    Publish(publish::Args),
    Bench(bench::BenchArgs),
    #[command(hide = true, disable_help_flag = true)]
    Master(Anything),
    #[command(hide = true, disable_help_flag = true)]
    Slave(Anything),
}

/// The flags of a command that is refused whatever they are.
#[derive(Debug, clap::Args)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _flags: Vec<OsString>,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            if error.kind() == ErrorKind::UnknownArgument && has_no_command() {
                eprintln!("\nFlags follow a command, as in `hydrant serve --config hydrant.toml`.");
            }
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked_for { 0 } else { EXIT_USAGE });
        }
    };
    // the one TLS implementation of the process, for jobs over https and rediss
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match cli.command.unwrap_or_else(|| Command::Dev(dev::Args::default())) {
        Command::Dev(args) => dev::run(args),
        Command::Serve(args) => serve::run(args),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Token(args) => token::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Bench(args) => match bench::run(args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Master(_) | Command::Slave(_) => {
            eprintln!(
                "error: master and slave cannot run as separate processes yet; `hydrant serve` runs both roles in \
                 one process, each on its own listener (GUSHER_MASTER_API_LISTEN and GUSHER_API_LISTEN). It reads the \
                 files of both: `hydrant serve -e master.env -e slave.env`"
            );
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(wrong) => {
                eprintln!("{wrong}");
                let is_usage = wrong.kind() == config::ErrorKind::Usage;
                ExitCode::from(if is_usage { EXIT_USAGE } else { EXIT_CONFIG })
            }
            None => {
                eprintln!("error: {error:#}");
                if error.is::<Unusable>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
            }
        },
    }
}

/// A configuration that reads well and cannot be used: a key that is none, say.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Unusable(anyhow::Error);

/// Finds out whether a node could be made of the configuration, without listening or connecting anywhere.
fn check(config: &Config) -> anyhow::Result<()> {
    // jobs are tied to a runtime, which here is never run
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    Node::check(config).map_err(|error| Unusable(error).into())
}

/// Whether the command line begins with a flag.
fn has_no_command() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first.as_encoded_bytes().starts_with(b"-"))
}
