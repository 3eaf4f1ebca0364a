//! Remote jobs: what a gusher client sends with `gusher.remote` is handed to the app's own workers, over a Redis list
//! or an HTTP endpoint.
//!
//! All waiting is done on the runtime handed in, so that a slow queue never delays the caller. A job is tried once:
//! whoever submitted it is told how that went, and decides.

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use redis::IntoConnectionInfo;
use redis::aio::MultiplexedConnection;
use reqwest::Url;
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::http::{self, chain};

/// Pause after a failed connection to Redis; it doubles up to [`RECONNECT_PAUSE_MAX`].
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts to connect to Redis.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often the connection to Redis is tried, so that a loss is noticed before a job meets it.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// At most one log line about refused jobs in this time.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Where jobs go.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: each is answered [`JobError::NotConfigured`].
    #[default]
    None,
    /// A Redis server: `redis://[user:password@]host[:port][/db]`, `rediss://…` (TLS, verified with the system's
    /// certificates) or `unix://…`. A job is `RPUSH {app_key}@{remote} {payload}`.
    Redis(String),
    /// An HTTP endpoint, a URL in whose path or query `{app}` and `{remote}` are filled in. A job is a POST of the
    /// payload; any status 2xx means done. Redirects are not followed.
    Http(String),
}

/// Shows no address, for it may hold a password.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Redis(_) => "Redis(..)",
            Self::Http(_) => "Http(..)",
        })
    }
}

/// Why a [`Target`] cannot be used. The texts show no part of it, for it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Redis does not take this URL.
    #[error("not a Redis URL: expected redis://[user:password@]host[:port][/db], rediss://… or unix://…")]
    RedisUrl,
    /// Not an `http` or `https` URL.
    #[error("not an HTTP URL: expected http://… or https://…")]
    HttpUrl,
    /// A placeholder decides which server is asked.
    #[error("{{app}} and {{remote}} may stand only in the path or query of the URL")]
    Placeholder,
    /// No HTTP client, with the reason: TLS without any certificate authority on this system, for one.
    #[error("cannot set up HTTP: {0}")]
    HttpClient(String),
}

/// One call of a remote.
#[derive(Clone, Debug)]
pub struct Job {
    /// The caller's app.
    pub app_key: String,
    /// The remote called.
    pub remote: String,
    /// JSON text, see [`payload`].
    pub payload: Bytes,
}

/// Why a job is not known to be done. The texts are fit for clients: they name no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// [`Target::None`].
    #[error("remotes are not configured")]
    NotConfigured,
    /// As many jobs as allowed are under way.
    #[error("too many jobs are under way")]
    Busy,
    /// No connection, or it broke; in that case the job may have arrived.
    #[error("the job queue cannot be reached")]
    Unreachable,
    /// The other side said no.
    #[error("the job queue refused the job")]
    Refused,
    /// No answer in time; the job may have arrived.
    #[error("the job queue did not answer in time")]
    Timeout,
}

/// The text of a job: `{"user_id":…,"socket_id":…,"uid":…,"app_key":…,"data":…}`, in this order and without white
/// space; `data` byte for byte.
pub fn payload(user_id: &str, socket_id: &str, uid: &str, app_key: &str, data: &RawValue) -> Bytes {
    #[derive(Serialize)]
    struct Payload<'a> {
        user_id: &'a str,
        socket_id: &'a str,
        uid: &'a str,
        app_key: &'a str,
        data: &'a RawValue,
    }
    let payload = Payload { user_id, socket_id, uid, app_key, data };
    serde_json::to_vec(&payload).expect("strings and raw JSON are JSON").into()
}

/// Hands jobs over. Clones share the connection and the limit; when the last is gone, so is the connection.
#[derive(Clone)]
pub struct Jobs(Option<Arc<Inner>>);

struct Inner {
    queue: Queue,
    timeout: Duration,
    slots: Arc<Semaphore>,
    runtime: Handle,
}

enum Queue {
    Redis(RedisQueue),
    Http(HttpQueue),
}

impl Jobs {
    /// Starts handing over on `runtime`. A queue that is down is no error: it is connected to as soon as it is there.
    /// `timeout` holds for each job from its submission on, waiting for the connection included; `in_flight_max` jobs
    /// can be under way at once. rustls needs a process-wide crypto provider for TLS and for HTTP.
    pub fn start(
        target: Target,
        timeout: Duration,
        in_flight_max: usize,
        runtime: Handle,
    ) -> Result<Self, TargetError> {
        let queue = match target {
            Target::None => return Ok(Self(None)),
            Target::Redis(url) => Queue::Redis(RedisQueue::start(&url, timeout, &runtime)?),
            Target::Http(template) => Queue::Http(HttpQueue::new(template, timeout)?),
        };
        let slots = Arc::new(Semaphore::new(in_flight_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self(Some(Arc::new(Inner { queue, timeout, slots, runtime }))))
    }

    /// Hands a job over, without waiting; the receiver gets the outcome, within the timeout. Over `in_flight_max` that
    /// is [`JobError::Busy`] at once. Jobs arrive in the order of their submission if each is submitted after the
    /// outcome of the one before; otherwise in any order. A dropped receiver does not stop its job. The receiver fails
    /// only if the runtime is gone.
    pub fn submit(&self, job: Job) -> oneshot::Receiver<Result<(), JobError>> {
        let Some(inner) = self.0.clone() else {
            return refused(JobError::NotConfigured);
        };
        let Ok(slot) = inner.slots.clone().try_acquire_owned() else {
            return refused(JobError::Busy);
        };
        let (answer, outcome) = oneshot::channel();
        let deadline = Instant::now() + inner.timeout;
        inner.runtime.clone().spawn(async move {
            let result = match &inner.queue {
                Queue::Redis(redis) => redis.push(&job, deadline).await,
                Queue::Http(http) => http.post(job).await,
            };
            drop(slot); // first, so that who waited can submit the next
            let _ = answer.send(result); // nobody listening is fine
        });
        outcome
    }
}

fn refused(error: JobError) -> oneshot::Receiver<Result<(), JobError>> {
    let (answer, outcome) = oneshot::channel();
    let _ = answer.send(Err(error)); // the receiver is in hand
    outcome
}

/// A connection that a task of its own keeps up. redis' own `ConnectionManager` is not used: it gives up for good on
/// an answer such as a wrong password, and hands out an outage's error long after the outage.
struct RedisQueue {
    connection: watch::Receiver<Option<MultiplexedConnection>>,
    trouble: Arc<Trouble>,
    health: Arc<Health>,
    keeper: AbortHandle,
}

/// What jobs tell the keeper of the connection.
#[derive(Default)]
struct Trouble {
    /// It may be dead.
    suspect: Notify,
    /// It leads to a replica, which takes no jobs: after a failover the address may lead to the new master.
    read_only: Notify,
}

impl Drop for RedisQueue {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl RedisQueue {
    fn start(url: &str, timeout: Duration, runtime: &Handle) -> Result<Self, TargetError> {
        let info = url.into_connection_info().map_err(|_| TargetError::RedisUrl)?;
        let health = Arc::new(Health::new(info.addr().to_string()));
        let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
        let client = redis::Client::open(info).map_err(|_| TargetError::RedisUrl)?;
        let trouble = Arc::new(Trouble::default());
        let (slot, connection) = watch::channel(None);
        let keeper = runtime.spawn(keep_connected(client, timeout, slot, trouble.clone(), health.clone()));
        Ok(Self { connection, trouble, health, keeper: keeper.abort_handle() })
    }

    async fn push(&self, job: &Job, deadline: Instant) -> Result<(), JobError> {
        let mut connection = self.connection.clone();
        let found = timeout_at(deadline, connection.wait_for(Option::is_some)).await;
        let Some(mut connection) = found.ok().and_then(Result::ok).and_then(|found| found.clone()) else {
            return Err(JobError::Unreachable);
        };
        let mut command = redis::cmd("RPUSH");
        command.arg(format!("{}@{}", job.app_key, job.remote)).arg(&job.payload[..]);
        match timeout_at(deadline, command.query_async::<()>(&mut connection)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if !is_lost(&error) => {
                if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly) {
                    self.trouble.read_only.notify_one();
                }
                self.health.refused(job, &error.to_string());
                Err(JobError::Refused)
            }
            Ok(Err(error)) if !error.is_timeout() => {
                self.trouble.suspect.notify_one();
                Err(JobError::Unreachable)
            }
            _ => {
                self.trouble.suspect.notify_one();
                Err(JobError::Timeout)
            }
        }
    }
}

async fn keep_connected(
    client: redis::Client,
    timeout: Duration,
    slot: watch::Sender<Option<MultiplexedConnection>>,
    trouble: Arc<Trouble>,
    health: Arc<Health>,
) {
    let config =
        redis::AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
    let mut pause = RECONNECT_PAUSE_MIN;
    loop {
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                health.up();
                pause = RECONNECT_PAUSE_MIN;
                slot.send_replace(Some(connection.clone()));
                let lost = until_useless(connection, &trouble).await;
                slot.send_replace(None);
                if let Err(error) = lost {
                    health.down(&error);
                }
            }
            Err(error) => {
                health.down(&error);
                pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
            }
        }
        sleep(pause).await;
    }
}

/// Returns once the connection should be replaced; with the error if it is lost.
async fn until_useless(mut connection: MultiplexedConnection, trouble: &Trouble) -> Result<(), redis::RedisError> {
    loop {
        tokio::select! {
            () = trouble.read_only.notified() => return Ok(()),
            () = trouble.suspect.notified() => {}
            () = sleep(PING_INTERVAL) => {}
        }
        match redis::cmd("PING").query_async::<()>(&mut connection).await {
            Err(error) if is_lost(&error) => return Err(error),
            // Any answer will do: the user given may not be allowed to ping.
            _ => {}
        }
    }
}

/// Whether the error says that the connection is no good, rather than being Redis' answer.
fn is_lost(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

struct HttpQueue {
    client: reqwest::Client,
    template: String,
    health: Health,
}

impl HttpQueue {
    fn new(template: String, timeout: Duration) -> Result<Self, TargetError> {
        let [url, other] = ["a", "b"]
            .map(|name| fill(&template, name, name).and_then(|url| Url::parse(&url).ok()).ok_or(TargetError::HttpUrl));
        let (url, other) = (url?, other?);
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::HttpUrl);
        }
        let server = |url: &Url| (url.origin(), url.username().to_owned(), url.password().map(str::to_owned));
        if server(&url) != server(&other) {
            return Err(TargetError::Placeholder);
        }
        let builder = http::client(url.scheme() == "https").timeout(timeout);
        let client = builder.build().map_err(|error| TargetError::HttpClient(chain(&error)))?;
        Ok(Self { client, template, health: Health::new(url.origin().ascii_serialization()) })
    }

    async fn post(&self, job: Job) -> Result<(), JobError> {
        let Some(url) = fill(&self.template, &job.app_key, &job.remote) else {
            self.health.refused(&job, "`.` and `..` cannot stand in a URL");
            return Err(JobError::Refused);
        };
        let request = self.client.post(url).header(reqwest::header::CONTENT_TYPE, "application/json");
        match request.body(job.payload.clone()).send().await {
            Ok(response) => {
                self.health.up();
                if response.status().is_success() {
                    return Ok(());
                }
                self.health.refused(&job, response.status().as_str());
                Err(JobError::Refused)
            }
            Err(error) => {
                let error = error.without_url(); // it may hold a password
                self.health.down(&error);
                Err(if error.is_timeout() { JobError::Timeout } else { JobError::Unreachable })
            }
        }
    }
}

/// The URL for one job; `None` for names that a URL cannot carry, because they mean a folder there even when escaped.
fn fill(template: &str, app_key: &str, remote: &str) -> Option<String> {
    /// All but RFC 3986's unreserved characters.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let is_folder = |name| name == "." || name == "..";
    if is_folder(app_key) || is_folder(remote) {
        return None;
    }
    let escaped = |name| utf8_percent_encode(name, ESCAPED).to_string();
    // No brace is left in what was filled in, so the order does not matter.
    Some(template.replace("{app}", &escaped(app_key)).replace("{remote}", &escaped(remote)))
}

/// Logs when the queue goes and comes, not at each job.
struct Health {
    address: String,
    is_up: AtomicBool,
    refusal_logged: Mutex<Option<Instant>>,
}

impl Health {
    fn new(address: String) -> Self {
        Self { address, is_up: AtomicBool::new(true), refusal_logged: Mutex::new(None) }
    }

    fn up(&self) {
        if !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!(address = self.address, "the job queue can be reached again");
        }
    }

    fn down(&self, error: &dyn std::error::Error) {
        if self.is_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(address = self.address, error = chain(error), "the job queue cannot be reached");
        }
    }

    fn refused(&self, job: &Job, reason: &str) {
        let mut logged = self.refusal_logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= REFUSAL_LOG_INTERVAL) {
            *logged = Some(Instant::now());
            let Job { app_key, remote, .. } = job;
            tracing::warn!(address = self.address, app_key, remote, reason, "the job queue refused a job");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_keeps_order_and_bytes() {
        let check = |data: &str, json: &str| {
            let data = serde_json::from_str(data).unwrap();
            assert_eq!(payload("u1", "s-1", "x1", "T", data), json);
        };
        check(r#"{"msg":1}"#, r#"{"user_id":"u1","socket_id":"s-1","uid":"x1","app_key":"T","data":{"msg":1}}"#);
        check(
            r#"{"b":1.50, "a":9007199254740993}"#,
            r#"{"user_id":"u1","socket_id":"s-1","uid":"x1","app_key":"T","data":{"b":1.50, "a":9007199254740993}}"#,
        );
        check(
            r#""he said \"hi\"\n""#,
            r#"{"user_id":"u1","socket_id":"s-1","uid":"x1","app_key":"T","data":"he said \"hi\"\n"}"#,
        );
        let data = serde_json::from_str("null").unwrap();
        let quoted = payload("a\"b", "", "<ü>", "", data);
        assert_eq!(quoted, r#"{"user_id":"a\"b","socket_id":"","uid":"<ü>","app_key":"","data":null}"#);
    }

    #[test]
    fn names_in_urls() {
        let check = |app_key: &str, remote: &str, url: Option<&str>| {
            assert_eq!(fill("http://h/{app}/x?r={remote}", app_key, remote).as_deref(), url);
        };
        check("T", "chat", Some("http://h/T/x?r=chat"));
        check("a.b-c_d~e", "...", Some("http://h/a.b-c_d~e/x?r=..."));
        check("a/../b", "x&y=z#?%20ü", Some("http://h/a%2F..%2Fb/x?r=x%26y%3Dz%23%3F%2520%C3%BC"));
        check("{remote}", "{app}", Some("http://h/%7Bremote%7D/x?r=%7Bapp%7D"));
        check("..", "chat", None);
        check("T", ".", None);
    }

    #[test]
    fn targets() {
        let check = |target: Target, error: TargetError| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let started = Jobs::start(target, Duration::from_secs(1), 1, runtime.handle().clone());
            assert_eq!(started.err(), Some(error.clone()));
            assert!(!error.to_string().contains("hunter2"));
        };
        check(Target::Redis("localhost:6379".into()), TargetError::RedisUrl);
        check(Target::Redis("redis://:hunter2@host:port".into()), TargetError::RedisUrl);
        check(Target::Http("jobs".into()), TargetError::HttpUrl);
        check(Target::Http("ftp://u:hunter2@host/{app}".into()), TargetError::HttpUrl);
        check(Target::Http("http://{app}.example.com/".into()), TargetError::Placeholder);
        check(Target::Http("https://u:{remote}@example.com/".into()), TargetError::Placeholder);
        check(Target::Http("http://example.com{app}".into()), TargetError::Placeholder);
        assert_eq!(format!("{:?}", Target::Redis("redis://:hunter2@host".into())), "Redis(..)");
    }
}
