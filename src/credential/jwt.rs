//! User tokens: JSON Web Tokens (RFC 7519) that an app's backend signed with its RSA key and that carry a `gusher`
//! claim.

use super::{KeyError, KeyProblem, Verified, pem};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Longest token that is looked at, in bytes; a longer one is refused unread.
pub const TOKEN_BYTES_MAX: usize = 64 << 10;

/// The RSA public keys of one app. Several count at the same time, so that a key can be replaced without a gap; every
/// one is tried on every token.
#[derive(Clone)]
pub struct PublicKeys(Vec<DecodingKey>);

impl std::fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKeys({})", self.0.len())
    }
}

impl PublicKeys {
    /// Reads PEM files, each with the name that errors call it by. A file may hold several keys, as `PUBLIC KEY`
    /// (SPKI, RFC 5280) or `RSA PUBLIC KEY` (PKCS#1, RFC 8017), of 2048 to 8192 bits. No files: no token verifies.
    pub fn from_pems(files: &[(&[u8], &str)]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for (file, origin) in files {
            for block in pem::blocks(file).map_err(|problem| problem.at(origin))? {
                keys.push(public_key(&block).map_err(|problem| problem.at(origin))?);
            }
        }
        Ok(Self(keys))
    }

    /// Checks a token: RS256, RS384 or RS512 by one of these keys, and the clock, `now_unix_s` being the time now in
    /// seconds. `exp` and `nbf` are optional and there is no leeway: a token is refused from the second `exp` on and
    /// before the second `nbf`. `aud` is never a reason to refuse. Takes one RSA verification per key.
    pub fn verify(&self, token: &str, now_unix_s: u64, policy: ClockPolicy) -> Result<Verified<Claims>, JwtError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtError::TooLong);
        }
        // An algorithm unknown to the library, such as `none`, fails in here.
        let header = jsonwebtoken::decode_header(token).map_err(|_| JwtError::Malformed)?;
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512) {
            return Err(JwtError::Algorithm);
        }
        // RFC 7515 section 4.1.11: who does not understand an extension named there must refuse.
        if header.crit.is_some() {
            return Err(JwtError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let signed_by =
            |key| jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, header.alg).unwrap_or(false);
        if !self.0.iter().any(signed_by) {
            return Err(JwtError::Signature);
        }
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| JwtError::Malformed)?;
        let claims = Claims::parse(&payload)?;
        claims.check_clock(now_unix_s as f64, policy)?;
        Ok(Verified(claims))
    }
}

fn public_key(block: &pem::Block<'_>) -> Result<DecodingKey, KeyProblem> {
    match block.label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        "CERTIFICATE" => return Err(KeyProblem::Certificate),
        label if label.ends_with("PRIVATE KEY") => return Err(KeyProblem::PrivateGiven),
        _ => return Err(KeyProblem::NotRsa),
    }
    let key = PublicKey::from_der(&block.der()?).map_err(|_| KeyProblem::NotRsa)?;
    let spki: PublicKeyX509Der<'_> = key.as_der().map_err(|_| KeyProblem::NotRsa)?;
    // Not for encrypting: this type is the one that checks the size as signatures need it.
    PublicEncryptingKey::from_der(spki.as_ref()).map_err(|_| KeyProblem::RsaSize)?;
    Ok(DecodingKey::from_rsa_der(key.as_ref()))
}

/// What to do with a token whose `iat` lies in the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockPolicy {
    /// Refuse it, as gusher v1 does.
    RefuseFutureIat,
    /// Take it, as gusher v3 does.
    AcceptFutureIat,
}

/// Why a token is not accepted. The texts name no content of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// More than [`TOKEN_BYTES_MAX`].
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of base64url, or not JSON in them, or an unknown algorithm or critical extension.
    #[error("not a token that this server can read")]
    Malformed,
    /// A known algorithm that is not taken here: HMAC, PSS, elliptic curves.
    #[error("the token is not signed with RS256, RS384 or RS512")]
    Algorithm,
    /// No key of the app made the signature.
    #[error("the signature fits none of the app's keys")]
    Signature,
    /// A claim, named, has the wrong type.
    #[error("the claim `{0}` has a wrong type")]
    ClaimType(&'static str),
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not yet valid")]
    NotYetValid,
    /// `iat` has not come, and the policy minds.
    #[error("the token was issued in the future")]
    IssuedInFuture,
}

/// What a token says about a gusher user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GusherClaims {
    /// Names and globs of the channels that the user may use; `None` when the token says nothing or `null`.
    pub channels: Option<Vec<String>>,
    /// The user; empty when the token has none.
    #[serde(deserialize_with = "null_is_empty", default)]
    pub user_id: String,
    /// The app; empty when the token has none.
    #[serde(deserialize_with = "null_is_empty", default)]
    pub app_key: String,
    /// Remotes that the user may call, by name; `None` when the token says nothing or `null`.
    pub remotes: Option<BTreeMap<String, bool>>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(text)?.unwrap_or_default())
}

/// The registered claims (RFC 7519 section 4.1), each as the JSON text that the token has; `None` when missing or
/// `null`. Times are numbers, `aud` is a string or a list of strings, the others are strings.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // named by the RFC
pub struct Registered {
    pub aud: Option<Box<RawValue>>,
    pub exp: Option<Box<RawValue>>,
    pub jti: Option<Box<RawValue>>,
    pub iat: Option<Box<RawValue>>,
    pub iss: Option<Box<RawValue>>,
    pub nbf: Option<Box<RawValue>>,
    pub sub: Option<Box<RawValue>>,
}

/// What a token says. Claims of other names are ignored.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The claim `gusher`; `None` when missing or `null`.
    pub gusher: Option<GusherClaims>,
    /// The claims that every kind of token may have.
    pub registered: Registered,
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, JwtError> {
        #[derive(Deserialize)]
        struct Members {
            gusher: Option<Box<RawValue>>,
            aud: Option<Box<RawValue>>,
            exp: Option<Box<RawValue>>,
            jti: Option<Box<RawValue>>,
            iat: Option<Box<RawValue>>,
            iss: Option<Box<RawValue>>,
            nbf: Option<Box<RawValue>>,
            sub: Option<Box<RawValue>>,
        }
        // serde would also fill a struct from an array, by position.
        if !payload.trim_ascii_start().starts_with(b"{") {
            return Err(JwtError::Malformed);
        }
        let members: Members = serde_json::from_slice(payload).map_err(|_| JwtError::Malformed)?;
        let gusher = match members.gusher {
            Some(claim) if !claim.get().starts_with('{') => return Err(JwtError::ClaimType("gusher")),
            Some(claim) => Some(serde_json::from_str(claim.get()).map_err(|_| JwtError::ClaimType("gusher"))?),
            None => None,
        };
        let registered = Registered {
            aud: members.aud,
            exp: members.exp,
            jti: members.jti,
            iat: members.iat,
            iss: members.iss,
            nbf: members.nbf,
            sub: members.sub,
        };
        for (name, claim) in [("jti", &registered.jti), ("iss", &registered.iss), ("sub", &registered.sub)] {
            if claim.as_ref().is_some_and(|claim| !is_string(claim)) {
                return Err(JwtError::ClaimType(name));
            }
        }
        for (name, claim) in [("exp", &registered.exp), ("iat", &registered.iat), ("nbf", &registered.nbf)] {
            if claim.as_ref().is_some_and(|claim| seconds(claim).is_none()) {
                return Err(JwtError::ClaimType(name));
            }
        }
        let list_of_strings = |claim: &RawValue| serde_json::from_str::<Vec<String>>(claim.get()).is_ok();
        if registered.aud.as_ref().is_some_and(|claim| !is_string(claim) && !list_of_strings(claim)) {
            return Err(JwtError::ClaimType("aud"));
        }
        Ok(Self { gusher, registered })
    }

    fn check_clock(&self, now_unix_s: f64, policy: ClockPolicy) -> Result<(), JwtError> {
        let time = |claim: &Option<Box<RawValue>>| claim.as_deref().and_then(seconds);
        if time(&self.registered.exp).is_some_and(|exp| now_unix_s >= exp) {
            return Err(JwtError::Expired);
        }
        if time(&self.registered.nbf).is_some_and(|nbf| now_unix_s < nbf) {
            return Err(JwtError::NotYetValid);
        }
        if policy == ClockPolicy::RefuseFutureIat && time(&self.registered.iat).is_some_and(|iat| now_unix_s < iat) {
            return Err(JwtError::IssuedInFuture);
        }
        Ok(())
    }

    /// `exp` in whole seconds, rounded down; `None` when the token never expires.
    pub fn exp_unix_s(&self) -> Option<u64> {
        // `as` stays between 0 and `u64::MAX`.
        self.registered.exp.as_deref().and_then(seconds).map(|exp| exp as u64)
    }

    /// As gusher v1 answers `/decode`: `{"gusher":{"channels":…,"user_id":…,"app_key":…,"remotes":…}}` and after it, as
    /// members, those of aud, exp, jti, iat, iss, nbf, sub that the token has, values as it has them. Without a gusher
    /// claim that member is `{"channels":null,"user_id":"","app_key":"","remotes":null}`.
    pub fn to_json_v1(&self) -> String {
        let Registered { aud, exp, jti, iat, iss, nbf, sub } = &self.registered;
        self.to_json(&[
            ("aud", raw(aud)),
            ("exp", raw(exp)),
            ("jti", raw(jti)),
            ("iat", raw(iat)),
            ("iss", raw(iss)),
            ("nbf", raw(nbf)),
            ("sub", raw(sub)),
        ])
    }

    /// As gusher v3 answers `/v1/auth/decode`: as [`Self::to_json_v1`], in the order iss, sub, aud, exp, nbf, iat, jti
    /// and with `aud` always as a list.
    pub fn to_json_v3(&self) -> String {
        let Registered { aud, exp, jti, iat, iss, nbf, sub } = &self.registered;
        let list = aud.as_deref().filter(|aud| is_string(aud)).map(|aud| format!("[{}]", aud.get()));
        self.to_json(&[
            ("iss", raw(iss)),
            ("sub", raw(sub)),
            ("aud", list.as_deref().or(raw(aud))),
            ("exp", raw(exp)),
            ("nbf", raw(nbf)),
            ("iat", raw(iat)),
            ("jti", raw(jti)),
        ])
    }

    fn to_json(&self, members: &[(&str, Option<&str>)]) -> String {
        let nobody = GusherClaims::default();
        let gusher = serde_json::to_string(self.gusher.as_ref().unwrap_or(&nobody));
        let mut json = format!("{{\"gusher\":{}", gusher.expect("strings, lists and maps of strings are JSON"));
        for (name, value) in members {
            if let Some(value) = value {
                json += &format!(",\"{name}\":{value}");
            }
        }
        json + "}"
    }
}

impl Verified<Claims> {
    /// The gusher claim, as well proven as the token; `None` when the token has none.
    pub fn into_gusher(self) -> Option<Verified<GusherClaims>> {
        self.0.gusher.map(Verified)
    }
}

fn raw(claim: &Option<Box<RawValue>>) -> Option<&str> {
    claim.as_deref().map(RawValue::get)
}

fn is_string(claim: &RawValue) -> bool {
    claim.get().starts_with('"')
}

/// A NumericDate (RFC 7519 section 2): a finite number, a fraction allowed.
fn seconds(claim: &RawValue) -> Option<f64> {
    // Of the texts that Rust takes for a number, only JSON's own can stand in a `RawValue`.
    claim.get().parse().ok().filter(|seconds: &f64| seconds.is_finite())
}

/// The app that a token claims to be for. Nothing is verified: good only for choosing whose keys to try. Looks at no
/// more than [`TOKEN_BYTES_MAX`].
pub fn unverified_app_key(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Payload {
        gusher: App,
    }
    #[derive(Deserialize)]
    struct App {
        app_key: String,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let payload: Payload = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(payload.gusher.app_key)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::credential::keygen::{RsaPair, generate_rsa};
    use ClockPolicy::{AcceptFutureIat, RefuseFutureIat};
    use jsonwebtoken::{EncodingKey, Header};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    pub(in crate::credential) static PAIR: LazyLock<RsaPair> = LazyLock::new(|| generate_rsa().unwrap());
    static OTHER: LazyLock<RsaPair> = LazyLock::new(|| generate_rsa().unwrap());
    const NOW: u64 = 1_700_000_000;
    const CLAIMS: &str = r#"{"gusher":{"channels":["AA"],"user_id":"u1","app_key":"T","remotes":{"chat":true}}}"#;

    pub(in crate::credential) fn keys(pairs: &[&RsaPair]) -> PublicKeys {
        let files: Vec<_> = pairs.iter().map(|pair| (pair.public_pem.as_bytes(), "test")).collect();
        PublicKeys::from_pems(&files).unwrap()
    }

    /// Signs a payload of any text, valid or not.
    pub(in crate::credential) fn signed(alg: Algorithm, payload: &str, pair: &RsaPair) -> String {
        signed_with(&Header::new(alg), payload, &EncodingKey::from_rsa_pem(pair.private_pem.as_bytes()).unwrap())
    }

    fn signed_with(header: &Header, payload: &str, key: &EncodingKey) -> String {
        let header_part = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header).unwrap());
        let message = format!("{header_part}.{}", URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, header.alg).unwrap();
        format!("{message}.{signature}")
    }

    fn verify(payload: &str, policy: ClockPolicy) -> Result<Claims, JwtError> {
        let token = signed(Algorithm::RS256, payload, &PAIR);
        keys(&[&PAIR]).verify(&token, NOW, policy).map(Verified::into_inner)
    }

    #[test]
    fn algorithms() {
        for alg in [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512] {
            let token = signed(alg, CLAIMS, &PAIR);
            let claims = keys(&[&PAIR]).verify(&token, NOW, RefuseFutureIat).unwrap();
            assert_eq!(claims.get().gusher.as_ref().unwrap().user_id, "u1");
            assert_eq!(unverified_app_key(&token).as_deref(), Some("T"));
            assert_eq!(claims.into_gusher().unwrap().get().app_key, "T");
        }
        let refused = |token: &str, error| {
            assert_eq!(keys(&[&PAIR]).verify(token, NOW, AcceptFutureIat).unwrap_err(), error, "{token}");
        };
        for alg in [Algorithm::PS256, Algorithm::PS384, Algorithm::PS512] {
            refused(&signed(alg, CLAIMS, &PAIR), JwtError::Algorithm);
        }
        for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let public_as_secret = EncodingKey::from_secret(PAIR.public_pem.as_bytes());
            refused(&signed_with(&Header::new(alg), CLAIMS, &public_as_secret), JwtError::Algorithm);
        }
        let body = URL_SAFE_NO_PAD.encode(CLAIMS);
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, r#"{"typ":"JWT"}"#, "null", "[]"] {
            let header = URL_SAFE_NO_PAD.encode(header);
            refused(&format!("{header}.{body}."), JwtError::Malformed);
            refused(&format!("{header}.{body}.AAAA"), JwtError::Malformed);
        }
        // a signature of one algorithm under the name of another
        let token = signed(Algorithm::RS256, CLAIMS, &PAIR);
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS512"}"#);
        refused(&format!("{header}.{}", token.split_once('.').unwrap().1), JwtError::Signature);
        let critical = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::RS256) };
        let key = EncodingKey::from_rsa_pem(PAIR.private_pem.as_bytes()).unwrap();
        refused(&signed_with(&critical, CLAIMS, &key), JwtError::Malformed);
    }

    #[test]
    fn garbage() {
        let token = signed(Algorithm::RS256, CLAIMS, &PAIR);
        let (message, signature) = token.rsplit_once('.').unwrap();
        for garbage in ["", ".", "..", "...", "garbage", "a.b.c", message, signature, "ä.ö.ü", "\0"] {
            assert_eq!(keys(&[&PAIR]).verify(garbage, NOW, AcceptFutureIat).unwrap_err(), JwtError::Malformed);
            assert_eq!(unverified_app_key(garbage), None);
        }
        for wrapped in [format!(" {token}"), format!("{token}\n"), format!("{token}="), format!("{token}.")] {
            assert!(keys(&[&PAIR]).verify(&wrapped, NOW, AcceptFutureIat).is_err(), "{wrapped}");
        }
        assert_eq!(
            keys(&[&PAIR]).verify(&format!("{message}."), NOW, AcceptFutureIat).unwrap_err(),
            JwtError::Signature
        );
        let long = "a".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(keys(&[&PAIR]).verify(&long, NOW, AcceptFutureIat).unwrap_err(), JwtError::TooLong);
        assert_eq!(unverified_app_key(&format!("{token}{long}")), None);
    }

    #[test]
    fn rotation() {
        let (old, new) = (signed(Algorithm::RS256, CLAIMS, &PAIR), signed(Algorithm::RS256, CLAIMS, &OTHER));
        let check = |keys: &PublicKeys, token: &str, ok: bool| {
            assert_eq!(keys.verify(token, NOW, AcceptFutureIat).err(), (!ok).then_some(JwtError::Signature));
        };
        for both in [keys(&[&PAIR, &OTHER]), keys(&[&OTHER, &PAIR])] {
            check(&both, &old, true);
            check(&both, &new, true);
        }
        check(&keys(&[&PAIR]), &new, false);
        check(&keys(&[&OTHER]), &old, false);
        check(&keys(&[]), &old, false);
        // both in one file
        let file = PAIR.public_pem.clone() + &OTHER.public_pem;
        let both = PublicKeys::from_pems(&[(file.as_bytes(), "keys.pem")]).unwrap();
        check(&both, &old, true);
        check(&both, &new, true);
        assert_eq!(format!("{both:?}"), "PublicKeys(2)");
    }

    #[test]
    fn clock() {
        let check = |member: &str, policy, error: Option<JwtError>| {
            assert_eq!(verify(&format!("{{{member}}}"), policy).err(), error, "{member}");
        };
        for policy in [RefuseFutureIat, AcceptFutureIat] {
            check("", policy, None);
            check(&format!("\"exp\":{}", NOW + 1), policy, None);
            check(&format!("\"exp\":{NOW}"), policy, Some(JwtError::Expired));
            check(&format!("\"exp\":{}", NOW - 1), policy, Some(JwtError::Expired));
            check(&format!("\"exp\":{NOW}.5"), policy, None);
            check("\"exp\":0", policy, Some(JwtError::Expired));
            check("\"exp\":-1", policy, Some(JwtError::Expired));
            check("\"exp\":1e300", policy, None);
            check("\"exp\":null", policy, None);
            check(&format!("\"nbf\":{NOW}"), policy, None);
            check(&format!("\"nbf\":{}", NOW + 1), policy, Some(JwtError::NotYetValid));
            check(&format!("\"iat\":{NOW}"), policy, None);
        }
        check(&format!("\"iat\":{}", NOW + 1), RefuseFutureIat, Some(JwtError::IssuedInFuture));
        check(&format!("\"iat\":{}", NOW + 1), AcceptFutureIat, None);
        assert_eq!(verify("{}", AcceptFutureIat).unwrap().exp_unix_s(), None);
        assert_eq!(verify(r#"{"exp":1800000000.9}"#, AcceptFutureIat).unwrap().exp_unix_s(), Some(1_800_000_000));
    }

    #[test]
    fn wrong_types() {
        let check =
            |payload: &str, error| assert_eq!(verify(payload, AcceptFutureIat).unwrap_err(), error, "{payload}");
        for payload in
            ["", "null", "[]", "[null,null,null,null,null,null,null,null]", "7", "{", "{}x", r#"{"exp":NaN}"#]
        {
            check(payload, JwtError::Malformed);
        }
        check(r#"{"iss":"a","iss":"b"}"#, JwtError::Malformed);
        for time in ["exp", "iat", "nbf"] {
            for value in [r#""1700000001""#, "true", "[]", "{}", "1e999"] {
                check(&format!("{{\"{time}\":{value}}}"), JwtError::ClaimType(time));
            }
        }
        for text in ["jti", "iss", "sub"] {
            for value in ["1", "true", r#"["a"]"#, "{}"] {
                check(&format!("{{\"{text}\":{value}}}"), JwtError::ClaimType(text));
            }
        }
        for value in ["1", "{}", "[1]", r#"["a",null]"#] {
            check(&format!("{{\"aud\":{value}}}"), JwtError::ClaimType("aud"));
        }
        for value in [
            r#""u1""#,
            "[]",
            r#"[["AA"],"u1","T",null]"#,
            r#"{"channels":"AA"}"#,
            r#"{"channels":[1]}"#,
            r#"{"channels":[null]}"#,
            r#"{"user_id":1}"#,
            r#"{"app_key":["T"]}"#,
            r#"{"remotes":["chat"]}"#,
            r#"{"remotes":{"chat":1}}"#,
            r#"{"user_id":"a","user_id":"b"}"#,
        ] {
            check(&format!("{{\"gusher\":{value}}}"), JwtError::ClaimType("gusher"));
        }
    }

    #[test]
    fn echo() {
        let check = |payload: &str, v1: &str, v3: &str| {
            let claims = verify(payload, AcceptFutureIat).unwrap();
            assert_eq!(claims.to_json_v1(), v1);
            assert_eq!(claims.to_json_v3(), v3);
        };
        check(CLAIMS, CLAIMS, CLAIMS);
        let nobody = r#"{"gusher":{"channels":null,"user_id":"","app_key":"","remotes":null}"#;
        for payload in [
            "{}",
            r#"{"gusher":null,"aud":null,"exp":null}"#,
            r#"{"gusher":{}}"#,
            r#"{"gusher":{"user_id":null,"app_key":null,"channels":null,"other":1}}"#,
        ] {
            check(payload, &format!("{nobody}}}"), &format!("{nobody}}}"));
        }
        check(
            r#"{"sub":"s","nbf":1.50,"iss":"i\u0041","iat":1e3,"jti":"9007199254740993","exp":9007199254740993,"aud":"x"}"#,
            &format!(
                r#"{nobody},"aud":"x","exp":9007199254740993,"jti":"9007199254740993","iat":1e3,"iss":"i\u0041","nbf":1.50,"sub":"s"}}"#
            ),
            &format!(
                r#"{nobody},"iss":"i\u0041","sub":"s","aud":["x"],"exp":9007199254740993,"nbf":1.50,"iat":1e3,"jti":"9007199254740993"}}"#
            ),
        );
        let list = format!(r#"{nobody},"aud":["x","y"]}}"#);
        check(r#"{"aud":["x","y"]}"#, &list, &list);
        check(
            r#"{"gusher":{"remotes":{"b":true,"a":false},"channels":[],"app_key":"<ü>"}}"#,
            r#"{"gusher":{"channels":[],"user_id":"","app_key":"<ü>","remotes":{"a":false,"b":true}}}"#,
            r#"{"gusher":{"channels":[],"user_id":"","app_key":"<ü>","remotes":{"a":false,"b":true}}}"#,
        );
    }

    #[test]
    fn key_files() {
        let check = |file: &str, problem: KeyProblem| {
            let error = PublicKeys::from_pems(&[(file.as_bytes(), "app.pem")]).unwrap_err();
            assert_eq!(error, problem.at("app.pem"));
            assert!(error.to_string().starts_with("app.pem: "), "{error}");
        };
        check("", KeyProblem::NoPem);
        check("ssh-rsa AAAA me@host", KeyProblem::NoPem);
        check(&PAIR.private_pem, KeyProblem::PrivateGiven);
        check(&(PAIR.public_pem.clone() + &PAIR.private_pem), KeyProblem::PrivateGiven);
        check("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----", KeyProblem::PrivateGiven);
        check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", KeyProblem::Certificate);
        check("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", KeyProblem::NotRsa);
        check("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----", KeyProblem::Damaged);
        check(
            "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7FqWm5EaV+iCsO2/a/YVGKD5JAOo\n\
             3pr5+nNKkb16Zab0UkF1SPCKLQb4jiTuGExOs/2hl/Jbxy7ZSRNEJPNpIA==\n-----END PUBLIC KEY-----",
            KeyProblem::NotRsa,
        );
        check(
            "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCmZp0ksxxBfxaSSV2V5vG4dBFD\n\
             gfRuPPPh8Er5aZ+VQlLy3toJM5+F1torYlsNd6+sFzSBZwOgME6dGdWgwyewpyAa\n\
             2SdnfP0GfdiwtkbpUcaDNvwsiYpoHLFBWX0oKSPsB82WUvlBM112+dd/xhVvUL4e\nQffe5nwNKjrNdWMYAQIDAQAB\n\
             -----END PUBLIC KEY-----",
            KeyProblem::RsaSize,
        );
        // PKCS#1
        let spki = pem::blocks(PAIR.public_pem.as_bytes()).unwrap()[0].der().unwrap();
        let pkcs1 = pem::encode("RSA PUBLIC KEY", PublicKey::from_der(&spki).unwrap().as_ref());
        let keys = PublicKeys::from_pems(&[(pkcs1.as_bytes(), "pkcs1.pem")]).unwrap();
        keys.verify(&signed(Algorithm::RS256, CLAIMS, &PAIR), NOW, AcceptFutureIat).unwrap();
    }

    proptest! {
        #[test]
        fn tampering_is_refused(at in 0usize..10_000, byte in 0x20u8..0x7f, cut in any::<bool>()) {
            static TOKEN: LazyLock<String> = LazyLock::new(|| signed(Algorithm::RS256, CLAIMS, &PAIR));
            let mut token = TOKEN.clone().into_bytes();
            let at = at % token.len();
            if cut { token.truncate(at) } else { token[at] = byte }
            let token = String::from_utf8(token).unwrap();
            prop_assume!(token != *TOKEN);
            prop_assert!(keys(&[&PAIR]).verify(&token, NOW, AcceptFutureIat).is_err());
        }
    }
}
