//! `hydrant publish`: one event to one channel, through a server's trusted listener, or signed through a public one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;

use crate::credential::signature::AppSecrets;

/// gusher's master side, where no credentials are asked for.
const DEFAULT_URL: &str = "http://127.0.0.1:6002/api/";
/// Pusher's HTTP API, for whoever has the secret.
const DEFAULT_SIGNED_URL: &str = "http://127.0.0.1:6001/";

/// What the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Publish one event to a channel
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trusted listener with gusher's master prefix [default: http://127.0.0.1:6002/api/]; with --id, a listener
    /// of the door pusher [default: http://127.0.0.1:6001/]
    #[arg(long, value_name = "URL", value_parser = http_url)]
    url: Option<Url>,
    /// The app's id: publish through Pusher's API, signed
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The app's secret, for a signed publish; or in the variable HYDRANT_PUBLISH_SECRET
    // not clap's `env`: a variable that is set for other publishes would make this one a signed one
    #[arg(long, value_name = "SECRET", requires = "id")]
    secret: Option<String>,
    /// The app's key
    #[arg(long, value_name = "KEY")]
    app: String,
    /// The listener's token, if it has one
    #[arg(long, value_name = "TOKEN", env = "HYDRANT_PUBLISH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Take any certificate, such as the one that `hydrant dev --tls` makes
    #[arg(short = 'k', long)]
    insecure: bool,
    /// Channel
    channel: String,
    /// Event name
    event: String,
    /// Data: JSON, or any text
    data: String,
}

/// Publishes, and prints what the server answered.
///
/// # Errors
/// The server is not there, or refused.
pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(publish(args))
}

async fn publish(args: Args) -> anyhow::Result<()> {
    let secret = match (&args.id, &args.secret) {
        (Some(_), None) => std::env::var("HYDRANT_PUBLISH_SECRET").ok().filter(|secret| !secret.is_empty()),
        (_, given) => given.clone(),
    };
    if args.id.is_some() && secret.is_none() {
        bail!("--id asks for a signed publish, which takes the app's secret: --secret, or HYDRANT_PUBLISH_SECRET");
    }
    let default = if args.id.is_some() { DEFAULT_SIGNED_URL } else { DEFAULT_URL };
    let base = args.url.clone().map_or_else(|| Url::parse(default), Ok)?;
    let mut url = base.clone();
    let signed = args.id.as_deref().zip(secret.as_deref());
    let (content_type, body) = match signed {
        Some((id, _)) => {
            add_segments(&mut url, &["apps", id, "events"]);
            let Args { event, channel, data, .. } = &args;
            let body = serde_json::json!({ "name": event, "channel": channel, "data": data });
            ("application/json", body.to_string())
        }
        None => {
            add_segments(&mut url, &["push", &args.app, &args.channel, &args.event]);
            ("application/x-www-form-urlencoded", form(&[("data", &args.data)]))
        }
    };
    if let Some((_, secret)) = signed {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let secrets = AppSecrets::new(&args.app, [secret]);
        let query = secrets.sign_request("POST", url.path(), &[], body.as_bytes(), unix_s);
        url.set_query(Some(&query));
    }
    // a proxy for the web does not lead to a server of one's own
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT);
    let client = client.danger_accept_invalid_certs(args.insecure).build()?;
    let mut request = client.post(url).header(CONTENT_TYPE, content_type).body(body);
    if let Some(token) = &args.token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(|error| {
        let reason = root(&error);
        anyhow!("cannot reach {base}: {reason}; is the server running, and is --url right?")
    })?;
    let status = response.status();
    let answer = response.text().await?;
    if !status.is_success() {
        bail!("{base} answered {status}: {}", answer.trim_end());
    }
    println!("{answer}");
    Ok(())
}

fn add_segments(url: &mut Url, segments: &[&str]) {
    // only URLs that cannot have a path refuse, which those of HTTP all can
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
}

/// An HTTP URL; an error that says what is missing.
fn http_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err(format!("expected a URL such as {DEFAULT_URL}")),
    }
}

/// The last of an error's causes, which says the most.
fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A urlencoded form.
fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}
