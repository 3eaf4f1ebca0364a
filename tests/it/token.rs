//! JSON web tokens, good and bad, signed without the library that the server verifies with.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{self, KeyPair as _, RsaSignatureEncoding};
use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// The private key that a name stands for: `test`, whose public half every server gets, or `other`.
fn key_pair(name: &str) -> Result<&'static KeyPair, String> {
    static KEYS: OnceLock<[KeyPair; 2]> = OnceLock::new();
    let [test, other] =
        KEYS.get_or_init(|| [0, 1].map(|_| KeyPair::generate(KeySize::Rsa2048).expect("RSA key generation")));
    match name {
        "test" => Ok(test),
        "other" => Ok(other),
        _ => Err(format!("no key {name:?}: test or other")),
    }
}

/// The public half of a key as PEM (SubjectPublicKeyInfo, RFC 7468 section 13).
pub(crate) fn public_pem(name: &str) -> Result<String, String> {
    let der = key_pair(name)?.public_key().as_der().map_err(|e| format!("public key {name}: {e}"))?;
    let base64 = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
    Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")))
}

/// Signs `claims`. `HS256` uses the public PEM as its secret: the attack on verifiers that trust the header's `alg`.
pub(crate) fn sign(algorithm: &str, key: &str, claims: &Value) -> Result<String, String> {
    let header = serde_json::json!({ "alg": algorithm, "typ": "JWT" });
    let signed = [header.to_string(), claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let rsa = |encoding: &'static RsaSignatureEncoding| {
        let pair = key_pair(key)?;
        let mut bytes = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut bytes).map_err(|e| e.to_string())?;
        Ok::<_, String>(bytes)
    };
    let signature = match algorithm {
        "RS256" => rsa(&signature::RSA_PKCS1_SHA256)?,
        "RS384" => rsa(&signature::RSA_PKCS1_SHA384)?,
        "RS512" => rsa(&signature::RSA_PKCS1_SHA512)?,
        "PS256" => rsa(&signature::RSA_PSS_SHA256)?,
        "HS256" => {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, public_pem(key)?.as_bytes());
            hmac::sign(&secret, signed.as_bytes()).as_ref().to_vec()
        }
        "none" => Vec::new(),
        _ => return Err(format!("no algorithm {algorithm:?}")),
    };
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[test]
fn tokens_verify() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    let claims = serde_json::json!({ "exp": 4_102_444_800_u64, "gusher": { "app_key": "a" } });
    let public = DecodingKey::from_rsa_pem(public_pem("test").unwrap().as_bytes()).unwrap();
    for (name, algorithm) in [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
    ] {
        let token = sign(name, "test", &claims).unwrap();
        assert_eq!(decode::<Value>(&token, &public, &Validation::new(algorithm)).unwrap().claims, claims);
        let token = sign(name, "other", &claims).unwrap();
        assert!(decode::<Value>(&token, &public, &Validation::new(algorithm)).is_err());
    }
}
