//! The races one by one, each in the order of messages that is hardest.

use super::*;

/// Four shards, a channel at home on each, and a client on shard 0 whose user is at home on shard 3.
fn four_shards() -> (World, [String; 4], usize) {
    let mut world = World::new(4, 0);
    let (channels, user) = ([0, 1, 2, 3].map(|shard| world.name_at("one", "c", shard)), world.name_at("one", "u", 3));
    let who = world.connect(0, "one", &user, 0, &["*"]);
    world.settle();
    (world, channels, who)
}

/// One shard with so many subscribers of `a`.
fn one_shard(subscribers: usize) -> World {
    let mut world = World::new(1, 0);
    for who in 0..subscribers {
        world.connect(0, "one", "u", who as u8 % 2, &["*"]);
        world.subscribe(who, &["a"]);
    }
    world
}

impl World {
    /// Leaves the user of a client nothing but these, from the user's home on shard 3.
    fn revoke_all_but(&mut self, who: usize, kept: &[&str]) {
        let kept = Assignment::Replace(kept.iter().copied().map(Box::from).collect());
        self.note(3, "one", 0, To::User(self.clients[who].user.clone(), Some(kept)));
        assert!(self.deliver(3, 0));
    }

    fn publish_plain(&mut self, from: usize, channel: &str) {
        self.publish(from, "one", channel, 0, None);
    }

    /// Replies and events that a client has been sent: `+channel`, `-channel`, `!` and the events' numbers.
    fn read(&mut self, who: usize) -> Vec<String> {
        if !self.clients[who].gone {
            self.flush(who, usize::MAX);
        }
        let short = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
            ["event", _, _, _, number, _] => number.into(),
            [sign, channel, ..] => format!("{sign}{channel}"),
            _ => line.into(),
        };
        str::from_utf8(&self.clients[who].read)
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with("note"))
            .map(short)
            .collect()
    }

    pub(super) fn is_closing(&self, who: usize) -> bool {
        self.clients[who].closing.is_some()
    }
}

#[test]
fn replies_keep_the_order_of_the_commands() {
    let (mut world, [near, far, ..], who) = four_shards();
    world.subscribe(who, &[&far]);
    world.subscribe(who, &[&near]); // would be answered at once
    world.unsubscribe(who, &far);
    world.subscribe(who, &[&far]);
    world.deliver(0, 1);
    assert!(world.read(who).is_empty());
    world.settle();
    assert_eq!(world.read(who), [format!("+{far}"), format!("+{near}"), format!("-{far}"), format!("+{far}")]);
    world.finish();
}

#[test]
fn an_event_for_nobody_is_not_sent_to_another_shard() {
    let (mut world, [_, far, ..], who) = four_shards();
    world.publish_plain(2, &far);
    assert!(!world.deliver(2, 1));
    let cached = world.name_at("one", "cache-c", 1);
    world.publish_plain(2, &cached);
    assert!(world.deliver(2, 1), "it is kept there");
    world.subscribe(who, &[&far]);
    world.deliver(0, 1); // the home has yet to tell the subscriber
    world.publish_plain(2, &far);
    assert!(world.deliver(2, 1));
    world.unsubscribe(who, &far);
    world.settle();
    world.publish_plain(2, &far);
    assert!(!world.deliver(2, 1));
    world.settle();
    let counted: u64 = world.cores.iter().map(|core| core.stats().events_in).sum();
    assert_eq!(counted, 4);
    world.finish();
}

#[test]
fn a_permission_revoked_while_a_subscribe_is_under_way() {
    for home_knows in [false, true] {
        let (mut world, [_, far, ..], who) = four_shards();
        world.subscribe(who, &[&far]);
        assert!(!home_knows || world.deliver(0, 1));
        world.revoke_all_but(who, &[]);
        world.settle();
        assert_eq!(world.read(who), ["!"]);
        world.finish();
    }
}

#[test]
fn an_unsubscribe_while_a_subscribe_is_under_way() {
    for home_knows in [false, true] {
        let (mut world, [_, far, ..], who) = four_shards();
        world.subscribe(who, &[&far]);
        assert!(!home_knows || world.deliver(0, 1));
        world.unsubscribe(who, &far);
        world.settle();
        assert_eq!(world.read(who), [format!("+{far}"), format!("-{far}")]);
        world.finish();
    }
}

#[test]
fn a_disconnect_while_a_subscribe_is_under_way() {
    for (joins, answers) in [(0, 0), (1, 0), (1, 1), (2, 1)] {
        let (mut world, [_, one, two, _], who) = four_shards();
        world.subscribe(who, &[&one, &two]);
        (1..=joins).for_each(|home| assert!(world.deliver(0, home)));
        (1..=answers).for_each(|home| assert!(world.deliver(home, 0)));
        world.disconnect(who);
        world.settle();
        assert!(world.cores.iter().all(Core::is_bare));
        world.finish();
    }
}

#[test]
fn a_multi_subscribe_refused_in_the_middle_leaves_nothing() {
    for kept in [1, 2] {
        let (mut world, channels, who) = four_shards();
        world.subscribe(who, &[&channels[1], &channels[2]]);
        assert!(world.deliver(0, 1) && world.deliver(1, 0));
        world.publish_plain(1, &channels[1]);
        world.revoke_all_but(who, &[&channels[kept]]);
        assert!(world.deliver(0, 2));
        world.publish_plain(2, &channels[2]);
        world.settle();
        world.publish_plain(0, &channels[kept]);
        world.settle();
        assert_eq!(world.read(who), ["!"]);
        world.finish();
    }
}

#[test]
fn a_multi_subscribe_is_refused_when_a_channel_that_it_has_already_is_revoked() {
    let (mut world, [_, one, two, _], who) = four_shards();
    world.subscribe(who, &[&one]);
    world.settle();
    world.subscribe(who, &[&one, &two]);
    world.revoke_all_but(who, &[&two]);
    world.settle();
    assert_eq!(world.read(who), [format!("+{one}"), format!("-{one}"), "!".into()]);
    world.finish();
}

#[test]
fn a_multi_subscribe_begins_everywhere_at_once() {
    let (mut world, [_, one, two, _], who) = four_shards();
    world.subscribe(who, &[&one, &two]);
    assert!(world.deliver(0, 1) && world.deliver(1, 0));
    world.publish_plain(1, &one);
    assert!(world.deliver(1, 0)); // before the other home has answered
    assert!(world.deliver(0, 2) && world.deliver(2, 0));
    world.publish_plain(1, &one);
    world.settle();
    assert_eq!(world.read(who), [format!("+{one}"), format!("+{two}"), "1".into()]);
    world.finish();
}

#[test]
fn who_comes_or_goes_during_a_sliced_fan_out_disturbs_nobody() {
    let mut world = one_shard(8);
    world.publish_plain(0, "a");
    world.fan_out(0); // to 0 and 1
    for who in [1, 3] {
        world.unsubscribe(who, "a"); // one served and one not yet; they come again
        world.subscribe(who, &["a"]);
    }
    world.unsubscribe(0, "a");
    world.unsubscribe(2, "a");
    world.disconnect(4);
    let heir = world.connect(0, "one", "u", 0, &["*"]);
    assert_eq!(world.ids[heir].slot, world.ids[4].slot);
    world.subscribe(heir, &["a"]);
    world.publish_plain(0, "a");
    world.fan_out(0); // to the places of 2 and 3
    world.unsubscribe(5, "a");
    world.settle();
    let read: Vec<String> = (0..=heir).map(|who| world.read(who).concat()).collect();
    assert_eq!(read, ["+a0-a", "+a0-a+a1", "+a-a", "+a-a+a1", "+a", "+a-a", "+a01", "+a01", "+a1"]);
    world.finish();
}

#[test]
fn an_exception_in_a_batch_concerns_one_connection_and_one_event() {
    let (mut world, [_, far, ..], first) = four_shards();
    let [second, late] = [0, 0].map(|shard| world.connect(shard, "one", "", 0, &["*"]));
    world.subscribe(first, &[&far]);
    world.subscribe(second, &[&far]);
    world.settle();
    world.publish_plain(1, &far);
    world.subscribe(late, &[&far]);
    assert!(world.deliver(0, 1));
    world.publish(1, "one", &far, 0, Some(first));
    world.publish(1, "one", &far, 0, Some(late));
    while world.deliver(1, 0) {}
    for who in [first, second, late] {
        world.read(who);
    }
    world.fan_out(0);
    world.fan_out(0);
    let frames = |who: usize| waiting(world.cores[0].connections[world.ids[who].slot as usize].outbox()).1;
    assert_eq!([first, second, late].map(frames), [2, 1, 1]); // whom no exception concerns gets all in one
    assert_eq!([first, second, late].map(|who| world.read(who)[1..].concat()), ["02", "012", "1"]);
    world.finish();
}

#[test]
fn an_answer_for_a_connection_that_has_gone_never_touches_the_next_in_its_slot() {
    let (mut world, [_, one, two, _], first) = four_shards();
    let user = world.clients[first].user.clone();
    world.subscribe(first, &[&one]);
    assert!(world.deliver(0, 1)); // its answer is on its way, and so are these
    world.note(3, "one", 0, To::User(user.clone(), Some(Assignment::Replace([].into()))));
    world.note(3, "one", 0, To::User(user.clone(), None));
    world.note(3, "one", 0, To::Client(first));
    world.disconnect(first);
    let second = world.connect(0, "one", &user, 0, &["*"]);
    world.disconnect(second);
    let third = world.connect(0, "one", &user, 0, &["*"]);
    assert_eq!([second, third].map(|who| world.ids[who].slot), [world.ids[first].slot; 2]);

    while world.deliver(3, 0) {}
    assert!(world.deliver(0, 3) && world.deliver(0, 3) && world.deliver(3, 0)); // the second is registered
    assert!(world.clients[third].connected.is_none());
    while world.deliver(0, 3) {}
    assert!(world.deliver(3, 0));
    assert!(world.clients[third].connected.is_some());

    world.subscribe(third, &[&one, &two]);
    assert!(world.deliver(1, 0)); // the answer for the first
    assert!(world.deliver(0, 2) && world.deliver(2, 0));
    assert!(world.read(third).is_empty());
    world.settle();
    assert_eq!(world.read(third), [format!("+{one}"), format!("+{two}")]);
    world.finish();
}

#[test]
fn an_effect_that_nobody_took_never_touches_the_next_in_its_slot() {
    let mut world = one_shard(1);
    let core = &mut world.cores[0];
    let grant = |channel| Permissions::for_tests(&["*"]).grant(channel, 255).unwrap();
    core.subscribe(0, vec![grant("b")]);
    core.close(0, CloseReason::SlowReader);
    drop(core.disconnect(0, CloseReason::Client));
    let permit = world.node.admission.admit(&"one".into(), None, 1_000, &world.settings).unwrap();
    let (user, permissions) = ("v".into(), Permissions::default());
    let form = Form::default();
    let hello = Hello { permit, user, permissions, form, session: None, must_authorize: false, nonce: 7 };
    assert_eq!(core.connect(hello).unwrap().slot, 0);
    let mut effects = Vec::new();
    core.take_effects(&mut effects);
    assert!(matches!(effects[..], [Effect::Connected(0)]), "{effects:?}");
}

#[test]
fn busy_channels_take_turns() {
    let mut world = one_shard(6);
    (0..6).for_each(|who| world.subscribe(who, &["b", "c"]));
    (0..30).for_each(|_| world.publish_plain(0, "a"));
    world.publish_plain(0, "b");
    world.publish_plain(0, "c");
    (0..9).for_each(|_| world.fan_out(0)); // three channels in three slices
    assert!((0..6).all(|who| world.read(who).concat() == "+a+b+c0123031"));
    world.finish();
}

#[test]
fn who_lags_is_closed_and_nobody_else() {
    let mut world = one_shard(2);
    world.read(0);
    world.read(1);
    world.publish(0, "one", "a", 900, None);
    world.fan_out(0);
    world.flush(0, 0); // more than the bound, but alone
    world.flush(1, usize::MAX);
    assert!(!world.is_closing(0));
    world.publish(0, "one", "a", 900, None);
    world.fan_out(0);
    world.flush(0, 899);
    world.flush(1, usize::MAX);
    assert_eq!([0, 1].map(|who| world.is_closing(who)), [true, false]);
    world.finish();
}

#[test]
fn a_connection_between_two_subscriptions_is_not_idle() {
    let mut world = one_shard(1);
    for _ in 0..5 {
        world.tick(30_000);
        world.heard(0);
    }
    world.unsubscribe(0, "a");
    world.tick(54_000);
    assert!(!world.is_closing(0));
    world.heard(0);
    world.tick(54_000);
    assert_eq!(world.clients[0].closing.map(|(reason, _)| reason), Some(CloseReason::Unsubscribed));
    world.finish();
}
