//! The server under measurement: this very program, started as a child with an app of its own, or one that is there.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::credential::keygen;

use super::Transport;
use super::http::HttpConnection;
use super::process::{Process, Watched, check_interrupted};
use super::target::{App, Credentials, Endpoint, Kind, Site};

const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of the server's output an error shows, in lines.
const LOG_LINES_MAX: usize = 20;
/// More than any scenario has.
const PRESENCE_MEMBERS_MAX: usize = 100_000;

/// What is under measurement.
pub struct Subject {
    /// Where it is, and how to speak to it.
    pub site: Arc<Site>,
    /// Its processes, where they are known.
    pub watched: Watched,
    /// A floor's standard input: the fan-out's frames. The floor ends with it.
    pub commands: Option<ChildStdin>,
    /// Where its metrics are, if it is one of ours.
    pub ops: Option<SocketAddr>,
    /// Held while it is needed: ends with this value.
    pub child: Option<Process>,
}

/// What a run keeps for all servers that it starts: a directory with keys and settings, and users' tokens.
pub struct OwnServer {
    directory: PathBuf,
    credentials: Credentials,
    set: Vec<String>,
    transport: Transport,
}

impl OwnServer {
    /// Makes what servers and their clients need. `set`: settings for the server, `KEY=VALUE`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(kind: Kind, users: usize, set: Vec<String>, transport: Transport) -> Result<Self> {
        let directory = env::temp_dir().join(format!("hydrant-bench-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        // from here on the directory goes with this value, whatever happens
        let blank = Credentials::new(Kind::Pusher, app(None), 0)?;
        let mut own = Self { directory, credentials: blank, set, transport };
        let keys = keygen::generate_rsa()?;
        fs::write(own.directory.join("public.pem"), &keys.public_pem)?;
        let private = own.directory.join("private.pem");
        fs::write(&private, &keys.private_pem)?;
        own.credentials = Credentials::new(kind, app(Some(private)), users)?;
        Ok(own)
    }

    /// The app's.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Starts this program as a server, and returns when it is ready.
    ///
    /// # Errors
    /// When it ends instead, or is not ready in time; with the last lines of its output.
    pub fn start(&self) -> Result<Subject> {
        let [public, trusted, ops] = free_addresses()?;
        let Transport { is_tls, is_deflate } = self.transport;
        let settings = format!(
            "[[listen]]\naddress = \"{public}\"\ndoors = [\"pusher\", \"push1st-socket\", \"gusher\"]\n\
             tls_self_signed = {is_tls}\npermessage_deflate = {is_deflate}\n\n\
             [[listen]]\naddress = \"{trusted}\"\ndoors = [\"push1st\", \"gusher-master\"]\ntrusted = true\n\n\
             [[listen]]\naddress = \"{ops}\"\ndoors = [\"ops\"]\ntrusted = true\n\n\
             [[apps]]\nid = \"1\"\nkey = \"bench\"\nsecret = \"secret\"\ngusher_public_keys = [\"public.pem\"]\n\
             presence_members_max = {PRESENCE_MEMBERS_MAX}\n"
        );
        fs::write(self.directory.join("hydrant.toml"), settings)?;
        let log_path = self.directory.join("server.log");
        let log = File::create(&log_path)?;
        let mut process = Process::spawn(
            Command::new(env::current_exe()?)
                .args(["serve", "--config", "hydrant.toml"])
                .args(self.set.iter().flat_map(|set| ["--set", set]))
                .current_dir(&self.directory)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        wait_until_ready(&mut process, ops).with_context(|| {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("the server's last words:\n{}", lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n"))
        })?;
        let sockets = if is_tls { Endpoint::at(public).secure() } else { Endpoint::at(public) };
        let api = if self.credentials.kind() == Kind::Pusher { sockets.clone() } else { Endpoint::at(trusted) };
        let target = self.credentials.target(sockets.clone(), api.clone());
        Ok(Subject {
            site: Site::of(target, &sockets, &api, is_deflate),
            watched: Watched::new(vec![process.id()])?,
            commands: None,
            ops: Some(ops),
            child: Some(process),
        })
    }
}

/// The app of servers that are started here; what is in this file and on loopback needs no secret.
fn app(jwt_key: Option<PathBuf>) -> App {
    let text = |text: &str| Some(text.to_owned());
    App { id: text("1"), key: text("bench"), secret: text("secret"), jwt_key, jwt: None }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // A left-over directory is harmless; there is no one to tell.
        let _ = fs::remove_dir_all(&self.directory);
    }
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
        let status = HttpConnection::connect(ops).and_then(|mut connection| {
            connection.send(request.as_bytes())?;
            Ok(connection.answer()?.status)
        });
        match status {
            Ok(200) => return Ok(()),
            not_ready => ensure!(began.elapsed() < START_TIMEOUT, "not ready after {START_TIMEOUT:?}: {not_ready:?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::target::Subscription;
    use crate::credential::jwt::{ClockPolicy, PublicKeys};

    #[test]
    fn tokens_are_signed_with_the_key_beside_them() {
        let own = OwnServer::new(Kind::GusherV3, 2, Vec::new(), Transport::default()).unwrap();
        let pem = fs::read(own.directory.join("public.pem")).unwrap();
        let keys = PublicKeys::from_pems(&[(&pem, "bench")]).unwrap();
        let at = Endpoint::at(([127, 0, 0, 1], 1).into());
        let path = own.credentials.target(at.clone(), at).request_target(1, Subscription::None);
        let token = path.strip_prefix("/v1/apps/bench/ws?token=").unwrap();
        let claims = keys.verify(token, 0, ClockPolicy::RefuseFutureIat).unwrap();
        assert_eq!(claims.get().gusher.as_ref().unwrap().user_id, "u1");

        let directory = own.directory.clone();
        drop(own);
        assert!(!directory.exists());
    }
}
