//! The `hydrant` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Its threads give what is free back to the system some ten seconds after it was last used, also when nothing is going on.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hydrant::cli::run()
}
