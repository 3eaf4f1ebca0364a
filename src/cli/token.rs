//! `hydrant token`: makes the tokens that an app's backend would make, for trying things out.

use crate::credential::jwt::GusherClaims;
use crate::credential::keygen;
use anyhow::Context;
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

/// Prints the token, and nothing else, on standard output.
pub fn run(args: Args) -> anyhow::Result<()> {
    let Kind::Gusher(gusher) = args.kind;
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let token = gusher_token(gusher, now_unix_s)?;
    writeln!(std::io::stdout(), "{token}").context("cannot write the token")
}

fn gusher_token(args: Gusher, now_unix_s: u64) -> anyhow::Result<String> {
    let (private_pem, origin) = read_key(&args.key)?;
    let claims = GusherClaims {
        channels: Some(args.channels),
        user_id: args.user,
        app_key: args.app,
        remotes: Some(args.remotes.into_iter().map(|name| (name, true)).collect()),
    };
    Ok(keygen::sign(&private_pem, &origin, &claims, now_unix_s.saturating_add(args.ttl))?)
}

/// The file's content, with the name that errors call it by.
fn read_key(path: &Path) -> anyhow::Result<(Vec<u8>, String)> {
    if path == Path::new("-") {
        let mut content = Vec::new();
        std::io::stdin().read_to_end(&mut content).context("cannot read the key from standard input")?;
        return Ok((content, "standard input".to_owned()));
    }
    let origin = path.display().to_string();
    let content = std::fs::read(path).with_context(|| format!("{origin}: cannot read the key"))?;
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

    fn token(arguments: &[&str], key: &Path) -> anyhow::Result<String> {
        let line = ["token", "gusher", "--key", key.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
        let Kind::Gusher(gusher) = Cli::try_parse_from(line)?.args.kind;
        gusher_token(gusher, 1_000)
    }

    #[test]
    fn makes_a_token() {
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
}
