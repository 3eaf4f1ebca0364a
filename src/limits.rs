//! Every limit of a node, in one place: its name, unit, default, and what happens at it.
//!
//! The names are also the configuration keys under `[limits]`. A count of `0` means "no limit" only where the field
//! says so.

use std::time::Duration;

/// What a node accepts before it says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Message of a gusher client, after joining fragments, in bytes. Beyond it: close 1009.
    pub command_bytes_max: usize,
    /// Message of a Pusher or Push1ST client, after joining fragments, in bytes. Beyond it: close 1009.
    pub message_bytes_max: usize,
    /// HTTP request body, in bytes; where a client hands in its token, `header_bytes_max` if that is less. Beyond it:
    /// 413, and the connection is closed.
    pub body_bytes_max: usize,
    /// HTTP request line and headers together, in bytes (8,192 at least), and 100 headers. Beyond it: 431, and the
    /// connection is closed.
    pub header_bytes_max: usize,
    /// Channel name, in bytes. Beyond it: the subscribe or publish is refused.
    pub channel_name_bytes_max: usize,
    /// Event name, in bytes. Beyond it: the publish is refused.
    pub event_name_bytes_max: usize,
    /// User id, or what a raw Push1ST socket calls its session, in bytes. Beyond it: the handshake is refused.
    pub user_id_bytes_max: usize,
    /// Regular expression of a push by pattern, in bytes. Beyond it: the push is refused.
    pub pattern_bytes_max: usize,
    /// Events in one batch of gusher's. Beyond it: the batch is refused whole.
    pub batch_events_max: usize,
    /// Events in one batch of Pusher's. Beyond it: the batch is refused whole.
    pub pusher_batch_events_max: usize,
    /// Channels of one Pusher or Push1ST publish. Beyond it: the publish is refused.
    pub event_channels_max: usize,
    /// Users on the watchlist of one connection. Beyond it: the others are not watched, and the client is told.
    pub watchlist_max: usize,
    /// Channels that one connection is subscribed to. Beyond it: the subscribe is refused.
    pub subscriptions_per_connection_max: usize,
    /// Channel patterns that one connection may hold, from its credential and added later. Beyond it: the handshake or
    /// the change is refused.
    pub permissions_per_connection_max: usize,
    /// Live client connections on this node. Beyond it: the handshake is answered 503.
    pub connections_max: usize,
    /// Live client connections of one app on this node; 0 = no limit. Beyond it: the handshake is answered 503.
    pub connections_per_app_max: usize,
    /// Live client connections from one IP address; 0 = no limit. Beyond it: the handshake is answered 429.
    pub connections_per_ip_max: usize,
    /// Memory for connections, events, caches and rosters on this node, by an estimate; 0 = three quarters of what the
    /// machine or its container has. Beyond it: the handshake is answered 503; who is connected goes on.
    pub memory_bytes_max: usize,
    /// Accepted sockets of one listener that are not (yet) client connections: requests, keep-alive, handshakes. Beyond
    /// it: closed at once.
    pub http_connections_max: usize,
    /// TLS handshakes under way at once on one shard; one whose client does not go on counts for a second. Beyond it:
    /// they wait, in the order in which they came.
    pub tls_handshakes_max: usize,
    /// Bytes waiting for one connection to read them. Beyond it: the connection is closed and counted. One frame, or one
    /// batch of a channel's events joined for all its subscribers (256 KiB at most), may be larger, if it is alone.
    pub outbox_bytes_max: usize,
    /// Bytes of events alive in this node's memory, shared ones counted once, with their places in outboxes. Beyond it:
    /// connections that lag behind are closed as they are sent more.
    pub outbox_total_bytes_max: usize,
    /// Message of an event, in bytes. Below it: sent plain, also to clients that agreed on permessage-deflate.
    pub deflate_bytes_min: usize,
    /// Message of an event, in bytes. Beyond it: sent plain, for deflating holds up a shard, by some 20 ms for each MiB.
    pub deflate_bytes_max: usize,
    /// Bytes of accepted events that a shard has not yet fanned out. Beyond it: publishes are answered 503.
    pub backlog_bytes_max: usize,
    /// Bytes of the last events of cache channels that this node keeps, each with its channel's name and 512 more. Beyond
    /// it: an event is not cached.
    pub cache_bytes_max: usize,
    /// Time for which the last event of a cache channel is kept. Then: a cache miss.
    pub cache_ttl: Duration,
    /// `Idempotency-Key`s that this node remembers. Beyond it: the oldest is forgotten.
    pub idempotency_keys_max: usize,
    /// Time for which an `Idempotency-Key` is remembered. Then: the same request publishes again.
    pub idempotency_window: Duration,
    /// Events that wait for one hook endpoint. Beyond it: further ones are dropped and counted.
    pub hook_queue_max: usize,
    /// Requests to hook endpoints under way at once on this node. Beyond it: deliveries wait.
    pub hook_in_flight_max: usize,
    /// Time for a hook endpoint to answer. Then: the delivery is tried again.
    pub hook_timeout: Duration,
    /// Time over which a delivery to a hook endpoint is tried again. Then: it is parked and counted.
    pub hook_retry: Duration,
    /// Memory of one Lua hook, in bytes. Beyond it: the call fails and is counted.
    pub lua_memory_bytes_max: usize,
    /// Time for one call of a Lua hook. Then: the call fails and is counted.
    pub lua_time: Duration,
    /// Time from accepting a socket until the headers of its first request are there. Then: closed.
    pub handshake_timeout: Duration,
    /// Time after each answer until it has been read and the headers of the next request are there. Then: closed.
    pub keep_alive_timeout: Duration,
    /// Time for a request's body to arrive. Then: 408, closed.
    pub request_timeout: Duration,
    /// Time without any frame from the client before the server pings it, or up to a quarter less.
    pub ping_interval: Duration,
    /// Time after that ping without any frame before the connection is closed (code 1001).
    pub pong_timeout: Duration,
    /// Time since its handshake after which a connection without any subscription is closed (code 1008); 0 = never.
    pub unsubscribed_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_bytes_max: 512,
            message_bytes_max: 65_400,
            body_bytes_max: 10 << 20,
            header_bytes_max: 64 << 10,
            channel_name_bytes_max: 255,
            event_name_bytes_max: 255,
            user_id_bytes_max: 255,
            pattern_bytes_max: 1024,
            batch_events_max: 10_000,
            pusher_batch_events_max: 10,
            event_channels_max: 100,
            watchlist_max: 100,
            subscriptions_per_connection_max: 1_000,
            permissions_per_connection_max: 1_000,
            connections_max: 1_000_000,
            connections_per_app_max: 0,
            connections_per_ip_max: 0,
            memory_bytes_max: 0,
            http_connections_max: 20_000,
            tls_handshakes_max: 64,
            outbox_bytes_max: 1 << 20,
            outbox_total_bytes_max: 256 << 20,
            deflate_bytes_min: 512,
            deflate_bytes_max: 256 << 10,
            backlog_bytes_max: 64 << 20,
            cache_bytes_max: 64 << 20,
            cache_ttl: Duration::from_secs(30 * 60),
            idempotency_keys_max: 100_000,
            idempotency_window: Duration::from_secs(120),
            hook_queue_max: 10_000,
            hook_in_flight_max: 64,
            hook_timeout: Duration::from_secs(10),
            hook_retry: Duration::from_secs(5 * 60),
            lua_memory_bytes_max: 16 << 20,
            lua_time: Duration::from_millis(100),
            handshake_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            request_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(54),
            pong_timeout: Duration::from_secs(6),
            unsubscribed_timeout: Duration::ZERO,
        }
    }
}
