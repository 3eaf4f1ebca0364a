//! A child process under measurement: ended whatever happens, its CPU time and memory read from `/proc`.

use std::collections::HashMap;
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail, ensure};

/// Nanoseconds of one clock tick in `/proc/PID/stat`: Linux shows programs 100 ticks a second on every architecture.
const TICK_NS: u64 = 10_000_000;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets SIGINT and SIGTERM end the run in order (children first) instead of at once. Call it once.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn watch_signals() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// # Errors
/// After SIGINT or SIGTERM. Every loop that waits asks here.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// A child process that is killed and reaped when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// The child's standard input and output, where they are piped and not yet taken.
    pub fn take_pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>) {
        (self.child.stdin.take(), self.child.stdout.take())
    }

    /// Whether the child has ended by itself.
    ///
    /// # Errors
    /// When the child's state cannot be read.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already; waiting then still reaps it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes whose use of the machine is looked at, each with all its descendants.
#[derive(Clone, Debug, Default)]
pub struct Watched(Vec<u32>);

/// Memory of watched processes, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// The most that was ever resident, added up over processes.
    pub peak_bytes: u64,
}

/// What watched processes hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Open file descriptors.
    pub open_files: u64,
    /// Threads.
    pub threads: u64,
}

impl Watched {
    /// Watches these.
    ///
    /// # Errors
    /// When one of them does not exist.
    pub fn new(ids: Vec<u32>) -> Result<Self> {
        for id in &ids {
            ensure!(fs::exists(format!("/proc/{id}/stat"))?, "there is no process {id}");
        }
        Ok(Self(ids))
    }

    /// The CPU time used until now; `None` if nothing is watched.
    ///
    /// # Errors
    /// When a watched process has ended.
    pub fn cpu(&self) -> Result<Option<Cpu>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut cpu = Cpu { threads_ns: HashMap::new(), ticks: 0 };
        for id in &self.0 {
            cpu.add_process(*id).with_context(|| format!("process {id}, which is under measurement, has ended"))?;
            for descendant in descendants(*id) {
                // one that ends meanwhile is one that `since` finds missing
                let _ = cpu.add_process(descendant);
            }
        }
        Ok(Some(cpu))
    }

    /// The memory that they use now; `None` if nothing is watched.
    ///
    /// # Errors
    /// When a watched process has ended.
    pub fn memory(&self) -> Result<Option<Memory>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut all = Memory::default();
        for id in &self.0 {
            for id in std::iter::once(*id).chain(descendants(*id)) {
                let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
                let bytes = |field| status_kib(&status, field).map(|kib| kib * 1024);
                if let (Some(resident_bytes), Some(peak_bytes)) = (bytes("VmRSS"), bytes("VmHWM")) {
                    all.resident_bytes += resident_bytes;
                    all.peak_bytes += peak_bytes;
                } else {
                    ensure!(!self.0.contains(&id), "process {id}, which is under measurement, has ended");
                }
            }
        }
        Ok(Some(all))
    }
}

impl Watched {
    /// What they hold now; `None` if nothing is watched, or another user's processes are.
    pub fn held(&self) -> Option<Held> {
        let mut all = Held::default();
        for id in self.0.iter().flat_map(|id| std::iter::once(*id).chain(descendants(*id))) {
            all.open_files += fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64;
            all.threads += fs::read_dir(format!("/proc/{id}/task")).ok()?.count() as u64;
        }
        (all != Held::default()).then_some(all)
    }
}

/// The process's children, their children, and so on; none where the kernel does not tell.
fn descendants(id: u32) -> Vec<u32> {
    let mut found = vec![id];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        next += 1;
        for thread in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found.split_off(1)
}

/// A reading of CPU time, user and system together.
#[derive(Debug)]
pub struct Cpu {
    /// Nanoseconds on a CPU for each live thread, from `schedstat`; empty where the kernel keeps none.
    threads_ns: HashMap<u32, u64>,
    /// Clock ticks of the processes, threads that ended included.
    ticks: u64,
}

impl Cpu {
    fn add_process(&mut self, id: u32) -> Result<()> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        self.ticks += stat_ticks(&stat).context("unknown form of /proc/PID/stat")?;
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            let thread = thread?;
            let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread that ends between the listing and this read is one that `since` finds missing.
            if let Some(on_cpu_ns) =
                fs::read_to_string(thread.path().join("schedstat")).ok().as_deref().and_then(schedstat_ns)
            {
                self.threads_ns.insert(id, on_cpu_ns);
            }
        }
        Ok(())
    }

    /// The CPU time used between an earlier reading and this one: to the nanosecond, or to the tick (10 ms) when a
    /// thread has ended since, or the kernel counts no more finely.
    pub fn since(&self, before: &Self) -> Duration {
        let all_alive = before.threads_ns.keys().all(|id| self.threads_ns.contains_key(id));
        if self.threads_ns.is_empty() || !all_alive {
            return Duration::from_nanos(self.ticks.saturating_sub(before.ticks) * TICK_NS);
        }
        let used_ns = self.threads_ns.iter().map(|(id, now_ns)| {
            let before_ns = before.threads_ns.get(id).copied().unwrap_or(0);
            now_ns.saturating_sub(before_ns)
        });
        Duration::from_nanos(used_ns.sum())
    }
}

/// The CPU time of the calling thread; to the tick (10 ms) where the kernel keeps no `schedstat`.
pub fn thread_cpu() -> Duration {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/{file}")).ok();
    let in_ticks = || Some(stat_ticks(&read("stat")?)? * TICK_NS);
    let on_cpu_ns = read("schedstat").as_deref().and_then(schedstat_ns).or_else(in_ticks);
    Duration::from_nanos(on_cpu_ns.unwrap_or(0))
}

fn schedstat_ns(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// utime + stime (fields 14 and 15, proc(5)). The second field, the program's name, may hold spaces and parentheses.
fn stat_ticks(stat: &str) -> Option<u64> {
    let mut after_name = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = after_name.next()?.parse().ok()?;
    let system: u64 = after_name.next()?.parse().ok()?;
    Some(user + system)
}

fn status_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(threads_ns: &[(u32, u64)], ticks: u64) -> Cpu {
        Cpu { threads_ns: threads_ns.iter().copied().collect(), ticks }
    }

    #[test]
    fn cpu_time_is_summed_over_threads() {
        let check = |before: &[(u32, u64)], after: &[(u32, u64)], expected: Duration| {
            assert_eq!(reading(after, 107).since(&reading(before, 100)), expected);
        };
        check(&[(1, 100), (2, 50)], &[(1, 130), (2, 50)], Duration::from_nanos(30));
        check(&[(1, 100)], &[(1, 130), (9, 5)], Duration::from_nanos(35)); // a new thread
        check(&[(1, 100), (2, 50)], &[(1, 130)], Duration::from_millis(70)); // an ended thread: ticks know it
        check(&[], &[], Duration::from_millis(70)); // no schedstat
    }

    #[test]
    fn proc_files_are_understood() {
        let stat = "42 (a ) name) S 1 2 3 4 5 6 7 8 9 10 300 21 0 0 20 0 1 0";
        assert_eq!(stat_ticks(stat), Some(321));
        assert_eq!(stat_ticks("42 (cut off"), None);
        assert_eq!(status_kib("VmHWM:\t  1736 kB\nVmRSS:\t   900 kB\n", "VmRSS"), Some(900));
        assert_eq!(status_kib("Name:\tx\n", "VmRSS"), None);
    }

    #[test]
    fn this_process_and_its_children_can_be_read() {
        let this = Watched::new(vec![std::process::id()]).unwrap();
        let before = this.cpu().unwrap().unwrap();
        let mut sum = 0u64;
        for i in 0..20_000_000u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        // Other tests' threads may end meanwhile, and the reading then falls back to ticks: no lower bound here.
        assert!(this.cpu().unwrap().unwrap().since(&before) < Duration::from_secs(600));
        assert!(thread_cpu() > Duration::ZERO);
        let memory = this.memory().unwrap().unwrap();
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.resident_bytes);

        let held = this.held().unwrap();
        assert!(held.open_files >= 3 && held.threads >= 1, "{held:?}");

        let child = Process::spawn(Command::new("cat").stdin(std::process::Stdio::piped())).unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
    }

    #[test]
    fn what_is_not_watched_is_not_known() {
        assert!(Watched::default().cpu().unwrap().is_none() && Watched::default().memory().unwrap().is_none());
        assert_eq!(Watched::default().held(), None);
        assert_eq!(Watched::new(vec![u32::MAX]).unwrap_err().to_string(), format!("there is no process {}", u32::MAX));
    }
}
