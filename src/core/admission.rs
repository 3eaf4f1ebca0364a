//! Who may connect: live connections per node, app and address, and the memory that they and what is kept for them take.
//!
//! The only state that shards share. The counts are touched twice in the life of a connection, never on the data path,
//! and must be exact across shards at the moment of the handshake; a lock is the plainest thing that does that. Bytes are
//! sums, which are added to where something begins or ends that is kept for longer than a turn: a connection, a
//! subscription, a name on a roster, a cached event, an outbox that grows. Never for a delivery.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::Ledger;
use super::id::AppKey;
use super::rejection::Rejection;
use super::settings::Settings;

/// What allocating so many bytes takes, about: allocators keep a header, and round up.
pub(super) const fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16) }
}

/// What one entry of a hash table takes, about, for on average a table is two thirds full.
pub(super) const fn tabled<T>() -> usize {
    (size_of::<T>() + 1) * 3 / 2
}

/// Counts of live connections, and what memory goes for; clones share them.
#[derive(Clone, Default, Debug)]
pub struct Admission(Arc<Books>);

#[derive(Default, Debug)]
struct Books {
    counts: Mutex<Counts>,
    connections: Sum,
    /// The part of `connections` that is the places of events in outboxes, and what is encrypted and not yet sent.
    queued: Sum,
    caches: Sum,
    rosters: Sum,
    events: Ledger,
}

#[derive(Default, Debug)]
struct Counts {
    node: usize,
    apps: HashMap<AppKey, OfApp>,
    addresses: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct OfApp {
    account: Arc<Account>,
    connections: usize,
    /// How many connections and homes are charged through the account.
    holders: usize,
}

/// Bytes that one app takes, but for events, which apps and connections share.
#[derive(Debug)]
struct Account {
    admission: Admission,
    app: AppKey,
    bytes: Sum,
}

/// Bytes now. What is taken off was added before, so that it is never below 0 for longer than two shards need to agree.
#[derive(Default, Debug)]
struct Sum(AtomicIsize);

impl Sum {
    fn change(&self, before: usize, after: usize) {
        self.0.fetch_add(after as isize - before as isize, Ordering::Relaxed);
    }

    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed).max(0) as usize
    }
}

/// What the memory of a node goes for, in bytes: estimates by constants that were measured.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Connections: themselves, their subscriptions and permissions, places in their outboxes, what is encrypted for them
    /// and not yet sent, what they have sent in part.
    pub connections: usize,
    /// Encoded events alive, each once however many outboxes hold it.
    pub events: usize,
    /// Cached events.
    pub caches: usize,
    /// Channels, users and members.
    pub rosters: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.connections + self.events + self.caches + self.rosters
    }
}

impl Admission {
    /// No connections yet; `events` counts what is encoded.
    pub fn new(events: Ledger) -> Self {
        Self(Arc::new(Books { events, ..Books::default() }))
    }

    /// Counts one more connection, which costs `bytes` as long as it lives and does nothing, or says which limit is
    /// reached.
    ///
    /// # Errors
    /// [`Rejection::NodeFull`], [`Rejection::AppFull`], [`Rejection::AddressFull`], [`Rejection::NodeMemory`],
    /// [`Rejection::AppMemory`].
    pub fn admit(
        &self,
        app: &AppKey,
        address: Option<IpAddr>,
        bytes: usize,
        settings: &Settings,
    ) -> Result<Permit, Rejection> {
        let mut counts = self.counts();
        let reached = |count: Option<usize>, max: usize| max > 0 && count.is_some_and(|count| count >= max);
        let (limits, of_app, held) = (&settings.limits, settings.app(app), counts.apps.get(app));
        let connections = held.map(|held| held.connections);
        if counts.node >= limits.connections_max {
            return Err(Rejection::NodeFull);
        }
        if reached(connections, limits.connections_per_app_max) || reached(connections, of_app.connections_max) {
            return Err(Rejection::AppFull);
        }
        if address.is_some_and(|one| reached(counts.addresses.get(&one).copied(), limits.connections_per_ip_max)) {
            return Err(Rejection::AddressFull);
        }
        let exceeds = |held: usize, max: usize| max > 0 && held + bytes > max;
        if exceeds(self.memory().total(), limits.memory_bytes_max) {
            return Err(Rejection::NodeMemory);
        }
        if exceeds(held.map_or(0, |held| held.account.bytes.bytes()), of_app.memory_bytes_max) {
            return Err(Rejection::AppMemory);
        }
        counts.node += 1;
        if let Some(address) = address {
            *counts.addresses.entry(address).or_default() += 1;
        }
        let of_app = counts.hold(self, app);
        of_app.connections += 1;
        let mut permit = Permit { account: of_app.account.clone(), address, bytes: 0, queued: 0, input: 0 };
        permit.charge(bytes);
        Ok(permit)
    }

    /// Where what is kept for an app is charged, beside its connections.
    pub(super) fn book(&self, app: &AppKey) -> Book {
        Book(self.counts().hold(self, app).account.clone())
    }

    /// Live connections of every app that has one.
    pub fn per_app(&self) -> Vec<(AppKey, usize)> {
        let counts = self.counts();
        let apps = counts.apps.iter().map(|(app, held)| (app.clone(), held.connections));
        apps.filter(|(_, connections)| *connections > 0).collect()
    }

    /// Bytes that every app takes that has a connection, or of which something is kept; without events.
    pub fn memory_per_app(&self) -> Vec<(AppKey, usize)> {
        self.counts().apps.iter().map(|(app, held)| (app.clone(), held.account.bytes.bytes())).collect()
    }

    /// Live connections of the node.
    pub fn total(&self) -> usize {
        self.counts().node
    }

    /// What the memory of the node goes for.
    pub fn memory(&self) -> Memory {
        let books = &*self.0;
        Memory {
            connections: books.connections.bytes(),
            events: books.events.bytes(),
            caches: books.caches.bytes(),
            rosters: books.rosters.bytes(),
        }
    }

    /// Bytes that wait for connections to read them: events, each once, and their places in outboxes.
    pub(super) fn outboxes(&self) -> usize {
        self.0.events.bytes() + self.0.queued.bytes()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn hold(&mut self, admission: &Admission, app: &AppKey) -> &mut OfApp {
        let of_app = self.apps.entry(app.clone()).or_insert_with(|| OfApp {
            account: Arc::new(Account { admission: admission.clone(), app: app.clone(), bytes: Sum::default() }),
            connections: 0,
            holders: 0,
        });
        of_app.holders += 1;
        of_app
    }

    fn let_go(&mut self, app: &AppKey, connections: usize) {
        if let Some(of_app) = self.apps.get_mut(app) {
            of_app.connections -= connections;
            of_app.holders -= 1;
            if of_app.holders == 0 {
                self.apps.remove(app);
            }
        }
    }
}

/// The right to one connection, and what that costs; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    account: Arc<Account>,
    address: Option<IpAddr>,
    /// What was charged but for what follows.
    bytes: usize,
    queued: usize,
    input: usize,
}

impl Permit {
    /// The app it was given for.
    pub fn app(&self) -> &AppKey {
        &self.account.app
    }

    /// The client's address, where it is known.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Charges the connection with so many bytes more.
    pub fn charge(&mut self, bytes: usize) {
        self.change(0, bytes);
        self.bytes += bytes;
    }

    /// Takes off what was charged before.
    pub(super) fn release(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes, "what is released was charged");
        self.change(bytes, 0);
        self.bytes -= bytes;
    }

    /// The places of frames in the outbox, and what is held back behind them, take so much now.
    pub(super) fn queued(&mut self, bytes: usize) {
        if bytes != self.queued {
            self.change(self.queued, bytes);
            self.account.admission.0.queued.change(self.queued, bytes);
            self.queued = bytes;
        }
    }

    /// What the client has sent in part takes so much now.
    pub(super) fn input(&mut self, bytes: usize) {
        self.change(self.input, bytes);
        self.input = bytes;
    }

    fn change(&self, before: usize, after: usize) {
        self.account.bytes.change(before, after);
        self.account.admission.0.connections.change(before, after);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.change(self.bytes + self.input, 0);
        self.queued(0);
        let mut counts = self.account.admission.counts();
        counts.node -= 1;
        counts.let_go(&self.account.app, 1);
        if let Some(address) = self.address
            && let Some(count) = counts.addresses.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.addresses.remove(&address);
            }
        }
    }
}

/// What one home keeps for an app, beside connections, is charged here.
#[derive(Debug)]
pub(super) struct Book(Arc<Account>);

/// What something that a home keeps takes, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Weight {
    pub(super) rosters: usize,
    pub(super) caches: usize,
}

impl Book {
    /// What took `before` takes `after` now.
    pub(super) fn change(&self, before: Weight, after: Weight) {
        let (account, books) = (&*self.0, &*self.0.admission.0);
        for (sum, before, after) in [
            (&account.bytes, before.rosters + before.caches, after.rosters + after.caches),
            (&books.rosters, before.rosters, after.rosters),
            (&books.caches, before.caches, after.caches),
        ] {
            if before != after {
                sum.change(before, after);
            }
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.0.admission.counts().let_go(&self.0.app, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::settings::AppSettings;
    use crate::limits::Limits;

    #[test]
    fn each_limit_at_its_edge_and_back() {
        let limits =
            Limits { connections_max: 3, connections_per_app_max: 2, connections_per_ip_max: 1, ..Limits::default() };
        let small = AppSettings { connections_max: 1, ..AppSettings::DEFAULT };
        let settings = Settings { limits, apps: [(AppKey::from("small"), small)].into() };
        let admission = Admission::default();
        let (a, b) = (AppKey::from("a"), AppKey::from("b"));
        let ip = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let admit = |app: &AppKey, address| admission.admit(app, address, 100, &settings);
        let only = admit(&AppKey::from("small"), None).unwrap();
        assert_eq!(admit(&AppKey::from("small"), None).unwrap_err(), Rejection::AppFull);
        drop(only);
        let first = admit(&a, ip(1)).unwrap();
        assert_eq!(admit(&b, ip(1)).unwrap_err(), Rejection::AddressFull);
        let second = admit(&a, ip(2)).unwrap();
        assert_eq!(admit(&a, ip(3)).unwrap_err(), Rejection::AppFull);
        let third = admit(&b, None).unwrap();
        assert_eq!(admit(&b, ip(4)).unwrap_err(), Rejection::NodeFull);
        assert_eq!(admission.total(), 3);
        assert_eq!(admission.memory(), Memory { connections: 300, ..Memory::default() });
        drop((first, second, third));
        assert_eq!(admission.total(), 0);
        assert_eq!(admission.memory(), Memory::default());
        assert!(admission.per_app().is_empty() && admission.memory_per_app().is_empty());
        assert!(admission.0.counts.lock().unwrap().addresses.is_empty());
    }

    #[test]
    fn memory_refuses_newcomers_alone() {
        let limits = Limits { memory_bytes_max: 1000, ..Limits::default() };
        let small = AppSettings { memory_bytes_max: 500, ..AppSettings::DEFAULT };
        let settings = Settings { limits, apps: [(AppKey::from("small"), small)].into() };
        let events = Ledger::default();
        let admission = Admission::new(events.clone());
        let (a, small) = (AppKey::from("a"), AppKey::from("small"));
        let admit = |app: &AppKey, bytes| admission.admit(app, None, bytes, &settings);
        assert_eq!(admit(&small, 501).unwrap_err(), Rejection::AppMemory);
        let mut one = admit(&small, 200).unwrap();
        let book = admission.book(&small);
        book.change(Weight::default(), Weight { rosters: 200, caches: 1 });
        assert_eq!(admit(&small, 100).unwrap_err(), Rejection::AppMemory);
        let other = admit(&a, 100).unwrap();
        let frame = events.enter(vec![0; 400]);
        assert_eq!(admission.memory(), Memory { connections: 300, events: 400, caches: 1, rosters: 200 });
        assert_eq!(admit(&a, 100).unwrap_err(), Rejection::NodeMemory);
        // who is there is not asked
        one.queued(1000);
        one.queued(300);
        one.input(50);
        one.charge(7);
        one.release(6);
        assert_eq!(admission.memory().connections, 651);
        assert_eq!(admission.outboxes(), 700);
        let of_small = |(app, bytes): &(AppKey, usize)| (*app == small).then_some(*bytes);
        assert_eq!(admission.memory_per_app().iter().find_map(of_small), Some(752));
        drop(one);
        assert_eq!(admission.outboxes(), 400);
        // connections have gone, and what is kept has not
        assert_eq!(admission.per_app(), [(a, 1)]);
        assert_eq!(admission.memory_per_app().iter().find_map(of_small), Some(201));
        book.change(Weight { rosters: 200, caches: 1 }, Weight::default());
        drop((book, frame, other));
        assert_eq!(admission.memory(), Memory::default());
        assert!(admission.memory_per_app().is_empty());
    }
}
