//! HTTP towards others: jobs and webhooks.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder};

/// What of an answer is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A client that follows no redirects, with TLS or without.
pub(super) fn client(is_tls: bool) -> ClientBuilder {
    let builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .http1_title_case_headers() // as documentation everywhere writes them, for receivers that compare bytes
        .user_agent(concat!("hydrant/", env!("CARGO_PKG_VERSION")));
    // Without redirects plain HTTP never needs TLS, so it must not fail where no authorities are installed.
    if is_tls { builder } else { builder.tls_certs_only([]) }
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A POST.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) timeout: Duration,
}

/// What becomes of a [`Request`]: an answer of status 2xx, or why there is none. Such a text holds no part of the URL.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
/// What carries requests: [`Http::post`], or a test's own.
pub(super) type Post = Arc<dyn Fn(Request) -> Answering + Send + Sync>;

/// The clients of all webhooks: one with TLS and one without, each made when it is needed.
#[derive(Default)]
pub(super) struct Http {
    plain: OnceLock<Client>,
    tls: OnceLock<Client>,
}

impl Http {
    /// Makes sure that there is a client.
    pub(super) fn need(&self, is_tls: bool) -> Result<(), String> {
        let place = if is_tls { &self.tls } else { &self.plain };
        if place.get().is_none() {
            let made = client(is_tls).build().map_err(|error| chain(&error))?;
            let _ = place.set(made); // somebody else may have been quicker
        }
        Ok(())
    }

    /// Sends a request.
    pub(super) async fn post(&self, request: Request) -> Result<(), String> {
        let Request { url, headers, body, timeout } = request;
        let client = if super::settings::is_tls(&url) == Some(true) { &self.tls } else { &self.plain };
        let client = client.get().ok_or("there is no client for it")?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::try_from(value).map_err(|_| format!("no header can hold the value of {name}"))?;
            map.insert(HeaderName::from_static(name), value);
        }
        let sent = client.post(url).headers(map).body(body).timeout(timeout).send().await;
        let mut response = sent.map_err(|error| {
            if error.is_timeout() {
                return format!("no answer within {} ms", timeout.as_millis());
            }
            chain(&error.without_url())
        })?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        let mut bytes = 0;
        while bytes < ANSWER_BYTES_MAX
            && let Ok(Some(chunk)) = response.chunk().await
        {
            bytes += chunk.len();
        }
        Ok(())
    }
}
