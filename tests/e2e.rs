//! From the outside and to the letter: the README's own lines and those that `hydrant dev` prints, run by bash, curl and
//! clients that nobody here wrote. `scripts/test` installs those.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "support/installed.rs"]
mod installed;
#[path = "support/network.rs"]
mod network;
#[path = "support/hydrant.rs"]
mod program;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use installed::{installed, project};
use program::{Dev, Ended, PROGRAM, Running, Server, command, openssl_pair, post, run};
use socket2::{Domain, Socket, Type};
use tokio_tungstenite::tungstenite::client;

/// What step 3 makes arrive.
const GREETING: &str = r#"{"channel":"news","event":"greeting","data":{"hello":"world"}}"#;
const PUSHER_GREETING: &str = r#"{"event":"greeting","channel":"news","data":"{\"hello\":\"world\"}"}"#;

/// The README's block behind the comment `<!-- run: NAME -->`.
fn readme(name: &str) -> String {
    let text = fs::read_to_string(project("README.md")).unwrap();
    let marked = text.split_once(&format!("<!-- run: {name} -->\n```")).map(|(_, rest)| rest);
    let block = marked.and_then(|rest| rest.split_once('\n')?.1.split_once("\n```"));
    block.unwrap_or_else(|| panic!("README.md has no block to run named {name}")).0.to_owned() + "\n"
}

/// A folder that looks like a checkout after `cargo build --release`, and is another.
fn checkout() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("target/release")).unwrap();
    std::os::unix::fs::symlink(PROGRAM, folder.path().join("target/release/hydrant")).unwrap();
    folder
}

/// Lines for bash, in that folder, with the installed clients on its path.
fn bash(folder: &Path, lines: &str) -> Command {
    let mut command = command("bash");
    let path = std::env::var("PATH").unwrap();
    let clients = [installed("venv/bin"), installed("ci-tools/bin/websocat").parent().unwrap().to_owned()];
    let clients = clients.map(|folder| folder.display().to_string()).join(":");
    command.args(["-euc", &format!("set -o pipefail\n{lines}")]).current_dir(folder);
    command.env("PATH", format!("{clients}:{path}")).env("PYTHONUNBUFFERED", "1");
    command
}

/// A browser's console, as far as a WebSocket and a question go: Node with a client of its own making.
fn browser(lines: &str, answer: &str) -> Command {
    let mut command = command("node");
    let setting = "globalThis.WebSocket = require(process.env.WS); globalThis.prompt = () => process.env.ANSWER;";
    command.args(["-e", &format!("{setting}\n{lines}")]);
    command.env("WS", installed("node/node_modules/ws")).env("ANSWER", answer);
    command
}

#[track_caller]
fn succeeds(command: &mut Command) -> Ended {
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{command:?}\n{}\n{}", ended.stdout, ended.stderr);
    ended
}

/// Starts clients, waits until each is subscribed, runs `push`, and waits until each has heard it `times`. A client whose
/// name begins with `Pusher` hears it in Pusher's words. Returns what `push` printed.
fn all_hear(clients: Vec<(&str, Command)>, push: &mut Command, times: usize) -> String {
    let mut clients: Vec<_> =
        clients.into_iter().map(|(name, mut command)| (name, Running::start(&mut command))).collect();
    for (_, client) in &mut clients {
        client.stdout.until("succeeded");
    }
    let pushed = succeeds(push);
    for (name, client) in &mut clients {
        let expected = if name.starts_with("Pusher") { PUSHER_GREETING } else { GREETING };
        for _ in 0..times {
            assert_eq!(client.stdout.until("greeting"), expected, "{name}");
        }
    }
    pushed.stdout
}

// ------------------------------------------------------------------ README

#[test]
fn readme_first_event() {
    network::own("readme_first_event", || {
        let folder = checkout();
        let folder = folder.path();
        succeeds(&mut bash(folder, &readme("secret")));
        let server = Dev::start(&mut bash(folder, &format!("exec {}", readme("server"))));
        let token = succeeds(&mut bash(folder, &format!("{}echo $TOKEN", readme("token")))).stdout;
        fs::write(folder.join("listen.py"), readme("listen.py")).unwrap();
        let clients = vec![
            ("websocat", bash(folder, &(readme("token") + &readme("websocat")))),
            ("python", bash(folder, &format!("{}python3 listen.py \"$TOKEN\"", readme("token")))),
            ("browser", browser(&readme("browser"), token.trim_end())),
            ("Pusher, websocat", bash(folder, &readme("pusher"))),
        ];
        let printed = all_hear(clients, &mut bash(folder, &(readme("push") + &readme("signed"))), 3);
        assert_eq!((printed.matches(GREETING).count(), printed.matches("{}").count()), (2, 1), "{printed}");
        assert_eq!(server.running.stop().code, Some(0));
    });
}

/// `cargo run --release` starts the program without a word: on the ports that the README names.
#[test]
fn dev_prints_lines_that_work() {
    network::own("dev_prints_lines_that_work", || {
        let folder = checkout();
        let folder = folder.path();
        for words in ["", "dev --keys-dir keys"] {
            let server = Dev::start(&mut bash(folder, &format!("exec target/release/hydrant {words}")));
            let ports = ["gusher", "gusher-master", "ops"].map(|door| server.address(door).port());
            assert_eq!(ports, [6001, 6002, 9601]);
            let line = |start: &str| format!("{}\n", server.line(start));
            let script = |name: &str| -> String {
                [format!("const {name}"), format!("{name}.onopen"), format!("{name}.onmessage")]
                    .map(|start| line(&start))
                    .concat()
            };
            let echo = |start: &str| line(&format!("echo '{{\"event\":\"{start}"));
            let clients = vec![
                ("gusher, websocat", bash(folder, &(line("TOKEN=") + &echo("gusher")))),
                ("gusher, browser", browser(&script("gusher"), "")),
                ("Pusher, websocat", bash(folder, &echo("pusher"))),
                ("Pusher, browser", browser(&script("socket"), "")),
            ];
            let push = line("curl ") + &line("target/release/hydrant publish --url");
            let signed = line("target/release/hydrant publish --secret");
            let printed = all_hear(clients, &mut bash(folder, &(push + &signed)), 3);
            assert_eq!((printed.matches(GREETING).count(), printed.matches("{}").count()), (2, 1), "{printed}");
            assert_eq!(server.running.stop().code, Some(0));
        }
    });
}

/// The lines that it prints for TLS, and clients that trust its certificate and nothing else.
#[test]
fn dev_with_tls_prints_lines_that_work() {
    network::own("dev_with_tls_prints_lines_that_work", || {
        let folder = checkout();
        let folder = folder.path();
        let server = Dev::start(&mut bash(folder, "exec target/release/hydrant dev --tls --keys-dir keys"));
        let certificate = folder.join("keys/tls-certificate.pem");
        let line = |start: &str| format!("{}\n", server.line(start));
        let page = |name: &str| {
            let lines = ["const", "", ""].iter().zip(["", ".onopen", ".onmessage"]);
            let lines = lines.map(|(before, after)| line(format!("{before} {name}{after}").trim()));
            let mut page = browser(&lines.collect::<String>(), "");
            page.env("NODE_EXTRA_CA_CERTS", &certificate);
            page
        };
        let url = server.line("const socket").split('"').nth(1).unwrap();
        // not `websockets.sync`: its two threads share one `ssl` socket, and on a busy machine its request is sometimes never
        // sent
        let python = format!(
            "import asyncio, ssl\nfrom websockets.asyncio.client import connect\n\
             async def listen():\n    \
             async with connect({url:?}, ssl=ssl.create_default_context(cafile={certificate:?})) as socket:\n        \
             await socket.send('{{\"event\":\"pusher:subscribe\",\"data\":{{\"channel\":\"news\"}}}}')\n        \
             async for message in socket: print(message)\n\
             asyncio.run(listen())\n"
        );
        fs::write(folder.join("listen.py"), python).unwrap();
        let clients = vec![
            ("gusher, browser", page("gusher")),
            ("Pusher, browser", page("socket")),
            ("Pusher, python", bash(folder, "exec python3 listen.py")),
        ];
        let push = line("curl ") + &line("target/release/hydrant publish --url");
        let signed = line("target/release/hydrant publish --secret");
        all_hear(clients, &mut bash(folder, &(push + &signed)), 3);
        let healthz = format!("curl -sS --cacert {} https://127.0.0.1:6001/healthz", certificate.display());
        assert_eq!(succeeds(&mut bash(folder, &healthz)).stdout.trim_end(), "ok");
        assert_eq!(server.running.stop().code, Some(0));
    });
}

#[test]
fn readme_behind_nginx() {
    network::own("readme_behind_nginx", || {
        let folder = checkout();
        let folder = folder.path();
        let (private, public) = openssl_pair(folder);
        fs::rename(public, folder.join("shop.pem")).unwrap();
        fs::write(folder.join("shop.secret"), "what the shop's backend signs with").unwrap();
        fs::write(folder.join("hydrant.toml"), readme("hydrant.toml")).unwrap();
        succeeds(&mut bash(folder, "target/release/hydrant check-config --config hydrant.toml"));
        let serve = "exec target/release/hydrant serve --config hydrant.toml";
        // an end that the client wants is a line at this level
        let mut server = Server::start(bash(folder, serve).env("HYDRANT_LOG__LEVEL", "hydrant=debug"), 3);

        let nginx = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr notice;\nevents {{}}\nhttp {{ access_log off;\n\
             client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
             server {{ listen 127.0.0.1:8080;\n{}}} }}\n",
            readme("nginx")
        );
        fs::write(folder.join("nginx.conf"), nginx).unwrap();
        let mut proxy = bash(folder, "PATH=$PATH:/usr/sbin exec nginx -p . -c nginx.conf");
        let mut proxy = Running::start(&mut proxy);
        proxy.stderr.until("getrlimit"); // it listens since before that

        let words = "--app shop-key --user alice --channel '*'";
        let token = format!("target/release/hydrant token gusher --key {} {words}", private.display());
        let token = succeeds(&mut bash(folder, &token)).stdout;
        let front: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let (status, answer) = post(front, "/gcs/auth", &format!("jwt={}", token.trim_end()));
        assert_eq!(status, 200, "{answer}");

        // a client from elsewhere is known by its own address
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.2:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&front.into()).unwrap();
        let url = format!("ws://{front}/gcs/ws/shop-key?token={}", token.trim_end());
        let (mut socket, _) = client(url, std::net::TcpStream::from(socket)).unwrap();
        socket.send("{\"event\":\"gusher.ping\",\"data\":1}".into()).unwrap();
        assert!(socket.read().unwrap().to_text().unwrap().contains("gusher.pong_succeeded"));
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
        let ended = server.running.stderr.until("connection ended");
        assert!(ended.contains("address=127.0.0.2 "), "{ended}");
    });
}

// ----------------------------------------------------------- gusher's users

/// The README's variables, and the client that such deployments have in browsers.
#[test]
fn readme_coming_from_gusher() {
    network::own("readme_coming_from_gusher", || {
        let folder = checkout();
        let folder = folder.path();
        let (private, _) = openssl_pair(folder);
        fs::write(folder.join("gusher.env"), readme("gusher.env")).unwrap();
        let start = || {
            let mut serve = bash(folder, &format!("exec {}", readme("gusher")));
            // so that tokens outlive the restart
            serve.env("HYDRANT_GUSHER__SESSION_SECRET", "sessions are signed with this secret");
            let server = Server::start(&mut serve, 3);
            assert_eq!(["gusher", "gusher-master"].map(|door| server.address(door).port()), [8888, 7777]);
            server
        };
        let server = start();
        let words = "--app demo --user alice --channel 'room-*'";
        let token = format!("target/release/hydrant token gusher --key {} {words}", private.display());
        let token = succeeds(&mut bash(folder, &token)).stdout;

        let mut client = command("node");
        client.arg(project("tests/clients/gusher_like.mjs")).env("NODE_MODULES", installed("node/node_modules"));
        let [socket, client_side, master] =
            ["ws://127.0.0.1:8888/gcs/ws/demo", "http://127.0.0.1:8888/gcs/", "http://127.0.0.1:7777/api/"];
        client.args([socket, client_side, master, "demo", token.trim_end()]);
        let mut client = Running::start(&mut client);
        client.stdout.until("restart me");
        assert_eq!(server.running.stop().code, Some(0));
        let _server = start();
        let ended = client.wait();
        assert!(ended.success(), "{}", client.stderr.all());
    });
}
