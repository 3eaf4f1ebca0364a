//! The server under measurement: this very program, started as a child with an app of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::process::{Process, check_interrupted};
use super::publisher::HttpConnection;

const START_TIMEOUT: Duration = Duration::from_secs(15);
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of the server's output an error shows, in lines.
const LOG_LINES_MAX: usize = 20;

/// What a run keeps for all servers that it starts: a directory with the public key, and users' tokens.
pub struct Bench {
    directory: PathBuf,
    /// Request targets of a WebSocket handshake, one for each user.
    pub request_targets: Vec<String>,
}

impl Bench {
    /// Makes a key pair and signs a token for each of `users` users.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(users: usize) -> Result<Self> {
        let directory = env::temp_dir().join(format!("hydrant-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let mut bench = Self { directory, request_targets: Vec::new() };

        let keys = KeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow!("no RSA key could be made"))?;
        let public: PublicKeyX509Der<'_> = keys.public_key().as_der().map_err(|_| anyhow!("public key as DER"))?;
        fs::write(bench.public_key_path(), pem("PUBLIC KEY", public.as_ref()))?;

        let private: Pkcs8V1Der<'_> = keys.as_der().map_err(|_| anyhow!("private key as DER"))?;
        let signing_key = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes())?;
        let expires = (SystemTime::now() + TOKEN_LIFETIME).duration_since(UNIX_EPOCH)?.as_secs();
        for user in 0..users {
            check_interrupted()?;
            let gusher = json!({"user_id": format!("u{user}"), "app_key": "bench", "channels": ["*"], "remotes": {}});
            let claims = json!({"gusher": gusher, "exp": expires});
            let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &signing_key)?;
            bench.request_targets.push(format!("/gcs/ws/bench?token={token}"));
        }
        Ok(bench)
    }

    fn public_key_path(&self) -> PathBuf {
        self.directory.join("public.pem")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A left-over directory is harmless; there is no one to tell.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A running server.
pub struct Server {
    /// The child.
    pub process: Process,
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where events are published.
    pub trusted: SocketAddr,
}

/// Starts this program as a server, and returns when it is ready.
///
/// # Errors
/// When it ends instead, or is not ready in time; with the last lines of its output.
pub fn start(bench: &Bench) -> Result<Server> {
    let [public, trusted, ops] = free_addresses()?;
    let log_path = bench.directory.join("server.log");
    let log = File::create(&log_path)?;
    let mut process = Process::spawn(
        Command::new(env::current_exe()?)
            .arg("dev")
            .args(["--public", &public.to_string()])
            .args(["--trusted", &trusted.to_string()])
            .args(["--ops", &ops.to_string()])
            .args(["--app", "1:bench:secret"])
            .arg("--gusher-public-key")
            .arg(bench.public_key_path())
            .current_dir(&bench.directory) // no configuration file that happens to lie here
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )?;
    wait_until_ready(&mut process, ops).with_context(|| {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("the server's last words:\n{}", lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n"))
    })?;
    Ok(Server { process, public, trusted })
}

/// Three addresses on loopback that nobody listened on a moment ago.
fn free_addresses() -> Result<[SocketAddr; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [listen()?, listen()?, listen()?];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?, listeners[2].local_addr()?])
}

fn wait_until_ready(process: &mut Process, ops: SocketAddr) -> Result<()> {
    let began = Instant::now();
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {ops}\r\n\r\n");
    loop {
        check_interrupted()?;
        if process.has_ended()? {
            bail!("the server ended while starting");
        }
        match HttpConnection::connect(ops).and_then(|mut connection| connection.exchange(request.as_bytes())) {
            Ok(200) => return Ok(()),
            not_ready => ensure!(began.elapsed() < START_TIMEOUT, "not ready after {START_TIMEOUT:?}: {not_ready:?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    #[test]
    fn tokens_are_signed_with_the_key_beside_them() {
        let bench = Bench::new(2).unwrap();
        let key = DecodingKey::from_rsa_pem(&fs::read(bench.public_key_path()).unwrap()).unwrap();
        let token = bench.request_targets[1].split_once("token=").unwrap().1;
        let claims =
            jsonwebtoken::decode::<serde_json::Value>(token, &key, &Validation::new(Algorithm::RS256)).unwrap().claims;
        assert_eq!(claims["gusher"]["user_id"], "u1");
        assert_eq!(claims["gusher"]["channels"], json!(["*"]));

        let directory = bench.directory.clone();
        drop(bench);
        assert!(!directory.exists());
    }
}
