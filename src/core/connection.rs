//! The state of one live connection, on the shard that owns it.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;

use super::admission::{Permit, allocated};
use super::audience;
use super::event::{Event, Form, Member};
use super::grant::Permissions;
use super::id::{ChannelName, ConnectionId, UserId};
use super::message::Subscriber;
use super::observation::SessionName;
use super::outbox::Outbox;
use super::rejection::Rejection;

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
    /// The client did not show who it is within the app's `authorize_within`.
    #[error("did not show who it is in time")]
    Unauthorized,
    /// A backend ended the connections of its user.
    #[error("its user's connections were ended by a backend")]
    Terminated,
    /// The app was disabled.
    #[error("the app was disabled")]
    AppDisabled,
    /// The app is configured no more.
    #[error("the app was removed")]
    AppRemoved,
    /// The node is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// A fault of the server, confined to this connection.
    #[error("internal error")]
    Internal,
}

impl CloseReason {
    /// Every variant, in the order of [`CloseReason::index`].
    pub const ALL: [CloseReason; 11] = [
        CloseReason::Client,
        CloseReason::Violation,
        CloseReason::SlowReader,
        CloseReason::NoPong,
        CloseReason::Unsubscribed,
        CloseReason::Unauthorized,
        CloseReason::Terminated,
        CloseReason::AppDisabled,
        CloseReason::AppRemoved,
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
            CloseReason::Unauthorized => "unauthorized",
            CloseReason::Terminated => "terminated",
            CloseReason::AppDisabled => "app_disabled",
            CloseReason::AppRemoved => "app_removed",
            CloseReason::Draining => "draining",
            CloseReason::Internal => "internal",
        }
    }
}

/// How the command of a connection ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Every channel asked for is subscribed: from here on nothing published to them is missed. Tells of those that were
    /// not before.
    Subscribed(Vec<Joined>),
    /// The connection is signed in. Tells of the users that it watches.
    SignedIn {
        /// Those signed in now.
        online: Vec<UserId>,
        /// The others.
        offline: Vec<UserId>,
    },
    /// Nothing was changed.
    Refused(Rejection),
}

/// What a newcomer finds on a channel.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The channel.
    pub channel: ChannelName,
    /// Its members, the newcomer among them; `None` for one that is no member.
    pub members: Option<Vec<Member>>,
    /// What a cache channel holds.
    pub cached: Option<Cached>,
}

/// What a cache channel holds.
#[derive(Clone, Debug)]
pub enum Cached {
    /// Its last event.
    Event(Event),
    /// Nothing, or nothing any more.
    Nothing,
}

/// One live client.
#[derive(Debug)]
pub struct Connection {
    pub(super) id: ConnectionId,
    pub(super) permit: Permit,
    pub(super) user: UserId,
    pub(super) form: Form,
    pub(super) permissions: Permissions,
    /// What the client calls its session, where a protocol has that.
    pub(super) session: Option<Arc<str>>,
    /// Who it is signed in as, and whom it watches.
    pub(super) signed_in: Option<Box<SignedIn>>,
    /// It has yet to show who it is, and is closed if it does not in time.
    pub(super) must_authorize: bool,
    /// Two are held inline: most connections have few.
    pub(super) subscriptions: SmallVec<[Subscription; 2]>,
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

impl Subscription {
    /// What a subscription takes here and among the channel's subscribers on this shard.
    pub(super) const BYTES: usize = (size_of::<Subscription>() + size_of::<audience::Subscriber>()) * 3 / 2;
}

/// A user by sign-in.
#[derive(Debug)]
pub(super) struct SignedIn {
    pub(super) user: UserId,
    /// `user_info`, one JSON value; empty if there is none.
    pub(super) info: Bytes,
    pub(super) watched: Vec<UserId>,
}

impl SignedIn {
    pub(super) fn held_bytes(&self) -> usize {
        let of_name = |user: &UserId| allocated(2 * size_of::<usize>() + user.as_str().len());
        let watched = self.watched.iter().map(|user| size_of::<UserId>() + of_name(user));
        allocated(size_of::<SignedIn>()) + of_name(&self.user) + allocated(self.info.len()) + watched.sum::<usize>()
    }
}

#[derive(Debug)]
pub(super) enum Pending {
    Register,
    SignIn {
        signed_in: SignedIn,
        /// How many homes have yet to confirm.
        waiting: usize,
        /// What of the watched users is known already.
        online: Vec<UserId>,
        offline: Vec<UserId>,
        /// The user's own channel has confirmed.
        joined: bool,
    },
    Subscribe {
        /// What homes have yet to confirm.
        waiting: Vec<ChannelName>,
        /// What homes have confirmed.
        joined: Vec<Joined>,
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

    /// Who it is signed in as.
    pub fn signed_in(&self) -> Option<&UserId> {
        self.signed_in.as_ref().map(|signed_in| &signed_in.user)
    }

    /// What was said of the user at the sign-in: one JSON value; empty if nothing.
    pub fn user_info(&self) -> Bytes {
        self.signed_in.as_ref().map(|signed_in| signed_in.info.clone()).unwrap_or_default()
    }

    /// Its name where sessions have names.
    pub fn session_name(&self) -> SessionName {
        SessionName { prefix: self.session.clone(), id: self.id }
    }

    pub(super) fn subscriber(&self) -> Subscriber {
        Subscriber { session: self.session_name(), form: self.form, user: self.user.clone() }
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
