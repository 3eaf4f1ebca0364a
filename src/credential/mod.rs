//! Claims from outside become proof here, and nowhere else.
//!
//! A front door that wants to act for a user needs a [`Verified`] value. Only this module and its children can make
//! one, each after it has checked a signature and the clock:
//!
//! ```compile_fail,E0423
//! use hydrant::credential::{Verified, jwt::GusherClaims};
//! let forged = Verified(GusherClaims::default());
//! ```
//!
//! Nothing in here writes a token, a secret or a private key to a log, an error or a `Debug` output.

pub mod access;
pub mod jwt;
pub mod keygen;
mod pem;
pub mod session;
pub mod signature;

use std::sync::LazyLock;

/// Proof that the `T` was checked by this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// What was verified.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// What was verified; the proof is spent.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Why key material cannot be used, with the place it came from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct KeyError {
    /// File or setting as the operator named it.
    pub origin: String,
    /// What is wrong with it.
    pub problem: KeyProblem,
}

/// What is wrong with key material, each with the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each text says it
pub enum KeyProblem {
    #[error("no PEM key in it: expected a block that starts with `-----BEGIN`")]
    NoPem,
    #[error("the PEM block is damaged: its end is missing or its content is not a key in base64")]
    Damaged,
    #[error("this is a private key: give the public one (`openssl pkey -in PRIVATE.pem -pubout`)")]
    PrivateGiven,
    #[error("this is a public key: the private one is needed")]
    PublicGiven,
    #[error("the private key is encrypted: decrypt it first (`openssl pkey -in ENCRYPTED.pem -out PRIVATE.pem`)")]
    Encrypted,
    #[error("this is a certificate: give its public key (`openssl x509 -in CERT.pem -noout -pubkey`)")]
    Certificate,
    #[error("there is more than one key in it: one is needed")]
    Several,
    #[error("not an RSA key")]
    NotRsa,
    #[error("not a usable RSA key of 2048 to 8192 bits")]
    RsaSize,
    #[error("secrets have to have at least {} bytes (`openssl rand -hex 32`)", session::SECRET_BYTES_MIN)]
    SecretShort,
    #[error("the system gave no random bytes")]
    NoRandom,
}

impl KeyProblem {
    fn at(self, origin: &str) -> KeyError {
        KeyError { origin: origin.to_owned(), problem: self }
    }
}

/// Whether `a` equals `b`, in a time that depends on their lengths only.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Lower-case hex.
fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Hex of either case, of `N` bytes exactly.
fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8; // two digits: below 256
    }
    Some(bytes)
}

/// Runs every parser of outside bytes in this module over `data`: as a token, as the payload of a verified token, as a
/// key file, as an `auth`, and as the query of a signed request. For fuzz targets.
///
/// # Panics
/// If something is accepted that no key signed, if something signed here is not, or if accepted claims are not echoed
/// as JSON.
pub fn fuzz(data: &[u8]) {
    static KEYS: LazyLock<(jwt::PublicKeys, session::SessionKey)> = LazyLock::new(|| {
        let pair = keygen::generate_rsa().expect("the private half is thrown away");
        let keys = jwt::PublicKeys::from_pems(&[(pair.public_pem.as_bytes(), "fuzz")]);
        (keys.expect("made the line before"), session::SessionKey::generate())
    });
    let (keys, session) = &*KEYS;
    if let Ok(token) = str::from_utf8(data) {
        jwt::unverified_app_key(token);
        assert!(keys.verify(token, 0, jwt::ClockPolicy::AcceptFutureIat).is_err(), "nobody signed it");
        assert!(session.verify(token, 0).is_err(), "nobody signed it");
        fuzz_secrets(token);
    }
    if let Ok(claims) = jwt::Claims::parse(data) {
        for echo in [claims.to_json_v1(), claims.to_json_v3()] {
            serde_json::from_str::<serde_json::Value>(&echo).expect("the echo is JSON");
        }
    }
    let _ = jwt::PublicKeys::from_pems(&[(data, "fuzz")]);
    let _ = keygen::sign(data, "fuzz", &jwt::GusherClaims::default(), 0);
}

fn fuzz_secrets(text: &str) {
    static SECRETS: LazyLock<(signature::AppSecrets, access::AccessKey)> = LazyLock::new(|| {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("random bytes");
        let secret = hex(&secret);
        (signature::AppSecrets::new("key", [&*secret]), access::AccessKey::new("key", [&*secret]))
    });
    let (app, access) = &*SECRETS;
    for accept_legacy in [false, true] {
        assert!(access.check(text, 0, accept_legacy).is_err(), "nobody sealed it");
    }
    let _ = access::legacy_content(text);
    assert!(app.check_channel("1.2", "private-x", None, text).is_err(), "nobody signed it");
    assert!(app.check_user("1.2", "{}", text).is_err(), "nobody signed it");
    let _ = signature::auth_key(text);

    // on its own, and behind parameters that get it as far as the signature
    let known = "auth_key=key&auth_version=1.0&auth_timestamp=0";
    let body_md5 = "body_md5=d41d8cd98f00b204e9800998ecf8427e";
    let guess = format!("auth_signature={}", hex(&[0; 32]));
    for query in [text, &format!("{known}&{text}"), &format!("{known}&{body_md5}&{guess}&{text}")] {
        let request = signature::SignedRequest { method: "GET", path: "/", query, body: b"" };
        assert!(app.check_request(&request, 0).is_err(), "nobody signed it");
    }
    let query = app.sign_request("POST", text, &[("name", text)], text.as_bytes(), 0);
    let request = signature::SignedRequest { method: "POST", path: text, query: &query, body: text.as_bytes() };
    assert!(app.check_request(&request, 0).is_ok(), "the app signed it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hex_digits() {
        assert_eq!(hex(&[0x00, 0x9a, 0xff]), "009aff");
        assert_eq!(unhex(b"009aFf"), Some([0x00, 0x9a, 0xff]));
        for digits in ["009af", "009afff", "009afg", "+09aff", "0x9aff", "009a\u{e9}"] {
            assert_eq!(unhex::<3>(digits.as_bytes()), None, "{digits}");
        }
    }

    #[test]
    fn compares() {
        assert!(constant_time_eq(b"", b""));
        assert!(constant_time_eq(b"secret", b"secret"));
        assert!(!constant_time_eq(b"secret", b"secreT"));
        assert!(!constant_time_eq(b"secret", b"secret2"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&data);
        }

        #[test]
        fn no_shapes_panic(data in concat!(
            r"(eyJhbGciOiJSUzI1NiJ9\.[A-Za-z0-9]{0,8}\.[A-Za-z0-9]{0,8}",
            r#"|\{("(gusher|exp|aud)":(null|-?[0-9]{1,3}(e[0-9]{1,3})?|"x"|\[("x")?\]|\{\}),?)*\}"#,
            r"|h1\.[A-Za-z0-9_-]{0,60}|[A-Za-z0-9_-]{21,22}~?~?|token-[0-9]{0,3}(:[a-z*:]{0,4}){0,3}:[0-9]{0,3}",
            r"|key:[0-9a-fA-F]{63,65}|((auth_signature|body_md5|AUTH_KEY|x%5[Bb]%5D|x\[\])=?[a-z0-9%+]{0,9}&?){0,6}",
            r"|-----BEGIN (RSA )?(PUBLIC|PRIVATE) KEY-----\n[A-Za-z0-9=]{0,9}\n-----END (RSA )?(PUBLIC|PRIVATE) KEY-----)",
        )) {
            fuzz(data.as_bytes());
        }
    }
}
