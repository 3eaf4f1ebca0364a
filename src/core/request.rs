//! What a backend asks of the whole node, and how the shards' answers come together.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use super::event::Event;
use super::id::{AppKey, ChannelName, ShardIndex};
use super::observation::SessionName;
use super::rejection::Rejection;
use super::stats::Stats;

/// Names a request while its answers are on their way; chosen by the shard that took it.
pub type RequestId = u64;

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub(super) shard: ShardIndex,
    pub(super) request: RequestId,
}

/// A question about one app, or about the node.
#[derive(Clone, Debug)]
pub enum Query {
    /// Names of the channels that have a subscriber: [`Answer::Names`].
    Channels(AppKey),
    /// How many they are: [`Answer::Count`].
    ChannelCount(AppKey),
    /// Distinct connected users: [`Answer::Names`].
    Users(AppKey),
    /// How many they are: [`Answer::Count`].
    UserCount(AppKey),
    /// Distinct users subscribed to a channel: [`Answer::Names`].
    Members(AppKey, ChannelName),
    /// How many they are: [`Answer::Count`].
    MemberCount(AppKey, ChannelName),
    /// Channels by name, or the occupied ones whose name begins so: [`Answer::Channels`].
    Describe(AppKey, Which),
    /// Distinct members of a presence channel: [`Answer::Names`].
    Present(AppKey, ChannelName),
    /// Sessions that are subscribed to a channel: [`Answer::Sessions`].
    Sessions(AppKey, ChannelName),
    /// Distinct connected users of every app that has one: [`Answer::PerApp`].
    UsersPerApp,
    /// What every shard has counted: [`Answer::Stats`]. Answered only if every shard is alive.
    Stats,
}

/// Which channels a question is about.
#[derive(Clone, Debug)]
pub enum Which {
    /// These, each told of once, whether it is occupied or not.
    Named(Arc<[ChannelName]>),
    /// All that have a subscriber and whose name begins so.
    Occupied(Arc<str>),
}

/// A channel as it stands.
#[derive(Clone, Debug)]
pub struct ChannelInfo {
    /// Its name.
    pub name: ChannelName,
    /// Connections subscribed.
    pub subscriptions: u64,
    /// Distinct members of a presence channel.
    pub members: u64,
    /// What a cache channel holds, and for how many milliseconds more.
    pub cached: Option<(Event, u64)>,
}

/// A session that is subscribed to a channel.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its name.
    pub name: SessionName,
    /// Its client's address, where it is known.
    pub address: Option<IpAddr>,
}

/// What came of a request, from one shard or from all.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was done.
    Done,
    /// So many.
    Count(u64),
    /// These, each once, in no order.
    Names(Vec<Arc<str>>),
    /// So many of each app.
    PerApp(Vec<(AppKey, u64)>),
    /// So many subscribers of each channel.
    PerChannel(Vec<(ChannelName, u64)>),
    /// Channels, each once, in no order.
    Channels(Vec<ChannelInfo>),
    /// Sessions, each once, in no order.
    Sessions(Vec<SessionInfo>),
    /// The sum over all shards.
    Stats(Box<Stats>),
    /// A connection, at least one, would not have it.
    Refused(Rejection),
}

impl Answer {
    fn merge(self, other: Answer) -> Answer {
        match (self, other) {
            (refused @ Answer::Refused(_), _) | (_, refused @ Answer::Refused(_)) => refused,
            (Answer::Done, any) | (any, Answer::Done) => any,
            (Answer::Count(a), Answer::Count(b)) => Answer::Count(a + b),
            (Answer::Names(mut a), Answer::Names(b)) => {
                a.extend(b);
                Answer::Names(a)
            }
            (Answer::PerApp(a), Answer::PerApp(b)) => Answer::PerApp(sums(a, b)),
            (Answer::PerChannel(a), Answer::PerChannel(b)) => Answer::PerChannel(sums(a, b)),
            (Answer::Channels(mut a), Answer::Channels(b)) => {
                a.extend(b);
                Answer::Channels(a)
            }
            (Answer::Sessions(mut a), Answer::Sessions(b)) => {
                a.extend(b);
                Answer::Sessions(a)
            }
            (Answer::Stats(mut a), Answer::Stats(b)) => {
                a.merge(&b);
                Answer::Stats(a)
            }
            // a request is answered by all shards in one form; anything else would be a fault of ours, not of data
            (first, _) => first,
        }
    }

    /// The number in it; 0 where there is none.
    pub fn count(&self) -> u64 {
        match self {
            Answer::Count(count) => *count,
            Answer::Names(names) => names.len() as u64,
            Answer::PerApp(apps) => apps.iter().map(|(_, count)| count).sum(),
            Answer::PerChannel(channels) => channels.iter().map(|(_, count)| count).sum(),
            Answer::Channels(channels) => channels.len() as u64,
            Answer::Sessions(sessions) => sessions.len() as u64,
            Answer::Done | Answer::Stats(_) | Answer::Refused(_) => 0,
        }
    }

    /// The names in it, sorted.
    pub fn into_names(self) -> Vec<Arc<str>> {
        match self {
            Answer::Names(mut names) => {
                names.sort_unstable();
                names
            }
            _ => Vec::new(),
        }
    }
}

/// Adds counts of the same names.
fn sums<N: PartialEq>(mut a: Vec<(N, u64)>, b: Vec<(N, u64)>) -> Vec<(N, u64)> {
    for (name, count) in b {
        match a.iter_mut().find(|(held, _)| *held == name) {
            Some((_, held)) => *held += count,
            None => a.push((name, count)),
        }
    }
    a
}

/// Part of an answer, from one shard.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// The whole of what this home has to say; `more` others will each add a [`Part::Extra`].
    Home { answer: Answer, more: u32 },
    /// From somebody whom a home passed the request on to; may overtake the home's own part.
    Extra(Answer),
}

/// Requests of this shard that wait for answers.
#[derive(Default, Debug)]
pub(super) struct Requests(HashMap<RequestId, Gathering>);

#[derive(Debug)]
struct Gathering {
    homes: u32,
    extras: i64,
    answer: Answer,
}

impl Gathering {
    fn add(&mut self, answer: Answer) {
        self.answer = std::mem::replace(&mut self.answer, Answer::Done).merge(answer);
    }
}

impl Requests {
    /// Expects answers from so many homes.
    pub(super) fn open(&mut self, request: RequestId, homes: u32) {
        self.0.insert(request, Gathering { homes, extras: 0, answer: Answer::Done });
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a part; returns the whole once nothing is missing.
    pub(super) fn add(&mut self, request: RequestId, part: Part) -> Option<Answer> {
        let gathering = self.0.get_mut(&request)?;
        match part {
            Part::Home { answer, more } => {
                gathering.homes -= 1;
                gathering.extras += i64::from(more);
                gathering.add(answer);
            }
            Part::Extra(answer) => {
                gathering.extras -= 1;
                gathering.add(answer);
            }
        }
        if gathering.homes > 0 || gathering.extras != 0 {
            return None;
        }
        self.0.remove(&request).map(|gathering| gathering.answer)
    }
}
