//! What each mistake is answered with, which source wins, and that file, docs and code name the same keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::error::Findings;
use super::tree::{Node, SourceText, Value};
use super::*;

const EXAMPLE: &str = include_str!("../../hydrant.example.toml");
const DOCS: &str = include_str!("../../docs/configuration.md");
const PEM: &str = "-----BEGIN PUBLIC KEY-----\nQUJD\n-----END PUBLIC KEY-----\n";

/// A directory with files in it, that a configuration may name.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Files {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Files(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The outcome of loading `name`: its effective configuration, or its problems; without this directory's name.
    fn load(&self, name: &str) -> Result<String, String> {
        self.shown(&Sources { file: Some(self.path(name)), ..Sources::default() })
    }

    fn shown(&self, sources: &Sources) -> Result<String, String> {
        let directory = format!("{}/", self.0.path().display());
        let short = |text: String| text.replace(&directory, "");
        load(sources).map(|loaded| short(print_effective(&loaded))).map_err(|error| short(error.to_string()))
    }
}

/// The problems of a TOML file.
fn toml_error(text: &str) -> String {
    Files::new(&[("hydrant.toml", text)]).load("hydrant.toml").unwrap_err()
}

/// The problems of a YAML file.
fn yaml_error(text: &str) -> String {
    Files::new(&[("hydrant.yaml", text)]).load("hydrant.yaml").unwrap_err()
}

fn pairs(vars: &[(&str, &str)]) -> Vec<(String, String)> {
    vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// The line of an effective configuration that sets `key`.
fn line<'a>(effective: &'a str, key: &str) -> &'a str {
    let is_it = |line: &&str| line.starts_with(&format!("{key} = "));
    effective.lines().find(is_it).unwrap_or_else(|| panic!("no {key} in\n{effective}"))
}

fn effective(sources: &Sources) -> String {
    load(sources).map(|loaded| print_effective(&loaded)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn toml_problems_have_place_line_and_way_out() {
    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(toml_error(text), expected);
    }
    check(
        "[limits]\noutbox_bytes_max = \"many\"\n",
        "hydrant.toml:2:20 limits.outbox_bytes_max: expected a whole number, found the text \"many\"\n    \
         2 | outbox_bytes_max = \"many\"\n      \
           |                    ^^^^^^",
    );
    check(
        "[limits]\noutbox_byte_max = 1 # none\n",
        "hydrant.toml:2:1 limits.outbox_byte_max: no such key; did you mean `outbox_bytes_max`?\n    \
         2 | outbox_byte_max …\n      \
           | ^^^^^^^^^^^^^^^",
    );
    check(
        "[gusher]\noutbox_bytes_max = 1\n",
        "hydrant.toml:2:1 gusher.outbox_bytes_max: no such key; it belongs to `limits.outbox_bytes_max`\n    \
         2 | outbox_bytes_max …\n      \
           | ^^^^^^^^^^^^^^^^",
    );
    check(
        "[limits\n",
        "hydrant.toml:1:8: unclosed table, expected `]`\n    \
         1 | [limits\n      \
           |        ^",
    );
    check(
        "[limits]\npong_timeout_ms = 0\n",
        "hydrant.toml:2:19 limits.pong_timeout_ms: must be at least 1\n    \
         2 | pong_timeout_ms = 0\n      \
           |                   ^",
    );
    check(
        "[limits]\nheader_bytes_max = 4096\n",
        "hydrant.toml:2:20 limits.header_bytes_max: must be at least 8192\n    \
         2 | header_bytes_max = 4096\n      \
           |                    ^^^^",
    );
    check(
        "[[listen]]\naddress = \"localhost:6001\"\ndoors = [\"gusher\"]\n",
        "hydrant.toml:2:11 listen[0].address: use an IP address, e.g. 127.0.0.1:6001; `localhost` is a name\n    \
         2 | address = \"localhost:6001\"\n      \
           |           ^^^^^^^^^^^^^^^^",
    );
    check(
        "[[listen]]\naddress = \"0.0.0.0:1\"\ndoors = [\"gusher\", \"gushermaster\"]\n",
        "hydrant.toml:3:20 listen[0].doors: there is no door `gushermaster`; did you mean `gusher-master`?\n    \
         3 | doors = [\"gusher\", \"gushermaster\" …\n      \
           |                    ^^^^^^^^^^^^^^",
    );
    check(
        "[[listen]]\ndoors = [\"gusher\"]\n",
        "hydrant.toml:1:1 listen[0]: `address` is missing\n    \
         1 | [[listen]]\n      \
           | ^^^^^^^^^^",
    );
    check(
        "limits = 5\n",
        "hydrant.toml:1:10 limits: expected a section, as in [limits], found a number\n    \
         1 | limits = 5\n      \
           |          ^",
    );
    check(
        "[proxy]\ntrusted = [\"10.0.0.0/8\", \"10.0.0.0/33\", 7]\n",
        "hydrant.toml:2:26 proxy.trusted: expected an IP address or network, such as \"10.0.0.0/8\", found the text \
         \"10.0.0.0/33\"\n    \
         2 | trusted = [\"10.0.0.0/8\", \"10.0.0.0/33\" …\n      \
           |                          ^^^^^^^^^^^^^\n\
         hydrant.toml:2:41 proxy.trusted: expected an IP address or network, such as \"10.0.0.0/8\", in quotes, found \
         the whole number 7\n    \
         2 | trusted = [\"10.0.0.0/8\", \"10.0.0.0/33\", 7 …\n      \
           |                                         ^",
    );
}

#[test]
fn yaml_problems_have_place_line_and_way_out() {
    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(yaml_error(text), expected);
    }
    check(
        "limits:\n  outbox_bytes_max: many\n",
        "hydrant.yaml:2:21 limits.outbox_bytes_max: expected a whole number, found the text \"many\"\n    \
         2 |   outbox_bytes_max: many\n      \
           |                     ^^^^",
    );
    check(
        "limits:\n  outbox_byte_max: 1\n",
        "hydrant.yaml:2:3 limits.outbox_byte_max: no such key; did you mean `outbox_bytes_max`?\n    \
         2 |   outbox_byte_max …\n      \
           |   ^^^^^^^^^^^^^^^",
    );
    check(
        "listen:\n  - address: localhost:6001\n    doors: [gusher]\n  - doors: [gusher]\n",
        "hydrant.yaml:2:14 listen[0].address: use an IP address, e.g. 127.0.0.1:6001; `localhost` is a name\n    \
         2 |   - address: localhost:6001\n      \
           |              ^^^^^^^^^^^^^^\n\
         hydrant.yaml:4:5 listen[1]: `address` is missing\n    \
         4 |   - …\n      \
           |     ^",
    );
    check(
        "listen:\n  - {address: 127.0.0.1:1, doors: [gusher, ops]}\n",
        "hydrant.yaml:2:35 listen[0].doors: the door `ops` knows no credentials: whoever gets here may do everything. \
         If that is meant, set `trusted = true` on this listener, and keep it on loopback, a unix socket, or behind \
         `allow` or `token`\n    \
         2 |   - {address: 127.0.0.1:1, doors: [gusher, ops …\n      \
           |                                   ^^^^^^^^^^^^",
    );
    check(
        "limits:\n  a: [1,\n",
        "hydrant.yaml:2:6: unclosed bracket '['\n    \
         2 |   a: [1,\n      \
           |      ^",
    );
    check(
        "limits: {}\nlimits: {}\n",
        "hydrant.yaml:2:1: duplicate mapping key `limits` is not allowed here\n    \
         2 | limits: {}\n      \
           | ^",
    );
    check(
        "- 1\n",
        "hydrant.yaml:1:1: expected sections such as `limits:`, found a list\n    \
         1 | - 1\n      \
           | ^^^",
    );
}

#[test]
fn yaml_means_what_toml_means() {
    let toml = "[[listen]]\naddress = \"unix:h.sock\"\nunix_mode = \"0600\"\ndoors = [\"gusher\"]\n\
                [[apps]]\nid = \"1\"\nkey = \"no\"\n[log]\nlevel = \"off\"\n";
    let yaml = "listen:\n- address: unix:h.sock\n  unix_mode: 0600\n  doors: [gusher]\n\
                apps:\n- {id: 1, key: no}\nlog:\n  level: off\nlimits:\n";
    let files = Files::new(&[("hydrant.toml", toml), ("hydrant.yml", yaml), ("empty.yaml", "")]);
    let bare = |text: String| text.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>();
    let (toml, yaml) = (files.load("hydrant.toml").unwrap(), files.load("hydrant.yml").unwrap());
    assert_eq!(line(&yaml, "unix_mode"), "unix_mode = \"0600\"  # hydrant.yml:3");
    assert_eq!(bare(toml), bare(yaml));
    assert_eq!(files.load("empty.yaml").unwrap(), effective(&Sources::default()));
}

#[test]
fn all_problems_are_reported_at_once() {
    let files = Files::new(&[(
        "hydrant.toml",
        "[[listen]]\naddress = \"0.0.0.0:6002\"\ndoors = [\"gusher-master\"]\ntrusted = true\n\
         [limits]\nbody_bytes_max = -1\noutbox_bytes_max = 9000000000\n[gusher]\nopen_apps = true\n",
    )]);
    let sources = Sources {
        file: Some(files.path("hydrant.toml")),
        env: pairs(&[("HYDRANT_LOG__LEVL", "info"), ("HYDRANT_LIMITS__BATCH_EVENTS_MAX", "0")]),
        set: vec!["limits.connections_max=x".into()],
        overrides: Overrides { apps: vec!["only-id".into()], ..Overrides::default() },
        ..Sources::default()
    };
    assert_eq!(load(&sources).unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(
        files.shown(&sources).unwrap_err(),
        "hydrant.toml:2:11 listen[0].address: 0.0.0.0:6002 is trusted, but other machines reach it. Say who may: \
         `allow = [\"10.0.0.0/8\"]`, or a `token` that requests must bring; `allow = [\"0.0.0.0/0\", \"::/0\"]` opens \
         it to everybody on purpose\n    \
         2 | address = \"0.0.0.0:6002\"\n      \
           |           ^^^^^^^^^^^^^^\n\
         hydrant.toml:6:18 limits.body_bytes_max: expected a whole number from 0 up, found the whole number -1\n    \
         6 | body_bytes_max = -1\n      \
           |                  ^^\n\
         hydrant.toml:7:20 limits.outbox_bytes_max: one connection's outbox (9000000000) must fit into the node's \
         total (outbox_total_bytes_max, 268435456)\n    \
         7 | outbox_bytes_max = 9000000000\n      \
           |                    ^^^^^^^^^^\n\
         hydrant.toml:9:13 gusher.open_apps: every app that a verified token names is open, but nothing verifies \
         tokens: give `gusher.public_keys`\n    \
         9 | open_apps = true\n      \
           |             ^^^^\n\
         env HYDRANT_LOG__LEVL: no such setting; did you mean HYDRANT_LOG__LEVEL?\n\
         env HYDRANT_LIMITS__BATCH_EVENTS_MAX: must be at least 1\n\
         --set limits.connections_max: expected a whole number, found the text \"x\"\n\
         --app: expected ID:KEY:SECRET"
    );
}

#[test]
fn listener_rules() {
    /// The first lines of all problems of these listeners, without what they quote.
    #[track_caller]
    fn check(listeners: &str, expected: &[&str]) {
        let files = Files::new(&[("hydrant.toml", listeners)]);
        let problems = files.load("hydrant.toml").err().unwrap_or_default();
        let problems: Vec<_> = problems.lines().filter(|line| line.starts_with("hydrant.toml")).collect();
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}");
        }
    }
    let one = |rest: &str| format!("[[listen]]\n{rest}\n");
    check(&one("address = ':7777'\ndoors = ['gusher']"), &[]);
    let deflate = "address = ':7777'\ndoors = ['gusher']\n[limits]\ndeflate_bytes_min = 2\ndeflate_bytes_max = ";
    check(&one(&format!("{deflate}2")), &[]);
    check(
        &one(&format!("{deflate}1")),
        &["limits.deflate_bytes_min: from 2 to 1 bytes (deflate_bytes_max) is nothing"],
    );
    check(&one("address = ':7777'\ndoors = []"), &["listen[0].doors: a listener serves at least one door"]);
    check(&one("address = '127.0.0.1:1'\ndoors = ['ops']"), &["the door `ops` knows no credentials"]);
    check(&one("address = '127.0.0.1:1'\ndoors = ['gusher', 'gusher-master']"), &["the door `gusher-master`"]);
    check(&one("address = '127.0.0.1:1'\ndoors = ['gusher', 'gusher-master']\ntrusted = true"), &[]);
    check(&one("address = 'unix:/run/h.sock'\ndoors = ['ops']\ntrusted = true"), &[]);
    check(&one("address = '[::1]:1'\ndoors = ['ops']\ntrusted = true"), &[]);
    check(&one("address = '[::]:1'\ndoors = ['ops']\ntrusted = true"), &["[::]:1 is trusted, but other machines"]);
    check(&one("address = ':1'\ndoors = ['ops']\ntrusted = true\ntoken = 'x'"), &[]);
    check(&one("address = ':1'\ndoors = ['ops']\ntrusted = true\nallow = ['0.0.0.0/0']"), &[]);
    check(&one("address = ':1'\ndoors = ['gusher']\ntrusted = true"), &["0.0.0.0:1 is trusted, but other machines"]);
    check(&one("address = ':1'\ndoors = ['gusher', 'pusher', 'push1st-socket']"), &[]);
    check(&one("address = ':1'\ndoors = ['push1st', 'push1st-socket']"), &[]);
    check(
        &one("address = ':1'\ndoors = ['push1st', 'pusher']"),
        &["listen[0].doors: the doors `pusher` and `push1st` both answer under /apps/"],
    );
    check(&one("address = ':1'\ndoors = ['gusher']\nunix_mode = '0600'"), &["this is no unix socket"]);
    check(&one("address = 'unix:/x'\ndoors = ['gusher']\nunix_mode = '0900'"), &["expected permissions as octal"]);
    check(&one("address = 'unix:/x'\ndoors = ['gusher']\nallow = ['::1']"), &["a unix socket knows no IP addresses"]);
    check(
        &one("address = ':1'\ndoors = ['gusher']\npath_prefix = '/x/'"),
        &["listen[0].path_prefix: expected nothing"],
    );
    check(&one("address = ':1'\ndoors = ['gusher']\ntoken = 'a b'"), &["a token travels in a header"]);
    check(&one("address = ':1'\ndoors = ['gusher']\ntoken = ''"), &["listen[0].token: must not be empty"]);
    check(
        &one("address = ':1'\ndoors = ['gusher']\nhosts = ['http://a', '*', 'a.b']"),
        &["\"http://a\" is no host name"],
    );
    let with_tls = |keys: &str| one(&format!("address = ':1'\ndoors = ['gusher']\n{keys}"));
    check(&with_tls("tls_self_signed = true"), &[]);
    check(&with_tls("tls_certificate = 'none.pem'"), &["cannot read none.pem: no such file"]);
    check(&with_tls("tls_certificate = '.'"), &["it is a directory"]);
    check("listen = []", &["listen: the list is empty"]);
    let two = |address: &str| one(&format!("address = '{address}'\ndoors = ['gusher']")).repeat(2);
    check(&two("127.0.0.1:5"), &["listen[1].address: listen[0] has the same address (hydrant.toml:2)"]);
    check(&two("127.0.0.1:0"), &[]);
}

#[test]
fn certificates_and_keys() {
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n";
    #[track_caller]
    fn check(keys: &str, expected: &[&str]) {
        let encrypted = KEY.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nQUJD\n\
                   -----END RSA PRIVATE KEY-----\n";
        let listener = format!("[[listen]]\naddress = ':1'\ndoors = ['gusher']\n{keys}\n");
        let files = Files::new(&[
            ("hydrant.toml", &*listener),
            ("cert.pem", &CERTIFICATE.repeat(2)),
            ("key.pem", KEY),
            ("both.pem", &format!("{KEY}{CERTIFICATE}")),
            ("encrypted.pem", &encrypted),
            ("old.pem", old),
            ("empty.pem", ""),
            ("cut.pem", &CERTIFICATE[..40]),
        ]);
        let problems = files.load("hydrant.toml").err().unwrap_or_default();
        let problems: Vec<_> = problems.lines().filter(|line| line.starts_with("hydrant.toml")).collect();
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}");
        }
    }
    let pair = |certificate: &str, key: &str| format!("tls_certificate = '{certificate}'\ntls_key = '{key}'");
    check(&pair("cert.pem", "key.pem"), &[]);
    check(&pair("both.pem", "both.pem"), &[]);
    check(&pair("key.pem", "key.pem"), &["listen[0].tls_certificate: key.pem holds no certificate"]);
    check(&pair("empty.pem", "cert.pem"), &["empty.pem holds no certificate", "cert.pem holds no private key"]);
    check(&pair("cut.pem", "key.pem"), &["cut.pem is damaged, or cut off"]);
    check(&pair("cert.pem", "encrypted.pem"), &["listen[0].tls_key: the key in encrypted.pem is encrypted: decrypt"]);
    check(&pair("cert.pem", "old.pem"), &["the key in old.pem is encrypted"]);
    check("tls_certificate = 'cert.pem'", &["listen[0].tls_certificate: `tls_key` is missing"]);
    check("tls_key = 'key.pem'", &["listen[0].tls_key: `tls_certificate` is missing"]);
    let twice = format!("{}\ntls_self_signed = true", pair("cert.pem", "key.pem"));
    check(&twice, &["`tls_certificate` and `tls_self_signed` exclude each other"]);
    for tls in ["tls_self_signed = true", &pair("cert.pem", "key.pem")] {
        let listener = format!("[[listen]]\naddress = 'unix:/x'\ndoors = ['gusher']\n{tls}\n");
        let files = Files::new(&[("hydrant.toml", &*listener), ("cert.pem", CERTIFICATE), ("key.pem", KEY)]);
        assert!(files.load("hydrant.toml").unwrap_err().contains("listen[0].address: a unix socket speaks no TLS"));
    }
    // both are watched, and another content is another value, of which nothing is shown
    let listener =
        "[[listen]]\naddress = ':1'\ndoors = ['gusher']\ntls_certificate = 'cert.pem'\ntls_key = 'key.pem'\n";
    let files = Files::new(&[("hydrant.toml", listener), ("cert.pem", CERTIFICATE), ("key.pem", KEY)]);
    let load = || load(&Sources { file: Some(files.path("hydrant.toml")), ..Sources::default() }).unwrap();
    let before = load();
    assert_eq!(before.files, ["cert.pem", "hydrant.toml", "key.pem"].map(|name| files.path(name)));
    std::fs::write(files.path("key.pem"), KEY.replace("QUJD", "REVG")).unwrap();
    let changes = difference(&before, &load()).changes;
    assert_eq!(changes.iter().map(Change::to_string).collect::<Vec<_>>(), ["listen[0].tls_key changed"]);
    assert!(!changes[0].needs_restart);
    let shown = format!("{:?}", before.config.listen[0].tls_key);
    assert_eq!(shown, format!("Some(PrivateKey({:?}))", files.path("key.pem")));
    // from none to one is another matter
    std::fs::write(files.path("hydrant.toml"), "[[listen]]\naddress = ':1'\ndoors = ['gusher']\n").unwrap();
    assert!(difference(&load(), &before).changes.iter().all(|change| change.needs_restart));
}

#[test]
fn gusher_rules() {
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let files = Files::new(&[("hydrant.toml", text), ("a.pem", PEM)]);
        let problem = files.load("hydrant.toml").err().unwrap_or_else(|| "none".into());
        assert!(problem.contains(expected), "{problem}");
    }
    check("gusher = {client_prefix = '/a/', master_prefix = '/a/'}", "none");
    check(
        "gusher = {client_prefix = '/a/', master_prefix = '/a/'}\n[[listen]]\naddress = '127.0.0.1:1'\n\
         doors = ['gusher', 'gusher-master']\ntrusted = true",
        "gusher.master_prefix: it is also `client_prefix`, and listen[0] serves both doors",
    );
    check("gusher.client_prefix = '/'", "none");
    check("gusher.client_prefix = '/a'", "gusher.client_prefix: expected a path that begins and ends with /");
    check("gusher.client_prefix = '/a//'", "expected a path that begins and ends with /");
    check("gusher.master_prefix = '/v1/'", "gusher.master_prefix: /v1/ is taken");
    check("gusher.open_apps = true", "nothing verifies tokens");
    check("gusher = {open_apps = true, public_keys = ['a.pem']}", "none");
    check("gusher.public_keys = ['b.pem']", " gusher.public_keys: cannot read b.pem: no such file");
    check("gusher.public_keys = ['hydrant.toml']", "hydrant.toml holds no PEM text");
    check("gusher.remote = {redis = 'redis://h', url = 'http://h'}", "`redis` and `url` exclude each other");
    check("gusher.remote = {redis = 'http://h'}", "gusher.remote.redis: expected redis://HOST:PORT/DB");
    check("gusher.remote = {redis = 'unix:///run/redis.sock'}", "none");
    check("gusher.remote = {url = 'redis://h'}", "gusher.remote.url: expected http://HOST:PORT/PATH");
    check("gusher.remote = {url = 'https://h:1/{app}?r={remote}'}", "none");
    check("gusher.remote = {url = 'https://{app}.h/'}", "must not choose a host");
    check("gusher.remote = {url = 'https://h/{user}'}", "the names in braces are {app} and {remote}");
    check("gusher.remote = {timeout_ms = 5}", "gusher.remote.timeout_ms: `redis` or `url` is missing");
    check("gusher = {session_secret = 'x', session_secret_file = 'y'}", "exclude each other: keep one of them");
    check("log.level = 'inof'", "log.level: there is no level `inof`; did you mean `info`?");
    check("log.level = 'warn,hydrant=debug'", "none");
    check("log.level = 'hydrant=loud'", "log.level: this is no log filter");
    check("log.format = 'xml'", "there is no log format `xml`; use one of text, json");
}

#[test]
fn app_rules() {
    #[track_caller]
    fn check(apps: &str, expected: &str) {
        let problem = toml_error(apps);
        assert!(problem.contains(expected), "{problem}");
    }
    let app = |id: &str, key: &str| format!("[[apps]]\nid = {id:?}\nkey = {key:?}\n");
    check(&app("a b", "k"), "apps[0].id: \"a b\" is no id: use letters, digits, `_`, `.` and `-`");
    check(&app("a", ""), "apps[0].key: \"\" is no key");
    check(&(app("a", "k") + &app("a", "l")), "apps[1].id: apps[0] has the same id (hydrant.toml:2)");
    check(&(app("a", "k") + &app("b", "k")), "apps[1].key: apps[0] has the same key (hydrant.toml:3)");
    check("[[apps]]\nid = 'a'\nkey = 'b'\nsecret = 5\n", "4 | secret = …");
    let more = |rest: &str| format!("{}{rest}\n", app("a", "k"));
    check(&more("origins = ['a.com', 'https://*.a.com:1', '*', 'https://a.com/']"), "\"https://a.com/\" is no origin");
    check(&more("origins = ['']"), "\"\" is no origin: write a host or a scheme, host and port");
    check(&more("channels = ['public', 'protcted']"), "no kind of channel `protcted`; did you mean `protected`?");
    check(&more("previous_secrets = ['x']"), "apps[0].previous_secrets: `secret` is missing");
    check(&more("secret = 's'\nprevious_secrets = ['']"), "apps[0].previous_secrets: must not be empty");
    check(&more("presence_members_max = 0"), "apps[0].presence_members_max: must be at least 1");
    check(&more("hooks = 5"), "apps[0].hooks: expected a list, as in [[apps.hooks]], found a number");
    let hook = |rest: &str| more(&format!("secret = 's'\n[[apps.hooks]]\n{rest}"));
    check(&hook("format = 'push1st'"), "apps[0].hooks[0]: `url` is missing");
    let url = |url: &str, rest: &str| hook(&format!("url = '{url}'\n{rest}"));
    for wrong in ["ftp://h", "http://", "https:///p", "http://h/a b", "lua://", "h"] {
        check(&url(wrong, ""), "apps[0].hooks[0].url: expected http://HOST:PORT/PATH, https://… or lua://FILE");
    }
    check(&url("http://h", "events = ['join']"), "`join` is an event of the format \"push1st\", and this hook has");
    check(&url("lua://a", "events = ['cache_miss']"), "`cache_miss` is an event of the format \"pusher\"");
    check(&url("http://h", "events = ['joyn']"), "there is no hook event `joyn`; did you mean `join`?");
    check(
        &url("lua://a", "format = 'push1st'"),
        "apps[0].hooks[0].format: a script is always called in Push1ST's words",
    );
    check(&url("lua://a", "batch_ms = 5"), "apps[0].hooks[0].batch_ms: Push1ST's form tells events one by one");
    check(&url("http://h", "format = 'push1st'\nbatch_ms = 5"), "only the format \"pusher\" has batches");
    check(&more("hooks = [{url = 'http://h'}]"), "apps[0].hooks[0].url: Pusher's webhooks are signed");
    check("pusher.activity_timeout_ms = 999", "pusher.activity_timeout_ms: must be at least 1000");
    check("apps = [5]", "apps[0]: expected a table, as in { … }, found a number");
    // what may be a secret, or hold one, is not repeated
    check(
        &more("previous_secrets = 'hidden'"),
        "apps[0].previous_secrets: expected a list, as in [\"…\", \"…\"], found a text\n",
    );
    check(
        "apps = [{ id = 'a', key = 'a', secret = 123 }]",
        "apps[0].secret: expected a text, in quotes, found a number\n",
    );
    check("apps = 'secret'", "apps: expected a list, as in [[apps]], found a text\n");
}

#[test]
fn warnings() {
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let files = Files::new(&[("hydrant.toml", text)]);
        let sources = Sources { file: Some(files.path("hydrant.toml")), ..Sources::default() };
        let warnings = load(&sources).unwrap().config.warnings;
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(expected), "{warning}");
        }
    }
    check("", &["there are no apps"]);
    check("apps = [{id = 'a', key = 'k'}]", &["app a has no `secret` to sign with and no public key"]);
    let gusher = "[[listen]]\naddress = ':1'\ndoors = ['gusher']\n";
    check(&format!("apps = [{{id = 'a', key = 'k'}}]\n{gusher}"), &["nobody can connect to app a through gusher"]);
    check("apps = [{id = 'a', key = 'k', enabled = false}]", &[]);
    let pusher = "[[listen]]\naddress = ':1'\ndoors = ['pusher']\n";
    check(&format!("apps = [{{id = 'a', key = 'k'}}]\n{pusher}"), &["app a has no `secret` to sign with"]);
    check(&format!("apps = [{{id = 'a', key = 'k', secret = 's'}}]\n{pusher}"), &[]);
}

#[test]
fn later_sources_win_and_lines_say_which() {
    let files = Files::new(&[(
        "hydrant.toml",
        "[limits]\nbody_bytes_max = 1\nevent_name_bytes_max = 1\nuser_id_bytes_max = 1\ncommand_bytes_max = 1\n\
         [gusher]\nsession_secret = '0123456789abcdef'\n",
    )]);
    let sources = Sources {
        file: Some(files.path("hydrant.toml")),
        legacy_env: pairs(&[("GUSHER_RECEIVE_MAX_MESSAGE_SIZE", "9"), ("GUSHER_MASTER_URI_PREFIX", "m")]),
        env: pairs(&[
            ("HYDRANT_CONFIG", "elsewhere"),
            ("HYDRANT_BENCH_SECRET", "not the server's"),
            ("HYDRANT_LIMITS__EVENT_NAME_BYTES_MAX", "2"),
            ("HYDRANT_LIMITS__USER_ID_BYTES_MAX", " 2"),
            ("HYDRANT_LIMITS__BATCH_EVENTS_MAX", ""),
            ("HYDRANT_GUSHER__SESSION_SECRET_FILE", files.path("hydrant.toml").to_str().unwrap()),
            ("HYDRANT_PROXY__TRUSTED", "[\"10.1.2.3/8\", \"::1\"]"),
            ("HYDRANT_SERVICE_HOST", "10.0.0.1"),
            ("HYDRANT_PORT", "tcp://10.0.0.1:6001"),
            ("HYDRANT_PORT_6001_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ]),
        push1st: None,
        set: vec![
            "limits.user_id_bytes_max=3".into(),
            "gusher.session_secret=12345678901234567890".into(),
            "log.level=debug".into(),
        ],
        overrides: Overrides { public: Some(":7000".into()), apps: vec!["a:k:s:s".into()], ..Overrides::default() },
    };
    let effective = files.shown(&sources).unwrap();
    #[track_caller]
    fn check(effective: &str, expected: &str) {
        assert!(effective.lines().any(|line| line == expected), "no {expected} in\n{effective}");
    }
    check(&effective, "command_bytes_max = 1  # hydrant.toml:5");
    check(&effective, "master_prefix = \"/m/\"  # GUSHER_MASTER_URI_PREFIX");
    check(&effective, "body_bytes_max = 1  # hydrant.toml:2");
    check(&effective, "event_name_bytes_max = 2  # env HYDRANT_LIMITS__EVENT_NAME_BYTES_MAX");
    check(&effective, "user_id_bytes_max = 3  # --set");
    check(&effective, "batch_events_max = 10000  # default");
    check(&effective, "trusted = [\"10.0.0.0/8\", \"::1/128\"]  # env HYDRANT_PROXY__TRUSTED");
    check(&effective, "session_secret = \"***\"  # --set");
    check(&effective, "level = \"debug\"  # --set");
    check(&effective, "address = \"0.0.0.0:7000\"  # --public");
    check(&effective, "address = \"127.0.0.1:9601\"  # default");
    check(&effective, "[[apps]]  # --app");
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.apps[0].secret.as_ref().unwrap().expose(), "s:s");
    assert_eq!(loaded.config.gusher.session_secret.unwrap().expose(), "12345678901234567890");
}

#[test]
fn flags_are_told_apart_from_files() {
    #[track_caller]
    fn check(sources: Sources, kind: ErrorKind, expected: &str) {
        let error = load(&sources).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.to_string(), expected);
    }
    let set = |flag: &str| Sources { set: vec![flag.into()], ..Sources::default() };
    check(
        set("limits.outbox_byte_max=1"),
        ErrorKind::Usage,
        "--set limits.outbox_byte_max: no such key; did you mean limits.outbox_bytes_max?",
    );
    check(set("x"), ErrorKind::Usage, "--set x: expected KEY=VALUE, as in limits.outbox_bytes_max=65536");
    check(
        set("listen[0].address=:1"),
        ErrorKind::Usage,
        "--set listen[0].address: no such key; keys are dotted, as in limits.outbox_bytes_max; lists are given whole",
    );
    check(
        Sources { env: pairs(&[("HYDRANT_LIMITS_OUTBOX_BYTES_MAX", "1")]), ..Sources::default() },
        ErrorKind::Config,
        "env HYDRANT_LIMITS_OUTBOX_BYTES_MAX: no such setting; did you mean HYDRANT_LIMITS__OUTBOX_BYTES_MAX?",
    );
    check(
        Sources { env: pairs(&[("HYDRANT_WHATEVER", "1")]), ..Sources::default() },
        ErrorKind::Config,
        "env HYDRANT_WHATEVER: no such setting; names are HYDRANT_<SECTION>__<KEY>, as in \
         HYDRANT_LIMITS__OUTBOX_BYTES_MAX",
    );
    let public = Overrides { public: Some("here".into()), ..Overrides::default() };
    check(
        Sources { overrides: public.clone(), ..Sources::default() },
        ErrorKind::Usage,
        "--public: expected IP:PORT or unix:PATH, as in 0.0.0.0:6001, found \"here\"",
    );
    let listen = "listen=[{address='127.0.0.1:1', doors=['gusher']}]".to_owned();
    check(
        Sources { overrides: public, set: vec![listen], ..Sources::default() },
        ErrorKind::Usage,
        "--public: it moves a default listener, but --set says where to listen: change it there",
    );
    let key = Overrides { gusher_public_key: Some("/nowhere/a.pem".into()), ..Overrides::default() };
    check(
        Sources { overrides: key, ..Sources::default() },
        ErrorKind::Usage,
        "--gusher-public-key: cannot read /nowhere/a.pem: no such file",
    );
    let file = |name: &str| Sources { file: Some(name.into()), ..Sources::default() };
    check(file("/nowhere/h.toml"), ErrorKind::Config, "cannot read /nowhere/h.toml: no such file");
    check(file("/"), ErrorKind::Config, "cannot read /: it is a directory");
    check(
        file("/dev/null"),
        ErrorKind::Config,
        "cannot tell the format of /dev/null: name the file .toml, .yaml or .yml",
    );
}

#[test]
fn files_are_found_beside_the_configuration() {
    let text = "[gusher]\npublic_keys = ['a.pem']\nsession_secret_file = 'secret'\n\
                [[listen]]\naddress = 'unix:h.sock'\ndoors = ['gusher']\ntoken_file = 'two-lines'\n";
    let files =
        Files::new(&[("h.toml", text), ("a.pem", PEM), ("secret", "0123456789abcdef\n"), ("two-lines", "a\nb")]);
    assert_eq!(
        files.load("h.toml").unwrap_err(),
        "h.toml:7:14 listen[0].token_file: two-lines has more than one line\n    7 | token_file = …"
    );
    std::fs::write(files.path("two-lines"), "one").unwrap();
    let loaded = load(&Sources { file: Some(files.path("h.toml")), ..Sources::default() }).unwrap();
    assert_eq!(loaded.config.gusher.session_secret.as_ref().unwrap().expose(), "0123456789abcdef");
    assert_eq!(loaded.config.listen[0].token.as_ref().unwrap().expose(), "one");
    assert_eq!(loaded.config.listen[0].address, Address::Unix(files.path("h.sock")));
    assert_eq!(loaded.config.gusher.public_keys[0].file, Some(files.path("a.pem")));
    let effective = files.load("h.toml").unwrap();
    assert_eq!(line(&effective, "session_secret_file"), "session_secret_file = \"secret\"  # h.toml:3");
}

#[test]
fn the_effective_configuration_is_a_configuration() {
    let text = format!(
        "[node]\nshards = 3\n[[listen]]\naddress = '[::]:0'\ndoors = ['gusher', 'ops']\ntrusted = true\ntoken = 'x'\n\
         hosts = ['*']\n[[listen]]\naddress = 'unix:/run/h.sock'\nunix_mode = '0600'\ndoors = ['gusher']\n\
         [[apps]]\nid = 'a'\nkey = 'k'\nsecret = 's'\ngusher_public_keys = ['''{PEM}''']\nenabled = false\n\
         previous_secrets = ['t', 'u']\nchannels = ['public']\nsocket_push = ['protected']\norigins = ['*.x']\n\
         [[apps.hooks]]\nurl = 'http://u:p@h/'\nevents = ['cache_miss']\nbatch_ms = 5\n\
         [[apps.hooks]]\nurl = 'lua:///x/a.lua'\nevents = ['push']\nchannel_prefix = ['a-']\n\
         [[apps]]\nid = 'b'\nkey = 'l'\n\
         [[apps.hooks]]\nurl = 'http://h'\nformat = 'push1st'\n\
         [gusher.remote]\nurl = 'http://u:p@h/{{app}}'\ntimeout_ms = 1\n[log]\nformat = 'json'\n"
    );
    for text in [text.as_str(), ""] {
        let first = Files::new(&[("h.toml", text)]).load("h.toml").unwrap();
        let second = Files::new(&[("h.toml", &first)]).load("h.toml").unwrap();
        let bare = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect()
        };
        assert_eq!(bare(&first), bare(&second));
        assert!(!first.contains("u:p"), "{first}");
    }
}

#[test]
fn a_gusher_deployment_starts_unchanged() {
    let files = Files::new(&[("public.pem", PEM)]);
    let sources = Sources {
        legacy_env: pairs(&[
            ("GUSHER_API_LISTEN", ":8888"),
            ("GUSHER_API_URI_PREFIX", "gcs"),
            ("GUSHER_MASTER_API_LISTEN", ":7777"),
            ("GUSHER_MASTER_URI_PREFIX", "/"),
            ("GUSHER_PUBLIC_PEM_FILE", files.path("public.pem").to_str().unwrap()),
            ("GUSHER_RECEIVE_MAX_MESSAGE_SIZE", "1024"),
            ("GUSHER_JOB_REDIS_ADDR", "jobs:6380"),
            ("GUSHER_JOB_REDIS_DBNO", "3"),
            ("GUSHER_LOG_FORMAT", "JSON"),
            ("GUSHER_LOG_OUTPUT", "stdout"),
            ("GUSHER_REDIS_ADDR", "127.0.0.1:6379"),
            ("GUSHER_SCAN_INTERVAL", ""),
            ("GUSHER_DECODE_SERVIC", "x"),
            ("GUSHER_PORT", "tcp://10.0.0.1:7777"),
        ]),
        ..Sources::default()
    };
    let Loaded { config, .. } = load(&sources).unwrap();
    let [client, master, ops] = &config.listen[..] else { panic!("{:?}", config.listen) };
    assert_eq!((client.address.to_string().as_str(), &client.doors[..]), ("0.0.0.0:8888", &[Door::GusherClient][..]));
    assert!(!client.trusted);
    assert_eq!((master.address.to_string().as_str(), &master.doors[..]), ("0.0.0.0:7777", &[Door::GusherMaster][..]));
    assert!(master.trusted && master.allow.len() == 2 && master.hosts == ["*"]);
    assert_eq!((ops.address.to_string().as_str(), &ops.doors[..]), ("127.0.0.1:9601", &[Door::Ops][..]));
    assert_eq!((config.gusher.client_prefix.as_str(), config.gusher.master_prefix.as_str()), ("/gcs/", "/"));
    assert!(config.gusher.open_apps && config.gusher.public_keys.len() == 1);
    assert_eq!(config.limits.command_bytes_max, 1024);
    let target = config.gusher.remote.unwrap().target;
    assert_eq!(target, RemoteTarget::Redis(SecretUrl::new("redis://jobs:6380/3")));
    assert_eq!(config.log.format, LogFormat::Json);
    let starts = [
        "GUSHER_REDIS_ADDR is ignored: master and slave are one process",
        "GUSHER_DECODE_SERVIC is ignored: there is no such setting; did you mean GUSHER_DECODE_SERVICE?",
        "GUSHER_MASTER_API_LISTEN: the master's API on 0.0.0.0:7777 knows no credentials and is open to whoever",
    ];
    assert_eq!(config.warnings.len(), starts.len(), "{:?}", config.warnings);
    for (warning, start) in config.warnings.iter().zip(starts) {
        assert!(warning.starts_with(start), "{warning}");
    }
    let listen = "listen = [{address = '127.0.0.1:1', doors = ['gusher', 'gusher-master'], trusted = true}]".to_owned();
    let restricted = load(&Sources { set: vec![listen], ..sources.clone() }).unwrap();
    assert_eq!(restricted.config.warnings.len(), starts.len() - 1, "{:?}", restricted.config.warnings);
    let effective = effective(&sources);
    assert_eq!(line(&effective, "command_bytes_max"), "command_bytes_max = 1024  # GUSHER_RECEIVE_MAX_MESSAGE_SIZE");
    assert_eq!(line(&effective, "address"), "address = \"0.0.0.0:8888\"  # GUSHER_API_LISTEN");
}

#[test]
fn a_prefix_that_takes_everything_comes_last() {
    #[track_caller]
    fn check(doors: &str, problems: usize) {
        let text = format!(
            "[gusher]\nmaster_prefix = '/'\n[[listen]]\naddress = '127.0.0.1:1'\ntrusted = true\ndoors = {doors}\n"
        );
        let files = Files::new(&[("h.toml", &text)]);
        let loaded = load(&Sources { file: Some(files.path("h.toml")), ..Sources::default() });
        assert_eq!(loaded.map_or_else(|error| error.problem_count(), |_| 0), problems);
    }
    check("['gusher', 'gusher-master']", 0);
    check("['gusher-master', 'gusher']", 1);
}

#[test]
fn gusher_variables_that_do_not_fit() {
    #[track_caller]
    fn check(vars: &[(&str, &str)], expected: &str) {
        let sources = Sources { legacy_env: pairs(vars), ..Sources::default() };
        assert_eq!(load(&sources).unwrap_err().to_string(), expected);
    }
    check(
        &[("GUSHER_API_LISTEN", ":8888")],
        "GUSHER_API_LISTEN: GUSHER_MASTER_API_LISTEN is not set. One process is both master and slave here: set both",
    );
    check(
        &[("GUSHER_MASTER_API_LISTEN", ":8888"), ("GUSHER_API_LISTEN", "")],
        "GUSHER_MASTER_API_LISTEN: GUSHER_API_LISTEN is not set. One process is both master and slave here: set both",
    );
    check(
        &[("GUSHER_MASTER_API_LISTEN", "localhost:8888"), ("GUSHER_API_LISTEN", "gusher:8888")],
        "GUSHER_API_LISTEN: use an IP address, e.g. 127.0.0.1:8888; `gusher` is a name",
    );
    check(
        &[("GUSHER_MASTER_API_LISTEN", ":8888"), ("GUSHER_API_LISTEN", ":8888")],
        "GUSHER_MASTER_API_LISTEN: listen[0] has the same address (GUSHER_API_LISTEN): move one, or put both doors \
         on one listener",
    );
    check(
        &[("GUSHER_RECEIVE_MAX_MESSAGE_SIZE", "512b")],
        "GUSHER_RECEIVE_MAX_MESSAGE_SIZE: expected a whole number, found the text \"512b\"",
    );
    check(
        &[("GUSHER_PUBLIC_PEM_FILE", "/nowhere/public.pem")],
        "GUSHER_PUBLIC_PEM_FILE: cannot read /nowhere/public.pem: no such file",
    );
    check(
        &[("GUSHER_JOB_REDIS_ADDR", "h"), ("GUSHER_JOB_REDIS_DBNO", "x")],
        "GUSHER_JOB_REDIS_DBNO: expected the number of a database",
    );
    check(
        &[("GUSHER_API_URI_PREFIX", "v1")],
        "GUSHER_API_URI_PREFIX: /v1/ is taken by gusher's v3 API, which every gusher door serves",
    );
}

#[test]
fn differences() {
    const APPS: &str = "[[apps]]\nid = 'shop'\nkey = 'k'\nsecret = 's'\nprevious_secrets = ['r']\n\
                        gusher_public_keys = ['a.pem']\n[[apps.hooks]]\nurl = 'http://u:p@h/'\n";
    #[track_caller]
    fn check(old: &str, new: &str, expected: &[&str]) {
        let files = Files::new(&[("a.pem", PEM), ("b.pem", &PEM.replace("QUJD", "REVG")), ("s1", "x"), ("s2", "y")]);
        std::fs::write(files.path("h.toml"), old).unwrap();
        let load = || load(&Sources { file: Some(files.path("h.toml")), ..Sources::default() });
        let old = load().unwrap_or_else(|error| panic!("{error}"));
        std::fs::write(files.path("h.toml"), new).unwrap();
        std::fs::rename(files.path("b.pem"), files.path("a.pem")).unwrap();
        std::fs::rename(files.path("s2"), files.path("s1")).unwrap();
        let new = load().unwrap_or_else(|error| panic!("{error}"));
        let directory = format!("{}/", files.0.path().display());
        let difference = difference(&old, &new);
        let shown = |change: &Change| {
            let restart = if change.needs_restart { " (restart)" } else { "" };
            format!("{}{restart}", change.to_string().replace(&directory, ""))
        };
        assert_eq!(difference.changes.iter().map(shown).collect::<Vec<_>>(), expected);
        assert!(!format!("{difference:?}").contains("hush"));
    }
    check("", "", &[]);
    check("", "limits.outbox_bytes_max = 5", &["limits.outbox_bytes_max: 1048576 -> 5"]);
    check("limits.body_bytes_max = 7", "", &["limits.body_bytes_max: 7 -> 10485760"]);
    // a file with something else in it is another value
    check(APPS, APPS, &["apps[shop].gusher_public_keys changed"]);
    let named = "gusher.session_secret_file = 's1'";
    check(named, named, &["gusher.session_secret_file changed"]);
    let keyless = APPS.replace("gusher_public_keys = ['a.pem']\n", "");
    check(&keyless, &keyless.replace("'s'", "'hush'"), &["apps[shop].secret changed"]);
    let rotated = keyless.replace("['r']", "['r', 'hush']");
    check(&keyless, &rotated, &["apps[shop].previous_secrets: [\"***\"] -> [\"***\", \"***\"]"]);
    check(&keyless, &keyless.replace("u:p@", "u:hush@"), &["apps[shop].hooks[0].url changed"]);
    // items that come or go are one change each, and the others are what they were
    let two = format!("[[apps]]\nid = 'new'\nkey = 'l'\nhooks = [{{url = 'lua://a'}}]\n{keyless}");
    check(&keyless, &two, &["apps[new] added"]);
    check(&two, &keyless, &["apps[new] removed"]);
    check(&keyless, &keyless.replace("[[apps.hooks]]\nurl = 'http://u:p@h/'", ""), &["apps[shop].hooks[0] removed"]);
    check(&keyless, &keyless.replace("'shop'", "'mall'"), &["apps[mall] added", "apps[shop] removed"]);
    check(
        "node.shards = 1",
        "node.shards = 2\nlog.level = 'warn'\n[gusher]\nlegacy_pong = true\nremote.redis = 'redis://h'\n\
         [[listen]]\naddress = '127.0.0.1:1'\ndoors = ['gusher']",
        &[
            "gusher.legacy_pong: false -> true",
            "gusher.remote.in_flight_max: none -> 1024 (restart)",
            "gusher.remote.redis: none -> \"redis://h\" (restart)",
            "gusher.remote.timeout_ms: none -> 5000 (restart)",
            "listen[0].address: \"0.0.0.0:6001\" -> \"127.0.0.1:1\" (restart)",
            "listen[0].doors: [\"pusher\", \"push1st-socket\", \"gusher\"] -> [\"gusher\"] (restart)",
            "listen[1] removed (restart)",
            "listen[2] removed (restart)",
            "log.level: \"info\" -> \"warn\" (restart)",
            "node.shards: 1 -> 2 (restart)",
        ],
    );
}

#[test]
fn every_file_is_known() {
    let text = "[[apps]]\nid = 'a'\nkey = 'k'\nsecret_file = 's'\ngusher_public_keys = ['a.pem']\n\
                [[apps.hooks]]\nurl = 'lua://hook.lua'\n[gusher]\nsession_secret_file = 't'\n";
    let files = Files::new(&[("h.toml", text), ("s", "x"), ("t", "y"), ("a.pem", PEM), ("server.yml", SERVER_YML)]);
    std::fs::create_dir(files.path("apps")).unwrap();
    std::fs::write(files.path("apps/a.yml"), APPS_YML).unwrap();
    let sources =
        Sources { file: Some(files.path("h.toml")), push1st: Some(files.path("server.yml")), ..Sources::default() };
    let names = ["a.pem", "apps", "apps/a.yml", "h.toml", "hook.lua", "s", "server.yml", "t"];
    assert_eq!(load(&sources).unwrap().files, names.map(|name| files.path(name)));
}

const SERVER_YML: &str = "\
ssl:
  - &shared
    key: # private key
server:
  proto: [pusher, mqtt, websocket]
  threads: 5
  listen: tcp://*:6001
  ssl: { enable: false, *shared }
  app-path: app/
  pusher: { path: /pusher/, activity-timeout: 20, whitelist: [] }
  websocket:
    path: /ws/
    push: { public, private }
cluster:
  listen: udp://*:8001
api:
  keep-alive-timeout: 10
  interface: pusher
  ssl: { enable: true, *shared }
  path: /x/apps/
  whitelist: []
  listen: [tcp://*:6002/, unix://api.sock]
  module: { smpp: { enable: true, path: /smpp/ } }
credentials:
  - apps/*.yml
log: {}
tpyo: 1
";

const APPS_YML: &str = "\
app-test:
  enable: yes
  name: A test
  key: app-key
  secret: 123456
  options: { client-messages: true, statistic: false }
  channels: [public, presence, protcted]
  origins: [https://a.example/]
  hook:
    trigger: [register, push]
    http-pipelining: false
    endpoint: [http://127.0.0.1:6002/, lua://hook.lua, none://x, http://127.0.0.1:6002/]
9:
  key: nine
  secret:
  channels: [private]
  enable: off
no-channels:
  key: x
";

#[test]
fn a_push1st_deployment_starts_unchanged() {
    let files = Files::new(&[("server.yml", SERVER_YML)]);
    std::fs::create_dir(files.path("apps")).unwrap();
    std::fs::write(files.path("apps/a.YML"), APPS_YML).unwrap();
    std::fs::write(files.path("apps/b.yml"), "app-test: {key: other, channels: [public]}\n").unwrap();
    std::fs::write(files.path("apps/c.yaml"), "- no app\n").unwrap();
    let sources = Sources { push1st: Some(files.path("server.yml")), ..Sources::default() };
    let config = load(&sources).unwrap_or_else(|error| panic!("{error}")).config;
    let [public, api, unix, ops] = &config.listen[..] else { panic!("{:?}", config.listen) };
    assert_eq!(public.address.to_string(), "0.0.0.0:6001");
    assert_eq!((&public.doors[..], public.trusted), (&[Door::Pusher, Door::Push1stSocket][..], false));
    assert_eq!((api.address.to_string().as_str(), &api.doors[..]), ("0.0.0.0:6002", &[Door::Push1st][..]));
    assert!(api.trusted && api.allow.len() == 2 && api.hosts == ["*"] && api.path_prefix == "/x");
    assert_eq!(unix.address, Address::Unix(files.path("api.sock")));
    assert!(unix.trusted && unix.allow.is_empty());
    assert_eq!(ops.doors, [Door::Ops]);
    assert_eq!(config.pusher.activity_timeout, Duration::from_secs(20));
    assert_eq!(config.limits.keep_alive_timeout, Duration::from_secs(10));
    let hook = |target| Hook {
        target,
        format: HookFormat::Push1st,
        events: vec![HookEvent::Register, HookEvent::Push],
        ..Hook::blank()
    };
    let kinds = |kinds: &[ChannelKind]| kinds.to_vec();
    let blank = || App {
        socket_push: kinds(&[ChannelKind::Private, ChannelKind::Public]),
        legacy_push1st_tokens: true,
        legacy_channel_names: true,
        client_events_per_s: 0,
        legacy_presence: true,
        ..App::blank()
    };
    let expected = [
        App { id: "9".into(), key: "nine".into(), enabled: false, channels: kinds(&[ChannelKind::Private]), ..blank() },
        App {
            id: "app-test".into(),
            key: "app-key".into(),
            secret: Some(Secret::new("123456")),
            origins: vec!["https://a.example".into()],
            channels: kinds(&[ChannelKind::Public, ChannelKind::Presence]),
            client_events: true,
            hooks: vec![
                hook(HookTarget::Http(SecretUrl::new("http://127.0.0.1:6002/"))),
                hook(HookTarget::Lua(files.path("hook.lua"))),
            ],
            ..blank()
        },
    ];
    assert_eq!(format!("{:#?}", config.apps), format!("{expected:#?}"));
    assert_eq!(config.apps[1].secret.as_ref().unwrap().expose(), "123456");
    let directory = format!("{}/", files.0.path().display());
    let warnings: Vec<String> = config.warnings.iter().map(|warning| warning.replace(&directory, "")).collect();
    let expected = [
        "server.yml:14: `cluster` is ignored: nodes do not talk to each other over UDP",
        "server.yml:26: `log` is ignored: the log is the process's output",
        "server.yml:6: `server.threads` is ignored: there is one thread per core",
        "server.yml:5: MQTT is not served",
        "server.yml:13: sockets may push to the kinds of channels in `push` only; Push1ST lets them push to presence \
         and protected channels whatever it says",
        "server.yml:19: `api.ssl` is ignored: connections here are plain",
        "server.yml:23: SMPP is not served",
        "apps/a.YML:7: `protcted` is ignored: did you mean protected?",
        "apps/a.YML:12: this endpoint is ignored: it is neither http:// nor",
        "apps/a.YML:18: `no-channels` is ignored: it has no `channels`",
        "apps/b.yml:1: `app-test` is ignored: an app before it has the same id or key",
        "server.yml:27: `tpyo` is ignored: there is no such setting",
        "server.yml:22: the API on 0.0.0.0:6002 knows no credentials and is open to whoever reaches it, as it was.",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}\n{expected}");
    }
    // what another source says replaces it
    let listen = "listen = [{address = '127.0.0.1:1', doors = ['pusher']}]".to_owned();
    let restricted = load(&Sources { set: vec![listen, "apps=[]".into()], ..sources }).unwrap().config;
    assert_eq!((restricted.listen.len(), restricted.apps.len()), (1, 0));
    assert!(!restricted.warnings.iter().any(|warning| warning.contains("knows no credentials")));
}

#[test]
fn push1st_files_that_do_not_fit() {
    fn loaded(server: &str) -> Result<Loaded, String> {
        let files = Files::new(&[("server.yml", server)]);
        let directory = format!("{}/", files.0.path().display());
        load(&Sources { push1st: Some(files.path("server.yml")), ..Sources::default() })
            .map_err(|error| error.to_string().replace(&directory, ""))
    }
    #[track_caller]
    fn check(server: &str, expected: &str) {
        let error = loaded(server).err().unwrap_or_else(|| "none".into());
        assert!(error.starts_with(expected), "{error}");
    }
    let server = |rest: &str| format!("server: {{proto: [pusher], pusher: {{}}, {rest}}}\n");
    check("channels: {}\n", "server.yml:1:1: `server` is missing: this is no server.yml of Push1ST");
    check("a: [\n", "server.yml:1:4: unclosed bracket");
    check(&server("listen: 'udp://*:1'"), "server.yml:1:47: expected tcp://HOST:PORT or unix://PATH, found the text");
    check(&server("listen: [1]"), "server.yml:1:47: expected tcp://HOST:PORT, found a list");
    check(&server("listen: tcp://push1st:6001"), "server.yml:1:47 listen[0].address: use an IP address");
    check(&server("listen: false"), "none");
    check(&format!("{}credentials: nowhere/*.yml", server("listen: false")), "server.yml:2:14: cannot read the direc");
    check("server: {proto: [pusher], pusher: {activity-timeout: x}}", "server.yml:1:54 pusher.activity_timeout_ms: ex");

    let listen = |text: &str| loaded(text).unwrap_or_else(|error| panic!("{error}")).config.listen;
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
    let api = listen("server: {}\napi: {listen: 'tcp://*:6002', whitelist: [10.0.0.0/8, office]}");
    assert_eq!(api[0].allow, nets(&["10.0.0.0/8"]));
    let api = listen("server: {}\napi: {listen: 'tcp://localhost:6002'}");
    assert_eq!((api[0].address.to_string().as_str(), api[0].allow.len()), ("127.0.0.1:6002", 0));
    let both = |pusher: &str, websocket: &str| {
        let protocols = format!("pusher: {{whitelist: {pusher}}}, websocket: {{whitelist: {websocket}}}");
        listen(&format!("server: {{proto: [pusher, websocket], listen: 'tcp://*:1', {protocols}}}"))[0].allow.clone()
    };
    assert_eq!(both("[10.0.0.1/32]", "[10.0.0.1/32]"), nets(&["10.0.0.1/32"]));
    assert_eq!(both("[10.0.0.1/32]", "[]"), []);
    let unserved = loaded("server: {proto: [pusher], listen: 'tcp://*:1'}").unwrap().config;
    assert_eq!(unserved.listen.len(), 1, "operations only");
    assert!(unserved.warnings[0].contains("`server.pusher` is missing, so it is not served"));
}

#[test]
fn soketi_variables() {
    fn loaded(vars: &[(&str, &str)]) -> Config {
        load(&Sources { legacy_env: pairs(vars), ..Sources::default() }).unwrap_or_else(|e| panic!("{e}")).config
    }
    let config = loaded(&[
        ("SOKETI_DEFAULT_APP_ID", "1"),
        ("SOKETI_DEFAULT_APP_KEY", "k"),
        ("SOKETI_DEFAULT_APP_SECRET", "s"),
        ("SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES", "1"),
        ("SOKETI_DEFAULT_APP_USER_AUTHENTICATION", "true"),
        ("SOKETI_USER_AUTHENTICATION_TIMEOUT", "3000"),
        ("SOKETI_DEFAULT_APP_MAX_CONNS", "-1"),
        ("SOKETI_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC", "100"),
        ("SOKETI_DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC", "-1"),
        ("SOKETI_PRESENCE_MAX_MEMBER_SIZE", "1.5"),
        ("SOKETI_EVENT_MAX_SIZE_IN_KB", "100"),
        ("SOKETI_CHANNEL_CACHE_TTL", "60"),
        ("SOKETI_HTTP_MAX_REQUEST_SIZE", "2"),
        ("SOKETI_WEBHOOKS_BATCHING", "1"),
        (
            "SOKETI_DEFAULT_APP_WEBHOOKS",
            "[{\"url\":\"https://h/x\",\"event_types\":[\"member_added\",\"x\"],\"filters\":\
             {\"channel_name_starts_with\":\"a-\"}},{\"lambda_function\":\"f\",\"event_types\":[]}]",
        ),
        ("SOKETI_PORT", "7001"),
        ("SOKETI_HOST", "::1"),
        ("SOKETI_PATH_PREFIX", "/ws/"),
        ("SOKETI_METRICS_SERVER_PORT", "7601"),
        ("SOKETI_METRICS_ENABLED", "1"),
        ("SOKETI_DEBUG", "1"),
        ("SOKETI_ADAPTER_DRIVER", "redis"),
        ("SOKETI_QUEUE_DRIVER", "sync"),
        ("SOKETI_DEFAULT_APP_IDD", "2"),
        ("SOKETI_EMPTY", ""),
    ]);
    let files = Files::new(&[
        ("cert.pem", "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"),
        ("key.pem", "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n"),
    ]);
    let path = |name: &str| files.path(name).display().to_string();
    let secure = loaded(&[
        ("SOKETI_SSL_CERT", &path("cert.pem")),
        ("SOKETI_SSL_KEY", &path("key.pem")),
        ("SOKETI_SSL_PASS", "x"),
    ]);
    assert!(matches!(secure.listen[0].tls(), Some(Tls::Files { .. })) && secure.listen[1].tls().is_none());
    assert!(secure.warnings.iter().any(|warning| warning.contains("SOKETI_SSL_PASS is ignored: keys are not")));
    let [public, ops] = &config.listen[..] else { panic!("{:?}", config.listen) };
    assert_eq!((public.address.to_string().as_str(), public.path_prefix.as_str()), ("[::1]:7001", "/ws"));
    assert_eq!((&public.doors[..], ops.address.to_string().as_str()), (&[Door::Pusher][..], "127.0.0.1:7601"));
    let hook = Hook {
        target: HookTarget::Http(SecretUrl::new("https://h/x")),
        events: vec![HookEvent::MemberAdded],
        channel_prefix: vec!["a-".into()],
        batch: Duration::from_millis(50),
        ..Hook::blank()
    };
    let expected = App {
        id: "1".into(),
        key: "k".into(),
        secret: Some(Secret::new("s")),
        client_events: true,
        authorized_connections: true,
        authorize_timeout: Duration::from_secs(3),
        publishes_per_s: 100,
        client_events_per_s: 0,
        presence_member_bytes_max: 1536,
        event_bytes_max: 102_400,
        client_event_bytes_max: 102_400,
        hooks: vec![hook],
        ..App::blank()
    };
    assert_eq!(format!("{:#?}", config.apps), format!("{:#?}", [expected]));
    assert_eq!(config.limits.cache_ttl, Duration::from_secs(60));
    assert_eq!(config.limits.body_bytes_max, 2 << 20);
    assert_eq!(config.log.level, "debug");
    let expected = [
        "SOKETI_DEFAULT_APP_WEBHOOKS: webhook 1 names events that there are not",
        "SOKETI_DEFAULT_APP_WEBHOOKS: webhook 2 is ignored: it has no url",
        "SOKETI_METRICS_ENABLED: metrics are on 127.0.0.1:7601, which other machines do not reach",
        "SOKETI_ADAPTER_DRIVER is ignored: there is one node",
        "SOKETI_DEFAULT_APP_IDD is ignored: there is no such setting; did you mean SOKETI_DEFAULT_APP_ID?",
    ];
    assert_eq!(config.warnings.len(), expected.len(), "{:#?}", config.warnings);
    for (warning, expected) in config.warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}");
    }

    let config = loaded(&[("SOKETI_DEFAULT_APP_SECRET", "s")]);
    assert_eq!((config.apps[0].id.as_str(), config.apps[0].key.as_str()), ("app-id", "app-key"));
    assert_eq!(config.listen[0].address.to_string(), "0.0.0.0:6001");
    // a secret that everybody knows is none
    let config = loaded(&[("SOKETI_DEFAULT_APP_KEY", "k"), ("SOKETI_PRESENCE_MAX_MEMBERS", "5")]);
    assert!(config.apps.is_empty());
    let warning = "SOKETI_DEFAULT_APP_SECRET is not set, so there is no such app, and SOKETI_DEFAULT_APP_KEY, \
                   SOKETI_PRESENCE_MAX_MEMBERS say nothing";
    assert_eq!(config.warnings[0], warning);

    #[track_caller]
    fn check(name: &str, value: &str, expected: &str) {
        let vars = pairs(&[("SOKETI_DEFAULT_APP_SECRET", "s"), (name, value)]);
        let error = load(&Sources { legacy_env: vars, ..Sources::default() }).unwrap_err().to_string();
        assert_eq!(error, format!("{name}: {expected}"));
    }
    check("SOKETI_PORT", "x", "`x` is no port: ports are numbers from 0 to 65535");
    check("SOKETI_EVENT_MAX_BATCH_SIZE", "ten", "expected a whole number, found the text \"ten\"");
    check("SOKETI_PRESENCE_MAX_MEMBERS", "-2", "expected a whole number, found the text \"-2\"");
    check("SOKETI_DEFAULT_APP_ENABLED", "maybe", "expected true or false");
    check(
        "SOKETI_DEFAULT_APP_MAX_CONNS",
        "0",
        "0 would refuse everything, and is no limit here: -1 is no limit to soketi",
    );
    check(
        "SOKETI_DEFAULT_APP_WEBHOOKS",
        "{}",
        "expected JSON, as in [{\"url\": \"https://…\", \"event_types\": [\"channel_occupied\"]}]",
    );
}

#[test]
fn laravel_variables_count_only_alone() {
    fn loaded(vars: &[(&str, &str)], set: &[&str]) -> Config {
        let set = set.iter().map(|flag| (*flag).to_owned()).collect();
        load(&Sources { legacy_env: pairs(vars), set, ..Sources::default() }).unwrap().config
    }
    const PUSHER: [(&str, &str); 3] = [("PUSHER_APP_ID", "1"), ("PUSHER_APP_KEY", "k"), ("PUSHER_APP_SECRET", "s")];
    const REVERB: [(&str, &str); 9] = [
        ("REVERB_APP_ID", "2"),
        ("REVERB_APP_KEY", "l"),
        ("REVERB_APP_SECRET", "t"),
        ("REVERB_SERVER_PORT", "8081"),
        ("REVERB_MAX_REQUEST_SIZE", "50000"),
        ("REVERB_APP_MAX_MESSAGE_SIZE", "20000"),
        ("REVERB_APP_ACTIVITY_TIMEOUT", "30"),
        ("REVERB_SCALING_ENABLED", "true"),
        ("REVERB_HOST", "ws.example"),
    ];
    let ids = |config: &Config| config.apps.iter().map(|app| app.id.clone()).collect::<Vec<_>>();
    let config = loaded(&PUSHER, &[]);
    assert_eq!(ids(&config), ["1"]);
    assert!(config.warnings[0].starts_with("the app is that of PUSHER_APP_ID, PUSHER_APP_KEY, PUSHER_APP_SECRET"));
    assert!(ids(&loaded(&PUSHER[..2], &[])).is_empty());
    assert!(ids(&loaded(&[PUSHER[0], PUSHER[1], ("PUSHER_APP_SECRET", "")], &[])).is_empty());

    let both = [&PUSHER[..], &REVERB].concat();
    let config = loaded(&both, &[]);
    assert_eq!(ids(&config), ["2"]);
    assert_eq!(config.listen[0].address.to_string(), "0.0.0.0:8081");
    assert_eq!(config.listen[0].doors, [Door::Pusher]);
    let app = &config.apps[0];
    assert_eq!((app.event_bytes_max, app.client_event_bytes_max, app.client_events), (50_000, 20_000, true));
    assert_eq!((config.limits.body_bytes_max, config.limits.message_bytes_max), (50_000, 20_000));
    assert_eq!(config.pusher.activity_timeout, Duration::from_secs(30));
    assert_eq!(config.warnings, ["REVERB_SCALING_ENABLED is ignored: there is one node"]);
    let refused = [&REVERB[..], &[("REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM", "none")]].concat();
    assert!(!loaded(&refused, &[]).apps[0].client_events);

    // another source's apps leave nothing of them
    for (more, set) in [(None, Some("apps=[{id='3',key='m'}]")), (Some(("SOKETI_DEFAULT_APP_SECRET", "s")), None)] {
        let vars: Vec<_> = both.iter().copied().chain(more).collect();
        let config = loaded(&vars, &set.into_iter().collect::<Vec<_>>());
        assert_eq!(config.apps.len(), 1);
        assert!(!["1", "2"].contains(&config.apps[0].id.as_str()));
        assert_eq!(config.listen[0].address.to_string(), "0.0.0.0:6001");
        assert_eq!(config.limits.body_bytes_max, Config::default().limits.body_bytes_max);
    }
}

#[test]
fn env_files() {
    let files = Files::new(&[
        (
            "good",
            "# c\n\nA=1\nexport B = two words # c\r\nC='x # $y' # c\nD=\"a\\n\\\"\\$\\\\\"\nE=\nF=#f\nG= # c\nH=a=b\n",
        ),
        ("bad", "A=1\nno\n1A=x\nB='x\nC=\"\\q\"\nD=\"x\" y\nE=\"\\"),
    ]);
    let vars = read_env_file(&files.path("good")).unwrap();
    let expected = [
        ("A", "1"),
        ("B", "two words"),
        ("C", "x # $y"),
        ("D", "a\n\"$\\"),
        ("E", ""),
        ("F", "#f"),
        ("G", ""),
        ("H", "a=b"),
    ];
    assert_eq!(vars, pairs(&expected));
    let error = read_env_file(&files.path("bad")).unwrap_err();
    assert_eq!((error.kind(), error.problem_count()), (ErrorKind::Config, 6));
    let error = error.to_string().replace(&format!("{}/", files.0.path().display()), "");
    let firsts: Vec<_> = error.lines().filter(|line| line.starts_with("bad")).collect();
    assert_eq!(
        firsts,
        [
            "bad:2:1: expected NAME=value",
            "bad:3:1: expected NAME=value, with a name of A-Z, 0-9 and _",
            "bad:4:1 B: the quote is not closed on this line",
            "bad:5:1 C: in double quotes, a backslash stands before n, \", \\ or $ only",
            "bad:6:1 D: something stands behind the closing quote",
            "bad:7:1 E: in double quotes, a backslash stands before n, \", \\ or $ only",
        ]
    );
}

/// Dotted paths of what a tree sets, `listen[].address` for one in a list of tables.
fn paths(node: &Node, path: String, paths: &mut BTreeSet<String>) {
    match &node.value {
        Value::Table(table) => {
            for (key, entry) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self::paths(&entry.node, path, paths);
            }
        }
        Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Table(_))) => {
            items.iter().for_each(|item| self::paths(item, format!("{path}[]"), paths));
        }
        _ => {
            paths.insert(path);
        }
    }
}

#[test]
fn the_example_is_every_key_with_its_default() {
    let files = Files::new(&[("hydrant.toml", EXAMPLE)]);
    let loaded = load(&Sources { file: Some(files.path("hydrant.toml")), ..Sources::default() }).unwrap();
    let defaults = load(&Sources::default()).unwrap();
    assert_eq!(format!("{:#?}", loaded.config), format!("{:#?}", defaults.config));

    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let source = Arc::new(SourceText { name: "example".into(), text: uncommented.join("\n") });
    let mut found = Findings::default();
    let tree = file::toml(&source, &mut found);
    assert!(found.into_error().is_none(), "the commented keys are no TOML");
    let mut named = BTreeSet::new();
    paths(&tree.unwrap(), String::new(), &mut named);
    assert_eq!(named, keys::all().into_iter().collect());
}

#[test]
fn the_example_shows_the_defaults_of_optional_keys() {
    let remote = format!(
        "#timeout_ms = {}  #in_flight_max = {}  #enabled = true  #unix_mode = \"0660\"",
        Remote::TIMEOUT_DEFAULT.as_millis(),
        Remote::IN_FLIGHT_MAX_DEFAULT
    );
    for line in remote.split("  ") {
        assert!(EXAMPLE.lines().any(|shown| shown.starts_with(line)), "{line}");
    }
}

#[test]
fn the_example_shows_the_defaults_of_an_app() {
    let (_, apps) = EXAMPLE.split_once("#[[apps]]").unwrap();
    let (apps, _) = apps.split_once("[gusher]").unwrap();
    let is_shown = |line: &&str| {
        !line.starts_with(' ') && !line.starts_with("secret_file") && !line.starts_with("gusher_public_keys")
    };
    let lines = apps.lines().filter_map(|line| line.strip_prefix('#')).filter(is_shown);
    let text = format!("[[apps]]\n{}", lines.collect::<Vec<_>>().join("\n"));
    let files = Files::new(&[("hydrant.toml", &text)]);
    let loaded = load(&Sources { file: Some(files.path("hydrant.toml")), ..Sources::default() }).unwrap();
    let target = loaded.config.apps[0].hooks[0].target.clone();
    let expected = App {
        id: "shop".into(),
        key: "shop-key".into(),
        secret: Some(Secret::new("...")),
        hooks: vec![Hook { target, ..Hook::blank() }],
        ..App::blank()
    };
    assert_eq!(format!("{:#?}", loaded.config.apps), format!("{:#?}", [expected]));
}

#[test]
fn hooks_hear_what_they_ask_for() {
    let heard = |hook: &Hook, channel: &str| -> Vec<&str> {
        let words = HookEvent::ALL.into_iter().filter(|event| hook.wants(*event, channel));
        words.map(HookEvent::word).collect()
    };
    let pusher = Hook { events: vec![HookEvent::CacheMiss, HookEvent::MemberAdded], ..Hook::blank() };
    assert_eq!(heard(&pusher, "x"), ["member_added", "cache_miss"]);
    let push1st = Hook { format: HookFormat::Push1st, channel_prefix: vec!["a-".into(), "b".into()], ..Hook::blank() };
    assert_eq!(heard(&push1st, "a-x"), ["register", "unregister", "join", "leave", "push"]);
    assert_eq!(heard(&push1st, "b"), heard(&push1st, "a-x"));
    assert!(heard(&push1st, "a").is_empty());
}

#[test]
fn the_docs_name_every_key_and_variable() {
    for path in keys::all() {
        assert!(DOCS.contains(&format!("| `{path}` |")), "docs/configuration.md lacks {path}");
    }
    let names = legacy::gusher::names().chain(legacy::laravel::names()).map(str::to_owned);
    for name in names.chain(legacy::soketi::names()) {
        assert!(DOCS.contains(&format!("`{name}`")), "docs/configuration.md lacks {name}");
    }
}

/// Scraps of configuration that are more likely than arbitrary text to get deep into the parsers.
fn scraps() -> impl Strategy<Value = String> {
    let scraps = [
        "[[listen]]\n",
        "[limits]\n",
        "[gusher.remote]\n",
        "listen",
        "apps",
        "limits",
        "address",
        "doors",
        "token",
        "gusher",
        "outbox_bytes_max",
        "unix_mode",
        "server:",
        "api:",
        "credentials:",
        "listen: ",
        "tcp://*:1",
        "channels: [public]",
        "hook:",
        "\"",
        "'",
        "'''",
        "\"\"\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        ":",
        ": ",
        "- ",
        ",",
        "\n",
        "\n  ",
        " ",
        "\t",
        "#",
        "&a ",
        "*a",
        "<<: ",
        "!!int ",
        "|",
        ">-",
        "---\n",
        "\\u00e9",
        "é",
        "\u{feff}",
        "\r\n",
        "0x1F",
        "-1",
        "1e999",
        "99999999999999999999",
        "true",
        "no",
        "~",
        "2026-01-01",
        ".",
        "http://{app}",
        "redis://:p@h",
        "export ",
        "$",
    ];
    proptest::collection::vec(proptest::sample::select(scraps.to_vec()), 0..40).prop_map(|scraps| scraps.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![scraps(), ".{0,80}", any::<String>()], name in "[A-Z_]{0,20}") {
        let source = Arc::new(SourceText { name: "h".into(), text: text.clone() });
        for parse in [file::toml, file::yaml] {
            let mut found = Findings::default();
            let mut config = Config::default();
            if let Some(tree) = parse(&source, &mut found) {
                read::config(tree, &mut config, &mut found);
                validate::config(&config, &mut found);
            }
            let origins = std::mem::take(&mut found.origins);
            match found.into_error() {
                Some(error) => drop(error.to_string()),
                None => drop(print_effective(&Loaded { config, files: Vec::new(), origins })),
            }
        }
        let mut found = Findings::default();
        env::env_file(&source, &mut found);
        drop(found.into_error().map(|error| error.to_string()));
        let value = |name: &str| (name.to_owned(), text.clone());
        let sources = Sources {
            env: vec![value(&format!("HYDRANT_{name}")), value("HYDRANT_LISTEN"), value("HYDRANT_LOG__LEVEL")],
            legacy_env: vec![
                value(&format!("GUSHER_{name}")), value("GUSHER_API_LISTEN"), value("GUSHER_MASTER_API_LISTEN"),
                value("GUSHER_JOB_REDIS_ADDR"), value("GUSHER_API_URI_PREFIX"), value(&format!("SOKETI_{name}")),
                value("SOKETI_DEFAULT_APP_SECRET"), value("SOKETI_DEFAULT_APP_WEBHOOKS"), value("SOKETI_PORT"),
                value("SOKETI_HOST"), value("SOKETI_EVENT_MAX_SIZE_IN_KB"), value("REVERB_SERVER_HOST"),
            ],
            set: vec![text.clone(), format!("apps={text}"), format!("gusher.public_keys={text}")],
            overrides: Overrides { public: Some(text.clone()), apps: vec![text.clone()], ..Overrides::default() },
            ..Sources::default()
        };
        drop(load(&sources).map_err(|error| error.to_string()));
        let files = Files::new(&[("server.yml", &text), ("app.yml", &text)]);
        std::fs::write(files.path("apps.yml"), "server: {}\ncredentials: app.yml\n").unwrap();
        for name in ["server.yml", "apps.yml"] {
            let sources = Sources { push1st: Some(files.path(name)), ..Sources::default() };
            drop(load(&sources).map_err(|error| error.to_string()));
        }
    }
}

#[test]
fn deep_and_repeating_files_are_errors() {
    #[track_caller]
    fn check(text: &str) {
        let files = Files::new(&[("a.toml", text), ("a.yaml", text)]);
        assert!(files.load("a.toml").is_err());
        assert!(files.load("a.yaml").is_err());
    }
    check(&"[".repeat(5000));
    check(&format!("a = {}", "[".repeat(5000)));
    check(&format!("a: {}", "[".repeat(5000)));
    check(&"- ".repeat(5000));
    let twice = |level: usize| format!("a{}: &a{} [*a{level}, *a{level}]\n", level + 1, level + 1);
    check(&format!("a0: &a0 1\n{}", (0..40).map(twice).collect::<String>()));
}

#[test]
fn debug_shows_no_secrets() {
    let text = "[[apps]]\nid = 'a'\nkey = 'k'\nsecret = 'hush1'\nprevious_secrets = ['hush7']\n\
                [[apps.hooks]]\nurl = 'http://u:hush8@h'\n[gusher]\nsession_secret = 'hush2'\n\
                [gusher.remote]\nredis = 'redis://:hush3@h'\n\
                [[listen]]\naddress = ':1'\ndoors = ['gusher']\ntoken = 'hush4'\n";
    let files = Files::new(&[("h.toml", text)]);
    let loaded = load(&Sources { file: Some(Path::new(&files.path("h.toml")).into()), ..Sources::default() }).unwrap();
    assert!(!format!("{loaded:?}").contains("hush"));
    assert!(!print_effective(&loaded).contains("hush"));
    let broken = Files::new(&[("h.toml", &format!("{text}tokne = 'hush5'\n[limits]\nx = 'hush6"))]);
    let sources = Sources { file: Some(broken.path("h.toml")), ..Sources::default() };
    assert!(!format!("{:?}", load(&sources).unwrap_err()).contains("hush"));
}
