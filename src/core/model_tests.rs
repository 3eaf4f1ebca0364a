//! The core against a naive model: a few shards in one thread, a mailbox for each pair of them, and clients that read
//! what they are sent and check it line by line. Messages are handed on in any order that keeps each pair's.

mod oracle;
mod races;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::iter::zip;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Union;

use super::*;

const APPS: [&str; 2] = ["one", "two"];
const CHANNELS: [&str; 5] = ["a", "ab", "b", "bc", "c"];
const PATTERNS: [&str; 5] = ["a", "a*", "b*", "c", "*"];
const USERS: [&str; 3] = ["", "u", "v"];

/// Numbers of events by app and channel, in the order in which the channel's home encoded them.
type Log = Arc<Mutex<BTreeMap<(String, String), Vec<usize>>>>;

/// Writes an event as the line `event dialect app channel number`.
struct Lines(DialectIndex, Log);

impl Dialect for Lines {
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8> {
        let (app, channel, data) = (&event.name, channel.as_str(), str::from_utf8(event.data.json()).unwrap());
        let mut log = self.1.lock().unwrap();
        let order = log.entry((app.to_string(), channel.to_string())).or_default();
        let number = data.trim().parse().unwrap();
        if order.last() != Some(&number) {
            order.push(number); // once, not once for each dialect
        }
        format!("event {} {app} {channel} {data}\n", self.0).into_bytes()
    }
}

enum Command {
    Subscribe(Vec<String>),
    Unsubscribe(String),
}

/// A frame for a connection or a user: the line `note dialect number`.
struct Note {
    from: usize,
    app: &'static str,
    dialect: DialectIndex,
    to: To,
}

enum To {
    Client(usize),
    User(String, Option<Assignment>),
}

/// What a request was for.
#[derive(Clone, Copy)]
enum Asked {
    Query,
    Matching,
    Assign(usize),
}

#[derive(Default)]
struct Client {
    app: &'static str,
    user: String,
    dialect: DialectIndex,
    patterns: Vec<Box<str>>,
    /// Every pattern that it has ever held.
    patterns_ever: BTreeSet<Box<str>>,
    subscriptions: BTreeSet<String>,
    todo: VecDeque<Command>,
    /// Channels of the subscribe in flight, with the log's length when it began.
    doing: Option<Vec<(String, usize)>>,
    /// How many notes there were when it was connected: it must get all later ones.
    connected: Option<usize>,
    /// Why, and what was waiting when it was decided.
    closing: Option<(CloseReason, usize)>,
    gone: bool,
    read: Vec<u8>,
    heard_ms: u64,
    pinged_ms: Option<u64>,
    /// Since when it has had no subscription.
    idle_ms: u64,
}

struct World {
    node: Node,
    settings: Arc<Settings>,
    cores: Vec<Core>,
    mail: BTreeMap<(usize, usize), VecDeque<Message>>,
    log: Log,
    clients: Vec<Client>,
    ids: Vec<ConnectionId>,
    dirty: BTreeSet<(usize, u32)>,
    /// Of each accepted event, the shard that took it and the client that it leaves out.
    events: Vec<(usize, Option<usize>)>,
    /// How many events the homes should have counted.
    accepted: u64,
    notes: Vec<Note>,
    requests: Vec<(Asked, Option<Answer>)>,
    now_ms: u64,
}

impl World {
    fn new(shards: usize, hash_seed: u64) -> Self {
        let log = Log::default();
        let limits = Limits {
            outbox_bytes_max: 300,
            outbox_total_bytes_max: 2_000,
            backlog_bytes_max: 2_500,
            subscriptions_per_connection_max: 4,
            unsubscribed_timeout: Duration::from_secs(60),
            ..Limits::default()
        };
        let apps = APPS.map(|app| (AppKey::from(app), AppSettings::DEFAULT)).into();
        let settings = Arc::new(Settings { limits, apps });
        let node = Node {
            number: 0,
            shards: shards as ShardIndex,
            hash_seed,
            dialects: Arc::new([0, 1].map(|index| Arc::new(Lines(index, log.clone())) as Arc<dyn Dialect>)),
            admission: Admission::default(),
            ledger: Ledger::default(),
            backlog: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
        };
        Self {
            cores: (0..node.shards).map(|shard| Core::new(shard, node.clone(), settings.clone())).collect(),
            node,
            settings,
            mail: BTreeMap::new(),
            log,
            clients: Vec::new(),
            ids: Vec::new(),
            dirty: BTreeSet::new(),
            events: Vec::new(),
            accepted: 0,
            notes: Vec::new(),
            requests: Vec::new(),
            now_ms: 0,
        }
    }

    fn logged(&self, app: &str, channel: &str) -> usize {
        self.log.lock().unwrap().get(&(app.into(), channel.into())).map_or(0, Vec::len)
    }

    fn live(&self) -> Vec<usize> {
        (0..self.clients.len()).filter(|who| !self.clients[*who].gone).collect()
    }

    /// The shard of a client, its core and its slot.
    fn at(&mut self, who: usize) -> (usize, &mut Core, u32) {
        let shard = usize::from(self.ids[who].shard);
        (shard, &mut self.cores[shard], self.ids[who].slot)
    }

    fn tenant(&self, shard: usize, slot: u32) -> usize {
        let is_there = |who: &usize| (usize::from(self.ids[*who].shard), self.ids[*who].slot) == (shard, slot);
        self.live().into_iter().find(is_there).expect("an effect on nobody")
    }

    // ------------------------------------------------------------------ clients

    fn connect(&mut self, shard: usize, app: &'static str, user: &str, dialect: u8, patterns: &[&str]) -> usize {
        let who = self.clients.len();
        let permit = self.node.admission.admit(&app.into(), None, &self.settings).unwrap();
        let (permissions, nonce) = (Permissions::for_tests(patterns), 1_000 + who as u64);
        let user_id = user.into();
        let hello = Hello { permit, user: user_id, permissions, dialect, nonce, session: None, must_authorize: false };
        self.ids.push(self.cores[shard].connect(hello).unwrap());
        let patterns = patterns.iter().copied().map(Box::from).collect();
        let (user, heard_ms, idle_ms) = (user.to_owned(), self.now_ms, self.now_ms);
        self.clients.push(Client { app, user, dialect, patterns, heard_ms, idle_ms, ..Client::default() });
        self.after(shard);
        who
    }

    fn disconnect(&mut self, who: usize) {
        let reason = self.clients[who].closing.map_or(CloseReason::Client, |(reason, _)| reason);
        let (shard, core, slot) = self.at(who);
        let mut outbox = core.disconnect(slot, reason).unwrap();
        assert!(core.disconnect(slot, reason).is_none());
        self.clients[who].read.extend(take(&mut outbox, usize::MAX));
        self.clients[who].gone = true;
        self.dirty.remove(&(shard, slot));
        self.after(shard);
    }

    fn subscribe(&mut self, who: usize, channels: &[&str]) {
        self.command(who, Command::Subscribe(channels.iter().map(|channel| channel.to_string()).collect()));
    }

    fn unsubscribe(&mut self, who: usize, channel: &str) {
        self.command(who, Command::Unsubscribe(channel.into()));
    }

    fn command(&mut self, who: usize, command: Command) {
        self.clients[who].todo.push_back(command);
        self.begin(who);
        self.after(self.ids[who].shard.into());
    }

    /// Begins the client's next command, and the one after it if that has ended already.
    fn begin(&mut self, who: usize) {
        while let Client { app, connected: Some(_), doing: None, closing: None, gone: false, todo, .. } =
            &mut self.clients[who]
            && let (app, Some(command)) = (*app, todo.pop_front())
        {
            match command {
                Command::Subscribe(channels) => {
                    let lengths = channels.iter().map(|channel| self.logged(app, channel)).collect::<Vec<_>>();
                    let (_, core, slot) = self.at(who);
                    let permissions = core.connection(slot).unwrap().permissions();
                    match channels.iter().map(|channel| permissions.grant(channel, 255)).collect() {
                        Ok(grants) => {
                            core.subscribe(slot, grants);
                            self.clients[who].doing = Some(zip(channels, lengths).collect());
                        }
                        Err(_) => self.reply(who, "!\n".into()),
                    }
                }
                Command::Unsubscribe(channel) => {
                    let (_, core, slot) = self.at(who);
                    let left = core.unsubscribe(slot, &channel.as_str().into());
                    assert_eq!(left, self.clients[who].subscriptions.contains(&channel));
                    if left {
                        self.left(who, channel);
                    }
                }
            }
        }
    }

    /// Replies: the line `!` to a refusal, `+ channel began ended` for each channel subscribed to, with the log's length
    /// when the command began and when it ended, and `- channel` for one that was left.
    fn reply(&mut self, who: usize, lines: String) {
        let (_, core, slot) = self.at(who);
        core.reply(slot, lines.into());
    }

    fn left(&mut self, who: usize, channel: String) {
        self.clients[who].subscriptions.remove(&channel);
        self.clients[who].idle_ms = self.now_ms;
        self.reply(who, format!("- {channel}\n"));
    }

    fn ended(&mut self, who: usize, outcome: Outcome) {
        let asked = self.clients[who].doing.take().expect("an outcome without a command");
        if !matches!(outcome, Outcome::Subscribed(_)) {
            return self.reply(who, "!\n".into());
        }
        let (_, core, slot) = self.at(who);
        let held = subscriptions(core, slot);
        let mut lines = String::new();
        for (channel, began) in asked {
            assert!(held.contains(&channel), "subscribed, but not to {channel}");
            if self.clients[who].subscriptions.insert(channel.clone()) {
                lines += &format!("+ {channel} {began} {}\n", self.logged(self.clients[who].app, &channel));
            }
        }
        self.reply(who, lines);
    }

    // ------------------------------------------------------------------ backends

    fn publish(&mut self, from: usize, app: &'static str, channel: &str, size: usize, except: Option<usize>) {
        let event = Event::new(app, Data::Value(format!("{:size$}", self.events.len()).into()), 0);
        let target = except.map_or(Target::All, |who| Target::Except(self.ids[who]));
        let publication = Publication { target, ..Publication::new(channel.into(), event) };
        let accepted = self.cores[from].publish(&app.into(), publication);
        if self.assert_sound(accepted) {
            self.events.push((from, except));
            self.accepted += 1;
        }
        self.after(from);
    }

    fn publish_matching(&mut self, from: usize, app: &'static str, pattern: &str) {
        let event = Event::new(app, Data::Value(self.events.len().to_string().into()), 0);
        let (request, pattern) = (self.requests.len() as RequestId, Regex::new(pattern).unwrap());
        let accepted = self.cores[from].publish_matching(request, &app.into(), pattern, event);
        if self.assert_sound(accepted) {
            self.events.push((from, None));
            self.requests.push((Asked::Matching, None));
        }
        self.after(from);
    }

    fn note(&mut self, from: usize, app: &'static str, dialect: DialectIndex, to: To) {
        let line = format!("note {dialect} {}\n", self.notes.len()).into_bytes();
        let (core, key, request) = (&mut self.cores[from], app.into(), self.requests.len() as RequestId);
        let accepted = match &to {
            To::Client(who) => core.send_to_connection(&key, self.ids[*who], dialect, line),
            To::User(user, None) => core.send_to_user(&key, user.as_str().into(), dialect, line),
            To::User(user, Some(assignment)) => {
                self.requests.push((Asked::Assign(self.notes.len()), None));
                core.assign(request, &key, user.as_str().into(), assignment.clone(), dialect, line)
            }
        };
        if self.assert_sound(accepted) {
            self.notes.push(Note { from, app, dialect, to });
        }
        self.after(from);
    }

    fn query(&mut self, from: usize, query: Query) -> usize {
        let request = self.requests.len();
        self.requests.push((Asked::Query, None));
        self.cores[from].query(request as RequestId, query);
        self.after(from);
        request
    }

    /// Whether it was accepted; it may be refused for one reason alone.
    fn assert_sound(&self, accepted: Result<(), Rejection>) -> bool {
        let overloaded = |bytes: &AtomicUsize| bytes.load(Ordering::Relaxed) > self.settings.limits.backlog_bytes_max;
        match accepted {
            Ok(()) => true,
            Err(Rejection::Overloaded) if self.node.backlog.iter().any(overloaded) => false,
            Err(rejection) => panic!("{rejection}"),
        }
    }

    // ------------------------------------------------------------------ the runtime

    /// Hands on the oldest message from one shard to another; returns whether there was one.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(message) = self.mail.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return false };
        self.cores[to].receive(message);
        self.after(to);
        true
    }

    fn mailed(&self) -> Vec<(usize, usize)> {
        self.mail.iter().filter(|(_, mail)| !mail.is_empty()).map(|(pair, _)| *pair).collect()
    }

    fn fan_out(&mut self, shard: usize) {
        if !self.cores[shard].has_fan_out() {
            self.cores[shard].begin_pass();
        }
        self.cores[shard].fan_out();
        self.after(shard);
    }

    /// Writes up to so many bytes of what a client has yet to be sent.
    fn flush(&mut self, who: usize, bytes: usize) {
        let (limits, ledger) = (self.settings.limits.clone(), self.node.ledger.clone());
        let (shard, core, slot) = self.at(who);
        let outbox = core.outbox_mut(slot).unwrap();
        let read = take(outbox, bytes);
        let (bytes, frames) = waiting(outbox);
        assert_eq!(outbox.weight(), bytes + 32 * frames);
        let too_much = bytes + 32 * frames > limits.outbox_bytes_max && frames > 1
            || bytes > 0 && ledger.bytes() > limits.outbox_total_bytes_max;
        core.flushed(slot);
        self.clients[who].read.extend(read);
        self.dirty.retain(|dirty| *dirty != (shard, slot) || bytes > 0);
        let was_closing = self.clients[who].closing.is_some();
        self.after(shard);
        assert_eq!(self.clients[who].closing.is_some(), was_closing || too_much);
    }

    fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for shard in 0..self.cores.len() {
            self.cores[shard].tick(self.now_ms);
            self.after(shard);
        }
        // an interval of 54 s, 6 s for the pong, met at most one second late
        for client in self.clients.iter().filter(|client| !client.gone && client.closing.is_none()) {
            let due_ms = client.pinged_ms.map_or(client.heard_ms + 54_000, |pinged_ms| pinged_ms + 6_000);
            assert!(self.now_ms < due_ms + 1_000, "neither pinged nor closed");
        }
    }

    fn heard(&mut self, who: usize) {
        let (_, core, slot) = self.at(who);
        core.heard(slot);
        (self.clients[who].heard_ms, self.clients[who].pinged_ms) = (self.now_ms, None);
    }

    /// Carries out what a shard wants done. Commands begin after that, so that the order of messages is kept.
    fn after(&mut self, shard: usize) {
        loop {
            let (mut effects, mut ready, mut answers) = (Vec::new(), Vec::new(), Vec::new());
            self.cores[shard].take_effects(&mut effects);
            for effect in effects {
                match effect {
                    Effect::Send(to, message) => self.mail.entry((shard, to.into())).or_default().push_back(message),
                    Effect::Connected(slot) => {
                        let who = self.tenant(shard, slot);
                        assert!(self.clients[who].connected.replace(self.notes.len()).is_none());
                        ready.push(who);
                    }
                    Effect::Outcome(slot, outcome) => {
                        let who = self.tenant(shard, slot);
                        self.ended(who, outcome);
                        ready.push(who);
                    }
                    Effect::Answered(request, answer) => answers.push((request as usize, answer)),
                    Effect::Ping(slot) => {
                        let who = self.tenant(shard, slot);
                        assert!(self.clients[who].pinged_ms.replace(self.now_ms).is_none());
                        assert!(self.now_ms >= self.clients[who].heard_ms + 40_500, "pinged early");
                    }
                    Effect::Close(slot, reason) => self.closed(self.tenant(shard, slot), reason),
                    Effect::Observed(observation) => panic!("nobody asked for {observation:?}"),
                }
            }
            for who in self.live() {
                if usize::from(self.ids[who].shard) == shard {
                    self.observe(who);
                }
            }
            answers.into_iter().for_each(|(request, answer)| self.answered(request, answer));
            let mut dirty = Vec::new();
            self.cores[shard].take_dirty(&mut dirty);
            self.dirty.extend(dirty.into_iter().map(|slot| (shard, slot)));
            if ready.is_empty() {
                return;
            }
            ready.into_iter().for_each(|who| self.begin(who));
        }
    }

    // ------------------------------------------------------------------ at rest

    /// Hands everything on until nothing moves; those about to be closed are gone then.
    fn settle(&mut self) {
        loop {
            for who in self.live() {
                if self.clients[who].closing.is_some() {
                    self.disconnect(who);
                }
            }
            for shard in 0..self.cores.len() {
                while self.cores[shard].has_fan_out() || self.cores[shard].has_waiting() {
                    self.fan_out(shard);
                }
            }
            for (shard, slot) in self.dirty.clone() {
                self.flush(self.tenant(shard, slot), usize::MAX);
            }
            let mailed = self.mailed();
            if mailed.is_empty() {
                return;
            }
            for (from, to) in mailed {
                while self.deliver(from, to) {}
            }
        }
    }

    fn ask(&mut self, query: Query) -> Answer {
        let request = self.query(self.requests.len() % self.cores.len(), query);
        self.settle();
        self.requests[request].1.clone().expect("not answered")
    }

    /// One random step; each byte picks one of what there is.
    fn step(&mut self, verb: &str, picks: [u8; 4]) {
        let ([a, b, c, d], live) = (picks.map(usize::from), self.live());
        let (shard, app, channel, user) = (a % self.cores.len(), APPS[b % 4 / 3], CHANNELS[c % 5], USERS[c % 3]);
        let (dialect, add) = ((d % 2) as u8, b & 4 > 0);
        let picked = |names: [&'static str; 5], bits: usize| -> Vec<&'static str> {
            (0..5).filter(|index| bits >> index & 1 == 1).map(|index| names[index]).collect()
        };
        match (verb, live.get(a % live.len().max(1)).copied()) {
            ("connect", _) => drop(self.connect(shard, app, user, dialect, &picked(PATTERNS, d | b << 3))),
            ("publish", _) => {
                let except = (d % 4 == 0 && !self.clients.is_empty()).then(|| d / 4 % self.clients.len());
                self.publish(shard, app, channel, if d % 16 == 1 { 700 } else { 0 }, except);
            }
            ("publish matching", _) => self.publish_matching(shard, app, ["", "^a", "b", "c$"][c % 4]),
            ("send to user", _) => self.note(shard, app, dialect, To::User(user.into(), None)),
            ("assign", _) => {
                let own = format!("assignment {}", self.notes.len());
                let names = picked(PATTERNS, d / 4).into_iter().chain([own.as_str()]).map(Box::from).collect();
                let add = add.then(|| Assignment::Add(PATTERNS[d / 4 % 5].into()));
                let assignment = add.unwrap_or(Assignment::Replace(names));
                self.note(shard, app, dialect, To::User(user.into(), Some(assignment)));
            }
            ("query", _) => {
                let (app, channel) = (AppKey::from(app), ChannelName::from(channel));
                let queries = [Query::Channels(app.clone()), Query::Members(app, channel), Query::UsersPerApp];
                self.query(shard, queries[d % 3].clone());
            }
            ("deliver", _) => {
                for pick in [a, b, c, d] {
                    let mailed = self.mailed();
                    mailed.get(pick % mailed.len().max(1)).map(|(from, to)| self.deliver(*from, *to));
                }
            }
            ("fan out", _) => self.fan_out(shard),
            ("tick", _) => self.tick(a as u64 * 100),
            (_, None) => {}
            ("disconnect", Some(who)) => self.disconnect(who),
            ("subscribe", Some(who)) => {
                let mut channels = picked(CHANNELS, if c & 1 == 0 { 1 << (b % 5) } else { b });
                channels.extend(channels.first().copied().filter(|_| d % 4 == 0));
                self.subscribe(who, &channels);
            }
            ("unsubscribe", Some(who)) => self.unsubscribe(who, channel),
            ("send to connection", Some(_)) => self.note(shard, app, dialect, To::Client(c % self.clients.len())),
            ("flush", Some(who)) => self.flush(who, if b % 2 == 0 { usize::MAX } else { c }),
            ("heard", Some(who)) => self.heard(who),
            _ => unreachable!("{verb}"),
        }
    }
}

/// Channels that a connection is subscribed to; it knows its places among their subscribers.
fn subscriptions(core: &Core, slot: u32) -> BTreeSet<String> {
    let held = &core.connections[slot as usize].subscriptions;
    let names = held.iter().map(|held| {
        let audience = &core.audiences[held.audience as usize];
        assert_eq!(audience.subscribers[held.position as usize].slot, slot);
        audience.channel.as_str().to_string()
    });
    let names = BTreeSet::from_iter(names);
    assert_eq!(names.len(), held.len());
    names
}

/// Bytes and frames of an outbox.
fn waiting(outbox: &Outbox) -> (usize, usize) {
    let mut slices = [IoSlice::new(&[]); 1_000];
    let frames = outbox.fill(&mut slices);
    (slices[..frames].iter().map(|slice| slice.len()).sum(), frames)
}

/// What a socket takes from an outbox when it takes at most so many bytes.
fn take(outbox: &mut Outbox, bytes: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); 1_000];
    let frames = outbox.fill(&mut slices);
    let taken: Vec<u8> = slices[..frames].iter().flat_map(|slice| slice.iter().copied()).take(bytes).collect();
    outbox.advance(taken.len());
    taken
}

/// What may happen, and how often.
const VERBS: &str = "10 connect, 3 disconnect, 16 subscribe, 6 unsubscribe, 20 publish, 2 publish matching, 2 send to user, \
    2 send to connection, 4 assign, 2 query, 14 deliver, 14 fan out, 8 flush, 1 tick, 2 heard";

proptest! {
    #[test]
    fn any_interleaving_agrees_with_the_model(
        shards in 1..5_usize,
        hash_seed in any::<u64>(),
        steps in prop::collection::vec((verb(), any::<[u8; 4]>()), 1..300),
    ) {
        let mut world = World::new(shards, hash_seed);
        for (verb, picks) in steps {
            world.step(verb, picks);
        }
        world.finish();
    }
}

fn verb() -> impl Strategy<Value = &'static str> {
    let weighted = VERBS.split(", ").filter_map(|verb| verb.split_once(' '));
    Union::new_weighted(weighted.map(|(weight, verb)| (weight.parse().unwrap(), Just(verb))).collect())
}
