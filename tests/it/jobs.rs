//! A stand-in for the place that takes remote jobs: Redis, of which it hands on every `RPUSH`, or an HTTP endpoint, of
//! which it hands on every body. It refuses HTTP paths that end in `/refused`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::http::PATIENCE;

pub(crate) struct Jobs {
    pub(crate) address: SocketAddr,
    taken: Receiver<Job>,
}

/// The Redis key or the HTTP path, and the value or body.
type Job = (String, String);

impl Jobs {
    pub(crate) fn start() -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let (sender, taken) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || serve(BufReader::new(stream), &sender));
            }
        });
        Ok(Self { address, taken })
    }

    pub(crate) fn next(&self) -> Result<Job, String> {
        self.taken.recv_timeout(PATIENCE).map_err(|_| format!("no job came within {PATIENCE:?}"))
    }
}

/// Answers until the client goes or says something that is neither protocol.
fn serve(mut reader: BufReader<TcpStream>, jobs: &Sender<Job>) -> Option<()> {
    loop {
        let line = read_line(&mut reader)?;
        let answer = match line.strip_prefix('*') {
            Some(count) => redis_command(&mut reader, count.parse().ok()?, jobs)?,
            None => http_request(&mut reader, &line, jobs)?,
        };
        reader.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// A RESP array of `count` bulk strings.
fn redis_command(reader: &mut BufReader<TcpStream>, count: usize, jobs: &Sender<Job>) -> Option<&'static str> {
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
            jobs.send((words.get(1)?.clone(), words.get(2)?.clone())).ok()?;
            ":1\r\n"
        }
        "PING" => "+PONG\r\n",
        "HELLO" => "-ERR unknown command\r\n",
        _ => "+OK\r\n",
    })
}

fn http_request(reader: &mut BufReader<TcpStream>, line: &str, jobs: &Sender<Job>) -> Option<&'static str> {
    let path = line.strip_prefix("POST ")?.strip_suffix(" HTTP/1.1")?;
    let mut length = 0;
    loop {
        let header = read_line(reader)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let body = read_text(reader, length)?;
    if path.ends_with("/refused") {
        return Some("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    }
    jobs.send((path.to_owned(), body)).ok()?;
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
    let check = |sent: &str, answers: &str, job: (&str, &str)| {
        let mut client = TcpStream::connect(jobs.address).unwrap();
        client.write_all(sent.as_bytes()).unwrap();
        let mut came = vec![0; answers.len()];
        client.read_exact(&mut came).unwrap();
        assert_eq!(String::from_utf8(came).unwrap(), answers);
        assert_eq!(jobs.next().unwrap(), (job.0.to_owned(), job.1.to_owned()));
    };
    check("*1\r\n$4\r\nPING\r\n*3\r\n$5\r\nrpush\r\n$6\r\na@chat\r\n$2\r\n{}\r\n", "+PONG\r\n:1\r\n", ("a@chat", "{}"));
    check(
        "POST /a/refused HTTP/1.1\r\n\r\nPOST /a/chat HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ("/a/chat", "{}"),
    );
}
