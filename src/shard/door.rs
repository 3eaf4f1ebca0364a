//! The boundary between the shards and the front doors: what a shard asks of a protocol.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use super::Shard;
use super::http::{Exchange, Response};
use crate::core::{
    ChannelName, CloseReason, Connection, Core, Event, Grant, Member, Outcome, Rejection, Target, UserId,
};
use crate::hooks::jobs::{Job, JobError};
use crate::limits::Limits;

/// One role of a protocol on a listener: some paths, and what is answered there.
pub trait FrontDoor: Send + Sync {
    /// Whether this door answers the path. The first door of a listener that does, answers.
    fn owns(&self, path: &str) -> bool;

    /// Answers a request for a path that it owns. Runs on the shard that accepted the connection.
    fn answer(&self, exchange: Exchange) -> Answering<'_>;
}

/// A response in the making.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Response> + 'a>>;

/// One client's conversation, in its protocol's words. Called on the connection's shard; must neither block nor call
/// back into the shard.
pub trait Session {
    /// The protocol's name, for logs.
    fn protocol(&self) -> &'static str;

    /// The most bytes that a message may have.
    fn message_bytes_max(&self, limits: &Limits) -> usize {
        limits.command_bytes_max
    }

    /// The connection is open; nothing was sent to it yet, and nothing read from it. `heard` has no text.
    fn opened(&mut self, _heard: Heard<'_>) -> Step {
        Step::Nothing
    }

    /// A text message arrived: at most one command.
    fn text(&mut self, heard: Heard<'_>) -> Step;

    /// Whether binary messages are read as if they were text messages.
    fn reads_binary(&self) -> bool {
        false
    }

    /// A binary message arrived: the finished frame to answer it with, if any. The protocols here speak text only and,
    /// as their originals do, ignore it.
    fn binary(&mut self, _message: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// What the last step asked for has ended: a subscribe, a sign-in, or a publish that was refused.
    fn done(&mut self, outcome: Outcome) -> Step;

    /// The job that the last step asked for has ended: the reply, if the client is to have one.
    fn job_done(&mut self, result: Result<(), JobError>) -> Option<String>;

    /// What the client is told when its connection is taken down.
    fn farewell(&self, reason: CloseReason) -> Farewell;

    /// A message that it is sent before that.
    fn last_words(&self, _reason: CloseReason) -> Option<String> {
        None
    }
}

/// A client's message, and what a session may look at to understand it.
pub struct Heard<'a> {
    /// The message.
    pub text: &'a str,
    /// The state of its connection.
    pub connection: &'a Connection,
    pub(super) core: &'a Core,
    pub(super) shard: &'a Shard,
}

impl Heard<'_> {
    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.core.settings().limits
    }

    /// Whether the connection is subscribed to a channel.
    pub fn is_subscribed(&self, channel: &str) -> bool {
        self.core.is_subscribed(self.connection.id().slot, channel)
    }

    /// Wall clock, in seconds since 1970.
    pub fn unix_s(&self) -> u64 {
        self.shard.unix_s()
    }

    /// A clock that never runs backwards, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.shard.now_ms()
    }

    /// A number for an event of this client.
    pub fn event_id(&self) -> u64 {
        self.shard.event_id()
    }
}

/// What a client's message leads to.
#[derive(Debug)]
pub enum Step {
    /// Nothing at all.
    Nothing,
    /// An answer that changes nothing.
    Reply(String),
    /// Several, in this order.
    Replies(Vec<String>),
    /// An answer that says no; counted by its reason.
    Refuse(Rejection, String),
    /// Subscribe to all of these or to none; then [`Session::done`].
    Subscribe(Vec<Grant>),
    /// End a subscription, if there is one, and answer, if there are words.
    Unsubscribe {
        /// Of that channel.
        channel: ChannelName,
        /// The answer.
        words: Option<String>,
        /// The client does it too often for the channel's members to be told each time.
        flaps: bool,
    },
    /// Publish; then [`Session::done`], if that is refused.
    Publish {
        /// Where to; the connection must be subscribed.
        channel: ChannelName,
        /// What.
        event: Event,
        /// To whom.
        target: Target,
    },
    /// Sign in as a user whose identity is verified, and watch others; then [`Session::done`].
    SignIn(Member, Vec<UserId>),
    /// Hand on a job; then [`Session::job_done`].
    Job(Job),
    /// The end of the connection.
    Close(Farewell),
}

/// A close code and its reason (RFC 6455, 7.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Farewell {
    /// The code.
    pub code: u16,
    /// A sentence of at most 123 bytes that says what to do.
    pub reason: Cow<'static, str>,
}
