//! What must hold: after every call, for whatever a shard wants done, and at rest.

use super::*;
use crate::core::roster::{COUNT_EVERY_MS, FLAPPING_GRACE_MS};

impl World {
    pub(super) fn closed(&mut self, who: usize, reason: CloseReason) {
        let (_, core, slot) = self.at(who);
        let waiting = core.connection(slot).unwrap().outbox().weight();
        let client = &mut self.clients[who];
        assert!(client.closing.replace((reason, waiting)).is_none());
        match reason {
            CloseReason::SlowReader => assert!(waiting > 0),
            CloseReason::NoPong => assert!(self.now_ms >= client.pinged_ms.unwrap() + 6_000),
            CloseReason::Unsubscribed => {
                assert!(client.subscriptions.is_empty() && client.doing.is_none());
                assert!(self.now_ms >= client.idle_ms + 60_000, "it had a subscription a moment ago");
            }
            CloseReason::Unauthorized => {
                assert!(client.must_authorize && client.app == "one" && self.now_ms >= client.opened_ms + AUTHORIZE_MS);
            }
            CloseReason::Terminated => {
                let signing_in = client.doing.as_ref().and_then(|doing| doing.sign_in.as_ref());
                let person = client.signed_in.as_ref().or(signing_in).map(|(person, _)| *person);
                let is_theirs = |(app, of, _): &(&str, &str, usize)| *app == client.app && Some(*of) == person;
                assert!(self.terminated.iter().any(is_theirs), "terminated by nobody");
            }
            CloseReason::AppDisabled => {
                assert!(client.app == "one" && self.disabled.contains(&self.ids[who].shard.into()));
            }
            reason => panic!("{reason}"),
        }
    }

    pub(super) fn answered(&mut self, request: usize, answer: Answer) {
        let (asked, held) = &mut self.requests[request];
        let (asked, count) = (*asked, answer.count());
        assert!(held.replace(answer).is_none(), "answered twice");
        match asked {
            Asked::Query => {}
            Asked::Matching => self.accepted += count,
            Asked::Counted(channels) => {
                let Some(Answer::PerChannel(counts)) = held else { panic!("no counts: {held:?}") };
                let names = counts.iter().map(|(channel, _)| channel.as_str()).collect::<BTreeSet<_>>();
                assert_eq!((names, counts.len()), (channels.into(), channels.len()));
            }
            Asked::Assign(number) => {
                let To::User(_, Some(assignment)) = &self.notes[number].to else { unreachable!() };
                for who in self.live().into_iter().filter(|who| self.owes(number, *who)) {
                    let has_held = |name| self.clients[who].patterns_ever.contains(name);
                    assert!(assigned(&[], assignment).iter().all(has_held), "answered before it was done");
                }
            }
        }
    }

    /// Compares a client with what its core holds; revocations are noticed here.
    pub(super) fn observe(&mut self, who: usize) {
        let (_, core, slot) = self.at(who);
        let (held, connection) = (subscriptions(core, slot), core.connection(slot).unwrap());
        let (permissions, waiting) = (connection.permissions().clone(), connection.outbox().weight());
        let patterns = permissions.patterns().map(Box::from).collect::<Vec<Box<str>>>();
        let own = self.clients[who].signed_in.as_ref().map(|(person, _)| own_channel(&(*person).into()));
        let is_own = |channel: &str| own.as_ref().is_some_and(|own| own.as_str() == channel);
        let may = |channel: &String| permissions.cover(channel) || is_own(channel);
        assert!(held.iter().all(may), "a subscription without permission");
        assert!(held.is_subset(&self.clients[who].subscriptions));
        for revoked in self.clients[who].subscriptions.clone().difference(&held) {
            assert!(!permissions.cover(revoked), "a subscription was lost");
            self.left(who, revoked.clone());
        }
        let client = &self.clients[who];
        let explains = |note: &Note| match &note.to {
            To::User(user, Some(assignment)) if (note.app, user) == (client.app, &client.user) => {
                assigned(&client.patterns, assignment) == patterns
            }
            _ => false,
        };
        assert!(patterns == client.patterns || self.notes.iter().any(explains), "never assigned: {patterns:?}");
        assert!(client.closing.is_none_or(|(_, then)| waiting <= then), "sent to after its close");
        self.clients[who].patterns_ever.extend(patterns.clone());
        self.clients[who].patterns = patterns;
    }

    /// Lets everything come to rest, compares it with the model, and lets everybody leave.
    pub(super) fn finish(mut self) {
        self.settle();
        self.tick(FLAPPING_GRACE_MS); // in the plain app nobody is missing for longer
        self.settle();
        while self.homes.channels.values().any(|home| home.tell_ms.is_some()) {
            self.tick(COUNT_EVERY_MS);
            self.settle();
        }
        self.check_counts();
        let mut members: BTreeMap<(&str, String), BTreeSet<Arc<str>>> = BTreeMap::new();
        let mut users: BTreeMap<&str, BTreeSet<Arc<str>>> = BTreeMap::new();
        let (mut connections, mut pairs) = (0, 0);
        for client in self.clients.iter().filter(|client| !client.gone) {
            assert!(client.connected.is_some() && client.doing.is_none() && client.todo.is_empty());
            let user = Some(Arc::from(&*client.user)).filter(|_| !client.user.is_empty());
            for channel in &client.subscriptions {
                members.entry((client.app, channel.clone())).or_default().extend(user.clone());
            }
            users.entry(client.app).or_default().extend(user);
            connections += 1;
            pairs += client.subscriptions.len();
        }
        assert!(self.must_end.iter().all(|who| self.clients[*who].gone), "not terminated");
        for app in APPS {
            self.check_channels(app);
            self.check_signed_in(app);
            let key = AppKey::from(app);
            let channels = members.keys().filter(|(of, channel)| *of == app && !channel.starts_with('#'));
            let channels: Vec<Arc<str>> = channels.map(|(_, channel)| channel.as_str().into()).collect();
            let users = users.get(app).cloned().unwrap_or_default();
            assert_eq!(self.ask(Query::ChannelCount(key.clone())).count(), channels.len() as u64);
            assert_eq!(self.ask(Query::Channels(key.clone())).into_names(), channels);
            assert_eq!(self.ask(Query::UserCount(key.clone())).count(), users.len() as u64);
            assert_eq!(self.ask(Query::Users(key)).into_names(), Vec::from_iter(users));
        }
        for ((app, channel), members) in &members {
            let (app, channel) = (AppKey::from(*app), ChannelName::from(channel.as_str()));
            assert_eq!(self.ask(Query::MemberCount(app.clone(), channel.clone())).count(), members.len() as u64);
            assert_eq!(self.ask(Query::Members(app, channel)).into_names(), Vec::from_iter(members.clone()));
        }
        let distinct = users.values().map(BTreeSet::len).sum();
        assert_eq!(self.ask(Query::UsersPerApp).count(), distinct as u64);
        let Answer::Stats(stats) = self.ask(Query::Stats) else { panic!("no stats") };
        let counted = [stats.connections, stats.subscriptions, stats.channels, stats.users].map(|count| count as usize);
        assert_eq!(counted, [connections, pairs, members.len(), distinct]);
        assert_eq!(stats.cache_bytes as usize, self.homes.cached.values().map(|(_, weight, _)| weight).sum::<usize>());
        assert_eq!([stats.events_in, stats.app_events_in.values().sum()], [self.accepted; 2]);
        assert!(self.requests.iter().all(|(_, answer)| answer.is_some()), "a request was forgotten");

        let audiences = self.cores.iter().flat_map(|core| &core.audiences.all);
        assert_eq!(audiences.map(|(_, audience)| audience.subscribers.len()).sum::<usize>(), pairs);
        for order in self.log.lock().unwrap().values() {
            for shard in 0..self.cores.len() {
                assert!(order.iter().filter(|number| self.events[**number].from == shard).is_sorted(), "out of order");
            }
        }
        (0..self.clients.len()).for_each(|who| self.check(who));
        self.end();
    }

    /// Lets everybody leave, and looks for traces of them.
    pub(super) fn end(mut self) {
        self.live().into_iter().for_each(|who| self.disconnect(who));
        self.settle();
        self.tick(GRACE_MS.max(CACHE_MS));
        assert!(self.cores.iter().all(|core| core.is_bare() && core.due.is_empty()), "something is left");
        assert!(self.node.backlog.iter().all(|bytes| bytes.load(Ordering::Relaxed) == 0));
        assert_eq!((self.node.admission.memory(), self.node.admission.total()), (Memory::default(), 0));
        assert_eq!(self.node.admission.memory_per_app(), []);
    }

    /// Asks of events for everybody and for some how many subscribers they are for.
    fn check_counts(&mut self) {
        let last = self.clients.len().checked_sub(1);
        let some = last.map(|last| [Whom::Except(last), Whom::Only(last)]);
        for whom in [Whom::All, Whom::Named("s")].into_iter().chain(some.into_iter().flatten()) {
            for app in APPS {
                let channels = [CHANNELS[self.requests.len() % 8], CHANNELS[(self.requests.len() + 3) % 8]];
                let request = self.publish_counted(0, app, channels, whom);
                self.settle();
                let Some(Answer::PerChannel(counts)) = &self.requests[request].1 else { panic!("no counts") };
                for (channel, count) in counts {
                    let is_for = |who: &usize| {
                        let client = &self.clients[*who];
                        client.app == app && client.subscriptions.contains(channel.as_str()) && self.admits(whom, *who)
                    };
                    assert_eq!(*count, self.live().iter().filter(|who| is_for(who)).count() as u64);
                }
            }
        }
    }

    /// Compares what can be asked of an app's channels with the model.
    fn check_channels(&mut self, app: &'static str) {
        let live = self.clients.iter().filter(|client| client.app == app && !client.gone);
        let held = live.flat_map(|client| &client.subscriptions).filter(|channel| !channel.starts_with('#'));
        let known = held.chain(self.homes.channels.keys()).map(String::as_str).chain(CHANNELS).collect::<BTreeSet<_>>();
        let names: Vec<ChannelName> = known.into_iter().map(ChannelName::from).collect();
        let count = names.len();
        let Answer::Channels(named) = self.ask(Query::Describe(app.into(), Which::Named(names.into()))) else {
            panic!("no channels")
        };
        let Answer::Channels(mut private) = self.ask(Query::Describe(app.into(), Which::Occupied("pr".into()))) else {
            panic!("no channels")
        };
        assert_eq!(named.len(), count);
        for info in named {
            let channel = info.name.as_str();
            let mut sessions: BTreeMap<usize, Option<String>> = BTreeMap::new();
            for who in self.live() {
                let client = &self.clients[who];
                if client.app == app && client.subscriptions.contains(channel) {
                    sessions.insert(who, client.member_of.get(channel).map(|user| user.to_string()));
                }
            }
            let mut members: BTreeSet<String> = sessions.values().flatten().cloned().collect();
            if app == "two" {
                let home = self.homes.channels.get(channel);
                assert_eq!(home.map(|home| home.sessions.clone()).unwrap_or_default(), sessions);
                let missing =
                    home.into_iter().flat_map(|home| &home.members).filter(|(_, leaves_ms)| leaves_ms.is_some());
                members.extend(missing.map(|(user, _)| user.clone()));
            }
            assert_eq!((info.subscriptions, info.members), (sessions.len() as u64, members.len() as u64));
            let core = &self.cores[usize::from(self.cores[0].home(app, channel))];
            for (who, id) in self.ids.iter().enumerate() {
                let home = core.channels.get(&app.into(), &info.name);
                let user = home.and_then(|home| home.member_of(*id)).map(|user| user.as_str().to_owned());
                assert_eq!(user, sessions.get(&who).cloned().flatten(), "{who} on {channel}");
            }
            let cached = self.homes.cached.get(&(app.to_owned(), channel.to_owned()));
            let cached = cached.map(|(number, _, until_ms)| (*number, until_ms - self.now_ms));
            assert_eq!(info.cached.as_ref().map(|(event, ms)| (number(event), *ms)), cached);
            let listed = private.iter().position(|listed| listed.name == info.name).map(|at| private.swap_remove(at));
            assert_eq!(listed.is_some(), channel.starts_with("pr") && !sessions.is_empty());
            assert!(listed.is_none_or(|listed| listed.subscriptions == info.subscriptions));

            let present = self.ask(Query::Present(app.into(), info.name.clone())).into_names();
            assert_eq!(present, members.iter().map(|user| Arc::from(&**user)).collect::<Vec<_>>());
            for who in sessions.keys().filter(|who| self.clients[**who].dialect == 0) {
                let (present, count, is_sure) = self.told(*who, channel);
                assert!(present.is_none_or(|present| present == members), "{who} sees others on {channel}");
                let is_told = app == "two" && !is_presence(channel);
                let expected = is_told.then_some(sessions.len());
                assert!(count == expected || count.is_none() && !is_sure, "{who} counts others on {channel}");
            }
            let Answer::Sessions(found) = self.ask(Query::Sessions(app.into(), info.name)) else {
                panic!("no sessions")
            };
            assert_eq!(found.len(), sessions.len());
            let found: BTreeSet<String> = found.into_iter().map(|session| session.name.to_string()).collect();
            assert_eq!(found, sessions.keys().map(|who| self.name(*who)).collect());
        }
        assert!(private.is_empty());
    }

    /// Compares who is signed in, and who watches whom, with the model.
    fn check_signed_in(&self, app: &str) {
        let (mut signed_in, mut watchers) = (BTreeMap::<&str, Vec<usize>>::new(), BTreeMap::<&str, Vec<usize>>::new());
        for who in self.live() {
            if let Client { app: of, signed_in: Some((person, watched)), .. } = &self.clients[who]
                && *of == app
            {
                signed_in.entry(person).or_default().push(who);
                watched.iter().for_each(|watched| watchers.entry(watched).or_default().push(who));
            }
        }
        let sorted = |ids: &[ConnectionId]| {
            let mut clients =
                ids.iter().map(|id| self.ids.iter().position(|held| held == id).unwrap()).collect::<Vec<_>>();
            clients.sort_unstable();
            clients
        };
        for person in PEOPLE {
            let homes = &self.cores[usize::from(self.cores[0].home(app, person))].signed_in;
            let (key, user) = (app.into(), person.into());
            assert_eq!(sorted(homes.connections(&key, &user)), signed_in.get(person).cloned().unwrap_or_default());
            assert_eq!(sorted(homes.watchers(&key, &user)), watchers.get(person).cloned().unwrap_or_default());
            for who in watchers.get(person).into_iter().flatten().filter(|who| self.clients[**who].dialect == 0) {
                assert_eq!(self.state(*who, person), signed_in.contains_key(person), "{who} is wrong about {person}");
            }
        }
    }

    /// Whom a client sees on a presence channel if it is a member, and how many subscribers it was told of, by what it has
    /// read since it subscribed; and whether it subscribed to that channel alone, and so has missed nothing.
    fn told(&self, who: usize, channel: &str) -> (Option<BTreeSet<String>>, Option<usize>, bool) {
        let (mut present, mut count, mut is_sure) = (None::<BTreeSet<String>>, None, false);
        for line in str::from_utf8(&self.clients[who].read).unwrap().lines() {
            match inflate(line).0.split_whitespace().collect::<Vec<_>>()[..] {
                [_, of, ..] if of != channel => {}
                ["+", _, _, _, members] => {
                    let names = members.strip_prefix('=').filter(|names| !names.is_empty());
                    present = names.map(|names| names.split(',').map(String::from).collect());
                    (count, is_sure) = (None, members != "?");
                }
                ["added", _, user, info] => {
                    assert_eq!(info, self.clients[who].app);
                    assert!(present.as_mut().is_none_or(|present| present.insert(user.into())), "{user} was there");
                }
                ["removed", _, user] => {
                    assert!(present.as_mut().is_none_or(|present| present.remove(user)), "{user} was not there");
                }
                ["count", _, told] => count = Some(told.parse().unwrap()),
                _ => {}
            }
        }
        (present, count, is_sure)
    }

    /// Whether a watched person is online, by what a client has read.
    pub(super) fn state(&self, who: usize, person: &str) -> bool {
        let mut state = None;
        for line in str::from_utf8(&self.clients[who].read).unwrap().lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["signed", online, _] => state = Some(online[1..].split(',').any(|user| user == person)),
                ["state", user, online] if user == person => {
                    let was = state.replace(online.parse().unwrap());
                    assert!(was.is_some() && was != state, "told of {person} before it signed in, or twice");
                }
                _ => {}
            }
        }
        state.unwrap()
    }

    fn name(&self, who: usize) -> String {
        let id = self.ids[who].to_dotted();
        self.clients[who].session.map_or(id.clone(), |session| format!("{session}.{id}"))
    }

    fn admits(&self, whom: Whom, who: usize) -> bool {
        match whom {
            Whom::All => true,
            Whom::Except(other) => other != who,
            Whom::Only(other) => other == who,
            Whom::Named(name) => self.name(who).starts_with(&format!("{name}.")),
        }
    }

    /// Whether a note is for a client.
    fn is_for(&self, number: usize, who: usize) -> bool {
        let (note, client) = (&self.notes[number], &self.clients[who]);
        let is_addressed = match &note.to {
            To::Client(to) => *to == who,
            To::User(user, _) => *user == client.user && !user.is_empty(),
        };
        is_addressed && note.app == client.app
    }

    /// Whether a note must reach a client that stays.
    fn owes(&self, number: usize, who: usize) -> bool {
        let was_known = self.clients[who].connected.is_some_and(|since| since <= number);
        self.is_for(number, who) && (was_known || matches!(self.notes[number].to, To::Client(_)))
    }

    /// Reads what a client was sent, line by line.
    fn check(&self, who: usize) {
        let (client, log) = (&self.clients[who], self.log.lock().unwrap());
        let left_out = |number: &usize| !self.admits(self.events[*number].whom, who);
        // of each channel, the first place in its log that may come next, and the first that must not be passed over
        let mut windows: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut notes: Vec<usize> = Vec::new();
        for line in str::from_utf8(&client.read).unwrap().lines() {
            let (line, is_deflated) = inflate(line);
            let is_worth_it = deflate(format!("{line}\n").as_bytes(), &Limits::default()).is_some();
            let is_shared = ["event", "added", "removed", "count"].iter().any(|word| line.starts_with(word));
            assert_eq!(is_deflated, client.deflated && is_shared && is_worth_it, "{line}");
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["!"] | ["signed", ..] => {}
                ["state", ..] => assert!(client.dialect == 0),
                ["added" | "removed" | "count", channel, ..] => {
                    assert!(client.dialect == 0 && windows.contains_key(channel), "a notice without a subscription");
                    assert!(!channel.starts_with('#'), "a notice on somebody's own channel");
                }
                ["+", channel, began, ended, ..] => {
                    let window = (began.parse().unwrap(), ended.parse().unwrap());
                    assert!(windows.insert(channel, window).is_none());
                }
                ["-", channel] => assert!(windows.remove(channel).is_some()),
                ["event", dialect, app, channel, number, user] => {
                    assert_eq!((dialect.parse(), app), (Ok(client.dialect), client.app));
                    let by = self.events[number.parse::<usize>().unwrap()].by.and_then(|(_, member)| member);
                    assert_eq!(user, by.unwrap_or("-"));
                    let (may, must) = windows.get_mut(channel).expect("an event without a subscription");
                    let order = &log[&(app.into(), channel.into())];
                    let at = order.iter().position(|logged| number.parse() == Ok(*logged)).unwrap();
                    assert!(at >= *may, "event {number} came early or twice");
                    assert!(!left_out(&order[at]), "event {number} came in spite of its exception");
                    assert!(order[at.min(*must)..at].iter().all(left_out), "an event before {number} is missing");
                    (*may, *must) = (at + 1, at + 1);
                }
                ["note", dialect, number] => {
                    let number: usize = number.parse().unwrap();
                    let same_way = |note: &Note| {
                        let to_client = |note: &Note| matches!(note.to, To::Client(_));
                        (note.from, to_client(note)) == (self.notes[number].from, to_client(&self.notes[number]))
                    };
                    assert!(self.is_for(number, who) && dialect.parse() == Ok(client.dialect));
                    assert!(notes.iter().all(|earlier| !same_way(&self.notes[*earlier]) || *earlier < number));
                    notes.push(number);
                }
                _ => panic!("{line}"),
            }
        }
        if !client.gone {
            for (channel, (_, must)) in &windows {
                let order = log.get(&(client.app.into(), channel.to_string())).map_or(&[][..], Vec::as_slice);
                assert!(order[(*must).min(order.len())..].iter().all(left_out), "the last of {channel} is missing");
            }
            assert!(windows.keys().eq(&client.subscriptions));
            let missing = |number: &usize| self.owes(*number, who) && !notes.contains(number);
            let readable = |number: &usize| self.notes[*number].dialect == client.dialect;
            assert_eq!((0..self.notes.len()).filter(readable).find(missing), None, "a note is missing");
        }
    }
}

/// What an assignment makes of patterns.
fn assigned(patterns: &[Box<str>], assignment: &Assignment) -> Vec<Box<str>> {
    match assignment {
        Assignment::Replace(names) => names.to_vec(),
        Assignment::Add(name) if patterns.contains(name) => patterns.to_vec(),
        Assignment::Add(name) => patterns.iter().chain([name]).cloned().collect(),
    }
}
