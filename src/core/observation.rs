//! What the core saw happen, for hooks: each change once, told at the home of its channel, so in the channel's order.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::event::{Event, Member};
use super::id::{AppKey, ChannelName, ConnectionId, UserId};

/// One thing that happened to a channel. Only channels of apps that have hooks are observed, and none whose name begins
/// with `#`.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The app.
    pub app: AppKey,
    /// The channel.
    pub channel: ChannelName,
    /// What happened.
    pub what: Observed,
}

/// What happened to a channel.
#[derive(Clone, Debug)]
pub enum Observed {
    /// It has its first subscriber.
    Occupied,
    /// It has lost its last.
    Vacated,
    /// A connection subscribed.
    Joined {
        /// Who.
        session: SessionName,
        /// The member that it is on a presence channel.
        member: Option<Member>,
    },
    /// A connection's subscription ended, for whatever reason.
    Left(SessionName),
    /// A user's first connection is a member.
    MemberAdded {
        /// The user.
        user: UserId,
        /// `user_info`, one JSON value; empty if there is none.
        info: Bytes,
    },
    /// A user's last connection is a member no more.
    MemberRemoved {
        /// The user.
        user: UserId,
    },
    /// A client, not a backend, published.
    ClientEvent {
        /// What.
        event: Event,
        /// Who.
        session: SessionName,
        /// The member that it is on a presence channel.
        user: Option<UserId>,
    },
    /// Somebody subscribed to a cache channel that holds no event.
    CacheMiss,
    /// So many connections are subscribed now. Throttled as the subscribers' own notice of it.
    SubscriptionCount(u64),
}

/// A connection by the name that Push1ST's clients, hooks and API know it by: its id in dotted form, behind the session
/// that it gave itself, if it gave one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionName {
    /// What the client called itself.
    pub prefix: Option<Arc<str>>,
    /// The connection.
    pub id: ConnectionId,
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.prefix {
            Some(prefix) => write!(f, "{prefix}.{}", self.id.to_dotted()),
            None => f.write_str(&self.id.to_dotted()),
        }
    }
}
