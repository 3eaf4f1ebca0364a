//! Which channels may have a subscriber, as every shard of a node sees it.
//!
//! Many events are for nobody: for a user who is away, a page that nobody looks at. One whose channel is at home on another
//! shard would wake that shard's thread, which costs more than all the rest of it. So homes count their occupied channels in
//! a table that all shards read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts, and so four bytes each. With as many occupied channels every second look finds another channel's count, and
/// an event for nobody costs what any other costs.
const COUNTS: usize = 1 << 16;

/// How many channels are occupied, by their hash.
///
/// A home counts a channel before it tells the first subscriber that it is one. So who looks later than a subscriber has
/// been told finds the channel counted.
#[derive(Clone)]
pub struct Occupancy(Arc<[AtomicU32]>);

impl Default for Occupancy {
    fn default() -> Self {
        Self((0..COUNTS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl fmt::Debug for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Occupancy").finish_non_exhaustive()
    }
}

impl Occupancy {
    /// A channel has its first subscriber.
    pub(super) fn occupied(&self, hash: u64) {
        self.count(hash).fetch_add(1, Ordering::Release);
    }

    /// A channel has none any more.
    pub(super) fn vacated(&self, hash: u64) {
        self.count(hash).fetch_sub(1, Ordering::Release);
    }

    /// Whether the channel of that hash may have a subscriber.
    pub(super) fn may_be_occupied(&self, hash: u64) -> bool {
        self.count(hash).load(Ordering::Acquire) > 0
    }

    /// The upper half of the hash, since the lower one says which shard is the home.
    fn count(&self, hash: u64) -> &AtomicU32 {
        &self.0[(hash >> 32) as usize % COUNTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_is_occupied_is_never_missed() {
        let occupancy = Occupancy::default();
        let (one, of_the_same_count) = (7 << 32, 7 << 32 | 1 << 63 | 3);
        assert!(!occupancy.may_be_occupied(one));
        occupancy.occupied(one);
        occupancy.occupied(of_the_same_count);
        assert!(occupancy.may_be_occupied(one) && !occupancy.may_be_occupied(8 << 32));
        occupancy.vacated(one);
        assert!(occupancy.may_be_occupied(of_the_same_count));
        occupancy.vacated(of_the_same_count);
        assert!(!occupancy.may_be_occupied(one));
    }
}
