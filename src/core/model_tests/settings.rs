//! Settings that change, and connections that must show who they are.

use super::*;

impl World {
    fn apply<T>(&mut self, change: impl FnOnce(&mut Settings) -> T) {
        let mut settings = Settings::clone(self.cores[0].settings());
        change(&mut settings);
        let settings = Arc::new(settings);
        self.cores.iter_mut().for_each(|core| core.apply_settings(settings.clone()));
    }

    /// Connections that are to be closed now, and why.
    fn closes(&mut self) -> Vec<(usize, CloseReason)> {
        let mut closes = Vec::new();
        for shard in 0..self.cores.len() {
            let mut effects = Vec::new();
            self.cores[shard].take_effects(&mut effects);
            for effect in effects {
                if let Effect::Close(slot, reason) = effect {
                    closes.push((self.tenant(shard, slot), reason));
                }
            }
        }
        closes
    }
}

#[test]
fn connections_of_apps_that_are_gone_or_disabled_are_closed_once() {
    let mut world = World::new(2, 0);
    let [one, two, open] =
        [("one", 0), ("two", 1), ("open", 0)].map(|(app, shard)| world.connect(shard, app, "", 0, &[]));
    let other = world.connect(1, "one", "", 0, &[]);
    world.apply(|settings| settings.apps.get_mut("one").unwrap().enabled = false);
    assert_eq!(world.closes(), [(one, CloseReason::AppDisabled), (other, CloseReason::AppDisabled)]);
    world.apply(|_| {});
    world.apply(|settings| settings.apps.remove("one"));
    assert_eq!(world.closes(), []); // once is enough
    world.apply(|settings| settings.apps.remove("two"));
    assert_eq!(world.closes(), [(two, CloseReason::AppRemoved)]);
    // who came for an app that nobody configured may stay, unless it is disabled by name
    assert!(world.cores[0].connection(world.ids[open].slot).is_some());
    world.apply(|settings| settings.apps.insert("open".into(), AppSettings::DEFAULT));
    assert_eq!(world.closes(), []);
    world.apply(|settings| settings.apps.get_mut("open").unwrap().enabled = false);
    assert_eq!(world.closes(), [(open, CloseReason::AppDisabled)]);
}

#[test]
fn whoever_is_about_to_be_closed_is_not_closed_again() {
    let mut world = World::new(1, 0);
    world.connect(0, "one", "", 0, &[]);
    world.cores[0].close(0, CloseReason::SlowReader);
    world.apply(|settings| settings.apps.get_mut("one").unwrap().enabled = false);
    assert_eq!(world.closes(), [(0, CloseReason::SlowReader)]);
}

#[test]
fn what_was_granted_stays() {
    let mut world = World::new(2, 0);
    let who = world.guest(0);
    world.subscribe_as(who, "x", &["presence-p"]);
    world.settle();
    world.apply(|settings| {
        let two = settings.apps.get_mut("two").unwrap();
        (two.presence_members_max, two.presence_member_bytes_max) = (1, 0);
        settings.limits.subscriptions_per_connection_max = 0;
    });
    world.settle();
    assert!(world.cores[0].is_subscribed(world.ids[who].slot, "presence-p"));
    world.finish();
}

#[test]
fn counts_of_apps_that_stay_are_kept() {
    let mut world = World::new(1, 0);
    world.publish(0, "one", "a", 0, None);
    world.publish(0, "two", "a", 0, None);
    world.apply(|settings| settings.apps.remove("two"));
    world.publish(0, "one", "a", 0, None);
    let stats = world.cores[0].stats();
    assert_eq!((stats.events_in, stats.app_events_in), (3, [("one".into(), 2)].into()));
}

/// Somebody who must show who it is.
fn unknown(world: &mut World) -> usize {
    let patterns = ["*".into()].into();
    world.enter(0, Client { app: "one", patterns, must_authorize: true, ..Client::default() })
}

#[test]
fn whoever_does_not_show_who_it_is_in_time_is_closed() {
    let mut world = World::new(2, 0);
    let silent = unknown(&mut world);
    let public = unknown(&mut world);
    let refused = unknown(&mut world);
    let private = unknown(&mut world);
    let member = unknown(&mut world);
    let signed_in = unknown(&mut world);
    let need_not = world.connect(0, "one", "", 0, &["*"]);
    let patterns = ["*".into()].into();
    let of_another_app = world.enter(0, Client { app: "two", patterns, must_authorize: true, ..Client::default() });
    world.subscribe(public, &["a", "cache-c"]);
    world.subscribe(private, &["private-x"]);
    world.subscribe(member, &["presence-p"]);
    world.sign_in(signed_in, "x", &[]);
    // refused, for they are too many
    world.subscribe(refused, &["private-1", "private-2", "private-3", "private-4", "private-5"]);
    world.settle();
    world.wait(AUTHORIZE_MS - 1);
    assert!(world.clients.iter().all(|client| !client.gone));
    world.wait(1_001);
    let gone = [silent, public, refused, private, member, signed_in, need_not, of_another_app];
    assert_eq!(gone.map(|who| world.clients[who].gone), [true, true, true, false, false, false, false, false]);
    world.finish();
}

#[test]
fn who_has_shown_it_need_not_stay_where_it_did() {
    let mut world = World::new(1, 0);
    let who = unknown(&mut world);
    world.subscribe(who, &["private-x"]);
    world.unsubscribe(who, "private-x");
    world.wait(AUTHORIZE_MS + 1_000);
    assert!(!world.clients[who].gone);
    world.finish();
}

#[test]
fn whoever_shows_it_too_late_is_closed_though_it_has_begun() {
    let mut world = World::new(2, 0);
    let channel = world.name_at("one", "private-", 1);
    let who = unknown(&mut world);
    world.subscribe(who, &[&channel]);
    assert!(world.deliver(0, 1)); // the answer is on its way
    world.tick(AUTHORIZE_MS + 1_000);
    assert_eq!(world.clients[who].closing.map(|(reason, _)| reason), Some(CloseReason::Unauthorized));
    world.settle();
    world.finish();
}
