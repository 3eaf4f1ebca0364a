//! What a shard keeps for the channels and users whose home it is, wherever their connections live.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;

use super::event::DialectIndex;
use super::id::{AppKey, ChannelName, ConnectionId, ShardIndex, UserId};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Names inside apps: an app is looked up first, so that nothing can reach into another.
#[derive(Debug)]
struct PerApp<K, V> {
    apps: Map<AppKey, Map<K, V>>,
    len: usize,
}

impl<K: Eq + std::hash::Hash, V: Default> PerApp<K, V> {
    fn new() -> Self {
        Self { apps: Map::default(), len: 0 }
    }

    fn app(&self, app: &AppKey) -> impl Iterator<Item = (&K, &V)> {
        self.apps.get(app).into_iter().flatten()
    }

    fn get(&self, app: &AppKey, key: &K) -> Option<&V> {
        self.apps.get(app)?.get(key)
    }

    fn entry(&mut self, app: &AppKey, key: K) -> &mut V {
        match self.apps.entry(app.clone()).or_default().entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(V::default())
            }
        }
    }

    /// Changes a value, and removes it when `change` says that it is spent.
    fn change(&mut self, app: &AppKey, key: &K, change: impl FnOnce(&mut V) -> bool) {
        let Some(values) = self.apps.get_mut(app) else { return };
        let Some(value) = values.get_mut(key) else { return };
        if change(value) {
            values.remove(key);
            self.len -= 1;
            if values.is_empty() {
                self.apps.remove(app);
            }
        }
    }
}

/// Channels by app, each with its audience over all shards.
#[derive(Debug)]
pub(super) struct ChannelHomes(PerApp<ChannelName, ChannelHome>);

#[derive(Default, Debug)]
pub(super) struct ChannelHome {
    /// Subscriptions per shard and dialect; short, for most shards × dialects have none.
    audience: Vec<(ShardIndex, DialectIndex, u32)>,
    /// Connections per distinct user that has said who it is.
    members: Map<UserId, u32>,
}

impl ChannelHome {
    /// Whether some subscriber reads this dialect.
    pub(super) fn reads(&self, dialect: DialectIndex) -> bool {
        self.audience.iter().any(|(_, reads, _)| *reads == dialect)
    }

    /// Shards that have a subscriber.
    pub(super) fn shards(&self, shards: ShardIndex) -> impl Iterator<Item = ShardIndex> {
        (0..shards).filter(|shard| self.audience.iter().any(|(has, _, _)| has == shard))
    }

    /// Distinct users.
    pub(super) fn members(&self) -> impl ExactSizeIterator<Item = &UserId> {
        self.members.keys()
    }
}

impl ChannelHomes {
    pub(super) fn new() -> Self {
        Self(PerApp::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len
    }

    pub(super) fn get(&self, app: &AppKey, channel: &ChannelName) -> Option<&ChannelHome> {
        self.0.get(app, channel)
    }

    pub(super) fn app(&self, app: &AppKey) -> impl Iterator<Item = (&ChannelName, &ChannelHome)> {
        self.0.app(app)
    }

    pub(super) fn join(
        &mut self,
        app: &AppKey,
        channel: ChannelName,
        shard: ShardIndex,
        dialect: DialectIndex,
        user: &UserId,
    ) {
        let home = self.0.entry(app, channel);
        match home.audience.iter_mut().find(|(on, reads, _)| (*on, *reads) == (shard, dialect)) {
            Some((_, _, count)) => *count += 1,
            None => home.audience.push((shard, dialect, 1)),
        }
        if !user.as_str().is_empty() {
            *home.members.entry(user.clone()).or_default() += 1;
        }
    }

    pub(super) fn leave(
        &mut self,
        app: &AppKey,
        channel: &ChannelName,
        shard: ShardIndex,
        dialect: DialectIndex,
        user: &UserId,
    ) {
        self.0.change(app, channel, |home| {
            if let Some(at) = home.audience.iter().position(|(on, reads, _)| (*on, *reads) == (shard, dialect)) {
                home.audience[at].2 -= 1;
                if home.audience[at].2 == 0 {
                    home.audience.swap_remove(at);
                }
            }
            if let Some(count) = home.members.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    home.members.remove(user);
                }
            }
            home.audience.is_empty()
        });
    }
}

/// Users by app, each with its connections over all shards.
#[derive(Debug)]
pub(super) struct UserHomes(PerApp<UserId, Vec<ConnectionId>>);

impl UserHomes {
    pub(super) fn new() -> Self {
        Self(PerApp::new())
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
        self.0.apps.iter().map(|(app, users)| (app, users.len()))
    }

    pub(super) fn register(&mut self, app: &AppKey, user: UserId, connection: ConnectionId) {
        self.0.entry(app, user).push(connection);
    }

    pub(super) fn unregister(&mut self, app: &AppKey, user: &UserId, connection: ConnectionId) {
        self.0.change(app, user, |connections| {
            if let Some(at) = connections.iter().position(|held| *held == connection) {
                connections.swap_remove(at);
            }
            connections.is_empty()
        });
    }
}
