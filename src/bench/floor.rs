//! The floors: the least that a program can do for the same result, each in a process of its own.
//!
//! They take the system's defaults for everything that costs CPU time (congestion control above all), as the server
//! does, and set `TCP_NODELAY` as it does.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;
use std::{env, io, thread};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::process::Process;

const BACKLOG: i32 = 4096;
/// The answer to a handshake. Nobody checks its accept value: not to compute one only makes the floor lower.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
/// The answer to a subscribe, as a frame.
const SUBSCRIBED: &[u8] = b"\x81\x70{\"event\":\"gusher.subscribe_succeeded\",\
    \"socket_id\":\"00000000-0000-0000-0000-000000000000\",\"data\":{\"channel\":\"c\"}}";
/// How long a socket that takes no more is left alone.
const FULL_SOCKET_PAUSE: Duration = Duration::from_micros(200);

/// What a floor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Floor {
    /// One thread writes each frame to every socket.
    FanOut,
    /// hyper upgrades connections, as many threads as the server has shards.
    Upgrade,
    /// hyper reads requests whole and answers 200, as many threads as the server has shards.
    Answer,
}

/// A floor that runs as a child process.
pub struct FloorProcess {
    /// The child.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its standard input: the fan-out's frames. The child ends with it.
    pub commands: ChildStdin,
}

/// Starts this program again as a floor for `connections` subscribers, where it has to know how many.
///
/// # Errors
/// When the child does not start.
pub fn start(floor: Floor, connections: usize) -> Result<FloorProcess> {
    let name = floor.to_possible_value().context("hidden floor")?;
    let mut process = Process::spawn(
        Command::new(env::current_exe()?)
            .args(["bench", "--be-floor", name.get_name(), "--connections", &connections.max(1).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )?;
    let (Some(commands), Some(output)) = process.take_pipes() else { bail!("the floor has no pipes") };
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim_end().parse().with_context(|| format!("the floor's address, not {line:?}"))?;
    Ok(FloorProcess { process, address, commands })
}

/// Runs a floor as the child that it is: prints the address, ends with its standard input.
///
/// # Errors
/// When it cannot listen.
pub fn run(floor: Floor, connections: usize) -> Result<()> {
    let mut commands = io::stdin().lock();
    match floor {
        Floor::FanOut => {
            let listener = listen(0)?;
            announce(listener.local_addr()?)?;
            fan_out(&listener, commands, connections)
        }
        Floor::Upgrade | Floor::Answer => {
            announce(serve(floor)?)?;
            io::copy(&mut commands, &mut io::sink())?;
            Ok(())
        }
    }
}

fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{address}")?;
    out.flush()
}

/// Listens on loopback; port 0 lets the kernel choose. Several may share a port.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts `connections` sockets, then writes each frame that `commands` brings (behind its length, 32 bits,
/// big-endian) to each of them, until `commands` ends.
fn fan_out(listener: &TcpListener, mut commands: impl Read, connections: usize) -> Result<()> {
    let mut sockets = Vec::with_capacity(connections);
    for _ in 0..connections {
        let (mut socket, _) = listener.accept()?;
        read_head(&mut socket)?;
        socket.write_all(SWITCHING)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    let mut frame = Vec::new();
    loop {
        let mut length = [0; 4];
        match commands.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        frame.resize(u32::from_be_bytes(length) as usize, 0);
        commands.read_exact(&mut frame)?;
        // A reader that has gone costs nothing any more.
        sockets.retain_mut(|socket| write_whole(socket, &frame).is_ok());
    }
}

fn read_head(socket: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    while !head.ends_with(b"\r\n\r\n") {
        let length = socket.read(&mut chunk)?;
        ensure!(length > 0, "closed during the handshake");
        head.extend_from_slice(&chunk[..length]);
    }
    Ok(())
}

fn write_whole(socket: &mut TcpStream, mut frame: &[u8]) -> io::Result<()> {
    while !frame.is_empty() {
        match socket.write(frame) {
            Ok(length) => frame = &frame[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_SOCKET_PAUSE),
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Serves with hyper on one thread, one current-thread runtime and one listener for each core, until the process ends.
fn serve(floor: Floor) -> Result<SocketAddr> {
    let mut listeners = vec![listen(0)?];
    let address = listeners[0].local_addr()?;
    for _ in 1..thread::available_parallelism()?.get() {
        listeners.push(listen(address.port())?);
    }
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().spawn(move || runtime.block_on(accept(floor, listener)))?;
    }
    Ok(address)
}

async fn accept(floor: Floor, listener: TcpListener) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        let stream = TokioIo::new(stream);
        tokio::spawn(async move {
            // How a connection ends is its client's business.
            let _ = match floor {
                Floor::Upgrade => {
                    http1::Builder::new().serve_connection(stream, service_fn(upgrade)).with_upgrades().await
                }
                Floor::Answer | Floor::FanOut => {
                    http1::Builder::new().serve_connection(stream, service_fn(answer)).await
                }
            };
        });
    }
}

/// Reads the body, and answers as Pusher's API does.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::new(Full::new(Bytes::from_static(b"{}"))))
}

/// The first byte of a close frame.
const CLOSE: u8 = 0x88;

/// Switches protocols; then one read, one frame written, and the next read is the end. So is a close frame that comes first,
/// from clients whose handshake says it all.
async fn upgrade(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut chunk = [0; 512];
        if stream.read(&mut chunk).await.is_ok() && chunk[0] != CLOSE && stream.write_all(SUBSCRIBED).await.is_ok() {
            let _ = stream.read(&mut chunk).await;
        }
    });
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, hyper::header::HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, hyper::header::HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, hyper::header::HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::client::Client;
    use crate::bench::http::HttpConnection;
    use crate::bench::publisher::floor_frame;
    use crate::bench::tally::{Clock, Plan, Tally};
    use crate::bench::target::{self, App, Credentials, Endpoint, Kind, Site, Subscription};
    use std::sync::Arc;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn site(address: SocketAddr, is_asked: bool) -> Arc<Site> {
        let text = Some("x".to_owned());
        let app = App { id: text.clone(), key: text.clone(), secret: text, ..App::default() };
        let at = Endpoint::at(address);
        let like = Credentials::new(Kind::Pusher, app, 1).unwrap().target(at.clone(), at);
        Site::new(Arc::new(target::Floor { like, is_asked }), address, address)
    }

    #[test]
    fn the_fan_out_floor_reaches_every_subscriber() {
        let listener = listen(0).unwrap();
        let site = site(listener.local_addr().unwrap(), false);
        let (commands, mut pipe) = io::pipe().unwrap();
        let floor = thread::spawn(move || fan_out(&listener, commands, 70));
        let clock = Clock::start();
        let mut client = Client::open(clock, &site, [Subscription::Channel(0); 70]).unwrap();

        let plan = Plan::to_one_channel(3, 5, Duration::from_millis(1), 1024);
        for index in 0..plan.messages {
            pipe.write_all(&floor_frame(&plan.stamp(index).text())).unwrap();
        }
        let mut tally = Tally::new(plan, clock.now_ns(), client.connections());
        client.read_until(&mut tally, PATIENCE, PATIENCE, || true, |tally| tally.deliveries == 350).unwrap();
        assert!(tally.messages.iter().all(|message| message.deliveries == 70));
        assert_eq!((tally.delays.len(), tally.wrong, tally.duplicates), (350, 0, 0));

        drop(pipe);
        floor.join().unwrap().unwrap();
        client.read_until(&mut tally, PATIENCE, PATIENCE, || true, |tally| tally.closed == 70).unwrap();
    }

    #[test]
    fn the_upgrade_floor_answers_a_subscribe_and_closes() {
        let site = site(serve(Floor::Upgrade).unwrap(), true);
        Client::open(Clock::start(), &site, [Subscription::Channel(0); 3]).unwrap().close().unwrap();
    }

    #[test]
    fn the_answer_floor_answers_200_on_a_kept_connection() {
        let mut connection = HttpConnection::connect(serve(Floor::Answer).unwrap()).unwrap();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
        connection.send(&request.repeat(3)).unwrap();
        for _ in 0..3 {
            let answer = connection.answer().unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &b"{}"[..]));
        }
    }

    #[test]
    fn the_ready_made_frame_has_its_length() {
        assert_eq!(SUBSCRIBED.len() - 2, usize::from(SUBSCRIBED[1]));
    }
}
