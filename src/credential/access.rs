//! The tokens of Push1ST's API: session tokens, which are signatures for a private or presence channel, and access
//! tokens, which let raw sockets into channels.

use super::Verified;
use super::signature::AppSecrets;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

/// Begins an access token; no token of the original has a dot.
const PREFIX: &str = "h1.";
/// Sets this use of a configured secret apart from every other.
const PURPOSE: &[u8] = b"hydrant push1st access token 1";
/// Of the original's tokens: what its key is derived from and, its beginning, what every encryption starts with.
const LEGACY_CONSTANT: &[u8; 64] = br"x[wFD(u}+f-oajsj>1gb~0SQ3oa^q`!`BhN,Gx8&-a1@uk@H^B=WI14:*W1<Qh}%";

/// A session token: the signature half of a Pusher `auth` for `session` as its socket id, 64 hex digits. Empty `data`
/// is as none. Empty when the app has no secret.
pub fn session_token(secrets: &AppSecrets, session: &str, channel: &str, data: &str) -> String {
    let colon = if data.is_empty() { "" } else { ":" };
    secrets.sign(&[session, ":", channel, colon, data].map(str::as_bytes))
}

/// Makes and checks the access tokens of one app. They are not stored, so every node with the same secrets takes them,
/// any number of times until they expire. Several secrets count at the same time, so that one can be replaced without
/// a gap: the first seals, all are tried.
pub struct AccessKey {
    app_key: Box<str>,
    secrets: Vec<Secret>,
}

struct Secret {
    seal: RandomizedNonceKey,
    legacy: PaddedBlockDecryptingKey,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.secrets.len())
    }
}

/// What an access token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The `Origin` that the socket must come from; `*` for any and none.
    pub origin: String,
    /// The channel that it may join; `*` for every.
    pub channel: String,
}

impl Access {
    /// Whether the token is for this channel.
    pub fn allows_channel(&self, channel: &str) -> bool {
        self.channel == "*" || self.channel == channel
    }

    /// Whether the token is for sockets with this `Origin` header (RFC 6454 section 7), `None` being no such header.
    /// Scheme and host have no case.
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        self.origin == "*" || origin.is_some_and(|origin| self.origin.eq_ignore_ascii_case(origin))
    }
}

/// Why an access token proves nothing. The texts name no content of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not an access token, or not of this app.
    #[error("not an access token of this app")]
    Invalid,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
}

impl AccessKey {
    /// For the app with this public key and these secrets. Empty ones are left out: everybody knows them. Without any,
    /// no token is accepted.
    pub fn new<'a>(app_key: &str, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty()).map(Secret::new).collect();
        Self { app_key: app_key.into(), secrets }
    }

    /// A token, URL-safe, for sockets of one `origin` and for one `channel`, `*` or nothing meaning any, until
    /// `expires_unix_s`, 0 being never. Empty when the app has no secret.
    ///
    /// # Panics
    /// If the system has no random bytes: a token sealed without them would give others away.
    pub fn issue(&self, origin: &str, channel: &str, expires_unix_s: u64) -> String {
        let Some(secret) = self.secrets.first() else { return String::new() };
        let any = |text| if str::is_empty(text) { "*" } else { text };
        let content = serde_json::to_vec(&(expires_unix_s, any(origin), any(channel)));
        let mut sealed = content.expect("a number and texts are JSON");
        let nonce = secret.seal.seal_in_place_append_tag(self.aad(), &mut sealed).expect("random bytes");
        let mut token = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string([&nonce.as_ref()[..], &sealed].concat(), &mut token);
        token
    }

    /// Checks a token against the time now, in seconds: it is refused from the second of its end on. With
    /// `accept_legacy` also those of the original are taken. They have no authentication, and who holds one may be able
    /// to make others of it: that is the operator's choice for the time of a move.
    pub fn check(&self, token: &str, unix_s: u64, accept_legacy: bool) -> Result<Verified<Access>, AccessError> {
        let content = match token.strip_prefix(PREFIX) {
            Some(sealed) => self.open(sealed),
            None if accept_legacy => self.open_legacy(token),
            None => None,
        };
        let (expires_unix_s, origin, channel) = content.ok_or(AccessError::Invalid)?;
        if expires_unix_s != 0 && unix_s >= expires_unix_s {
            return Err(AccessError::Expired);
        }
        Ok(Verified(Access { origin, channel }))
    }

    /// Two apps with equal secrets do not take each other's tokens.
    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(self.app_key.as_bytes())
    }

    fn open(&self, sealed: &str) -> Option<Content> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.secrets.iter().find_map(|secret| {
            let mut content = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let content = secret.seal.open_in_place(nonce, self.aad(), &mut content).ok()?;
            serde_json::from_slice(content).ok()
        })
    }

    fn open_legacy(&self, token: &str) -> Option<Content> {
        let encrypted = URL_SAFE.decode(token.replace('~', "=")).ok()?;
        self.secrets.iter().find_map(|secret| {
            let mut content = encrypted.clone();
            let start = DecryptionContext::Iv128(LEGACY_CONSTANT.first_chunk::<16>()?.into());
            let content = secret.legacy.decrypt(&mut content, start).ok()?;
            legacy_content(str::from_utf8(content).ok()?)
        })
    }
}

impl Secret {
    fn new(secret: &str) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let (seal, legacy) = (hmac::sign(&secret, PURPOSE), hmac::sign(&secret, LEGACY_CONSTANT));
        let legacy = UnboundCipherKey::new(&AES_256, legacy.as_ref()).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
        let seal = RandomizedNonceKey::new(&AES_256_GCM, seal.as_ref());
        // 32 bytes is what an HMAC-SHA256 has and an AES-256 needs
        Self { seal: seal.expect("32 bytes"), legacy: legacy.expect("32 bytes") }
    }
}

/// End in Unix seconds (0 = never), origin, channel.
type Content = (u64, String, String);

/// `token-<digits>:<origin>:<channel>:<end in Unix seconds, 0 = never>`. An origin may have colons, so a channel with
/// one is not read as it was meant.
pub(super) fn legacy_content(text: &str) -> Option<Content> {
    let (number, rest) = text.strip_prefix("token-")?.split_once(':')?;
    number.parse::<u64>().ok()?;
    let (rest, expires_unix_s) = rest.rsplit_once(':')?;
    let (origin, channel) = rest.rsplit_once(':')?;
    Some((expires_unix_s.parse().ok()?, origin.to_owned(), channel.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;

    fn key() -> AccessKey {
        AccessKey::new("app", ["secret"])
    }

    fn access(origin: &str, channel: &str) -> Result<Verified<Access>, AccessError> {
        Ok(Verified(Access { origin: origin.into(), channel: channel.into() }))
    }

    #[test]
    fn session_tokens() {
        let secrets = AppSecrets::new("278d425bdf160c739803", ["7ad3773142a6692b25b8", "older"]);
        let check = |session: &str, channel: &str, data: &str, token: &str| {
            assert_eq!(session_token(&secrets, session, channel, data), token);
        };
        check("1234.1234", "private-foobar", "", "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4");
        let session = "sess1.1795289515875916198.26966";
        check(session, "private-x", "", "49988de1b2215e4f650afc0218cef979620da22ade82a4a3b069f2a1fd427333");
        check(session, "private-x", "{}", "195ee3700f2e2100981ea9cf46f156a5907a598f36bc6910929fe769cd0b442b");
        assert_eq!(session_token(&AppSecrets::new("k", []), session, "private-x", ""), "");
    }

    #[test]
    fn lives_until_its_end() {
        let token = key().issue("*", "news", NOW + 60);
        for now in [0, NOW, NOW + 59] {
            assert_eq!(key().check(&token, now, false), access("*", "news"));
        }
        for now in [NOW + 60, u64::MAX] {
            assert_eq!(key().check(&token, now, false), Err(AccessError::Expired));
        }
        let token = key().issue("", "", 0);
        assert_eq!(key().check(&token, u64::MAX, true), access("*", "*"));
        assert_ne!(token, key().issue("", "", 0));
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
    }

    #[test]
    fn what_it_allows() {
        let Access { origin, channel } = Access { origin: "https://App.example:8443".into(), channel: "news".into() };
        let any = || "*".to_owned();
        let one = Access { origin: origin.clone(), channel: channel.clone() };
        assert!(one.allows_channel("news") && !one.allows_channel("new") && !one.allows_channel("*"));
        assert!(Access { origin, channel: any() }.allows_channel("anything"));
        for other in [None, Some(""), Some("*"), Some("null"), Some("https://app.example"), Some("app.example:8443")] {
            assert!(!one.allows_origin(other), "{other:?}");
            assert!(Access { origin: any(), channel: channel.clone() }.allows_origin(other), "{other:?}");
        }
        assert!(one.allows_origin(Some("https://app.example:8443")));
    }

    #[test]
    fn no_other_token_passes() {
        let token = key().issue("*", "*", 0);
        let refused = |key: AccessKey, token: &str| {
            for accept_legacy in [false, true] {
                assert_eq!(key.check(token, NOW, accept_legacy), Err(AccessError::Invalid), "{token}");
            }
        };
        refused(AccessKey::new("app", ["other"]), &token);
        refused(AccessKey::new("app", []), &token);
        refused(AccessKey::new("app", [""]), &AccessKey::new("app", [""]).issue("*", "*", 0));
        // equal secrets, another app
        refused(AccessKey::new("another", ["secret"]), &token);
        for garbage in ["", "h1.", "h1", ".", "~", "===="] {
            refused(key(), garbage);
        }
        refused(key(), &token["h1.".len()..]);
        refused(key(), &token.replace("h1.", "h2."));
        refused(key(), &(token + "="));
    }

    #[test]
    fn secrets() {
        let (old, both) = (AccessKey::new("app", ["old"]), AccessKey::new("app", ["new", "old"]));
        assert_eq!(both.check(&old.issue("*", "a", 0), NOW, false), access("*", "a"));
        let new = both.issue("*", "b", 0);
        assert_eq!(old.check(&new, NOW, false), Err(AccessError::Invalid));
        assert_eq!(AccessKey::new("app", ["new"]).check(&new, NOW, false), access("*", "b"));
        assert_eq!(format!("{both:?}"), "AccessKey(2)");
    }

    /// The first was given out by the original, secret `secret`; the others were made with OpenSSL, secret
    /// `legacy-secret`.
    #[test]
    fn tokens_of_the_original() {
        let given_out = "-5Q5NJl5FebqNo2A9LzYaBKw94Xr2Tnt64LOe7bQVt4~";
        assert_eq!(key().check(given_out, NOW, true), access("*", "*"));
        assert_eq!(key().check(given_out, NOW, false), Err(AccessError::Invalid));
        let app = AccessKey::new("any", ["new", "legacy-secret"]);
        let check = |token: &str, expected: Result<Verified<Access>, AccessError>| {
            assert_eq!(app.check(token, NOW, true), expected, "{token}");
            assert_eq!(app.check(token, NOW, false), Err(AccessError::Invalid));
            assert_eq!(key().check(token, NOW, true), Err(AccessError::Invalid), "another secret");
        };
        // token-846930886:*:*:0
        check("KvEJ1G6v3WW-hRpJtGOuQ1lurFnX8ZM6wltD-77foPk~", access("*", "*"));
        // token-1681692777:https://app.example:8443:private-news:1700000060
        let news = "wt62DQfTNssNY3WNHQHXvPvAbG9BHMvniWfIiEYrkJrKaavpL3IkpOz_l2muunVZLJXT2iz-3NA7IcozF0Ij46XVoffOd4_8zgNj47sdv3U~";
        check(news, access("https://app.example:8443", "private-news"));
        assert_eq!(app.check(news, NOW + 60, true), Err(AccessError::Expired));
        // token-12:*:news, coken-1:*:*:0, token-x:*:*:0, token-1:*:*:-1
        for other in [
            "_DJ8tUxostccOO70GxTtGw~~",
            "rIRk_iKuGLaIbvEq_mMxEg~~",
            "-g5jj0lJC6sPxCP9TNL3fQ~~",
            "LEl-x_Dy4QIxR11NwkUBOA~~",
        ] {
            check(other, Err(AccessError::Invalid));
        }
    }

    proptest! {
        #[test]
        fn says_what_it_was_given(origin in ".{1,20}", channel in ".{1,20}", expires in any::<u64>()) {
            let token = key().issue(&origin, &channel, expires);
            prop_assert_eq!(key().check(&token, expires.saturating_sub(1), false), access(&origin, &channel));
        }

        #[test]
        fn tampering_is_refused(at in 0usize..10_000, byte in 0x20u8..0x7f, cut in any::<bool>()) {
            let original = key().issue("https://a.example", "private-a", 0);
            let mut token = original.clone().into_bytes();
            let at = at % token.len();
            if cut { token.truncate(at) } else { token[at] = byte }
            let token = String::from_utf8(token).unwrap();
            prop_assume!(token != original);
            for accept_legacy in [false, true] {
                prop_assert_eq!(key().check(&token, NOW, accept_legacy), Err(AccessError::Invalid));
            }
        }
    }
}
