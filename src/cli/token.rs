//! `hydrant token`: makes the tokens that an app's backend would make, for trying things out.

use crate::config::Secret;
use crate::credential::access::AccessKey;
use crate::credential::jwt::GusherClaims;
use crate::credential::keygen;
use crate::credential::signature::AppSecrets;
use anyhow::{Context, bail};
use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use serde::Serialize;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Make a token for a client
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// A gusher user token: a JWT signed with the app's RSA private key
    Gusher(Gusher),
    /// What an auth endpoint answers a Pusher client that subscribes: JSON
    Pusher(Pusher),
    /// A Push1ST access token, for raw sockets
    Push1st(Push1st),
}

#[derive(Debug, clap::Args)]
struct Gusher {
    /// The app's RSA private key, a PEM file; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The app's key
    #[arg(long, value_name = "KEY")]
    app: String,
    /// The user's id
    #[arg(long, value_name = "ID")]
    user: String,
    /// A channel that the user may subscribe to; `*` stands for one or more characters, alone for all. Repeatable
    #[arg(long = "channel", value_name = "NAME")]
    channels: Vec<String>,
    /// A remote that the user may call. Repeatable
    #[arg(long = "remote", value_name = "NAME")]
    remotes: Vec<String>,
    /// How long the token is good for
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    ttl: u64,
}

#[derive(Debug, clap::Args)]
struct Pusher {
    #[command(flatten)]
    app: App,
    /// The connection, as the server told it
    #[arg(long, value_name = "ID", value_parser = socket_id)]
    socket_id: String,
    /// The channel to subscribe to
    #[arg(long, value_name = "NAME")]
    channel: String,
    /// Who the connection is on a presence channel, such as {"user_id":"1","user_info":{}}
    #[arg(long, value_name = "JSON")]
    channel_data: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Push1st {
    #[command(flatten)]
    app: App,
    /// The origin that sockets must come from, as https://example.com; `*` for any
    #[arg(long, value_name = "ORIGIN", default_value = "*")]
    origin: String,
    /// The channel that sockets may join; `*` for every
    #[arg(long, value_name = "NAME", default_value = "*")]
    channel: String,
    /// How long the token is good for; 0 for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    ttl: u64,
}

#[derive(Debug, clap::Args)]
struct App {
    /// The app's key
    #[arg(long, value_name = "KEY")]
    key: String,
    #[command(flatten)]
    secret: AppSecret,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct AppSecret {
    /// The app's secret; others on this machine can see it while the command runs
    #[arg(long, value_name = "SECRET", value_parser = NonEmptyStringValueParser::new().map(Secret::new))]
    secret: Option<Secret>,
    /// A file with the app's secret as its one line; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Prints the token, and nothing else, on standard output.
pub fn run(args: Args) -> anyhow::Result<()> {
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let token = token(args.kind, now_unix_s)?;
    writeln!(std::io::stdout(), "{token}").context("cannot write the token")
}

fn token(kind: Kind, now_unix_s: u64) -> anyhow::Result<String> {
    match kind {
        Kind::Gusher(args) => gusher_token(args, now_unix_s),
        Kind::Pusher(args) => pusher_auth(args),
        Kind::Push1st(args) => push1st_token(args, now_unix_s),
    }
}

fn gusher_token(args: Gusher, now_unix_s: u64) -> anyhow::Result<String> {
    let (private_pem, origin) = read(&args.key, "key")?;
    let claims = GusherClaims {
        channels: Some(args.channels),
        user_id: args.user,
        app_key: args.app,
        remotes: Some(args.remotes.into_iter().map(|name| (name, true)).collect()),
    };
    Ok(keygen::sign(&private_pem, &origin, &claims, now_unix_s.saturating_add(args.ttl))?)
}

fn pusher_auth(args: Pusher) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Answer {
        auth: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        channel_data: Option<String>,
    }
    let app = AppSecrets::new(&args.app.key, [&*args.app.secret.read()?]);
    let auth = app.sign_channel(&args.socket_id, &args.channel, args.channel_data.as_deref());
    Ok(serde_json::to_string(&Answer { auth, channel_data: args.channel_data })?)
}

fn push1st_token(args: Push1st, now_unix_s: u64) -> anyhow::Result<String> {
    let expires_unix_s = if args.ttl == 0 { 0 } else { now_unix_s.saturating_add(args.ttl) };
    let key = AccessKey::new(&args.app.key, [&*args.app.secret.read()?]);
    Ok(key.issue(&args.origin, &args.channel, expires_unix_s))
}

impl AppSecret {
    fn read(self) -> anyhow::Result<String> {
        let path = match (self.secret, self.secret_file) {
            (Some(secret), _) => return Ok(secret.expose().to_owned()),
            (None, path) => path.context("--secret or --secret-file is needed")?,
        };
        let (content, origin) = read(&path, "secret")?;
        let text = String::from_utf8(content).ok().with_context(|| format!("{origin}: the secret is not UTF-8"))?;
        match text.lines().collect::<Vec<_>>()[..] {
            [line] if !line.is_empty() => Ok(line.to_owned()),
            [] | [""] => bail!("{origin}: there is no secret in it"),
            _ => bail!("{origin}: there is more than one line in it"),
        }
    }
}

/// Two numbers and a dot between them, as every Pusher `socket_id` is.
fn socket_id(text: &str) -> Result<String, &'static str> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        Some((one, other)) if is_number(one) && is_number(other) => Ok(text.to_owned()),
        _ => Err("expected two numbers with a dot between them, such as 1234.5678"),
    }
}

/// The file's content, with the name that errors call it by.
fn read(path: &Path, what: &str) -> anyhow::Result<(Vec<u8>, String)> {
    if path == Path::new("-") {
        let mut content = Vec::new();
        let cannot = || format!("cannot read the {what} from standard input");
        std::io::stdin().read_to_end(&mut content).with_context(cannot)?;
        return Ok((content, "standard input".to_owned()));
    }
    let origin = path.display().to_string();
    let content = std::fs::read(path).with_context(|| format!("{origin}: cannot read the {what}"))?;
    Ok((content, origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::jwt::{ClockPolicy, PublicKeys};
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn made(arguments: &[&str]) -> anyhow::Result<String> {
        token(Cli::try_parse_from(["token"].iter().chain(arguments))?.args.kind, 1_000)
    }

    #[track_caller]
    fn refused(arguments: &[&str], part: &str) {
        let error = format!("{:#}", made(arguments).unwrap_err());
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn gusher() {
        let token = |arguments: &[&str], key: &Path| {
            made(&[&["gusher", "--key", key.to_str().unwrap()][..], arguments].concat())
        };
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("app.pem");
        let pair = keygen::generate_rsa().unwrap();
        std::fs::write(&key, &pair.private_pem).unwrap();
        let keys = PublicKeys::from_pems(&[(pair.public_pem.as_bytes(), "public")]).unwrap();
        let check = |arguments: &[&str], json: &str| {
            let token = token(arguments, &key).unwrap();
            assert_eq!(keys.verify(&token, 1_000, ClockPolicy::RefuseFutureIat).unwrap().get().to_json_v1(), json);
        };
        check(
            &["--app", "T", "--user", "u1"],
            r#"{"gusher":{"channels":[],"user_id":"u1","app_key":"T","remotes":{}},"exp":4600}"#,
        );
        check(
            &["--app=T", "--user=u1", "--channel=AA", "--channel=app*", "--remote=chat", "--remote=b", "--ttl=1"],
            r#"{"gusher":{"channels":["AA","app*"],"user_id":"u1","app_key":"T","remotes":{"b":true,"chat":true}},"exp":1001}"#,
        );

        let refused = |arguments: &[&str], key: &Path, part: &str| {
            let error = format!("{:#}", token(arguments, key).unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        let user = ["--app", "T", "--user", "u1"];
        refused(&["--app", "T"], &key, "--user");
        refused(&["--app", "T", "--user", "u1", "--ttl", "0"], &key, "--ttl");
        refused(&user, &folder.path().join("none.pem"), "none.pem: cannot read the key: No such file");
        let public = folder.path().join("public.pem");
        std::fs::write(&public, &pair.public_pem).unwrap();
        refused(&user, &public, "public.pem: this is a public key");
    }

    const APP: [&str; 4] = ["--key", "278d425bdf160c739803", "--secret", "7ad3773142a6692b25b8"];

    #[test]
    fn pusher() {
        let check = |arguments: &[&str], json: &str| {
            let arguments = [&["pusher"][..], &APP, &["--socket-id", "1234.1234"], arguments].concat();
            assert_eq!(made(&arguments).unwrap(), json);
        };
        check(
            &["--channel", "private-foobar"],
            r#"{"auth":"278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"}"#,
        );
        check(
            &["--channel=presence-foobar", r#"--channel-data={"user_id":10,"user_info":{"name":"Mr. Channels"}}"#],
            concat!(
                r#"{"auth":"278d425bdf160c739803:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80","#,
                r#""channel_data":"{\"user_id\":10,\"user_info\":{\"name\":\"Mr. Channels\"}}"}"#
            ),
        );
        for id in ["", "1", "1.", ".1", "1.2.3", "1:2", "-1.2"] {
            let id = format!("--socket-id={id}");
            refused(&[&["pusher"][..], &APP, &[&id, "--channel", "private-a"]].concat(), "--socket-id");
        }
    }

    #[test]
    fn push1st() {
        let key = AccessKey::new(APP[1], [APP[3]]);
        let check = |arguments: &[&str], origin: &str, channel: &str, last_s: u64| {
            let token = made(&[&["push1st"][..], &APP, arguments].concat()).unwrap();
            let access = key.check(&token, last_s, false).unwrap().into_inner();
            assert_eq!((&*access.origin, &*access.channel), (origin, channel));
            assert_eq!(key.check(&token, last_s.saturating_add(1), false).is_ok(), last_s == u64::MAX);
        };
        check(&[], "*", "*", 4_599);
        check(&["--ttl", "0"], "*", "*", u64::MAX);
        check(&["--origin=https://a.example", "--channel=news", "--ttl=1"], "https://a.example", "news", 1_000);
    }

    #[test]
    fn secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let file = path.to_str().unwrap();
        fn with<'a>(secret: &[&'a str]) -> Vec<&'a str> {
            [&["pusher", "--key", APP[1]][..], secret, &["--socket-id=1.2", "--channel=private-a"]].concat()
        }
        let expected = made(&with(&APP[2..])).unwrap();
        let from_file = with(&["--secret-file", file]);
        for text in ["7ad3773142a6692b25b8", "7ad3773142a6692b25b8\n", "7ad3773142a6692b25b8\r\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(made(&from_file).unwrap(), expected);
        }
        for (text, part) in [(&b"\n"[..], "no secret"), (b"", "no secret"), (b"a\nb", "one line"), (b"\xff", "UTF-8")] {
            std::fs::write(&path, text).unwrap();
            refused(&from_file, part);
        }
        std::fs::remove_file(&path).unwrap();
        refused(&from_file, "secret: cannot read the secret: No such file");
        refused(&with(&[]), "--secret");
        refused(&with(&["--secret", ""]), "--secret");
        refused(&with(&[APP[2], APP[3], "--secret-file", file]), "cannot be used with");
        let parsed = Cli::try_parse_from(["token"].into_iter().chain(with(&APP[2..]))).unwrap();
        assert!(!format!("{:?}", parsed.args).contains(APP[3]));
    }
}
