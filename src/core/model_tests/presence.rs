//! Members of presence channels: each distinct user once, for everybody, whatever comes between.

use super::orders::in_every_order;
use super::*;

/// Three shards, and a presence channel at home on the second; who is at home anywhere, connects to any.
fn three_shards() -> (World, &'static str) {
    let world = World::new(3, 0);
    let channel = String::leak(world.name_at("two", "presence-", 1));
    (world, channel)
}

/// As `three_shards`, with somebody who looks on as `w` from the first.
fn looked_on() -> (World, &'static str, usize) {
    let (mut world, channel) = three_shards();
    let witness = world.guest(0);
    world.join(witness, "w", channel);
    (world, channel, witness)
}

impl World {
    fn join(&mut self, who: usize, person: &'static str, channel: &str) {
        self.subscribe_as(who, person, &[channel]);
        self.settle();
    }

    fn present(&mut self, channel: &str) -> String {
        self.ask(Query::Present("two".into(), channel.into())).into_names().join(",")
    }
}

#[test]
fn a_user_is_one_member_however_many_connections_it_has() {
    let (mut world, channel, witness) = looked_on();
    let [first, second] = world.guests([1, 2]);
    world.join(first, "x", channel);
    world.join(second, "x", channel);
    assert_eq!(world.present(channel), "w,x");
    world.unsubscribe(first, channel);
    world.settle();
    assert_eq!(world.heard_by(witness), ["+w", "added x"]);
    world.unsubscribe(second, channel);
    world.settle();
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    assert_eq!(world.heard_by(first), ["+w,x", "-"]);
    assert_eq!(world.heard_by(second), ["+w,x", "-"]);
    world.finish();
}

#[test]
fn two_that_come_at_once_find_each_other_once() {
    let channel = three_shards().1;
    let new = || {
        let (mut world, _) = three_shards();
        world.guests([0, 2]);
        world
    };
    let orders = in_every_order(
        new,
        &[&|world| world.subscribe_as(0, "x", &[channel]), &|world| world.subscribe_as(1, "y", &[channel])],
        |world| {
            let heard = [0, 1].map(|who| world.heard_by(who).join(" "));
            assert!(
                [["+x added y", "+x,y"], ["+x,y", "+y added x"]].contains(&heard.each_ref().map(|heard| &**heard)),
                "{heard:?}"
            );
        },
    );
    assert!(orders > 5);
}

#[test]
fn who_goes_while_others_come_is_nobodys_ghost() {
    let channel = three_shards().1;
    let new = || {
        let (mut world, _) = three_shards();
        world.guests([0, 2]);
        world
    };
    let check = |world: &mut World| {
        let heard = world.heard_by(0);
        assert!(
            [&["+x"][..], &["+x", "added y", "removed y"], &["+x,y", "removed y"]].iter().any(|one| heard == *one),
            "{heard:?}"
        );
        assert_eq!(world.present(channel), "x");
    };
    in_every_order(
        new,
        &[&|world| world.subscribe_as(1, "y", &[channel]), &|world| world.subscribe_as(0, "x", &[channel]), &|world| {
            world.unsubscribe(1, channel)
        }],
        check,
    );
}

#[test]
fn who_goes_and_comes_again_at_once_is_told_nothing_of_itself() {
    let channel = three_shards().1;
    let new = || {
        let (mut world, _, witness) = looked_on();
        let who = world.guest(2);
        world.join(who, "x", channel);
        assert_eq!((witness, who), (0, 1));
        world
    };
    let check = |world: &mut World| {
        assert_eq!(world.heard_by(0), ["+w", "added x", "removed x", "added x"]);
        assert_eq!(world.heard_by(1), ["+w,x", "-", "+w,x"]);
    };
    let leave_and_come = |world: &mut World| {
        world.unsubscribe(1, channel);
        world.subscribe_as(1, "x", &[channel]);
    };
    assert!(in_every_order(new, &[&leave_and_come], check) > 1);
}

#[test]
fn a_disconnect_while_a_join_is_under_way_leaves_no_member() {
    for hops in 0..=2 {
        let (mut world, channel, witness) = looked_on();
        let who = world.guest(2);
        world.subscribe_as(who, "x", &[channel]);
        for (from, to) in [(2, 1), (1, 2)].into_iter().take(hops) {
            assert!(world.deliver(from, to));
        }
        world.break_off(who);
        world.wait(GRACE_MS);
        assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
        assert_eq!(world.present(channel), "w");
        world.finish();
    }
}

#[test]
fn a_return_within_the_grace_is_silent() {
    let (mut world, channel, witness) = looked_on();
    let first = world.guest(1);
    world.join(first, "x", channel);
    world.break_off(first);
    assert_eq!(world.present(channel), "w,x");
    world.wait(GRACE_MS - 1);
    let second = world.guest(2);
    world.join(second, "x", channel);
    world.wait(GRACE_MS);
    assert_eq!(world.heard_by(witness), ["+w", "added x"]);
    assert_eq!(world.heard_by(second), ["+w,x"]);
    world.break_off(second); // has the whole of the grace again
    world.wait(GRACE_MS - 1);
    assert_eq!(world.heard_by(witness), ["+w", "added x"]);
    world.wait(1);
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    assert_eq!(world.present(channel), "w");
    world.finish();
}

#[test]
fn who_comes_and_goes_too_often_is_told_of_once_it_stays_away() {
    let (mut world, channel, witness) = looked_on();
    let who = world.guest(1);
    world.join(who, "x", channel);
    for _ in 0..3 {
        world.flap(who, channel);
        world.wait(GRACE_MS - 1);
        world.join(who, "x", channel);
    }
    assert_eq!(world.heard_by(witness), ["+w", "added x"]);
    world.flap(who, channel);
    world.wait(GRACE_MS);
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    world.finish();
}

#[test]
fn whoever_breaks_off_again_has_the_whole_of_the_grace_again() {
    let (mut world, channel, witness) = looked_on();
    for wait_ms in [1_000, GRACE_MS - 1_000, 999] {
        let who = world.guest(1);
        world.join(who, "x", channel);
        world.break_off(who);
        world.wait(wait_ms); // the second time, to the end of the first grace
        assert_eq!(world.heard_by(witness), ["+w", "added x"]);
    }
    world.wait(GRACE_MS - 1_000);
    assert_eq!(world.heard_by(witness), ["+w", "added x"]);
    world.wait(1);
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    world.finish();
}

#[test]
fn a_return_after_the_grace_is_told() {
    let (mut world, channel, witness) = looked_on();
    let first = world.guest(2);
    world.join(first, "x", channel);
    world.break_off(first);
    world.wait(GRACE_MS);
    let second = world.guest(2);
    world.join(second, "x", channel);
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x", "added x"]);
    world.finish();
}

#[test]
fn whoever_returns_within_the_grace_and_leaves_in_good_order_leaves_once() {
    let (mut world, channel, witness) = looked_on();
    let first = world.guest(2);
    world.join(first, "x", channel);
    world.break_off(first);
    let second = world.guest(1);
    world.join(second, "x", channel);
    world.unsubscribe(second, channel);
    world.settle();
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    let third = world.guest(1);
    world.join(third, "x", channel);
    world.wait(GRACE_MS); // the first one's time is over, which is of no meaning now
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x", "added x"]);
    world.finish();
}

#[test]
fn a_connection_that_breaks_off_while_another_stays_is_not_missed() {
    let (mut world, channel, witness) = looked_on();
    let [first, second] = world.guests([1, 2]);
    world.join(first, "x", channel);
    world.join(second, "x", channel);
    world.break_off(first);
    world.unsubscribe(second, channel);
    world.settle();
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    world.wait(GRACE_MS);
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    world.finish();
}

#[test]
fn a_return_races_the_end_of_the_grace() {
    let channel = three_shards().1;
    let new = || {
        let (mut world, _, _) = looked_on();
        let first = world.guest(2);
        world.join(first, "x", channel);
        world.break_off(first);
        world.tick(GRACE_MS - 1_000);
        world.guest(2);
        world
    };
    let come = |world: &mut World| world.subscribe_as(2, "x", &[channel]);
    let check = |world: &mut World| {
        let heard = world.heard_by(0).join(" ");
        assert!(["+w added x", "+w added x removed x added x"].contains(&&*heard), "{heard}");
        assert_eq!(world.present(channel), "w,x");
    };
    assert!(in_every_order(new, &[&come, &|world| world.tick(1_000)], check) > 1);
}

#[test]
fn a_missing_member_outlives_its_channels_last_subscription() {
    let (mut world, channel) = three_shards();
    let who = world.guest(0);
    world.join(who, "x", channel);
    world.break_off(who); // observed: left, vacated; the member is removed when its time is over
    assert_eq!(world.ask(Query::ChannelCount("two".into())).count(), 0);
    assert_eq!(world.present(channel), "x");
    assert!(!world.cores[1].is_bare());
    world.wait(GRACE_MS);
    assert!(world.cores[1].is_bare());
    world.finish();
}

#[test]
fn a_full_channel_takes_no_more_users_but_more_connections() {
    let (mut world, channel, _) = looked_on();
    let [first, second, third] = world.guests([0, 1, 2]);
    world.join(first, "x", channel);
    world.join(second, "y", channel);
    world.join(third, "x", channel);
    assert_eq!(world.heard_by(second), ["!"]);
    assert_eq!(world.heard_by(third), ["+w,x"]);
    // whoever is missing keeps its place
    world.break_off(first);
    world.break_off(third);
    world.join(second, "y", channel);
    assert_eq!(world.heard_by(second), ["!", "!"]);
    world.wait(GRACE_MS);
    world.join(second, "y", channel);
    assert_eq!(world.heard_by(second), ["!", "!", "+w,y"]);
    world.finish();
}

#[test]
fn two_want_the_last_place_and_one_gets_it() {
    let channel = three_shards().1;
    let new = || {
        let (mut world, _, _) = looked_on();
        world.guests([0, 2]);
        world
    };
    let check = |world: &mut World| {
        let heard = [1, 2].map(|who| world.heard_by(who).join(" "));
        let expected = [["+w,x", "!"], ["!", "+w,y"]];
        assert!(expected.contains(&heard.each_ref().map(|heard| &**heard)), "{heard:?}");
        let (winner, told) = if heard[0] == "!" { ("w,y", "added y") } else { ("w,x", "added x") };
        assert_eq!(world.present(channel), winner);
        assert_eq!(world.heard_by(0), ["+w", told]);
    };
    in_every_order(
        new,
        &[&|world| world.subscribe_as(1, "x", &[channel]), &|world| world.subscribe_as(2, "y", &[channel])],
        check,
    );
}

#[test]
fn a_multi_subscribe_with_one_full_channel_leaves_no_member_on_the_others() {
    let (mut world, full, _) = looked_on();
    let free = world.name_at("two", "presence-", 2);
    let [other, witness, who] = world.guests([1, 2, 0]);
    world.join(other, "x", full);
    world.join(witness, "w", &free);
    for homes in [[1, 2], [2, 1]] {
        world.subscribe_as(who, "y", &["a", full, &free]);
        for home in homes {
            assert!(world.deliver(0, home) && world.deliver(home, 0));
        }
        world.settle();
    }
    assert_eq!(world.heard_by(who), ["!", "!"]);
    assert_eq!(world.heard_by(witness).join(" "), "+w added y removed y added y removed y");
    assert_eq!((world.present(full), world.present(&free)), ("w,x".into(), "w".into()));
    assert!(world.clients[who].subscriptions.is_empty());
    world.finish();
}

#[test]
fn too_much_to_say_is_refused_for_all_channels() {
    let (mut world, channel, witness) = looked_on();
    let who = world.guest(0);
    let channels = ["a".into(), channel.into()].into();
    world.command(who, Command::Subscribe { channels, person: "x", is_large: true });
    world.settle();
    assert_eq!(world.heard_by(who), ["!"]);
    assert_eq!(world.heard_by(witness), ["+w"]);
    world.finish();
}

#[test]
fn who_is_no_member_sees_them_come_and_go_and_counts_as_a_subscriber() {
    let (mut world, channel, _) = looked_on();
    let onlooker = world.connect(2, "two", "u", 0, &["*"]);
    world.subscribe(onlooker, &[channel]);
    world.settle();
    let who = world.guest(1);
    world.join(who, "x", channel);
    world.unsubscribe(who, channel);
    world.settle();
    assert_eq!(world.heard_by(onlooker), ["+", "added x", "removed x"]);
    world.finish();
}

#[test]
fn what_a_member_says_carries_its_name_even_if_it_leaves_at_once() {
    let (mut world, channel, witness) = looked_on();
    let who = world.guest(2);
    world.join(who, "x", channel);
    world.say(who, channel, Whom::All);
    world.unsubscribe(who, channel);
    world.settle();
    assert_eq!(world.heard_by(witness), ["+w", "added x", "0 x", "removed x"]);
    assert_eq!(world.heard_by(who), ["+w,x", "-"]);
    world.finish();
}

#[test]
fn a_terminated_user_has_no_grace() {
    let (mut world, channel, witness) = looked_on();
    let who = world.guest(2);
    world.sign_in(who, "x", &[]);
    world.settle();
    world.join(who, "x", channel);
    world.terminate(0, "two", "x");
    world.settle();
    assert!(world.clients[who].gone);
    assert_eq!(world.heard_by(witness), ["+w", "added x", "removed x"]);
    assert_eq!(world.present(channel), "w");
    world.finish();
}
