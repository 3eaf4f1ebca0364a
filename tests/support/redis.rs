//! A real redis-server as a child process, on a port of its own.
#![allow(dead_code, reason = "each test takes the part it needs")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::port::ReservedPort;

const READY_MAX: Duration = Duration::from_secs(30);

/// Ends with the value.
pub(crate) struct RedisServer {
    child: Option<Child>,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    port: ReservedPort,
}

impl RedisServer {
    /// Starts a server that takes connections when this returns. `arguments` are added to its command line, as
    /// `--requirepass`, `secret`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Self { child: None, arguments, folder, port: ReservedPort::new() };
        server.start_again();
        server
    }

    /// Kills the server, as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Keeps it from doing anything; the kernel still takes connections and bytes for it.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Ends [`Self::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("a running server");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
        assert!(sent.success(), "kill {signal}: {sent}");
    }

    /// Starts it on the same port, empty.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let child = Command::new("redis-server")
            .args(["--port", &self.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server has to be installed (`apt-get install redis-server`)");
        let child = self.child.insert(child);
        let started = Instant::now();
        while !answers(self.port.number) {
            assert!(child.try_wait().expect("our own child").is_none(), "redis-server ended");
            assert!(started.elapsed() < READY_MAX, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    /// `redis://127.0.0.1:{port}`
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// Sends a command and gives the answer.
    pub(crate) fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let mut connection = client.get_connection().expect("a running server");
        let answer = command.query(&mut connection).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        // So that it is gone from the server's list of connections when this returns.
        let _: redis::RedisResult<()> = redis::cmd("QUIT").query(&mut connection);
        answer
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a server answers there; the connection is gone from its list when this returns.
fn answers(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(READY_MAX))?;
        stream.write_all(b"PING\r\nQUIT\r\n")?;
        stream.read_to_end(&mut Vec::new())
    };
    ask().is_ok_and(|answer_bytes| answer_bytes > 0)
}
