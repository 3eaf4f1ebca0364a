//! What must hold: after every call, for whatever a shard wants done, and at rest.

use super::*;

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
        assert!(held.iter().all(|channel| permissions.cover(channel)), "a subscription without permission");
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

    /// Lets everything come to rest, compares it with the model, lets everybody leave and looks for traces of them.
    pub(super) fn finish(mut self) {
        self.settle();
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
        for app in APPS {
            let key = AppKey::from(app);
            let channels: Vec<Arc<str>> =
                members.keys().filter(|(of, _)| *of == app).map(|(_, channel)| channel.as_str().into()).collect();
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
        assert_eq!([stats.events_in, stats.app_events_in.values().sum()], [self.accepted; 2]);
        assert!(self.requests.iter().all(|(_, answer)| answer.is_some()), "a request was forgotten");

        let audiences = self.cores.iter().flat_map(|core| &core.audiences);
        assert_eq!(audiences.map(|(_, audience)| audience.subscribers.len()).sum::<usize>(), pairs);
        for order in self.log.lock().unwrap().values() {
            for shard in 0..self.cores.len() {
                assert!(order.iter().filter(|number| self.events[**number].0 == shard).is_sorted(), "out of order");
            }
        }
        (0..self.clients.len()).for_each(|who| self.check(who));
        self.live().into_iter().for_each(|who| self.disconnect(who));
        self.settle();
        assert!(self.cores.iter().all(Core::is_bare));
        assert!(self.node.backlog.iter().all(|bytes| bytes.load(Ordering::Relaxed) == 0));
        assert_eq!((self.node.ledger.bytes(), self.node.admission.total()), (0, 0));
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
        let left_out = |number: &usize| self.events[*number].1 == Some(who);
        // of each channel, the first place in its log that may come next, and the first that must not be passed over
        let mut windows: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut notes: Vec<usize> = Vec::new();
        for line in str::from_utf8(&client.read).unwrap().lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["!"] => {}
                ["+", channel, began, ended] => {
                    let window = (began.parse().unwrap(), ended.parse().unwrap());
                    assert!(windows.insert(channel, window).is_none());
                }
                ["-", channel] => assert!(windows.remove(channel).is_some()),
                ["event", dialect, app, channel, number] => {
                    assert_eq!((dialect.parse(), app), (Ok(client.dialect), client.app));
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
