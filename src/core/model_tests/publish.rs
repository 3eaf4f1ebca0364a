//! Whom events are for, how many that is, and what clients say.

use super::*;

/// Two shards, a private channel at home on the second, and its subscribers: one without a session on the first, `s` on
/// the first and on the second, and `s.t` on the second. The last one is not subscribed.
fn audience() -> (World, &'static str) {
    let mut world = World::new(2, 0);
    let channel = String::leak(world.name_at("two", "private-", 1));
    for (shard, session) in [(0, None), (0, Some("s")), (1, Some("s")), (1, Some("s.t")), (0, Some("s"))] {
        let patterns = ["*".into()].into();
        let who = world.enter(shard, Client { app: "two", patterns, session, ..Client::default() });
        if who < 4 {
            world.subscribe(who, &[channel]);
            world.settle();
        }
    }
    (world, channel)
}

impl World {
    /// Which clients have heard an event.
    fn heard_of(&mut self, number: usize) -> Vec<usize> {
        self.settle();
        (0..self.clients.len()).filter(|who| self.heard_by(*who).contains(&number.to_string())).collect()
    }
}

#[test]
fn targets() {
    let (mut world, channel) = audience();
    let mut check = |whom: Whom, expected: &[usize]| {
        let number = world.events.len();
        world.publish_to(0, "two", channel, 0, whom);
        assert_eq!(world.heard_of(number), expected);
        let request = world.publish_counted(0, "two", [channel, "nobody"], whom);
        world.settle();
        let Some(Answer::PerChannel(mut counts)) = world.requests[request].1.clone() else { panic!("no counts") };
        counts.sort();
        assert_eq!(counts, [("nobody".into(), 0), (channel.into(), expected.len() as u64)]);
        assert_eq!(world.heard_of(number + 1), expected);
    };
    check(Whom::All, &[0, 1, 2, 3]);
    check(Whom::Except(2), &[0, 1, 3]);
    check(Whom::Except(4), &[0, 1, 2, 3]);
    check(Whom::Only(3), &[3]);
    check(Whom::Only(0), &[0]);
    check(Whom::Only(4), &[]);
    check(Whom::Named("s"), &[1, 2, 3]);
    check(Whom::Named("s.t"), &[3]);
    check(Whom::Named("t"), &[]);
    check(Whom::Named("s."), &[]);
    check(Whom::Named(""), &[]);
    world.finish();
}

#[test]
fn a_session_is_meant_by_its_whole_name() {
    let (mut world, channel) = audience();
    for prefix in [None, Some("t"), Some("s.t")] {
        let event = Event::new("two", Data::Value("0".into()), 0);
        let name = SessionName { prefix: prefix.map(Arc::from), id: world.ids[1] };
        let publication = Publication { target: Target::Only(name), ..Publication::new(channel.into(), event) };
        let (request, app) = (world.requests.len() as RequestId, "two".into());
        world.requests.push((Asked::Query, None));
        world.cores[1].publish_counted(request, &app, vec![publication]).unwrap();
        world.after(1);
        world.settle();
        assert_eq!(world.requests[request as usize].1.as_ref().unwrap().count(), 0);
        assert!(!world.heard_by(1).contains(&"0".into()));
    }
    world.end();
}

#[test]
fn targets_mixed_in_one_batch_keep_the_order() {
    let (mut world, channel) = audience();
    for whom in [Whom::All, Whom::Named("s"), Whom::Except(1), Whom::Only(1), Whom::All] {
        world.publish_to(1, "two", channel, 0, whom);
    }
    world.settle();
    let events = |world: &mut World, who| {
        let heard = world.heard_by(who).into_iter();
        heard.filter(|line| line.parse::<usize>().is_ok()).collect::<String>()
    };
    assert_eq!([0, 1, 2, 3].map(|who| events(&mut world, who)), ["024", "0134", "0124", "0124"]);
    world.finish();
}

#[test]
fn what_a_client_says_is_for_the_others_unless_it_is_the_target() {
    let (mut world, channel) = audience();
    let mut check = |whom: Whom, expected: &[usize]| {
        let number = world.events.len();
        world.say(1, channel, whom);
        assert_eq!(world.heard_of(number), expected);
    };
    check(Whom::All, &[0, 2, 3]);
    check(Whom::Only(1), &[1]);
    check(Whom::Only(2), &[2]);
    check(Whom::Named("s"), &[1, 2, 3]);
    world.say(4, channel, Whom::All); // is not subscribed
    assert_eq!(world.events.len(), 4);
    world.finish();
}

#[test]
fn what_a_client_says_right_before_it_leaves_or_breaks_off_is_still_heard() {
    let (mut world, channel) = audience();
    world.say(0, channel, Whom::All);
    world.unsubscribe(0, channel);
    world.say(0, channel, Whom::All);
    world.say(1, channel, Whom::All);
    world.disconnect(1);
    world.settle();
    assert_eq!(world.events.len(), 2);
    assert_eq!(world.heard_of(0), [2, 3]);
    assert_eq!(world.heard_of(1), [2, 3]);
    world.finish();
}

#[test]
fn counts_are_those_of_the_moment_the_event_comes_to_the_subscribers() {
    let (mut world, channel) = audience();
    let request = world.publish_counted(1, "two", [channel, "other"], Whom::All);
    world.unsubscribe(0, channel); // before the event is there
    world.settle();
    let Some(answer) = &world.requests[request].1 else { panic!("no counts") };
    assert_eq!(answer.count(), 3);
    world.finish();
}

#[test]
fn the_parts_of_an_answer_may_come_in_any_order() {
    let mut world = World::new(4, 0);
    let [near, far] = [1, 2].map(|shard| &*String::leak(world.name_at("two", "c", shard)));
    for shard in [0, 3, 3] {
        let who = world.guest(shard);
        world.subscribe(who, &[near]);
        world.settle();
        world.subscribe(who, &[far]);
        world.settle();
    }
    let request = world.publish_counted(0, "two", [near, far], Whom::All);
    // the subscribers' shard answers before the home's own part is there
    assert!(world.deliver(0, 1) && world.deliver(1, 3) && world.deliver(3, 0));
    assert!(world.requests[request].1.is_none());
    world.settle();
    assert_eq!(world.requests[request].1.as_ref().unwrap().count(), 6);
    world.finish();
}

#[test]
fn a_small_channel_waits_for_a_slice_of_a_large_one_and_no_longer() {
    let mut world = World::new(1, 0);
    let many: Vec<usize> = (0..20).map(|_| world.connect(0, "one", "", 0, &["*"])).collect();
    let few = world.connect(0, "one", "", 0, &["*"]);
    many.iter().for_each(|who| world.subscribe(*who, &["a"]));
    world.subscribe(few, &["b"]);
    world.settle();
    world.publish(0, "one", "a", 0, None);
    world.fan_out(0);
    world.publish(0, "one", "b", 0, None);
    world.fan_out(0);
    world.fan_out(0);
    assert!(world.heard_by(few).contains(&"1".into()));
    assert!(world.cores[0].has_fan_out(), "the large one is still served");
    world.finish();
}

#[test]
fn a_slice_of_a_large_batch_has_fewer_subscribers() {
    for (size, turns) in [(1, 5), (2000, 10)] {
        let mut world = World::new(1, 0);
        let many: Vec<usize> = (0..10).map(|_| world.connect(0, "one", "", 0, &["*"])).collect();
        many.iter().for_each(|who| world.subscribe(*who, &["a"]));
        world.settle();
        world.publish(0, "one", "a", size, None);
        for turn in 1..=turns {
            world.fan_out(0);
            assert_eq!(world.cores[0].has_fan_out(), turn < turns, "{size} {turn}");
        }
        world.finish();
    }
}

#[test]
fn a_channel_rests_unless_a_full_batch_waits() {
    let mut world = World::new(1, 0);
    let who = world.connect(0, "one", "", 0, &["*"]);
    world.subscribe(who, &["a"]);
    world.settle();
    // two of them are more than a batch may have
    for _ in 0..3 {
        world.publish(0, "one", "a", 300, None);
    }
    for (began_us, next_us) in [(1_000, 2_000), (2_000, 6_000)] {
        world.cores[0].begin_turn(began_us);
        world.cores[0].fan_out();
        world.after(0);
        world.cores[0].end_turn(began_us + 1_000);
        assert_eq!(world.cores[0].next_fan_out_us(), Some(next_us));
    }
    world.finish();
}
