//! In which order channels with events on their way are served on a shard.
//!
//! Channels take turns, a slice of subscribers each, so that one with very many delays the others by a slice and no
//! more. One whose events have all been handed out *rests*: the longer it took, the longer, so that the busier a channel is,
//! the more of its events share a write. Events on a channel that has rested long enough go out at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use smallvec::SmallVec;

use super::KEPT_PLACES;

/// From one batch's beginning to the next on a channel that is alone, in times of what a batch takes.
const SPACING: u64 = 4;
/// The longest such time, in microseconds.
const SPACING_MAX_US: u64 = 20_000;

/// Audiences by their index, and times in microseconds of the shard's clock.
#[derive(Default, Debug)]
pub(super) struct Schedule {
    now_us: u64,
    /// Those that take turns now.
    serving: VecDeque<u32>,
    /// Those with events that wait, soonest first.
    resting: BinaryHeap<Reverse<(u64, u32)>>,
    /// Those that were served in this turn, with the places that they took of it.
    served: Vec<(u32, u32)>,
    /// Something rests since the runtime last asked.
    news: bool,
}

impl Schedule {
    /// There are events for an audience, which rests until then.
    pub(super) fn rest(&mut self, audience: u32, until_us: u64) {
        self.resting.push(Reverse((until_us, audience)));
        self.news = true;
    }

    /// A turn begins: whoever has rested long enough is served.
    pub(super) fn begin_turn(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.news = false;
        while let Some(Reverse((until_us, audience))) = self.resting.peek()
            && *until_us <= now_us
        {
            self.serving.push_back(*audience);
            self.resting.pop();
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.serving.pop_front()
    }

    /// An audience has had a slice of that many places; one that `goes_on` takes another when the others had theirs.
    pub(super) fn served(&mut self, audience: u32, places: usize, goes_on: bool) {
        self.served.push((audience, places as u32));
        if goes_on {
            self.serving.push_back(audience);
        }
    }

    /// A turn has ended, with everything written: the audiences that were served in it, and the microseconds that each
    /// one's part took. What one costs is its own, however many share the turn: who is small rests for little.
    pub(super) fn end_turn(&mut self, now_us: u64) -> SmallVec<[(u32, u64); 8]> {
        let took_us = now_us.saturating_sub(self.now_us);
        let places: u64 = self.served.iter().map(|(_, places)| u64::from(*places)).sum();
        let share = |part: u32| took_us * u64::from(part) / places.max(1);
        self.served.drain(..).map(|(audience, part)| (audience, share(part))).collect()
    }

    /// How long an audience rests after a batch that took so long, both in microseconds.
    pub(super) fn rest_us(took_us: u64) -> u64 {
        (took_us * SPACING).min(SPACING_MAX_US).saturating_sub(took_us)
    }

    /// Gives memory back that very many channels took which are quiet now.
    pub(super) fn give_back(&mut self) {
        macro_rules! shrink {
            ($($table:ident)*) => {
                $(if self.$table.capacity() > KEPT_PLACES && self.$table.len() < self.$table.capacity() / 8 {
                    self.$table.shrink_to_fit();
                })*
            };
        }
        shrink!(serving resting served);
    }

    /// Whether somebody is to be served now.
    pub(super) fn is_serving(&self) -> bool {
        !self.serving.is_empty()
    }

    /// When somebody is to be served next.
    pub(super) fn next_us(&self) -> Option<u64> {
        self.resting.peek().map(|Reverse((until_us, _))| *until_us)
    }

    /// Whether there is something new to wait for since a turn began, or this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_quiet_do_not_wait_for_those_who_are_not() {
        let mut schedule = Schedule::default();
        schedule.rest(1, 0);
        schedule.begin_turn(1_000);
        assert_eq!(schedule.next(), Some(1));
        schedule.served(1, 256, true);
        // while the first is served, an event comes on a channel that has been quiet
        schedule.rest(2, 0);
        assert!(schedule.take_news());
        assert_eq!(*schedule.end_turn(2_000), [(1, 1_000)]);
        schedule.begin_turn(2_000);
        assert_eq!([schedule.next(), schedule.next()], [Some(1), Some(2)]);
        schedule.served(1, 96, false);
        schedule.served(2, 4, false);
        assert_eq!(*schedule.end_turn(3_000), [(1, 960), (2, 40)]);
        assert!(!schedule.is_serving());
    }

    #[test]
    fn what_a_message_to_all_channels_took_is_given_back() {
        let mut schedule = Schedule::default();
        let all = 4 * KEPT_PLACES as u32;
        (0..all).for_each(|audience| schedule.rest(audience, 0));
        schedule.begin_turn(0);
        while let Some(audience) = schedule.next() {
            schedule.served(audience, 1, false);
        }
        assert_eq!(schedule.end_turn(0).len(), all as usize);
        schedule.give_back();
        assert_eq!((schedule.serving.capacity(), schedule.resting.capacity(), schedule.served.capacity()), (0, 0, 0));
    }

    #[test]
    fn rest_is_bounded() {
        assert_eq!([0, 1_000, 15_000, 50_000].map(Schedule::rest_us), [0, 3_000, 5_000, 0]);
        let mut schedule = Schedule::default();
        schedule.rest(1, 20_000);
        schedule.rest(2, 500);
        assert_eq!(schedule.next_us(), Some(500));
        schedule.begin_turn(19_999);
        assert_eq!((schedule.next(), schedule.next()), (Some(2), None));
        schedule.begin_turn(20_000);
        assert_eq!(schedule.next(), Some(1));
    }
}
