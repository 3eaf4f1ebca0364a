//! The boundary between the shards and the front doors: what a shard asks of a protocol.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use super::http::{Exchange, Response};
use crate::core::{ChannelName, CloseReason, Connection, Grant, Outcome, Rejection};
use crate::hooks::jobs::{Job, JobError};

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

    /// A text message arrived: at most one command.
    fn text(&mut self, heard: Heard<'_>) -> Step;

    /// A binary message arrived: the finished frame to answer it with, if any. The protocols here speak text only and,
    /// as their originals do, ignore it.
    fn binary(&mut self, _message: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// The subscribe that the last step asked for has ended: the reply.
    fn subscribed(&mut self, outcome: Outcome) -> String;

    /// The job that the last step asked for has ended: the reply, if the client is to have one.
    fn job_done(&mut self, result: Result<(), JobError>) -> Option<String>;

    /// What the client is told when its connection is taken down.
    fn farewell(&self, reason: CloseReason) -> Farewell;
}

/// A client's message, and what a session may look at to understand it.
#[derive(Debug)]
pub struct Heard<'a> {
    /// The message.
    pub text: &'a str,
    /// The state of its connection.
    pub connection: &'a Connection,
    /// `channel_name_bytes_max`.
    pub channel_name_bytes_max: usize,
    /// Wall clock, in seconds since 1970.
    pub unix_s: u64,
}

/// What a client's message leads to.
#[derive(Debug)]
pub enum Step {
    /// An answer that changes nothing.
    Reply(String),
    /// An answer that says no; counted by its reason.
    Refuse(Rejection, String),
    /// Subscribe to all of these or to none; then [`Session::subscribed`].
    Subscribe(Vec<Grant>),
    /// End a subscription, if there is one, and answer.
    Unsubscribe(ChannelName, String),
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
