//! One Pusher client's conversation.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::core::{
    Access, Cached, ChannelKind, ChannelName, CloseReason, Data, Event, Grant, Joined, Member, Notice, Outcome,
    Rejection, Target, UserId, owner_of,
};
use crate::hooks::jobs::JobError;
use crate::limits::Limits;
use crate::protocol::apps::App;
use crate::protocol::rate::Rate;
use crate::protocol::{is_json, json};
use crate::shard::door::{Farewell, Heard, Session, Step};

use super::command::{self, Command, Subscribe};
use super::dialect::{event_text, internal, notice_text, watchlist_events};
use super::reply::{self, AUTH_ERROR, KIND_ERROR, MEMBER_TOO_LARGE, NAME_ERROR};
use super::{channel_name_problem, is_name};

/// The longest user id, in characters (Presence channels, "Limits").
const USER_ID_CHARS_MAX: usize = 128;
/// Presence channels that a connection may leave in a second so that their members are told at once. Beyond it they are
/// told if it has not come back a second later.
const PRESENCE_LEAVES_PER_S: usize = 10;

/// What the session must remember beside the connection's own state.
pub(super) struct PusherSession {
    pub(super) app: Arc<App>,
    pub(super) activity_timeout_s: u64,
    /// What has yet to end.
    pub(super) in_flight: Option<Box<InFlight>>,
    pub(super) client_events: Rate,
    pub(super) presence_leaves: Rate,
}

pub(super) enum InFlight {
    Subscribe(ChannelName),
    SignIn {
        user_data: String,
        /// How many users it may watch, if it wants more.
        cut_to: Option<usize>,
        watches: bool,
    },
    ClientEvent(ChannelName),
}

/// The identity that a backend signed for a presence channel.
#[derive(Deserialize)]
struct ChannelData<'a> {
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
}

/// The identity that a backend signed for a sign-in.
#[derive(Deserialize)]
struct UserData<'a> {
    id: String,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
    watchlist: Option<Vec<String>>,
}

impl Session for PusherSession {
    fn protocol(&self) -> &'static str {
        "pusher"
    }

    fn message_bytes_max(&self, limits: &Limits) -> usize {
        limits.message_bytes_max
    }

    fn opened(&mut self, heard: Heard<'_>) -> Step {
        let socket = heard.connection.id().to_dotted();
        Step::Reply(reply::connection_established(&socket, self.activity_timeout_s))
    }

    fn reads_binary(&self) -> bool {
        true
    }

    fn text(&mut self, heard: Heard<'_>) -> Step {
        App::renew(&mut self.app);
        match command::parse(heard.text) {
            Err(words) => Step::Reply(reply::error(None, &words)),
            Ok(Command::Ping) => Step::Reply(reply::PONG.to_owned()),
            Ok(Command::Pong) => Step::Nothing,
            Ok(Command::Subscribe(subscribe)) => self.subscribe(&heard, &subscribe),
            Ok(Command::Unsubscribe { channel }) => self.unsubscribe(&heard, &channel),
            Ok(Command::SignIn { auth, user_data }) => self.sign_in(&heard, &auth, user_data),
            Ok(Command::ClientEvent { name, channel, data }) => self.client_event(&heard, &name, &channel, data),
        }
    }

    fn done(&mut self, outcome: Outcome) -> Step {
        match (self.in_flight.take().map(|in_flight| *in_flight), outcome) {
            (Some(InFlight::Subscribe(channel)), Outcome::Subscribed(joined)) => {
                Step::Replies(subscribed(&channel, joined))
            }
            (Some(InFlight::Subscribe(channel)), Outcome::Refused(rejection)) => {
                Step::Reply(reply::subscription_refused(channel.as_str(), rejection))
            }
            (Some(InFlight::SignIn { user_data, cut_to, watches }), Outcome::SignedIn { online, offline }) => {
                let user_data = json::string(&user_data);
                let mut texts =
                    vec![format!("{{\"event\":\"pusher:signin_success\",\"data\":{{\"user_data\":{user_data}}}}}")];
                if let Some(watched_max) = cut_to {
                    let words = format!("Watchlist limit exceeded: the first {watched_max} users are watched");
                    texts.push(reply::error(Some(4302), &words));
                }
                if watches {
                    texts.push(watchlist_events(&online, &offline));
                }
                Step::Replies(texts)
            }
            (Some(InFlight::SignIn { .. }), Outcome::Refused(rejection)) => {
                Step::Reply(reply::error(Some(4009), &format!("Sign-in failed: {rejection}")))
            }
            (Some(InFlight::ClientEvent(channel)), Outcome::Refused(rejection)) => {
                Step::Reply(reply::error(None, &client_event_refused(channel.as_str(), rejection)))
            }
            // no other end belongs to what was asked for
            _ => Step::Nothing,
        }
    }

    fn job_done(&mut self, _result: Result<(), JobError>) -> Option<String> {
        None
    }

    fn farewell(&self, reason: CloseReason) -> Farewell {
        reply::farewell(reason)
    }

    fn last_words(&self, reason: CloseReason) -> Option<String> {
        reply::last_words(reason)
    }
}

impl PusherSession {
    fn subscribe(&mut self, heard: &Heard<'_>, subscribe: &Subscribe) -> Step {
        let channel = &*subscribe.channel;
        let refuse = |rejection, kind, words: &str| {
            Step::Refuse(rejection, reply::subscription_error(command::short(channel), kind, words))
        };
        let grant = if owner_of(channel).is_some() {
            // its own channel it has been subscribed to since it signed in: asking for it is no mistake
            match Grant::own(heard.connection, channel) {
                Ok(grant) => grant,
                Err(rejection) => {
                    return refuse(rejection, AUTH_ERROR, "only a connection signed in as this user may subscribe");
                }
            }
        } else {
            if let Some(problem) = channel_name_problem(channel, heard.limits(), self.app.options.legacy_channel_names)
            {
                return refuse(Rejection::ChannelNameReserved, NAME_ERROR, &problem);
            }
            if heard.is_subscribed(channel) {
                return Step::Reply(reply::error(None, &format!("Existing subscription to channel {channel}")));
            }
            let kind = ChannelKind::of(channel);
            if !self.app.allows_channel(kind.access) {
                return refuse(Rejection::NotPermitted, KIND_ERROR, "the app does not offer channels of this kind");
            }
            let grant = match kind.access {
                Access::Public => Grant::public(channel, heard.limits().channel_name_bytes_max)
                    .map_err(|rejection| (rejection, rejection.to_string())),
                Access::Private => self.verify(heard, subscribe, None),
                Access::Presence => self.verify(heard, subscribe, subscribe.channel_data.as_deref()),
                Access::Protected | Access::Reserved => Err((
                    Rejection::NotPermitted,
                    "this channel needs an access token, which this protocol has not".into(),
                )),
            };
            match grant {
                Ok(grant) => grant,
                Err((rejection, words)) => {
                    let too_large = rejection == Rejection::MemberTooLarge;
                    return refuse(rejection, if too_large { MEMBER_TOO_LARGE } else { AUTH_ERROR }, &words);
                }
            }
        };
        self.in_flight = Some(Box::new(InFlight::Subscribe(ChannelName::from(channel))));
        Step::Subscribe(vec![grant])
    }

    /// Checks the signature of a subscription, and who the client is to be there.
    fn verify(
        &self,
        heard: &Heard<'_>,
        Subscribe { channel, auth, .. }: &Subscribe,
        channel_data: Option<&str>,
    ) -> Result<Grant, (Rejection, String)> {
        let socket = heard.connection.id().to_dotted();
        let verified = self.app.secrets.check_channel(&socket, channel, channel_data, auth).map_err(|error| {
            let data = channel_data.map(|data| format!(":{}", command::short(data))).unwrap_or_default();
            let signed = format!("{socket}:{channel}{data}");
            (Rejection::NotPermitted, reply::auth_error(error, &format!("subscribe to {channel}"), &signed, auth))
        })?;
        let member = match ChannelKind::of(channel).access {
            Access::Presence => self.member(heard, verified.get().channel_data.as_deref())?,
            _ => None,
        };
        let bytes_max = heard.limits().channel_name_bytes_max;
        Grant::verified(&verified, channel, member, bytes_max).map_err(|rejection| (rejection, rejection.to_string()))
    }

    /// Who a client is on a presence channel: what its backend signed, else who it is signed in as.
    fn member(&self, heard: &Heard<'_>, data: Option<&str>) -> Result<Option<Member>, (Rejection, String)> {
        let wrong = |words: String| (Rejection::NotPermitted, words);
        let Some(data) = data else {
            let signed_in = heard
                .connection
                .signed_in()
                .map(|user| Member { user: user.clone(), info: heard.connection.user_info() });
            let words = "channel_data is missing: a presence channel needs the user's identity, or a sign-in before";
            return signed_in.map(Some).ok_or_else(|| wrong(words.into()));
        };
        let bytes_max = self.app.options.presence_member_bytes_max;
        if data.len() > bytes_max {
            let words = format!("channel_data has {} bytes, over the app's limit of {bytes_max}", data.len());
            return Err((Rejection::MemberTooLarge, words));
        }
        match named_member(data) {
            Some(member) => {
                check_user_id(member.user.as_str()).map_err(wrong)?;
                Ok(Some(member))
            }
            None if self.app.options.legacy_presence => Ok(None),
            None => Err(wrong("channel_data must be a JSON object with a user_id, a string or a number".into())),
        }
    }

    fn sign_in(&mut self, heard: &Heard<'_>, auth: &str, user_data: String) -> Step {
        let refuse = |words: &str| Step::Refuse(Rejection::NotPermitted, reply::error(Some(4009), words));
        let socket = heard.connection.id().to_dotted();
        let verified = match self.app.secrets.check_user(&socket, &user_data, auth) {
            Ok(verified) => verified,
            Err(error) => {
                let signed = format!("{socket}::user::{}", command::short(&user_data));
                return refuse(&reply::auth_error(error, "sign in", &signed, auth));
            }
        };
        let said = &*verified.get().user_data;
        let parsed = serde_json::from_str(said).ok().filter(|_| said.trim_start().starts_with('{'));
        let Some(UserData { id, user_info, watchlist }) = parsed else {
            return refuse("Sign-in failed: user_data must be a JSON object with an id, a string");
        };
        if let Err(words) = check_user_id(&id).and_then(|()| {
            is_name(&id)
                .then_some(())
                .ok_or_else(|| format!("the user id {id:?} has characters that names may not have"))
        }) {
            return refuse(&format!("Sign-in failed: {words}"));
        }
        let (mut watched, mut cut_to) = (Vec::new(), None);
        let wanted = watchlist.filter(|_| self.app.options.watchlist).unwrap_or_default();
        let watched_max = heard.limits().watchlist_max;
        for user in wanted.iter().map(|user| UserId::from(&**user)) {
            if watched.contains(&user) {
                continue;
            }
            if watched.len() == watched_max {
                cut_to = Some(watched_max);
                break;
            }
            watched.push(user);
        }
        let watches = !watched.is_empty() && heard.connection.signed_in().is_none();
        let info = user_info.map_or("", RawValue::get).as_bytes().to_vec();
        self.in_flight = Some(Box::new(InFlight::SignIn { user_data, cut_to, watches }));
        Step::SignIn(Member { user: UserId::from(&*id), info: info.into() }, watched)
    }

    fn unsubscribe(&self, heard: &Heard<'_>, channel: &str) -> Step {
        if !heard.is_subscribed(channel) {
            let channel = command::short(channel);
            let words = format!("No current subscription to channel {channel}, or subscription in progress");
            return Step::Refuse(Rejection::NotSubscribed, reply::error(None, &words));
        }
        let is_presence = ChannelKind::of(channel).access == Access::Presence;
        let flaps = is_presence && !self.presence_leaves.take(1, PRESENCE_LEAVES_PER_S, heard.now_ms());
        Step::Unsubscribe { channel: ChannelName::from(channel), words: None, flaps }
    }

    fn client_event(&mut self, heard: &Heard<'_>, name: &str, channel: &str, data: &RawValue) -> Step {
        let options = &self.app.options;
        let refuse = |rejection, code, words: &str| Step::Refuse(rejection, reply::error(code, words));
        if !options.client_events {
            let words = "Client events are not enabled for this app (its option client_events)";
            return refuse(Rejection::NotPermitted, None, words);
        }
        if name.len() > heard.limits().event_name_bytes_max {
            let words = format!("The event name is over {} bytes", heard.limits().event_name_bytes_max);
            return refuse(Rejection::NotPermitted, None, &words);
        }
        if !matches!(ChannelKind::of(channel).access, Access::Private | Access::Presence) {
            let channel = command::short(channel);
            let words = format!("Client events are only for private and presence channels, which {channel} is not");
            return refuse(Rejection::NotPermitted, None, &words);
        }
        if !heard.is_subscribed(channel) {
            return refuse(Rejection::NotSubscribed, None, &client_event_refused(channel, Rejection::NotSubscribed));
        }
        if data.get().len() > options.client_event_bytes_max {
            let words = format!("The data of client events is limited to {} bytes", options.client_event_bytes_max);
            return refuse(Rejection::NotPermitted, None, &words);
        }
        if !self.client_events.take(1, options.client_events_per_s, heard.now_ms()) {
            let words = format!("Client event rate limit of {} per second exceeded", options.client_events_per_s);
            return refuse(Rejection::RateLimited, Some(4301), &words);
        }
        let channel = ChannelName::from(channel);
        self.in_flight = Some(Box::new(InFlight::ClientEvent(channel.clone())));
        let data = Data::AsSent(data.get().as_bytes().to_vec().into());
        Step::Publish { channel, event: Event::new(name, data, heard.event_id()), target: Target::All }
    }
}

fn client_event_refused(channel: &str, rejection: Rejection) -> String {
    match rejection {
        Rejection::NotSubscribed => {
            format!("Cannot broadcast client event (connection not subscribed to channel {})", command::short(channel))
        }
        other => format!("Cannot broadcast client event: {other}"),
    }
}

/// Who a backend says a client is on a presence channel, if it says that.
fn named_member(channel_data: &str) -> Option<Member> {
    let data = serde_json::from_str::<ChannelData<'_>>(channel_data).ok()?;
    let user = data.user_id.filter(|_| channel_data.trim_start().starts_with('{')).and_then(user_id)?;
    let info = data.user_info.map_or("", RawValue::get).as_bytes().to_vec();
    Some(Member { user: UserId::from(&*user), info: info.into() })
}

/// A user id: a string that is not empty, or a number.
fn user_id(value: &RawValue) -> Option<String> {
    let is_number = value.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let text = if is_number { number(value.get()) } else { serde_json::from_str(value.get()).ok()? };
    Some(text).filter(|text| !text.is_empty())
}

/// A JSON number as JavaScript writes it, for by that text its clients find themselves among the members: `1.0` is 1. A
/// whole number keeps all of its digits.
fn number(json: &str) -> String {
    let is_whole = !json.contains(['.', 'e', 'E']);
    match json.parse::<f64>() {
        // others have an exponent there
        Ok(number) if !is_whole && (1e-6..1e21).contains(&number.abs()) => number.to_string(),
        Ok(0.0) => "0".to_owned(),
        _ => json.to_owned(),
    }
}

fn check_user_id(id: &str) -> Result<(), String> {
    match id.chars().count() {
        0 => Err("the user id is empty".into()),
        count if count > USER_ID_CHARS_MAX => {
            Err(format!("the user id has {count} characters, over the limit of {USER_ID_CHARS_MAX}"))
        }
        _ => Ok(()),
    }
}

/// What a client is told that has subscribed: that it has, with the members of a presence channel, and then what a cache
/// channel holds.
fn subscribed(channel: &ChannelName, joined: Vec<Joined>) -> Vec<String> {
    let is_presence = ChannelKind::of(channel.as_str()).access == Access::Presence;
    let (members, cached) = joined.into_iter().next().map_or((None, None), |joined| (joined.members, joined.cached));
    let data = if is_presence { presence_data(&members.unwrap_or_default()) } else { "{}".to_owned() };
    let mut texts = vec![internal("subscription_succeeded", channel.as_str(), &data)];
    texts.extend(cached.map(|cached| match cached {
        Cached::Event(event) => event_text(channel, &event),
        Cached::Nothing => {
            let channel = json::string(channel.as_str());
            format!("{{\"event\":\"pusher:cache_miss\",\"channel\":{channel},\"data\":\"{{}}\"}}")
        }
    }));
    texts
}

/// `{"presence":{"count":…,"ids":[…],"hash":{…}}}`.
fn presence_data(members: &[Member]) -> String {
    let ids: Vec<String> = members.iter().map(|member| json::string(member.user.as_str())).collect();
    let info = |member: &Member| match &member.info[..] {
        b"" => "null".to_owned(),
        info => String::from_utf8_lossy(info).into_owned(),
    };
    let hash: Vec<String> = ids.iter().zip(members).map(|(id, member)| format!("{id}:{}", info(member))).collect();
    let (count, ids, hash) = (members.len(), ids.join(","), hash.join(","));
    format!("{{\"presence\":{{\"count\":{count},\"ids\":[{ids}],\"hash\":{{{hash}}}}}}}")
}

/// Runs the parsers of what backends sign over a text: as `channel_data` and as `user_data`. For fuzz targets.
///
/// # Panics
/// If what is made of it is no JSON.
pub(super) fn fuzz(text: &str) {
    let channel = ChannelName::from("presence-fuzz");
    if let Some(member) = named_member(text) {
        assert!(!member.user.as_str().is_empty());
        let _ = check_user_id(member.user.as_str());
        for notice in [Notice::MemberAdded(&channel, &member), Notice::MemberRemoved(&channel, &member.user)] {
            fuzz_encoded(&notice_text(&notice));
        }
        let members = Some(vec![member]);
        let joined = Joined { channel: channel.clone(), members, cached: Some(Cached::Nothing) };
        subscribed(&channel, vec![joined]).iter().for_each(|text| fuzz_encoded(text));
    }
    if let Ok(UserData { id, user_info, watchlist }) = serde_json::from_str(text) {
        assert!(user_info.is_none_or(|info| is_json(info.get().as_bytes())));
        let _ = (check_user_id(&id), is_name(&id));
        let watched: Vec<UserId> = watchlist.iter().flatten().map(|user| UserId::from(&**user)).collect();
        fuzz_encoded(&watchlist_events(&watched, &[UserId::from(&*id)]));
    }
}

/// A message whose `data` is a string that holds JSON.
fn fuzz_encoded(text: &str) {
    let message: json::Object<'_> = serde_json::from_str(text).expect("a JSON object");
    let data: String = serde_json::from_str(message.get("data").expect("data").get()).expect("a string");
    assert!(is_json(data.as_bytes()), "{text}");
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids() {
        for (json, expected) in [
            ("\"a\"", Some("a")),
            ("\"\"", None),
            ("\"1.0\"", Some("1.0")),
            ("1", Some("1")),
            ("-7", Some("-7")),
            ("-0", Some("0")),
            ("1.0", Some("1")),
            ("1e5", Some("100000")),
            ("12.50", Some("12.5")),
            ("0.0", Some("0")),
            ("9007199254740993", Some("9007199254740993")),
            ("1e400", Some("1e400")),
            ("1E30", Some("1E30")),
            ("null", None),
            ("true", None),
            ("{}", None),
        ] {
            assert_eq!(user_id(serde_json::from_str(json).unwrap()).as_deref(), expected, "{json}");
        }
    }
}
