//! What the homes of channels must make of what comes to them: who is told what, in which order, and what newcomers find.
//! Of app `two` all of it is known, for it is observed; of app `one` what is cached.

use super::*;
use crate::core::home::CACHED_OVERHEAD_BYTES;
use crate::core::roster::{COUNT_AT_ONCE_MAX, COUNT_EVERY_MS};

/// What a shard's cached events may weigh.
pub(super) const CACHE_BYTES_MAX: usize = 2 * CACHED_OVERHEAD_BYTES + 100;

#[derive(Default)]
pub(super) struct Homes {
    pub(super) channels: BTreeMap<String, Home>,
    /// Of cache channels, by app: the number of the event, its weight, and when it is forgotten.
    pub(super) cached: BTreeMap<(String, String), (usize, usize, u64)>,
    /// What clients have said that has come to a home and is to be observed there.
    said: BTreeMap<String, Vec<String>>,
    /// The last step at which a channel had as many members as it may have.
    full: BTreeMap<String, usize>,
    /// Whether a leave that comes now is that of a connection that broke off.
    pub(super) broken: bool,
}

/// A channel of app `two`.
#[derive(Default)]
pub(super) struct Home {
    /// Its subscribers, and the members that they are.
    pub(super) sessions: BTreeMap<usize, Option<String>>,
    /// Its members, and when those leave whose last connection broke off.
    pub(super) members: BTreeMap<String, Option<u64>>,
    miss_told: bool,
    /// When the number of subscribers was told last.
    told_ms: Option<u64>,
    /// When it is told again, for it has changed.
    pub(super) tell_ms: Option<u64>,
}

impl Home {
    /// The number of subscribers has changed, or it is time to tell it.
    fn count(&mut self, channel: &str, now_ms: u64) -> Option<String> {
        let count = self.sessions.len();
        match self.told_ms {
            _ if is_presence(channel) => None,
            Some(told_ms) if count as u64 > COUNT_AT_ONCE_MAX && now_ms < told_ms + COUNT_EVERY_MS => {
                self.tell_ms = Some(told_ms + COUNT_EVERY_MS);
                None
            }
            _ => {
                (self.told_ms, self.tell_ms) = (Some(now_ms), None);
                Some(format!("count {count}"))
            }
        }
    }
}

impl World {
    /// An event comes to the home of its channel.
    pub(super) fn arrives(&mut self, app: &str, channel: &str, number: usize) {
        let sent = &self.events[number];
        match (sent.by, sent.whom) {
            (Some((who, member)), _) if app == "two" && !channel.starts_with('#') => {
                let words = format!("client {number} {who} {}", member.unwrap_or("-"));
                self.homes.said.entry(channel.to_owned()).or_default().push(words);
            }
            (None, Whom::All | Whom::Except(_)) if ChannelKind::of(channel).is_cache => {
                self.cache(app, channel, number)
            }
            _ => {}
        }
    }

    /// An event for all channels that a pattern finds comes to a home.
    pub(super) fn matches(&mut self, shard: usize, app: &str, pattern: &Regex, number: usize) {
        let app_key = AppKey::from(app);
        let occupied = self.cores[shard].channels.occupied(&app_key);
        let names = occupied.map(|(channel, _)| channel.as_str()).filter(|channel| pattern.is_match(channel));
        for channel in names.map(String::from).collect::<Vec<_>>() {
            self.arrives(app, &channel, number);
        }
    }

    fn cache(&mut self, app: &str, channel: &str, number: usize) {
        let home = |app: &str, channel: &str| self.cores[0].home(app, channel);
        let (key, here) = ((app.to_owned(), channel.to_owned()), home(app, channel));
        let data = number.to_string().len().max(self.events[number].size);
        let weight = app.len() + data + channel.len() + CACHED_OVERHEAD_BYTES;
        self.homes.cached.remove(&key);
        let others = self.homes.cached.iter().filter(|((app, channel), _)| home(app, channel) == here);
        if others.map(|(_, (_, weight, _))| weight).sum::<usize>() + weight > CACHE_BYTES_MAX {
            return;
        }
        self.homes.cached.insert(key, (number, weight, self.now_ms + CACHE_MS));
        if app == "two" {
            self.homes.channels.entry(channel.to_owned()).or_default().miss_told = false;
        }
    }

    /// Compares what a shard has observed during one call with what was to be observed there.
    pub(super) fn observed(&mut self, shard: usize, effects: &[Effect]) {
        let now_ms = self.now_ms;
        self.homes.cached.retain(|_, (_, _, until_ms)| *until_ms > now_ms);
        let mut expected = std::mem::take(&mut self.homes.said);
        for channel in self.homes.channels.keys().cloned().collect::<Vec<_>>() {
            if usize::from(self.cores[shard].home("two", &channel)) == shard {
                let due = self.due(&channel);
                expected.entry(channel).or_default().extend(due);
            }
        }
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for effect in effects {
            let Effect::Observed(Observation { app, channel, what }) = effect else { continue };
            let channel = channel.as_str().to_owned();
            assert_eq!((app.as_str(), usize::from(self.cores[shard].home("two", &channel))), ("two", shard));
            let who = |session: &SessionName| {
                let who = self.ids.iter().position(|id| *id == session.id).unwrap();
                assert_eq!(session.prefix.as_deref(), self.clients[who].session);
                who
            };
            let (words, leads_to) = match what {
                Observed::Occupied => ("occupied".into(), Vec::new()),
                Observed::Vacated => ("vacated".into(), Vec::new()),
                Observed::MemberAdded { user, info } => {
                    assert_eq!(&info[..], b"two");
                    (format!("added {}", user.as_str()), Vec::new())
                }
                Observed::MemberRemoved { user } => (format!("removed {}", user.as_str()), Vec::new()),
                Observed::CacheMiss => ("miss".into(), Vec::new()),
                Observed::SubscriptionCount(count) => (format!("count {count}"), Vec::new()),
                Observed::ClientEvent { event, session, user } => {
                    let user = user.as_ref().map_or("-", UserId::as_str);
                    (format!("client {} {} {user}", number(event), who(session)), Vec::new())
                }
                Observed::Joined { session, member } => {
                    let (who, user) = (who(session), member.as_ref().map(|member| member.user.as_str().to_owned()));
                    (format!("joined {who} {user:?}"), self.joins(&channel, who, user))
                }
                Observed::Left(session) => {
                    let who = who(session);
                    (format!("left {who}"), self.leaves(&channel, who))
                }
            };
            expected.entry(channel.clone()).or_default().extend(leads_to);
            seen.entry(channel).or_default().push(words);
        }
        expected.retain(|_, words| !words.is_empty());
        assert_eq!(seen, expected, "observed on shard {shard}");
        self.homes.broken = false;
        let step = self.step;
        let full = self.homes.channels.iter().filter(|(_, home)| home.members.len() == MEMBERS_MAX);
        self.homes.full.extend(full.map(|(channel, _)| (channel.clone(), step)));
    }

    /// What there is to be told when somebody joins.
    fn joins(&mut self, channel: &str, who: usize, user: Option<String>) -> Vec<String> {
        let is_cache = ChannelKind::of(channel).is_cache;
        let cached = self.homes.cached.get(&("two".into(), channel.into())).map(|(number, ..)| *number);
        let now_ms = self.now_ms;
        let home = self.homes.channels.entry(channel.to_owned()).or_default();
        let is_new = user.as_ref().is_some_and(|user| !home.members.contains_key(user));
        assert!(!is_new || home.members.len() < MEMBERS_MAX, "more members than there may be");
        home.members.extend(user.clone().map(|user| (user, None)));
        let misses = is_cache && cached.is_none() && !std::mem::replace(&mut home.miss_told, true);
        let mut told = vec![
            home.sessions.is_empty().then(|| "occupied".into()),
            user.as_ref().filter(|_| is_new).map(|user| format!("added {user}")),
            Some(format!("joined {who} {user:?}")),
            misses.then(|| "miss".into()),
        ];
        assert_eq!(home.sessions.insert(who, user.clone()), None, "joined twice");
        told.push(home.count(channel, now_ms));
        let members = user.map(|_| home.members.keys().cloned().collect());
        self.clients[who].shown.insert(channel.to_owned(), Shown { members, cached: is_cache.then_some(cached) });
        told.into_iter().flatten().collect()
    }

    /// What there is to be told when somebody leaves.
    fn leaves(&mut self, channel: &str, who: usize) -> Vec<String> {
        let (now_ms, broken) = (self.now_ms, self.homes.broken);
        let home = self.homes.channels.get_mut(channel).unwrap();
        let user = home.sessions.remove(&who).expect("left, but had not joined");
        let was_last = |user: &String| home.sessions.values().all(|of| of.as_ref() != Some(user));
        let user = user.filter(was_last);
        let mut told = vec![Some(format!("left {who}"))];
        if broken {
            home.members.extend(user.map(|user| (user, Some(now_ms + GRACE_MS))));
        } else if let Some(user) = user {
            home.members.remove(&user);
            told.push(Some(format!("removed {user}")));
        }
        if home.sessions.is_empty() {
            home.miss_told = false;
            told.push(Some("vacated".into()));
        }
        told.push(home.count(channel, now_ms));
        self.forget_spent(channel);
        told.into_iter().flatten().collect()
    }

    /// What there is to be told because its time has come.
    fn due(&mut self, channel: &str) -> Vec<String> {
        let now_ms = self.now_ms;
        let home = self.homes.channels.get_mut(channel).unwrap();
        let is_due = |at_ms: Option<u64>| at_ms.filter(|at_ms| *at_ms <= now_ms);
        let mut missing: Vec<(u64, String)> =
            home.members.iter().filter_map(|(user, leaves_ms)| Some((is_due(*leaves_ms)?, user.clone()))).collect();
        missing.sort();
        home.members.retain(|_, leaves_ms| is_due(*leaves_ms).is_none());
        let mut told: Vec<String> = missing.into_iter().map(|(_, user)| format!("removed {user}")).collect();
        if is_due(home.tell_ms).is_some() {
            home.told_ms = None;
            told.extend(home.count(channel, now_ms));
        }
        self.forget_spent(channel);
        told
    }

    fn forget_spent(&mut self, channel: &str) {
        let is_cached = self.homes.cached.contains_key(&("two".into(), channel.into()));
        let home = &self.homes.channels[channel];
        if home.sessions.is_empty() && home.members.is_empty() && !is_cached {
            self.homes.channels.remove(channel);
        }
    }

    /// Compares what a newcomer was shown with what it must find. Returns the members, for its reply.
    pub(super) fn check_joined(&mut self, who: usize, doing: &Doing, joined: Joined) -> String {
        let channel = joined.channel.as_str();
        let cached = joined.cached.map(|cached| match cached {
            Cached::Event(event) => Some(number(&event)),
            Cached::Nothing => None,
        });
        let names = |members: Vec<Member>| {
            let app = self.clients[who].app.as_bytes();
            assert!(members.iter().all(|member| member.info == app));
            members.into_iter().map(|member| member.user.as_str().to_owned()).collect::<BTreeSet<_>>()
        };
        let shown = Shown { members: joined.members.map(names), cached };
        let is_member = is_presence(channel) && self.clients[who].user.is_empty();
        assert!(!is_member || !doing.is_large, "subscribed with too much to say");
        assert_eq!(shown.members.as_ref().map(|members| members.contains(doing.person)), is_member.then_some(true));
        assert_eq!(shown.cached.is_some(), ChannelKind::of(channel).is_cache);
        let app = self.clients[who].app;
        if let Some(Some(number)) = shown.cached {
            assert!(self.events[number].by.is_none());
        }
        if app == "two" && !channel.starts_with('#') {
            assert_eq!(Some(&shown), self.clients[who].shown.get(channel), "what {who} found on {channel}");
        }
        if is_member {
            self.clients[who].member_of.insert(channel.to_owned(), doing.person);
        }
        let members = shown.members.into_iter().flatten().collect::<Vec<_>>().join(",");
        format!(" ={members}")
    }

    /// Whether a command was refused for a reason.
    pub(super) fn check_refusal(&self, who: usize, doing: &Doing, rejection: Rejection) {
        let client = &self.clients[who];
        let asks_for_more = |(channel, _): &&(String, usize)| !client.subscriptions.contains(channel);
        let mut presence = doing.channels.iter().filter(asks_for_more).filter(|(channel, _)| is_presence(channel));
        let was_full =
            |(channel, _): &(String, usize)| self.homes.full.get(channel).is_some_and(|full| *full >= doing.began);
        let is_sound = match rejection {
            Rejection::MemberTooLarge => doing.is_large && client.user.is_empty() && presence.next().is_some(),
            Rejection::ChannelFull => client.app == "two" && client.user.is_empty() && presence.any(was_full),
            Rejection::NotPermitted => !client.user.is_empty(),
            Rejection::TooManySubscriptions => {
                let wanted = doing.channels.iter().map(|(channel, _)| channel).collect::<BTreeSet<_>>();
                let held = client.subscriptions.iter().collect::<BTreeSet<_>>();
                wanted.union(&held).count() > SUBSCRIPTIONS_MAX
            }
            Rejection::OtherUser => {
                let wanted = doing.sign_in.as_ref().map(|(person, _)| person);
                client.signed_in.as_ref().is_some_and(|(person, _)| Some(person) != wanted)
            }
            _ => false,
        };
        assert!(is_sound, "{who} was refused: {rejection}");
    }
}
