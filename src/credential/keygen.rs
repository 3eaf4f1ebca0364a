//! RSA keys and the user tokens made with them: for dev mode and the command line. A server in production holds public
//! keys only.

use super::jwt::GusherClaims;
use super::{KeyError, KeyProblem, pem};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// A new key of 2048 bits in both halves.
#[derive(Clone)]
pub struct RsaPair {
    /// `PRIVATE KEY` (PKCS#8), PEM.
    pub private_pem: String,
    /// `PUBLIC KEY` (SPKI), PEM.
    pub public_pem: String,
}

impl std::fmt::Debug for RsaPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RsaPair").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

/// Makes a key. Takes some tenths of a second of CPU.
pub fn generate_rsa() -> Result<RsaPair, KeyError> {
    let failed = |_| KeyProblem::NoRandom.at("new RSA key");
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
    Ok(RsaPair {
        private_pem: pem::encode("PRIVATE KEY", private.as_ref()),
        public_pem: pem::encode("PUBLIC KEY", public.as_ref()),
    })
}

/// A user token (RS256) that ends at `exp_unix_s`. The key is PEM, `PRIVATE KEY` (PKCS#8) or `RSA PRIVATE KEY`
/// (PKCS#1), of 2048 to 8192 bits; errors call it by `origin`.
///
/// There is no `iat`: gusher v1 refuses one in the future, and two machines never quite agree on the time.
pub fn sign(private_pem: &[u8], origin: &str, claims: &GusherClaims, exp_unix_s: u64) -> Result<String, KeyError> {
    #[derive(Serialize)]
    struct Payload<'a> {
        gusher: &'a GusherClaims,
        exp: u64,
    }
    let key = private_key(private_pem).map_err(|problem| problem.at(origin))?;
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &Payload { gusher: claims, exp: exp_unix_s }, &key)
        .map_err(|_| KeyProblem::RsaSize.at(origin))
}

fn private_key(file: &[u8]) -> Result<EncodingKey, KeyProblem> {
    let blocks = pem::blocks(file)?;
    let [block] = &blocks[..] else { return Err(KeyProblem::Several) };
    match block.label {
        "PRIVATE KEY" => {}
        "RSA PRIVATE KEY" if file.windows(9).any(|text| text == b"ENCRYPTED") => return Err(KeyProblem::Encrypted),
        "RSA PRIVATE KEY" => {}
        "ENCRYPTED PRIVATE KEY" => return Err(KeyProblem::Encrypted),
        "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE" => return Err(KeyProblem::PublicGiven),
        _ => return Err(KeyProblem::NotRsa),
    }
    block.der()?;
    EncodingKey::from_rsa_pem(file).map_err(|_| KeyProblem::NotRsa)
}

#[cfg(test)]
mod tests {
    use super::super::jwt::ClockPolicy;
    use super::super::jwt::tests::{PAIR, keys};
    use super::*;

    #[test]
    fn what_it_signs_verifies() {
        let claims = GusherClaims {
            channels: Some(vec!["AA".into(), "app*".into()]),
            user_id: "u1".into(),
            app_key: "T".into(),
            remotes: Some([("chat".into(), true)].into()),
        };
        let pkcs8 = pem::blocks(PAIR.private_pem.as_bytes()).unwrap()[0].der().unwrap();
        let pkcs1 = pem::encode("RSA PRIVATE KEY", &pkcs8[26..]);
        for private in [&PAIR.private_pem, &pkcs1] {
            let token = sign(private.as_bytes(), "key", &claims, 100).unwrap();
            let verified = keys(&[&PAIR]).verify(&token, 99, ClockPolicy::RefuseFutureIat).unwrap();
            assert_eq!(verified.get().exp_unix_s(), Some(100));
            assert_eq!(verified.into_inner().gusher, Some(claims.clone()));
        }
    }

    #[test]
    fn wrong_keys() {
        let check = |file: &str, problem: KeyProblem| {
            assert_eq!(sign(file.as_bytes(), "key.pem", &GusherClaims::default(), 1), Err(problem.at("key.pem")));
        };
        let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        check("", KeyProblem::NoPem);
        check(&PAIR.public_pem, KeyProblem::PublicGiven);
        check(&(PAIR.private_pem.clone() + &PAIR.private_pem), KeyProblem::Several);
        check(&block("ENCRYPTED PRIVATE KEY", "AAAA"), KeyProblem::Encrypted);
        check(&block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nAAAA"), KeyProblem::Encrypted);
        check(&block("EC PRIVATE KEY", "AAAA"), KeyProblem::NotRsa);
        check(&block("PRIVATE KEY", "!"), KeyProblem::Damaged);
        check(&block("PRIVATE KEY", "AAAA"), KeyProblem::NotRsa);
        check(&block("RSA PRIVATE KEY", "MAMCAQA="), KeyProblem::RsaSize);
    }

    #[test]
    fn debug_hides_the_private_half() {
        let text = format!("{:?}", *PAIR);
        assert!(text.contains("BEGIN PUBLIC KEY") && !text.contains("PRIVATE"), "{text}");
    }
}
