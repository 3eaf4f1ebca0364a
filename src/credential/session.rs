//! gusher session tokens: what a client gets for its JWT and connects with. They are signed, not stored, so every node
//! with the same secret takes them.

use super::jwt::{Claims, GusherClaims, TOKEN_BYTES_MAX};
use super::{KeyError, KeyProblem, Verified};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// Shortest secret taken, in bytes: the size of the hash (RFC 7518 section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Marks a session token, so that no other token under the same key passes for one.
const TYPE: &str = "hydrant-session+jwt";
const ISSUER: &str = "hydrant";
/// Sets this use of a configured secret apart from every other.
const PURPOSE: &[u8] = b"hydrant gusher session token 1";

/// Signs and checks session tokens. A user's JWT never passes as one: those are RSA, these HMAC-SHA256 under a key
/// derived for this purpose alone.
#[derive(Clone)]
pub struct SessionKey {
    sign: EncodingKey,
    check: DecodingKey,
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey")
    }
}

#[derive(Serialize, Deserialize)]
struct Session {
    iss: String,
    exp: u64,
    gusher: GusherClaims,
}

impl SessionKey {
    /// The key of a configured secret of [`SECRET_BYTES_MIN`] bytes or more; `origin` names the setting in errors.
    pub fn from_secret(secret: &[u8], origin: &str) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyProblem::SecretShort.at(origin));
        }
        Ok(Self::derive(secret))
    }

    /// A key of this boot: its tokens end with the process.
    ///
    /// # Panics
    /// If the system has no random bytes: nothing safe can start then.
    pub fn generate() -> Self {
        let mut secret = [0; SECRET_BYTES_MIN];
        aws_lc_rs::rand::fill(&mut secret).expect("random bytes");
        Self::derive(&secret)
    }

    fn derive(secret: &[u8]) -> Self {
        use aws_lc_rs::hmac;
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), PURPOSE);
        let (sign, check) = (EncodingKey::from_secret(derived.as_ref()), DecodingKey::from_secret(derived.as_ref()));
        Self { sign, check }
    }

    /// A token, URL-safe, for the user that `claims` prove, from `now_unix_s` on for `ttl_s` seconds, but never longer
    /// than the JWT itself. It can be used any number of times until then. It is for one app: the verified claims
    /// carry the `app_key`, which the door compares with the one addressed.
    pub fn issue(&self, claims: &Verified<Claims>, now_unix_s: u64, ttl_s: u64) -> Result<String, SessionError> {
        let claims = claims.get();
        let gusher = claims.gusher.clone().ok_or(SessionError::NoGusherClaim)?;
        let exp = now_unix_s.saturating_add(ttl_s).min(claims.exp_unix_s().unwrap_or(u64::MAX));
        let header = Header { typ: Some(TYPE.to_owned()), ..Header::new(Algorithm::HS256) };
        let session = Session { iss: ISSUER.to_owned(), exp, gusher };
        Ok(jsonwebtoken::encode(&header, &session, &self.sign).expect("an HMAC key signs any JSON"))
    }

    /// Checks a session token against the time now, in seconds.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Verified<GusherClaims>, SessionError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(SessionError::Invalid);
        }
        let mut signature_only = Validation::new(Algorithm::HS256);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false; // by the clock handed in, below
        signature_only.validate_aud = false;
        let token =
            jsonwebtoken::decode::<Session>(token, &self.check, &signature_only).map_err(|_| SessionError::Invalid)?;
        if token.header.typ.as_deref() != Some(TYPE) || token.claims.iss != ISSUER {
            return Err(SessionError::Invalid);
        }
        if now_unix_s >= token.claims.exp {
            return Err(SessionError::Expired);
        }
        Ok(Verified(token.claims.gusher))
    }
}

/// Why there is no session. The texts name no content of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The JWT is in order, but is for no gusher user.
    #[error("the token has no `gusher` claim")]
    NoGusherClaim,
    /// Not a session token, or not of this key.
    #[error("not a session token of this server")]
    Invalid,
    /// Its time is over.
    #[error("the session token has expired")]
    Expired,
}

#[cfg(test)]
mod tests {
    use super::super::jwt::tests::{PAIR, keys, signed};
    use super::super::jwt::{ClockPolicy, JwtError};
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;
    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn claims(payload: &str) -> Verified<Claims> {
        let token = signed(Algorithm::RS256, payload, &PAIR);
        keys(&[&PAIR]).verify(&token, NOW, ClockPolicy::RefuseFutureIat).unwrap()
    }

    fn user(exp: &str) -> Verified<Claims> {
        claims(&format!(
            r#"{{"gusher":{{"channels":["AA","ü*"],"user_id":"u1","app_key":"T","remotes":{{"chat":true}}}}{exp}}}"#
        ))
    }

    fn key() -> SessionKey {
        SessionKey::from_secret(SECRET, "session_secret").unwrap()
    }

    #[test]
    fn lives_until_its_end() {
        let check = |exp: &str, ttl_s, ends: u64| {
            let claims = user(exp);
            let token = key().issue(&claims, NOW, ttl_s).unwrap();
            for now in [NOW, ends - 1] {
                assert_eq!(Some(key().verify(&token, now).unwrap()), claims.clone().into_gusher());
            }
            assert_eq!(key().verify(&token, ends).unwrap_err(), SessionError::Expired);
        };
        check("", 60, NOW + 60);
        check(r#","exp":1700000030"#, 60, NOW + 30);
        check(r#","exp":1700000030.9"#, 60, NOW + 30);
        check(r#","exp":1700000090"#, 60, NOW + 60);
        check("", u64::MAX, u64::MAX);
        check(r#","exp":1e300"#, u64::MAX, u64::MAX);
        let token = key().issue(&user(""), NOW, 60).unwrap();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
    }

    #[test]
    fn needs_a_gusher_claim() {
        assert_eq!(key().issue(&claims("{}"), NOW, 60), Err(SessionError::NoGusherClaim));
    }

    #[test]
    fn no_other_token_passes() {
        let token = key().issue(&user(""), NOW, 60).unwrap();
        let refused = |token: &str| assert_eq!(key().verify(token, NOW).unwrap_err(), SessionError::Invalid, "{token}");
        assert!(SessionKey::generate().verify(&token, NOW).is_err());
        for garbage in ["", "..", "9ca0e6dc-e5df-11f1-a8e9-f2ba1b4a1087", &"a".repeat(TOKEN_BYTES_MAX + 1)] {
            refused(garbage);
        }
        refused(&signed(Algorithm::RS256, r#"{"iss":"hydrant","exp":9e9,"gusher":{}}"#, &PAIR));
        // the other way round: a session token is no JWT
        let as_jwt = keys(&[&PAIR]).verify(&token, NOW, ClockPolicy::AcceptFutureIat);
        assert_eq!(as_jwt.unwrap_err(), JwtError::Algorithm);
        // tokens of the right key without the marks, and of the secret itself
        let session = |iss: &str| Session { iss: iss.into(), exp: NOW + 60, gusher: GusherClaims::default() };
        let marked = Header { typ: Some(TYPE.into()), ..Header::new(Algorithm::HS256) };
        let encode =
            |header: &Header, iss: &str, key: &EncodingKey| jsonwebtoken::encode(header, &session(iss), key).unwrap();
        key().verify(&encode(&marked, ISSUER, &key().sign), NOW).unwrap();
        refused(&encode(&Header::new(Algorithm::HS256), ISSUER, &key().sign));
        refused(&encode(&marked, "someone", &key().sign));
        refused(&encode(&marked, ISSUER, &EncodingKey::from_secret(SECRET)));
        refused(&encode(&Header { alg: Algorithm::HS512, ..marked }, ISSUER, &key().sign));
    }

    #[test]
    fn secrets() {
        let error = SessionKey::from_secret(&SECRET[1..], "session_secret").unwrap_err();
        assert_eq!(error, KeyProblem::SecretShort.at("session_secret"));
        assert_eq!(format!("{:?}", key()), "SessionKey");
    }

    proptest! {
        #[test]
        fn tampering_is_refused(at in 0usize..10_000, byte in 0x20u8..0x7f, cut in any::<bool>()) {
            let original = key().issue(&VERIFIED, NOW, 60).unwrap();
            let mut token = original.clone().into_bytes();
            let at = at % token.len();
            if cut { token.truncate(at) } else { token[at] = byte }
            let token = String::from_utf8(token).unwrap();
            prop_assume!(token != original);
            prop_assert!(key().verify(&token, NOW).is_err());
        }
    }
    static VERIFIED: std::sync::LazyLock<Verified<Claims>> = std::sync::LazyLock::new(|| user(""));
}
