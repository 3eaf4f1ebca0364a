//! A stand-in for the place that takes remote jobs and webhooks: Redis, of which it hands on every `RPUSH`, or an HTTP
//! endpoint, of which it hands on every request. It refuses HTTP paths that end in `/refused`, and of those that end in
//! `/refuse-2` the first two; those that end in `/hang` it does not answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::http::PATIENCE;

pub(crate) struct Jobs {
    pub(crate) address: SocketAddr,
    taken: Receiver<Job>,
}

/// What somebody sent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Job {
    /// The Redis key or the HTTP path.
    pub(crate) key: String,
    /// Of HTTP.
    pub(crate) headers: Vec<(String, String)>,
    /// The value or body.
    pub(crate) value: String,
}

/// Where jobs go, and how often each path was asked.
#[derive(Clone)]
struct Taker {
    jobs: Sender<Job>,
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Jobs {
    pub(crate) fn start() -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let (jobs, taken) = channel();
        let taker = Taker { jobs, asked: Arc::default() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taker = taker.clone();
                thread::spawn(move || serve(BufReader::new(stream), &taker));
            }
        });
        Ok(Self { address, taken })
    }

    pub(crate) fn next(&self) -> Result<Job, String> {
        self.taken.recv_timeout(PATIENCE).map_err(|_| format!("no job came within {PATIENCE:?}"))
    }
}

/// Answers until the client goes or says something that is neither protocol.
fn serve(mut reader: BufReader<TcpStream>, taker: &Taker) -> Option<()> {
    loop {
        let line = read_line(&mut reader)?;
        let answer = match line.strip_prefix('*') {
            Some(count) => redis_command(&mut reader, count.parse().ok()?, taker)?,
            None => http_request(&mut reader, &line, taker)?,
        };
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// A RESP array of `count` bulk strings.
fn redis_command(reader: &mut BufReader<TcpStream>, count: usize, taker: &Taker) -> Option<&'static str> {
    let words: Option<Vec<String>> = (0..count)
        .map(|_| {
            let length: usize = read_line(reader)?.strip_prefix('$')?.parse().ok()?;
            let word = read_text(reader, length)?;
            read_line(reader)?;
            Some(word)
        })
        .collect();
    let words = words?;
    Some(match words.first()?.to_ascii_uppercase().as_str() {
        "RPUSH" => {
            let job = Job { key: words.get(1)?.clone(), value: words.get(2)?.clone(), ..Job::default() };
            taker.jobs.send(job).ok()?;
            ":1\r\n"
        }
        "PING" => "+PONG\r\n",
        "HELLO" => "-ERR unknown command\r\n",
        _ => "+OK\r\n",
    })
}

fn http_request(reader: &mut BufReader<TcpStream>, line: &str, taker: &Taker) -> Option<&'static str> {
    let path = line.strip_prefix("POST ")?.strip_suffix(" HTTP/1.1")?;
    let (mut length, mut headers) = (0, Vec::new());
    loop {
        let header = read_line(reader)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let body = read_text(reader, length)?;
    let asked = {
        let mut asked = taker.asked.lock().ok()?;
        let asked = asked.entry(path.to_owned()).or_default();
        *asked += 1;
        *asked
    };
    let is_refused = path.ends_with("/refused")
        || path
            .rsplit_once("/refuse-")
            .and_then(|(_, times)| times.parse().ok())
            .is_some_and(|times: u32| asked <= times);
    if is_refused {
        return Some("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    }
    if path.ends_with("/hang") {
        // until the client gives up
        reader.read_to_end(&mut Vec::new()).ok()?;
        return None;
    }
    taker.jobs.send(Job { key: path.to_owned(), headers, value: body }).ok()?;
    Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.strip_suffix("\r\n").map(str::to_owned)
}

fn read_text(reader: &mut BufReader<TcpStream>, length: usize) -> Option<String> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

#[test]
fn hands_on_what_is_sent() {
    let jobs = Jobs::start().unwrap();
    let check = |sent: &str, answers: &str, key: &str, headers: &[(&str, &str)]| {
        let mut client = TcpStream::connect(jobs.address).unwrap();
        client.write_all(sent.as_bytes()).unwrap();
        let mut came = vec![0; answers.len()];
        client.read_exact(&mut came).unwrap();
        assert_eq!(String::from_utf8(came).unwrap(), answers);
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(jobs.next().unwrap(), Job { key: key.to_owned(), headers, value: "{}".to_owned() });
    };
    check("*1\r\n$4\r\nPING\r\n*3\r\n$5\r\nrpush\r\n$6\r\na@chat\r\n$2\r\n{}\r\n", "+PONG\r\n:1\r\n", "a@chat", &[]);
    let (ok, error) = (
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    );
    let (chat, length) = ("POST /a/chat HTTP/1.1\r\nX-A: b: c\r\ncontent-length: 2\r\n\r\n{}", ("content-length", "2"));
    let refused = "POST /a/refused HTTP/1.1\r\n\r\n";
    check(&format!("{refused}{chat}"), &format!("{error}{ok}"), "/a/chat", &[("X-A", "b: c"), length]);
    let once = "POST /refuse-1 HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
    check(&format!("{once}{once}"), &format!("{error}{ok}"), "/refuse-1", &[length]);
}
