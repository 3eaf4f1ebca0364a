//! What a channel's home does: who is subscribed, who is a member, what is published, and who is told of it.

use std::cmp::Reverse;
use std::sync::Arc;

use bytes::Bytes;
use regex::Regex;

use super::channel::{Access, ChannelKind};
use super::connection::{Cached, Joined};
use super::event::{About, Dialect, DialectIndex, Event, Form, Frames, Member, Notice};
use super::home::ChannelHome;
use super::id::{AppKey, ChannelName, ShardIndex, UserId};
use super::message::{Leaving, Letter, Subscriber, Target};
use super::observation::{Observation, Observed, SessionName};
use super::rejection::Rejection;
use super::request::{Answer, ChannelInfo, Part, Ticket, Which};
use super::stats::Stats;
use super::{Core, Effect, Node};
use crate::limits::Limits;

/// Up to so many subscribers are told of each change of their number at once; few under test.
pub(super) const COUNT_AT_ONCE_MAX: u64 = if cfg!(test) { 2 } else { 100 };
/// More of them are told so often.
pub(super) const COUNT_EVERY_MS: u64 = 5_000;
/// How long a member that comes and goes too often stays before the others are told.
pub(super) const FLAPPING_GRACE_MS: u64 = 1_000;

/// Something that a home must do later.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Due {
    at_ms: u64,
    app: AppKey,
    channel: ChannelName,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
enum What {
    /// A user's time to come back is over, unless it came back meanwhile.
    MemberLeaves(UserId),
    /// A cached event's time is over.
    CacheEnds,
    /// The number of subscribers, which changed a while ago, is to be told, unless it was told meanwhile.
    CountTold,
}

impl Core {
    /// A connection wants to subscribe to a channel that is at home here.
    pub(super) fn join_here(
        &mut self,
        who: Subscriber,
        command: u32,
        app: AppKey,
        channel: ChannelName,
        member: Option<Member>,
    ) {
        let shard = who.session.id.shard;
        let joined = match self.admit_member(&app, &channel, member.as_ref()) {
            Ok(()) => Ok(self.add_subscriber(&who, &app, &channel, member)),
            Err(rejection) => Err((channel.clone(), rejection)),
        };
        let is_in = joined.is_ok();
        self.send(shard, Letter::Joined { who, command, app: app.clone(), joined });
        if is_in {
            self.count_changed(&app, &channel);
        }
    }

    fn admit_member(&self, app: &AppKey, channel: &ChannelName, member: Option<&Member>) -> Result<(), Rejection> {
        let Some(member) = member else { return Ok(()) };
        let settings = self.settings.app(app);
        if member.info.len() > settings.presence_member_bytes_max {
            return Err(Rejection::MemberTooLarge);
        }
        match self.channels.get(app, channel) {
            Some(home) if home.member_count() >= settings.presence_members_max && !home.is_member(&member.user) => {
                Err(Rejection::ChannelFull)
            }
            _ => Ok(()),
        }
    }

    fn add_subscriber(
        &mut self,
        who: &Subscriber,
        app: &AppKey,
        channel: &ChannelName,
        member: Option<Member>,
    ) -> Joined {
        let is_there = |user: &UserId| self.channels.get(app, channel).is_some_and(|home| home.is_member(user));
        let new = member.clone().filter(|member| !is_there(&member.user));
        // before the newcomer hears the channel, for it finds itself in the snapshot
        if let Some(member) = &new {
            self.notify(app, channel, Notice::MemberAdded(channel, member));
        }
        let is_member = member.is_some();
        if self.channels.join(app, channel.clone(), who, member.clone()) {
            self.node.occupancy.occupied(self.name_hash(app.as_str(), channel.as_str()));
            self.observe(app, channel, || Observed::Occupied);
        }
        if let Some(Member { user, info }) = new {
            self.observe(app, channel, || Observed::MemberAdded { user, info });
        }
        self.observe(app, channel, || Observed::Joined { session: who.session.clone(), member });
        let home = self.channels.get(app, channel);
        let members = home.filter(|_| is_member).map(|home| home.members().cloned().collect());
        let cached = ChannelKind::of(channel.as_str()).is_cache.then(|| self.look_into_cache(app, channel));
        Joined { channel: channel.clone(), members, cached }
    }

    fn look_into_cache(&mut self, app: &AppKey, channel: &ChannelName) -> Cached {
        let Some(home) = self.channels.get(app, channel) else { return Cached::Nothing };
        if let Some((event, _)) = home.cached(self.now_ms) {
            return Cached::Event(event.clone());
        }
        if self.channels.change(app, channel, ChannelHome::tell_miss) == Some(true) {
            self.observe(app, channel, || Observed::CacheMiss);
        }
        Cached::Nothing
    }

    /// A subscription to a channel that is at home here has ended.
    pub(super) fn leave_here(&mut self, who: &Subscriber, app: &AppKey, channel: &ChannelName, how: Leaving) {
        let grace_ms = self.settings.app(app).presence_grace.as_millis() as u64;
        let grace_ms = match how {
            Leaving::Word => 0,
            Leaving::Broken => grace_ms,
            Leaving::Flapping => grace_ms.max(FLAPPING_GRACE_MS),
        };
        let leaves_ms = (grace_ms > 0).then_some(self.now_ms + grace_ms);
        let left = self.channels.leave(app, channel, who, leaves_ms);
        self.observe(app, channel, || Observed::Left(who.session.clone()));
        if let (Some(user), Some(at_ms)) = (left.missing, leaves_ms) {
            self.put_off(at_ms, app, channel, What::MemberLeaves(user));
        }
        if let Some(user) = left.removed {
            self.member_removed(app, channel, user);
        }
        if left.vacated {
            self.node.occupancy.vacated(self.name_hash(app.as_str(), channel.as_str()));
            self.observe(app, channel, || Observed::Vacated);
        }
        self.count_changed(app, channel);
    }

    fn member_removed(&mut self, app: &AppKey, channel: &ChannelName, user: UserId) {
        self.notify(app, channel, Notice::MemberRemoved(channel, &user));
        self.observe(app, channel, || Observed::MemberRemoved { user });
    }

    /// Tells subscribers how many they are, if the app wants that: at once, or when enough time has passed.
    fn count_changed(&mut self, app: &AppKey, channel: &ChannelName) {
        let is_counted = !matches!(ChannelKind::of(channel.as_str()).access, Access::Presence | Access::Reserved);
        if !is_counted || !self.settings.app(app).subscription_count {
            return;
        }
        let now_ms = self.now_ms;
        let told =
            self.channels.change(app, channel, |home| home.tell_count(now_ms, COUNT_EVERY_MS, COUNT_AT_ONCE_MAX));
        match told {
            None | Some(Ok(())) => self.tell_count(app, channel),
            Some(Err(Some(at_ms))) => self.put_off(at_ms, app, channel, What::CountTold),
            Some(Err(None)) => {}
        }
    }

    fn tell_count(&mut self, app: &AppKey, channel: &ChannelName) {
        let count = self.channels.get(app, channel).map_or(0, ChannelHome::subscriptions);
        self.notify(app, channel, Notice::SubscriptionCount(channel, count));
        self.observe(app, channel, || Observed::SubscriptionCount(count));
    }

    /// An event for a channel that is at home here.
    pub(super) fn publish_here(
        &mut self,
        app: &AppKey,
        channel: &ChannelName,
        mut event: Event,
        target: Target,
        ticket: Option<Ticket>,
    ) {
        self.count_event(app);
        let publisher = event.about.as_ref().and_then(|about| about.session.clone());
        match publisher {
            Some(session) => self.observe_client_event(app, channel, &mut event, session),
            None if ChannelKind::of(channel.as_str()).is_cache && target.is_everybody() => {
                self.cache(app, channel, &event);
            }
            None => {}
        }
        let shards = match self.channels.get(app, channel).filter(|home| home.is_occupied()) {
            Some(home) => {
                let write = |dialect: &dyn Dialect| dialect.encode(channel, &event);
                let encoded = encode(&self.node, &self.settings.limits, &mut self.stats, home, write);
                let shards: Vec<ShardIndex> = home.shards(self.node.shards).collect();
                self.deliver(&shards, app, channel, encoded, target, ticket);
                shards.len()
            }
            None => 0,
        };
        if let Some(ticket) = ticket {
            let answer = Answer::PerChannel(vec![(channel.clone(), 0)]);
            self.answer(ticket, Part::Home { answer, more: shards as u32 });
        }
    }

    /// Says which member the publisher is, and tells those who want to know what clients say.
    fn observe_client_event(&mut self, app: &AppKey, channel: &ChannelName, event: &mut Event, session: SessionName) {
        let user = self.channels.get(app, channel).and_then(|home| home.member_of(session.id)).cloned();
        if let (Some(user), Some(about)) = (&user, &mut event.about) {
            *about = Arc::new(About { user: Some(user.clone()), ..(**about).clone() });
        }
        self.observe(app, channel, || Observed::ClientEvent { event: event.clone(), session, user });
    }

    fn cache(&mut self, app: &AppKey, channel: &ChannelName, event: &Event) {
        let limits = &self.settings.limits;
        let until_ms = self.now_ms + limits.cache_ttl.as_millis() as u64;
        let bytes_max = limits.cache_bytes_max / usize::from(self.node.shards);
        if self.channels.cache(app, channel, event, until_ms, bytes_max) {
            self.put_off(until_ms, app, channel, What::CacheEnds);
        }
    }

    /// Publishes to every channel at home here whose name the pattern finds; to none of them, if all their copies of the
    /// event together are more than `backlog_bytes_max`.
    pub(super) fn publish_matching_here(&mut self, app: &AppKey, pattern: &Regex, event: &Event) -> Answer {
        let found = |(channel, _): &(&ChannelName, &ChannelHome)| pattern.is_match(channel.as_str());
        let matching: Vec<ChannelName> =
            self.channels.occupied(app).filter(found).map(|(channel, _)| channel.clone()).collect();
        if matching.len().saturating_mul(event.weight()) > self.settings.limits.backlog_bytes_max {
            return Answer::Refused(self.rejected(Rejection::Overloaded));
        }
        for channel in &matching {
            self.publish_here(app, channel, event.clone(), Target::All, None);
        }
        Answer::Count(matching.len() as u64)
    }

    /// Tells the subscribers of a channel that is at home here, those whose protocol has words for it.
    fn notify(&mut self, app: &AppKey, channel: &ChannelName, notice: Notice<'_>) {
        let Some(home) = self.channels.get(app, channel).filter(|home| home.is_occupied()) else { return };
        let write = |dialect: &dyn Dialect| dialect.notice(&notice);
        let encoded = encode(&self.node, &self.settings.limits, &mut self.stats, home, write);
        if encoded.weight > 0 {
            let shards: Vec<ShardIndex> = home.shards(self.node.shards).collect();
            self.deliver(&shards, app, channel, encoded, Target::All, None);
        }
    }

    fn deliver(
        &mut self,
        shards: &[ShardIndex],
        app: &AppKey,
        channel: &ChannelName,
        Encoded { frames, weight }: Encoded,
        target: Target,
        ticket: Option<Ticket>,
    ) {
        for shard in shards {
            self.borrow(*shard, weight);
            let (app, channel, frames, target) = (app.clone(), channel.clone(), frames.clone(), target.clone());
            self.send(*shard, Letter::Deliver { app, channel, frames, weight, target, ticket });
        }
    }

    fn observe(&mut self, app: &AppKey, channel: &ChannelName, what: impl FnOnce() -> Observed) {
        if self.settings.app(app).observed && !channel.as_str().starts_with('#') {
            let observation = Observation { app: app.clone(), channel: channel.clone(), what: what() };
            self.effects.push(Effect::Observed(observation));
        }
    }

    fn put_off(&mut self, at_ms: u64, app: &AppKey, channel: &ChannelName, what: What) {
        self.due.push(Reverse(Due { at_ms, app: app.clone(), channel: channel.clone(), what }));
    }

    /// Does what was put off until now.
    pub(super) fn do_what_is_due(&mut self) {
        while self.due.peek().is_some_and(|Reverse(due)| due.at_ms <= self.now_ms) {
            let Some(Reverse(Due { at_ms: due_ms, app, channel, what })) = self.due.pop() else { break };
            match what {
                What::MemberLeaves(user) => {
                    if self.channels.remove_missing(&app, &channel, &user, due_ms) {
                        self.member_removed(&app, &channel, user);
                    }
                }
                What::CacheEnds => {
                    if let Some(at_ms) = self.channels.end_cache(&app, &channel, self.now_ms) {
                        self.put_off(at_ms, &app, &channel, What::CacheEnds);
                    }
                }
                What::CountTold => {
                    if self.channels.change(&app, &channel, |home| home.count_is_due(due_ms)) == Some(true) {
                        self.count_changed(&app, &channel);
                    }
                }
            }
        }
        self.settle();
    }

    /// Channels that are at home here.
    pub(super) fn describe(&self, app: &AppKey, which: &Which) -> Vec<ChannelInfo> {
        let info = |name: &ChannelName, home: Option<&ChannelHome>| ChannelInfo {
            name: name.clone(),
            subscriptions: home.map_or(0, ChannelHome::subscriptions),
            members: home.map_or(0, |home| home.member_count() as u64),
            cached: home.and_then(|home| home.cached(self.now_ms)).map(|(event, ms)| (event.clone(), ms)),
        };
        match which {
            Which::Named(names) => {
                let here = names.iter().filter(|name| self.channel_home(app, name) == self.shard);
                here.map(|name| info(name, self.channels.get(app, name))).collect()
            }
            Which::Occupied(prefix) => {
                let found = self.channels.occupied(app).filter(|(name, _)| name.as_str().starts_with(&**prefix));
                found.map(|(name, home)| info(name, Some(home))).collect()
            }
        }
    }
}

/// An event as it goes out.
struct Encoded {
    frames: Frames,
    /// Bytes of `frames`; what two forms share counts once.
    weight: usize,
}

/// Encodes once for each dialect that has a subscriber, and deflates that once for all who read it deflated.
fn encode(
    node: &Node,
    limits: &Limits,
    stats: &mut Stats,
    home: &ChannelHome,
    write: impl Fn(&dyn Dialect) -> Vec<u8>,
) -> Encoded {
    let mut frames = vec![Bytes::new(); 2 * node.dialects.len()];
    let mut weight = 0;
    let mut enter = |frame: Vec<u8>| {
        weight += frame.len();
        node.ledger.enter(frame)
    };
    for (index, dialect) in node.dialects.iter().enumerate() {
        let [plain, deflated] = [false, true].map(|deflated| Form::new(index as DialectIndex, deflated));
        let (reads_plain, reads_deflated) = (home.reads(plain), home.reads(deflated));
        if !reads_plain && !reads_deflated {
            continue;
        }
        let frame = write(&**dialect);
        if frame.is_empty() {
            continue;
        }
        stats.frames_encoded += 1;
        let smaller = reads_deflated.then(|| (node.deflate)(&frame, limits)).flatten();
        match smaller {
            Some(smaller) => {
                stats.frames_deflated += 1;
                frames[deflated.index()] = enter(smaller);
                if reads_plain {
                    frames[plain.index()] = enter(frame);
                }
            }
            None => {
                let shared = enter(frame);
                for (form, is_read) in [(plain, reads_plain), (deflated, reads_deflated)] {
                    if is_read {
                        frames[form.index()] = shared.clone();
                    }
                }
            }
        }
    }
    Encoded { frames: frames.into(), weight }
}
