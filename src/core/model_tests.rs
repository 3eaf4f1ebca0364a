//! The core against a naive model: a few shards in one thread, a mailbox for each pair of them, and clients that read
//! what they are sent and check it line by line. Messages are handed on in any order that keeps each pair's.
//!
//! App `one` is plain: nobody observes it, its connections must show who they are. App `two` has all that an app can have.

mod cache;
mod counts;
mod forms;
mod homes;
mod oracle;
mod orders;
mod presence;
mod publish;
mod races;
mod settings;
mod sign_in;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::iter::zip;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::Union;

use super::*;

const APPS: [&str; 2] = ["one", "two"];
const CHANNELS: [&str; 8] = ["a", "ab", "b", "bc", "cache-c", "presence-p", "presence-cache-q", "private-x"];
const PATTERNS: [&str; 6] = ["a", "a*", "b*", "c*", "p*", "*"];
const USERS: [&str; 3] = ["", "u", "v"];
/// Who signs in, and who is a member. Only connections without a user do.
const PEOPLE: [&str; 3] = ["x", "y", "z"];
const SESSIONS: [Option<&str>; 3] = [None, Some("s"), Some("s.t")];

/// By then every channel has rested.
const RESTED_US: u64 = u64::MAX / 2;
const AUTHORIZE_MS: u64 = 10_000;
const GRACE_MS: u64 = 5_000;
const CACHE_MS: u64 = 8_000;
const MEMBERS_MAX: usize = 2;
const MEMBER_BYTES_MAX: usize = 8;
const SUBSCRIPTIONS_MAX: usize = 4;

/// Numbers of events by app and channel, in the order in which the channel's home encoded them.
type Log = Arc<Mutex<BTreeMap<(String, String), Vec<usize>>>>;

/// Writes an event as the line `event dialect app channel number member`. The first dialect has words for notices: the
/// lines `added channel user info`, `removed channel user`, `count channel number`, `state user online`.
struct Lines(DialectIndex, Log);

impl Dialect for Lines {
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8> {
        let (app, channel, data) = (&event.name, channel.as_str(), str::from_utf8(event.data.json()).unwrap());
        let mut log = self.1.lock().unwrap();
        let order = log.entry((app.to_string(), channel.to_string())).or_default();
        let number = number(event);
        if order.last() != Some(&number) {
            order.push(number); // once, not once for each dialect
        }
        let user = event.about.as_ref().and_then(|about| about.user.as_ref()).map_or("-", UserId::as_str);
        format!("event {} {app} {channel} {data} {user}\n", self.0).into_bytes()
    }

    fn notice(&self, notice: &Notice<'_>) -> Vec<u8> {
        let line = match notice {
            _ if self.0 != 0 => return Vec::new(),
            Notice::MemberAdded(channel, Member { user, info }) => {
                format!("added {} {} {}\n", channel.as_str(), user.as_str(), str::from_utf8(info).unwrap())
            }
            Notice::MemberRemoved(channel, user) => format!("removed {} {}\n", channel.as_str(), user.as_str()),
            Notice::SubscriptionCount(channel, count) => format!("count {} {count}\n", channel.as_str()),
            Notice::UserState { user, online } => format!("state {} {online}\n", user.as_str()),
        };
        line.into_bytes()
    }
}

/// Every other line is worth it, and then begins with `z`.
fn deflate(line: &[u8], _limits: &Limits) -> Option<Vec<u8>> {
    line.len().is_multiple_of(2).then(|| [b"z", line].concat())
}

/// A line as it was, and whether it came deflated.
fn inflate(line: &str) -> (&str, bool) {
    line.strip_prefix('z').map_or((line, false), |line| (line, true))
}

fn number(event: &Event) -> usize {
    str::from_utf8(event.data.json()).unwrap().trim().parse().unwrap()
}

enum Command {
    /// To these channels; to presence channels as that person, of whom there is much to say or little.
    Subscribe {
        channels: Vec<String>,
        person: &'static str,
        is_large: bool,
    },
    /// `flaps`: for the so-manieth time.
    Unsubscribe {
        channel: String,
        flaps: bool,
    },
    SignIn {
        person: &'static str,
        watched: Vec<&'static str>,
    },
}

/// The command that a client waits for.
#[derive(Default)]
struct Doing {
    /// Its channels, with the log's length when it began.
    channels: Vec<(String, usize)>,
    /// Who it is to be on presence channels.
    person: &'static str,
    is_large: bool,
    /// Who it is to be signed in as, and whom it is to watch.
    sign_in: Option<(&'static str, Vec<&'static str>)>,
    /// The step when it began.
    began: usize,
}

/// An accepted event.
struct Sent {
    /// The shard that took it.
    from: usize,
    /// Bytes of its data, at least.
    size: usize,
    whom: Whom,
    /// The client that published it, and the member that it is.
    by: Option<(usize, Option<&'static str>)>,
}

/// Whom of the subscribers an event is for.
#[derive(Clone, Copy)]
enum Whom {
    All,
    Except(usize),
    Only(usize),
    /// Those whose session's name begins so, and a dot.
    Named(&'static str),
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
    Counted([&'static str; 2]),
}

#[derive(Default)]
struct Client {
    app: &'static str,
    user: String,
    dialect: DialectIndex,
    deflated: bool,
    patterns: Vec<Box<str>>,
    /// Every pattern that it has ever held.
    patterns_ever: BTreeSet<Box<str>>,
    session: Option<&'static str>,
    /// It has yet to show who it is.
    must_authorize: bool,
    opened_ms: u64,
    subscriptions: BTreeSet<String>,
    /// Who it is on the presence channels among them.
    member_of: BTreeMap<String, &'static str>,
    signed_in: Option<(&'static str, Vec<&'static str>)>,
    /// What channels' homes showed it when it joined.
    shown: BTreeMap<String, Shown>,
    todo: VecDeque<Command>,
    doing: Option<Doing>,
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

/// What a newcomer must find.
#[derive(Clone, PartialEq, Debug)]
struct Shown {
    members: Option<BTreeSet<String>>,
    /// The number of the event that a cache channel holds.
    cached: Option<Option<usize>>,
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
    events: Vec<Sent>,
    /// How many events the homes should have counted.
    accepted: u64,
    notes: Vec<Note>,
    requests: Vec<(Asked, Option<Answer>)>,
    homes: homes::Homes,
    /// Who was terminated, where, and at which step.
    terminated: Vec<(&'static str, &'static str, usize)>,
    /// Clients that this must have ended.
    must_end: BTreeSet<usize>,
    /// Shards on which app `one` is disabled.
    disabled: BTreeSet<usize>,
    now_ms: u64,
    /// How often anything was done.
    step: usize,
}

impl World {
    fn new(shards: usize, hash_seed: u64) -> Self {
        let log = Log::default();
        let limits = Limits {
            outbox_bytes_max: 300,
            outbox_total_bytes_max: 2_000,
            backlog_bytes_max: 2_500,
            cache_bytes_max: homes::CACHE_BYTES_MAX * shards,
            cache_ttl: Duration::from_millis(CACHE_MS),
            subscriptions_per_connection_max: SUBSCRIPTIONS_MAX,
            unsubscribed_timeout: Duration::from_secs(60),
            ..Limits::default()
        };
        let one = AppSettings { authorize_within: Some(Duration::from_millis(AUTHORIZE_MS)), ..AppSettings::DEFAULT };
        let two = AppSettings {
            presence_grace: Duration::from_millis(GRACE_MS),
            presence_members_max: MEMBERS_MAX,
            presence_member_bytes_max: MEMBER_BYTES_MAX,
            subscription_count: true,
            observed: true,
            ..AppSettings::DEFAULT
        };
        let settings = Arc::new(Settings { limits, apps: [("one".into(), one), ("two".into(), two)].into() });
        let ledger = Ledger::default();
        let node = Node {
            number: 0,
            shards: shards as ShardIndex,
            hash_seed,
            dialects: Arc::new([0, 1].map(|index| Arc::new(Lines(index, log.clone())) as Arc<dyn Dialect>)),
            deflate,
            admission: Admission::new(ledger.clone()),
            ledger,
            backlog: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            occupancy: Occupancy::default(),
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
            homes: homes::Homes::default(),
            terminated: Vec::new(),
            must_end: BTreeSet::new(),
            disabled: BTreeSet::new(),
            now_ms: 0,
            step: 0,
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
        let (user, patterns) = (user.to_owned(), patterns.iter().copied().map(Box::from).collect());
        self.enter(shard, Client { app, user, dialect, patterns, ..Client::default() })
    }

    fn enter(&mut self, shard: usize, mut client: Client) -> usize {
        let who = self.clients.len();
        (client.opened_ms, client.heard_ms, client.idle_ms) = (self.now_ms, self.now_ms, self.now_ms);
        let patterns: Vec<&str> = client.patterns.iter().map(|pattern| &**pattern).collect();
        let hello = Hello {
            permit: self.node.admission.admit(&client.app.into(), None, 1_000, &self.settings).unwrap(),
            user: client.user.as_str().into(),
            permissions: Permissions::for_tests(&patterns),
            form: Form::new(client.dialect, client.deflated),
            session: client.session.map(Arc::from),
            must_authorize: client.must_authorize,
            nonce: 1_000 + who as u64,
        };
        self.ids.push(self.cores[shard].connect(hello).unwrap());
        self.clients.push(client);
        self.after(shard);
        who
    }

    fn disconnect(&mut self, who: usize) {
        let reason = self.clients[who].closing.map_or(CloseReason::Client, |(reason, _)| reason);
        let (shard, core, slot) = self.at(who);
        let mut outbox = core.disconnect(slot, reason).unwrap();
        assert!(core.disconnect(slot, reason).is_none());
        self.homes.broken = reason != CloseReason::Terminated;
        self.clients[who].read.extend(take(&mut outbox, usize::MAX));
        self.clients[who].gone = true;
        self.dirty.remove(&(shard, slot));
        self.after(shard);
    }

    fn subscribe(&mut self, who: usize, channels: &[&str]) {
        self.subscribe_as(who, PEOPLE[0], channels);
    }

    /// Subscribes, to presence channels as that person if the client has no user.
    fn subscribe_as(&mut self, who: usize, person: &'static str, channels: &[&str]) {
        let channels = channels.iter().map(|channel| channel.to_string()).collect();
        self.command(who, Command::Subscribe { channels, person, is_large: false });
    }

    fn unsubscribe(&mut self, who: usize, channel: &str) {
        self.command(who, Command::Unsubscribe { channel: channel.into(), flaps: false });
    }

    fn flap(&mut self, who: usize, channel: &str) {
        self.command(who, Command::Unsubscribe { channel: channel.into(), flaps: true });
    }

    fn sign_in(&mut self, who: usize, person: &'static str, watched: &[&'static str]) {
        self.command(who, Command::SignIn { person, watched: watched.to_vec() });
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
            let began = self.step;
            match command {
                Command::Subscribe { channels, person, is_large } => {
                    let lengths = channels.iter().map(|channel| self.logged(app, channel)).collect::<Vec<_>>();
                    let is_member = |channel: &str| self.clients[who].user.is_empty() && is_presence(channel);
                    let member = |channel: &str| is_member(channel).then(|| member(app, person, is_large));
                    let members = channels.iter().map(|channel| member(channel)).collect::<Vec<_>>();
                    let (_, core, slot) = self.at(who);
                    let permissions = core.connection(slot).unwrap().permissions();
                    let grant = |(channel, member): (&String, Option<Member>)| {
                        permissions.grant(channel, 255).map(|grant| Grant { member, ..grant })
                    };
                    match zip(&channels, members).map(grant).collect() {
                        Ok(grants) => {
                            core.subscribe(slot, grants);
                            let channels = zip(channels, lengths).collect();
                            self.clients[who].doing = Some(Doing { channels, person, is_large, sign_in: None, began });
                        }
                        Err(_) => self.reply(who, "!\n".into()),
                    }
                }
                Command::Unsubscribe { channel, flaps } => {
                    self.homes.broken = flaps;
                    let (_, core, slot) = self.at(who);
                    let left = core.unsubscribe(slot, &channel.as_str().into(), flaps);
                    assert_eq!(left, self.clients[who].subscriptions.contains(&channel));
                    if left {
                        self.left(who, channel);
                    }
                    self.after(self.ids[who].shard.into()); // before another subscription ends, in another way
                }
                Command::SignIn { person, watched } => {
                    let own = own_channel(&person.into()).as_str().to_owned();
                    let channels = vec![(own.clone(), self.logged(app, &own))];
                    let (_, core, slot) = self.at(who);
                    core.sign_in(slot, member(app, person, false), watched.iter().map(|user| (*user).into()).collect());
                    self.clients[who].doing =
                        Some(Doing { channels, sign_in: Some((person, watched)), began, ..Doing::default() });
                }
            }
        }
    }

    /// Replies: the line `!` to a refusal, `+ channel began ended =members` for each channel subscribed to, with the log's
    /// length when the command began and when it ended, `- channel` for one that was left, and `signed online offline`.
    fn reply(&mut self, who: usize, lines: String) {
        let (_, core, slot) = self.at(who);
        core.reply(slot, lines.into());
    }

    fn left(&mut self, who: usize, channel: String) {
        self.clients[who].subscriptions.remove(&channel);
        self.clients[who].member_of.remove(&channel);
        self.clients[who].idle_ms = self.now_ms;
        self.reply(who, format!("- {channel}\n"));
    }

    fn ended(&mut self, who: usize, outcome: Outcome) {
        let doing = self.clients[who].doing.take().expect("an outcome without a command");
        let (_, core, slot) = self.at(who);
        let held = subscriptions(core, slot);
        let mut lines = String::new();
        let (mut joined, mut states) = (Vec::new(), String::new());
        match outcome {
            Outcome::Refused(rejection) => {
                self.check_refusal(who, &doing, rejection);
                return self.reply(who, "!\n".into());
            }
            Outcome::Subscribed(new) => {
                assert!(doing.sign_in.is_none());
                joined = new;
            }
            Outcome::SignedIn { online, offline } => {
                let (person, watched) = doing.sign_in.clone().expect("signed in unasked");
                if let Some((held, _)) = self.clients[who].signed_in {
                    assert!(held == person && online.is_empty() && offline.is_empty());
                    return self.reply(who, "!\n".into());
                }
                let names =
                    |users: &[UserId]| users.iter().map(|user| user.as_str().to_owned() + ",").collect::<String>();
                states = format!("signed .{} .{}\n", names(&online), names(&offline));
                let mut found: Vec<&str> = online.iter().chain(&offline).map(UserId::as_str).collect();
                found.sort_unstable();
                assert_eq!(found, watched);
                self.clients[who].signed_in = Some((person, watched));
            }
        }
        let is_one = joined.len() == 1;
        for (channel, began) in &doing.channels {
            assert!(held.contains(channel), "subscribed, but not to {channel}");
            if self.clients[who].subscriptions.insert(channel.clone()) {
                let app = self.clients[who].app;
                lines += &format!("+ {channel} {began} {}", self.logged(app, channel));
                if doing.sign_in.is_none() {
                    let at = joined.iter().position(|joined| joined.channel.as_str() == channel).unwrap();
                    let members = self.check_joined(who, &doing, joined.swap_remove(at));
                    // what changes on one of several before all have confirmed is not told
                    lines += if is_one { &members } else { " ?" };
                }
                lines.push('\n');
                self.clients[who].must_authorize &= ChannelKind::of(channel).access == Access::Public;
            }
        }
        assert!(joined.is_empty(), "told of what was not asked for");
        self.reply(who, lines + &states);
    }

    // ------------------------------------------------------------------ backends

    fn publish(&mut self, from: usize, app: &'static str, channel: &str, size: usize, except: Option<usize>) {
        self.publish_to(from, app, channel, size, except.map_or(Whom::All, Whom::Except));
    }

    fn publish_to(&mut self, from: usize, app: &'static str, channel: &str, size: usize, whom: Whom) {
        let publication = self.publication(app, channel, size, whom);
        let accepted = self.cores[from].publish(&app.into(), publication);
        if self.assert_sound(accepted) {
            self.sent(app, channel, Sent { from, size, whom, by: None });
        }
        self.after(from);
    }

    /// Publishes to the connections that are signed in as a person.
    fn publish_to_person(&mut self, from: usize, app: &'static str, person: &'static str) {
        let to = Destination::SignedIn(person.into());
        let publication = Publication { to, ..self.publication(app, "", 0, Whom::All) };
        let accepted = self.cores[from].publish(&app.into(), publication);
        if self.assert_sound(accepted) {
            let own = own_channel(&person.into());
            self.sent(app, own.as_str(), Sent { from, size: 0, whom: Whom::All, by: None });
        }
        self.after(from);
    }

    /// Publishes to two channels, and asks how many subscribers that is for.
    fn publish_counted(&mut self, from: usize, app: &'static str, channels: [&'static str; 2], whom: Whom) -> usize {
        let request = self.requests.len();
        let mut publications = channels.map(|channel| self.publication(app, channel, 0, whom));
        publications[1].event.data = Data::Value((self.events.len() + 1).to_string().into());
        let accepted = self.cores[from].publish_counted(request as RequestId, &app.into(), publications.into());
        if self.assert_sound(accepted) {
            self.requests.push((Asked::Counted(channels), None));
            let sent = || Sent { from, size: 0, whom, by: None };
            channels.iter().for_each(|channel| self.sent(app, channel, sent()));
        }
        self.after(from);
        request
    }

    fn publication(&self, app: &str, channel: &str, size: usize, whom: Whom) -> Publication {
        let event = Event::new(app, Data::Value(format!("{:size$}", self.events.len()).into()), 0);
        Publication { target: self.target(whom), ..Publication::new(channel.into(), event) }
    }

    /// A client publishes.
    fn say(&mut self, who: usize, channel: &str, whom: Whom) {
        let (app, target) = (self.clients[who].app, self.target(whom));
        let event = Event::new(app, Data::AsSent(self.events.len().to_string().into()), 0);
        let (shard, core, slot) = self.at(who);
        let accepted = core.publish_from(slot, channel.into(), event, target);
        if !self.clients[who].subscriptions.contains(channel) {
            assert_eq!(accepted, Err(Rejection::NotSubscribed));
        } else if self.assert_sound(accepted) {
            let whom = if let Whom::All = whom { Whom::Except(who) } else { whom };
            let member = self.clients[who].member_of.get(channel).copied();
            self.sent(app, channel, Sent { from: shard, size: 0, whom, by: Some((who, member)) });
        }
        self.after(shard);
    }

    fn publish_matching(&mut self, from: usize, app: &'static str, pattern: &str) {
        let event = Event::new(app, Data::Value(self.events.len().to_string().into()), 0);
        let (request, pattern) = (self.requests.len() as RequestId, Regex::new(pattern).unwrap());
        let accepted = self.cores[from].publish_matching(request, &app.into(), pattern.clone(), event);
        if self.assert_sound(accepted) {
            self.events.push(Sent { from, size: 0, whom: Whom::All, by: None });
            self.requests.push((Asked::Matching, None));
            self.matches(from, app, &pattern, self.events.len() - 1);
        }
        self.after(from);
    }

    /// An event for one channel was accepted.
    fn sent(&mut self, app: &str, channel: &str, sent: Sent) {
        let is_home = usize::from(self.cores[sent.from].home(app, channel)) == sent.from;
        self.events.push(sent);
        self.accepted += 1;
        if is_home {
            self.arrives(app, channel, self.events.len() - 1);
        }
    }

    fn target(&self, whom: Whom) -> Target {
        match whom {
            Whom::All => Target::All,
            Whom::Except(who) => Target::Except(self.ids[who]),
            Whom::Only(who) => {
                Target::Only(SessionName { prefix: self.clients[who].session.map(Arc::from), id: self.ids[who] })
            }
            Whom::Named(name) => Target::Sessions(name.into()),
        }
    }

    fn terminate(&mut self, from: usize, app: &'static str, person: &'static str) {
        self.cores[from].terminate(&app.into(), person.into());
        self.terminated.push((app, person, self.step));
        let is_theirs = |client: &Client| {
            client.app == app && client.signed_in.as_ref().is_some_and(|(as_who, _)| *as_who == person)
        };
        let theirs = self.live().into_iter().filter(|who| is_theirs(&self.clients[*who])).collect::<Vec<_>>();
        self.must_end.extend(theirs);
        self.after(from);
    }

    /// Disables app `one` on a shard, or enables it again.
    fn toggle(&mut self, shard: usize) {
        let mut settings = Settings::clone(&self.settings);
        let enabled = self.disabled.remove(&shard) || !self.disabled.insert(shard);
        settings.apps.get_mut("one").unwrap().enabled = enabled;
        self.cores[shard].apply_settings(Arc::new(settings));
        self.after(shard);
        let stays = |who: &usize| self.clients[*who].closing.is_none() && self.clients[*who].app == "one";
        let here = |who: &usize| usize::from(self.ids[*who].shard) == shard;
        assert!(enabled || !self.live().iter().any(|who| here(who) && stays(who)));
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
        match &message.0 {
            Letter::Leave { how, .. } => self.homes.broken = *how != Leaving::Word,
            Letter::Publish { app, channel, event, .. } => {
                self.arrives(app.as_str(), channel.as_str(), number(event));
            }
            Letter::PublishMatching { app, pattern, event, .. } => {
                self.matches(to, app.as_str(), pattern, number(event));
            }
            _ => {}
        }
        self.cores[to].receive(message);
        self.after(to);
        true
    }

    fn mailed(&self) -> Vec<(usize, usize)> {
        self.mail.iter().filter(|(_, mail)| !mail.is_empty()).map(|(pair, _)| *pair).collect()
    }

    fn fan_out(&mut self, shard: usize) {
        self.cores[shard].begin_turn(RESTED_US);
        self.cores[shard].fan_out();
        self.after(shard);
        self.cores[shard].end_turn(RESTED_US);
    }

    /// Writes up to so many bytes of what a client has yet to be sent.
    fn flush(&mut self, who: usize, bytes: usize) {
        let (limits, admission) = (self.settings.limits.clone(), self.node.admission.clone());
        let (shard, core, slot) = self.at(who);
        let outbox = core.outbox_mut(slot).unwrap();
        let read = take(outbox, bytes);
        let (bytes, frames) = waiting(outbox);
        assert_eq!(outbox.weight(), bytes + 32 * frames);
        core.flushed(slot, 0);
        let too_much = bytes + 32 * frames > limits.outbox_bytes_max && frames > 1
            || bytes > 0 && admission.outboxes() > limits.outbox_total_bytes_max;
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
            let is_late = client.app == "one" && self.now_ms >= client.opened_ms + AUTHORIZE_MS + 1_000;
            assert!(!client.must_authorize || !is_late, "still nobody knows who it is");
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
            self.step += 1;
            let (mut effects, mut ready, mut answers) = (Vec::new(), Vec::new(), Vec::new());
            self.cores[shard].take_effects(&mut effects);
            self.observed(shard, &effects);
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
                    Effect::Observed(_) => {}
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
                while self.cores[shard].has_fan_out() || self.cores[shard].next_fan_out_us().is_some() {
                    self.fan_out(shard);
                }
            }
            for (shard, slot) in self.dirty.clone() {
                self.flush(self.tenant(shard, slot), usize::MAX);
            }
            let (mailed, live) = (self.mailed(), self.live());
            if mailed.is_empty() && live.iter().all(|who| self.clients[*who].closing.is_none()) {
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
    fn step(&mut self, verb: &str, picks: [u8; 6]) {
        let ([a, b, c, d, e, f], live) = (picks.map(usize::from), self.live());
        let (shard, app, channel, user) = (a % self.cores.len(), APPS[b % 2], CHANNELS[c % 8], USERS[c % 3]);
        let (dialect, deflated, person) = ((d % 2) as u8, d / 2 % 2 == 0, PEOPLE[e % 3]);
        let whom = || match d % 16 {
            0..2 if !self.clients.is_empty() => Whom::Except(e % self.clients.len()),
            2 if !self.clients.is_empty() => Whom::Only(e % self.clients.len()),
            3 => Whom::Named(["s", "s.t", "t", ""][e % 4]),
            _ => Whom::All,
        };
        match (verb, live.get(a % live.len().max(1)).copied()) {
            ("connect", _) => {
                let app = if self.disabled.contains(&shard) { "two" } else { app };
                let user = USERS[(c % 6).saturating_sub(3)];
                let (session, must_authorize) = (SESSIONS[e / 2 % 3], e % 2 == 0 && user.is_empty());
                let patterns = picked(&PATTERNS, f).into_iter().map(Box::from).collect();
                let user = user.to_owned();
                let client = Client { app, user, dialect, deflated, patterns, session, ..Client::default() };
                self.enter(shard, Client { must_authorize, ..client });
            }
            ("publish", _) => {
                let (size, whom) = (if f % 16 == 0 { 700 } else { 0 }, whom());
                self.publish_to(shard, app, channel, size, whom);
            }
            ("publish counted", _) => {
                let whom = whom();
                self.publish_counted(shard, app, [channel, CHANNELS[(c + 1 + f % 7) % 8]], whom);
            }
            ("publish matching", _) => self.publish_matching(shard, app, ["", "^a", "b", "cache"][c % 4]),
            ("publish to person", _) => self.publish_to_person(shard, app, person),
            ("terminate", _) => self.terminate(shard, app, person),
            ("toggle", _) if d % 3 == 0 || self.disabled.contains(&shard) => self.toggle(shard),
            ("toggle", _) => {}
            ("send to user", _) => self.note(shard, app, dialect, To::User(user.into(), None)),
            ("assign", _) => {
                let own = format!("assignment {}", self.notes.len());
                let names = picked(&PATTERNS, d).into_iter().chain([own.as_str()]).map(Box::from).collect();
                let add = (e % 2 == 0).then(|| Assignment::Add(PATTERNS[d % 6].into()));
                let assignment = add.unwrap_or(Assignment::Replace(names));
                self.note(shard, app, dialect, To::User(user.into(), Some(assignment)));
            }
            ("query", _) => {
                let (app, channel) = (AppKey::from(app), ChannelName::from(channel));
                let queries = [
                    Query::Channels(app.clone()),
                    Query::Members(app.clone(), channel.clone()),
                    Query::Present(app.clone(), channel.clone()),
                    Query::Sessions(app.clone(), channel.clone()),
                    Query::Describe(app, Which::Named([channel].into())),
                    Query::UsersPerApp,
                ];
                self.query(shard, queries[d % 6].clone());
            }
            ("deliver", _) => {
                for pick in [a, b, c, d, e, f] {
                    let mailed = self.mailed();
                    mailed.get(pick % mailed.len().max(1)).map(|(from, to)| self.deliver(*from, *to));
                }
            }
            ("fan out", _) => self.fan_out(shard),
            ("tick", _) => self.tick(a as u64 * 60),
            (_, None) => {}
            ("disconnect", Some(who)) => self.disconnect(who),
            ("subscribe", Some(who)) => {
                let one = 1 << if d % 4 == 1 { 5 } else { b % 8 }; // members are many
                let wanted = picked(&CHANNELS, if c % 4 > 0 { one } else { b & e });
                let mut channels: Vec<String> = wanted.into_iter().map(String::from).collect();
                channels.extend(channels.first().cloned().filter(|_| d % 4 == 0));
                let is_large = f % 16 == 0 && self.clients[who].app == "two";
                self.command(who, Command::Subscribe { channels, person, is_large });
            }
            ("unsubscribe", Some(who)) => {
                let held: Vec<String> = self.clients[who].subscriptions.iter().cloned().collect();
                let channel = held.get(c % held.len().max(1)).filter(|_| f % 4 > 0).map_or(channel, String::as_str);
                let (channel, flaps) = (channel.to_owned(), e % 4 == 0);
                self.command(who, Command::Unsubscribe { channel, flaps });
            }
            ("sign in", Some(who)) if self.clients[who].user.is_empty() => {
                self.sign_in(who, person, &picked(&PEOPLE, c));
            }
            ("sign in", Some(_)) => {}
            ("say", Some(who)) => {
                let held: Vec<String> = self.clients[who].subscriptions.iter().cloned().collect();
                let channel = held.get(c % held.len().max(1)).filter(|_| f % 8 > 0).map_or(channel, String::as_str);
                let whom = whom();
                self.say(who, channel, whom);
            }
            ("send to connection", Some(_)) => self.note(shard, app, dialect, To::Client(c % self.clients.len())),
            ("flush", Some(who)) => self.flush(who, if b % 2 == 0 { usize::MAX } else { c }),
            ("heard", Some(who)) => self.heard(who),
            _ => unreachable!("{verb}"),
        }
    }
}

/// Those names whose bits are set.
fn picked(names: &[&'static str], bits: usize) -> Vec<&'static str> {
    (0..names.len()).filter(|index| bits >> index & 1 == 1).map(|index| names[index]).collect()
}

fn is_presence(channel: &str) -> bool {
    ChannelKind::of(channel).access == Access::Presence
}

/// A person as a member; what there is to say is the name of the app, or too much.
fn member(app: &str, person: &str, is_large: bool) -> Member {
    let info = if is_large { "x".repeat(MEMBER_BYTES_MAX + 1) } else { app.to_owned() };
    Member { user: person.into(), info: info.into() }
}

/// Channels that a connection is subscribed to; it knows its places among their subscribers.
fn subscriptions(core: &Core, slot: u32) -> BTreeSet<String> {
    let held = &core.connections[slot as usize].subscriptions;
    let names = held.iter().map(|held| {
        let audience = &core.audiences[held.audience];
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
const VERBS: &str = "14 connect, 7 disconnect, 24 subscribe, 6 unsubscribe, 6 sign in, 22 publish, 2 publish counted, \
    2 publish matching, 2 publish to person, 4 say, 1 terminate, 1 toggle, 2 send to user, 2 send to connection, 5 assign, \
    2 query, 16 deliver, 14 fan out, 8 flush, 4 tick, 6 heard";

proptest! {
    #[test]
    fn any_interleaving_agrees_with_the_model(
        shards in 1..5_usize,
        hash_seed in any::<u64>(),
        steps in prop::collection::vec((verb(), any::<[u8; 6]>()), 1..300),
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
