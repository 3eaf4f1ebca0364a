//! Who may use a listener, what it demands, and where it is.

use std::net::SocketAddr;

use crate::client::{assert_idle, event, next, open, path, start_with, subscribe};
use crate::http::{self, Response, Wire};
use crate::server::Server;
use crate::websocket::{self, Frame, WebSocket};

/// The true address of a further listener.
fn address(server: &Server, index: usize) -> SocketAddr {
    server.listening()[index].parse().unwrap()
}

/// A GET with these headers, for status and body.
fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    read(http::request(address, "GET", path, &headers, b"").unwrap())
}

fn read(response: Response) -> (u16, String) {
    (response.status, String::from_utf8(response.body).unwrap())
}

fn ready() -> (u16, String) {
    (200, "ready".to_owned())
}

#[test]
fn an_allow_list_looks_at_the_client_behind_the_proxies() {
    let ops = |allow: &str| format!("address = \"127.0.0.1:0\"\ndoors = [\"ops\"]\ntrusted = true\nallow = {allow}");
    let server = start_with(
        &[("proxy.trusted", "[\"127.0.0.1\", \"10.0.0.0/8\"]")],
        &[&ops("[\"192.0.2.0/24\"]"), &ops("[\"127.0.0.1\", \"10.0.0.0/8\"]")],
    );
    let refused = |client: &str| (403, format!("{client} is not in this listener's allow list\n"));
    let (far, near) = (address(&server, 0), address(&server, 1));
    assert_eq!(get(far, "/readyz", &[]), refused("127.0.0.1"));
    assert_eq!(get(far, "/no/such/path", &[]), refused("127.0.0.1"));
    assert_eq!(get(far, "/readyz", &[("X-Forwarded-For", "192.0.2.7")]), ready());
    assert_eq!(get(far, "/readyz", &[("X-Forwarded-For", "192.0.3.7")]), refused("192.0.3.7"));
    assert_eq!(get(far, "/readyz", &[("X-Forwarded-For", "192.0.2.7, 192.0.3.7")]), refused("192.0.3.7"));
    assert_eq!(get(far, "/readyz", &[("X-Forwarded-For", "192.0.2.7, 10.2.3.4")]), ready());
    assert_eq!(get(near, "/readyz", &[]), ready());
    assert_eq!(get(near, "/readyz", &[("X-Forwarded-For", "nonsense, 192.0.2.7")]), refused("192.0.2.7"));
}

#[test]
fn a_token_is_demanded_of_everyone() {
    let listener =
        "address = \"127.0.0.1:0\"\ndoors = [\"gusher\", \"ops\"]\ntrusted = true\ntoken = \"only-for-this-test\"";
    let server = start_with(&[], &[listener]);
    let listener = address(&server, 0);
    let refused = (403, "this listener needs its token: Authorization: Bearer …\n".to_owned());
    for given in [None, Some("Bearer "), Some("Bearer only-for-this-tes"), Some("Bearer only-for-this-testx")] {
        let headers: Vec<_> = given.map(|given| ("Authorization", given)).into_iter().collect();
        assert_eq!(get(listener, "/readyz", &headers), refused, "{given:?}");
    }
    assert_eq!(get(listener, "/readyz", &[("Authorization", "Basic only-for-this-test")]), refused);
    assert_eq!(get(listener, "/readyz", &[("Authorization", "Bearer only-for-this-test")]), ready());
    assert_eq!(get(listener, "/readyz", &[("Authorization", "bearer only-for-this-test")]), ready());
    assert_eq!(read(websocket::ask(listener, &path("u1"), &[]).unwrap()), refused);
}

#[test]
fn a_trusted_listener_is_not_for_web_pages_of_other_sites() {
    let ops = |hosts: &str| format!("address = \"127.0.0.1:0\"\ndoors = [\"ops\"]\ntrusted = true\nhosts = {hosts}");
    let server = start_with(&[], &[&ops("[\"push.example.org\"]"), &ops("[\"*\"]")]);
    let (named, any) = (address(&server, 0), address(&server, 1));
    let host = named.to_string();
    let foreign = (403, "the name \"evil.example.org\" is not among this listener's hosts\n".to_owned());
    let page = |origin: &str| (403, format!("requests from pages of {origin:?} are not accepted here\n"));
    for headers in [
        &[][..],
        &[("Host", "localhost")],
        &[("Host", "hydrant:9601")],
        &[("Host", "push.example.org")],
        &[("Host", "PUSH.example.org:80"), ("Origin", "https://push.example.org:80")],
        &[("Host", "[::1]:9601")],
        &[("Origin", &format!("http://{host}"))],
    ] {
        assert_eq!(get(named, "/readyz", headers), ready(), "{headers:?}");
    }
    assert_eq!(get(named, "/readyz", &[("Host", "evil.example.org:9601")]), foreign);
    assert_eq!(get(server.addresses.ops, "/readyz", &[("Host", "evil.example.org")]), foreign);
    assert_eq!(get(any, "/readyz", &[("Host", "evil.example.org")]), ready());
    assert_eq!(get(named, "/readyz", &[("Origin", "https://evil.example.org")]), page("https://evil.example.org"));
    assert_eq!(get(named, "/readyz", &[("Origin", "null")]), page("null"));
    assert_eq!(get(any, "/readyz", &[("Origin", "https://evil.example.org")]), page("https://evil.example.org"));
    // one that knows its clients by their credentials does not ask
    let public = server.addresses.public;
    let headers = [("Host", "evil.example.org"), ("Origin", "https://shop.example.org")];
    assert_eq!(get(public, "/gcs/ping", &headers), (200, "pong".to_owned()));
}

#[test]
fn a_prefix_is_taken_off_every_path() {
    let listener = "address = \"127.0.0.1:0\"\ndoors = [\"gusher\", \"gusher-master\"]\ntrusted = true\n\
                    path_prefix = \"/push\"";
    let server = start_with(&[], &[listener]);
    let listener = address(&server, 0);
    let not_found = (404, "404 page not found\n".to_owned());
    assert_eq!(get(listener, "/push/gcs/ping", &[]), (200, "pong".to_owned()));
    assert_eq!(get(listener, "/push/api/a/channels", &[]), (200, "[]".to_owned()));
    assert_eq!(get(listener, "/push/v1/apps", &[]), (200, "[]".to_owned()));
    assert_eq!(get(listener, "/push/readyz", &[]), ready());
    for path in ["/gcs/ping", "/readyz", "/push", "/push/", "/pushgcs/ping", "/push/push/gcs/ping", "/"] {
        assert_eq!(get(listener, path, &[]), not_found, "{path}");
    }
    let answer = websocket::ask(listener, &format!("/push{}", path("u1")), &[]).unwrap();
    assert_idle(&mut WebSocket::accept(answer).unwrap());
}

#[test]
fn several_doors_share_a_listener() {
    let listener = "address = \"127.0.0.1:0\"\ndoors = [\"ops\", \"gusher\", \"gusher-master\"]\ntrusted = true";
    let server = start_with(&[], &[listener]);
    let listener = address(&server, 0);
    let mut socket = open(Wire::open(listener).unwrap(), "u1");
    subscribe(&mut socket, "AA");
    assert_eq!(get(listener, "/api/a/online", &[]), (200, "[\"u1\"]".to_owned()));
    assert_eq!(get(listener, "/v1/stats", &[]).1, r#"{"apps":1,"connections":1,"users":1}"#);
    assert_eq!(get(listener, "/v1/auth", &[]).0, 405, "the client side's");
    assert!(get(listener, "/metrics", &[]).1.contains("\nhydrant_connections 1\n"));
    let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
    assert_eq!(http::request(listener, "POST", "/api/push/a/AA/e", &form, b"data=1").unwrap().status, 200);
    assert_eq!(next(&mut socket).unwrap(), Frame::Text(event("AA", "1")));
    // and each is only where it is listed
    assert_eq!(get(server.addresses.public, "/metrics", &[]).0, 404);
    assert_eq!(get(server.addresses.public, "/api/a/online", &[]).0, 404);
    assert_eq!(get(server.addresses.trusted, "/gcs/ping", &[]).0, 404);
    assert_eq!(get(server.addresses.ops, "/v1/stats", &[]).0, 404);
}

#[test]
fn a_unix_socket_is_a_listener_like_any_other() {
    let listener = "address = \"unix:{directory}/socket\"\ndoors = [\"gusher\", \"gusher-master\"]\ntrusted = true\n\
                    unix_mode = \"0600\"";
    let server = start_with(&[("limits.connections_per_ip_max", "1")], &[listener]);
    let file = server.directory().join("socket");
    assert_eq!(server.listening(), [format!("unix:{}", file.display())]);
    let wire = || Wire::open_unix(&file).unwrap();
    assert_eq!(read(http::request_on(wire(), "localhost", "GET", "/gcs/ping", &[], b"").unwrap()).1, "pong");
    let mut socket = open(wire(), "u1");
    subscribe(&mut socket, "AA");
    let form = [("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
    let push = |wire| http::request_on(wire, "localhost", "POST", "/api/push/a/AA/e", &form, b"data=1").unwrap();
    // one connection for both
    assert_eq!(push(push(wire()).wire).status, 200);
    for _ in 0..2 {
        assert_eq!(next(&mut socket).unwrap(), Frame::Text(event("AA", "1")));
    }
    // it has no address, so that it is nobody's too many, unless the one who connects says whose
    assert_idle(&mut open(wire(), "u1"));
    let from = |address: &str| {
        let headers = [("X-Forwarded-For".to_owned(), address.to_owned())];
        websocket::ask_on(wire(), "localhost", &path("u1"), &headers).unwrap()
    };
    let first = from("203.0.113.9");
    assert_eq!(first.status, 101);
    assert_eq!(from("203.0.113.9").status, 429);
    assert_eq!(from("203.0.113.10").status, 101);
    assert_eq!(http::request_on(wire(), "evil.example.org", "GET", "/gcs/ping", &[], b"").unwrap().status, 403);
}
