//! TLS on listeners: what goes over it, how handshakes fail, and certificates that become others.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore, SignatureScheme,
    StreamOwned, SupportedProtocolVersion,
};

use crate::client::{
    assert_idle, event, eventually, get, metric, narrow_stream, next, open, padded, path, publish, start_with,
    subscribe,
};
use crate::http::{self, PATIENCE, Response, Wire};
use crate::limits::{SLOW, dribble};
use crate::server::{App, Server, Settings};
use crate::websocket::{self, Frame, TEXT, WebSocket};

/// A certificate for this machine with its key, in a folder of its own.
struct Pair {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

/// A certificate and its key, as PEM text.
fn make_pair() -> (CertificateDer<'static>, String, String) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    // no two have the same name, or one would be taken for a forged other
    static MADE: AtomicUsize = AtomicUsize::new(0);
    params.distinguished_name.push(rcgen::DnType::CommonName, MADE.fetch_add(1, Ordering::Relaxed).to_string());
    let certificate = params.self_signed(&pair).unwrap();
    let der = certificate.der().clone();
    (der.clone(), pem("CERTIFICATE", &der), pem("PRIVATE KEY", &pair.serialize_der()))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Pair {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, pem, key) = make_pair();
        fs::write(folder.path().join("cert.pem"), pem).unwrap();
        fs::write(folder.path().join("key.pem"), key).unwrap();
        Self { folder, certificate }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The settings that give it to a listener.
    fn settings(&self, listener: &str) -> [(String, String); 2] {
        [("tls_certificate", "cert.pem"), ("tls_key", "key.pem")]
            .map(|(key, file)| (format!("{listener}.{key}"), format!("{:?}", self.file(file))))
    }

    /// A server whose public listener has it.
    fn serve(&self, settings: &[(&str, &str)]) -> Server {
        let values = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let values = values.chain(self.settings("public")).collect();
        Server::start(&Settings { values, ..Settings::default() }).unwrap()
    }

    /// A client that trusts it, and nothing else.
    fn client(&self) -> Arc<ClientConfig> {
        client_of(&self.certificate, &[&TLS13, &TLS12])
    }
}

fn client_of(
    certificate: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    Arc::new(builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots).with_no_client_auth())
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection that has shaken hands.
fn shake_hands(socket: TcpStream, client: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn secure(address: SocketAddr, client: &Arc<ClientConfig>) -> Stream {
    shake_hands(TcpStream::connect_timeout(&address, PATIENCE).unwrap(), client).unwrap()
}

fn wire(address: SocketAddr, client: &Arc<ClientConfig>) -> Wire {
    Wire::through(secure(address, client))
}

/// A request over TLS, on a connection of its own.
fn get_secure(address: SocketAddr, client: &Arc<ClientConfig>, path: &str) -> Response {
    http::request_on(wire(address, client), "localhost", "GET", path, &[], b"").unwrap()
}

fn text(socket: &mut WebSocket) -> String {
    match next(socket).unwrap() {
        Frame::Text(text) => text,
        frame => panic!("{frame:?}"),
    }
}

fn failures(server: &Server, reason: &str) -> f64 {
    metric(server, &format!("tls_handshake_failures_total{{reason=\"{reason}\"}}"))
}

// ---------------------------------------------------------------------- what goes over it

#[test]
fn clients_and_backends_speak_as_they_do_without() {
    let pair = Pair::new();
    let values = pair.settings("public").into_iter().chain(pair.settings("trusted")).chain(pair.settings("api"));
    let apps = vec![App::called("a")];
    let server = Server::start(&Settings { values: values.collect(), apps, ..Settings::default() }).unwrap();
    let (public, trusted) = (server.addresses.public, server.addresses.trusted);
    for version in [&TLS13, &TLS12] {
        let client = client_of(&pair.certificate, &[version]);
        let mut gusher = open(wire(public, &client), "u1");
        subscribe(&mut gusher, "AA");
        let asked = websocket::ask_on(wire(public, &client), "localhost", "/app/a?protocol=7", &[]).unwrap();
        let mut pusher = WebSocket::accept(asked).unwrap();
        assert!(text(&mut pusher).contains("connection_established"));
        pusher.send(true, TEXT, br#"{"event":"pusher:subscribe","data":{"channel":"AA"}}"#).unwrap();
        assert!(text(&mut pusher).contains("subscription_succeeded"));
        // records are of 16 KiB at most, frames are not; and several requests go over one connection
        let mut backend = wire(trusted, &client);
        for (number, bytes) in [100, 16 << 10, 1 << 20, 100].into_iter().enumerate() {
            let data = padded(number, bytes);
            let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
            let body = format!("data={data}");
            let answer =
                http::request_on(backend, "localhost", "POST", "/api/push/a/AA/e", &form, body.as_bytes()).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, event("AA", &data).as_bytes()));
            backend = answer.wire;
            assert_eq!(text(&mut gusher), event("AA", &data));
            assert!(text(&mut pusher).contains(data.trim_matches('"')));
        }
        // a message from the client in many records, and several in one
        assert_idle(&mut gusher);
        gusher.send_close(1000, "").unwrap();
        assert_eq!(next(&mut gusher).unwrap(), Frame::Close(1000, String::new()));
        gusher.finish(1000).unwrap();
    }
    eventually("both have gone", || metric(&server, "connections") <= 2.0);
}

#[test]
fn a_burst_is_few_records() {
    let pair = Pair::new();
    let server = pair.serve(&[("node.shards", "1")]);
    let mut socket = open(wire(server.addresses.public, &pair.client()), "u1");
    subscribe(&mut socket, "AA");
    let before = metric(&server, "writes_total");
    let events: Vec<String> =
        (0..1000).map(|number| format!(r#"{{"channel":"AA","event":"e","data":"{number}"}}"#)).collect();
    let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
    let body = format!("batch_data=[{}]", events.join(","));
    let pushed = http::request(server.addresses.trusted, "POST", "/api/push_batch/a", &form, body.as_bytes()).unwrap();
    assert_eq!(pushed.status, 200, "{}", String::from_utf8_lossy(&pushed.body));
    for number in 0..1000 {
        assert_eq!(text(&mut socket), event("AA", &format!("\"{number}\"")));
    }
    let writes = metric(&server, "writes_total") - before;
    assert!(writes <= 50.0, "{writes} writes for 1,000 frames");
}

#[test]
fn what_is_not_read_is_bounded() {
    let pair = Pair::new();
    let server = pair.serve(&[("limits.outbox_bytes_max", "20000")]);
    let public = server.addresses.public;
    let mut reader = open(wire(public, &pair.client()), "reader");
    let stalled = shake_hands(narrow_stream(public), &pair.client()).unwrap();
    let mut stalled = open(Wire::through(stalled), "stalled");
    subscribe(&mut reader, "AA");
    subscribe(&mut stalled, "AA");
    let mut sent = Vec::new();
    while metric(&server, "outbox_overflows_total") == 0.0 {
        assert!(sent.len() < 400, "still open");
        let data = padded(sent.len(), 5000);
        assert_eq!(publish(&server, "AA", &data).status, 200);
        sent.push(event("AA", &data));
        assert_eq!(Some(text(&mut reader)), sent.last().cloned());
    }
    // it has missed nothing of what came before, and is told why it ends
    let mut came = 0;
    let farewell = loop {
        match stalled.receive().unwrap() {
            Frame::Text(text) => {
                assert_eq!(text, sent[came]);
                came += 1;
            }
            frame => break frame,
        }
    };
    assert!(came < sent.len());
    assert!(matches!(farewell, Frame::Close(1013, _)), "{farewell:?}");
    stalled.finish(1013).unwrap();
}

// ---------------------------------------------------------------------- beginnings and ends

#[test]
fn whoever_comes_back_resumes() {
    let pair = Pair::new();
    let server = pair.serve(&[]);
    for version in [&TLS13, &TLS12] {
        let client = client_of(&pair.certificate, &[version]);
        let kind = || {
            let mut stream = secure(server.addresses.public, &client);
            let kind = stream.conn.handshake_kind();
            // a ticket comes with the first answer
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
            kind
        };
        assert_eq!(kind(), Some(HandshakeKind::Full));
        assert_eq!(kind(), Some(HandshakeKind::Resumed));
    }
    assert_eq!(metric(&server, "tls_handshakes_total{kind=\"full\"}"), 2.0);
    assert_eq!(metric(&server, "tls_handshakes_total{kind=\"resumed\"}"), 2.0);
}

#[test]
fn both_ends_say_that_nothing_more_comes() {
    let pair = Pair::new();
    let server = pair.serve(&[]);
    let public = server.addresses.public;
    // the server's: reading to the end is an error without it
    let mut stream = secure(public, &pair.client());
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
    // a client that says so, and one that is cut off
    let mut ends = secure(public, &pair.client());
    upgrade(&mut ends);
    let mut cut = secure(public, &pair.client());
    upgrade(&mut cut);
    assert_eq!(metric(&server, "connections"), 2.0);
    ends.conn.send_close_notify();
    ends.flush().unwrap();
    eventually("one has gone", || metric(&server, "connections") == 1.0);
    ends.read_to_end(&mut Vec::new()).unwrap();
    drop(cut);
    eventually("both have gone", || metric(&server, "connections") == 0.0);
    assert_eq!(metric(&server, "connections_closed_total{reason=\"client\"}"), 2.0);
}

/// Makes it a client connection.
fn upgrade(stream: &mut Stream) {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        path("u1")
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn a_server_that_ends_says_goodbye() {
    let pair = Pair::new();
    let mut server = pair.serve(&[("shutdown.grace_ms", "100")]);
    let public = server.addresses.public;
    let mut socket = open(wire(public, &pair.client()), "u1");
    let mut idle = get_secure(public, &pair.client(), "/healthz").wire;
    // has begun, and is still served
    let (mut late, mut rest) = half_shaken(public, &pair.client());
    late.conn.writer().write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    late.conn.write_tls(&mut rest).unwrap();
    server.signal("TERM");
    idle.ended().unwrap();
    eventually("connections are refused", || TcpStream::connect(public).is_err());
    late.sock.write_all(&rest).unwrap();
    let farewell = "the server is shutting down; reconnect".to_owned();
    assert_eq!(next(&mut socket).unwrap(), Frame::Close(1001, farewell));
    socket.finish(1001).unwrap();
    let mut answer = Vec::new();
    late.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"shutting down"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.exit_code(), Some(0));
}

/// A connection that has had the server's part of the handshake; and what is yet to be sent.
fn half_shaken(address: SocketAddr, client: &Arc<ClientConfig>) -> (Stream, Vec<u8>) {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut session = ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
    session.write_tls(&mut socket).unwrap();
    while session.is_handshaking() {
        session.read_tls(&mut socket).unwrap();
        session.process_new_packets().unwrap();
    }
    let mut rest = Vec::new();
    session.write_tls(&mut rest).unwrap();
    (StreamOwned::new(session, socket), rest)
}

// ---------------------------------------------------------------------- handshakes that fail

#[test]
fn what_is_no_handshake_is_closed_and_counted() {
    let pair = Pair::new();
    let server = pair.serve(&[]);
    let public = server.addresses.public;
    // a request without TLS is told so
    let mut answer = http::request(public, "GET", "/healthz", &[], b"").unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(&*answer.body, b"This port speaks TLS: use https:// or wss:// instead here\n");
    answer.wire.ended().unwrap();
    eventually("it is counted", || failures(&server, "plain_http") == 1.0);
    for garbage in [&b"\0\0\0\0"[..], b"SSH", b"\x16\x03\x01\xff\xff\x01", b"\x16\x03\x01\0\x05\x02\0\0\0\0"] {
        let mut wire = Wire::open(public).unwrap();
        wire.write(garbage).unwrap();
        if garbage != b"SSH" {
            wire.ended().unwrap();
        }
    }
    eventually("they are counted", || failures(&server, "not_tls") == 3.0);
    // the beginning of one, and then nonsense
    let mut wire = Wire::open(public).unwrap();
    wire.write(&[&[22, 3, 1, 0, 40, 1, 0, 0, 36][..], &[0xff; 36]].concat()).unwrap();
    let alert = wire.take(7).unwrap();
    assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert: {alert:?}");
    wire.ended().unwrap();
    eventually("it is counted", || failures(&server, "protocol") == 1.0);
    // somebody who only looks
    drop(TcpStream::connect(public).unwrap());
    eventually("it is counted", || failures(&server, "closed") >= 1.0);
    // a client that trusts another
    let socket = TcpStream::connect(public).unwrap();
    let stranger = Pair::new();
    let refused = shake_hands(socket, &stranger.client()).unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    eventually("it is counted", || failures(&server, "certificate_refused") == 1.0);
    eventually("none is left", || metric(&server, "http_connections") == 1.0);
    assert_eq!(get_secure(public, &pair.client(), "/healthz").status, 200);
}

#[test]
fn a_handshake_has_the_time_of_a_first_request() {
    let pair = Pair::new();
    let server = pair.serve(&[("limits.handshake_timeout_ms", "1000")]);
    let public = server.addresses.public;
    let mut hello = Vec::new();
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(pair.client(), name).unwrap().write_tls(&mut hello).unwrap();
    let began = Instant::now();
    dribble(Wire::open(public).unwrap(), &hello);
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    // nor may it stop half-way, or after it
    let began = Instant::now();
    let (mut half, _) = half_shaken(public, &pair.client());
    assert_eq!(half.sock.read(&mut [0; 1]).unwrap(), 0);
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    eventually("they are counted", || failures(&server, "timeout") == 2.0);
    let began = Instant::now();
    let mut silent = secure(public, &pair.client());
    assert_eq!(silent.sock.read(&mut [0; 4096]).map(|_| ()).ok(), Some(()), "its ticket, or the end");
    let _ = silent.sock.read_to_end(&mut Vec::new());
    assert!(began.elapsed() >= SLOW, "{:?}", began.elapsed());
    assert_eq!(failures(&server, "timeout"), 2.0);
    eventually("none is left", || metric(&server, "http_connections") == 1.0);
}

/// `tls_handshakes_max`: whoever is beyond waits for its turn, and one that does not go on loses its place in time.
pub(crate) fn handshakes_at_once() {
    let pair = Pair::new();
    let server = pair.serve(&[("node.shards", "1"), ("limits.tls_handshakes_max", "2")]);
    let public = server.addresses.public;
    let mut live = open(wire(public, &pair.client()), "live");
    let began = Instant::now();
    let (mut first, rest) = half_shaken(public, &pair.client());
    // there is room for one more beside it
    assert_eq!(get_secure(public, &pair.client(), "/healthz").status, 200);
    let (_second, _) = half_shaken(public, &pair.client());
    let client = pair.client();
    let third = std::thread::spawn(move || {
        assert_eq!(get_secure(public, &client, "/healthz").status, 200);
    });
    // nobody else waits
    assert_idle(&mut live);
    assert_eq!(get(server.addresses.ops, "/healthz").status, 200);
    third.join().unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // one that has lost its place may go on
    first.sock.write_all(&rest).unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    first.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"ok"));
}

// ---------------------------------------------------------------------- certificates

/// What a newcomer is shown.
fn shown(address: SocketAddr, trusted: &[&Pair]) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|pair| roots.add(pair.certificate.clone()).unwrap());
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let client = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let stream = secure(address, &Arc::new(client.with_no_client_auth()));
    stream.conn.peer_certificates().unwrap()[0].clone()
}

fn copy(from: &Path, to: &Path) {
    // as a whole: whoever watches sees all of it, or nothing
    let new = to.with_extension("new");
    fs::copy(from, &new).unwrap();
    fs::rename(&new, to).unwrap();
}

#[test]
fn another_certificate_is_shown_without_a_restart() {
    let (pair, other) = (Pair::new(), Pair::new());
    let server = pair.serve(&[]);
    let public = server.addresses.public;
    let mut socket = open(wire(public, &pair.client()), "u1");
    subscribe(&mut socket, "AA");
    let shown = || shown(public, &[&pair, &other]);
    assert_eq!(shown(), pair.certificate);
    // half of it changes nothing
    copy(&other.file("cert.pem"), &pair.file("cert.pem"));
    server.signal("HUP");
    eventually("it is refused", || server.log().contains("does not belong to the certificate in"));
    assert_eq!(shown(), pair.certificate);
    // nor does one that is cut off
    fs::write(pair.file("cert.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    server.signal("HUP");
    eventually("it is refused", || server.log().contains("is damaged, or cut off"));
    assert_eq!(shown(), pair.certificate);
    // both do, by themselves
    copy(&other.file("cert.pem"), &pair.file("cert.pem"));
    copy(&other.file("key.pem"), &pair.file("key.pem"));
    eventually("it is shown", || shown() == other.certificate);
    // told of once it is in force
    eventually("it is told", || server.log().contains("tls_certificate changed"));
    assert!(!server.log().contains("needs a restart"), "{}", server.log());
    // who was connected goes on
    assert_eq!(publish(&server, "AA", "1").status, 200);
    assert_eq!(text(&mut socket), event("AA", "1"));
    // a ticket of the old one is worth nothing
    let client = pair.client();
    assert!(shake_hands(TcpStream::connect(public).unwrap(), &client).is_err());
}

#[test]
fn links_that_are_pointed_elsewhere_are_another_certificate() {
    use std::os::unix::fs::symlink;
    // as Kubernetes mounts a secret
    let (one, two, mount) = (Pair::new(), Pair::new(), tempfile::tempdir().unwrap());
    let at = |name: &str| mount.path().join(name);
    symlink(one.folder.path(), at("..data")).unwrap();
    symlink("..data/cert.pem", at("cert.pem")).unwrap();
    symlink("..data/key.pem", at("key.pem")).unwrap();
    let setting = |key: &str, file: &str| (format!("public.{key}"), format!("{:?}", at(file)));
    let values = [setting("tls_certificate", "cert.pem"), setting("tls_key", "key.pem")].into();
    let server = Server::start(&Settings { values, ..Settings::default() }).unwrap();
    let shown = || shown(server.addresses.public, &[&one, &two]);
    assert_eq!(shown(), one.certificate);
    symlink(two.folder.path(), at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    eventually("it is shown", || shown() == two.certificate);
}

#[test]
fn a_certificate_of_its_own_making() {
    let listener = "address = \"127.0.0.1:0\"\ndoors = [\"ops\", \"gusher\"]\ntrusted = true\ntls_self_signed = true";
    let server = start_with(&[], &[listener]);
    let address = server.listening()[0].parse().unwrap();
    let log = server.log();
    let fingerprint = log.split_once("fingerprint=\"").unwrap().1.split('"').next().unwrap();
    // whoever looks at the fingerprint may trust it
    let certificate = peer_certificate(address);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(fingerprint, pairs.join(":"));
    let client = client_of(&certificate, &[&TLS13]);
    assert_eq!(get_secure(address, &client, "/healthz").status, 200);
    // it is the same after a reload
    let before = server.log().matches("configuration reloaded").count();
    server.signal("HUP");
    eventually("it is reloaded", || server.log().matches("configuration reloaded").count() > before);
    assert_eq!(get_secure(address, &client, "/healthz").status, 200);
}

/// The certificate of whoever is there.
fn peer_certificate(address: SocketAddr) -> CertificateDer<'static> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
    let client = Arc::new(builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth());
    secure(address, &client).conn.peer_certificates().unwrap()[0].clone()
}

/// Trusts whoever has the key to the certificate that is shown.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &default_provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
