//! The command line as a user meets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "support/network.rs"]
mod network;
#[path = "support/port.rs"]
mod port;
#[path = "support/hydrant.rs"]
mod program;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use port::ReservedPort;
use program::{Dev, Ended, PROGRAM, Server, command, http, hydrant, openssl_pair, post, run};
use tokio_tungstenite::tungstenite::{Message, connect};

/// Exit codes of sysexits.h: a wrong command line, a wrong configuration.
const USAGE: Option<i32> = Some(64);
const CONFIG: Option<i32> = Some(78);

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// A folder with one file in it.
fn folder_with(name: &str, text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

/// A command in that folder.
fn hydrant_in(folder: &Path, words: &[&str]) -> Command {
    let mut command = command(PROGRAM);
    command.current_dir(folder).args(words);
    command
}

// ------------------------------------------------------------------- words

#[test]
fn version_and_help() {
    let ended = hydrant(&["--version"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), "hydrant 0.1.0\n"));
    let help = hydrant(&["--help"]);
    assert_eq!((help.code, &*help.stderr), (Some(0), ""));
    contains(&help.stdout, &["Usage: hydrant [COMMAND]"]);
    for name in ["dev", "serve", "check-config", "token", "publish", "bench"] {
        contains(&help.stdout, &[&format!("\n  {name} ")]);
        let ended = hydrant(&[name, "--help"]);
        assert_eq!(ended.code, Some(0), "{name}");
        contains(&ended.stdout, &[&format!("Usage: hydrant {name}")]);
    }
    assert!(!help.stdout.contains("master") && !help.stdout.contains("slave"), "{}", help.stdout);
}

#[test]
fn what_is_no_command_line() {
    let check = |words: &[&str], part: &str| {
        let ended = hydrant(words);
        assert_eq!((ended.code, &*ended.stdout), (USAGE, ""), "{words:?}: {}", ended.stderr);
        contains(&ended.stderr, &[part]);
    };
    check(&["frobnicate"], "unrecognized subcommand 'frobnicate'");
    check(&["serve", "--no-such-flag"], "unexpected argument '--no-such-flag'");
    check(&["--config", "hydrant.toml"], "Flags follow a command, as in `hydrant serve --config hydrant.toml`.");
    check(&["publish", "news", "greeting", "1"], "--app <KEY>");
    check(&["publish", "--url", "127.0.0.1:6002", "--app", "a", "c", "e", "1"], "such as http://127.0.0.1:6002/api/");
    check(&["serve", "--set", "limits"], "--set limits: expected KEY=VALUE");
    check(&["serve", "--set", "limits.outbox_byte_max=1"], "did you mean limits.outbox_bytes_max?");
    check(&["serve", "--set", "log.level=loud"], "there is no level `loud`");
    check(&["dev", "--app", "shop"], "--app: expected ID:KEY:SECRET");
    check(&["dev", "--public", "localhost:6001"], "--public: use an IP address, e.g. 127.0.0.1:6001");
    check(&["dev", "--trusted", "0.0.0.0:6002"], "--trusted: 0.0.0.0:6002 is trusted, but other machines reach it");
    check(&["dev", "--keys-dir", "a", "--gusher-public-key", "b"], "cannot be used with");
    check(&["dev", "--gusher-public-key", "none.pem"], "--gusher-public-key: cannot read none.pem: no such file");
    check(&["bench", "frobnicate"], "invalid value 'frobnicate' for '[SCENARIO]...'");
    check(&["bench", "--target", "mqtt"], "[possible values: pusher, gusher-v1, gusher-v3, push1st]");
    check(&["bench", "--rounds", "0"], "at least 1");
    check(&["bench", "--url", "wss://127.0.0.1:1", "--tls"], "cannot be used with");
    check(&["bench", "--pid", "1"], "--url <URL>");
    check(&["bench", "fanout", "--burst", "9", "--rate", "9"], "cannot be used with");
    check(&["bench", "--url", "ws://127.0.0.1:1", "--set", "node.shards=1"], "cannot be used with");
}

#[test]
fn master_and_slave_are_one_process() {
    for words in [&["master"][..], &["slave"], &["master", "-e", "master.env"], &["slave", "--env-file=a", "-h", "b"]] {
        let ended = hydrant(words);
        assert_eq!((ended.code, &*ended.stdout), (USAGE, ""), "{words:?}");
        let sentence = "cannot run as separate processes yet; `hydrant serve` runs both roles in one process";
        contains(&ended.stderr, &[sentence, "`hydrant serve -e master.env -e slave.env`"]);
    }
}

// ----------------------------------------------------------- configuration

#[test]
fn every_problem_of_a_configuration_at_once_and_nothing_started() {
    // Whoever tried to listen there would be told so, instead of what is wrong with the file.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!(
        "[limits]\noutbox_byte_max = 3\nbatch_events_max = 0\n\n[[listen]]\naddress = \"{address}\"\ndoors = [\"gusherr\"]\n"
    );
    let folder = folder_with("hydrant.toml", &text);
    for name in ["serve", "dev", "check-config"] {
        let mut command = hydrant_in(folder.path(), &[name, "--config", "hydrant.toml"]);
        let ended = run(command.env("HYDRANT_LIMITS__BODY_BYTES_MAX", "many"));
        assert_eq!((ended.code, &*ended.stdout), (CONFIG, ""), "{name}: {}", ended.stderr);
        let expected = "\
hydrant.toml:2:1 limits.outbox_byte_max: no such key; did you mean `outbox_bytes_max`?
    2 | outbox_byte_max …
      | ^^^^^^^^^^^^^^^
hydrant.toml:3:20 limits.batch_events_max: must be at least 1
    3 | batch_events_max = 0
      |                    ^
hydrant.toml:7:10 listen[0].doors: there is no door `gusherr`; did you mean `gusher`?
    7 | doors = [\"gusherr\" …
      |          ^^^^^^^^^
env HYDRANT_LIMITS__BODY_BYTES_MAX: expected a whole number, found the text \"many\"
";
        assert_eq!(ended.stderr, expected, "{name}");
    }
}

#[test]
fn a_file_that_is_none() {
    let folder = folder_with("broken.toml", "[limits\nbatch_events_max = 1\n");
    let check = |file: &str, part: &str| {
        let ended = run(&mut hydrant_in(folder.path(), &["serve", "--config", file]));
        assert_eq!(ended.code, CONFIG, "{file}: {}", ended.stderr);
        contains(&ended.stderr, &[part]);
    };
    check("none.toml", "cannot read none.toml: no such file");
    check("hydrant.conf", "hydrant.conf");
    check("broken.toml", "broken.toml:1:");
    check("broken.toml", "\n    1 | [limits\n      | ");
}

#[test]
fn what_only_its_user_can_tell_is_found_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out ec.pem &&
                   openssl genrsa 1024 | openssl rsa -pubout -out short.pem";
    let made = run(Command::new("sh").args(["-c", openssl]).current_dir(folder.path()));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let check = |set: &str, part: &str| {
        for name in ["check-config", "serve", "dev"] {
            let ended = run(&mut hydrant_in(folder.path(), &[name, "--set", set]));
            assert_eq!((ended.code, &*ended.stdout), (CONFIG, ""), "{name} --set {set}: {}", ended.stderr);
            contains(&ended.stderr, &[part]);
        }
    };
    check("gusher.public_keys=['ec.pem']", "error: ec.pem: not an RSA key\n");
    check("gusher.public_keys=['short.pem']", "error: short.pem: not a usable RSA key of 2048 to 8192 bits\n");
    check("gusher.session_secret='of twenty-two letters.'", "gusher.session_secret: secrets have to have at least 32");
    check("gusher.remote.redis='redis://127.0.0.1:99999'", "error: gusher.remote: not a Redis URL");
}

#[test]
fn a_printed_configuration_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (_, public) = openssl_pair(folder.path());
    let text = "[limits]\nbatch_events_max = 7\n[[listen]]\naddress = \"127.0.0.1:7001\"\ndoors = [\"gusher\"]\n\
                path_prefix = \"/push\"\n[gusher]\npublic_keys = [\"public.pem\"]\nopen_apps = true\n";
    fs::write(folder.path().join("one.toml"), text).unwrap();
    let print = |file: &str, words: &[&str]| {
        let mut command = hydrant_in(folder.path(), &["check-config", "--config", file]);
        let ended = run(command.args(words));
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{file}: {}", ended.stdout);
        ended.stdout
    };
    let first = print("one.toml", &["--set", "log.level=warn"]);
    contains(
        &first,
        &[
            "batch_events_max = 7  # one.toml:2\n",
            "level = \"warn\"  # --set\n",
            "body_bytes_max = 10485760  # default\n",
            "address = \"127.0.0.1:7001\"  # one.toml:4\n",
        ],
    );
    assert!(public.exists());
    fs::write(folder.path().join("two.toml"), &first).unwrap();
    let values = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(values(&print("two.toml", &[])), values(&first));
}

#[test]
fn toml_and_yaml_both_start() {
    let folder = tempfile::tempdir().unwrap();
    let (_, public) = openssl_pair(folder.path());
    assert!(public.exists());
    let toml = "[[listen]]\naddress = \"127.0.0.1:0\"\ndoors = [\"gusher-master\"]\ntrusted = true\n\
                [[apps]]\nid = \"shop\"\nkey = \"shop-key\"\ngusher_public_keys = [\"public.pem\"]\n";
    let yaml = "listen:\n  - address: 127.0.0.1:0\n    doors: [gusher-master]\n    trusted: true\n\
                apps:\n  - {id: shop, key: shop-key, gusher_public_keys: [public.pem]}\n";
    for (name, text) in [("hydrant.toml", toml), ("hydrant.yaml", yaml), ("hydrant.yml", yaml)] {
        fs::write(folder.path().join(name), text).unwrap();
        // relative to the file, not to where the program is started
        let file = folder.path().join(name);
        let server = Server::start(command(PROGRAM).args(["serve", "--config"]).arg(&file), 1);
        let master = server.address("gusher-master");
        assert_eq!(http(master, "GET /api/shop-key/channels", ""), (200, "[]".to_owned()), "{name}");
        assert_eq!(http(master, "GET /api/other/channels", ""), (404, "app not found".to_owned()), "{name}");
        let ended = server.running.stop();
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        contains(&ended.stderr, &["shutting down"]);
    }
}

// ------------------------------------------------------- token and publish

#[test]
fn a_token_says_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (private, public) = openssl_pair(folder.path());
    let mut serve = command(PROGRAM);
    serve.args([
        "serve",
        "--set",
        "gusher.open_apps=true",
        "--set",
        "listen=[{address='127.0.0.1:0',doors=['gusher-master'],trusted=true}]",
    ]);
    serve.arg("--set").arg(format!("gusher.public_keys=['{}']", public.display()));
    let server = Server::start(&mut serve, 1);
    let traditional = folder.path().join("pkcs1.pem");
    let openssl =
        run(Command::new("openssl").args(["rsa", "-traditional", "-in"]).arg(&private).arg("-out").arg(&traditional));
    assert_eq!(openssl.code, Some(0), "{}", openssl.stderr);
    for key in [&private, &traditional] {
        let ended = hydrant(&[
            "token",
            "gusher",
            "--key",
            key.to_str().unwrap(),
            "--app",
            "demo",
            "--user",
            "alice",
            "--channel",
            "news",
            "--channel",
            "app*",
            "--remote",
            "chat",
            "--ttl",
            "60",
        ]);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        let token = ended.stdout.strip_suffix('\n').unwrap();
        let (status, answer) = post(server.address("gusher-master"), "/api/decode", &format!("data={token}"));
        let claims: serde_json::Value =
            serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{status} {answer}: {e}"));
        let expected = serde_json::json!({
            "channels": ["news", "app*"], "user_id": "alice", "app_key": "demo", "remotes": { "chat": true }
        });
        assert_eq!((status, &claims["gusher"]), (200, &expected));
    }
    let ended = hydrant(&["token", "gusher", "--key", public.to_str().unwrap(), "--app", "demo", "--user", "alice"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
    contains(&ended.stderr, &["public.pem: this is a public key"]);
}

#[test]
fn tokens_of_an_apps_secret() {
    let folder = folder_with("secret", "7ad3773142a6692b25b8\n");
    let app = ["--key", "278d425bdf160c739803", "--secret-file", "secret"];
    let make = |words: &[&str]| {
        let ended = run(hydrant_in(folder.path(), &["token"]).args(words).args(app));
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        ended.stdout
    };
    assert_eq!(
        make(&["pusher", "--socket-id", "1234.1234", "--channel", "private-foobar"]),
        "{\"auth\":\"278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4\"}\n"
    );
    let words = ["push1st", "--origin", "*", "--channel", "news", "--ttl", "0"];
    assert!(make(&words).starts_with("h1."));
    assert_ne!(make(&words), make(&words));

    let none = run(&mut hydrant_in(folder.path(), &["token", "push1st", "--key", "k"]));
    assert_eq!((none.code, &*none.stdout), (USAGE, ""));
    contains(&none.stderr, &["<--secret <SECRET>|--secret-file <FILE>>"]);
    let unreadable = run(&mut hydrant_in(folder.path(), &["token", "push1st", "--key=k", "--secret-file=none"]));
    assert_eq!((unreadable.code, &*unreadable.stdout), (Some(1), ""));
    contains(&unreadable.stderr, &["error: none: cannot read the secret: No such file"]);
}

#[test]
fn publish_and_what_keeps_it_from_it() {
    let check = |url: &str, words: &[&str], code: i32, out: &str, error: &[&str]| {
        let ended = run(command(PROGRAM).args(["publish", "--url", url]).args(words));
        assert_eq!((ended.code, &*ended.stdout), (Some(code), out), "{}", ended.stderr);
        contains(&ended.stderr, error);
    };
    let server = Dev::anywhere(&["--app", "1:demo"]);
    let master = format!("http://{}/api/", server.address("gusher-master"));
    let pushed = "{\"channel\":\"news\",\"event\":\"greeting\",\"data\":{\"a\": 1.50}}\n";
    check(&master, &["--app", "demo", "news", "greeting", r#"{"a": 1.50}"#], 0, pushed, &[]);
    let odd = "{\"channel\":\"a b\",\"event\":\"é&=%\",\"data\":\"x=1&y\\n\"}\n";
    check(&master, &["--app", "demo", "a b", "é&=%", "x=1&y\n"], 0, odd, &[]);
    check(&master, &["--app", "other", "news", "greeting", "1"], 1, "", &["answered 404 Not Found: app not found"]);
    check(&master, &["--app", "demo", "news", "greeting", ""], 1, "", &["answered 400 Bad Request: empty data"]);
    let nobody = ReservedPort::new();
    let refused = ["error: cannot reach http://127.0.0.1:", "refused", "is the server running"];
    check(
        &format!("http://127.0.0.1:{}/api/", nobody.number),
        &["--app", "demo", "news", "greeting", "1"],
        1,
        "",
        &refused,
    );
}

#[test]
fn publish_through_a_listener_with_a_token() {
    let listen = "listen=[{address='127.0.0.1:0',doors=['gusher-master'],trusted=true,token='the-token'}]";
    let mut serve = command(PROGRAM);
    serve.args(["serve", "--set", listen, "--set", "apps=[{id='1',key='demo'}]"]);
    let server = Server::start(&mut serve, 1);
    let url = format!("http://{}/api/", server.address("gusher-master"));
    let publish = || {
        let mut publish = command(PROGRAM);
        publish.args(["publish", "--url", &url, "--app", "demo", "news", "greeting", "1"]);
        publish
    };
    let without = run(&mut publish());
    assert_eq!(without.code, Some(1));
    contains(&without.stderr, &["answered 403 Forbidden: this listener needs its token"]);
    assert_eq!(run(publish().args(["--token", "the-token"])).code, Some(0));
    assert_eq!(run(publish().env("HYDRANT_PUBLISH_TOKEN", "the-token")).code, Some(0));
    contains(&run(publish().args(["--token", "another"])).stderr, &["answered 403 Forbidden"]);
}

#[test]
fn a_secret_in_the_environment_is_for_signed_publishes() {
    let with_secret = || {
        let mut command = command(PROGRAM);
        command.env("HYDRANT_PUBLISH_SECRET", "the-secret");
        command
    };
    let listen = "listen=[{address='127.0.0.1:0',doors=['gusher-master'],trusted=true},\
                  {address='127.0.0.1:0',doors=['pusher']}]";
    let mut serve = with_secret();
    serve.args(["serve", "--set", listen, "--set", "apps=[{id='1',key='demo',secret='the-secret'}]"]);
    let server = Server::start(&mut serve, 2);
    let (master, pusher) = (server.address("gusher-master"), server.address("pusher"));
    let publish = |command: &mut Command, url: &str, more: &[&str]| {
        run(command.args(["publish", "--url", url, "--app", "demo", "news", "greeting", "1"]).args(more))
    };
    let (master, pusher) = (format!("http://{master}/api/"), format!("http://{pusher}/"));
    assert_eq!(publish(&mut with_secret(), &master, &[]).code, Some(0));
    assert_eq!(publish(&mut with_secret(), &pusher, &["--id", "1"]).code, Some(0));
    assert_eq!(publish(&mut command(PROGRAM), &pusher, &["--id=1", "--secret=the-secret"]).code, Some(0));
    contains(&publish(&mut command(PROGRAM), &pusher, &["--id", "1"]).stderr, &["HYDRANT_PUBLISH_SECRET"]);
    contains(&publish(&mut command(PROGRAM), &master, &["--secret", "x"]).stderr, &["--id"]);
}

// --------------------------------------------------------------------- dev

#[test]
fn dev_makes_credentials_for_each_boot() {
    let boots = [Dev::anywhere(&[]), Dev::anywhere(&[])];
    for what in ["id", "key", "secret"] {
        assert_ne!(boots[0].app(what), boots[1].app(what), "app {what}");
    }
    for boot in &boots {
        let id = boot.app("id");
        assert!(id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_digit()), "{id:?}");
        assert!(boot.app("key").len() == 20 && boot.app("secret").len() == 20, "{}", boot.text);
        assert!(!boot.text.contains("PRIVATE KEY"), "{}", boot.text);
        let (status, answer) = http(boot.address("ops"), "GET /readyz", "");
        assert_eq!((status, &*answer), (200, "ready"));
        let token = boot.line("TOKEN=").strip_prefix("TOKEN=").unwrap();
        let (status, answer) = post(boot.address("gusher-master"), "/api/decode", &format!("data={token}"));
        assert_eq!(status, 200, "{answer}");
        contains(&answer, &[boot.app("key"), "alice"]);
    }
}

#[test]
fn dev_takes_apps_and_keeps_those_of_a_file() {
    let dev = Dev::anywhere(&["--app", "shop:shop-key:shop-secret", "--app", "2:second"]);
    assert_eq!((dev.app("id"), dev.app("key"), dev.app("secret")), ("shop", "shop-key", "shop-secret"));
    for (app, status) in [("shop-key", 200), ("second", 200), ("third", 404)] {
        assert_eq!(http(dev.address("gusher-master"), &format!("GET /api/{app}/channels"), "").0, status, "{app}");
    }

    let folder =
        folder_with("hydrant.toml", "apps = [{ id = \"7\", key = \"filed\" }]\ngusher = { client_prefix = \"/c/\" }\n");
    let file = folder.path().join("hydrant.toml");
    let dev = Dev::anywhere(&["--config", file.to_str().unwrap()]);
    assert_eq!((dev.app("id"), dev.app("key"), dev.app("secret")), ("7", "filed", "none"));
    contains(dev.line("const gusher"), &["/c/ws/filed?token="]);
    contains(dev.line("const socket"), &["/app/filed?protocol=7"]);
}

#[test]
fn dev_writes_keys_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("made/keys");
    // what is there already, readable by all, is replaced
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("gusher-private.pem"), "old").unwrap();
    let dev = Dev::anywhere(&["--keys-dir", keys.to_str().unwrap(), "--app", "1:demo"]);
    let mode = |name: &str| fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("gusher-private.pem"), mode("gusher-public.pem") & 0o700), (0o600, 0o600));
    let private = keys.join("gusher-private.pem");
    contains(dev.line("TOKEN="), &[&format!("token gusher --key {} --app demo", private.display())]);
    let token =
        hydrant(&["token", "gusher", "--key", private.to_str().unwrap(), "--app", "demo", "--user", "bob"]).stdout;
    assert_eq!(post(dev.address("gusher"), "/gcs/auth", &format!("jwt={}", token.trim_end())).0, 200);

    // its public half is as good to another server
    let public = keys.join("gusher-public.pem");
    let other = Dev::anywhere(&["--gusher-public-key", public.to_str().unwrap(), "--app", "1:demo"]);
    assert_eq!(post(other.address("gusher"), "/gcs/auth", &format!("jwt={}", token.trim_end())).0, 200);
    contains(other.line("TOKEN="), &["--key PRIVATE_KEY.pem"]);
}

#[test]
fn dev_speaks_tls_with_a_certificate_of_the_boot() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let dev = Dev::anywhere(&["--tls", "--app", "1:demo:the-secret", "--keys-dir", keys.to_str().unwrap()]);
    let (public, trusted) = (dev.address("gusher"), dev.address("gusher-master"));
    contains(dev.line(&format!("  https://{public} ")), &["clients connect here"]);
    contains(dev.line("echo"), &["websocat -nk \"wss://", "/app/demo?protocol=7"]);
    contains(dev.line("new Pusher("), &["wssPort: ", "forceTLS: true", "\"wss\""]);
    contains(dev.line("curl -d"), &[&format!("http://{trusted}/api/push/demo/")]);
    // its fingerprint is that of the file
    let file = keys.join("tls-certificate.pem");
    let openssl = run(Command::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&file));
    let fingerprint = openssl.stdout.trim().split_once('=').unwrap().1;
    dev.line(&format!("  {fingerprint}"));
    let publish = |more: &[&str]| {
        let url = format!("https://{public}/");
        let words = ["publish", "--url", &url, "--id", "1", "--secret", "the-secret", "--app", "demo"];
        run(command(PROGRAM).args(words).args(more).args(["news", "greeting", "1"]))
    };
    let published = publish(&["--insecure"]);
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    let refused = publish(&[]);
    assert_eq!(refused.code, Some(1));
    contains(&refused.stderr, &["cannot reach https://", "certificate"]);
}

#[test]
fn certificates_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (key, certificate) in [("a.key", "a.pem"), ("b.key", "b.pem")] {
        let made = run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=localhost", "-keyout", &path(key), "-out", &path(certificate)]));
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }
    fs::write(path("no.pem"), "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n").unwrap();
    fs::write(path("no.key"), "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n").unwrap();
    let check = |certificate: &str, key: &str, expected: &str| {
        let listen = format!(
            "listen=[{{address='127.0.0.1:0',doors=['gusher'],tls_certificate='{}',tls_key='{}'}}]",
            path(certificate),
            path(key)
        );
        for name in ["check-config", "serve"] {
            let ended = run(command(PROGRAM).args([name, "--set", &listen, "--set", "apps=[{id='1',key='a'}]"]));
            assert_eq!(ended.code, if expected.is_empty() { Some(0) } else { CONFIG }, "{name} {}", ended.stderr);
            contains(&ended.stderr, &[expected]);
            if expected.is_empty() {
                return;
            }
        }
    };
    check("a.pem", "a.key", "");
    check("a.pem", "b.key", &format!("listen[0]: the key in {} does not belong to the", path("b.key")));
    check("no.pem", "a.key", &format!("{}: the first certificate cannot be used", path("no.pem")));
    check("a.pem", "no.key", &format!("{}: the key cannot be used", path("no.key")));
}

#[test]
fn an_address_in_use_names_what_chooses_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for flag in ["--public", "--trusted", "--ops"] {
        let mut words = vec!["dev"];
        for other in ["--public", "--trusted", "--ops"] {
            words.extend([other, if other == flag { &*taken } else { "127.0.0.1:0" }]);
        }
        let ended = hydrant(&words);
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{flag}");
        let expected = format!(
            "error: cannot listen on {taken}: another program listens there; {flag} ADDR chooses another address\n"
        );
        assert_eq!(ended.stderr, expected);
    }
    let text = format!("[[apps]]\nid = \"1\"\nkey = \"k\"\n[[listen]]\naddress = \"{taken}\"\ndoors = [\"gusher\"]\n");
    let folder = folder_with("hydrant.toml", &text);
    let ended = run(&mut hydrant_in(folder.path(), &["serve", "--config", "hydrant.toml"]));
    assert_eq!(ended.code, Some(1));
    let expected =
        format!("cannot listen on {taken}: another program listens there; listen[0].address (hydrant.toml:5) chooses");
    contains(&ended.stderr, &[&expected]);
}

// ------------------------------------------------------------------ signals

#[test]
fn a_signal_ends_it_and_a_second_one_at_once() {
    for name in ["TERM", "INT"] {
        let mut dev = Dev::anywhere(&["--app", "1:demo"]);
        dev.running.signal(name);
        assert_eq!(dev.running.wait().code(), Some(0), "{name}");
    }
    // a client that does not answer the goodbye is waited for
    let mut dev = Dev::anywhere(&["--app", "1:demo", "--set", "shutdown.grace_ms=600000"]);
    let (_client, _) = connect(socket_url(&dev)).unwrap();
    dev.running.signal("TERM");
    dev.running.stderr.until("shutting down; again to stop at once");
    dev.running.signal("TERM");
    assert_eq!(dev.running.wait().code(), Some(0));
}

#[test]
fn a_changed_configuration_is_taken_over_and_a_bad_one_is_not() {
    let text = |apps: &[&str], more: &str| {
        let doors = r#"doors = ["gusher-master"], trusted = true"#;
        let app = |key: &&str| format!(r#"{{ id = "{key}", key = "{key}", secret = "SECRET-of-{key}" }}"#);
        let apps: Vec<String> = apps.iter().map(app).collect();
        format!("listen = [{{ address = \"127.0.0.1:0\", {doors} }}]\napps = [{}]\n{more}\n", apps.join(", "))
    };
    let folder = folder_with("hydrant.toml", &text(&["a"], ""));
    let write = |text: String| fs::write(folder.path().join("hydrant.toml"), text).unwrap();
    let mut server = Server::start(&mut hydrant_in(folder.path(), &["serve", "--config", "hydrant.toml"]), 1);
    let statuses = |server: &Server| {
        let status = |app: &str| http(server.address("gusher-master"), &format!("GET /api/{app}/channels"), "").0;
        [status("a"), status("b")]
    };
    assert_eq!(statuses(&server), [200, 404]);
    // the file is watched
    write(text(&["a", "b"], "limits.batch_events_max = 2"));
    let log = |server: &mut Server, part: &str| server.running.stderr.until(part);
    log(&mut server, "configuration reloaded changes=2");
    log(&mut server, "apps[b] added");
    log(&mut server, "limits.batch_events_max: 10000 -> 2");
    assert_eq!(statuses(&server), [200, 200]);
    // a signal asks as well
    server.running.signal("HUP");
    log(&mut server, "configuration reloaded changes=0");
    // what is wrong is told whole, and changes nothing
    write(text(&["b"], "limits.batch_events_max = 0\nlimits.outbox_byte_max = 3"));
    log(&mut server, "the configuration is not reloaded, and stays what it was:");
    log(&mut server, "hydrant.toml:3:27 limits.batch_events_max: must be at least 1");
    log(&mut server, "hydrant.toml:4:8 limits.outbox_byte_max: no such key");
    assert_eq!(statuses(&server), [200, 200]);
    // what is mended is taken over
    write(text(&["b"], "log.level = \"debug\"").replace("SECRET-of-b", "SECRET-of-B"));
    log(&mut server, "configuration reloaded changes=4");
    log(&mut server, "apps[a] removed");
    log(&mut server, "apps[b].secret changed");
    log(&mut server, "limits.batch_events_max: 2 -> 10000");
    log(&mut server, "log.level: \"info\" -> \"debug\"; needs a restart");
    assert_eq!(statuses(&server), [404, 200]);
    // a file that is cut off does not send everybody away
    write(String::new());
    log(&mut server, "the configuration is not reloaded, and stays what it was:");
    log(&mut server, "there are no apps left in it");
    assert_eq!(statuses(&server), [404, 200]);
    let ended = server.running.stop();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.stderr.contains("SECRET"), "{}", ended.stderr);
}

#[test]
fn the_end_of_a_terminal_ends_dev() {
    let mut dev = Dev::anywhere(&["--app", "1:demo"]);
    dev.running.signal("HUP");
    assert_eq!(dev.running.wait().code(), Some(0));
}

/// Where the printed snippet connects to.
fn socket_url(dev: &Dev) -> &str {
    dev.line("const socket").split('"').nth(1).unwrap()
}

// ----------------------------------------------------- gusher's environment

/// What gusher v3 has in its two files, with a comment behind a value as it has them.
const MASTER_ENV: &str = "# master\nGUSHER_NATS_ADDR=nats://127.0.0.1:4222\nGUSHER_MASTER_API_LISTEN=127.0.0.1:7777\n\
                          GUSHER_MASTER_URI_PREFIX=/api/\nGUSHER_PUBLIC_PEM_FILE=public.pem ## rsa public key\n\
                          GUSHER_LOG_OUTPUT=stdout   # stdout | file | both\n";
const SLAVE_ENV: &str = "GUSHER_NATS_ADDR=nats://127.0.0.1:4222\nGUSHER_API_LISTEN=127.0.0.1:8888\n\
                         GUSHER_API_URI_PREFIX=/clients\nGUSHER_PUBLIC_PEM_FILE=public.pem\nGUSHER_SCAN_INTERVAL=30\n\
                         GUSHER_SCAN_INTERWAL=30\nGUSHER_RECEIVE_MAX_MESSAGE_SIZE=600\n";

#[test]
fn gusher_variables_start_both_roles() {
    network::own("gusher_variables_start_both_roles", || {
        let folder = tempfile::tempdir().unwrap();
        let (private, _) = openssl_pair(folder.path());
        let check = |serve: &mut Command| {
            let server = Server::start(serve.current_dir(folder.path()), 3);
            let (client, master) = (server.address("gusher"), server.address("gusher-master"));
            assert_eq!([client.port(), master.port()], [8888, 7777]);
            let words = ["--app", "T", "--user", "u1", "--channel", "AA"];
            let token = run(command(PROGRAM).args(["token", "gusher", "--key"]).arg(&private).args(words)).stdout;
            let (status, answer) = post(client, "/clients/auth", &format!("jwt={}", token.trim_end()));
            assert_eq!(status, 200, "{answer}");
            let token: serde_json::Value = serde_json::from_str(&answer).unwrap();
            let url = format!("ws://{client}/clients/ws/T?token={}", token["token"].as_str().unwrap());
            let (mut socket, _) = connect(url).unwrap();
            socket.send(Message::text(r#"{"event":"gusher.subscribe","data":{"channel":"AA"}}"#)).unwrap();
            contains(socket.read().unwrap().to_text().unwrap(), &["gusher.subscribe_succeeded"]);
            assert_eq!(post(master, "/api/push/T/AA/ev", "data=1").0, 200);
            assert_eq!(socket.read().unwrap().to_text().unwrap(), r#"{"channel":"AA","event":"ev","data":1}"#);
            // each of the two is what it was, and nothing else
            assert_eq!(http(client, "GET /api/T/channels", "").0, 404);
            assert_eq!(http(master, "POST /clients/auth", "").0, 404);
            let log = server.running.stderr.seen.join("\n");
            for (name, reason) in [
                ("GUSHER_NATS_ADDR", "master and slave are one process, and need nothing between them"),
                ("GUSHER_SCAN_INTERVAL", "who is online is known at every moment"),
                ("GUSHER_SCAN_INTERWAL", "there is no such setting; did you mean GUSHER_SCAN_INTERVAL?"),
            ] {
                let warning = format!("{name} is ignored: {reason}");
                assert_eq!(log.matches(&warning).count(), 1, "{warning}\n{log}");
            }
            assert!(!log.contains("GUSHER_LOG_OUTPUT"), "{log}");
            assert_eq!(server.running.stop().code, Some(0));
        };
        fs::write(folder.path().join("master.env"), MASTER_ENV).unwrap();
        fs::write(folder.path().join("slave.env"), SLAVE_ENV).unwrap();
        check(command(PROGRAM).args(["serve", "-e", "master.env", "--env-file", "slave.env"]));
        let mut serve = command(PROGRAM);
        for line in MASTER_ENV.lines().chain(SLAVE_ENV.lines()).filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once('=').unwrap();
            serve.env(name, value.split('#').next().unwrap().trim());
        }
        check(serve.arg("serve"));
    });
}

#[test]
fn one_of_gushers_two_addresses_is_not_enough() {
    let folder = folder_with("master.env", MASTER_ENV);
    openssl_pair(folder.path());
    let ended = run(&mut hydrant_in(folder.path(), &["serve", "-e", "master.env"]));
    assert_eq!(ended.code, CONFIG);
    contains(&ended.stderr, &["GUSHER_MASTER_API_LISTEN: GUSHER_API_LISTEN is not set", "set both"]);
    let ended = run(&mut hydrant_in(folder.path(), &["serve", "-e", "none.env"]));
    assert_eq!(ended.code, CONFIG);
    contains(&ended.stderr, &["cannot read none.env: no such file"]);
}

// ------------------------------------------------------------------ secrets

#[test]
fn secrets_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (private, _) = openssl_pair(folder.path());
    let text = r#"
log.level = "trace"
[[listen]]
address = "127.0.0.1:0"
doors = ["gusher"]
[[listen]]
address = "127.0.0.1:0"
doors = ["gusher-master"]
trusted = true
token = "SECRET-of-the-listener"
[[apps]]
id = "1"
key = "demo"
secret = "SECRET-of-the-app"
gusher_public_keys = ["public.pem"]
[gusher]
session_secret_file = "session"
[gusher.remote]
redis = "redis://user:SECRET-of-redis@127.0.0.1:1/0"
timeout_ms = 200
"#;
    fs::write(folder.path().join("hydrant.toml"), text).unwrap();
    fs::write(folder.path().join("session"), "SECRET-of-sessions-of-32-bytes-and-more\n").unwrap();
    let words = ["--app", "demo", "--user", "alice", "--channel", "*", "--remote", "chat"];
    let jwt = run(command(PROGRAM).args(["token", "gusher", "--key"]).arg(&private).args(words)).stdout;
    let jwt = jwt.trim_end();

    let server = Server::start(&mut hydrant_in(folder.path(), &["serve", "--config", "hydrant.toml"]), 2);
    let (client, master) = (server.address("gusher"), server.address("gusher-master"));
    let (_, answer) = post(client, "/gcs/auth", &format!("jwt={jwt}"));
    let session: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let session = session["token"].as_str().unwrap();
    for token in [jwt, session] {
        let (mut socket, _) = connect(format!("ws://{client}/gcs/ws/demo?token={token}")).unwrap();
        let remote = r#"{"event":"gusher.remote","data":{"remote":"chat","uid":"1","payload":{}},"debug":true}"#;
        socket.send(Message::text(remote)).unwrap();
        contains(socket.read().unwrap().to_text().unwrap(), &["gusher.remote_error"]);
        assert_eq!(http(client, &format!("GET /gcs/ws/other?token={token}"), "").0, 401);
    }
    assert_eq!(post(client, "/gcs/auth", &format!("jwt={jwt}x")).0, 401);
    let push =
        |token: &str| http(master, &format!("POST /api/push/demo/news/e?data=1\nAuthorization: Bearer {token}"), "").0;
    assert_eq!([push("SECRET-of-the-listener"), push("SECRET-wrong")], [200, 403]);
    let served = server.running.stop();
    contains(&served.stderr, &["connection ended"]);

    let printed = run(&mut hydrant_in(folder.path(), &["check-config", "--config", "hydrant.toml"]));
    contains(&printed.stdout, &["secret = \"***\"", "token = \"***\""]);
    let broken = text.replace("token = ", "tokn = ").replace("redis = \"redis:", "redis = \"rediss:") + "url = \"x\"\n";
    fs::write(folder.path().join("broken.toml"), broken).unwrap();
    let refused = run(&mut hydrant_in(folder.path(), &["serve", "--config", "broken.toml"]));
    assert_eq!(refused.code, CONFIG);
    for Ended { stdout, stderr, .. } in [&served, &printed, &refused] {
        for shown in [stdout, stderr] {
            for secret in ["SECRET", jwt, session] {
                let line = shown.lines().find(|line| line.contains(secret));
                assert_eq!(line, None, "{secret}");
            }
        }
    }
}

// ------------------------------------------------------------------- bench

/// The line of JSON that a bench ended with.
#[track_caller]
fn bench_json(ended: &Ended) -> serde_json::Value {
    let line = ended.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}\n{}", ended.stderr))
}

#[test]
fn a_bench_of_a_server_that_cannot_be_driven_says_why() {
    let check = |words: &[&str], part: &str| {
        let ended = hydrant(&[&["bench", "--quick", "fanout"], words].concat());
        assert_eq!(ended.code, Some(1), "{words:?}: {}", ended.stderr);
        contains(&ended.stderr, &[part]);
    };
    let there = |url| ["--url", url, "--app-id", "1", "--key", "k", "--secret", "s"];
    check(&["--url", "ws://127.0.0.1:1", "--key", "k"], "--target pusher needs --app-id");
    check(&["--url", "ws://127.0.0.1:1", "--target", "gusher-v3", "--key", "k"], "needs --jwt-key or --jwt");
    check(&there("wss://127.0.0.1:1"), "connect to 127.0.0.1:1: Connection refused");
    check(&there("ws://127.0.0.1:1"), "connect to 127.0.0.1:1: Connection refused");
    check(&[&there("ws://127.0.0.1:1")[..], &["--pid", "4294967295"]].concat(), "there is no process 4294967295");
    check(&["presence", "--target", "push1st"], "presence channels are Pusher's");
}

#[test]
fn a_bench_of_its_own_server_ends_with_a_table_and_one_line_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let ended = hydrant(&["bench", "--quick", "publish", "many", "--json", path.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    contains(&ended.stderr, &["publish kept-alive (1/1): server CPU, us per request "]);
    contains(&ended.stdout, &["hydrant 0.1.0 drove its own server (pusher)", "\nmany 500/s to 1 x 4 "]);
    let json = bench_json(&ended);
    assert_eq!(fs::read_to_string(path).unwrap(), format!("{json}\n"));
    assert_eq!((&json["format"], &json["server"], &json["quick"]), (&1.into(), &"own".into(), &true.into()));
    assert!(json["verdict"].is_null() && json["failures"] == serde_json::json!([]), "{json}");
    assert!(json["machine"]["cores"].is_u64() && json["machine"]["congestion_control"].is_string(), "{json}");
    let publish = &json["cases"][2];
    assert_eq!(
        (&publish["scenario"], &publish["case"], &publish["rounds"]),
        (&"publish".into(), &"kept-alive".into(), &1.into())
    );
    let figure = &publish["figures"][0];
    assert_eq!(
        (&figure["figure"], &figure["goal"]),
        (&"cpu_us_per_request".into(), &serde_json::json!({ "ratio_max": 1.7 }))
    );
    assert!(figure["ratio"].is_number() && figure["verdict"].is_null(), "{figure}");
    assert_eq!(json["cases"].as_array().unwrap().len(), 5, "{json}");
}

/// Drives a server that somebody else started: every protocol that there is by what it documents.
#[track_caller]
fn drive(target: &str, api_door: &str, cases: usize) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().to_str().unwrap();
    let dev = Dev::anywhere(&["--app", "1:bench:secret", "--keys-dir", keys]);
    let (url, api) = (format!("ws://{}", dev.address("pusher")), format!("http://{}", dev.address(api_door)));
    let (jwt_key, pid) = (format!("{keys}/gusher-private.pem"), dev.running.id().to_string());
    let mut words =
        vec!["bench", "--quick", "fanout", "many", "publish", "connect", "--subscribers", "5", "--rate", "50"];
    words.extend(["--channels", "3", "--target", target, "--url", &url, "--api", &api, "--pid", &pid]);
    words.extend(["--app-id", "1", "--key", "bench", "--secret", "secret", "--jwt-key", &jwt_key]);
    let ended = hydrant(&words);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let json = bench_json(&ended);
    assert_eq!((&json["target"], &json["server"]), (&target.into(), &url.into()));
    assert_eq!(json["cases"].as_array().unwrap().len(), cases, "{json}");
    for case in json["cases"].as_array().unwrap() {
        assert!(case["figures"].as_array().unwrap().iter().all(|figure| figure["goal"].is_null()), "{case}");
        assert!(case["beside"].is_null(), "no floor was asked for: {case}");
    }
    let fan_out = &json["cases"][0]["server"];
    assert_eq!((&fan_out["deliveries"], &fan_out["amiss"], &fan_out["refused"]), (&50.into(), &0.into(), &0.into()));
    for field in ["deliveries_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms", "server_cpu_s_per_million"] {
        assert!(fan_out[field].as_f64().unwrap() > 0.0, "{field}: {fan_out}");
    }
    for field in ["server_rss_before_bytes", "server_rss_peak_bytes", "server_rss_after_bytes", "client_cpu_s"] {
        assert!(fan_out[field].as_f64().unwrap() > 0.0, "{field}: {fan_out}");
    }
}

#[test]
fn a_pusher_server_is_driven() {
    drive("pusher", "pusher", 6);
}

#[test]
fn a_gusher_v1_server_is_driven() {
    drive("gusher-v1", "gusher-master", 6);
}

#[test]
fn a_gusher_v3_server_is_driven() {
    drive("gusher-v3", "gusher-master", 6);
}

#[test]
fn a_push1st_server_is_driven() {
    drive("push1st", "push1st", 4);
}

#[test]
fn a_soak_shows_what_the_server_holds_and_that_it_is_given_back() {
    let ended = hydrant(&["bench", "soak", "--quick"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    contains(&ended.stderr, &["\n  soak ", " s: ", " MB resident, ", " open files, ", " 0 lost, 0 refused"]);
    let json = bench_json(&ended);
    let case = &json["cases"][0];
    let sample = &case["samples"][0];
    for (name, least) in [("connections", 50), ("channels", 3), ("open_files", 50), ("deliveries", 1)] {
        assert!(sample[name].as_u64().is_some_and(|value| value >= least), "{name}: {sample}");
    }
    for name in ["amiss", "passers_amiss", "closed", "refused", "gauges_left"] {
        assert_eq!(case["server"][name], 0, "{name}: {}", ended.stderr);
    }
    assert!(case["server"]["passers"].as_u64().unwrap() >= 5, "{case}");
}

#[test]
fn a_bench_speaks_tls() {
    let ended = hydrant(&["bench", "--quick", "--tls", "idle", "connect"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    contains(&ended.stdout, &["\nover TLS, each handshake in full, certificates not verified; floors are plain"]);
    assert_eq!(bench_json(&ended)["tls"], true);
}

#[test]
fn a_bench_inflates_what_it_gets() {
    let ended = hydrant(&["bench", "--quick", "--deflate", "fanout", "--bytes", "1024", "--rate", "50"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let json = bench_json(&ended);
    let server = &json["cases"][0]["server"];
    assert_eq!((&json["deflate"], &server["amiss"]), (&true.into(), &0.into()), "{}", ended.stderr);
    let ratio = server["deflate_ratio"].as_f64().unwrap();
    assert!(0.2 < ratio && ratio < 0.7, "{ratio}");
}
