//! `hydrant dev`: a server in one command, with credentials made for this boot and lines to paste.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::rand;

use crate::config::{Address, Overrides, PublicKeyPem};
use crate::credential::jwt::GusherClaims;
use crate::credential::keygen::{self, RsaPair};
use crate::node::Node;

use super::serve::serve;
use super::sources;

/// How long the token that is printed is good for.
const TOKEN_TTL_S: u64 = 24 * 3600;

/// Run a server for trying things out: no configuration, credentials made for this boot, lines to paste
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: sources::Args,
    /// Where clients connect, such as 127.0.0.1:6001
    #[arg(long, value_name = "ADDR")]
    public: Option<String>,
    /// Where backends push, without credentials: keep it on loopback
    #[arg(long, value_name = "ADDR")]
    trusted: Option<String>,
    /// Where health and metrics are
    #[arg(long, value_name = "ADDR")]
    ops: Option<String>,
    /// An app instead of one made for this boot; repeatable
    #[arg(long = "app", value_name = "ID:KEY:SECRET")]
    apps: Vec<String>,
    /// The public key, a PEM file, that users' tokens are signed for, instead of a pair made for this boot
    #[arg(long, value_name = "FILE")]
    gusher_public_key: Option<PathBuf>,
    /// Write the key pair made for this boot to this directory, instead of to the terminal
    #[arg(long, value_name = "DIR", conflicts_with = "gusher_public_key")]
    keys_dir: Option<PathBuf>,
}

/// Serves until a signal.
///
/// # Errors
/// A flag is wrong, or a listener cannot be had.
pub fn run(args: Args) -> anyhow::Result<()> {
    let pair = match &args.gusher_public_key {
        Some(_) => None,
        None => Some(keygen::generate_rsa()?),
    };
    let apps = if args.apps.is_empty() { vec![generate_app()?] } else { args.apps };
    let own_keys = args.gusher_public_key.clone();
    let overrides = Overrides {
        public: args.public,
        trusted: args.trusted,
        ops: args.ops,
        apps,
        gusher_public_key: args.gusher_public_key,
    };
    let mut config = args.sources.load(overrides)?.config;
    if let Some(pair) = &pair {
        let made = PublicKeyPem::parse(&pair.public_pem, "the key pair of this boot").map_err(anyhow::Error::msg)?;
        config.gusher.public_keys.push(made);
        config.warnings.retain(|warning| !warning.contains("nobody can connect"));
    }
    let key_file = match (&pair, &args.keys_dir) {
        (Some(pair), Some(dir)) => Some(write_pair(pair, dir)?),
        _ => None,
    };
    let app = config.apps.first().context("dev needs an app")?.clone();
    serve(&config, |node| {
        let guide = Guide {
            app_id: &app.id,
            app_key: &app.key,
            app_secret: app.secret.as_ref().map_or("", |secret| secret.expose()),
            pair: pair.as_ref(),
            key_file: key_file.as_deref(),
            own_keys: own_keys.as_deref(),
        };
        // a terminal that has gone away must not end the server
        let _ = write!(std::io::stdout(), "{}", guide.text(node));
        let _ = std::io::stdout().flush();
    })
}

/// `ID:KEY:SECRET` of this boot; the id is all digits, for an SDK insists on that.
fn generate_app() -> anyhow::Result<String> {
    let mut random = [0; 24];
    rand::fill(&mut random).context("no randomness")?;
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let number = u32::from_be_bytes([random[0], random[1], random[2], random[3]]) % 900_000 + 100_000;
    Ok(format!("{number}:{}:{}", hex(&random[4..14]), hex(&random[14..])))
}

fn write_pair(pair: &RsaPair, dir: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let write = |name: &str, mode: u32, text: &[u8]| -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&path)?;
        file.write_all(text)?;
        Ok(path)
    };
    std::fs::create_dir_all(dir)
        .map_err(anyhow::Error::from)
        .and_then(|()| write("gusher-public.pem", 0o644, pair.public_pem.as_bytes()))
        .and_then(|_| write("gusher-private.pem", 0o600, pair.private_pem.as_bytes()))
        .with_context(|| format!("cannot write the key pair to {}", dir.display()))
}

/// What is printed once the server listens.
struct Guide<'a> {
    app_id: &'a str,
    app_key: &'a str,
    app_secret: &'a str,
    pair: Option<&'a RsaPair>,
    key_file: Option<&'a Path>,
    own_keys: Option<&'a Path>,
}

impl Guide<'_> {
    fn text(&self, node: &Node) -> String {
        let mut out = String::from("Hydrant is running, with credentials made for this boot.\n\n");
        let (mut public, mut trusted) = (String::new(), String::new());
        for listener in node.listeners() {
            let reached = reachable(&listener.address);
            let purpose = match &*listener.names {
                [only] if only == "gusher" => {
                    public.clone_from(&reached);
                    "clients connect here"
                }
                [only] if only == "gusher-master" => {
                    trusted.clone_from(&reached);
                    "backends push here; no credentials, so keep it private"
                }
                [only] if only == "ops" => "health and metrics",
                _ => "several doors",
            };
            let _ = writeln!(out, "  http://{reached:<22} {purpose} ({})", listener.names.join(", "));
        }
        let _ = writeln!(
            out,
            "\n  app id      {}\n  app key     {}\n  app secret  {}\n",
            self.app_id, self.app_key, self.app_secret
        );
        self.paste(&mut out, &public, &trusted);
        out
    }

    fn paste(&self, out: &mut String, public: &str, trusted: &str) {
        let key = self.app_key;
        let program = std::env::args().next().unwrap_or_else(|| "hydrant".to_owned());
        out.push_str("1. Sign a token for a user (your backend will do this with the private key):\n\n");
        match (self.pair, self.key_file, self.own_keys) {
            (Some(_), Some(path), _) => {
                let path = path.display();
                let _ = writeln!(
                    out,
                    "TOKEN=$({program} token gusher --key {path} --app {key} --user alice --channel '*')\n"
                );
            }
            (Some(pair), None, _) => {
                let _ = writeln!(
                    out,
                    "TOKEN=$({program} token gusher --key - --app {key} --user alice --channel '*' <<'PEM'\n{}\nPEM\n)\n",
                    pair.private_pem.trim_end()
                );
            }
            (None, _, path) => {
                let path = path.map(|path| path.display().to_string()).unwrap_or_default();
                let _ = writeln!(
                    out,
                    "TOKEN=$({program} token gusher --key PRIVATE_KEY_OF_{path} --app {key} --user alice --channel '*')\n"
                );
            }
        }
        let _ = writeln!(
            out,
            "2. Connect and subscribe, in a second terminal or in a browser's console:\n\n\
             echo '{{\"event\":\"gusher.subscribe\",\"data\":{{\"channel\":\"news\"}}}}' | \
             websocat -n \"ws://{public}/gcs/ws/{key}?token=$TOKEN\"\n"
        );
        if let Some(token) = self.pair.and_then(|pair| ready_token(pair, key)) {
            let _ = writeln!(
                out,
                "const socket = new WebSocket(\"ws://{public}/gcs/ws/{key}?token={token}\");\n\
                 socket.onopen = () => socket.send('{{\"event\":\"gusher.subscribe\",\"data\":{{\"channel\":\"news\"}}}}');\n\
                 socket.onmessage = (message) => console.log(message.data);\n"
            );
        }
        let _ = writeln!(
            out,
            "3. Push, and see it arrive:\n\n\
             curl -d 'data={{\"hello\":\"world\"}}' http://{trusted}/api/push/{key}/news/greeting\n\
             {program} publish --url http://{trusted}/api/ --app {key} news greeting '{{\"hello\":\"world\"}}'\n"
        );
    }
}

/// A token that works at once, for the browser snippet.
fn ready_token(pair: &RsaPair, app_key: &str) -> Option<String> {
    let claims = GusherClaims {
        channels: Some(vec!["*".to_owned()]),
        user_id: "alice".to_owned(),
        app_key: app_key.to_owned(),
        remotes: None,
    };
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    keygen::sign(pair.private_pem.as_bytes(), "the key pair of this boot", &claims, now_unix_s + TOKEN_TTL_S).ok()
}

/// How a program on this machine reaches a listener.
fn reachable(address: &Address) -> String {
    match address {
        Address::Tcp(address) if address.ip().is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()).to_string()
        }
        other => other.to_string(),
    }
}
