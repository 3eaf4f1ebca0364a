//! Which apps there are, and whose tokens open them.

use std::collections::HashMap;
use std::time::Duration;

use crate::core::AppKey;
use crate::credential::jwt::{Claims, ClockPolicy, GusherClaims, PublicKeys, unverified_app_key};
use crate::credential::session::SessionKey;
use crate::credential::{KeyError, Verified};

/// Apps by key, and the keys that sign their users' tokens.
pub struct Tokens {
    /// `None`: disabled, however open the server is.
    apps: HashMap<AppKey, Option<PublicKeys>>,
    /// For apps without keys of their own, and for apps that nobody listed.
    common: PublicKeys,
    /// Any app key that a token signed with a common key names is an app.
    open: bool,
    /// Signs what `auth` hands out.
    session: SessionKey,
    session_ttl: Duration,
}

/// Keys as they are given: PEM, and where it comes from, for messages.
pub type Pems<'a> = Vec<(&'a [u8], &'a str)>;

/// Why a WebSocket handshake was not let in; the words are gusher's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TokenError {
    /// No token was given.
    Missing,
    /// It is unknown, forged, damaged or expired.
    Invalid,
    /// It is for another app, or there is no such app.
    OtherApp,
}

impl Tokens {
    /// `apps`: key and public keys (PEM with its origin) of each app; no keys at all if it is disabled.
    ///
    /// # Errors
    /// A key is not what it should be; the text names its origin.
    pub fn new<'a>(
        apps: impl IntoIterator<Item = (&'a str, Option<Pems<'a>>)>,
        common: &[(&[u8], &str)],
        open: bool,
        session: SessionKey,
        session_ttl: Duration,
    ) -> Result<Self, KeyError> {
        let keys = |(app, pems): (&str, Option<Pems<'_>>)| {
            let or_common = |pems: Pems<'_>| PublicKeys::from_pems(if pems.is_empty() { common } else { &pems });
            Ok((AppKey::from(app), pems.map(or_common).transpose()?))
        };
        Ok(Self {
            apps: apps.into_iter().map(keys).collect::<Result<_, KeyError>>()?,
            common: PublicKeys::from_pems(common)?,
            open,
            session,
            session_ttl,
        })
    }

    /// The app of that key, if it is one.
    pub(super) fn app(&self, key: &str) -> Option<AppKey> {
        match self.apps.get_key_value(key) {
            Some((app, keys)) => keys.is_some().then(|| app.clone()),
            None if self.open && !key.is_empty() => Some(AppKey::from(key)),
            None => None,
        }
    }

    /// Checks a JWT that is to open an app, with the keys of the app that it names; one that names none opens none.
    pub(super) fn check_for_app(&self, jwt: &str, unix_s: u64, policy: ClockPolicy) -> Option<Verified<Claims>> {
        unverified_app_key(jwt).filter(|app| !app.is_empty())?;
        self.check(jwt, unix_s, policy)
    }

    /// Checks any JWT: with the keys of the app that it names; one that names none may be signed by anybody's, which is
    /// for backends to ask, since it may take a check for each app.
    pub(super) fn check(&self, jwt: &str, unix_s: u64, policy: ClockPolicy) -> Option<Verified<Claims>> {
        let verify = |keys: &PublicKeys| keys.verify(jwt, unix_s, policy).ok();
        match unverified_app_key(jwt).filter(|app| !app.is_empty()) {
            Some(app) => match self.apps.get(app.as_str()) {
                Some(keys) => keys.as_ref().and_then(verify),
                None if self.open => verify(&self.common),
                None => None,
            },
            None => verify(&self.common).or_else(|| self.apps.values().flatten().find_map(verify)),
        }
    }

    /// Exchanges a user's JWT for a session token: `auth` of v1.
    pub(super) fn exchange(&self, jwt: &str, unix_s: u64) -> Option<String> {
        let claims = self.check_for_app(jwt, unix_s, ClockPolicy::RefuseFutureIat)?;
        // a life of a part of a second ends within that second: 0 s would be over before it is used
        let ttl_s = self.session_ttl.as_millis().div_ceil(1000) as u64;
        self.session.issue(&claims, unix_s, ttl_s).ok()
    }

    /// Lets a client of `app` in, by a session token or by the JWT itself.
    pub(super) fn admit(
        &self,
        app: &str,
        token: &str,
        unix_s: u64,
        policy: ClockPolicy,
    ) -> Result<(AppKey, Verified<GusherClaims>), TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        let app = self.app(app).ok_or(TokenError::OtherApp)?;
        let claims = match self.session.verify(token, unix_s) {
            Ok(claims) => claims,
            Err(_) => {
                self.check_for_app(token, unix_s, policy).and_then(Verified::into_gusher).ok_or(TokenError::Invalid)?
            }
        };
        if claims.get().app_key != app.as_str() {
            return Err(TokenError::OtherApp);
        }
        Ok((app, claims))
    }
}
