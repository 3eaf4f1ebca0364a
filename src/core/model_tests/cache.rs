//! What cache channels keep for newcomers.

use super::orders::in_every_order;
use super::*;
use crate::core::home::CACHED_OVERHEAD_BYTES;

/// Three shards, and a cache channel of app `two` at home on the second.
fn three_shards() -> (World, &'static str) {
    let world = World::new(3, 0);
    let channel = String::leak(world.name_at("two", "private-cache-", 1));
    (world, channel)
}

impl World {
    fn plain(&mut self, from: usize, channel: &str) {
        self.publish(from, "two", channel, 0, None);
    }

    /// The number of the event that a newcomer finds, if it finds one.
    fn found(&mut self, channel: &str) -> Option<usize> {
        let who = self.guest(0);
        self.subscribe(who, &[channel]);
        self.settle();
        let found = self.clients[who].shown[channel].cached.expect("no cache channel");
        self.unsubscribe(who, channel);
        self.settle();
        found
    }
}

#[test]
fn the_last_event_of_a_backend_for_everybody_is_kept() {
    let (mut world, channel) = three_shards();
    let who = world.guest(2);
    assert_eq!(world.found(channel), None);
    world.plain(0, channel);
    world.plain(0, channel);
    world.settle();
    assert_eq!(world.found(channel), Some(1));
    world.subscribe(who, &[channel]);
    world.settle();
    world.say(who, channel, Whom::All);
    world.settle();
    assert_eq!(world.found(channel), Some(1));
    // what is for some sessions alone is nothing for newcomers
    world.publish_to(0, "two", channel, 0, Whom::Only(who));
    world.publish_to(0, "two", channel, 0, Whom::Named("s"));
    world.settle();
    assert_eq!(world.found(channel), Some(1));
    world.publish_to(0, "two", channel, 0, Whom::Except(who));
    world.settle();
    assert_eq!(world.found(channel), Some(5));
    world.publish_matching(0, "two", "cache");
    world.settle();
    assert_eq!(world.found(channel), Some(6));
    world.finish();
}

#[test]
fn a_newcomer_finds_an_event_or_hears_it_and_never_both() {
    let channel = three_shards().1;
    let new = || {
        let (mut world, _) = three_shards();
        world.guest(0);
        world
    };
    let publish: orders::Action<'_> = &|world| world.plain(2, channel);
    let check = |world: &mut World| {
        let found = world.clients[0].shown[channel].cached.unwrap();
        let heard = world.heard_by(0).into_iter().filter_map(|line| line.parse::<usize>().ok());
        let all: Vec<usize> = found.into_iter().chain(heard).collect();
        let from = found.unwrap_or(0);
        assert_eq!(all, Vec::from_iter(from..3));
    };
    let orders = in_every_order(new, &[publish, &|world| world.subscribe(0, &[channel]), publish, publish], check);
    assert!(orders > 20);
}

#[test]
fn an_event_is_kept_for_its_time_and_no_longer() {
    let (mut world, channel) = three_shards();
    world.plain(0, channel);
    world.settle();
    world.wait(CACHE_MS / 2);
    world.plain(0, channel);
    world.settle();
    world.wait(CACHE_MS - 1);
    assert_eq!(world.found(channel), Some(1));
    let home = &mut world.cores[1];
    home.set_now(world.now_ms + 1); // its time is over, and nobody has looked yet
    assert!(home.channels.get(&"two".into(), &channel.into()).unwrap().cached(home.now_ms).is_none());
    assert!(!home.is_bare());
    world.wait(1);
    assert_eq!(world.found(channel), None);
    let shards = world.cores.iter().filter(|core| core.due.is_empty() && core.channels.is_empty());
    assert_eq!(shards.count(), 3);
    assert_eq!(world.cores[1].channels.cached_bytes, 0);
    world.finish();
}

#[test]
fn a_miss_is_told_once_until_the_cache_was_filled_or_the_channel_left() {
    let (mut world, channel) = three_shards();
    let [first, second, third] = world.guests([0, 1, 2]);
    let mut misses = Vec::new();
    let mut join = |world: &mut World, who: usize| {
        world.subscribe(who, &[channel]);
        world.settle();
        misses.push(world.clients[who].shown[channel].cached == Some(None));
    };
    // what is observed is compared in every step; here, what newcomers find
    join(&mut world, first);
    join(&mut world, second);
    world.plain(0, channel);
    world.settle();
    join(&mut world, third);
    world.wait(CACHE_MS);
    let fourth = world.guest(0);
    join(&mut world, fourth);
    assert_eq!(misses, [true, true, false, true]);
    world.finish();
}

#[test]
fn an_event_that_does_not_fit_empties_its_channel_and_no_other() {
    let (mut world, channel) = three_shards();
    let other = world.name_at("two", "cache-", 1);
    world.plain(0, channel);
    world.plain(0, &other);
    world.publish(0, "two", channel, 700, None);
    world.settle();
    assert_eq!([world.found(channel), world.found(&other)], [None, Some(1)]);
    world.plain(0, channel); // fits again
    world.settle();
    assert_eq!(world.found(channel), Some(3));
    world.finish();
}

#[test]
fn the_cache_of_a_shard_is_bounded_whatever_the_channels() {
    let mut world = World::new(1, 0);
    for number in 0..50 {
        world.plain(0, &format!("cache-{number}"));
    }
    let cached = world.cores[0].stats().cache_bytes as usize;
    assert!((CACHED_OVERHEAD_BYTES..=homes::CACHE_BYTES_MAX).contains(&cached));
    let channels = world.cores[0].channels.occupied(&"two".into()).count();
    assert_eq!((channels, world.cores[0].due.len()), (0, 2));
    world.settle();
    world.finish();
}

#[test]
fn one_look_is_due_for_a_channel_however_often_its_cache_is_emptied() {
    let mut world = World::new(1, 0);
    for _ in 0..20 {
        world.plain(0, "cache-c");
        world.publish(0, "two", "cache-c", 700, None);
        world.tick(10);
    }
    assert_eq!(world.cores[0].due.len(), 1);
    world.settle();
    world.finish();
}

#[test]
fn what_is_cached_in_one_app_is_not_found_in_another() {
    let (mut world, channel) = three_shards();
    world.plain(0, channel);
    world.settle();
    let who = world.connect(0, "one", "", 0, &["*"]);
    world.subscribe(who, &[channel]);
    world.settle();
    world.publish(1, "one", channel, 0, None);
    world.settle();
    assert_eq!(world.found(channel), Some(0));
    assert_eq!(world.heard_by(who), ["+", "1"]);
    world.finish();
}
