//! Servers for transcripts: the built binary as a child process with a configuration and ports of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{self, PATIENCE};
use crate::token;

/// Where a transcript's listeners are.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) trusted: SocketAddr,
    pub(crate) ops: SocketAddr,
}

/// What a server is started with beyond its listeners.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// Dotted configuration key and TOML value. Without any, every app key is open to tokens of the key `test`.
    pub(crate) values: BTreeMap<String, String>,
    /// Configured apps: key, and the name of the public key that the app has of its own.
    pub(crate) apps: Vec<(String, Option<String>)>,
    /// Further listeners, each as its lines of TOML. `{directory}` is the server's own.
    pub(crate) listeners: Vec<String>,
}

impl Settings {
    /// Writes `hydrant.toml` and the public keys that it names into `directory`.
    fn write(&self, directory: &Path, addresses: &Addresses) -> Result<(), String> {
        let pem = |name: &str| directory.join(format!("{name}.pem"));
        for name in ["test", "other"] {
            write(&pem(name), &token::public_pem(name)?)?;
        }
        let mut values = BTreeMap::from([
            ("gusher.open_apps".to_owned(), "true".to_owned()),
            ("gusher.public_keys".to_owned(), format!("[{:?}]", pem("test"))),
        ]);
        values.extend(self.values.clone());
        let mut toml = String::new();
        for (key, value) in values {
            toml += &format!("{key} = {value}\n");
        }
        for (address, door, trusted) in [
            (addresses.public, "gusher", false),
            (addresses.trusted, "gusher-master", true),
            (addresses.ops, "ops", true),
        ] {
            toml += &format!("[[listen]]\naddress = \"{address}\"\ndoors = [\"{door}\"]\n");
            if trusted {
                toml += "trusted = true\n";
            }
        }
        for listener in &self.listeners {
            let listener = listener.replace("{directory}", &directory.display().to_string());
            toml += &format!("[[listen]]\n{listener}\n");
        }
        for (app, key) in &self.apps {
            toml += &format!("[[apps]]\nid = \"{app}\"\nkey = \"{app}\"\nsecret = \"only-for-these-transcripts\"\n");
            if let Some(key) = key {
                toml += &format!("gusher_public_keys = [{:?}]\n", pem(key));
            }
        }
        write(&directory.join("hydrant.toml"), &toml)
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Becomes the server; a watcher beside it kills it and removes its directory once the pipe from the test process is
/// closed, so that no server outlives its tests, however they end.
const BECOME_SERVER: &str = r#"exec 3<&0 </dev/null
{ read -r _ <&3; kill -KILL $$; rm -rf "$2"; } &
exec "$1" serve --config "$2/hydrant.toml" 3<&-"#;

/// A running server. It dies with this value, and at the latest with the test process.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    directory: PathBuf,
    child: Child,
    lifeline: Option<ChildStdin>,
}

impl Server {
    /// Starts the binary of this build, or the one that `HYDRANT_BIN` names, and waits until it is ready.
    pub(crate) fn start(settings: &Settings) -> Result<Self, String> {
        let binary = std::env::var_os("HYDRANT_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_hydrant").into());
        // Between choosing a port and the server's binding it, somebody else may take it.
        Self::start_once(&binary, settings).or_else(|_| Self::start_once(&binary, settings))
    }

    fn start_once(binary: &OsString, settings: &Settings) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|e| format!("temporary directory: {e}"))?.keep();
        let [public, trusted, ops] = free_addresses()?;
        let addresses = Addresses { public, trusted, ops };
        settings.write(&directory, &addresses)?;
        let log = File::create(directory.join("log")).map_err(|e| format!("log file: {e}"))?;
        let mut child = Command::new("sh")
            .args(["-c", BECOME_SERVER, "sh"])
            .args([binary, directory.as_os_str()])
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(|e| format!("log file: {e}"))?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("start {}: {e}", binary.display()))?;
        let lifeline = child.stdin.take();
        let mut server = Self { addresses, directory, child, lifeline };
        match server.wait_until_ready() {
            Ok(()) => Ok(server),
            Err(reason) => Err(format!("the server did not start: {reason}\n{}", server.log())),
        }
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http::request(self.addresses.ops, "GET", "/readyz", &[], b"").map(|response| response.status);
            if answer == Ok(200) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended, {status}"));
            }
            if Instant::now() > deadline {
                return Err(format!("/readyz still answers {answer:?}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last lines that the server wrote.
    pub(crate) fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn whole_log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// True addresses of [`Settings::listeners`], as the server logged them.
    pub(crate) fn listening(&self) -> Vec<String> {
        let log = self.whole_log();
        let lines = log.lines().filter(|line| line.contains(" listening ")).skip(3);
        lines.filter_map(|line| Some(line.split_once("address=")?.1.split(' ').next()?.to_owned())).collect()
    }

    /// Its directory: configuration, keys, log.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Sends the server a signal, such as `TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{signal}");
    }

    /// Waits for the server to end; its exit code, none if a signal killed it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.code(),
                _ if Instant::now() > deadline => panic!("the server still runs\n{}", self.log()),
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.child.wait();
    }
}

/// The server of all transcripts that need no settings; it lives as long as the test process.
pub(crate) fn shared() -> Result<&'static Server, String> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&Settings::default())).as_ref().map_err(Clone::clone)
}

/// Loopback addresses with three different ports that nobody listens on.
fn free_addresses() -> Result<[SocketAddr; 3], String> {
    let bind = || TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"));
    let listeners = [bind()?, bind()?, bind()?];
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); 3];
    for (address, listener) in addresses.iter_mut().zip(&listeners) {
        *address = listener.local_addr().map_err(|e| e.to_string())?;
    }
    Ok(addresses)
}

#[test]
fn configuration_is_toml() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        values: BTreeMap::from([("limits.ping_interval_ms".to_owned(), "300".to_owned())]),
        apps: vec![("shop".to_owned(), Some("other".to_owned()))],
        listeners: vec!["address = \"unix:{directory}/socket\"\ndoors = [\"ops\"]".to_owned()],
    };
    let [public, trusted, ops] = free_addresses().unwrap();
    settings.write(directory.path(), &Addresses { public, trusted, ops }).unwrap();
    let config: toml::Table = fs::read_to_string(directory.path().join("hydrant.toml")).unwrap().parse().unwrap();
    assert_eq!(config["limits"]["ping_interval_ms"].as_integer(), Some(300));
    assert_eq!(config["gusher"]["open_apps"].as_bool(), Some(true));
    assert_eq!(config["listen"][1]["doors"][0].as_str(), Some("gusher-master"));
    assert_eq!(config["apps"][0]["key"].as_str(), Some("shop"));
    let socket = format!("unix:{}/socket", directory.path().display());
    assert_eq!(config["listen"][3]["address"].as_str(), Some(&*socket));
    let key = config["apps"][0]["gusher_public_keys"][0].as_str().unwrap();
    assert_eq!(fs::read_to_string(key).unwrap(), token::public_pem("other").unwrap());
}
