//! Raw sockets: who is let into which channels, and what clients push.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::header::{self, HeaderMap};

use crate::core::{Access, ChannelKind, ChannelName, CloseReason, Grant, Outcome, Permissions, Rejection, UserId};
use crate::credential::Verified;
use crate::credential::access::{self, AccessError};
use crate::hooks::jobs::JobError;
use crate::limits::Limits;
use crate::protocol::apps::{App, Apps};
use crate::protocol::rate::Rate;
use crate::protocol::{PUSH1ST, is_reserved_event};
use crate::shard::door::{Farewell, Heard, Session, Step};
use crate::shard::http::{Exchange, Response};
use crate::shard::ws::session::{Welcome, open_subscribed, refuse};

use super::message::{self, Fault, Message};
use super::{SOCKET_PREFIX, parameter, reply};

/// Why a client may use none of the channels that it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Denied {
    /// It asked for none.
    NoChannel,
    /// The app does not admit pages of its origin.
    Origin,
    /// What it calls its session is no such name.
    Session,
    /// The app has no channels of that kind for clients.
    Kind,
    /// The channel needs a token, and there is none.
    NoToken,
    /// The token proves nothing.
    Token(AccessError),
    /// The token is for another channel.
    OtherChannel,
    /// The token is for another origin.
    OtherOrigin,
    /// Nothing can have that name.
    Name(Rejection),
}

/// Opens a socket for the channels in the path, as far as the client may use them.
pub(super) async fn connect(apps: &Apps, mut exchange: Exchange) -> Response {
    let path = exchange.path.clone();
    let mut segments = path.strip_prefix(SOCKET_PREFIX).unwrap_or("").split('/');
    let app = match apps.by_key(segments.next().unwrap_or("")) {
        None => return reply::unknown_app("key"),
        Some(app) if !app.options.enabled => return reply::app_disabled(),
        Some(app) => app.clone(),
    };
    let channels = segments.filter(|segment| !segment.is_empty());
    let limits = &exchange.shard.settings().limits;
    let session = parameter(exchange.query(), "session").unwrap_or_default();
    let visitor = Visitor::new(&app, &exchange);
    let admitted = if is_session(&session, limits.user_id_bytes_max) {
        visitor.grants(&app, channels, limits.channel_name_bytes_max)
    } else {
        Err(Denied::Session)
    };
    let grants = match admitted {
        Ok(grants) => grants,
        Err(why) => return refuse(&mut exchange, None, reply::denied(why)).unwrap_or_else(reply::not_an_upgrade),
    };
    let welcome = Welcome {
        app: app.key.clone(),
        user: UserId::from(""),
        permissions: Permissions::default(),
        dialect: PUSH1ST,
        session: (!session.is_empty()).then(|| (*session).into()),
        must_authorize: false,
    };
    let session = RawSession { app, pushes: Rate::default() };
    let opened = open_subscribed(&mut exchange, welcome, grants, |_| Box::new(session)).await;
    opened.unwrap_or_else(|refusal| reply::refusal(&refusal))
}

/// Whether a client may call its session so. Push1ST's names of sessions are read from their ends, so dots inside do no
/// harm; one that began with a dot would be of the session without a name.
pub(super) fn is_session(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max
        && !text.starts_with('.')
        && !text.chars().any(|char| char.is_control() || char.is_whitespace())
}

/// What a client shows of itself.
struct Visitor {
    origin: Option<String>,
    is_admitted: bool,
    access: Option<Result<Verified<access::Access>, AccessError>>,
}

impl Visitor {
    fn new(app: &App, exchange: &Exchange) -> Self {
        let headers = exchange.request.headers();
        let token = parameter(exchange.query(), "token").filter(|token| !token.is_empty());
        let token = token.or_else(|| bearer(headers).map(Into::into));
        let unix_s = exchange.shard.unix_s();
        Self {
            origin: headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned),
            is_admitted: app.allows_origin(headers),
            access: token.map(|token| app.access.check(&token, unix_s, app.options.legacy_push1st_tokens)),
        }
    }

    /// Proof for each channel that it may use. Others are left out; if it may use none, the first says why.
    fn grants<'a>(
        &self,
        app: &App,
        channels: impl Iterator<Item = &'a str>,
        channel_name_bytes_max: usize,
    ) -> Result<Vec<Grant>, Denied> {
        if !self.is_admitted {
            return Err(Denied::Origin);
        }
        let mut first_denied = None;
        let (mut seen, mut grants) = (HashSet::new(), Vec::new());
        for channel in channels.filter(|channel| seen.insert(*channel)) {
            match self.grant(app, channel, channel_name_bytes_max) {
                Ok(grant) => grants.push(grant),
                Err(denied) => _ = first_denied.get_or_insert(denied),
            }
        }
        if grants.is_empty() { Err(first_denied.unwrap_or(Denied::NoChannel)) } else { Ok(grants) }
    }

    fn grant(&self, app: &App, channel: &str, channel_name_bytes_max: usize) -> Result<Grant, Denied> {
        let kind = ChannelKind::of(channel).access;
        if !app.allows_channel(kind) {
            return Err(Denied::Kind);
        }
        if kind == Access::Public {
            return Grant::public(channel, channel_name_bytes_max).map_err(Denied::Name);
        }
        let access = self.access.as_ref().ok_or(Denied::NoToken)?.as_ref().map_err(|error| Denied::Token(*error))?;
        if !access.get().allows_channel(channel) {
            return Err(Denied::OtherChannel);
        }
        if !access.get().allows_origin(self.origin.as_deref()) {
            return Err(Denied::OtherOrigin);
        }
        Grant::verified(access, channel, None, channel_name_bytes_max).map_err(Denied::Name)
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim())
}

/// One raw socket.
struct RawSession {
    /// As it was at the last push.
    app: Arc<App>,
    pushes: Rate,
}

impl Session for RawSession {
    fn protocol(&self) -> &'static str {
        "push1st"
    }

    fn message_bytes_max(&self, limits: &Limits) -> usize {
        limits.message_bytes_max
    }

    fn text(&mut self, heard: Heard<'_>) -> Step {
        App::renew(&mut self.app);
        self.push(&heard).unwrap_or_else(|fault| Step::Close(reply::violation(fault)))
    }

    fn reads_binary(&self) -> bool {
        true
    }

    fn done(&mut self, outcome: Outcome) -> Step {
        match outcome {
            Outcome::Refused(rejection) => Step::Close(reply::refused(rejection)),
            Outcome::Subscribed(_) | Outcome::SignedIn { .. } => Step::Nothing,
        }
    }

    fn job_done(&mut self, _result: Result<(), JobError>) -> Option<String> {
        None
    }

    fn farewell(&self, reason: CloseReason) -> Farewell {
        reply::farewell(reason)
    }
}

impl RawSession {
    fn push(&self, heard: &Heard<'_>) -> Result<Step, Fault> {
        let object = message::object(heard.text.as_bytes())?;
        let channel = message::string(&object, "channel")?;
        let message = Message::read(&object, "event")?;
        let name_bytes_max = heard.limits().event_name_bytes_max;
        if message.name.len() > name_bytes_max {
            return Err(Fault::NameTooLong(name_bytes_max));
        }
        if is_reserved_event(&message.name) {
            return Err(Fault::ReservedName);
        }
        if !self.app.allows_socket_push(ChannelKind::of(&channel).access) {
            return Err(Fault::KindNotPushed);
        }
        let per_s = self.app.options.client_events_per_s;
        if !self.pushes.take(1, per_s, heard.now_ms()) {
            return Err(Fault::TooOften(per_s));
        }
        let target = message.target.clone();
        Ok(Step::Publish { channel: ChannelName::from(&*channel), event: message.into_event(heard.event_id()), target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const NOW: u64 = 1_700_000_000;

    fn app() -> Arc<App> {
        let options = config::App {
            key: "k".into(),
            secret: Some(config::Secret::new("s")),
            channels: vec![config::ChannelKind::Public, config::ChannelKind::Private, config::ChannelKind::Protected],
            ..config::App::blank()
        };
        Apps::new(&[options], &Apps::default()).by_key("k").unwrap().clone()
    }

    #[test]
    fn who_may_use_what() {
        let app = app();
        let check = |token: Option<String>, channels: &[&str], expected: Result<usize, Denied>| {
            let access = token.map(|token| app.access.check(&token, NOW, false));
            let visitor = Visitor { origin: Some("https://a.example".into()), is_admitted: true, access };
            let grants = visitor.grants(&app, channels.iter().copied(), 20).map(|grants| grants.len());
            assert_eq!(grants, expected, "{channels:?}");
        };
        let token = |origin: &str, channel: &str| Some(app.access.issue(origin, channel, NOW + 1));
        let any = || token("*", "*");
        check(None, &[], Err(Denied::NoChannel));
        check(None, &["a", "b", "a"], Ok(2));
        check(None, &["private-a"], Err(Denied::NoToken));
        // what may not be used is left out
        check(None, &["private-a", "b"], Ok(1));
        check(Some("forged".into()), &["private-a", "b"], Ok(1));
        check(Some("forged".into()), &["private-a"], Err(Denied::Token(AccessError::Invalid)));
        check(Some(app.access.issue("*", "*", NOW)), &["private-a"], Err(Denied::Token(AccessError::Expired)));
        check(any(), &["private-a", "protected-b", "c"], Ok(3));
        check(token("https://a.example", "private-a"), &["private-a", "private-b"], Ok(1));
        check(token("*", "private-a"), &["private-b"], Err(Denied::OtherChannel));
        check(token("https://b.example", "*"), &["private-a"], Err(Denied::OtherOrigin));
        check(any(), &["presence-a"], Err(Denied::Kind));
        check(any(), &["#server-to-user-1"], Err(Denied::Kind));
        check(any(), &["private-long-long-long"], Err(Denied::Name(Rejection::ChannelNameTooLong)));
        check(None, &["long-long-long-long-long"], Err(Denied::Name(Rejection::ChannelNameTooLong)));
        let stranger = Visitor { origin: None, is_admitted: false, access: None };
        assert_eq!(stranger.grants(&app, ["a"].into_iter(), 20).unwrap_err(), Denied::Origin);
    }

    #[test]
    fn sessions() {
        let check = |text: &str, expected: bool| assert_eq!(is_session(text, 10), expected, "{text:?}");
        for name in ["", "bob", "a.b", "1.2", "é@b/:#", "0123456789"] {
            check(name, true);
        }
        for other in [".", ".bob", "b b", "b\n", "b\u{a0}", "\u{7f}", "0123456789a"] {
            check(other, false);
        }
    }

    #[test]
    fn bearers() {
        let check = |value: &str, expected: Option<&str>| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), expected, "{value}");
        };
        check("Bearer h1.x", Some("h1.x"));
        check("bearer  h1.x ", Some("h1.x"));
        check("Basic h1.x", None);
        check("h1.x", None);
    }
}
