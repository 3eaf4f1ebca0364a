//! What a shard has counted. Plain numbers with one owner; a scrape asks every shard for its copy and adds them up.

use std::collections::HashMap;

use super::CloseReason;
use super::id::AppKey;
use super::rejection::Rejection;

/// Upper bounds, in microseconds, of the buckets of [`Stats::turns`]; one more bucket holds the rest.
pub const TURN_BUCKETS_US: [u64; 10] = [10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 50_000];

/// Why a TLS handshake came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsFailure {
    /// It was not complete in time.
    Timeout,
    /// The peer went away.
    Closed,
    /// It began with a request that was not encrypted.
    PlainHttp,
    /// It began with what is no TLS at all.
    NotTls,
    /// The two have no version or cipher in common.
    Incompatible,
    /// The peer does not trust the certificate.
    CertificateRefused,
    /// What came makes no sense.
    Protocol,
}

impl TlsFailure {
    /// Every variant, in the order of [`TlsFailure::index`].
    pub const ALL: [TlsFailure; 7] = [
        TlsFailure::Timeout,
        TlsFailure::Closed,
        TlsFailure::PlainHttp,
        TlsFailure::NotTls,
        TlsFailure::Incompatible,
        TlsFailure::CertificateRefused,
        TlsFailure::Protocol,
    ];

    /// Place in [`TlsFailure::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Short name for the `reason` label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            TlsFailure::Timeout => "timeout",
            TlsFailure::Closed => "closed",
            TlsFailure::PlainHttp => "plain_http",
            TlsFailure::NotTls => "not_tls",
            TlsFailure::Incompatible => "incompatible",
            TlsFailure::CertificateRefused => "certificate_refused",
            TlsFailure::Protocol => "protocol",
        }
    }
}

/// Counters and gauges of one shard, or the sum over several.
#[derive(Clone, Default, Debug)]
pub struct Stats {
    /// Connections alive now.
    pub connections: u64,
    /// Connection × channel pairs alive now.
    pub subscriptions: u64,
    /// Channels with at least one subscriber anywhere on the node (each is counted by its home alone).
    pub channels: u64,
    /// Bytes of events kept for newcomers to cache channels.
    pub cache_bytes: u64,
    /// Distinct users connected now (each is counted by its home alone).
    pub users: u64,
    /// Connections ever opened.
    pub connections_opened: u64,
    /// Connections ever closed, by [`CloseReason::index`].
    pub connections_closed: [u64; CloseReason::ALL.len()],
    /// Events accepted for a channel, whether or not anybody was subscribed.
    pub events_in: u64,
    /// Event × connection pairs queued for delivery.
    pub events_out: u64,
    /// Frames written for events and notices of channels: one for each dialect that has a subscriber.
    pub frames_encoded: u64,
    /// Those of which there is a deflated form, too.
    pub frames_deflated: u64,
    /// Client messages received.
    pub commands: u64,
    /// Bytes read from client connections after the handshake.
    pub bytes_in: u64,
    /// Bytes written to client connections after the handshake.
    pub bytes_out: u64,
    /// Write calls on client connections.
    pub writes: u64,
    /// Refusals, by [`Rejection::index`].
    pub rejections: [u64; Rejection::ALL.len()],
    /// Accepted sockets that were closed at once, for `http_connections_max`.
    pub http_connections_refused: u64,
    /// TLS handshakes that were completed: in full, and resumed.
    pub tls_handshakes: [u64; 2],
    /// TLS handshakes that were not, by [`TlsFailure::index`].
    pub tls_failures: [u64; TlsFailure::ALL.len()],
    /// Panics caught; each cost at most one connection or one message.
    pub panics: u64,
    /// Bytes waiting in outboxes now.
    pub outbox_bytes: u64,
    /// Length of turns: how many took at most `TURN_BUCKETS_US[i]`, the last the rest.
    pub turns: [u64; TURN_BUCKETS_US.len() + 1],
    /// Sum of the length of all turns, in microseconds.
    pub turns_us: u64,
    /// Events accepted per configured app; apps that are open to any key are not listed, for their number is unbounded.
    pub app_events_in: HashMap<AppKey, u64>,
}

impl Stats {
    /// Adds another shard's numbers.
    pub fn merge(&mut self, other: &Stats) {
        let each = |own: &mut [u64], other: &[u64]| own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        self.connections += other.connections;
        self.subscriptions += other.subscriptions;
        self.channels += other.channels;
        self.cache_bytes += other.cache_bytes;
        self.users += other.users;
        self.connections_opened += other.connections_opened;
        each(&mut self.connections_closed, &other.connections_closed);
        self.events_in += other.events_in;
        self.events_out += other.events_out;
        self.frames_encoded += other.frames_encoded;
        self.frames_deflated += other.frames_deflated;
        self.commands += other.commands;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.writes += other.writes;
        each(&mut self.rejections, &other.rejections);
        self.http_connections_refused += other.http_connections_refused;
        each(&mut self.tls_handshakes, &other.tls_handshakes);
        each(&mut self.tls_failures, &other.tls_failures);
        self.panics += other.panics;
        self.outbox_bytes += other.outbox_bytes;
        each(&mut self.turns, &other.turns);
        self.turns_us += other.turns_us;
        for (app, count) in &other.app_events_in {
            *self.app_events_in.entry(app.clone()).or_default() += count;
        }
    }

    /// Counts one turn of the shard.
    pub fn turn(&mut self, us: u64) {
        let bucket = TURN_BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(TURN_BUCKETS_US.len());
        self.turns[bucket] += 1;
        self.turns_us += us;
    }
}
