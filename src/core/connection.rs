//! The state of one live connection, on the shard that owns it.

use super::admission::Permit;
use super::event::DialectIndex;
use super::grant::Permissions;
use super::id::{ChannelName, ConnectionId, UserId};
use super::outbox::Outbox;
use super::rejection::Rejection;
use thiserror::Error;

/// Why a connection ended. Each protocol maps it to its own close code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Error)]
pub enum CloseReason {
    /// The client closed, or its side of the network did.
    #[error("closed by the client")]
    Client,
    /// The client broke its protocol, or sent what its front door does not know.
    #[error("protocol violation")]
    Violation,
    /// The client did not read what it was sent: `outbox_bytes_max`, or the node's total, was reached.
    #[error("too slow to read what it was sent")]
    SlowReader,
    /// The client did not answer a ping.
    #[error("no answer to a ping")]
    NoPong,
    /// The client had no subscription for `unsubscribed_timeout`.
    #[error("no subscription for too long")]
    Unsubscribed,
    /// The node is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// A fault of the server, confined to this connection.
    #[error("internal error")]
    Internal,
}

impl CloseReason {
    /// Every variant, in the order of [`CloseReason::index`].
    pub const ALL: [CloseReason; 7] = [
        CloseReason::Client,
        CloseReason::Violation,
        CloseReason::SlowReader,
        CloseReason::NoPong,
        CloseReason::Unsubscribed,
        CloseReason::Draining,
        CloseReason::Internal,
    ];

    /// Place in [`CloseReason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Short name for the `reason` label of metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            CloseReason::Client => "client",
            CloseReason::Violation => "violation",
            CloseReason::SlowReader => "slow_reader",
            CloseReason::NoPong => "no_pong",
            CloseReason::Unsubscribed => "unsubscribed",
            CloseReason::Draining => "draining",
            CloseReason::Internal => "internal",
        }
    }
}

/// How the command of a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every channel asked for is subscribed: from here on nothing published to them is missed.
    Subscribed,
    /// Nothing was changed.
    Refused(Rejection),
}

/// One live client.
#[derive(Debug)]
pub struct Connection {
    pub(super) id: ConnectionId,
    pub(super) permit: Permit,
    pub(super) user: UserId,
    pub(super) dialect: DialectIndex,
    pub(super) permissions: Permissions,
    pub(super) subscriptions: Vec<Subscription>,
    /// The command in flight, if any; the next one waits for it.
    pub(super) pending: Option<Box<Pending>>,
    /// Number of the last command: an answer to an older one is stale.
    pub(super) command: u32,
    pub(super) outbox: Outbox,
    /// Listed in the shard's dirty connections.
    pub(super) dirty: bool,
    /// A close was decided; whatever else happens is too late.
    pub(super) closing: bool,
    pub(super) opened_ms: u64,
    /// Since when it has had no subscription; of no meaning while it has one.
    pub(super) idle_ms: u64,
    pub(super) heard_ms: u64,
    /// When the ping that is still unanswered was sent.
    pub(super) pinged_ms: Option<u64>,
}

/// A channel of a connection, and where the connection stands among the channel's subscribers on this shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) audience: u32,
    pub(super) position: u32,
}

#[derive(Debug)]
pub(super) enum Pending {
    Register,
    Subscribe {
        /// What homes have yet to confirm.
        waiting: Vec<ChannelName>,
        /// What homes have confirmed.
        joined: Vec<ChannelName>,
        /// What was asked for too and is subscribed already.
        held: Vec<ChannelName>,
        /// Set when a permission was revoked meanwhile: nothing of the command will stand.
        refused: Option<Rejection>,
    },
}

impl Connection {
    /// Its identity.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The admission it holds: app and address.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Who it is; empty if it did not say.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The channels it may use.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// When it was opened, in milliseconds of the shard's clock.
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    /// What it has yet to be sent.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether a command is in flight.
    pub fn is_busy(&self) -> bool {
        self.pending.is_some()
    }
}
