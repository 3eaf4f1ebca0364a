//! One wheel of deadlines for all connections of a shard, instead of a timer each.

/// Slots of connections to look at again, in buckets of `resolution_ms`. A slot is looked at when it is due, whoever has it
/// then; whoever looks puts it back at the true deadline. So there is one entry for a slot, however fast its tenants
/// change.
#[derive(Debug)]
pub(super) struct Wheel {
    buckets: Vec<Vec<u32>>,
    resolution_ms: u64,
    /// The first bucket time, in units of the resolution, that has not been taken out.
    next: u64,
    /// When each slot is due, in units of the resolution; an entry of any other time is void.
    due: Vec<u64>,
}

const BUCKETS: u64 = 128;
const NEVER: u64 = u64::MAX;

impl Wheel {
    /// Deadlines are met at most one `resolution_ms` late.
    pub(super) fn new(resolution_ms: u64) -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), resolution_ms, next: 0, due: Vec::new() }
    }

    /// Remembers a slot for `at_ms`, or for the farthest time the wheel holds; one that is due sooner stays so.
    pub(super) fn add(&mut self, slot: u32, at_ms: u64) {
        let at = at_ms.div_ceil(self.resolution_ms).clamp(self.next, self.next + BUCKETS - 1);
        if self.due.len() <= slot as usize {
            self.due.resize(slot as usize + 1, NEVER);
        }
        let due = &mut self.due[slot as usize];
        if at < *due {
            *due = at;
            self.buckets[(at % BUCKETS) as usize].push(slot);
        }
    }

    /// Forgets slots from `slots` on, of which none is left.
    pub(super) fn give_back(&mut self, slots: usize) {
        if self.due.len() > slots {
            self.due.truncate(slots);
            self.due.shrink_to_fit();
        }
    }

    /// Takes out what is due.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Vec<u32> {
        let mut taken = Vec::new();
        let now = now_ms / self.resolution_ms;
        self.next = self.next.max(now.saturating_sub(BUCKETS - 1));
        while self.next <= now {
            for slot in std::mem::take(&mut self.buckets[(self.next % BUCKETS) as usize]) {
                if let Some(due) = self.due.get_mut(slot as usize)
                    && *due <= now
                {
                    *due = NEVER;
                    taken.push(slot);
                }
            }
            self.next += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_early_and_nothing_is_forgotten() {
        let mut wheel = Wheel::new(10);
        wheel.add(1, 25);
        wheel.add(2, 5);
        wheel.add(3, 1_000_000); // beyond the horizon: comes back early to be put again
        assert_eq!(wheel.take_due(9), [0_u32; 0]);
        assert_eq!(wheel.take_due(10), [2]);
        assert_eq!(wheel.take_due(29), [0_u32; 0]);
        assert_eq!(wheel.take_due(30), [1]);
        assert_eq!(wheel.take_due(5_000), [3]);
        wheel.add(4, 0); // a deadline in the past is due at the next look
        assert_eq!(wheel.take_due(5_010), [4]);
    }

    #[test]
    fn a_slot_is_due_once_at_its_soonest() {
        let mut wheel = Wheel::new(10);
        wheel.add(1, 100);
        wheel.add(1, 200); // a later tenant's
        wheel.add(1, 50);
        assert_eq!(wheel.take_due(60), [1]);
        wheel.add(1, 300);
        assert_eq!(wheel.take_due(250), [0_u32; 0]);
        assert_eq!(wheel.take_due(300), [1]);
        assert!(wheel.buckets.iter().all(Vec::is_empty));
        wheel.add(1, 400);
        wheel.give_back(1);
        assert_eq!(wheel.take_due(400), [0_u32; 0]);
        wheel.add(1, 410);
        assert_eq!(wheel.take_due(410), [1]);
    }
}
