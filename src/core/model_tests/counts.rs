//! How subscribers are told how many they are.

use super::*;
use crate::core::roster::{COUNT_AT_ONCE_MAX, COUNT_EVERY_MS};

/// Two shards, and a channel of app `two` at home on the second, with so many subscribers on the first.
fn crowd(subscribers: u64) -> (World, String) {
    let mut world = World::new(2, 0);
    let channel = world.name_at("two", "c", 1);
    for _ in 0..subscribers {
        world.more(&channel);
    }
    (world, channel)
}

impl World {
    /// One subscriber more.
    fn more(&mut self, channel: &str) -> usize {
        let who = self.guest(0);
        self.subscribe(who, &[channel]);
        self.settle();
        who
    }

    /// What the first subscriber was told.
    fn counts(&mut self) -> String {
        let heard = self.heard_by(0);
        heard.iter().filter_map(|line| line.strip_prefix("count ")).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_few_are_told_of_each_change_the_newcomer_too() {
    let (mut world, channel) = crowd(COUNT_AT_ONCE_MAX);
    assert_eq!(world.heard_by(0), ["+", "count 1", "count 2"]);
    assert_eq!(world.heard_by(1), ["+", "count 2"]);
    world.unsubscribe(1, &channel);
    world.settle();
    assert_eq!(world.heard_by(0), ["+", "count 1", "count 2", "count 1"]);
    assert_eq!(world.heard_by(1), ["+", "count 2", "-"]);
    world.finish();
}

#[test]
fn many_are_told_from_time_to_time_and_of_the_last_change_in_any_case() {
    let (mut world, channel) = crowd(COUNT_AT_ONCE_MAX + 3);
    assert_eq!(world.counts(), "1 2");
    world.wait(COUNT_EVERY_MS - 1);
    assert_eq!(world.counts(), "1 2");
    world.wait(1);
    assert_eq!(world.counts(), "1 2 5");
    world.wait(10 * COUNT_EVERY_MS); // nothing has changed
    assert_eq!(world.counts(), "1 2 5");
    world.more(&channel); // the first change for long
    world.more(&channel);
    assert_eq!(world.counts(), "1 2 5 6");
    world.wait(COUNT_EVERY_MS);
    assert_eq!(world.counts(), "1 2 5 6 7");
    world.finish();
}

#[test]
fn what_was_put_off_and_told_meanwhile_is_not_told_again() {
    let (mut world, channel) = crowd(COUNT_AT_ONCE_MAX);
    let third = world.more(&channel); // put off
    world.wait(1_000);
    world.unsubscribe(third, &channel); // few again: told at once
    world.settle();
    assert_eq!(world.counts(), "1 2 2");
    world.more(&channel); // too soon after that
    world.wait(COUNT_EVERY_MS - 1_000); // the time of the first change
    assert_eq!(world.counts(), "1 2 2");
    world.wait(1_000);
    assert_eq!(world.counts(), "1 2 2 3");
    world.finish();
}

#[test]
fn what_was_put_off_is_told_with_the_next_change_that_comes_after_its_time_and_before_the_look_at_it() {
    let (mut world, channel) = crowd(COUNT_AT_ONCE_MAX + 1);
    world.cores[1].set_now(world.now_ms + COUNT_EVERY_MS);
    world.now_ms += COUNT_EVERY_MS;
    // without a tick of the home
    let (seen, ..) = (world.counts(), world.guest(0));
    assert_eq!(seen, "1 2");
    world.homes.channels.get_mut(&channel).unwrap().tell_ms = None;
    world.more(&channel);
    assert_eq!(world.counts(), "1 2 4");
    world.wait(COUNT_EVERY_MS);
    assert_eq!(world.counts(), "1 2 4");
    world.finish();
}

#[test]
fn nothing_put_off_outlives_its_channel() {
    let (mut world, channel) = crowd(COUNT_AT_ONCE_MAX + 1);
    (0..3).for_each(|who| world.unsubscribe(who, &channel));
    world.settle();
    world.wait(COUNT_EVERY_MS / 2);
    world.more(&channel); // a new channel of the same name
    world.more(&channel);
    let last = world.more(&channel);
    world.wait(COUNT_EVERY_MS / 2); // the time of what was put off before
    assert_eq!(world.heard_by(last), ["+"]);
    world.wait(COUNT_EVERY_MS / 2);
    assert_eq!(world.heard_by(last), ["+", "count 3"]);
    world.finish();
}

#[test]
fn nothing_put_off_is_told_once_the_app_wants_it_no_more() {
    let (mut world, _) = crowd(COUNT_AT_ONCE_MAX + 1);
    let mut settings = Settings::clone(&world.settings);
    settings.apps.insert("two".into(), AppSettings { subscription_count: false, ..AppSettings::DEFAULT });
    let settings = Arc::new(settings);
    world.cores.iter_mut().for_each(|core| core.apply_settings(settings.clone()));
    world.homes.channels.clear();
    world.wait(COUNT_EVERY_MS);
    assert_eq!(world.counts(), "1 2");
    assert!(world.cores.iter().all(|core| core.due.is_empty()));
}

#[test]
fn presence_channels_and_users_own_are_not_counted() {
    let mut world = World::new(2, 0);
    let who = world.guest(0);
    world.subscribe(who, &["presence-p"]);
    world.sign_in(who, "x", &[]);
    world.settle();
    assert_eq!(world.heard_by(who), ["+x", "+", "signed . ."]);
    world.finish();
}
