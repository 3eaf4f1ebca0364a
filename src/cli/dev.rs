//! `hydrant dev`: a server in one command, with credentials made for this boot and lines to paste.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::rand;

use crate::config::{Address, App, ChannelKind, Config, Door, Listener, Overrides, PublicKeyPem, Secret};
use crate::credential::jwt::GusherClaims;
use crate::credential::keygen::{self, RsaPair};
use crate::node::Node;
use crate::shard;
use crate::shard::tls::Identity;

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
    /// Where backends push, such as 127.0.0.1:6002; it asks for no credentials, so it must be on loopback
    #[arg(long, value_name = "ADDR")]
    trusted: Option<String>,
    /// Where health and metrics are, such as 127.0.0.1:9601
    #[arg(long, value_name = "ADDR")]
    ops: Option<String>,
    /// Speak TLS where clients connect, with a certificate made for this boot
    #[arg(long)]
    tls: bool,
    /// An app instead of one made for this boot; the secret may be left out. Repeatable
    #[arg(long = "app", value_name = "ID:KEY:SECRET")]
    apps: Vec<String>,
    /// The public key, a PEM file, that users' tokens are signed for, instead of a pair made for this boot
    #[arg(long, value_name = "FILE")]
    gusher_public_key: Option<PathBuf>,
    /// Write the key pair made for this boot to this directory, to sign tokens with; with --tls the certificate, too
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
    let overrides = Overrides {
        public: args.public,
        trusted: args.trusted,
        ops: args.ops,
        apps: args.apps,
        gusher_public_key: args.gusher_public_key,
    };
    let mut loaded = args.sources.load(overrides)?;
    for index in 0..loaded.config.apps.len() {
        if loaded.origin(&format!("apps[{index}]")) == "--app" {
            allow_everything(&mut loaded.config.apps[index]);
        }
    }
    let config = &mut loaded.config;
    if args.tls {
        let is_for_clients =
            |listener: &&mut Listener| !listener.trusted && !matches!(listener.address, Address::Unix(_));
        for listener in config.listen.iter_mut().filter(is_for_clients) {
            listener.tls_self_signed = listener.tls_certificate.is_none();
        }
    }
    let index = config.apps.iter().position(|app| app.enabled);
    let index = match index {
        Some(index) => index,
        None => {
            config.apps.push(generate_app()?);
            config.apps.len() - 1
        }
    };
    if let Some(pair) = &pair {
        let made = PublicKeyPem::parse(&pair.public_pem, "the key pair of this boot").map_err(anyhow::Error::msg)?;
        // an app with keys of its own looks at no others
        match &mut config.apps[index].gusher_public_keys {
            own if !own.is_empty() => own.push(made),
            _ => config.gusher.public_keys.push(made),
        }
        config.warnings.retain(|warning| !warning.contains("nobody can connect"));
    }
    let key_file = match (&pair, &args.keys_dir) {
        (Some(pair), Some(dir)) => Some(write_pair(pair, dir)?),
        _ => None,
    };
    let certificate_file = args.keys_dir.filter(|_| args.tls).map(|dir| dir.join("tls-certificate.pem"));
    let (config, app) = (loaded.config.clone(), loaded.config.apps[index].clone());
    let guide = Guide { config: &config, app: &app, pair, key_file, certificate_file };
    serve(loaded, None, flag, |node| {
        // a terminal that has gone away must not end the server
        let _ = write!(std::io::stdout(), "{}", guide.text(node));
        let _ = std::io::stdout().flush();
    })
}

/// The flag that moves a default listener.
fn flag(listener: &Listener) -> Option<&'static str> {
    let flags = [(Door::GusherClient, "--public"), (Door::GusherMaster, "--trusted"), (Door::Ops, "--ops")];
    flags.into_iter().find(|(door, _)| listener.doors.contains(door)).map(|(_, flag)| flag)
}

/// An app of this boot; its id is all digits, for an SDK insists on that.
fn generate_app() -> anyhow::Result<App> {
    let mut random = [0; 24];
    rand::fill(&mut random).context("no randomness")?;
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let number = u32::from_be_bytes([random[0], random[1], random[2], random[3]]) % 900_000 + 100_000;
    let secret = Some(Secret::new(hex(&random[14..])));
    let mut app = App { id: number.to_string(), key: hex(&random[4..14]), secret, ..App::blank() };
    allow_everything(&mut app);
    Ok(app)
}

/// Turns on what clients can only try out if it is on. Not what closes connections that sign in nowhere.
fn allow_everything(app: &mut App) {
    app.client_events = true;
    app.subscription_count = true;
    app.watchlist = true;
    app.socket_push = ChannelKind::ALL.to_vec();
}

/// Writes the pair, in place of an earlier one; returns the private key's file.
fn write_pair(pair: &RsaPair, dir: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt;
    let write = |name: &str, mode: u32, text: &[u8]| -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        // a file that is there keeps its mode, and may be a link: a new one takes its place
        let _ = std::fs::remove_file(&path);
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?.write_all(text)?;
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
    config: &'a Config,
    app: &'a App,
    /// The key pair of this boot, unless the user brought a public key.
    pair: Option<RsaPair>,
    /// Where its private key was written.
    key_file: Option<PathBuf>,
    /// Where the certificate that is made at the start is to be written.
    certificate_file: Option<PathBuf>,
}

impl Guide<'_> {
    fn text(&self, node: &Node) -> String {
        let mut out = String::from("Hydrant is running, with credentials made for this boot. Ctrl-C ends it.\n\n");
        for listener in node.listeners() {
            let serves =
                |doors: &[Door]| doors.iter().any(|door| listener.names.iter().any(|name| name == door.word()));
            let purpose = if serves(&[Door::GusherMaster]) {
                "backends push here, without credentials"
            } else if serves(&[Door::GusherClient, Door::Pusher, Door::Push1stSocket]) {
                "clients connect here"
            } else if serves(&[Door::Ops]) {
                "health and metrics"
            } else {
                "backends push here"
            };
            let reach = if listener.address.is_local() { "from this machine" } else { "from any machine" };
            let url = url(listener).unwrap_or_else(|| listener.address.to_string());
            let _ = writeln!(out, "  {url:<22}  {purpose}, {reach} ({})", listener.names.join(", "));
        }
        let own = node.listeners().iter().find_map(|one| Some((url(one)?, one.tls.as_ref()?.self_signed()?)));
        if let Some((url, identity)) = &own {
            self.tell_certificate(&mut out, url, identity);
        }
        let App { id, key, secret, .. } = self.app;
        let secret = secret.as_ref().map_or("none", |secret| secret.expose());
        let _ = writeln!(out, "\n  app id      {id}\n  app key     {key}\n  app secret  {secret}\n");
        let door = |door: Door, prefix: &str| {
            let mut listeners = node.listeners().iter().filter(|one| one.names.iter().any(|name| name == door.word()));
            listeners.find_map(|one| Some(format!("{}{}{prefix}", url(one)?, one.path_prefix)))
        };
        let gusher = &self.config.gusher;
        let client = door(Door::GusherClient, &gusher.client_prefix);
        let master = door(Door::GusherMaster, &gusher.master_prefix);
        let pusher = door(Door::Pusher, "/");
        if let (Some(client), Some(master)) = (client, master) {
            let _ = writeln!(out, "Paste into a second terminal what fits your clients.\n");
            if let Some(pusher) = &pusher {
                self.paste_pusher(&mut out, pusher);
            }
            self.paste_gusher(&mut out, &client.replacen("http", "ws", 1));
            self.paste_push(&mut out, pusher.as_deref(), &master);
        }
        out
    }

    /// What a certificate of this boot is known by, and how it is taken.
    fn tell_certificate(&self, out: &mut String, url: &str, identity: &Identity) {
        let fingerprint = identity.fingerprint();
        let _ = writeln!(
            out,
            "\n  The certificate is of this boot too. SHA-256:\n  {fingerprint}\n  \
             A browser takes it once you have opened {url}/healthz and told it to; curl and websocat do with -k."
        );
        let Some(file) = &self.certificate_file else { return };
        let shown = file.display();
        let _ = match std::fs::write(file, identity.certificate_pem()) {
            Ok(()) => writeln!(out, "  It is in {shown}: curl --cacert {shown}, NODE_EXTRA_CA_CERTS={shown}."),
            Err(error) => writeln!(out, "  It cannot be written to {shown}: {error}"),
        };
    }

    /// A Pusher client. `url` ends with `/`.
    fn paste_pusher(&self, out: &mut String, url: &str) {
        const SUBSCRIBE: &str = r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#;
        let socket = format!("{}app/{}?protocol=7", url.replacen("http", "ws", 1), self.app.key);
        let _ = writeln!(
            out,
            "Pusher: connect, and subscribe to the channel \"news\".\n\n\
             echo '{SUBSCRIBE}' | websocat {} \"{socket}\"\n\n   \
             Or in a browser: open about:blank, and paste into its console:\n\n\
             const socket = new WebSocket(\"{socket}\");\n\
             socket.onopen = () => socket.send('{SUBSCRIBE}');\n\
             socket.onmessage = (message) => console.log(message.data);\n",
            websocat_flags(url)
        );
        if let Ok(url) = reqwest::Url::parse(url) {
            let is_tls = url.scheme() == "https";
            let (kind, transports) = if is_tls { ("wssPort", "\"ws\", \"wss\"") } else { ("wsPort", "\"ws\"") };
            let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
            let path = url.path().trim_end_matches('/');
            let path = if path.is_empty() { String::new() } else { format!(", wsPath: \"{path}\"") };
            let _ = writeln!(
                out,
                "   pusher-js, and Laravel Echo on top of it:\n\n\
                 new Pusher(\"{}\", {{ wsHost: \"{host}\", {kind}: {port}{path}, forceTLS: {is_tls}, \
                 enabledTransports: [{transports}], cluster: \"\" }})\n",
                self.app.key
            );
        }
    }

    /// A gusher client. `url` ends with the prefix of its client side.
    fn paste_gusher(&self, out: &mut String, url: &str) {
        const SUBSCRIBE: &str = r#"{"event":"gusher.subscribe","data":{"channel":"news"}}"#;
        let key = &self.app.key;
        let ready = self.pair.as_ref().and_then(|pair| ready_token(pair, key));
        let program = program();
        let sign =
            |path: &str| format!("$({program} token gusher --key {path} --app {key} --user alice --channel '*')");
        let (token, why) = match (&ready, &self.key_file) {
            (Some(_), Some(path)) => (sign(&path.display().to_string()), ""),
            (Some(token), None) => (token.clone(), "; --keys-dir DIR gives you that key"),
            (None, _) => (sign("PRIVATE_KEY.pem"), ""),
        };
        let _ = writeln!(
            out,
            "gusher: a token for the user alice; your backend will sign such tokens with its private key{why}. Then \
             connect, and subscribe.\n\n\
             TOKEN={token}\n\n\
             echo '{SUBSCRIBE}' | websocat {} \"{url}ws/{key}?token=$TOKEN\"\n",
            websocat_flags(url)
        );
        if let Some(token) = ready {
            let _ = writeln!(
                out,
                "   Or in a browser:\n\n\
                 const gusher = new WebSocket(\"{url}ws/{key}?token={token}\");\n\
                 gusher.onopen = () => gusher.send('{SUBSCRIBE}');\n\
                 gusher.onmessage = (message) => console.log(message.data);\n"
            );
        }
    }

    /// The first event. The URLs end with `/`.
    fn paste_push(&self, out: &mut String, pusher: Option<&str>, master: &str) {
        const DATA: &str = r#"news greeting '{"hello":"world"}'"#;
        let App { id, key, secret, .. } = self.app;
        let program = program();
        let _ = writeln!(
            out,
            "In a third terminal, push an event, and see it arrive, whatever the client speaks. Any of:\n\n\
             curl{} -d 'data={{\"hello\":\"world\"}}' '{master}push/{key}/news/greeting'",
            if is_secure(master) { " -k" } else { "" }
        );
        let insecure = |url: &str| if is_secure(url) { " --insecure" } else { "" };
        if let (Some(url), Some(secret)) = (pusher, secret) {
            let secret = secret.expose();
            let _ = writeln!(
                out,
                "{program} publish --secret {secret} --id {id}{} --url '{url}' --app {key} {DATA}",
                insecure(url)
            );
        }
        let _ = writeln!(out, "{program} publish{} --url '{master}' --app {key} {DATA}\n", insecure(master));
    }
}

/// Whether a URL is one of TLS.
fn is_secure(url: &str) -> bool {
    url.starts_with("https:") || url.starts_with("wss:")
}

/// How websocat reads from a pipe, and takes a certificate that nobody knows.
fn websocat_flags(url: &str) -> &'static str {
    if is_secure(url) { "-nk" } else { "-n" }
}

/// This program, as it was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "hydrant".to_owned())
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

/// How a program on this machine reaches a TCP listener.
fn url(listener: &shard::listener::Listener) -> Option<String> {
    let Address::Tcp(address) = &listener.address else { return None };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    Some(format!("{scheme}://{}", SocketAddr::new(ip, address.port())))
}
