//! Guards against sliding back: what a delivery and an idle connection cost, in counts that do not depend on the
//! machine. `docs/guards.md` says what they are for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "../support/crowd.rs"]
mod crowd;
mod fan_out;
mod idle;
#[path = "../support/hydrant.rs"]
mod program;
#[path = "../support/raw.rs"]
mod raw;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raw::Protocol;
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

// What may be reached, and no more. Counts of memory are measured ones and a tenth; a change that lowers one lowers its
// limit, too. `cargo test --test guards -- --nocapture` shows all of them.

/// Writes to sockets over deliveries, in a burst: events that come together share a write.
const WRITES_PER_DELIVERY_MAX: f64 = 0.05;
/// Allocations that a further subscriber costs, over the events that it gets.
const ALLOCATIONS_PER_DELIVERY_MAX: f64 = 0.01;
/// Allocations of a publish through Pusher's API to one subscriber, all in all.
const ALLOCATIONS_PER_PUBLISH_MAX: f64 = 35.0;
/// Bytes of heap for a connection that is subscribed to a channel with others, by its protocol.
const HEAP_BYTES_MAX: [(Protocol, f64); 3] =
    [(Protocol::Pusher, 1_170.0), (Protocol::Gusher, 1_220.0), (Protocol::Push1st, 1_140.0)];
/// The same of Pusher's, each with a channel of its own.
const HEAP_BYTES_OWN_CHANNEL_MAX: f64 = 1_460.0;
/// Resident bytes of a server for each connection of Pusher's on a channel with others.
const RESIDENT_BYTES_MAX: f64 = 1_680.0;

/// How many of what is counted there are.
const CONNECTIONS: usize = 1_000;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process: one test at a time. Also makes room for its sockets, both ends of which
/// are this process's.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(files > 3 * CONNECTIONS as u64, "{files} open files are too few: `ulimit -Hn`");
    turn
}

/// Allocations since then, those among them that enlarged another.
fn allocations_since(before: &Stats) -> f64 {
    let since = ALLOCATOR.stats() - *before;
    (since.allocations + since.reallocations) as f64
}

/// Bytes that are allocated now.
fn heap_bytes() -> f64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

/// What a count is, and may be. Shown where the test fails, and with `--nocapture`.
#[track_caller]
fn assert_at_most(what: &str, count: f64, max: f64) {
    println!("{what}: {count:.4}, at most {max}");
    assert!(count <= max, "{what}: {count:.4}, more than {max}");
}
