//! What a connection may use, and the proof of it.

use crate::credential::Verified;

use super::admission::allocated;
use super::channel::{Access, ChannelKind, owner_of};
use super::connection::Connection;
use super::event::Member;
use super::id::ChannelName;
use super::rejection::Rejection;

/// The channels a verified credential covers, as patterns.
///
/// `*` alone covers every channel; inside a pattern `*` stands for one or more characters other than a line break, all
/// else for itself.
///
/// Only a credential that was checked makes one:
/// ```compile_fail
/// // the field is private, and `Verified` has no public constructor either
/// let forged = hydrant::core::grant::Permissions { patterns: vec!["*".into()] };
/// ```
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    patterns: Box<[Box<str>]>,
}

/// Proof that a connection may subscribe to a channel.
#[derive(Debug)]
pub struct Grant {
    pub(super) channel: ChannelName,
    /// Who the connection is on a presence channel, if it is to be a member.
    pub(super) member: Option<Member>,
}

impl Grant {
    /// For a channel that anybody may use.
    ///
    /// # Errors
    /// The name is empty, reserved or too long, or the channel is not public.
    pub fn public(channel: &str, channel_name_bytes_max: usize) -> Result<Grant, Rejection> {
        check_channel_name(channel, channel_name_bytes_max)?;
        match ChannelKind::of(channel).access {
            Access::Public => Ok(Grant { channel: channel.into(), member: None }),
            _ => Err(Rejection::NotPermitted),
        }
    }

    /// For the channel that a checked credential was made for.
    ///
    /// # Errors
    /// The name is empty, reserved or too long.
    pub fn verified<T>(
        _proof: &Verified<T>,
        channel: &str,
        member: Option<Member>,
        channel_name_bytes_max: usize,
    ) -> Result<Grant, Rejection> {
        check_channel_name(channel, channel_name_bytes_max)?;
        Ok(Grant { channel: channel.into(), member })
    }

    /// For the own channel of the user that the connection is signed in as.
    ///
    /// # Errors
    /// It is another's, or no user's at all.
    pub fn own(connection: &Connection, channel: &str) -> Result<Grant, Rejection> {
        match (owner_of(channel), connection.signed_in()) {
            (Some(owner), Some(user)) if owner == user.as_str() => Ok(Grant { channel: channel.into(), member: None }),
            (Some(_), _) => Err(Rejection::NotPermitted),
            (None, _) => Err(Rejection::ChannelNameReserved),
        }
    }
}

impl Permissions {
    /// What a checked credential says.
    pub fn new<'a, T>(_proof: &Verified<T>, patterns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { patterns: patterns.into_iter().map(Box::from).collect() }
    }

    /// What no credential was checked for.
    #[cfg(test)]
    pub(crate) fn for_tests(patterns: &[&str]) -> Self {
        Self { patterns: patterns.iter().copied().map(Box::from).collect() }
    }

    /// The patterns as they were given.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.patterns.iter().map(|pattern| &**pattern)
    }

    /// Whether a pattern covers the channel.
    pub fn cover(&self, channel: &str) -> bool {
        self.patterns.iter().any(|pattern| matches_pattern(pattern, channel))
    }

    /// Proof for one channel.
    ///
    /// # Errors
    /// The name is empty or reserved, too long, or not covered.
    pub fn grant(&self, channel: &str, channel_name_bytes_max: usize) -> Result<Grant, Rejection> {
        check_channel_name(channel, channel_name_bytes_max)?;
        if !self.cover(channel) {
            return Err(Rejection::NotPermitted);
        }
        Ok(Grant { channel: channel.into(), member: None })
    }

    /// Bytes that the patterns take.
    pub(super) fn held_bytes(&self) -> usize {
        self.patterns.iter().map(|pattern| allocated(pattern.len()) + size_of::<Box<str>>()).sum()
    }

    pub(super) fn replace(&mut self, patterns: &[Box<str>]) {
        self.patterns = patterns.into();
    }

    /// Adds one pattern, once.
    pub(super) fn add(&mut self, pattern: &str) {
        if !self.patterns.iter().any(|held| **held == *pattern) {
            let mut patterns = std::mem::take(&mut self.patterns).into_vec();
            patterns.push(pattern.into());
            self.patterns = patterns.into();
        }
    }
}

/// Names that nobody may use from outside, whatever the credential.
///
/// # Errors
/// The name is empty, begins with `#`, or is longer than `bytes_max`.
pub fn check_channel_name(channel: &str, bytes_max: usize) -> Result<(), Rejection> {
    if channel.is_empty() || channel.starts_with('#') {
        return Err(Rejection::ChannelNameReserved);
    }
    if channel.len() > bytes_max {
        return Err(Rejection::ChannelNameTooLong);
    }
    Ok(())
}

/// Matches in time proportional to `pattern.len() * name.len()` at worst, without recursion.
pub(crate) fn matches_pattern(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // where to go on when the literal part after the last star does not fit: that star takes one more character
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        if p < pattern.len() && n < name.len() {
            if pattern[p] == b'*' && name[n] != b'\n' {
                retry = Some((p, n + 1));
                (p, n) = (p + 1, n + 1);
                continue;
            }
            if pattern[p] != b'*' && pattern[p] == name[n] {
                (p, n) = (p + 1, n + 1);
                continue;
            }
        }
        match retry {
            Some((star, from)) if from < name.len() && name[from] != b'\n' => {
                retry = Some((star, from + 1));
                (p, n) = (star + 1, from + 1);
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("*", "two\nlines", true),
            ("app*", "apple", true),
            ("app*", "app", false),
            ("app*", "App1", false),
            ("t*st", "test", true),
            ("t*st", "tst", false),
            ("t*st", "t\nst", false),
            ("t*st", "tstst", true),
            ("*x", "x", false),
            ("*x", "xx", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", false),
            ("a*b*c", "abbbcc", true),
            ("a.c", "abc", false),
            ("a.c", "a.c", true),
            ("st*r", "st*r", true),
            ("**", "a", false),
            ("**", "ab", true),
            ("", "", true),
            ("", "a", false),
            ("é*", "éé", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern:?} on {name:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_regular_expression(pattern in "[ab*\n]{0,8}", name in "[ab\n]{0,10}") {
            let expression = format!("^{}$", regex::escape(&pattern).replace("\\*", ".+"));
            let regex = regex::RegexBuilder::new(&expression).build().unwrap();
            prop_assert_eq!(matches_pattern(&pattern, &name), pattern == "*" || regex.is_match(&name));
        }
    }
}
