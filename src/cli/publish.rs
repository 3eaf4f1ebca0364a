//! `hydrant publish`: one event to one channel, through a server's trusted listener.

use std::time::Duration;

use anyhow::{anyhow, bail};
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;

const DEFAULT_URL: &str = "http://127.0.0.1:6002/api/";

/// What the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Publish one event to a channel
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trusted listener with gusher's master prefix
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL, value_parser = http_url)]
    url: Url,
    /// The app's key
    #[arg(long, value_name = "KEY")]
    app: String,
    /// The listener's token, if it has one
    #[arg(long, value_name = "TOKEN", env = "HYDRANT_PUBLISH_TOKEN", hide_env_values = true)]
    token: Option<String>,
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
    let mut url = args.url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["push", &args.app, &args.channel, &args.event]);
    }
    // a proxy for the web does not lead to a server of one's own
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let body = form(&[("data", &args.data)]);
    let mut request = client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    if let Some(token) = &args.token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.map_err(|error| {
        let reason = root(&error);
        anyhow!("cannot reach {}: {reason}; is the server running, and is --url right?", args.url)
    })?;
    let status = response.status();
    let answer = response.text().await?;
    if !status.is_success() {
        bail!("{} answered {status}: {}", args.url, answer.trim_end());
    }
    println!("{answer}");
    Ok(())
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
