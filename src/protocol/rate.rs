//! Rates: at most so many in a second, and up to a second's worth at once.

use std::sync::atomic::{AtomicU64, Ordering};

/// One rate, kept as the time at which what was taken so far would be due if it had come evenly (GCRA): eight bytes,
/// and nothing to be done while nobody takes.
#[derive(Default, Debug)]
pub(in crate::protocol) struct Rate {
    due_us: AtomicU64,
}

impl Rate {
    /// Takes `count` at once, or nothing if that were more than `per_s` in a second; `per_s` 0 is no limit. More than a
    /// second's worth at once may be taken after a second in which nothing was.
    pub(in crate::protocol) fn take(&self, count: u64, per_s: usize, now_ms: u64) -> bool {
        if per_s == 0 || count == 0 {
            return true;
        }
        let now_us = now_ms * 1000;
        let cost_us = (count * 1_000_000).div_ceil(per_s as u64);
        let at_once_us = cost_us.max(1_000_000);
        let take = |due_us: u64| {
            let due_us = due_us.max(now_us) + cost_us;
            (due_us <= now_us + at_once_us).then_some(due_us)
        };
        self.due_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_second() {
        let rate = Rate::default();
        let take = |count, now_ms| rate.take(count, 10, now_ms);
        for _ in 0..10 {
            assert!(take(1, 5_000));
        }
        assert!(!take(1, 5_000));
        assert!(!take(1, 5_099));
        assert!(take(1, 5_100));
        assert!(!take(1, 5_100));
        assert!(take(10, 6_100));
        // a batch larger than the rate takes a second's rest, and is paid for after
        assert!(!take(15, 7_000));
        assert!(take(15, 7_100));
        assert!(!take(1, 7_600));
        assert!(take(1, 7_700));
        assert!(rate.take(1_000_000, 0, 0));
    }
}
