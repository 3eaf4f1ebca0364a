//! Remote jobs against a real Redis and a real HTTP server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "support/port.rs"]
mod port;
#[path = "support/redis.rs"]
mod redis_server;

use http_body_util::{BodyExt, Empty};
use hydrant::hooks::jobs::{Job, JobError, Jobs, Target, payload};
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use port::ReservedPort;
use redis_server::RedisServer;
use std::convert::Infallible;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const TIMEOUT: Duration = Duration::from_secs(5);
/// For what is waited for in vain: still enough for what is to work, however busy the machine.
const SHORT_TIMEOUT: Duration = Duration::from_millis(1500);
/// For what has to come in time, but not at a known one.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn start(target: Target, timeout: Duration, in_flight_max: usize) -> Jobs {
    // The first test of the process installs it; all others find it there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Jobs::start(target, timeout, in_flight_max, Handle::current()).unwrap()
}

fn job(remote: &str, data: &str) -> Job {
    let payload = payload("u1", "s-1", "x1", "T", serde_json::from_str(data).unwrap());
    Job { app_key: "T".into(), remote: remote.into(), payload }
}

async fn submit(jobs: &Jobs, remote: &str, data: &str) -> Result<(), JobError> {
    jobs.submit(job(remote, data)).await.unwrap()
}

/// Tries until it is so.
async fn until<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < WAIT_MAX, "{what}: not within {WAIT_MAX:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The ids of the connections that Redis has, apart from the one that asks.
fn connections(server: &RedisServer) -> Vec<String> {
    let list: String = server.command(&["CLIENT", "LIST"]);
    list.lines()
        .filter(|line| !line.contains("cmd=client|list"))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn redis_gets_jobs_verbatim_and_in_order() {
    let server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), TIMEOUT, 10);
    for number in 0..50 {
        submit(&jobs, "chat", &format!(r#"{{"n": {number}.0}}"#)).await.unwrap();
    }
    submit(&jobs, "other one", r#""text\n""#).await.unwrap();
    let expected: Vec<_> = (0..50)
        .map(|number| {
            format!(r#"{{"user_id":"u1","socket_id":"s-1","uid":"x1","app_key":"T","data":{{"n": {number}.0}}}}"#)
        })
        .collect();
    assert_eq!(server.command::<Vec<String>>(&["LRANGE", "T@chat", "0", "-1"]), expected);
    let other: String = server.command(&["LPOP", "T@other one"]);
    assert_eq!(other, r#"{"user_id":"u1","socket_id":"s-1","uid":"x1","app_key":"T","data":"text\n"}"#);
}

#[tokio::test]
async fn redis_gone_and_back() {
    let log = Log::capture();
    let mut server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), SHORT_TIMEOUT, 10);
    submit(&jobs, "chat", "1").await.unwrap();

    server.stop();
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(submit(&jobs, "chat", "2").await, Err(JobError::Unreachable));
        assert!(asked.elapsed() < TIMEOUT, "told late: {:?}", asked.elapsed());
    }

    server.start_again();
    until("jobs work again", async || submit(&jobs, "chat", "3").await.is_ok()).await;
    assert_eq!(server.command::<u32>(&["LLEN", "T@chat"]), 1);
    log.check(&["WARN the job queue cannot be reached", "INFO the job queue can be reached again"]);
}

#[tokio::test]
async fn redis_restarted_while_idle_costs_no_job() {
    let mut server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), TIMEOUT, 10);
    submit(&jobs, "chat", "1").await.unwrap();
    server.stop();
    server.start_again();
    until("connected again", async || connections(&server).len() == 1).await;
    submit(&jobs, "chat", "2").await.unwrap();
}

#[tokio::test]
async fn redis_may_come_later() {
    let mut server = RedisServer::start(&[]);
    server.stop();
    let jobs = start(Target::Redis(server.url()), WAIT_MAX, 10);
    let waiting = jobs.submit(job("chat", "1"));
    server.start_again();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn redis_that_hangs() {
    let server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), SHORT_TIMEOUT, 10);
    submit(&jobs, "chat", "1").await.unwrap();
    server.freeze();
    assert_eq!(submit(&jobs, "chat", "2").await, Err(JobError::Timeout));
    assert!(submit(&jobs, "chat", "3").await.is_err());
    server.thaw();
    until("jobs work again", async || submit(&jobs, "chat", "4").await.is_ok()).await;
}

#[tokio::test]
async fn redis_refuses() {
    let log = Log::capture();
    let server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), TIMEOUT, 10);
    server.command::<()>(&["SET", "T@chat", "not a list"]);
    for _ in 0..3 {
        assert_eq!(submit(&jobs, "chat", "1").await, Err(JobError::Refused));
    }
    submit(&jobs, "other", "1").await.unwrap();
    log.check(&["WARN the job queue refused a job"]);
}

#[tokio::test]
async fn redis_turned_replica_is_connected_to_anew() {
    let server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), TIMEOUT, 10);
    submit(&jobs, "chat", "1").await.unwrap();
    let before = connections(&server);
    let nobody = ReservedPort::new();
    server.command::<()>(&["REPLICAOF", "127.0.0.1", &nobody.number.to_string()]);
    assert_eq!(submit(&jobs, "chat", "2").await, Err(JobError::Refused));
    until("a new connection", async || matches!(&connections(&server)[..], [one] if *one != before[0])).await;
    server.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    until("jobs work again", async || submit(&jobs, "chat", "3").await.is_ok()).await;
}

#[tokio::test]
async fn redis_password() {
    let server = RedisServer::start(&["--requirepass", "hunter2"]);
    let url = |password: &str| Target::Redis(format!("redis://:{password}@127.0.0.1:{}", server.port()));
    submit(&start(url("hunter2"), TIMEOUT, 10), "chat", "1").await.unwrap();

    let log = Log::capture();
    let jobs = start(url("hunter3"), Duration::from_millis(500), 10);
    assert_eq!(submit(&jobs, "chat", "1").await, Err(JobError::Unreachable));
    until("the reason is logged", async || log.text().contains("Password authentication failed")).await;
    assert!(!log.text().contains("hunter3"), "{}", log.text());
}

/// Trust is the process's, so the case with it runs as a process of its own.
#[tokio::test]
async fn redis_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let [key, certificate] = ["key.pem", "cert.pem"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("openssl has to be installed (`apt-get install openssl`)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let reserved = ReservedPort::new();
    let tls_port = reserved.number.to_string();
    let server = RedisServer::start(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{tls_port}");

    let jobs = start(Target::Redis(url.clone()), Duration::from_millis(500), 10);
    assert_eq!(submit(&jobs, "chat", "1").await, Err(JobError::Unreachable), "nobody vouches for the certificate");

    let trusting = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "redis_over_tls_trusted", "--ignored"])
        .envs([("SSL_CERT_FILE", &certificate), ("JOBS_TEST_URL", &url)])
        .output()
        .unwrap();
    assert!(trusting.status.success(), "{}", String::from_utf8_lossy(&trusting.stdout));
    assert_eq!(server.command::<u32>(&["LLEN", "T@chat"]), 1);
}

#[tokio::test]
#[ignore = "run by redis_over_tls"]
async fn redis_over_tls_trusted() {
    let jobs = start(Target::Redis(std::env::var("JOBS_TEST_URL").unwrap()), TIMEOUT, 10);
    submit(&jobs, "chat", "1").await.unwrap();
}

#[tokio::test]
async fn dropping_ends_the_connection() {
    let server = RedisServer::start(&[]);
    let jobs = start(Target::Redis(server.url()), TIMEOUT, 10);
    submit(&jobs, "chat", "1").await.unwrap();
    let clone = jobs.clone();
    drop(jobs);
    submit(&clone, "chat", "2").await.unwrap();
    drop(clone);
    until("disconnected", async || connections(&server).is_empty()).await;
}

#[tokio::test]
async fn nowhere() {
    assert_eq!(submit(&start(Target::None, TIMEOUT, 0), "chat", "1").await, Err(JobError::NotConfigured));
}

/// One request as it came: the line's target, the content type, the body.
type Seen = Arc<Mutex<Vec<(String, String, String)>>>;

/// An HTTP server that answers `status`, and what it was asked.
async fn http_server(port: u16, status: u16) -> (u16, Seen, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let record = seen.clone();
    let answer = async move |request: Request<Incoming>| {
        let content_type = request.headers()["content-type"].to_str().unwrap().to_owned();
        let line = format!("{} {}", request.method(), request.uri());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        record.lock().unwrap().push((line, content_type, String::from_utf8(body.to_vec()).unwrap()));
        Ok::<_, Infallible>(
            Response::builder().status(status).header("location", "/elsewhere").body(Empty::<&[u8]>::new()).unwrap(),
        )
    };
    let answer = Arc::new(answer);
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answer = answer.clone();
                async move { answer(request).await }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(io, service));
        }
    });
    (port, seen, serving)
}

#[tokio::test]
async fn http_gets_jobs_verbatim() {
    let (port, seen, _serving) = http_server(0, 204).await;
    let jobs =
        start(Target::Http(format!("http://127.0.0.1:{port}/jobs/{{app}}/{{remote}}?r={{remote}}")), TIMEOUT, 10);
    submit(&jobs, "chat", r#"{"n": 1.0}"#).await.unwrap();
    submit(&jobs, "../a b", "1").await.unwrap();
    assert_eq!(submit(&jobs, "..", "1").await, Err(JobError::Refused));
    let body = |data: &str| format!(r#"{{"user_id":"u1","socket_id":"s-1","uid":"x1","app_key":"T","data":{data}}}"#);
    let json = "application/json".to_owned();
    assert_eq!(
        *seen.lock().unwrap(),
        [
            ("POST /jobs/T/chat?r=chat".to_owned(), json.clone(), body(r#"{"n": 1.0}"#)),
            ("POST /jobs/T/..%2Fa%20b?r=..%2Fa%20b".to_owned(), json, body("1")),
        ]
    );
}

#[tokio::test]
async fn http_answers() {
    for (status, outcome) in [
        (200, Ok(())),
        (202, Ok(())),
        (302, Err(JobError::Refused)),
        (307, Err(JobError::Refused)),
        (404, Err(JobError::Refused)),
        (500, Err(JobError::Refused)),
    ] {
        let (port, seen, _serving) = http_server(0, status).await;
        let jobs = start(Target::Http(format!("http://127.0.0.1:{port}/")), TIMEOUT, 10);
        assert_eq!(submit(&jobs, "chat", "1").await, outcome, "{status}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{status}: asked once, redirects not followed");
    }
}

#[tokio::test]
async fn http_gone_and_back() {
    let log = Log::capture();
    let port = ReservedPort::new();
    let jobs = start(
        Target::Http(format!("http://user:hunter2@127.0.0.1:{}/{{remote}}?key=hunter2", port.number)),
        TIMEOUT,
        10,
    );
    for _ in 0..3 {
        assert_eq!(submit(&jobs, "chat", "1").await, Err(JobError::Unreachable));
    }
    let (_, seen, serving) = http_server(port.number, 200).await;
    for _ in 0..3 {
        submit(&jobs, "chat", "2").await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert_eq!(submit(&jobs, "chat", "3").await, Err(JobError::Unreachable));
    log.check(&[
        "WARN the job queue cannot be reached",
        "INFO the job queue can be reached again",
        "WARN the job queue cannot be reached",
    ]);
    assert!(log.text().contains("Connection refused"), "{}", log.text());
    assert!(!log.text().contains("hunter2"), "{}", log.text());
}

#[tokio::test]
async fn over_the_limit_is_busy_at_once() {
    // Takes connections and never answers.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let jobs = start(Target::Http(url), Duration::from_millis(300), 2);
    let mut under_way = [jobs.submit(job("chat", "1")), jobs.submit(job("chat", "2"))];
    let mut third = jobs.submit(job("chat", "3"));
    assert_eq!(third.try_recv().unwrap(), Err(JobError::Busy));
    for outcome in &mut under_way {
        assert_eq!(outcome.await.unwrap(), Err(JobError::Timeout));
    }
    assert_eq!(submit(&jobs, "chat", "4").await, Err(JobError::Timeout), "there is room again");
}

/// What this thread logs, which runs everything of its test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

struct Capture(Log, #[allow(dead_code, reason = "ends the capture")] tracing::subscriber::DefaultGuard);

impl Log {
    fn capture() -> Capture {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_env_filter("hydrant=debug")
            .with_writer(move || writer.clone())
            .finish();
        Capture(log, tracing::subscriber::set_default(subscriber))
    }
}

impl Capture {
    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines are these, by level and message.
    fn check(&self, expected: &[&str]) {
        let text = self.text();
        let lines: Vec<String> = text.lines().map(|line| line.trim().replace("hydrant::hooks::jobs: ", "")).collect();
        assert_eq!(lines.len(), expected.len(), "{text}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
