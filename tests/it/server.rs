//! Servers for transcripts: the built binary as a child process with a configuration and ports of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{self, PATIENCE};
use crate::token;

/// Where a transcript's listeners are.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) trusted: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
}

/// A configured app.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct App {
    /// What a transcript calls it.
    pub(crate) name: String,
    /// Its place among those whose id, key and secret are different texts; none if they are its name.
    pub(crate) number: Option<usize>,
    /// Name of the public key that it has of its own.
    pub(crate) gusher_key: Option<String>,
    /// Further keys and TOML values; without a value the key is left out.
    pub(crate) options: Vec<(String, String)>,
}

impl App {
    /// One whose id and key are its name.
    pub(crate) fn called(name: &str) -> Self {
        Self { name: name.to_owned(), number: None, gusher_key: None, options: Vec::new() }
    }

    /// One with an id, a key and a secret that cannot be taken for each other.
    pub(crate) fn numbered(name: &str, number: usize) -> Self {
        Self { number: Some(number), ..Self::called(name) }
    }

    /// Its `id`, `key` or `secret`.
    pub(crate) fn get(&self, what: &str) -> Option<String> {
        if let Some((_, value)) = self.options.iter().find(|(key, _)| key == what) {
            return Some(value.trim_matches('"').to_owned()).filter(|value| !value.is_empty());
        }
        Some(match (what, self.number) {
            ("id", Some(number)) => (7000 + number).to_string(),
            ("secret", None) => "only-for-these-transcripts".to_owned(),
            (_, None) => self.name.clone(),
            (what, Some(_)) => format!("{}-{what}", self.name),
        })
    }

    fn toml(&self, pem: impl Fn(&str) -> PathBuf) -> String {
        let mut toml = "[[apps]]\n".to_owned();
        for what in ["id", "key", "secret"] {
            if let Some(value) = self.get(what) {
                toml += &format!("{what} = \"{value}\"\n");
            }
        }
        if let Some(key) = &self.gusher_key {
            toml += &format!("gusher_public_keys = [{:?}]\n", pem(key));
        }
        for (key, value) in self.options.iter().filter(|(key, _)| !["id", "key", "secret"].contains(&&**key)) {
            toml += &format!("{key} = {value}\n");
        }
        toml
    }
}

/// What a server is started with beyond its listeners.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// Dotted configuration key and TOML value; a key of a listener begins with its name. Without any, every app key is
    /// open to tokens of the key `test`.
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) apps: Vec<App>,
    /// Further listeners, each as its lines of TOML. `{directory}` is the server's own.
    pub(crate) listeners: Vec<String>,
}

impl Settings {
    /// The configured app of that name.
    pub(crate) fn app(&self, name: &str) -> Result<&App, String> {
        self.apps.iter().find(|app| app.name == name).ok_or_else(|| format!("this server has no app {name}"))
    }

    /// Writes `hydrant.toml` and the public keys that it names into `directory`. The kernel chooses the ports.
    fn write(&self, directory: &Path) -> Result<(), String> {
        let pem = |name: &str| directory.join(format!("{name}.pem"));
        for name in ["test", "other"] {
            write(&pem(name), &token::public_pem(name)?)?;
        }
        let mut values = BTreeMap::from([
            ("gusher.open_apps".to_owned(), "true".to_owned()),
            ("gusher.public_keys".to_owned(), format!("[{:?}]", pem("test"))),
        ]);
        values.extend(self.values.clone());
        let mut listeners = String::new();
        for (name, doors, trusted) in [
            ("public", r#"["pusher", "push1st-socket", "gusher"]"#, false),
            ("trusted", r#"["push1st", "gusher-master"]"#, true),
            ("api", r#"["push1st"]"#, false),
            ("ops", r#"["ops"]"#, true),
        ] {
            listeners += &format!("[[listen]]\naddress = \"127.0.0.1:0\"\ndoors = {doors}\ntrusted = {trusted}\n");
            values.retain(|key, value| match key.split_once('.') {
                Some((of, key)) if of == name => {
                    listeners += &format!("{key} = {value}\n");
                    false
                }
                _ => true,
            });
        }
        let mut toml = String::new();
        for (key, value) in values {
            toml += &format!("{key} = {value}\n");
        }
        toml += &listeners;
        for listener in &self.listeners {
            let listener = listener.replace("{directory}", &directory.display().to_string());
            toml += &format!("[[listen]]\n{listener}\n");
        }
        for app in &self.apps {
            toml += &app.toml(pem);
        }
        // whoever watches the file sees all of it, or nothing
        write(&directory.join("new.toml"), &toml)?;
        fs::rename(directory.join("new.toml"), directory.join("hydrant.toml")).map_err(|e| e.to_string())
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
        let directory = tempfile::tempdir().map_err(|e| format!("temporary directory: {e}"))?.keep();
        settings.write(&directory)?;
        let log = File::create(directory.join("log")).map_err(|e| format!("log file: {e}"))?;
        let mut child = Command::new("sh")
            .args(["-c", BECOME_SERVER, "sh"])
            .arg(&binary)
            .arg(&directory)
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(|e| format!("log file: {e}"))?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("start {}: {e}", binary.display()))?;
        let lifeline = child.stdin.take();
        // until the log says where it listens
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let addresses = Addresses { public: nowhere, trusted: nowhere, api: nowhere, ops: nowhere };
        let mut server = Self { addresses, directory, child, lifeline };
        match server.wait_until_ready(settings) {
            Ok(()) => Ok(server),
            Err(reason) => Err(format!("the server did not start: {reason}\n{}", server.log())),
        }
    }

    fn wait_until_ready(&mut self, settings: &Settings) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.all_listening();
            if found.len() == 4 + settings.listeners.len() {
                let address = |index: usize| found[index].parse().map_err(|e| format!("{}: {e}", found[index]));
                let (public, trusted, api, ops) = (address(0)?, address(1)?, address(2)?, address(3)?);
                self.addresses = Addresses { public, trusted, api, ops };
                // a busy machine may keep a shard from answering for a while
                if http::request(ops, "GET", "/readyz", &[], b"")?.status == 200 {
                    return Ok(());
                }
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended, {status}"));
            }
            if Instant::now() > deadline {
                return Err(format!("it listens on {found:?}, and is not ready"));
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

    /// All lines that are complete.
    fn whole_log(&self) -> String {
        let mut log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// True addresses of [`Settings::listeners`].
    pub(crate) fn listening(&self) -> Vec<String> {
        self.all_listening().split_off(4)
    }

    /// True addresses of all listeners, as far as the log has them.
    fn all_listening(&self) -> Vec<String> {
        let log = self.whole_log();
        let lines = log.lines().filter(|line| line.contains(" listening ") && line.contains(" trusted="));
        lines.filter_map(|line| Some(line.split_once("address=")?.1.split(' ').next()?.to_owned())).collect()
    }

    /// Its directory: configuration, keys, log.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Changes its configuration, and waits until that is in force.
    pub(crate) fn reload(&self, settings: &Settings) -> Result<(), String> {
        // the file is read when it changes or when the signal comes, whichever is first; then nothing is new to the other
        let is_change = |line: &&str| line.contains("configuration reloaded") && !line.contains("changes=0");
        let reloads = || self.whole_log().lines().filter(is_change).count();
        let before = reloads();
        settings.write(&self.directory)?;
        self.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        while reloads() == before {
            if Instant::now() > deadline {
                return Err("the configuration is not reloaded".to_owned());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
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

/// How many apps the shared server has.
const POOL: usize = 400;

/// The server of all transcripts that need no settings; it lives as long as the test process.
pub(crate) fn shared() -> Result<&'static Server, String> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    let start = || {
        let apps = (1..=POOL).map(|number| App::numbered(&format!("app{number}"), number)).collect();
        Server::start(&Settings { apps, ..Settings::default() })
    };
    SERVER.get_or_init(start).as_ref().map_err(Clone::clone)
}

/// An app of the shared server that nobody has taken yet.
pub(crate) fn shared_app() -> Result<App, String> {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed) + 1;
    let app = App::numbered(&format!("app{number}"), number);
    (number <= POOL).then_some(app).ok_or_else(|| format!("more than {POOL} apps of the shared server"))
}

#[test]
fn configuration_is_toml() {
    let directory = tempfile::tempdir().unwrap();
    let option = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let settings = Settings {
        values: [("limits.ping_interval_ms", "300"), ("public.path_prefix", "\"/push\"")]
            .map(|(key, value)| option(key, value))
            .into(),
        apps: vec![
            App { gusher_key: Some("other".to_owned()), ..App::called("shop") },
            App { options: vec![option("id", "\"3\""), option("secret", "")], ..App::numbered("two", 2) },
            App { options: vec![option("hooks", "[{url=\"http://h/\"}]")], ..App::numbered("one", 1) },
        ],
        listeners: vec!["address = \"unix:{directory}/socket\"\ndoors = [\"ops\"]".to_owned()],
    };
    settings.write(directory.path()).unwrap();
    let config: toml::Table = fs::read_to_string(directory.path().join("hydrant.toml")).unwrap().parse().unwrap();
    assert_eq!(config["limits"]["ping_interval_ms"].as_integer(), Some(300));
    assert_eq!(config["gusher"]["open_apps"].as_bool(), Some(true));
    assert_eq!(config["listen"][0]["path_prefix"].as_str(), Some("/push"));
    assert_eq!(config["listen"][1]["doors"][1].as_str(), Some("gusher-master"));
    assert_eq!(config["listen"][3]["trusted"].as_bool(), Some(true));
    let socket = format!("unix:{}/socket", directory.path().display());
    assert_eq!(config["listen"][4]["address"].as_str(), Some(&*socket));
    assert_eq!(config["apps"][0]["key"].as_str(), Some("shop"));
    let key = config["apps"][0]["gusher_public_keys"][0].as_str().unwrap();
    assert_eq!(fs::read_to_string(key).unwrap(), token::public_pem("other").unwrap());
    assert_eq!((config["apps"][1]["id"].as_str(), config["apps"][1].get("secret")), (Some("3"), None));
    let one = &config["apps"][2];
    assert_eq!((one["id"].as_str(), one["key"].as_str()), (Some("7001"), Some("one-key")));
    assert_eq!(one["hooks"][0]["url"].as_str(), Some("http://h/"));
}
