//! The built program as its users meet it: run to its end, or kept running as a server.
#![allow(dead_code, reason = "each test takes the part it needs")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program of this build.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_hydrant");

/// Becomes the command; a watcher beside it kills it when the test is gone: when its end of the pipe is closed without a
/// word. A word says that the command has ended, so that its number may be another's by now.
const KEEP: &str = r#"exec 3<&0 </dev/null
{ read -r _ <&3 || kill -KILL $$; } >/dev/null 2>&1 &
exec "$@" 3<&-"#;

/// A command without this process's settings for the program, and without a proxy in its way.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        if text.starts_with("HYDRANT_") || text.starts_with("GUSHER_") || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command
}

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program with these words to its end.
pub(crate) fn hydrant(words: &[&str]) -> Ended {
    run(command(PROGRAM).args(words))
}

/// Runs a command to its end, which must come within [`PATIENCE`].
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut running = Running::start(command);
    let code = running.wait().code();
    Ended { code, stdout: running.stdout.all(), stderr: running.stderr.all() }
}

/// A command that runs; it ends with this value, and at the latest with the test.
pub(crate) struct Running {
    child: Child,
    lifeline: Option<ChildStdin>,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut kept = Command::new("sh");
        kept.args(["-c", KEEP, "sh"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => kept.env(name, value),
                None => kept.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            kept.current_dir(directory);
        }
        kept.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kept.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let lifeline = child.stdin.take();
        let stdout = Lines::of(child.stdout.take().expect("it is piped"));
        let stderr = Lines::of(child.stderr.take().expect("it is piped"));
        Self { child, lifeline, stdout, stderr }
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill");
        assert!(sent.success(), "kill -{name} {id}: {sent}");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                if let Some(mut lifeline) = self.lifeline.take() {
                    let _ = lifeline.write_all(b"ended\n");
                }
                return status;
            }
            let said = || format!("{}\n{}", self.stdout.seen.join("\n"), self.stderr.seen.join("\n"));
            assert!(Instant::now() < deadline, "still running after {PATIENCE:?}\n{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end, and gives what it said.
    pub(crate) fn stop(mut self) -> Ended {
        self.signal("TERM");
        let code = self.wait().code();
        Ended { code, stdout: self.stdout.all(), stderr: self.stderr.all() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.child.wait();
    }
}

/// The lines that a program writes, as they come.
pub(crate) struct Lines {
    pub(crate) seen: Vec<String>,
    more: Receiver<String>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, more) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { seen: Vec::new(), more }
    }

    /// Waits for the next line; `None` once the stream has ended.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<Option<String>, RecvTimeoutError> {
        match self.more.recv_timeout(patience) {
            Ok(line) => {
                self.seen.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(late) => Err(late),
        }
    }

    /// Waits for the next line that has `part` in it.
    pub(crate) fn until(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(line)) if line.contains(part) => return line,
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without {part:?}:\n{}", self.seen.join("\n")),
                Err(_) => panic!("no {part:?} within {PATIENCE:?}:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Everything, once the stream has ended.
    pub(crate) fn all(&mut self) -> String {
        self.seen.extend(self.more.iter());
        self.seen.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// `hydrant serve` that listens.
pub(crate) struct Server {
    pub(crate) running: Running,
    /// Addresses by the words of their doors.
    listening: Vec<(String, SocketAddr)>,
}

impl Server {
    /// Starts the program with these words, `serve` among them, and waits for `listeners` listeners.
    pub(crate) fn start(command: &mut Command, listeners: usize) -> Self {
        let mut running = Running::start(command);
        let listening = (0..listeners)
            .map(|_| {
                let line = running.stderr.until(" listening ");
                let value = |key: &str| {
                    let rest = line.split_once(&format!(" {key}=")).expect("a field of the log").1;
                    let (rest, end) = rest.strip_prefix('"').map_or((rest, ' '), |rest| (rest, '"'));
                    rest.split(end).next().unwrap_or(rest).to_owned()
                };
                (value("doors"), value("address").parse().expect("a TCP address"))
            })
            .collect();
        Self { running, listening }
    }

    pub(crate) fn address(&self, door: &str) -> SocketAddr {
        let found = self.listening.iter().find(|(doors, _)| doors.split(", ").any(|name| name == door));
        found.unwrap_or_else(|| panic!("no listener for {door} among {:?}", self.listening)).1
    }
}

/// What `hydrant dev` prints.
pub(crate) struct Dev {
    pub(crate) running: Running,
    pub(crate) text: String,
}

impl Dev {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut running = Running::start(command);
        running.stdout.until(" publish --url ");
        let text = running.stdout.seen.join("\n");
        Self { running, text }
    }

    /// With these words after `dev`, and every listener on a port that the kernel chooses.
    pub(crate) fn anywhere(words: &[&str]) -> Self {
        let listeners = ["--public", "127.0.0.1:0", "--trusted", "127.0.0.1:0", "--ops", "127.0.0.1:0"];
        Self::start(command(PROGRAM).arg("dev").args(listeners).args(words))
    }

    /// The first printed line that begins so.
    pub(crate) fn line(&self, start: &str) -> &str {
        let found = self.text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{}", self.text))
    }

    /// Such as `id`, `key`, `secret` of the app.
    pub(crate) fn app(&self, what: &str) -> &str {
        self.line(&format!("  app {what} ")).split_whitespace().next_back().expect("a value")
    }

    /// Where the listener is whose door has this word.
    pub(crate) fn address(&self, door: &str) -> SocketAddr {
        let serves = |line: &&str| {
            let doors = line.rsplit_once('(').and_then(|(_, doors)| doors.strip_suffix(')'));
            line.starts_with("  http") && doors.is_some_and(|doors| doors.split(", ").any(|name| name == door))
        };
        let line = self.text.lines().find(serves);
        let line = line.unwrap_or_else(|| panic!("no listener for {door}:\n{}", self.text));
        let (_, rest) = line.split_once("://").expect("a URL");
        rest.split(' ').next().unwrap_or(rest).parse().expect("an address")
    }
}

/// One HTTP request; status and body. `head` is the request line without its version, then header lines.
pub(crate) fn http(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let length = body.len();
    let mut text = format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for header in headers.lines() {
        text += &format!("{header}\r\n");
    }
    text += &format!("\r\n{body}");
    stream.write_all(text.as_bytes()).expect("a server that reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a server that answers");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status"), body.expect("a body"))
}

/// A POST of a form.
pub(crate) fn post(address: SocketAddr, path: &str, form: &str) -> (u16, String) {
    http(address, &format!("POST {path}\nContent-Type: application/x-www-form-urlencoded"), form)
}

/// A pair of PEM files in `folder`, made by OpenSSL as most users' are: paths of the private and the public half.
pub(crate) fn openssl_pair(folder: &Path) -> (PathBuf, PathBuf) {
    let (private, public) = (folder.join("private.pem"), folder.join("public.pem"));
    let openssl = |command: &mut Command| {
        let ended = run(command);
        assert_eq!(ended.code, Some(0), "openssl (`apt-get install openssl`): {}", ended.stderr);
    };
    openssl(Command::new("openssl").args(["genrsa", "-out"]).arg(&private).arg("2048"));
    openssl(Command::new("openssl").args(["rsa", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public));
    (private, public)
}
