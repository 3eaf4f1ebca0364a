//! What a shard keeps for the channels and users whose home it is, wherever their connections live.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::KEPT_PLACES;
use super::admission::{Admission, Book, Weight, allocated, tabled};
use super::audience::Audience;
use super::event::{Event, Form, Member};
use super::id::{AppKey, ChannelName, ConnectionId, ShardIndex, UserId};
use super::message::Subscriber;

type Map<K, V> = HashMap<K, V, RandomState>;

/// What it costs to keep an event beside what it says: about what a channel takes that is there for its cache alone.
pub(super) const CACHED_OVERHEAD_BYTES: usize = 512;

/// What a shard keeps under a name of an app, and what memory that takes.
trait Kept: Default {
    /// Without its name, and its place beside it. Nothing, as long as it is the default.
    fn weight(&self) -> Weight;
}

/// Names inside apps: an app is looked up first, so that nothing can reach into another. Whatever a change does to the
/// weight of a value is charged to the app.
#[derive(Debug)]
struct PerApp<K, V> {
    apps: Map<AppKey, OfApp<K, V>>,
    len: usize,
    admission: Admission,
}

#[derive(Debug)]
struct OfApp<K, V> {
    values: Map<K, V>,
    book: Book,
}

impl<K: Eq + std::hash::Hash + Borrow<str>, V: Kept> PerApp<K, V> {
    fn new(admission: Admission) -> Self {
        Self { apps: Map::default(), len: 0, admission }
    }

    fn app(&self, app: &AppKey) -> impl Iterator<Item = (&K, &V)> {
        self.apps.get(app).into_iter().flat_map(|of_app| &of_app.values)
    }

    fn get(&self, app: &AppKey, key: &K) -> Option<&V> {
        self.apps.get(app)?.values.get(key.borrow())
    }

    /// Changes a value, which is there from then on.
    fn enter<T>(&mut self, app: &AppKey, key: K, change: impl FnOnce(&mut V) -> T) -> T {
        let admission = &self.admission;
        let of_app = self.apps.entry(app.clone());
        let OfApp { values, book } =
            of_app.or_insert_with(|| OfApp { values: Map::default(), book: admission.book(app) });
        let value = match values.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                book.change(Weight::default(), Self::name_weight(entry.key()));
                entry.insert(V::default())
            }
        };
        let before = value.weight();
        let result = change(value);
        book.change(before, value.weight());
        result
    }

    /// Changes a value, if it is there.
    fn change<T>(&mut self, app: &AppKey, key: &K, change: impl FnOnce(&mut V) -> T) -> Option<T> {
        let OfApp { values, book } = self.apps.get_mut(app)?;
        let value = values.get_mut(key.borrow())?;
        let before = value.weight();
        let result = change(value);
        book.change(before, value.weight());
        Some(result)
    }

    /// Changes a value, and removes it when `change` says that it is spent.
    fn leave(&mut self, app: &AppKey, key: &K, change: impl FnOnce(&mut V) -> bool) {
        if self.change(app, key, change) != Some(true) {
            return;
        }
        let Some(OfApp { values, book }) = self.apps.get_mut(app) else { return };
        if let Some(spent) = values.remove(key.borrow()) {
            book.change(spent.weight(), Weight::default());
            book.change(Self::name_weight(key), Weight::default());
            self.len -= 1;
        }
        if values.is_empty() {
            self.apps.remove(app);
        } else {
            give_back(values);
        }
    }

    fn name_weight(key: &K) -> Weight {
        Weight { rosters: tabled::<(K, V)>() + allocated(2 * size_of::<usize>() + key.borrow().len()), caches: 0 }
    }
}

/// Lets a table that was much larger once give memory back; seldom, so that it costs nothing on average.
fn give_back<K: Eq + std::hash::Hash, V>(table: &mut Map<K, V>) {
    if table.capacity() > KEPT_PLACES && table.len() < table.capacity() / 8 {
        table.shrink_to(2 * table.len());
    }
}

/// Channels by app, each with its audience over all shards.
#[derive(Debug)]
pub(super) struct ChannelHomes {
    channels: PerApp<ChannelName, ChannelHome>,
    /// How many have a subscriber.
    pub(super) occupied: usize,
    /// Bytes of cached events, with what their channels cost.
    pub(super) cached_bytes: usize,
}

#[derive(Default, Debug)]
pub(super) struct ChannelHome {
    /// Subscriptions per shard and form; short, for most shards × forms have none.
    audience: SmallVec<[(ShardIndex, Form, u32); 2]>,
    users: Users,
    /// What most channels do not have.
    rare: Option<Box<Rare>>,
}

/// Connections per distinct user that has said who it is. A channel of one's own is common.
#[derive(Default, Debug)]
enum Users {
    #[default]
    None,
    One(UserId, u32),
    Many(Box<Map<UserId, u32>>),
}

impl Users {
    fn len(&self) -> usize {
        match self {
            Users::None => 0,
            Users::One(..) => 1,
            Users::Many(users) => users.len(),
        }
    }

    /// What it takes beside its own place.
    fn bytes(&self) -> usize {
        match self {
            Users::None | Users::One(..) => 0,
            Users::Many(users) => allocated(size_of_val(&**users)) + users.len() * tabled::<(UserId, u32)>(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &UserId> {
        let (one, many) = match self {
            Users::None => (None, None),
            Users::One(user, _) => (Some(user), None),
            Users::Many(users) => (None, Some(users.keys())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn add(&mut self, user: &UserId) {
        match self {
            Users::None => *self = Users::One(user.clone(), 1),
            Users::One(only, count) if only == user => *count += 1,
            Users::One(only, count) => {
                *self = Users::Many(Box::new([(only.clone(), *count), (user.clone(), 1)].into_iter().collect()));
            }
            Users::Many(users) => *users.entry(user.clone()).or_default() += 1,
        }
    }

    fn remove(&mut self, user: &UserId) {
        match self {
            Users::None => {}
            Users::One(only, count) => {
                if only == user {
                    *count -= 1;
                    if *count == 0 {
                        *self = Users::None;
                    }
                }
            }
            Users::Many(users) => {
                if let Some(count) = users.get_mut(user) {
                    *count -= 1;
                    if *count == 0 {
                        users.remove(user);
                    }
                }
                if users.is_empty() {
                    *self = Users::None;
                } else {
                    give_back(users);
                }
            }
        }
    }
}

/// What presence channels, cache channels and those with counted subscribers have.
#[derive(Default, Debug)]
struct Rare {
    members: Map<UserId, Present>,
    member_of: Map<ConnectionId, UserId>,
    /// Bytes of the names and data of all members.
    texts_bytes: usize,
    cached: Option<CachedEvent>,
    /// A look at when the cached event ends is due.
    cache_due: bool,
    /// That the cache is empty was told, and need not be told again.
    miss_told: bool,
    /// When the number of subscribers was last told.
    count_told_ms: Option<u64>,
    /// When it is due to be told again, for it has changed.
    count_due_ms: Option<u64>,
}

#[derive(Debug)]
struct Present {
    member: Member,
    connections: u32,
    /// When it leaves, if no connection of it comes back before.
    leaves_ms: Option<u64>,
}

impl Present {
    fn texts_bytes(&self) -> usize {
        allocated(2 * size_of::<usize>() + self.member.user.as_str().len()) + allocated(self.member.info.len())
    }
}

#[derive(Debug)]
struct CachedEvent {
    event: Event,
    until_ms: u64,
    /// What it counts for.
    weight: usize,
}

/// What a leave came to.
#[derive(Default, Debug)]
pub(super) struct Left {
    /// That was the last subscription.
    pub(super) vacated: bool,
    /// A user that is a member no more.
    pub(super) removed: Option<UserId>,
    /// A user whose last connection broke off, and who is given time to come back.
    pub(super) missing: Option<UserId>,
}

impl ChannelHome {
    /// Whether some subscriber reads this form.
    pub(super) fn reads(&self, form: Form) -> bool {
        self.audience.iter().any(|(_, reads, _)| *reads == form)
    }

    /// Shards that have a subscriber.
    pub(super) fn shards(&self, shards: ShardIndex) -> impl Iterator<Item = ShardIndex> {
        (0..shards).filter(|shard| self.audience.iter().any(|(has, _, _)| has == shard))
    }

    /// Distinct users that said who they are when they connected.
    pub(super) fn users(&self) -> impl Iterator<Item = &UserId> {
        self.users.iter()
    }

    pub(super) fn user_count(&self) -> usize {
        self.users.len()
    }

    /// Subscriptions on all shards.
    pub(super) fn subscriptions(&self) -> u64 {
        self.audience.iter().map(|(_, _, count)| u64::from(*count)).sum()
    }

    pub(super) fn is_occupied(&self) -> bool {
        !self.audience.is_empty()
    }

    /// Distinct members of a presence channel.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.rare.iter().flat_map(|rare| rare.members.values()).map(|present| &present.member)
    }

    pub(super) fn member_count(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.members.len())
    }

    pub(super) fn is_member(&self, user: &UserId) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.members.contains_key(user))
    }

    /// The member that a connection is.
    pub(super) fn member_of(&self, connection: ConnectionId) -> Option<&UserId> {
        self.rare.as_ref()?.member_of.get(&connection)
    }

    /// The cached event, and for how many milliseconds more.
    pub(super) fn cached(&self, now_ms: u64) -> Option<(&Event, u64)> {
        let cached = self.rare.as_ref()?.cached.as_ref()?;
        (cached.until_ms > now_ms).then(|| (&cached.event, cached.until_ms - now_ms))
    }

    /// Notes that the emptiness of the cache is told. Returns whether it was not before.
    pub(super) fn tell_miss(&mut self) -> bool {
        !std::mem::replace(&mut self.rare().miss_told, true)
    }

    /// Whether the number of subscribers is to be told now; if not, when it is, unless that is noted already.
    pub(super) fn tell_count(&mut self, now_ms: u64, every_ms: u64, at_once_max: u64) -> Result<(), Option<u64>> {
        let count = self.subscriptions();
        let rare = self.rare();
        match rare.count_told_ms {
            Some(told_ms) if count > at_once_max && now_ms < told_ms + every_ms => {
                let due_ms = told_ms + every_ms;
                let is_noted = rare.count_due_ms.replace(due_ms).is_some();
                Err((!is_noted).then_some(due_ms))
            }
            _ => {
                (rare.count_told_ms, rare.count_due_ms) = (Some(now_ms), None);
                Ok(())
            }
        }
    }

    /// A time that `tell_count` put something off to has come. Returns whether it is still to be told.
    pub(super) fn count_is_due(&mut self, due_ms: u64) -> bool {
        match &mut self.rare {
            Some(rare) if rare.count_due_ms == Some(due_ms) => {
                (rare.count_told_ms, rare.count_due_ms) = (None, None);
                true
            }
            _ => false,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn is_spent(&self) -> bool {
        // as long as a look at the cache is due, so that there never are two
        let holds_nothing = |rare: &Rare| rare.members.is_empty() && rare.cached.is_none() && !rare.cache_due;
        self.audience.is_empty() && self.rare.as_deref().is_none_or(holds_nothing)
    }

    fn add_member(&mut self, connection: ConnectionId, member: Member) {
        let rare = self.rare();
        rare.member_of.insert(connection, member.user.clone());
        let present = rare.members.entry(member.user.clone()).or_insert_with(|| {
            let present = Present { member, connections: 0, leaves_ms: None };
            rare.texts_bytes += present.texts_bytes();
            present
        });
        present.connections += 1;
        present.leaves_ms = None;
    }

    fn remove_member(&mut self, connection: ConnectionId, leaves_ms: Option<u64>, left: &mut Left) {
        let Some(rare) = &mut self.rare else { return };
        let Some(user) = rare.member_of.remove(&connection) else { return };
        let Some(present) = rare.members.get_mut(&user) else { return };
        present.connections -= 1;
        if present.connections > 0 {
            return;
        }
        present.leaves_ms = leaves_ms;
        if leaves_ms.is_some() {
            left.missing = Some(user);
        } else {
            rare.remove(&user);
            left.removed = Some(user);
        }
    }
}

impl Rare {
    fn remove(&mut self, user: &UserId) {
        if let Some(present) = self.members.remove(user) {
            self.texts_bytes -= present.texts_bytes();
        }
        give_back(&mut self.members);
        give_back(&mut self.member_of);
    }
}

impl Kept for ChannelHome {
    fn weight(&self) -> Weight {
        let elsewhere = if self.audience.spilled() { allocated(size_of_val(&*self.audience)) } else { 0 };
        // of each shard that has subscribers: what it keeps of the channel itself
        let of_shards = self.audience.len() * Audience::BYTES;
        let mut weight = Weight { rosters: elsewhere + of_shards + self.users.bytes(), caches: 0 };
        if let Some(rare) = &self.rare {
            weight.rosters += allocated(size_of::<Rare>())
                + rare.members.len() * tabled::<(UserId, Present)>()
                + rare.member_of.len() * tabled::<(ConnectionId, UserId)>()
                + rare.texts_bytes;
            weight.caches = rare.cached.as_ref().map_or(0, |cached| cached.weight);
        }
        weight
    }
}

impl ChannelHomes {
    pub(super) fn new(admission: Admission) -> Self {
        Self { channels: PerApp::new(admission), occupied: 0, cached_bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.channels.len == 0
    }

    pub(super) fn get(&self, app: &AppKey, channel: &ChannelName) -> Option<&ChannelHome> {
        self.channels.get(app, channel)
    }

    /// Changes what is kept of a channel, if something is.
    pub(super) fn change<T>(
        &mut self,
        app: &AppKey,
        channel: &ChannelName,
        change: impl FnOnce(&mut ChannelHome) -> T,
    ) -> Option<T> {
        self.channels.change(app, channel, change)
    }

    /// Channels of an app that have a subscriber, but for those of the server.
    pub(super) fn occupied(&self, app: &AppKey) -> impl Iterator<Item = (&ChannelName, &ChannelHome)> {
        let is_theirs = |name: &ChannelName| !name.as_str().starts_with('#');
        self.channels.app(app).filter(move |(name, home)| home.is_occupied() && is_theirs(name))
    }

    /// Adds a subscription. Returns whether it is the first.
    pub(super) fn join(
        &mut self,
        app: &AppKey,
        channel: ChannelName,
        who: &Subscriber,
        member: Option<Member>,
    ) -> bool {
        let is_first = self.channels.enter(app, channel, |home| {
            let is_first = !home.is_occupied();
            let at = (who.session.id.shard, who.form);
            match home.audience.iter_mut().find(|(on, reads, _)| (*on, *reads) == at) {
                Some((_, _, count)) => *count += 1,
                None => home.audience.push((at.0, at.1, 1)),
            }
            if !who.user.as_str().is_empty() {
                home.users.add(&who.user);
            }
            if let Some(member) = member {
                home.add_member(who.session.id, member);
            }
            is_first
        });
        self.occupied += usize::from(is_first);
        is_first
    }

    /// Ends a subscription. A member whose last it was leaves at once, or at `leaves_ms`.
    pub(super) fn leave(
        &mut self,
        app: &AppKey,
        channel: &ChannelName,
        who: &Subscriber,
        leaves_ms: Option<u64>,
    ) -> Left {
        let mut left = Left::default();
        self.channels.leave(app, channel, |home| {
            let at = (who.session.id.shard, who.form);
            if let Some(at) = home.audience.iter().position(|(on, reads, _)| (*on, *reads) == at) {
                home.audience[at].2 -= 1;
                if home.audience[at].2 == 0 {
                    home.audience.swap_remove(at);
                }
                left.vacated = home.audience.is_empty();
            }
            home.users.remove(&who.user);
            home.remove_member(who.session.id, leaves_ms, &mut left);
            if left.vacated
                && let Some(rare) = &mut home.rare
            {
                rare.miss_told = false;
            }
            home.is_spent()
        });
        self.occupied -= usize::from(left.vacated);
        left
    }

    /// Removes a member if its time to come back is over at that time. Returns whether it is.
    pub(super) fn remove_missing(&mut self, app: &AppKey, channel: &ChannelName, user: &UserId, due_ms: u64) -> bool {
        let mut is_over = false;
        self.channels.leave(app, channel, |home| {
            if let Some(rare) = home.rare.as_deref_mut()
                && rare.members.get(user).is_some_and(|present| present.leaves_ms == Some(due_ms))
            {
                rare.remove(user);
                is_over = true;
            }
            home.is_spent()
        });
        is_over
    }

    /// Keeps an event for newcomers, if the cached events together stay within `bytes_max`; else the channel keeps
    /// none, for an old one would be wrong. Returns whether a look at its end is to be noted.
    pub(super) fn cache(
        &mut self,
        app: &AppKey,
        channel: &ChannelName,
        event: &Event,
        until_ms: u64,
        bytes_max: usize,
    ) -> bool {
        let weight = event.weight() + channel.as_str().len() + CACHED_OVERHEAD_BYTES;
        let held = self.get(app, channel).and_then(|home| home.rare.as_ref()?.cached.as_ref());
        let freed = held.map_or(0, |cached| cached.weight);
        self.cached_bytes -= freed;
        if self.cached_bytes + weight > bytes_max {
            self.channels.leave(app, channel, |home| {
                home.rare().cached = None;
                home.is_spent()
            });
            return false;
        }
        self.cached_bytes += weight;
        self.channels.enter(app, channel.clone(), |home| {
            let rare = home.rare();
            rare.cached = Some(CachedEvent { event: event.detached(), until_ms, weight });
            rare.miss_told = false;
            !std::mem::replace(&mut rare.cache_due, true)
        })
    }

    /// Forgets a cached event whose time is over. Returns when it will be over, if it is not.
    pub(super) fn end_cache(&mut self, app: &AppKey, channel: &ChannelName, now_ms: u64) -> Option<u64> {
        let (mut later, mut freed) = (None, 0);
        self.channels.leave(app, channel, |home| {
            let rare = home.rare();
            match &rare.cached {
                Some(cached) if cached.until_ms > now_ms => later = Some(cached.until_ms),
                Some(cached) => freed = cached.weight,
                None => {}
            }
            if later.is_none() {
                rare.cached = None;
                rare.cache_due = false;
            }
            home.is_spent()
        });
        self.cached_bytes -= freed;
        later
    }
}

/// Users by app, each with its connections over all shards.
#[derive(Debug)]
pub(super) struct UserHomes(PerApp<UserId, Vec<ConnectionId>>);

impl Kept for Vec<ConnectionId> {
    fn weight(&self) -> Weight {
        Weight { rosters: allocated(size_of_val(&**self)), caches: 0 }
    }
}

impl UserHomes {
    pub(super) fn new(admission: Admission) -> Self {
        Self(PerApp::new(admission))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len
    }

    pub(super) fn connections(&self, app: &AppKey, user: &UserId) -> &[ConnectionId] {
        self.0.get(app, user).map_or(&[], Vec::as_slice)
    }

    pub(super) fn app(&self, app: &AppKey) -> impl Iterator<Item = &UserId> {
        self.0.app(app).map(|(user, _)| user)
    }

    /// Distinct users of each app that has one.
    pub(super) fn per_app(&self) -> impl Iterator<Item = (&AppKey, usize)> {
        self.0.apps.iter().map(|(app, of_app)| (app, of_app.values.len()))
    }

    pub(super) fn register(&mut self, app: &AppKey, user: UserId, connection: ConnectionId) {
        self.0.enter(app, user, |connections| add(connections, connection));
    }

    pub(super) fn unregister(&mut self, app: &AppKey, user: &UserId, connection: ConnectionId) {
        self.0.leave(app, user, |connections| {
            remove(connections, connection);
            connections.is_empty()
        });
    }
}

/// Signed-in users by app, each with those who watch.
#[derive(Debug)]
pub(super) struct SignedInHomes(PerApp<UserId, SignedInHome>);

#[derive(Default, Debug)]
struct SignedInHome {
    connections: Vec<ConnectionId>,
    watchers: Vec<ConnectionId>,
}

impl Kept for SignedInHome {
    fn weight(&self) -> Weight {
        Weight { rosters: self.connections.weight().rosters + self.watchers.weight().rosters, caches: 0 }
    }
}

impl SignedInHomes {
    pub(super) fn new(admission: Admission) -> Self {
        Self(PerApp::new(admission))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The user's connections.
    pub(super) fn connections(&self, app: &AppKey, user: &UserId) -> &[ConnectionId] {
        self.0.get(app, user).map_or(&[], |home| &home.connections)
    }

    /// Connections that want to know of the user.
    pub(super) fn watchers(&self, app: &AppKey, user: &UserId) -> &[ConnectionId] {
        self.0.get(app, user).map_or(&[], |home| &home.watchers)
    }

    /// One connection more. Returns whether it is the first.
    pub(super) fn sign_in(&mut self, app: &AppKey, user: UserId, connection: ConnectionId) -> bool {
        self.0.enter(app, user, |home| {
            add(&mut home.connections, connection);
            home.connections.len() == 1
        })
    }

    /// One connection less. Returns whether it was the last.
    pub(super) fn sign_out(&mut self, app: &AppKey, user: &UserId, connection: ConnectionId) -> bool {
        let mut was_last = false;
        self.0.leave(app, user, |home| {
            let before = home.connections.len();
            remove(&mut home.connections, connection);
            was_last = before == 1 && home.connections.is_empty();
            home.connections.is_empty() && home.watchers.is_empty()
        });
        was_last
    }

    /// Somebody wants to know of the user. Returns whether the user is signed in.
    pub(super) fn watch(&mut self, app: &AppKey, user: UserId, watcher: ConnectionId) -> bool {
        self.0.enter(app, user, |home| {
            add(&mut home.watchers, watcher);
            !home.connections.is_empty()
        })
    }

    pub(super) fn unwatch(&mut self, app: &AppKey, user: &UserId, watcher: ConnectionId) {
        self.0.leave(app, user, |home| {
            remove(&mut home.watchers, watcher);
            home.connections.is_empty() && home.watchers.is_empty()
        });
    }
}

fn add(connections: &mut Vec<ConnectionId>, connection: ConnectionId) {
    if connections.is_empty() {
        connections.reserve_exact(1); // most users have one
    }
    connections.push(connection);
}

fn remove(connections: &mut Vec<ConnectionId>, connection: ConnectionId) {
    if let Some(at) = connections.iter().position(|held| *held == connection) {
        connections.swap_remove(at);
        if connections.len() < connections.capacity() / 4 {
            connections.shrink_to(2 * connections.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Data;

    #[test]
    fn a_cache_that_is_full_costs_no_second_look() {
        let admission = Admission::default();
        let mut homes = ChannelHomes::new(admission.clone());
        let (app, channel) = (AppKey::from("a"), ChannelName::from("cache-c"));
        let bytes_max = CACHED_OVERHEAD_BYTES + 20;
        let cache = |homes: &mut ChannelHomes, data: &'static str, until_ms| {
            homes.cache(&app, &channel, &Event::new("e", Data::Encoded(data.into()), 1), until_ms, bytes_max)
        };
        assert!(cache(&mut homes, "\"1\"", 100));
        assert_eq!(homes.cached_bytes, CACHED_OVERHEAD_BYTES + 11);
        assert_eq!(admission.memory().caches, homes.cached_bytes);
        for at_ms in 0..10 {
            assert!(!cache(&mut homes, "\"too much for it\"", 100 + at_ms));
            assert_eq!((homes.cached_bytes, admission.memory().caches), (0, 0));
            assert!(!cache(&mut homes, "\"1\"", 100 + at_ms), "a look is due already");
        }
        assert!(!cache(&mut homes, "\"too much for it\"", 120));
        assert_eq!(homes.end_cache(&app, &channel, 100), None);
        assert!(homes.is_empty() && homes.cached_bytes == 0);
        assert_eq!(admission.memory().total(), 0);
    }
}
