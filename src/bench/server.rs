//! The server under measurement: this very program, started as a child with an app of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::credential::jwt::GusherClaims;
use crate::credential::keygen;

use super::process::{Process, check_interrupted};
use super::publisher::HttpConnection;

const START_TIMEOUT: Duration = Duration::from_secs(15);
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of the server's output an error shows, in lines.
const LOG_LINES_MAX: usize = 20;
/// Session tokens that are fetched for one measurement.
const SESSIONS_MAX: usize = 50;

/// What a run keeps for all servers that it starts: a directory with the public key, and users' tokens.
pub struct Bench {
    directory: PathBuf,
    /// A token of each user.
    tokens: Vec<String>,
}

impl Bench {
    /// Makes a key pair and signs a token for each of `users` users.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(users: usize) -> Result<Self> {
        let directory = env::temp_dir().join(format!("hydrant-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let mut bench = Self { directory, tokens: Vec::new() };

        let keys = keygen::generate_rsa()?;
        fs::write(bench.public_key_path(), &keys.public_pem)?;
        let expires = (SystemTime::now() + TOKEN_LIFETIME).duration_since(UNIX_EPOCH)?.as_secs();
        for user in 0..users {
            check_interrupted()?;
            let claims = GusherClaims {
                channels: Some(vec!["*".to_owned()]),
                user_id: format!("u{user}"),
                app_key: "bench".to_owned(),
                remotes: None,
            };
            let token = keygen::sign(keys.private_pem.as_bytes(), "the key of this run", &claims, expires)?;
            bench.tokens.push(token);
        }
        Ok(bench)
    }

    /// Request targets of a WebSocket handshake with each user's own token.
    pub fn request_targets(&self) -> Vec<String> {
        self.tokens.iter().map(|token| request_target(token)).collect()
    }

    /// Request targets of a handshake with session tokens, as clients get them for their own: good for a minute.
    ///
    /// # Errors
    /// When the server does not hand them out.
    pub fn session_request_targets(&self, server: &Server) -> Result<Vec<String>> {
        let mut connection = HttpConnection::connect(server.public)?;
        let session = |token: &String| {
            let request = format!("POST /gcs/auth?jwt={token} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            let status = connection.exchange(request.as_bytes())?;
            let answer: HashMap<String, String> = serde_json::from_slice(connection.body())
                .with_context(|| format!("a session token, but the status is {status}"))?;
            Ok(request_target(answer.get("token").context("a session token")?))
        };
        self.tokens.iter().take(SESSIONS_MAX).map(session).collect()
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

fn request_target(token: &str) -> String {
    format!("/gcs/ws/bench?token={token}")
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
    use crate::credential::jwt::{ClockPolicy, PublicKeys};

    #[test]
    fn tokens_are_signed_with_the_key_beside_them() {
        let bench = Bench::new(2).unwrap();
        let keys = PublicKeys::from_pems(&[(&fs::read(bench.public_key_path()).unwrap(), "bench")]).unwrap();
        let claims = keys.verify(&bench.tokens[1], 0, ClockPolicy::RefuseFutureIat).unwrap();
        assert_eq!(claims.get().gusher.as_ref().unwrap().user_id, "u1");

        let directory = bench.directory.clone();
        drop(bench);
        assert!(!directory.exists());
    }
}
