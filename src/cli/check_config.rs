//! `hydrant check-config`: says what is wrong, or what would be in force and where each value comes from.

use std::io::Write;

use crate::config::{Overrides, print_effective};
use crate::ops::memory::Budget;

use super::sources;

/// Check the configuration, and print what is in force with the origin of each value
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: sources::Args,
}

/// Prints the effective configuration on standard output, warnings on standard error.
///
/// # Errors
/// All that is wrong with it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let loaded = args.sources.load(Overrides::default())?;
    for warning in &loaded.config.warnings {
        eprintln!("warning: {warning}");
    }
    super::check(&loaded.config)?;
    let mut out = std::io::stdout();
    write!(out, "{}", print_effective(&loaded))?;
    let budget = Budget::of(&loaded.config.limits);
    if loaded.config.limits.memory_bytes_max == 0 {
        writeln!(out, "\n# limits.memory_bytes_max = 0 is {} here: {}", budget.bytes, budget.origin)?;
    }
    Ok(())
}
