//! What shards tell each other.

use std::sync::Arc;

use bytes::Bytes;
use regex::Regex;

use super::Assignment;
use super::event::{DialectIndex, Event, Frames};
use super::id::{AppKey, ChannelName, ConnectionId, ShardIndex, UserId};
use super::request::{Part, Query, RequestId, Ticket};

/// What goes from shard to shard: made by [`Effect::Send`](super::Effect::Send), for
/// [`Core::receive`](super::Core::receive). Only cores know what is in it.
#[derive(Debug)]
pub struct Message(pub(super) Letter);

/// The words of a [`Message`], and of what a shard tells itself.
#[derive(Debug)]
pub(super) enum Letter {
    /// To a user's home: the user has one more connection.
    Register { connection: ConnectionId, app: AppKey, user: UserId },
    /// Back to the connection.
    Registered { connection: ConnectionId },
    /// To a user's home: one connection less.
    Unregister { connection: ConnectionId, app: AppKey, user: UserId },
    /// To a channel's home: a connection wants to hear it.
    Join {
        connection: ConnectionId,
        command: u32,
        dialect: DialectIndex,
        app: AppKey,
        channel: ChannelName,
        user: UserId,
    },
    /// Back to the connection.
    Joined {
        connection: ConnectionId,
        command: u32,
        dialect: DialectIndex,
        app: AppKey,
        channel: ChannelName,
        user: UserId,
    },
    /// To a channel's home: one subscription on that shard less.
    Leave { shard: ShardIndex, dialect: DialectIndex, app: AppKey, channel: ChannelName, user: UserId },
    /// To a channel's home.
    Publish { app: AppKey, channel: ChannelName, event: Event, except: Option<ConnectionId> },
    /// To every home: publish to each channel of the app whose name the pattern finds.
    PublishMatching { ticket: Ticket, app: AppKey, pattern: Arc<Regex>, event: Event },
    /// From a channel's home to a shard that has subscribers.
    Deliver { app: AppKey, channel: ChannelName, frames: Frames, weight: usize, except: Option<ConnectionId> },
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
