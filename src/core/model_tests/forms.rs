//! Plain and deflated forms of what is sent to a channel.

use super::*;

/// Clients on each of two shards, of each of these forms.
fn readers(forms: &[(DialectIndex, bool)]) -> World {
    let mut world = World::new(2, 0);
    for shard in [0, 0, 1] {
        for (dialect, deflated) in forms.iter().copied() {
            let patterns = vec!["*".into()];
            let who = world.enter(shard, Client { app: "one", dialect, deflated, patterns, ..Client::default() });
            world.subscribe(who, &["a"]);
        }
    }
    world.settle();
    world
}

/// Frames encoded, and frames deflated.
fn encoded(world: &World) -> [u64; 2] {
    let stats: Vec<Stats> = world.cores.iter().map(Core::stats).collect();
    [stats.iter().map(|stats| stats.frames_encoded).sum(), stats.iter().map(|stats| stats.frames_deflated).sum()]
}

#[test]
fn each_is_made_once_if_it_is_read_and_shared_where_they_are_the_same() {
    let all = [(0, false), (0, true), (1, false), (1, true)];
    for picked in 1..1_usize << all.len() {
        let forms: Vec<_> = (0..all.len()).filter(|at| picked >> at & 1 == 1).map(|at| all[at]).collect();
        for (size, is_worth_it) in [(10, false), (11, true)] {
            let mut world = readers(&forms);
            let line_bytes = "event 0 one a ".len() + size + " -\n".len();
            assert_eq!(deflate(&vec![b'.'; line_bytes], &Limits::default()).is_some(), is_worth_it);
            let dialects = BTreeSet::from_iter(forms.iter().map(|(dialect, _)| dialect)).len();
            let deflated = forms.iter().filter(|(_, deflated)| *deflated && is_worth_it).count();
            let plain = if is_worth_it { forms.len() - deflated } else { dialects };
            let bytes = plain * line_bytes + deflated * (line_bytes + 1);

            world.publish(0, "one", "a", size, None);
            for (from, to) in [(0, 1), (1, 0)] {
                while world.deliver(from, to) {}
            }
            assert_eq!(encoded(&world), [dialects as u64, deflated as u64], "{forms:?}");
            assert_eq!(world.node.ledger.bytes(), bytes, "{forms:?}");
            let backlog = world.node.backlog.iter().map(|behind| behind.load(Ordering::Relaxed));
            assert_eq!(backlog.collect::<Vec<_>>(), [bytes; 2], "{forms:?}");
            world.finish();
        }
    }
}

#[test]
fn one_batch_for_each_form() {
    let mut world = readers(&[(0, false), (0, true)]);
    for size in [10, 11, 12] {
        world.publish(0, "one", "a", size, None);
    }
    world.settle();
    for who in 0..world.clients.len() {
        let read = str::from_utf8(&world.clients[who].read).unwrap();
        let events = read.lines().filter(|line| line.contains("event")).map(|line| line.starts_with('z'));
        assert_eq!(events.collect::<Vec<_>>(), [false, world.clients[who].deflated, false]);
    }
    world.finish();
}
