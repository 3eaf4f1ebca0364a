//! What shards tell each other.

use std::sync::Arc;

use bytes::Bytes;
use regex::Regex;

use super::Assignment;
use super::connection::{CloseReason, Connection, Joined};
use super::event::{DialectIndex, Event, Form, Frames, Member};
use super::id::{AppKey, ChannelName, ConnectionId, UserId};
use super::observation::SessionName;
use super::rejection::Rejection;
use super::request::{Part, Query, RequestId, Ticket};

/// What goes from shard to shard: made by [`Effect::Send`](super::Effect::Send), for
/// [`Core::receive`](super::Core::receive). Only cores know what is in it.
#[derive(Debug)]
pub struct Message(pub(super) Letter);

/// A connection as a channel's home sees it.
#[derive(Clone, Debug)]
pub(super) struct Subscriber {
    pub(super) session: SessionName,
    pub(super) form: Form,
    /// Who it said it is when it connected; empty if it did not.
    pub(super) user: UserId,
}

/// Who of a channel's subscribers an event is for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub enum Target {
    /// All of them.
    #[default]
    All,
    /// All but one.
    Except(ConnectionId),
    /// That one alone.
    Only(SessionName),
    /// Those whose session's name begins with this text and a dot.
    Sessions(Arc<str>),
}

impl Target {
    /// Whether it is for whoever subscribes, and not only for some that are named.
    pub(super) fn is_everybody(&self) -> bool {
        matches!(self, Target::All | Target::Except(_))
    }

    /// Whether it is for that subscriber.
    pub(super) fn admits(&self, connection: &Connection) -> bool {
        match self {
            Target::All => true,
            Target::Except(except) => *except != connection.id,
            Target::Only(session) => session.id == connection.id && session.prefix == connection.session,
            Target::Sessions(prefix) => {
                let name = connection.session_name().to_string();
                name.strip_prefix(&**prefix).is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }
}

/// How a subscription ended, which decides when the others are told that a member has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    /// By a word of the client, or of a backend: at once.
    Word,
    /// The connection has gone: after the app's grace.
    Broken,
    /// The client comes and goes too often to be told of each time.
    Flapping,
}

/// The words of a [`Message`], and of what a shard tells itself.
#[derive(Debug)]
pub(super) enum Letter {
    /// To a user's home: the user has one more connection.
    Register { connection: ConnectionId, app: AppKey, user: UserId },
    /// Back to the connection.
    Registered { connection: ConnectionId },
    /// To a user's home: one connection less.
    Unregister { connection: ConnectionId, app: AppKey, user: UserId },
    /// To a user's home: a connection signs in.
    SignIn { connection: ConnectionId, command: u32, app: AppKey, user: UserId },
    /// Back to the connection.
    SignedIn { connection: ConnectionId, command: u32 },
    /// To a user's home: a connection that signed in has gone.
    SignOut { connection: ConnectionId, app: AppKey, user: UserId },
    /// To a user's home: a connection wants to know whether the user is signed in, now and from now on.
    Watch { connection: ConnectionId, command: u32, app: AppKey, user: UserId },
    /// Back to the connection.
    Watched { connection: ConnectionId, command: u32, user: UserId, online: bool },
    /// To a user's home: the connection wants to know no more.
    Unwatch { connection: ConnectionId, app: AppKey, user: UserId },
    /// From a user's home to a connection that watches.
    UserState { connection: ConnectionId, user: UserId, online: bool },
    /// To a user's home: end the connections that are signed in as the user.
    Terminate { app: AppKey, user: UserId },
    /// From a user's home to such a connection.
    Close { connection: ConnectionId, reason: CloseReason },
    /// To a channel's home: a connection wants to hear it.
    Join { who: Subscriber, command: u32, app: AppKey, channel: ChannelName, member: Option<Member> },
    /// Back to the connection.
    Joined { who: Subscriber, command: u32, app: AppKey, joined: Result<Joined, (ChannelName, Rejection)> },
    /// To a channel's home: one subscription less.
    Leave { who: Subscriber, app: AppKey, channel: ChannelName, how: Leaving },
    /// To a channel's home. With a ticket, the subscribers that it is for are counted.
    Publish { app: AppKey, channel: ChannelName, event: Event, target: Target, ticket: Option<Ticket> },
    /// To every home: publish to each channel of the app whose name the pattern finds.
    PublishMatching { ticket: Ticket, app: AppKey, pattern: Arc<Regex>, event: Event },
    /// From a channel's home to a shard that has subscribers.
    Deliver { app: AppKey, channel: ChannelName, frames: Frames, weight: usize, target: Target, ticket: Option<Ticket> },
    /// To a user's home: a frame for every connection of the user that reads the dialect.
    SendToUser { app: AppKey, user: UserId, dialect: DialectIndex, frame: Bytes },
    /// To a connection of that app, if it reads the dialect.
    Send { connection: ConnectionId, app: AppKey, dialect: DialectIndex, frame: Bytes },
    /// To a user's home.
    AssignUser {
        ticket: Ticket,
        app: AppKey,
        user: UserId,
        assignment: Arc<Assignment>,
        dialect: DialectIndex,
        frame: Bytes,
    },
    /// From a user's home to a connection of the user.
    Assign {
        ticket: Ticket,
        connection: ConnectionId,
        assignment: Arc<Assignment>,
        dialect: DialectIndex,
        frame: Bytes,
    },
    /// To one home or to all.
    Query { ticket: Ticket, query: Query },
    /// Back to the shard that took the request.
    Answer { request: RequestId, part: Part },
}
