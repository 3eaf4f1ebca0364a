//! The `hydrant` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    hydrant::cli::run()
}
