//! In which order channels with events on their way are served on a shard.
//!
//! Channels take turns, a slice of subscribers each, so that one with very many delays the others by a slice and no
//! more. One whose events have all been handed out *rests*: the longer it took, the longer, so that the busier a shard is,
//! the more events share a write. Events on a channel that has rested long enough go out at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::KEPT_PLACES;

/// A channel that was served for L is served again at the earliest this many L after it began.
const SPACING: u64 = 4;
/// The longest such wait, in microseconds.
const SPACING_MAX_US: u64 = 20_000;

/// Audiences by their index, and times in microseconds of the shard's clock.
#[derive(Default, Debug)]
pub(super) struct Schedule {
    now_us: u64,
    /// Those that take turns now.
    serving: VecDeque<u32>,
    /// Those with events that wait, soonest first.
    resting: BinaryHeap<Reverse<(u64, u32)>>,
    /// Those served to the end in this turn, with when that began.
    served: Vec<(u32, u64)>,
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

    /// Whose turn it is, and when this turn began.
    pub(super) fn next(&mut self) -> Option<(u32, u64)> {
        Some((self.serving.pop_front()?, self.now_us))
    }

    /// An audience has had a slice, and takes another when the others had theirs.
    pub(super) fn goes_on(&mut self, audience: u32) {
        self.serving.push_back(audience);
    }

    /// An audience was served to the end, which began then.
    pub(super) fn served(&mut self, audience: u32, began_us: u64) {
        self.served.push((audience, began_us));
    }

    /// A turn has ended, with everything written: the audiences served to the end in it, and until when they rest.
    pub(super) fn end_turn(&mut self, now_us: u64) -> Vec<(u32, u64)> {
        let until = |began_us: u64| began_us + (now_us.saturating_sub(began_us) * SPACING).min(SPACING_MAX_US);
        self.served.drain(..).map(|(audience, began_us)| (audience, until(began_us))).collect()
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
        assert_eq!(schedule.next(), Some((1, 1_000)));
        schedule.goes_on(1);
        // while the first is served, an event comes on a channel that has been quiet
        schedule.rest(2, 0);
        assert!(schedule.take_news());
        schedule.begin_turn(2_000);
        assert_eq!([schedule.next(), schedule.next()], [Some((1, 2_000)), Some((2, 2_000))]);
        schedule.served(1, 1_000);
        schedule.served(2, 2_000);
        assert_eq!(schedule.end_turn(3_000), [(1, 9_000), (2, 6_000)]);
        assert!(!schedule.is_serving());
    }

    #[test]
    fn what_a_message_to_all_channels_took_is_given_back() {
        let mut schedule = Schedule::default();
        let all = 4 * KEPT_PLACES as u32;
        (0..all).for_each(|audience| schedule.rest(audience, 0));
        schedule.begin_turn(0);
        while let Some((audience, now_us)) = schedule.next() {
            schedule.served(audience, now_us);
        }
        assert_eq!(schedule.end_turn(0).len(), all as usize);
        schedule.give_back();
        assert_eq!((schedule.serving.capacity(), schedule.resting.capacity(), schedule.served.capacity()), (0, 0, 0));
    }

    #[test]
    fn rest_is_bounded() {
        let mut schedule = Schedule::default();
        schedule.served(1, 0);
        assert_eq!(schedule.end_turn(15_000), [(1, 20_000)]);
        schedule.rest(1, 20_000);
        schedule.rest(2, 500);
        assert_eq!(schedule.next_us(), Some(500));
        schedule.begin_turn(19_999);
        assert_eq!((schedule.next(), schedule.next()), (Some((2, 19_999)), None));
        schedule.begin_turn(20_000);
        assert_eq!(schedule.next(), Some((1, 20_000)));
    }
}
