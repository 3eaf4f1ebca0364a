//! The hold-back of Pusher's webhooks: that a channel was vacated or a member removed is told some seconds later, and not
//! at all if it is undone by then, so that a page that is reloaded makes no noise.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::{AppKey, ChannelName, Observed, UserId};

use super::body::Happening;

/// What is held back at once. Beyond it: the oldest is let go early.
const HELD_MAX: usize = 100_000;

/// What one happening undoes: the channel's occupation, or a user's membership of it.
type Key = (AppKey, ChannelName, Option<UserId>);

/// What is held back.
#[derive(Default)]
pub(super) struct Hold {
    held: HashMap<Key, (u64, Arc<Happening>)>,
    /// In the order of their time, cancelled ones among them until then.
    due: VecDeque<(Instant, u64, Key)>,
    last_number: u64,
}

impl Hold {
    /// Takes what happened, and tells on what is to be told of now.
    pub(super) fn pass(
        &mut self,
        happening: Arc<Happening>,
        hold: Duration,
        now: Instant,
        mut tell: impl FnMut(Arc<Happening>),
    ) {
        let key = |user| (happening.app.clone(), happening.channel.clone(), user);
        match &happening.what {
            Observed::Occupied if self.held.remove(&key(None)).is_some() => {}
            Observed::MemberAdded { user, .. } if self.held.remove(&key(Some(user.clone()))).is_some() => {}
            Observed::Vacated if !hold.is_zero() => self.keep(key(None), happening.clone(), now + hold),
            Observed::MemberRemoved { user } if !hold.is_zero() => {
                self.keep(key(Some(user.clone())), happening.clone(), now + hold);
            }
            _ => tell(happening),
        }
        while self.due.len() > HELD_MAX {
            self.let_go(&mut tell);
        }
    }

    fn keep(&mut self, key: Key, happening: Arc<Happening>, due: Instant) {
        self.last_number += 1;
        self.held.insert(key.clone(), (self.last_number, happening));
        self.due.push_back((due, self.last_number, key));
    }

    /// When the next is to be told of.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.front().map(|(due, ..)| *due)
    }

    /// Tells of what has been held long enough.
    pub(super) fn release(&mut self, now: Instant, mut tell: impl FnMut(Arc<Happening>)) {
        while self.next().is_some_and(|due| due <= now) {
            self.let_go(&mut tell);
        }
    }

    /// Tells of everything.
    pub(super) fn release_all(&mut self, mut tell: impl FnMut(Arc<Happening>)) {
        while !self.due.is_empty() {
            self.let_go(&mut tell);
        }
    }

    fn let_go(&mut self, tell: &mut impl FnMut(Arc<Happening>)) {
        if let Some((_, number, key)) = self.due.pop_front()
            && self.held.get(&key).is_some_and(|(held, _)| *held == number)
            && let Some((_, happening)) = self.held.remove(&key)
        {
            tell(happening);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Observation;
    use bytes::Bytes;

    const HOLD: Duration = Duration::from_secs(3);

    struct Told {
        hold: Hold,
        start: Instant,
        words: Vec<String>,
    }

    impl Told {
        fn new() -> Self {
            Told { hold: Hold::default(), start: Instant::now(), words: Vec::new() }
        }

        fn at(&mut self, ms: u64, channel: &str, what: Observed) {
            let now = self.start + Duration::from_millis(ms);
            let observation = Observation { app: "k".into(), channel: channel.into(), what };
            let words = &mut self.words;
            self.hold.release(now, |happening| words.push(word(&happening)));
            self.hold.pass(Arc::new(Happening::new(observation)), HOLD, now, |told| words.push(word(&told)));
        }

        fn told_by(&mut self, ms: u64) -> Vec<String> {
            let words = &mut self.words;
            self.hold.release(self.start + Duration::from_millis(ms), |happening| words.push(word(&happening)));
            std::mem::take(&mut self.words)
        }
    }

    fn word(happening: &Happening) -> String {
        let user = match &happening.what {
            Observed::MemberAdded { user, .. } | Observed::MemberRemoved { user } => user.as_str(),
            _ => "",
        };
        format!("{:?} {}{user}", happening.kind, happening.channel.as_str())
    }

    fn added(user: &str) -> Observed {
        Observed::MemberAdded { user: user.into(), info: Bytes::new() }
    }

    fn removed(user: &str) -> Observed {
        Observed::MemberRemoved { user: user.into() }
    }

    #[test]
    fn who_comes_back_in_time_was_never_away() {
        let mut told = Told::new();
        told.at(0, "a", Observed::Occupied);
        told.at(0, "a", added("1"));
        assert_eq!(told.told_by(0), ["Occupied a", "MemberAdded a1"]);
        told.at(1_000, "a", removed("1"));
        told.at(1_000, "a", Observed::Vacated);
        told.at(3_999, "a", Observed::Occupied);
        told.at(3_999, "a", added("1"));
        assert!(told.told_by(60_000).is_empty());
        assert!(told.hold.held.is_empty() && told.hold.due.is_empty());
    }

    #[test]
    fn who_stays_away_is_told_of_in_order() {
        let mut told = Told::new();
        told.at(0, "a", removed("1"));
        told.at(0, "a", Observed::Vacated);
        told.at(2_000, "b", Observed::Vacated);
        assert!(told.told_by(2_999).is_empty());
        assert_eq!(told.told_by(3_000), ["MemberRemoved a1", "Vacated a"]);
        told.at(4_000, "a", Observed::Occupied);
        assert_eq!(told.told_by(5_000), ["Occupied a", "Vacated b"]);
    }

    #[test]
    fn another_channel_or_user_undoes_nothing() {
        let mut told = Told::new();
        told.at(0, "a", removed("1"));
        told.at(0, "a", Observed::Vacated);
        told.at(1, "b", Observed::Occupied);
        told.at(1, "a", added("2"));
        assert_eq!(told.told_by(1), ["Occupied b", "MemberAdded a2"]);
        assert_eq!(told.told_by(3_000), ["MemberRemoved a1", "Vacated a"]);
    }

    #[test]
    fn gone_again_waits_from_then_on() {
        let mut told = Told::new();
        told.at(0, "a", Observed::Vacated);
        told.at(1_000, "a", Observed::Occupied);
        told.at(2_000, "a", Observed::Vacated);
        assert!(told.told_by(4_999).is_empty());
        assert_eq!(told.told_by(5_000), ["Vacated a"]);
    }

    #[test]
    fn too_many_are_let_go_early() {
        let mut told = Told::new();
        for number in 0..=HELD_MAX {
            told.at(0, &number.to_string(), Observed::Vacated);
        }
        assert_eq!(told.told_by(0), ["Vacated 0"]);
        assert_eq!(told.hold.held.len(), HELD_MAX);
        let mut left = 0;
        told.hold.release_all(|_| left += 1);
        assert_eq!(left, HELD_MAX);
    }
}
