//! How much memory there is, and how much of it this process takes.

use std::fs;
use std::path::Path;

use crate::limits::Limits;

/// What a node may take for connections and what is kept for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// In bytes; 0 = no limit.
    pub bytes: usize,
    /// Where that comes from.
    pub origin: &'static str,
}

impl Budget {
    /// What is configured, or three quarters of what there is: the rest is for requests, hooks, the kernel's share of each
    /// socket, and what an estimate is off.
    pub fn of(limits: &Limits) -> Self {
        if limits.memory_bytes_max > 0 {
            return Self { bytes: limits.memory_bytes_max, origin: "limits.memory_bytes_max" };
        }
        found(Path::new("/"))
    }
}

/// Memory of this process that is in use, in bytes; `None` where the kernel does not tell.
pub fn resident_bytes() -> Option<usize> {
    kib(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS").map(|kib| kib * 1024)
}

/// Of the machine, or of the control group that this process is in (cgroups(7), both versions), whichever has less.
fn found(root: &Path) -> Budget {
    let read = |path: &Path| fs::read_to_string(root.join(path)).ok();
    let machine = read(Path::new("proc/meminfo")).and_then(|text| kib(&text, "MemTotal")).map(|kib| kib * 1024);
    let groups = read(Path::new("proc/self/cgroup")).unwrap_or_default();
    let of_line = |line: &str| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // a group has what each that it is within has, and may see itself as the outermost
        let within = Path::new(group.trim_start_matches('/')).ancestors();
        within.filter_map(|group| read(&Path::new(mount).join(group).join(file))?.trim().parse::<usize>().ok()).min()
    };
    let group = groups.lines().filter_map(of_line).min();
    match (machine, group) {
        (Some(machine), Some(group)) if group < machine => {
            three_quarters(group, "three quarters of the control group's")
        }
        (Some(machine), _) => three_quarters(machine, "three quarters of the machine's"),
        (None, Some(group)) => three_quarters(group, "three quarters of the control group's"),
        (None, None) => Budget { bytes: 0, origin: "no limit, for the kernel does not tell how much there is" },
    }
}

fn three_quarters(bytes: usize, origin: &'static str) -> Budget {
    Budget { bytes: bytes / 4 * 3, origin }
}

/// A field of `/proc/meminfo` or `/proc/PID/status` (proc(5)), which the kernel writes in units of 1,024 bytes.
fn kib(text: &str, field: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_machine_and_groups() {
        let check = |files: &[(&str, &str)], bytes: usize| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            assert_eq!(found(root.path()).bytes, bytes / 4 * 3, "{files:?}");
        };
        let machine = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree:  5 kB\n");
        let v2 = ("proc/self/cgroup", "0::/a/b\n");
        let v1 = ("proc/self/cgroup", "5:cpu:/\n4:memory,hugetlb:/docker/1\n0::/\n");
        check(&[], 0);
        check(&[machine], 1_024_000);
        check(&[machine, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n")], 1_024_000);
        check(
            &[machine, v2, ("sys/fs/cgroup/a/b/memory.max", "max\n"), ("sys/fs/cgroup/a/memory.max", "4096\n")],
            4096,
        );
        check(&[machine, v2, ("sys/fs/cgroup/memory.max", "8192\n")], 8192); // a container that sees its own group alone
        check(&[machine, v1, ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "4096\n")], 4096);
        check(&[machine, v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")], 1_024_000);
        check(&[v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n")], 8192);
    }

    #[test]
    fn this_process_takes_some_of_what_there_is() {
        let budget = Budget::of(&Limits::default());
        assert!(resident_bytes().unwrap() > 1 << 20 && budget.bytes > 64 << 20, "{budget:?}");
        let limits = Limits { memory_bytes_max: 5, ..Limits::default() };
        assert_eq!(Budget::of(&limits).bytes, 5);
    }
}
