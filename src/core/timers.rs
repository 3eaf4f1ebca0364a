//! One wheel of deadlines for all connections of a shard, instead of a timer each.

/// Slots of connections to look at again, in buckets of `resolution_ms`. Entries are lazy: whoever takes one out looks
/// at the connection and puts it back at its true deadline.
#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Vec<Vec<(u32, u64)>>,
    resolution_ms: u64,
    /// The first bucket time, in units of the resolution, that has not been taken out.
    next: u64,
}

const BUCKETS: u64 = 128;

impl Wheel {
    /// Deadlines are met at most one `resolution_ms` late.
    pub(super) fn new(resolution_ms: u64) -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), resolution_ms, next: 0 }
    }

    /// Remembers a slot and its nonce for `at_ms`, or for the farthest time the wheel holds.
    pub(super) fn add(&mut self, slot: u32, nonce: u64, at_ms: u64) {
        let at = at_ms.div_ceil(self.resolution_ms).clamp(self.next, self.next + BUCKETS - 1);
        self.buckets[(at % BUCKETS) as usize].push((slot, nonce));
    }

    /// Takes out what is due.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Vec<(u32, u64)> {
        let mut due = Vec::new();
        let now = now_ms / self.resolution_ms;
        self.next = self.next.max(now.saturating_sub(BUCKETS - 1));
        while self.next <= now {
            due.append(&mut std::mem::take(&mut self.buckets[(self.next % BUCKETS) as usize]));
            self.next += 1;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_early_and_nothing_is_forgotten() {
        let mut wheel = Wheel::new(10);
        wheel.add(1, 0, 25);
        wheel.add(2, 0, 5);
        wheel.add(3, 0, 1_000_000); // beyond the horizon: comes back early to be put again
        assert_eq!(wheel.take_due(9), []);
        assert_eq!(wheel.take_due(10), [(2, 0)]);
        assert_eq!(wheel.take_due(29), []);
        assert_eq!(wheel.take_due(30), [(1, 0)]);
        assert_eq!(wheel.take_due(5_000), [(3, 0)]);
        wheel.add(4, 0, 0); // a deadline in the past is due at the next look
        assert_eq!(wheel.take_due(5_010), [(4, 0)]);
    }
}
