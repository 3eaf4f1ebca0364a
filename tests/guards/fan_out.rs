//! What events cost on their way to subscribers.

use std::collections::BTreeMap;
use std::iter::repeat_n;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hydrant::core::{ChannelName, Data, Dialect, DialectIndex, Event, Form};
use hydrant::limits::Limits;
use hydrant::protocol::dialects;
use hydrant::shard::ws::deflate::deflate;

use crate::crowd::Crowd;
use crate::program::http;
use crate::raw::{Backend, Protocol, Served, Setup, Socket};
use crate::{
    ALLOCATIONS_PER_DELIVERY_MAX, ALLOCATIONS_PER_PUBLISH_MAX, ALLOCATOR, CONNECTIONS, HEAP_BYTES_MAX,
    WRITES_PER_DELIVERY_MAX, allocations_since, alone, assert_at_most, heap_bytes,
};

/// Events of a burst; the kernel takes all of them for a client that does not read yet.
const BURST: usize = 100;
/// Bursts, or events one by one, that are counted.
const ROUNDS: usize = 10;
const SMALL: &str = "120 bytes with all that is around it, and then some more of them";

/// Counts how often events are written in its dialect.
struct Counted(Arc<dyn Dialect>, AtomicU64);

impl Dialect for Counted {
    fn encode(&self, channel: &ChannelName, event: &Event) -> Vec<u8> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.encode(channel, event)
    }
}

#[test]
fn the_core_encodes_once_and_writes_a_burst_in_few_calls() {
    static DEFLATED: AtomicU64 = AtomicU64::new(0);
    fn counted(frame: &[u8], limits: &Limits) -> Option<Vec<u8>> {
        DEFLATED.fetch_add(1, Ordering::Relaxed);
        deflate(frame, limits)
    }
    let _turn = alone();
    let dialects: Vec<_> = dialects().iter().map(|one| Arc::new(Counted(one.clone(), AtomicU64::new(0)))).collect();
    let forms =
        (0..dialects.len()).flat_map(|at| [false, true].map(|deflated| Form::new(at as DialectIndex, deflated)));
    let readers: Vec<Form> = forms.cycle().take(CONNECTIONS).collect();
    let counting = dialects.iter().map(|one| one.clone() as Arc<dyn Dialect>).collect();
    let mut crowd = Crowd::new(counting, counted, readers.into_iter());
    let large = format!("\"{}\"", "all of it is read deflated, too ".repeat(30));
    for id in 0..BURST as u64 {
        crowd.publish(Event::new("e", Data::Encoded(large.clone().into()), id));
    }
    crowd.deliver();
    let deliveries = (BURST * CONNECTIONS) as u64;
    assert_eq!(crowd.stats().events_out, deliveries);
    for dialect in &dialects {
        assert_eq!(dialect.1.load(Ordering::Relaxed), BURST as u64);
    }
    assert_eq!(DEFLATED.load(Ordering::Relaxed), (BURST * dialects.len()) as u64);
    let writes_per_delivery = crowd.writes as f64 / deliveries as f64;
    assert_at_most("writes per delivery in the core", writes_per_delivery, WRITES_PER_DELIVERY_MAX);
}

#[test]
fn the_server_encodes_once_and_writes_a_burst_in_few_calls() {
    const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let _turn = alone();
    let setup = Setup::new(true);
    let server = Served::start(&setup.file());
    let subscribed = |protocol, headers| setup.subscribed(server.public, protocol, "news", headers);
    let mut sockets: Vec<Socket> = (0..CONNECTIONS).map(|_| subscribed(Protocol::Pusher, "")).collect();
    sockets.push(subscribed(Protocol::Pusher, OFFER));
    for protocol in [Protocol::Gusher, Protocol::Push1st] {
        sockets.extend(["", OFFER].map(|headers| subscribed(protocol, headers)));
    }
    let large = "worth the while ".repeat(40);
    let (small, large) = (Backend::events("news", SMALL, BURST), Backend::events("news", &large, BURST));
    let mut backend = Backend::connect(server.public);
    let before = metrics(server.ops);
    for request in [&small, &large, &small] {
        backend.publish(request);
        for socket in &mut sockets {
            for _ in 0..BURST {
                socket.receive(&mut [0; 1024]);
            }
        }
    }
    let after = metrics(server.ops);
    let since = |name: &str| after[name] - before[name];
    let events = (3 * BURST) as f64;
    assert_eq!(since("hydrant_events_out_total"), events * sockets.len() as f64);
    assert_eq!(since("hydrant_frames_encoded_total"), events * 3.0);
    assert_eq!(since("hydrant_frames_deflated_total"), BURST as f64 * 3.0);
    let writes_per_delivery = since("hydrant_writes_total") / since("hydrant_events_out_total");
    assert_at_most("writes per delivery of the server", writes_per_delivery, WRITES_PER_DELIVERY_MAX);
}

fn metrics(ops: SocketAddr) -> BTreeMap<String, f64> {
    let (status, text) = http(ops, "GET /metrics", "");
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

#[test]
fn a_delivery_allocates_nothing_for_pusher() {
    count(Protocol::Pusher);
}

#[test]
fn a_delivery_allocates_nothing_for_gusher() {
    count(Protocol::Gusher);
}

#[test]
fn a_delivery_allocates_nothing_for_push1st() {
    count(Protocol::Push1st);
}

/// With one subscriber, then with many more: what an event costs once is in both.
fn count(protocol: Protocol) {
    let _turn = alone();
    let setup = Setup::new(protocol == Protocol::Gusher);
    let server = Served::start(&setup.file());
    let mut sockets = Vec::with_capacity(CONNECTIONS + 1);
    let mut backend = Backend::connect(server.public);
    let [alone, burst] = [Backend::event("news", SMALL), Backend::events("news", SMALL, BURST)];
    let mut counted = Vec::with_capacity(2);
    let mut heap = Vec::with_capacity(2);
    for more in [1, CONNECTIONS] {
        sockets.extend(repeat_n((), more).map(|()| setup.subscribed(server.public, protocol, "news", "")));
        let mut publish = |request: &[u8], events: usize| {
            // what the first pass leaves behind is for good
            let mut count = 0.0;
            for rounds in [1, ROUNDS] {
                let before = ALLOCATOR.stats();
                for _ in 0..rounds {
                    backend.publish(request);
                    for socket in &mut sockets {
                        for _ in 0..events {
                            socket.receive(&mut [0; 512]);
                        }
                    }
                }
                count = allocations_since(&before);
            }
            count
        };
        counted.push([publish(&alone, 1), publish(&burst, BURST)]);
        heap.push(heap_bytes());
    }
    let per_publish = counted[0][0] / ROUNDS as f64;
    assert_at_most("allocations per publish", per_publish, ALLOCATIONS_PER_PUBLISH_MAX);
    for (at, what, events) in [(0, "alone", 1), (1, "in a burst", BURST)] {
        let more = counted[1][at] - counted[0][at];
        let allocations = more / (ROUNDS * events * CONNECTIONS) as f64;
        let what = format!("allocations per delivery {what}, {protocol:?}");
        assert_at_most(&what, allocations, ALLOCATIONS_PER_DELIVERY_MAX);
    }
    let heap_bytes = (heap[1] - heap[0]) / CONNECTIONS as f64;
    let max = HEAP_BYTES_MAX.iter().find(|(held, _)| *held == protocol).unwrap().1;
    assert_at_most(&format!("bytes of heap per connection, {protocol:?}"), heap_bytes, max);
}
