//! Listeners: bound once per shard, so that the kernel spreads what comes; evened out by hand where it does not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::header::HeaderMap;
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;

use super::http::{self, Seat};
use super::stream::Stream;
use super::tls::Tls;
use super::{Handover, Mail, Shard};
use crate::config::{Address, FileMode, Secret};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// Accepted in a row before anything else gets its turn.
const ACCEPTS_MAX: usize = 8;
/// Bytes that the kernel takes for a client before it says "full". Without it a stalled reader is given megabytes of
/// kernel memory before its outbox even begins to fill.
const NOT_SENT_LOW_WATER_BYTES: u32 = 16 << 10;
/// Wait after an accept that failed for want of file descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener as every shard sees it.
pub struct Listener {
    /// Where it listens; the port is the true one.
    pub address: Address,
    /// The doors' names in the configuration.
    pub names: Vec<String>,
    /// Its place among the node's listeners, by which [`Doors`](super::Doors) are found.
    pub index: usize,
    /// Taken off every path; empty or `/x`.
    pub path_prefix: String,
    /// What clients must begin with; none where they speak plainly.
    pub tls: Option<Tls>,
    /// Goes on while the node drains, until it ends: whoever watches it must see that it is not ready, and why.
    pub stays_open: bool,
    /// Whether messages may be deflated here, whatever the app.
    pub deflates: bool,
    /// What is demanded of everyone.
    pub trust: Trust,
    /// Proxies whose word about the client's address counts.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Live sockets by shard.
    pub seats: Box<[AtomicUsize]>,
    /// Live sockets that are not client connections, for `http_connections_max`.
    pub visitors: AtomicUsize,
}

/// Who may use a listener.
pub struct Trust {
    /// Its doors may know no credentials: no requests from web pages of other sites.
    pub trusted: bool,
    /// Client addresses; empty for all.
    pub allow: Vec<IpNet>,
    /// Demanded in `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// Names in `Host` that are accepted beside addresses and names without a dot; `*` for any.
    pub hosts: Vec<String>,
}

impl Listener {
    /// The client's address. A trusted proxy is believed for the address that it added to `X-Forwarded-For`, the last;
    /// if that is a trusted proxy too, for the one before, and so on. The peer of a unix socket is believed as well.
    pub(super) fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let is_proxy = |address: IpAddr| self.trusted_proxies.iter().any(|net| net.contains(&address));
        let mut client = peer;
        let values = headers.get_all("x-forwarded-for");
        let mut hops = values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
        while client.is_none_or(is_proxy) {
            // only what stands behind it was written by a proxy: whatever the client made up is never looked at
            let Some(hop) = hops.next().and_then(address) else { break };
            client = Some(hop);
        }
        client
    }
}

/// An address in `X-Forwarded-For`; some proxies add the port.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let address = hop.parse().or_else(|_| hop.parse().map(|with_port: SocketAddr| with_port.ip())).ok()?;
    Some(address.to_canonical())
}

/// A bound socket, not yet in any runtime.
pub enum Socket {
    /// One of several of the same port.
    Tcp(std::net::TcpListener),
    /// The only one of its path; its streams are handed to all shards.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// A unix socket's place in the file system; goes with this value.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds an address for `shards` shards: as many sockets for TCP, one for a unix socket (which the first shard gets).
/// Returns them with the true address.
///
/// # Errors
/// The address cannot be had, for example because another process has it.
pub fn bind(address: &Address, unix_mode: FileMode, shards: usize) -> io::Result<(Address, Vec<Socket>)> {
    match address {
        Address::Tcp(address) => {
            // first an ordinary bind: a port in use is an error, and port 0 becomes one port
            let first = tcp_socket(address)?;
            first.bind(&(*address).into())?;
            first.set_reuse_port(true)?;
            let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let mut sockets = vec![listen(first)?];
            for _ in 1..shards {
                let socket = tcp_socket(&address)?;
                socket.set_reuse_port(true)?;
                socket.bind(&address.into())?;
                sockets.push(listen(socket)?);
            }
            Ok((Address::Tcp(address), sockets.into_iter().map(Socket::Tcp).collect()))
        }
        Address::Unix(path) => {
            remove_stale(path)?;
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            let file = SocketFile(path.clone());
            // before anybody can connect
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(unix_mode.0))?;
            socket.set_nonblocking(true)?;
            socket.listen(BACKLOG)?;
            Ok((address.clone(), vec![Socket::Unix(socket.into(), file)]))
        }
    }
}

fn tcp_socket(address: &SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Accepted sockets inherit the options.
fn listen(socket: socket2::Socket) -> io::Result<std::net::TcpListener> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOT_SENT_LOW_WATER_BYTES)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket file that nobody listens on is left over from a process that was killed. Any other file stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Acceptor::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
            Acceptor::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        })
    }
}

/// Accepts on a bound socket until the node drains, or ends.
pub(super) fn accept_on(shard: Rc<Shard>, listener: Arc<Listener>, socket: Socket) -> io::Result<()> {
    let (acceptor, file) = match socket {
        Socket::Tcp(socket) => (Acceptor::Tcp(TcpListener::from_std(socket)?), None),
        Socket::Unix(socket, file) => (Acceptor::Unix(UnixListener::from_std(socket)?), Some(file)),
    };
    let mut draining = shard.shared.draining.clone();
    spawn_local(async move {
        // the file goes first: a successor that finds it refused would replace it, and then lose its own
        let (acceptor, file) = (acceptor, file);
        let mut accepted = 0;
        loop {
            tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining), if !listener.stays_open => break,
                stream = acceptor.accept() => seat(&shard, &listener, stream).await,
            }
            accepted += 1;
            if accepted % ACCEPTS_MAX == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(file);
        // whoever shook hands with the kernel before the end is served: closing now would reset them
        while let Ok(stream) = tokio::time::timeout(Duration::ZERO, acceptor.accept()).await {
            seat(&shard, &listener, stream).await;
        }
    });
    Ok(())
}

/// Keeps a stream, or hands it to the shard that has fewest of this listener.
async fn seat(shard: &Rc<Shard>, listener: &Arc<Listener>, stream: io::Result<Stream>) {
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "accept failed");
            return tokio::time::sleep(ACCEPT_RETRY).await;
        }
    };
    let here = usize::from(shard.index);
    let taken = |at: usize| listener.seats[at].load(Ordering::Relaxed);
    let emptiest = (0..listener.seats.len()).min_by_key(|at| taken(*at)).unwrap_or(here);
    let at = if taken(here) <= taken(emptiest) + 1 { here } else { emptiest };
    // taken here and now: the next of a burst is already counted with it
    let seat = Seat::take(listener.clone(), at);
    if at == here {
        spawn_local(http::serve(shard.clone(), seat, stream));
    } else if let Ok(accepted) = stream.detach() {
        let _ = shard.mailboxes[at].send(Mail::Stream(Handover { accepted, seat }));
    }
}

/// Serves a stream that another shard accepted.
pub(super) fn take_over(shard: &Rc<Shard>, handover: Handover) {
    let Handover { accepted, seat } = handover;
    if let Ok(stream) = Stream::attach(accepted) {
        spawn_local(http::serve(shard.clone(), seat, stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Address {
        Address::Tcp(address.parse().unwrap())
    }

    #[test]
    fn one_port_for_all_shards_and_for_nobody_else() {
        let (address, sockets) = bind(&tcp("127.0.0.1:0"), FileMode(0), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let Address::Tcp(bound) = address else { panic!("a TCP address") };
        for socket in &sockets {
            let Socket::Tcp(socket) = socket else { panic!("a TCP socket") };
            assert_eq!(socket.local_addr().unwrap(), bound);
            let options = socket2::SockRef::from(socket);
            assert!(options.tcp_nodelay().unwrap());
            assert_eq!(options.tcp_notsent_lowat().unwrap(), NOT_SENT_LOW_WATER_BYTES);
        }
        let again = bind(&tcp(&bound.to_string()), FileMode(0), 1).err().unwrap();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_socket_file_comes_and_goes_and_no_other_file_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let bind = || bind(&Address::Unix(path.clone()), FileMode(0o620), 3);
        let (_, sockets) = bind().unwrap();
        assert_eq!(sockets.len(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(bind().err().unwrap().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a process that was killed leaves its file");
        drop(bind().unwrap());

        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind().err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_client_behind_proxies() {
        let listener = Listener {
            address: tcp("127.0.0.1:0"),
            names: Vec::new(),
            index: 0,
            path_prefix: String::new(),
            tls: None,
            stays_open: false,
            deflates: false,
            trust: Trust { trusted: false, allow: Vec::new(), token: None, hosts: Vec::new() },
            trusted_proxies: ["10.0.0.0/8".parse().unwrap()].into(),
            seats: Box::new([]),
            visitors: AtomicUsize::new(0),
        };
        let client = |peer: Option<&str>, forwarded: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            listener.client(peer.map(|peer| peer.parse().unwrap()), &headers).map(|address| address.to_string())
        };
        for (peer, forwarded, expected) in [
            (Some("192.0.2.1"), "203.0.113.9", Some("192.0.2.1")), // anybody may write a header
            (Some("10.0.0.1"), "203.0.113.9", Some("203.0.113.9")),
            (Some("10.0.0.1"), "198.51.100.7, 203.0.113.9, 10.0.0.2", Some("203.0.113.9")),
            (Some("10.0.0.1"), "nonsense", Some("10.0.0.1")),
            (Some("10.0.0.1"), "nonsense, 203.0.113.9", Some("203.0.113.9")), // what comes first is the client's own
            (Some("10.0.0.1"), "192.0.2.1, nonsense, 10.0.0.2", Some("10.0.0.2")),
            (Some("10.0.0.1"), "203.0.113.9:4711", Some("203.0.113.9")),
            (Some("10.0.0.1"), "[2001:db8::1]:4711", Some("2001:db8::1")),
            (Some("10.0.0.1"), "::ffff:203.0.113.9", Some("203.0.113.9")),
            (Some("10.0.0.1"), "10.0.0.3", Some("10.0.0.3")),
            (None, "203.0.113.9", Some("203.0.113.9")),
            (None, "", None),
        ] {
            assert_eq!(client(peer, forwarded).as_deref(), expected, "{peer:?} {forwarded:?}");
        }
    }
}
