//! Users by sign-in: their own channels, those who watch them, and the end of their connections.

use super::orders::in_every_order;
use super::*;

/// Four shards; a client on the first, and a person whose own channel is at home on the second, who is at home on the
/// third, and who will watch somebody at home on the fourth.
fn about_to_sign_in() -> (World, usize, &'static str, &'static str) {
    let mut world = World::new(4, 0);
    let who = world.guest(0);
    let (person, watched) = (world.person_at(2, 1), world.person_at(3, 3));
    (world, who, person, watched)
}

/// Three shards: a watcher and all that is its own on the first; the watched one is at home on the second, and its
/// connections and its own channel are on the third.
fn watched() -> (World, &'static str, &'static str) {
    let mut world = World::new(3, 0);
    world.guests([0, 2, 2]);
    let (watcher, watched) = (world.person_at(0, 0), world.person_at(1, 2));
    (world, watcher, watched)
}

impl World {
    /// Whether a watcher sees somebody online, by what it was told.
    fn sees_online(&mut self, who: usize, person: &str) -> bool {
        self.flush(who, usize::MAX);
        self.state(who, person)
    }

    fn own(&self, who: usize) -> String {
        own_channel(&self.clients[who].signed_in.as_ref().unwrap().0.into()).as_str().to_owned()
    }
}

#[test]
fn a_disconnect_at_any_moment_of_a_sign_in_leaves_nothing_behind() {
    for hops in 0..27 {
        let (mut world, who, person, watched) = about_to_sign_in();
        world.sign_in(who, person, &[watched]);
        // of each of the three homes: it knows nothing yet, it knows, its answer is there
        for (home, hops) in [(1, hops % 3), (2, hops / 3 % 3), (3, hops / 9)] {
            assert!(hops < 1 || world.deliver(0, home));
            assert!(hops < 2 || world.deliver(home, 0));
        }
        assert_eq!(world.clients[who].signed_in.is_some(), hops == 26);
        world.disconnect(who);
        let heir = world.guest(0);
        assert_eq!(world.ids[heir].slot, world.ids[who].slot);
        world.settle();
        assert!(world.cores[1..].iter().all(Core::is_bare), "{hops}");
        assert!(world.cores[0].connection(world.ids[heir].slot).unwrap().signed_in().is_none());
        world.finish();
    }
}

#[test]
fn a_sign_in_ends_once_all_homes_have_confirmed_in_any_order() {
    let (_, _, person, watched) = about_to_sign_in();
    let new = || about_to_sign_in().0;
    let check = |world: &mut World| {
        assert_eq!(world.heard_by(0), ["+".into(), format!("signed . .{watched},")]);
    };
    let orders = in_every_order(new, &[&|world| world.sign_in(0, person, &[watched])], check);
    assert_eq!(orders, 90); // three letters there and three back
}

#[test]
fn who_watches_ends_up_right_in_every_order() {
    let (_, watcher, person) = watched();
    let new = || watched().0;
    let watch: orders::Action<'_> = &|world| world.sign_in(0, watcher, &[person]);
    let come: orders::Action<'_> = &|world| world.sign_in(1, person, &[]);
    let go: orders::Action<'_> = &|world| world.disconnect(1);
    let come_again: orders::Action<'_> = &|world| world.sign_in(2, person, &[]);
    let online = |world: &mut World| assert!(world.sees_online(0, person));
    let offline = |world: &mut World| assert!(!world.sees_online(0, person));
    in_every_order(new, &[watch, come], online);
    in_every_order(new, &[come, watch], online);
    in_every_order(new, &[watch, come, go], offline);
    in_every_order(new, &[come, watch, go], offline);
    in_every_order(new, &[come, go, watch], offline);
    in_every_order(new, &[come, watch, come_again, go], online);
    in_every_order(new, &[come, come_again, watch, go], online);
}

#[test]
fn a_watcher_that_goes_at_any_moment_is_told_nothing_more() {
    let (_, watcher, person) = watched();
    let new = || watched().0;
    let check = |world: &mut World| assert!(world.cores[0].is_bare());
    let watch: orders::Action<'_> = &|world| world.sign_in(0, watcher, &[person]);
    let come: orders::Action<'_> = &|world| world.sign_in(1, person, &[]);
    in_every_order(new, &[watch, come, &|world| world.disconnect(0)], check);
}

#[test]
fn a_user_is_online_until_its_last_connection_goes() {
    let (mut world, watcher, person) = watched();
    world.sign_in(0, watcher, &[person]);
    world.settle();
    for who in [1, 2] {
        world.sign_in(who, person, &[]);
        world.settle();
    }
    world.break_off(1);
    assert!(world.sees_online(0, person));
    world.break_off(2);
    assert_eq!(
        world.heard_by(0)[1..],
        [format!("signed . .{person},"), format!("state {person} true"), format!("state {person} false")]
    );
    world.finish();
}

#[test]
fn who_watches_itself_comes_online_once() {
    let (mut world, who, person, _) = about_to_sign_in();
    world.sign_in(who, person, &[]);
    world.settle();
    for shard in 0..4 {
        let other = world.guest(shard);
        world.sign_in(other, person, &[person]);
        world.settle();
        assert_eq!(world.heard_by(other), ["+".into(), format!("signed .{person}, .")]);
        world.break_off(other);
    }
    world.break_off(who);
    let alone = world.guest(0);
    world.sign_in(alone, person, &[person]);
    world.settle();
    assert_eq!(world.heard_by(alone), ["+".into(), format!("signed .{person}, .")]);
    world.finish();
}

#[test]
fn signing_in_again_changes_nothing_and_as_another_is_refused() {
    let (mut world, who, person, watched) = about_to_sign_in();
    world.sign_in(who, person, &[watched]);
    world.sign_in(who, person, &[]);
    world.sign_in(who, watched, &[]);
    world.settle();
    assert_eq!(world.heard_by(who), ["+".into(), format!("signed . .{watched},"), "!".into(), "!".into()]);
    assert_eq!(world.cores[0].connection(0).unwrap().signed_in().unwrap().as_str(), person);
    assert_eq!(&world.cores[0].connection(0).unwrap().user_info()[..], b"two");
    world.finish();
}

#[test]
fn a_user_id_that_is_too_long_is_refused() {
    let (mut world, who, ..) = about_to_sign_in();
    let (core, user) = (&mut world.cores[0], "x".repeat(256));
    core.sign_in(world.ids[who].slot, member("two", &user, false), Vec::new());
    let mut effects = Vec::new();
    core.take_effects(&mut effects);
    assert!(matches!(effects[..], [Effect::Outcome(_, Outcome::Refused(Rejection::UserIdTooLong))]), "{effects:?}");
    assert!(!core.connection(0).unwrap().is_busy());
    world.finish();
}

#[test]
fn events_for_a_user_reach_all_that_are_signed_in_as_it_and_nobody_else() {
    let (mut world, first, person, watched) = about_to_sign_in();
    let [second, other, stranger] = world.guests([3, 1, 2]);
    let elsewhere = world.connect(0, "one", "", 0, &["*"]);
    for (who, person) in [(first, person), (second, person), (other, watched), (elsewhere, person)] {
        world.sign_in(who, person, &[]);
    }
    world.settle();
    world.publish_to_person(2, "two", person);
    world.settle();
    let heard = [first, second, other, elsewhere, stranger].map(|who| world.heard_by(who).join(" "));
    assert_eq!(heard, ["+ signed . . 0", "+ signed . . 0", "+ signed . .", "+ signed . .", ""]);
    world.finish();
}

#[test]
fn an_event_for_a_user_comes_after_the_sign_in_has_ended_or_not_at_all() {
    let (_, _, person, watched) = about_to_sign_in();
    let new = || about_to_sign_in().0;
    let check = |world: &mut World| {
        let heard = world.heard_by(0);
        assert_eq!(heard[..2], ["+".into(), format!("signed . .{watched},")]);
        assert!(heard[2..].is_empty() || heard[2..] == ["0"], "{heard:?}");
    };
    // the own channel is at home on shard 1, so the event is there at once
    in_every_order(
        new,
        &[&|world| world.sign_in(0, person, &[watched]), &|world| world.publish_to_person(1, "two", person)],
        check,
    );
}

#[test]
fn only_its_owner_has_a_users_channel() {
    let (mut world, who, person, other) = about_to_sign_in();
    let own = own_channel(&person.into());
    let grant = |world: &World, channel: &str| Grant::own(world.cores[0].connection(0).unwrap(), channel).map(|_| ());
    assert_eq!(grant(&world, own.as_str()), Err(Rejection::NotPermitted));
    world.sign_in(who, person, &[]);
    assert_eq!(grant(&world, own.as_str()), Err(Rejection::NotPermitted)); // not before the end
    world.settle();
    assert_eq!(grant(&world, own.as_str()), Ok(()));
    assert_eq!(grant(&world, own_channel(&other.into()).as_str()), Err(Rejection::NotPermitted));
    assert_eq!(grant(&world, "#server-to-user-"), Err(Rejection::ChannelNameReserved));
    assert_eq!(grant(&world, "news"), Err(Rejection::ChannelNameReserved));
    world.finish();
}

#[test]
fn a_users_channel_can_be_left_and_had_again() {
    let (mut world, who, person, _) = about_to_sign_in();
    world.sign_in(who, person, &[]);
    world.settle();
    let own = world.own(who);
    world.unsubscribe(who, &own);
    world.settle();
    assert_eq!(world.cores[1].channels.occupied, 0);
    world.publish_to_person(3, "two", person);
    world.settle();
    let (_, core, slot) = world.at(who);
    let grant = Grant::own(core.connection(slot).unwrap(), &own).unwrap();
    core.subscribe(slot, vec![grant]);
    let channels = vec![(own, 0)];
    world.clients[who].doing = Some(Doing { channels, ..Doing::default() });
    world.after(0);
    world.settle();
    world.publish_to_person(3, "two", person);
    world.settle();
    assert_eq!(world.heard_by(who), ["+", "signed . .", "-", "+", "1"]);
    world.end();
}

#[test]
fn a_users_channel_is_no_channel_of_the_app() {
    let (mut world, who, person, _) = about_to_sign_in();
    world.sign_in(who, person, &[]);
    world.settle();
    assert_eq!(world.ask(Query::ChannelCount("two".into())).count(), 0);
    assert_eq!(world.ask(Query::Channels("two".into())).count(), 0);
    assert_eq!(world.ask(Query::Describe("two".into(), Which::Occupied("".into()))).count(), 0);
    world.publish_matching(0, "two", "");
    world.settle();
    assert_eq!(world.heard_by(who), ["+", "signed . ."]);
    let own = Publication::new(world.own(who).as_str().into(), Event::new("e", Data::Value("1".into()), 0));
    assert_eq!(world.cores[0].publish(&"two".into(), own), Err(Rejection::ChannelNameReserved));
    world.finish();
}

#[test]
fn whoever_is_terminated_while_signing_in_ends_or_is_signed_in_whole() {
    let (_, _, person, watched) = about_to_sign_in();
    let new = || about_to_sign_in().0;
    let check = |world: &mut World| {
        let Some(connection) = world.cores[0].connection(0) else { return };
        assert_eq!(connection.signed_in().unwrap().as_str(), person);
        assert_eq!(world.heard_by(0).len(), 2);
        world.terminate(3, "two", person);
        world.settle();
        assert!(world.clients[0].gone);
    };
    let sign_in: orders::Action<'_> = &|world| world.sign_in(0, person, &[watched]);
    in_every_order(new, &[sign_in, &|world| world.terminate(1, "two", person)], check);
}

#[test]
fn to_terminate_a_user_ends_its_connections_and_no_others_and_it_may_come_back() {
    let (mut world, first, person, watched) = about_to_sign_in();
    let [second, other, member] = world.guests([3, 1, 2]);
    let elsewhere = world.connect(0, "one", "", 0, &["*"]);
    for (who, person) in [(first, person), (second, person), (other, watched), (elsewhere, person)] {
        world.sign_in(who, person, &[]);
    }
    world.subscribe_as(member, person, &["presence-p"]); // a member is not signed in
    world.settle();
    world.terminate(1, "two", person);
    world.settle();
    assert_eq!(
        [first, second, other, elsewhere, member].map(|who| world.clients[who].gone),
        [true, true, false, false, false]
    );
    let again = world.guest(0);
    world.sign_in(again, person, &[]);
    world.settle();
    assert_eq!(world.heard_by(again), ["+", "signed . ."]);
    world.terminate(1, "two", "nobody");
    world.settle();
    world.finish();
}

#[test]
fn a_termination_on_its_way_never_touches_the_next_in_the_slot() {
    let (mut world, first, person, _) = about_to_sign_in();
    world.sign_in(first, person, &[]);
    world.settle();
    world.cores[2].terminate(&"two".into(), person.into());
    world.after(2);
    world.disconnect(first);
    let heir = world.guest(0);
    assert_eq!(world.ids[heir].slot, world.ids[first].slot);
    world.sign_in(heir, person, &[]);
    world.settle();
    assert!(!world.clients[heir].gone);
    world.finish();
}

#[test]
fn whom_a_sign_in_took_over_the_limit_is_refused_more_and_not_told_otherwise() {
    let (mut world, who, person, _) = about_to_sign_in();
    world.subscribe(who, &["a", "ab", "b", "bc"]);
    world.sign_in(who, person, &[]);
    world.settle();
    assert_eq!(world.clients[who].subscriptions.len(), SUBSCRIPTIONS_MAX + 1);
    world.subscribe(who, &["a", "private-x"]); // the first of them it has
    world.settle();
    assert_eq!(world.heard_by(who).pop().unwrap(), "!");
    world.finish();
}
