//! What a connection costs that says nothing.

use std::fs;

use crate::program::{PROGRAM, Server, command};
use crate::raw::{Protocol, Served, Setup, Socket};
use crate::{CONNECTIONS, HEAP_BYTES_OWN_CHANNEL_MAX, RESIDENT_BYTES_MAX, alone, assert_at_most, heap_bytes};

#[test]
fn a_connection_with_a_channel_of_its_own_takes_little_heap() {
    let _turn = alone();
    let setup = Setup::new(false);
    let server = Served::start(&setup.file());
    let mut sockets: Vec<Socket> = Vec::with_capacity(CONNECTIONS + 1);
    let mut subscribe = |number: usize| {
        let channel = format!("channel-{number:04}");
        sockets.push(setup.subscribed(server.public, Protocol::Pusher, &channel, ""));
    };
    subscribe(0);
    let before = heap_bytes();
    (1..=CONNECTIONS).for_each(&mut subscribe);
    let heap_bytes = (heap_bytes() - before) / CONNECTIONS as f64;
    assert_at_most("bytes of heap per connection, a channel each", heap_bytes, HEAP_BYTES_OWN_CHANNEL_MAX);
}

#[test]
fn a_connection_takes_little_resident_memory() {
    let _turn = alone();
    let setup = Setup::new(false);
    let server = Server::start(command(PROGRAM).arg("serve").arg("--config").arg(setup.file()), 2);
    let public = server.address("pusher");
    let subscribed = || setup.subscribed(public, Protocol::Pusher, "news", "");
    let mut sockets: Vec<Socket> = (0..100).map(|_| subscribed()).collect();
    let resident_bytes = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.running.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        1024.0 * line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let before = resident_bytes();
    sockets.extend((0..2 * CONNECTIONS).map(|_| subscribed()));
    let resident_bytes = (resident_bytes() - before) / (2 * CONNECTIONS) as f64;
    assert_at_most("resident bytes per connection", resident_bytes, RESIDENT_BYTES_MAX);
}
