//! `hydrant publish`: one event to one channel, through a server's trusted listener.

use anyhow::{Context, bail};
use reqwest::Url;

/// Publish one event to a channel
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trusted listener with gusher's master prefix
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:6002/api/")]
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
    url.path_segments_mut()
        .map_err(|()| anyhow::anyhow!("{} cannot be called; give http://ADDRESS/PREFIX/", args.url))?
        .pop_if_empty()
        .extend(["push", &args.app, &args.channel, &args.event]);
    let body: String = form(&[("data", &args.data)]);
    let mut request = reqwest::Client::builder()
        .build()?
        .post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body);
    if let Some(token) = &args.token {
        request = request.bearer_auth(token);
    }
    let response =
        request.send().await.with_context(|| format!("cannot reach {}; is the server running?", args.url))?;
    let status = response.status();
    let answer = response.text().await?;
    if !status.is_success() {
        bail!("the server answered {status}: {}", answer.trim_end());
    }
    println!("{answer}");
    Ok(())
}

/// A urlencoded form.
fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}
