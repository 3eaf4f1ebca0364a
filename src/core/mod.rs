//! Meaning: channels, users, connections and events, as state machines. Read this first.
//!
//! One [`Core`] is the state of one shard. It does no I/O, starts nothing, reads no clock and knows no protocol: verbs
//! and [`Message`]s go in with the time, [`Effect`]s come out, and the runtime around it moves bytes.
//!
//! Every piece of state has one owner. A connection belongs to the shard that accepted it; a channel and a user belong
//! to their *home*, the shard that their name hashes to. Shards exchange messages, first in first out per pair, and
//! that order is all that correctness rests on:
//!
//! - a publish goes to the channel's home and from there to the shards with subscribers: one order per channel;
//! - a subscribe goes to the home and back the same way: what the home passed on before is not for the newcomer, what
//!   it passes on after arrives after;
//! - a command has a number: an answer to a command or connection that has gone turns into a leave.

mod admission;
mod audience;
mod channel;
mod connection;
mod event;
pub mod grant;
mod home;
mod id;
mod message;
mod observation;
mod occupancy;
mod outbox;
mod rejection;
mod request;
mod roster;
mod schedule;
mod settings;
mod sign_in;
mod stats;
mod timers;

#[cfg(test)]
mod model_tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use regex::Regex;
use slab::Slab;
use smallvec::SmallVec;

use crate::limits::Limits;

use audience::{Audiences, Delivery};
use channel::own_channel;
use connection::{Pending, Subscription};
use home::{ChannelHome, ChannelHomes, SignedInHomes, UserHomes};
use message::{Leaving, Letter, Subscriber};
use request::{Part, Requests};
use roster::Due;
use schedule::Schedule;
use timers::Wheel;

pub use admission::{Admission, Memory, Permit};
pub use channel::{Access, ChannelKind, owner_of};
pub use connection::{Cached, CloseReason, Connection, Joined, Outcome};
pub use event::{About, Data, Deflate, Dialect, DialectIndex, Event, Form, Frames, Ledger, Member, Notice};
pub(crate) use grant::matches_pattern;
pub use grant::{Grant, Permissions, check_channel_name};
pub use id::{AppKey, ChannelName, ConnectionId, ShardIndex, UserId};
pub use message::{Message, Target};
pub use observation::{Observation, Observed, SessionName};
pub use occupancy::Occupancy;
pub use outbox::Outbox;
pub use rejection::Rejection;
pub use request::{Answer, ChannelInfo, Query, RequestId, SessionInfo, Ticket, Which};
pub use settings::{AppSettings, Settings};
pub use stats::{Stats, TURN_BUCKETS_US, TlsFailure};

/// Subscribers served between two looks at anything else; few under test, so that a handful makes several slices.
const SLICE_SUBSCRIBERS: usize = if cfg!(test) { 2 } else { 64 };
/// A reply up to this many bytes, to a client that keeps up, is not counted among events: it is gone at once, or is all
/// that its outbox holds.
const REPLY_BYTES: usize = 512;

/// Places of a table that are worth no shrinking.
pub(crate) const KEPT_PLACES: usize = 256;

/// What all shards of a node have in common.
#[derive(Clone)]
pub struct Node {
    /// Number of this process among its peers; 0 alone.
    pub number: u16,
    /// How many shards there are.
    pub shards: ShardIndex,
    /// Seed of the hash that assigns homes; the same on every shard.
    pub hash_seed: u64,
    /// How protocols write events, by [`DialectIndex`].
    pub dialects: Arc<[Arc<dyn Dialect>]>,
    /// How a finished frame is deflated.
    pub deflate: Deflate,
    /// Live connections and what memory goes for, for the limits on them. Made with the ledger.
    pub admission: Admission,
    /// Bytes of encoded events alive.
    pub ledger: Ledger,
    /// Bytes of accepted events on their way to each shard: the credit that bounds the mailboxes.
    pub backlog: Arc<[AtomicUsize]>,
    /// Which channels may have a subscriber.
    pub occupancy: Occupancy,
}

/// A change of what a user may use, for every connection that the user has now.
#[derive(Clone, Debug)]
pub enum Assignment {
    /// These patterns instead of all others; subscriptions that they do not cover end.
    Replace(Box<[Box<str>]>),
    /// This pattern too.
    Add(Box<str>),
}

/// What the core wants done.
#[derive(Debug)]
pub enum Effect {
    /// Put a message into another shard's mailbox. Neither waits nor fails.
    Send(ShardIndex, Message),
    /// The roster has the connection: its first command may begin.
    Connected(u32),
    /// The connection's command has ended; the next may begin.
    Outcome(u32, Outcome),
    /// A request is answered.
    Answered(RequestId, Answer),
    /// Ask the connection for a sign of life.
    Ping(u32),
    /// Take the connection down and [`Core::disconnect`] it.
    Close(u32, CloseReason),
    /// Tell hooks.
    Observed(Observation),
}

impl Effect {
    /// The connection that it is about.
    fn slot(&self) -> Option<u32> {
        match self {
            Effect::Send(..) | Effect::Answered(..) | Effect::Observed(..) => None,
            Effect::Connected(slot) | Effect::Outcome(slot, _) | Effect::Ping(slot) | Effect::Close(slot, _) => {
                Some(*slot)
            }
        }
    }
}

/// The state of one shard.
pub struct Core {
    shard: ShardIndex,
    node: Node,
    settings: Arc<Settings>,
    hash: FixedState,
    connections: Slab<Connection>,
    audiences: Audiences,
    /// Audiences with events on their way.
    schedule: Schedule,
    channels: ChannelHomes,
    users: UserHomes,
    signed_in: SignedInHomes,
    /// What homes here must do later, soonest first.
    due: BinaryHeap<Reverse<Due>>,
    requests: Requests,
    wheel: Wheel,
    now_ms: u64,
    /// Messages of this shard to itself, first in first out as every pair's.
    inbox: VecDeque<Letter>,
    effects: Vec<Effect>,
    dirty: Vec<u32>,
    stats: Stats,
}

/// What a front door knows of a client that it lets in.
#[derive(Debug)]
pub struct Hello {
    /// The admission that it was given.
    pub permit: Permit,
    /// Who it is; empty if it did not say. Users are on the roster from here until they leave.
    pub user: UserId,
    /// What it may use.
    pub permissions: Permissions,
    /// What it reads.
    pub form: Form,
    /// What it calls its session, where its protocol has that.
    pub session: Option<Arc<str>>,
    /// Whether it is closed when it does not show who it is within the app's `authorize_within`, if the app has one.
    pub must_authorize: bool,
    /// Random.
    pub nonce: u64,
}

/// An event on its way in.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Where to.
    pub to: Destination,
    /// What.
    pub event: Event,
    /// Who of the subscribers gets it.
    pub target: Target,
}

/// Where an event goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To a channel.
    Channel(ChannelName),
    /// To every connection that is signed in as the user.
    SignedIn(UserId),
}

impl Publication {
    /// To all subscribers of a channel.
    pub fn new(channel: ChannelName, event: Event) -> Self {
        Self { to: Destination::Channel(channel), event, target: Target::All }
    }
}

impl Core {
    /// How often [`Core::tick`] is to be called: deadlines are met at most this late.
    pub fn resolution(limits: &Limits) -> Duration {
        let times = [limits.ping_interval, limits.pong_timeout, limits.unsubscribed_timeout];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min().unwrap_or_default();
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// An empty shard.
    pub fn new(shard: ShardIndex, node: Node, settings: Arc<Settings>) -> Self {
        let resolution_ms = Self::resolution(&settings.limits).as_millis() as u64;
        let mut core = Self {
            shard,
            hash: FixedState::with_seed(node.hash_seed),
            connections: Slab::new(),
            audiences: Audiences::default(),
            schedule: Schedule::default(),
            channels: ChannelHomes::new(node.admission.clone()),
            users: UserHomes::new(node.admission.clone()),
            signed_in: SignedInHomes::new(node.admission.clone()),
            due: BinaryHeap::new(),
            requests: Requests::default(),
            wheel: Wheel::new(resolution_ms),
            now_ms: 0,
            inbox: VecDeque::new(),
            effects: Vec::new(),
            dirty: Vec::new(),
            stats: Stats::default(),
            node,
            settings: Arc::default(),
        };
        core.apply_settings(settings);
        core
    }

    /// Replaces the settings. Connections of apps that are gone or disabled are closed; what else is granted stays.
    pub fn apply_settings(&mut self, settings: Arc<Settings>) {
        for (slot, connection) in &self.connections {
            let app = connection.permit.app();
            let reason = match (self.settings.apps.get(app), settings.apps.get(app)) {
                (_, Some(new)) if !new.enabled => CloseReason::AppDisabled,
                (Some(_), None) => CloseReason::AppRemoved,
                _ => continue,
            };
            if !connection.closing {
                self.effects.push(Effect::Close(slot as u32, reason));
            }
        }
        for effect in &self.effects {
            if let Effect::Close(slot, _) = effect
                && let Some(connection) = self.connections.get_mut(*slot as usize)
            {
                connection.closing = true;
            }
        }
        let counted = |app: &AppKey| self.stats.app_events_in.get(app).copied().unwrap_or(0);
        self.stats.app_events_in = settings.apps.keys().map(|app| (app.clone(), counted(app))).collect();
        self.settings = settings;
    }

    /// The settings in force.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    // ------------------------------------------------------------------ connections

    /// A client came. Whoever asks for users from now on finds it, if each shard handles the messages it has before it
    /// takes a question. Its first command waits for [`Effect::Connected`].
    ///
    /// # Errors
    /// The user id is too long, or the credential names too many channels.
    pub fn connect(&mut self, mut hello: Hello) -> Result<ConnectionId, Rejection> {
        let limits = &self.settings.limits;
        if hello.user.as_str().len() > limits.user_id_bytes_max {
            return Err(self.rejected(Rejection::UserIdTooLong));
        }
        if hello.permissions.patterns().len() > limits.permissions_per_connection_max {
            return Err(self.rejected(Rejection::TooManyPermissions));
        }
        let texts = hello.user.as_str().len() + hello.session.as_deref().map_or(0, str::len);
        hello.permit.charge(texts + hello.permissions.held_bytes());
        let (app, user) = (hello.permit.app().clone(), hello.user.clone());
        let entry = self.connections.vacant_entry();
        let slot = entry.key() as u32;
        // what was decided for the slot's last tenant, and is not yet taken, is not for this one
        self.effects.retain(|effect| effect.slot() != Some(slot));
        let id = ConnectionId {
            nonce: hello.nonce & ConnectionId::NONCE_MASK,
            slot,
            shard: self.shard,
            node: self.node.number,
        };
        entry.insert(Connection {
            id,
            permit: hello.permit,
            user: hello.user,
            form: hello.form,
            permissions: hello.permissions,
            session: hello.session,
            signed_in: None,
            must_authorize: hello.must_authorize,
            subscriptions: SmallVec::new(),
            pending: Some(Box::new(Pending::Register)),
            command: 0,
            outbox: Outbox::default(),
            dirty: false,
            closing: false,
            opened_ms: self.now_ms,
            idle_ms: self.now_ms,
            heard_ms: self.now_ms,
            pinged_ms: None,
        });
        self.stats.connections_opened += 1;
        self.wheel.add(id.slot, self.now_ms + self.first_look_ms(&app, id.nonce));
        if user.as_str().is_empty() {
            self.receive_registered(id);
        } else {
            self.send(self.user_home(&app, &user), Letter::Register { connection: id, app, user });
        }
        self.settle();
        Ok(id)
    }

    /// The connection has gone, or is to go: it leaves every channel and the roster at once. Returns what it had yet
    /// to be sent; `None` if it had gone already.
    pub fn disconnect(&mut self, slot: u32, reason: CloseReason) -> Option<Outbox> {
        let mut connection = self.connections.try_remove(slot as usize)?;
        let how = if reason == CloseReason::Terminated { Leaving::Word } else { Leaving::Broken };
        let (app, who) = (connection.permit.app().clone(), connection.subscriber());
        for subscription in &connection.subscriptions {
            let channel = self.leave_audience(*subscription);
            self.send_leave(&who, &app, channel, how);
        }
        match connection.pending.take().map(|pending| *pending) {
            Some(Pending::Subscribe { joined, .. }) => {
                for joined in joined {
                    self.send_leave(&who, &app, joined.channel, how);
                }
            }
            Some(Pending::SignIn { signed_in, joined, .. }) => {
                if joined {
                    self.send_leave(&who, &app, own_channel(&signed_in.user), how);
                }
                self.sign_out(connection.id, &app, signed_in);
            }
            Some(Pending::Register) | None => {}
        }
        if let Some(signed_in) = connection.signed_in.take() {
            self.sign_out(connection.id, &app, *signed_in);
        }
        if !connection.user.as_str().is_empty() {
            let home = self.user_home(&app, &connection.user);
            self.send(home, Letter::Unregister { connection: connection.id, app, user: connection.user });
        }
        self.stats.connections_closed[reason.index()] += 1;
        self.settle();
        Some(connection.outbox)
    }

    /// The connection in a slot, if there is one.
    pub fn connection(&self, slot: u32) -> Option<&Connection> {
        self.connections.get(slot as usize)
    }

    /// Slots of all connections.
    pub fn slots(&self) -> Vec<u32> {
        self.connections.iter().map(|(slot, _)| slot as u32).collect()
    }

    /// The client gave a sign of life.
    pub fn heard(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot as usize) {
            connection.heard_ms = self.now_ms;
            connection.pinged_ms = None;
        }
    }

    /// Puts a reply, or any frame for this connection alone, behind everything else that it has yet to be sent.
    pub fn reply(&mut self, slot: u32, frame: Vec<u8>) {
        let keeps_up = self.connections.get(slot as usize).is_some_and(|held| held.outbox.is_empty());
        // those that are large or pile up count like events
        let frame = if keeps_up && frame.len() <= REPLY_BYTES { frame.into() } else { self.node.ledger.enter(frame) };
        self.push(slot, frame);
    }

    /// Subscribes to all of these channels or, when one is refused, to none. Ends with [`Effect::Outcome`].
    ///
    /// What the connection [finds](Joined) on one of several channels may have changed before the last of them confirmed,
    /// and of that it is not told; what it must be told of it subscribes to alone.
    ///
    /// The caller starts no other command of the connection before that.
    pub fn subscribe(&mut self, slot: u32, grants: Vec<Grant>) {
        let Some(connection) = self.connections.get(slot as usize) else { return };
        debug_assert!(!connection.is_busy(), "one command in flight per connection");
        let app = connection.permit.app().clone();
        let limit = self.settings.limits.subscriptions_per_connection_max;
        let (mut wanted, mut held): (Vec<Grant>, Vec<ChannelName>) =
            (Vec::with_capacity(grants.len().min(limit)), Vec::new());
        for grant in grants {
            if self.has_subscription(connection, &grant.channel) {
                held.push(grant.channel);
            } else if !wanted.iter().any(|wanted| wanted.channel == grant.channel) {
                wanted.push(grant);
                if connection.subscriptions.len() + wanted.len() > limit {
                    break; // however many more there are
                }
            }
        }
        if wanted.is_empty() {
            self.effects.push(Effect::Outcome(slot, Outcome::Subscribed(Vec::new())));
            return;
        }
        if connection.subscriptions.len() + wanted.len() > limit {
            let refused = self.rejected(Rejection::TooManySubscriptions);
            self.effects.push(Effect::Outcome(slot, Outcome::Refused(refused)));
            return;
        }
        let connection = &mut self.connections[slot as usize];
        connection.command = connection.command.wrapping_add(1);
        connection.pending = Some(Box::new(Pending::Subscribe {
            waiting: wanted.iter().map(|grant| grant.channel.clone()).collect(),
            joined: Vec::with_capacity(wanted.len()),
            held,
            refused: None,
        }));
        let (command, who) = (connection.command, connection.subscriber());
        for Grant { channel, member } in wanted {
            let home = self.channel_home(&app, &channel);
            let (who, app) = (who.clone(), app.clone());
            self.send(home, Letter::Join { who, command, app, channel, member });
        }
        self.settle();
    }

    /// Whether a connection is subscribed to a channel.
    pub fn is_subscribed(&self, slot: u32, channel: &str) -> bool {
        let connection = self.connections.get(slot as usize);
        connection.is_some_and(|connection| self.has_subscription(connection, &ChannelName::from(channel)))
    }

    /// Publishes what a client has to say to a channel that it is subscribed to. The client itself does not get it, unless
    /// it is the target.
    ///
    /// # Errors
    /// It is not subscribed, or a shard is behind by more than `backlog_bytes_max`.
    pub fn publish_from(
        &mut self,
        slot: u32,
        channel: ChannelName,
        mut event: Event,
        target: Target,
    ) -> Result<(), Rejection> {
        let Some(connection) = self.connections.get(slot as usize) else { return Err(Rejection::NotSubscribed) };
        if !self.has_subscription(connection, &channel) {
            return Err(self.rejected(Rejection::NotSubscribed));
        }
        let (app, session) = (connection.permit.app().clone(), connection.session_name());
        self.check_backlog().map_err(|rejection| self.rejected(rejection))?;
        let target = if target == Target::All { Target::Except(session.id) } else { target };
        let about = event.about.take().unwrap_or_default();
        event.about = Some(Arc::new(About { session: Some(session), ..(*about).clone() }));
        self.forward(&app, channel, event, target, None);
        self.settle();
        Ok(())
    }

    /// Ends a subscription, at once. Returns whether there was one.
    ///
    /// Of one that `flaps`, members learn only if it stays away: what one client does over and over must not be told to
    /// everybody over and over.
    pub fn unsubscribe(&mut self, slot: u32, channel: &ChannelName, flaps: bool) -> bool {
        let Some(connection) = self.connections.get(slot as usize) else { return false };
        let Some(audience) = self.audiences.find(connection.permit.app(), channel) else { return false };
        let Some(at) = connection.subscriptions.iter().position(|held| held.audience == audience) else {
            return false;
        };
        self.end_subscriptions(slot, |index, _| index == at, if flaps { Leaving::Flapping } else { Leaving::Word });
        self.settle();
        true
    }

    // ------------------------------------------------------------------ backends

    /// Publishes to one channel. Accepted when this returns: whatever this shard publishes later comes after it; and so
    /// does whatever any shard publishes later, if each handles the messages it has before it takes a publish.
    ///
    /// # Errors
    /// The name is reserved or too long, or a shard is behind by more than `backlog_bytes_max`.
    pub fn publish(&mut self, app: &AppKey, publication: Publication) -> Result<(), Rejection> {
        self.check(std::slice::from_ref(&publication))?;
        self.send_out(app, publication, None);
        self.settle();
        Ok(())
    }

    /// Publishes several events, in order; all are accepted, or none.
    ///
    /// # Errors
    /// As [`Core::publish`].
    pub fn publish_all(&mut self, app: &AppKey, publications: Vec<Publication>) -> Result<(), Rejection> {
        self.check(&publications)?;
        for publication in publications {
            self.send_out(app, publication, None);
        }
        self.settle();
        Ok(())
    }

    /// As [`Core::publish_all`], answered with how many subscribers each channel's event is for: [`Answer::PerChannel`].
    ///
    /// # Errors
    /// As [`Core::publish`].
    pub fn publish_counted(
        &mut self,
        request: RequestId,
        app: &AppKey,
        publications: Vec<Publication>,
    ) -> Result<(), Rejection> {
        self.check(&publications)?;
        if publications.is_empty() {
            // no home would answer
            self.effects.push(Effect::Answered(request, Answer::PerChannel(Vec::new())));
            return Ok(());
        }
        self.requests.open(request, publications.len() as u32);
        for publication in publications {
            self.send_out(app, publication, Some(Ticket { shard: self.shard, request }));
        }
        self.settle();
        Ok(())
    }

    fn check(&mut self, publications: &[Publication]) -> Result<(), Rejection> {
        let limits = &self.settings.limits;
        let check = |publication: &Publication| match &publication.to {
            Destination::Channel(channel) => check_channel_name(channel.as_str(), limits.channel_name_bytes_max),
            Destination::SignedIn(user) if user.as_str().len() > limits.user_id_bytes_max => {
                Err(Rejection::UserIdTooLong)
            }
            Destination::SignedIn(_) => Ok(()),
        };
        let checked = publications.iter().try_for_each(check).and_then(|()| self.check_backlog());
        checked.map_err(|rejection| self.rejected(rejection))
    }

    fn send_out(&mut self, app: &AppKey, publication: Publication, ticket: Option<Ticket>) {
        let channel = match publication.to {
            Destination::Channel(channel) => channel,
            Destination::SignedIn(user) => own_channel(&user),
        };
        self.forward(app, channel, publication.event, publication.target, ticket);
    }

    /// Publishes to every channel of the app whose name the pattern finds; answered with their number.
    ///
    /// Answered [`Answer::Refused`] when a home found so many channels that their copies of the event together are more
    /// than `backlog_bytes_max`; other homes may have published to theirs.
    ///
    /// # Errors
    /// A shard is behind by more than `backlog_bytes_max`.
    pub fn publish_matching(
        &mut self,
        request: RequestId,
        app: &AppKey,
        pattern: Regex,
        event: Event,
    ) -> Result<(), Rejection> {
        self.check_backlog().map_err(|rejection| self.rejected(rejection))?;
        let pattern = Arc::new(pattern);
        self.ask_all(request, |ticket| Letter::PublishMatching {
            ticket,
            app: app.clone(),
            pattern: pattern.clone(),
            event: event.clone(),
        });
        Ok(())
    }

    /// Sends a finished frame to every connection that the user has now and that reads the dialect.
    ///
    /// # Errors
    /// A shard is behind by more than `backlog_bytes_max`.
    pub fn send_to_user(
        &mut self,
        app: &AppKey,
        user: UserId,
        dialect: DialectIndex,
        frame: Vec<u8>,
    ) -> Result<(), Rejection> {
        self.check_backlog().map_err(|rejection| self.rejected(rejection))?;
        let frame = self.node.ledger.enter(frame);
        let home = self.user_home(app, &user);
        self.borrow(home, frame.len());
        self.send(home, Letter::SendToUser { app: app.clone(), user, dialect, frame });
        self.settle();
        Ok(())
    }

    /// Sends a finished frame to one connection, if it is alive, of this app, and reads the dialect.
    ///
    /// # Errors
    /// A shard is behind by more than `backlog_bytes_max`.
    pub fn send_to_connection(
        &mut self,
        app: &AppKey,
        connection: ConnectionId,
        dialect: DialectIndex,
        frame: Vec<u8>,
    ) -> Result<(), Rejection> {
        self.check_backlog().map_err(|rejection| self.rejected(rejection))?;
        if connection.node == self.node.number && connection.shard < self.node.shards {
            let frame = self.node.ledger.enter(frame);
            self.borrow(connection.shard, frame.len());
            self.send(connection.shard, Letter::Send { connection, app: app.clone(), dialect, frame });
            self.settle();
        }
        Ok(())
    }

    /// Changes what a user may use, on every connection that the user has now, and sends each that reads the dialect
    /// a finished frame that says so. Answered when all have it: [`Answer::Refused`] if one of them may not hold more,
    /// which then has what it had.
    ///
    /// # Errors
    /// A new name is longer than `channel_name_bytes_max`, or there are more than `permissions_per_connection_max`.
    pub fn assign(
        &mut self,
        request: RequestId,
        app: &AppKey,
        user: UserId,
        assignment: Assignment,
        dialect: DialectIndex,
        frame: Vec<u8>,
    ) -> Result<(), Rejection> {
        let limits = &self.settings.limits;
        let patterns = match &assignment {
            Assignment::Replace(patterns) => patterns,
            Assignment::Add(pattern) => std::slice::from_ref(pattern),
        };
        if patterns.len() > limits.permissions_per_connection_max {
            return Err(self.rejected(Rejection::TooManyPermissions));
        }
        if patterns.iter().any(|pattern| pattern.len() > limits.channel_name_bytes_max) {
            return Err(self.rejected(Rejection::ChannelNameTooLong));
        }
        self.requests.open(request, 1);
        let ticket = Ticket { shard: self.shard, request };
        let frame = self.node.ledger.enter(frame);
        let assignment = Arc::new(assignment);
        let home = self.user_home(app, &user);
        self.send(home, Letter::AssignUser { ticket, app: app.clone(), user, assignment, dialect, frame });
        self.settle();
        Ok(())
    }

    /// Asks the node; ends with [`Effect::Answered`].
    pub fn query(&mut self, request: RequestId, query: Query) {
        match &query {
            Query::Members(app, channel) | Query::MemberCount(app, channel) | Query::Present(app, channel) => {
                let home = self.channel_home(app, channel);
                self.requests.open(request, 1);
                self.send(home, Letter::Query { ticket: Ticket { shard: self.shard, request }, query });
                self.settle();
            }
            _ => self.ask_all(request, |ticket| Letter::Query { ticket, query: query.clone() }),
        }
    }

    // ------------------------------------------------------------------ the runtime's side

    /// A message from another shard's [`Effect::Send`].
    pub fn receive(&mut self, message: Message) {
        self.handle(message.0);
        self.settle();
    }

    /// Moves time on: pings the silent, closes the dead. Time never runs backwards.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        for slot in self.wheel.take_due(self.now_ms) {
            self.look_at(slot);
        }
        self.do_what_is_due();
        self.give_back();
    }

    /// Gives memory back that a crowd took which has gone. The tables of connections and audiences, whose places are
    /// names, shrink only from their end.
    fn give_back(&mut self) {
        macro_rules! shrink {
            ($($table:ident)*) => {
                $(if self.$table.capacity() > KEPT_PLACES && self.$table.len() < self.$table.capacity() / 8 {
                    self.$table.shrink_to_fit();
                })*
            };
        }
        shrink!(connections due inbox effects dirty);
        self.audiences.give_back();
        self.schedule.give_back();
        self.wheel.give_back(self.connections.capacity());
    }

    /// Moves time on for what is stamped from now on, without looking at deadlines.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// A turn begins: channels that have rested until then are served. Fan-out's clock counts microseconds.
    pub fn begin_turn(&mut self, now_us: u64) {
        self.schedule.begin_turn(now_us);
    }

    /// Whether there is something to [fan out](Core::fan_out) in this turn.
    pub fn has_fan_out(&self) -> bool {
        self.schedule.is_serving()
    }

    /// When there is something to fan out next, for a turn to begin then.
    pub fn next_fan_out_us(&self) -> Option<u64> {
        self.schedule.next_us()
    }

    /// Whether [`Core::next_fan_out_us`] may have come nearer since a turn began, or this was last asked.
    pub fn has_new_fan_out(&mut self) -> bool {
        self.schedule.take_news()
    }

    /// Hands events to the next slice of subscribers; channels take turns, and small ones share a slice.
    pub fn fan_out(&mut self) {
        debug_assert!(
            !self.effects.iter().any(|effect| matches!(effect, Effect::Outcome(..))),
            "take_effects comes first"
        );
        let mut left = SLICE_SUBSCRIBERS;
        while left > 0
            && let Some(index) = self.schedule.next()
        {
            let audience = &mut self.audiences[index];
            let (connections, dirty, stats) = (&mut self.connections, &mut self.dirty, &mut self.stats);
            let push = |connection: &mut Connection, frame: Bytes, events: usize| {
                if !connection.closing && !frame.is_empty() {
                    stats.events_out += events as u64;
                    connection.outbox.push(frame);
                    mark_dirty(connection, dirty);
                }
            };
            let served = audience.serve(left, &self.node.ledger, connections, push);
            // one that nobody is left of is no way to go on for ever
            let places = served.spent.max(1);
            left = left.saturating_sub(places);
            self.repay(served.weight);
            self.tidy(index);
            self.schedule.served(index, places, self.audiences[index].is_under_way());
        }
    }

    /// A turn has ended, with everything written: channels that were served to the end rest.
    pub fn end_turn(&mut self, now_us: u64) {
        for (index, part_us) in self.schedule.end_turn(now_us) {
            let audience = &mut self.audiences[index];
            audience.took_us = audience.took_us.saturating_add(part_us as u32);
            if audience.is_under_way() {
                continue;
            }
            let took_us = std::mem::take(&mut audience.took_us);
            let rest_us = if audience.is_pressed() { 0 } else { Schedule::rest_us(took_us.into()) };
            audience.rests_until_us = now_us + rest_us;
            audience.listed = audience.has_work();
            if audience.listed {
                self.schedule.rest(index, audience.rests_until_us);
            } else {
                self.remove_if_unused(index);
            }
        }
        // whoever ends a turn asks at once when the next is due
        self.schedule.take_news();
    }

    /// Takes the slots of connections that have something to be written.
    pub fn take_dirty(&mut self, slots: &mut Vec<u32>) {
        slots.append(&mut self.dirty);
    }

    /// What a connection has yet to be sent, to be written from.
    pub fn outbox_mut(&mut self, slot: u32) -> Option<&mut Outbox> {
        self.connections.get_mut(slot as usize).map(|connection| &mut connection.outbox)
    }

    /// A dirty connection was written to as far as its socket takes bytes, but for those that the runtime holds back: they
    /// are out of the outbox, and yet in memory. One that lags too far behind is closed.
    pub fn flushed(&mut self, slot: u32, held_back_bytes: usize) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        connection.dirty = false;
        connection.permit.queued(connection.outbox.places_bytes() + held_back_bytes);
        let limits = &self.settings.limits;
        let lags = !connection.outbox.is_empty();
        if connection.outbox.exceeds(limits.outbox_bytes_max)
            || lags && self.node.admission.outboxes() > limits.outbox_total_bytes_max
        {
            self.close(slot, CloseReason::SlowReader);
        }
    }

    /// The runtime keeps so many bytes that the client has sent, for what they belong to has yet to come.
    pub fn keeps_input(&mut self, id: ConnectionId, bytes: usize) {
        let held = self.connections.get_mut(id.slot as usize).filter(|held| held.id == id);
        if let Some(connection) = held {
            connection.permit.input(bytes);
        }
    }

    /// Decides to take a connection down: [`Effect::Close`] comes out once.
    pub fn close(&mut self, slot: u32, reason: CloseReason) {
        if let Some(connection) = self.connections.get_mut(slot as usize)
            && !connection.closing
        {
            connection.closing = true;
            self.effects.push(Effect::Close(slot, reason));
        }
    }

    /// Takes what is to be done, to be done in this order and before anything that comes out later.
    ///
    /// Due before the next [`fan_out`](Self::fan_out), so that the reply to an [`Outcome`] precedes the channel's events.
    pub fn take_effects(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.effects);
    }

    /// The counters, for the runtime to add what it alone sees.
    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// Counts a refusal and passes it on.
    pub fn rejected(&mut self, rejection: Rejection) -> Rejection {
        self.stats.rejections[rejection.index()] += 1;
        rejection
    }

    /// Counters and gauges as they stand.
    pub fn stats(&self) -> Stats {
        Stats {
            connections: self.connections.len() as u64,
            subscriptions: self.connections.iter().map(|(_, held)| held.subscriptions.len() as u64).sum(),
            channels: self.channels.occupied as u64,
            cache_bytes: self.channels.cached_bytes as u64,
            users: self.users.len() as u64,
            outbox_bytes: self.connections.iter().map(|(_, held)| held.outbox.weight() as u64).sum(),
            ..self.stats.clone()
        }
    }

    /// Whether nothing at all is left of anybody: for tests of leaks.
    pub fn is_bare(&self) -> bool {
        self.connections.is_empty()
            && self.audiences.is_empty()
            && self.channels.is_empty()
            && self.users.len() == 0
            && self.signed_in.is_empty()
            && self.requests.is_empty()
    }

    // ------------------------------------------------------------------ messages

    fn handle(&mut self, letter: Letter) {
        match letter {
            Letter::Register { connection, app, user } => {
                self.users.register(&app, user, connection);
                self.send(connection.shard, Letter::Registered { connection });
            }
            Letter::Registered { connection } => self.receive_registered(connection),
            Letter::Unregister { connection, app, user } => self.users.unregister(&app, &user, connection),
            Letter::SignIn { connection, command, app, user } => self.sign_in_here(connection, command, &app, user),
            Letter::SignedIn { connection, command } => self.sign_in_confirmed(connection, command, |_| {}),
            Letter::SignOut { connection, app, user } => self.sign_out_here(connection, &app, &user),
            Letter::Watch { connection, command, app, user } => {
                let online = self.signed_in.watch(&app, user.clone(), connection);
                self.send(connection.shard, Letter::Watched { connection, command, user, online });
            }
            Letter::Watched { connection, command, user, online: is_online } => {
                self.sign_in_confirmed(connection, command, |pending| {
                    if let Pending::SignIn { online, offline, .. } = pending {
                        if is_online { online } else { offline }.push(user);
                    }
                });
            }
            Letter::Unwatch { connection, app, user } => self.signed_in.unwatch(&app, &user, connection),
            Letter::UserState { connection, user, online } => self.receive_user_state(connection, user, online),
            Letter::Terminate { app, user } => self.terminate_here(&app, &user),
            Letter::Close { connection, reason } => {
                if self.get(connection).is_some() {
                    self.close(connection.slot, reason);
                }
            }
            Letter::Join { who, command, app, channel, member } => self.join_here(who, command, app, channel, member),
            Letter::Joined { who, command, app, joined } => {
                let channel = joined.as_ref().ok().map(|joined| joined.channel.clone());
                if !self.receive_joined(who.session.id, command, joined)
                    && let Some(channel) = channel
                {
                    self.send_leave(&who, &app, channel, Leaving::Broken);
                }
            }
            Letter::Leave { who, app, channel, how } => self.leave_here(&who, &app, &channel, how),
            Letter::Publish { app, channel, event, target, ticket } => {
                self.repay(event.weight());
                self.publish_here(&app, &channel, event, target, ticket);
            }
            Letter::PublishMatching { ticket, app, pattern, event } => {
                let answer = self.publish_matching_here(&app, &pattern, &event);
                self.answer(ticket, Part::Home { answer, more: 0 });
            }
            Letter::Deliver { app, channel, frames, weight, target, ticket } => {
                let audience = self.audiences.find(&app, &channel);
                if let Some(ticket) = ticket {
                    let count = audience.map_or(0, |index| self.count(index, &target));
                    self.answer(ticket, Part::Extra(Answer::PerChannel(vec![(channel, count)])));
                }
                match audience {
                    Some(index) => {
                        let audience = &mut self.audiences[index];
                        audience.queue(Delivery { frames, weight, target });
                        if !audience.listed {
                            audience.listed = true;
                            self.schedule.rest(index, audience.rests_until_us);
                        }
                    }
                    None => self.repay(weight),
                }
            }
            Letter::SendToUser { app, user, dialect, frame } => {
                self.repay(frame.len());
                for connection in self.users.connections(&app, &user).to_vec() {
                    let (app, frame) = (app.clone(), frame.clone());
                    self.borrow(connection.shard, frame.len());
                    self.send(connection.shard, Letter::Send { connection, app, dialect, frame });
                }
            }
            Letter::Send { connection, app, dialect, frame } => {
                self.repay(frame.len());
                if let Some(held) = self.get(connection)
                    && *held.permit.app() == app
                    && held.form.dialect() == dialect
                {
                    self.stats.events_out += 1;
                    self.push(connection.slot, frame);
                }
            }
            Letter::AssignUser { ticket, app, user, assignment, dialect, frame } => {
                let connections = self.users.connections(&app, &user).to_vec();
                let more = connections.len() as u32;
                for connection in connections {
                    let (assignment, frame) = (assignment.clone(), frame.clone());
                    self.send(connection.shard, Letter::Assign { ticket, connection, assignment, dialect, frame });
                }
                self.answer(ticket, Part::Home { answer: Answer::Done, more });
            }
            Letter::Assign { ticket, connection, assignment, dialect, frame } => {
                let mut done = Ok(());
                if self.get(connection).is_some() {
                    done = self.apply(connection.slot, &assignment);
                    if done.is_ok() && self.connections[connection.slot as usize].form.dialect() == dialect {
                        self.push(connection.slot, frame);
                    }
                }
                self.answer(ticket, Part::Extra(done.map_or_else(Answer::Refused, |()| Answer::Done)));
            }
            Letter::Query { ticket, query } => {
                let answer = self.look_up(&query);
                self.answer(ticket, Part::Home { answer, more: 0 });
            }
            Letter::Answer { request, part } => {
                if let Some(answer) = self.requests.add(request, part) {
                    self.effects.push(Effect::Answered(request, answer));
                }
            }
        }
    }

    fn receive_registered(&mut self, id: ConnectionId) {
        if self.get(id).is_some() {
            self.connections[id.slot as usize].pending = None;
            self.effects.push(Effect::Connected(id.slot));
        }
    }

    /// Returns whether somebody was waiting for it.
    fn receive_joined(
        &mut self,
        id: ConnectionId,
        command: u32,
        answer: Result<Joined, (ChannelName, Rejection)>,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(id.slot as usize).filter(|held| held.id == id) else {
            return false;
        };
        if connection.command != command {
            return false;
        }
        let (waiting, joined, refused) = match connection.pending.as_deref_mut() {
            Some(Pending::Subscribe { waiting, joined, refused, .. }) => (waiting, joined, refused),
            Some(Pending::SignIn { joined, .. }) => {
                *joined = true;
                self.sign_in_confirmed(id, command, |_| {});
                return true;
            }
            Some(Pending::Register) | None => return false,
        };
        let channel = answer.as_ref().map_or_else(|(channel, _)| channel, |joined| &joined.channel);
        let Some(at) = waiting.iter().position(|waits| waits == channel) else { return false };
        waiting.swap_remove(at);
        match answer {
            Ok(new) => joined.push(new),
            Err((_, rejection)) => *refused = Some(rejection),
        }
        if !waiting.is_empty() {
            return true;
        }
        let (joined, refused) = (std::mem::take(joined), *refused);
        connection.pending = None;
        let (slot, who) = (id.slot, connection.subscriber());
        let app = connection.permit.app().clone();
        let outcome = match refused {
            Some(rejection) => {
                for joined in joined {
                    self.send_leave(&who, &app, joined.channel, Leaving::Word);
                }
                Outcome::Refused(self.rejected(rejection))
            }
            None => {
                for joined in &joined {
                    self.begin_subscription(slot, &app, &joined.channel);
                }
                Outcome::Subscribed(joined)
            }
        };
        self.effects.push(Effect::Outcome(slot, outcome));
        true
    }

    fn look_up(&self, query: &Query) -> Answer {
        let names = |names: Vec<Arc<str>>| Answer::Names(names);
        match query {
            Query::Channels(app) => {
                names(self.channels.occupied(app).map(|(channel, _)| channel.clone().into_shared()).collect())
            }
            Query::ChannelCount(app) => Answer::Count(self.channels.occupied(app).count() as u64),
            Query::Users(app) => names(self.users.app(app).map(|user| user.clone().into_shared()).collect()),
            Query::UserCount(app) => Answer::Count(self.users.app(app).count() as u64),
            Query::Members(app, channel) => {
                let home = self.channels.get(app, channel);
                names(home.into_iter().flat_map(ChannelHome::users).map(|user| user.clone().into_shared()).collect())
            }
            Query::MemberCount(app, channel) => {
                Answer::Count(self.channels.get(app, channel).map_or(0, |home| home.user_count() as u64))
            }
            Query::Describe(app, which) => Answer::Channels(self.describe(app, which)),
            Query::Present(app, channel) => {
                let members = self.channels.get(app, channel).into_iter().flat_map(ChannelHome::members);
                names(members.map(|member| member.user.clone().into_shared()).collect())
            }
            Query::Sessions(app, channel) => {
                let audience = self.audiences.find(app, channel);
                let slots = audience.into_iter().flat_map(|index| self.audiences[index].slots());
                let info = |slot| {
                    let held: &Connection = &self.connections[slot as usize];
                    SessionInfo { name: held.session_name(), address: held.permit.address() }
                };
                Answer::Sessions(slots.map(info).collect())
            }
            Query::UsersPerApp => {
                Answer::PerApp(self.users.per_app().map(|(app, users)| (app.clone(), users as u64)).collect())
            }
            Query::Stats => Answer::Stats(Box::new(self.stats())),
        }
    }

    // ------------------------------------------------------------------ pieces

    fn push(&mut self, slot: u32, frame: Bytes) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        if !connection.closing {
            connection.outbox.push(frame);
            mark_dirty(connection, &mut self.dirty);
        }
    }

    fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(id.slot as usize).filter(|held| held.id == id)
    }

    fn channel_home(&self, app: &AppKey, channel: &ChannelName) -> ShardIndex {
        self.home(app.as_str(), channel.as_str())
    }

    fn user_home(&self, app: &AppKey, user: &UserId) -> ShardIndex {
        self.home(app.as_str(), user.as_str())
    }

    fn home(&self, app: &str, name: &str) -> ShardIndex {
        (self.name_hash(app, name) % u64::from(self.node.shards)) as ShardIndex
    }

    fn name_hash(&self, app: &str, name: &str) -> u64 {
        self.hash.hash_one((app, name))
    }

    fn send(&mut self, to: ShardIndex, letter: Letter) {
        if to == self.shard {
            self.inbox.push_back(letter);
        } else {
            self.effects.push(Effect::Send(to, Message(letter)));
        }
    }

    /// Handles what this shard has sent itself.
    fn settle(&mut self) {
        while let Some(letter) = self.inbox.pop_front() {
            self.handle(letter);
        }
    }

    fn ask_all(&mut self, request: RequestId, letter: impl Fn(Ticket) -> Letter) {
        self.requests.open(request, u32::from(self.node.shards));
        for shard in 0..self.node.shards {
            self.send(shard, letter(Ticket { shard: self.shard, request }));
        }
        self.settle();
    }

    fn answer(&mut self, ticket: Ticket, part: Part) {
        self.send(ticket.shard, Letter::Answer { request: ticket.request, part });
    }

    fn count_event(&mut self, app: &AppKey) {
        self.stats.events_in += 1;
        if let Some(count) = self.stats.app_events_in.get_mut(app) {
            *count += 1;
        }
    }

    fn forward(&mut self, app: &AppKey, channel: ChannelName, event: Event, target: Target, ticket: Option<Ticket>) {
        let home = self.channel_home(app, &channel);
        if home != self.shard && ticket.is_none() && self.is_for_nobody(app, &channel, &event) {
            self.count_event(app);
            return;
        }
        self.borrow(home, event.weight());
        self.send(home, Letter::Publish { app: app.clone(), channel, event, target, ticket });
    }

    /// Whether nothing would follow from an event at its channel's home: no subscriber is there, nor a cache, and what
    /// clients say is told to nobody else.
    fn is_for_nobody(&self, app: &AppKey, channel: &ChannelName, event: &Event) -> bool {
        let is_occupied = self.node.occupancy.may_be_occupied(self.name_hash(app.as_str(), channel.as_str()));
        let is_of_client = event.about.as_ref().is_some_and(|about| about.session.is_some());
        !is_occupied && !is_of_client && !ChannelKind::of(channel.as_str()).is_cache
    }

    /// How many subscribers of an audience an event is for.
    fn count(&self, audience: u32, target: &Target) -> u64 {
        let slots = self.audiences[audience].slots();
        slots.filter(|slot| target.admits(&self.connections[*slot as usize])).count() as u64
    }

    /// Counts bytes on their way to a shard, until it [repays](Self::repay) them.
    fn borrow(&self, shard: ShardIndex, bytes: usize) {
        self.node.backlog[usize::from(shard)].fetch_add(bytes, Ordering::Relaxed);
    }

    fn repay(&self, bytes: usize) {
        self.node.backlog[usize::from(self.shard)].fetch_sub(bytes, Ordering::Relaxed);
    }

    fn check_backlog(&self) -> Result<(), Rejection> {
        let behind = self.node.backlog.iter().map(|bytes| bytes.load(Ordering::Relaxed)).max().unwrap_or(0);
        if behind > self.settings.limits.backlog_bytes_max { Err(Rejection::Overloaded) } else { Ok(()) }
    }

    fn has_subscription(&self, connection: &Connection, channel: &ChannelName) -> bool {
        self.audiences
            .find(connection.permit.app(), channel)
            .is_some_and(|audience| connection.subscriptions.iter().any(|held| held.audience == audience))
    }

    fn begin_subscription(&mut self, slot: u32, app: &AppKey, channel: &ChannelName) {
        let shows_who_it_is = ChannelKind::of(channel.as_str()).access != Access::Public;
        let audience = self.audiences.find_or_insert(app, channel);
        let position = self.audiences[audience].join(slot);
        let connection = &mut self.connections[slot as usize];
        connection.subscriptions.push(Subscription { audience, position });
        connection.permit.charge(Subscription::BYTES);
        connection.must_authorize &= !shows_who_it_is;
    }

    /// Ends those subscriptions of a connection that `which(index, channel)` picks.
    fn end_subscriptions(&mut self, slot: u32, which: impl Fn(usize, &ChannelName) -> bool, how: Leaving) {
        let audiences = &self.audiences;
        let connection = &mut self.connections[slot as usize];
        let mut index = 0;
        let mut ended = Vec::new();
        connection.subscriptions.retain(|held| {
            let ends = which(index, &audiences[held.audience].channel);
            index += 1;
            if ends {
                ended.push(*held);
            }
            !ends
        });
        if connection.subscriptions.len() < connection.subscriptions.capacity() / 8 {
            connection.subscriptions.shrink_to_fit();
        }
        connection.permit.release(ended.len() * Subscription::BYTES);
        if connection.subscriptions.is_empty() && !ended.is_empty() {
            connection.idle_ms = self.now_ms;
            let limit = self.settings.limits.unsubscribed_timeout;
            if !limit.is_zero() {
                self.wheel.add(slot, self.now_ms + limit.as_millis() as u64);
            }
        }
        let (app, who) = (connection.permit.app().clone(), connection.subscriber());
        for subscription in ended {
            let channel = self.leave_audience(subscription);
            self.send_leave(&who, &app, channel, how);
        }
    }

    fn leave_audience(&mut self, subscription: Subscription) -> ChannelName {
        let index = subscription.audience;
        let audience = &mut self.audiences[index];
        let channel = audience.channel.clone();
        if let Some(moved) = audience.leave(subscription.position) {
            move_subscription(&mut self.connections, moved, index, subscription.position);
        }
        self.remove_if_unused(index);
        channel
    }

    fn send_leave(&mut self, who: &Subscriber, app: &AppKey, channel: ChannelName, how: Leaving) {
        let home = self.channel_home(app, &channel);
        self.send(home, Letter::Leave { who: who.clone(), app: app.clone(), channel, how });
    }

    fn tidy(&mut self, index: u32) {
        let connections = &mut self.connections;
        self.audiences[index].tidy(|slot, position| move_subscription(connections, slot, index, position));
    }

    /// Frees an audience without subscribers; one that is listed is freed when its turn comes.
    fn remove_if_unused(&mut self, index: u32) {
        let audience = &mut self.audiences[index];
        if !audience.is_empty() {
            return;
        }
        let weight = audience.clear();
        let listed = audience.listed;
        self.repay(weight);
        if !listed {
            self.audiences.remove(index);
        }
    }

    /// Changes what a connection may use; refused if that is more than it may hold.
    fn apply(&mut self, slot: u32, assignment: &Assignment) -> Result<(), Rejection> {
        let connection = &mut self.connections[slot as usize];
        let before = connection.permissions.held_bytes();
        match assignment {
            Assignment::Add(pattern) => {
                let held = &mut connection.permissions;
                let is_full = held.patterns().len() >= self.settings.limits.permissions_per_connection_max;
                if is_full && !held.patterns().any(|held| held == &**pattern) {
                    return Err(self.rejected(Rejection::TooManyPermissions));
                }
                held.add(pattern);
                connection.permit.charge(held.held_bytes() - before);
            }
            Assignment::Replace(patterns) => {
                connection.permissions.replace(patterns);
                connection.permit.release(before);
                connection.permit.charge(connection.permissions.held_bytes());
                let permissions = connection.permissions.clone();
                if let Some(Pending::Subscribe { waiting, joined, held, refused }) = connection.pending.as_deref_mut()
                    && waiting
                        .iter()
                        .chain(joined.iter().map(|joined| &joined.channel))
                        .chain(&*held)
                        .any(|channel| !permissions.cover(channel.as_str()))
                {
                    *refused = Some(Rejection::NotPermitted);
                }
                self.end_subscriptions(slot, |_, channel| !permissions.cover(channel.as_str()), Leaving::Word);
            }
        }
        Ok(())
    }

    /// The first look at a connection comes early by a random part, so that those who came together are not all
    /// pinged together.
    fn first_look_ms(&self, app: &AppKey, nonce: u64) -> u64 {
        let limits = &self.settings.limits;
        let interval_ms = limits.ping_interval.as_millis() as u64;
        let early_ms = interval_ms - nonce % (interval_ms / 4 + 1);
        let authorize_within = self.settings.app(app).authorize_within;
        let others = [Some(limits.unsubscribed_timeout).filter(|timeout| !timeout.is_zero()), authorize_within];
        others.into_iter().flatten().map(|timeout| timeout.as_millis() as u64).fold(early_ms, u64::min)
    }

    fn look_at(&mut self, slot: u32) {
        let settings = self.settings.clone();
        let limits = &settings.limits;
        let (interval_ms, pong_ms) = (limits.ping_interval.as_millis() as u64, limits.pong_timeout.as_millis() as u64);
        let unsubscribed_ms = limits.unsubscribed_timeout.as_millis() as u64;
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        let idle = connection.subscriptions.is_empty() && connection.pending.is_none();
        let give_up_ms = connection.idle_ms + unsubscribed_ms;
        if unsubscribed_ms > 0 && idle && now_ms >= give_up_ms {
            return self.close(slot, CloseReason::Unsubscribed);
        }
        let authorize_within = settings.app(connection.permit.app()).authorize_within;
        let authorize_ms = authorize_within.filter(|_| connection.must_authorize);
        let authorize_ms = authorize_ms.map(|within| connection.opened_ms + within.as_millis() as u64);
        if authorize_ms.is_some_and(|authorize_ms| now_ms >= authorize_ms) {
            return self.close(slot, CloseReason::Unauthorized);
        }
        let mut next_ms = match connection.pinged_ms {
            Some(pinged_ms) if now_ms >= pinged_ms + pong_ms => return self.close(slot, CloseReason::NoPong),
            Some(pinged_ms) => pinged_ms + pong_ms,
            // the first look is early on purpose: whoever has been silent for three quarters may be asked
            None if now_ms >= connection.heard_ms + interval_ms - interval_ms / 4 => {
                connection.pinged_ms = Some(now_ms);
                self.effects.push(Effect::Ping(slot));
                now_ms + pong_ms
            }
            None => connection.heard_ms + interval_ms,
        };
        if unsubscribed_ms > 0 && idle {
            next_ms = next_ms.min(give_up_ms);
        }
        next_ms = authorize_ms.map_or(next_ms, |authorize_ms| next_ms.min(authorize_ms));
        self.wheel.add(slot, next_ms.max(now_ms + 1));
    }
}

fn mark_dirty(connection: &mut Connection, dirty: &mut Vec<u32>) {
    if !connection.dirty {
        connection.dirty = true;
        dirty.push(connection.id.slot);
    }
}

fn move_subscription(connections: &mut Slab<Connection>, slot: u32, audience: u32, position: u32) {
    if let Some(connection) = connections.get_mut(slot as usize)
        && let Some(held) = connection.subscriptions.iter_mut().find(|held| held.audience == audience)
    {
        held.position = position;
    }
}
