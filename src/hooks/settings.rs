//! What the configuration says about hooks: whom to tell what, how, and with which limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use crate::config::SecretUrl;
use crate::core::{AppKey, Observed};

/// How hooks are told, and what is kept for those that do not listen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time for one request, from connecting to the end of the answer. Then: it has failed.
    pub timeout: Duration,
    /// Age of an event up to which its delivery is tried again. Then: parked.
    pub retry: Duration,
    /// Pause after the first failure of a delivery. It doubles with each further one, up to a minute, and a random
    /// part, up to half, is taken off.
    pub retry_pause: Duration,
    /// How long a Pusher `channel_vacated` or `member_removed` waits for its contrary, to be left out together with it.
    pub hold: Duration,
    /// Observations on their way from the shards to the endpoints' queues. Beyond it: lost, and counted. Counts from
    /// the start on; a reload does not change it.
    pub inbox_max: usize,
    /// Events of one endpoint that wait, are under way or are retried. Beyond it: an event is parked at once.
    pub queue_max: usize,
    /// Parked events of one endpoint. Beyond it: dropped.
    pub parked_max: usize,
    /// Bytes of the events of one endpoint, parked ones included. Beyond it: dropped.
    pub endpoint_bytes_max: usize,
    /// Requests under way, of all endpoints together, beyond the one that each endpoint may always have. Beyond it:
    /// they wait.
    pub in_flight_max: usize,
    /// Memory of one Lua script. Beyond it: the call fails.
    pub lua_memory_bytes_max: usize,
    /// Time for one call of a Lua script, and for loading it. Then: it is stopped.
    pub lua_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            retry: Duration::from_secs(300),
            retry_pause: Duration::from_secs(1),
            hold: Duration::from_secs(3),
            inbox_max: 65_536,
            queue_max: 10_000,
            parked_max: 10_000,
            endpoint_bytes_max: 64 << 20,
            in_flight_max: 64,
            lua_memory_bytes_max: 16 << 20,
            lua_time: Duration::from_millis(100),
        }
    }
}

/// Makes the signature of a body: HMAC-SHA256 with the app's secret of this moment, as lower-case hexadecimal.
pub type Sign = Arc<dyn Fn(&[u8]) -> String + Send + Sync>;

/// The hooks of one app.
#[derive(Clone)]
pub struct AppHooks {
    /// The app's key: whose observations these are, and Pusher's `X-Pusher-Key`.
    pub app: AppKey,
    /// The app's id: Push1ST's `app`.
    pub app_id: String,
    /// Signs bodies in Pusher's format, each attempt anew.
    pub sign: Sign,
    /// Whom to tell: each gets every event that it asks for.
    pub endpoints: Vec<Endpoint>,
}

impl fmt::Debug for AppHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app, app_id, endpoints, .. } = self;
        f.debug_struct("AppHooks").field("app", app).field("app_id", app_id).field("endpoints", endpoints).finish()
    }
}

/// One receiver of events.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://…` or `https://…`, with `user:password@` for basic authentication where needed; for [`Format::Lua`],
    /// `lua://` and the path of the script.
    pub url: String,
    /// In whose words it is told.
    pub format: Format,
    /// Of what it is told.
    pub events: Events,
    /// Of which channels: those whose name begins with one of these; if empty, all.
    pub channel_prefix: Vec<String>,
    /// Pusher's format only: how long events are collected to go into one request; 0 sends each in a request of its own.
    pub batch: Duration,
}

impl Endpoint {
    /// Whether it is to be told of that kind of event on that channel.
    pub(super) fn wants(&self, kind: Kind, channel: &str) -> bool {
        let is_meant = || self.channel_prefix.iter().any(|prefix| channel.starts_with(prefix));
        self.events.contains(kind) && (self.channel_prefix.is_empty() || is_meant())
    }
}

/// Shows the URL masked, for it may hold a password.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, format, events, channel_prefix, batch } = self;
        f.debug_struct("Endpoint")
            .field("url", &masked(url))
            .field("format", format)
            .field("events", events)
            .field("channel_prefix", channel_prefix)
            .field("batch", batch)
            .finish()
    }
}

/// The URL without what may be secret in it: user, password and query.
pub fn masked(url: &str) -> String {
    SecretUrl::new(url).to_string()
}

/// In whose words an endpoint is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Pusher's webhooks: signed, several events in one request if so configured.
    Pusher,
    /// Push1ST's: one event in each request, not signed.
    Push1st,
    /// A call of `OnTrigger` in a Lua script, with what Push1ST's format says.
    Lua,
}

/// A kind of [`Observed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// [`Observed::Occupied`]
    Occupied,
    /// [`Observed::Vacated`]
    Vacated,
    /// [`Observed::Joined`]
    Joined,
    /// [`Observed::Left`]
    Left,
    /// [`Observed::MemberAdded`]
    MemberAdded,
    /// [`Observed::MemberRemoved`]
    MemberRemoved,
    /// [`Observed::ClientEvent`]
    ClientEvent,
    /// [`Observed::CacheMiss`]
    CacheMiss,
    /// [`Observed::SubscriptionCount`]
    SubscriptionCount,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] = [
        Kind::Occupied,
        Kind::Vacated,
        Kind::Joined,
        Kind::Left,
        Kind::MemberAdded,
        Kind::MemberRemoved,
        Kind::ClientEvent,
        Kind::CacheMiss,
        Kind::SubscriptionCount,
    ];

    /// What kind that is.
    pub fn of(what: &Observed) -> Kind {
        match what {
            Observed::Occupied => Kind::Occupied,
            Observed::Vacated => Kind::Vacated,
            Observed::Joined { .. } => Kind::Joined,
            Observed::Left(_) => Kind::Left,
            Observed::MemberAdded { .. } => Kind::MemberAdded,
            Observed::MemberRemoved { .. } => Kind::MemberRemoved,
            Observed::ClientEvent { .. } => Kind::ClientEvent,
            Observed::CacheMiss => Kind::CacheMiss,
            Observed::SubscriptionCount(_) => Kind::SubscriptionCount,
        }
    }

    /// What the format calls it; `None` if the format does not know it.
    pub fn word(self, format: Format) -> Option<&'static str> {
        let (pusher, push1st) = match self {
            Kind::Occupied => (Some("channel_occupied"), Some("register")),
            Kind::Vacated => (Some("channel_vacated"), Some("unregister")),
            Kind::Joined => (None, Some("join")),
            Kind::Left => (None, Some("leave")),
            Kind::MemberAdded => (Some("member_added"), None),
            Kind::MemberRemoved => (Some("member_removed"), None),
            Kind::ClientEvent => (Some("client_event"), Some("push")),
            Kind::CacheMiss => (Some("cache_miss"), None),
            Kind::SubscriptionCount => (Some("subscription_count"), None),
        };
        match format {
            Format::Pusher => pusher,
            Format::Push1st | Format::Lua => push1st,
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    /// Everything that the format has a word for.
    pub fn all(format: Format) -> Self {
        Self::of(Kind::ALL.into_iter().filter(|kind| kind.word(format).is_some()))
    }

    /// What the format's words name; `Err` is the first that is none of them.
    pub fn read<'a>(format: Format, words: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let known = |word: &&str| Kind::ALL.into_iter().find(|kind| kind.word(format) == Some(word));
        words.into_iter().map(|word| known(&word).ok_or(word)).collect::<Result<Vec<_>, _>>().map(Self::of)
    }

    /// These kinds.
    pub fn of(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self(kinds.into_iter().fold(0, |bits, kind| bits | 1 << kind as u16))
    }

    /// Whether the kind is one of them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Kind::ALL.into_iter().filter(|kind| self.contains(*kind))).finish()
    }
}

/// Why hooks cannot be used as configured. The texts show no secret part of a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// The URL is none, or of another kind than the format needs.
    #[error("app {0}: a hook's URL must be {1}, not {2}")]
    Url(String, &'static str, String),
    /// No HTTP client, with the reason: TLS without any certificate authority on this system, for one.
    #[error("hooks: cannot set up HTTP: {0}")]
    Http(String),
    /// A Lua script cannot be read or run; the reason names file and line.
    #[error("app {0}: {1}")]
    Script(String, String),
}

/// The path of a Lua endpoint's script.
pub(super) fn script_path(url: &str) -> Option<&str> {
    url.strip_prefix("lua://").filter(|path| !path.is_empty())
}

/// Whether the URL of a webhook asks for TLS; `None` if it is none.
pub(super) fn is_tls(url: &str) -> Option<bool> {
    match Url::parse(url).ok()?.scheme() {
        "http" => Some(false),
        "https" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, shown) in [
            ("http://host/path", "http://host/path"),
            ("https://u:hunter2@host:8443/a?key=hunter2", "https://***@host:8443/a?***"),
            ("https://u:hun@ter2@host/", "https://***@host/"),
            ("https://u:hun?ter2@host/", "https://***@host/"),
            ("lua:///etc/hook.lua", "lua:///etc/hook.lua"),
        ] {
            assert_eq!(masked(url), shown);
        }
        let endpoint = Endpoint {
            url: "http://u:hunter2@host/".into(),
            format: Format::Pusher,
            events: Events::all(Format::Pusher),
            channel_prefix: Vec::new(),
            batch: Duration::ZERO,
        };
        assert!(!format!("{endpoint:?}").contains("hunter2"));
    }

    #[test]
    fn events_by_the_words_of_each_format() {
        let pusher = Events::read(Format::Pusher, ["channel_vacated", "client_event"]).unwrap();
        assert_eq!(pusher, Events::of([Kind::Vacated, Kind::ClientEvent]));
        assert_eq!(Events::read(Format::Pusher, ["register"]), Err("register"));
        assert_eq!(
            Events::read(Format::Push1st, ["register", "unregister", "join", "leave", "push"]).unwrap(),
            Events::all(Format::Lua)
        );
        assert!(!Events::all(Format::Pusher).contains(Kind::Joined));
        assert!(!Events::default().contains(Kind::Occupied));
    }

    #[test]
    fn prefixes_choose_channels() {
        let wants = |prefixes: &[&str], channel: &str| {
            let endpoint = Endpoint {
                url: "http://h/".into(),
                format: Format::Pusher,
                events: Events::of([Kind::Vacated]),
                channel_prefix: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
                batch: Duration::ZERO,
            };
            assert!(!endpoint.wants(Kind::Occupied, channel));
            endpoint.wants(Kind::Vacated, channel)
        };
        assert!(wants(&[], "news"));
        assert!(wants(&["private-", "ne"], "news"));
        assert!(!wants(&["private-"], "news"));
    }
}
