//! What a channel's name says about it: the same on every door.

use super::id::{ChannelName, UserId};

/// What a name's beginning, in lower case, makes of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelKind {
    /// Who may use it.
    pub access: Access,
    /// Whether newcomers get the last event.
    pub is_cache: bool,
    /// Whether the publishers and subscribers encrypt its events between them.
    pub is_encrypted: bool,
}

/// Who may use a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// Anybody.
    Public,
    /// Whoever a credential admits: `private-`.
    Private,
    /// Whoever a credential admits; its subscribers see each other: `presence-`.
    Presence,
    /// Whoever an access token admits: `protected-`.
    Protected,
    /// The server's own: `#`.
    Reserved,
}

impl ChannelKind {
    /// The kind of the channel of that name.
    pub fn of(name: &str) -> Self {
        let (access, rest) = if let Some(rest) = name.strip_prefix("private-") {
            (Access::Private, rest)
        } else if let Some(rest) = name.strip_prefix("presence-") {
            (Access::Presence, rest)
        } else if name.starts_with("protected-") {
            (Access::Protected, "")
        } else if name.starts_with('#') {
            (Access::Reserved, "")
        } else {
            (Access::Public, name)
        };
        let encrypted = rest.strip_prefix("encrypted-").filter(|_| access == Access::Private);
        let is_cache = encrypted.unwrap_or(rest).starts_with("cache-");
        Self { access, is_cache, is_encrypted: encrypted.is_some() }
    }
}

/// Beginning of the name of a signed-in user's own channel, by which clients know events that are for the user.
const OWN_CHANNEL_PREFIX: &str = "#server-to-user-";

/// The channel that every connection signed in as the user is subscribed to, and nobody else.
pub(super) fn own_channel(user: &UserId) -> ChannelName {
    ChannelName::from(&*format!("{OWN_CHANNEL_PREFIX}{}", user.as_str()))
}

/// The user whose own channel it is, if it is one.
pub fn owner_of(channel: &str) -> Option<&str> {
    channel.strip_prefix(OWN_CHANNEL_PREFIX).filter(|user| !user.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let check = |name: &str, access: Access, words: &str| {
            let kind = ChannelKind::of(name);
            assert_eq!(kind.access, access, "{name}");
            assert_eq!((kind.is_encrypted, kind.is_cache), (words.contains('e'), words.contains('c')), "{name}");
        };
        check("news", Access::Public, "");
        check("cache-news", Access::Public, "c");
        check("private-x", Access::Private, "");
        check("private-cache-x", Access::Private, "c");
        check("private-encrypted-x", Access::Private, "e");
        check("private-encrypted-cache-x", Access::Private, "ec");
        check("presence-x", Access::Presence, "");
        check("presence-cache-x", Access::Presence, "c");
        check("presence-encrypted-cache-x", Access::Presence, "");
        check("protected-cache-x", Access::Protected, "");
        check("encrypted-cache-x", Access::Public, "");
        check("Private-x", Access::Public, "");
        check("private", Access::Public, "");
        check("#server-to-user-1", Access::Reserved, "");
        assert_eq!(owner_of("#server-to-user-a-b"), Some("a-b"));
        assert_eq!(owner_of("#server-to-user-"), None);
        assert_eq!(owner_of("server-to-user-1"), None);
    }
}
