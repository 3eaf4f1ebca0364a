//! Black-box tests: the built server is started and spoken to in raw HTTP and WebSocket bytes.

#[allow(clippy::unwrap_used, reason = "what goes wrong here ends the test that asked")]
mod client;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod crowds;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod deflate;
mod http;
mod jobs;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod leaks;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod limits;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod memory;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod openapi;
mod operations;
mod player;
mod server;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod shutdown;
mod template;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod tls;
mod token;
mod transcript;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod trust;
mod websocket;

/// One test for each transcript of a protocol, and one that all files of the folder are among them and can be read.
macro_rules! transcripts {
    ($protocol:ident: $($name:ident)*) => {
        mod $protocol {
            $(#[test]
            fn $name() {
                crate::player::play(stringify!($protocol), stringify!($name));
            })*

            #[test]
            fn every_file_is_listed_and_sound() {
                crate::check_folder(stringify!($protocol), &[$(stringify!($name)),*]);
            }
        }
    };
}

transcripts! { gusher:
    add_channel
    app_keys
    auth
    auth_body
    auth_errors
    bad_commands
    channels
    closed_apps
    command_size
    connect
    connect_errors
    decode
    decode_errors
    deflate
    disabled_app
    doors
    form_fields
    frames
    http_not_found
    http_wrong_method
    isolation_push
    isolation_queries
    isolation_reload_add
    isolation_user_socket
    keepalive
    lenient_commands
    limit_batch_events_max
    limit_body_bytes_max
    limit_channel_name_bytes_max
    limit_command_bytes_max
    limit_connections_max
    limit_connections_per_app_max
    limit_connections_per_ip_max
    limit_event_name_bytes_max
    limit_memory_bytes_max
    limit_pattern_bytes_max
    limit_permissions_per_connection_max
    limit_subscriptions_per_connection_max
    limit_unsubscribed_timeout_ms
    limit_user_id_bytes_max
    multi_subscribe
    no_client_events
    online
    online_by_channel
    online_empty_user
    path_segments
    ping
    ping_command
    ping_command_legacy
    prefixes
    push_batch
    push_batch_errors
    push_by_pattern
    push_by_pattern_errors
    push_data_bytes
    push_data_json_or_text
    push_data_verbatim
    push_empty_data_legacy
    push_large
    push_order
    push_to_channel
    push_to_socket
    push_to_user
    querychannel
    reload_channels
    reload_channels_errors
    reload_channels_glob
    remote
    remote_by_http
    remote_errors
    remote_not_configured
    remote_unreachable
    reply_order
    reserved_names
    session_expires
    socket_id
    star_in_name
    subscribe
    subscribe_glob
    unknown_paths
    unsubscribe
    v3_add_channel
    v3_auth
    v3_auth_errors
    v3_auth_preflight
    v3_bodies
    v3_closed_apps
    v3_connect_errors
    v3_decode
    v3_health
    v3_isolation
    v3_isolation_queries
    v3_not_found
    v3_path_segments
    v3_push_batch
    v3_push_by_pattern
    v3_push_to_channel
    v3_push_to_socket
    v3_push_to_user
    v3_queries
    v3_reload_channels
    v3_stats
    v3_websocket
    v3_wrong_method
    versions_share_channels
}

transcripts! { pusher:
    activity_timeout
    authorized_connections
    batch_events
    batch_events_errors
    binary
    body_too_large
    browsers
    cache_channel
    cache_channel_kinds
    cache_not_of_client_events
    channel
    channel_errors
    channel_kinds_off
    channel_name_max
    channel_names
    channels
    channels_errors
    client_event_size
    client_events
    client_events_off
    client_events_rate
    client_events_refused
    client_events_without_data
    close
    command_order
    cors
    deep_nesting
    deflate_messages
    deflate_off
    deflate_offers
    deflate_reload
    deprecated_events
    disabled_app
    event_name_max
    event_names
    events
    events_data_not_a_string
    events_errors
    events_info
    events_order
    events_socket_id
    events_too_large
    every_kind_needs_auth
    greeting
    hooks
    hooks_again
    hooks_cache_and_count
    hooks_of_disabled_app
    hooks_reload
    idempotency
    idempotency_errors
    isolation
    legacy_channel_names
    limit_cache_bytes_max
    limit_cache_ttl_ms
    limit_deflate_bytes_max
    limit_deflate_bytes_min
    limit_event_channels_max
    limit_hook_retry_ms
    limit_hook_timeout_ms
    limit_idempotency_keys_max
    limit_idempotency_window_ms
    limit_memory_bytes_max
    limit_message_bytes_max
    limit_pusher_batch_events_max
    limit_watchlist_max
    malformed_commands
    malformed_frames
    no_secret
    not_an_upgrade
    origins
    over_capacity
    over_capacity_of_address
    over_memory_of_app
    over_quota
    path_prefix
    paths
    ping
    ping_at_once
    presence
    presence_again
    presence_bad_channel_data
    presence_disconnect
    presence_grace
    presence_isolation
    presence_legacy
    presence_member_bytes_max
    presence_members_max
    presence_once_per_user
    presence_signed_in
    presence_user_id_max
    presence_user_ids
    presence_user_info
    previous_secrets
    private_refused
    protocol_versions
    query_parameters
    rate_of_publishes
    rate_of_reads
    reload_apps
    reload_rates
    reload_secrets
    server_to_user
    server_to_user_refused
    signature_body
    signature_errors
    signature_parameters
    signature_time
    signin
    signin_as_another
    signin_refused
    silence
    subscribe_encrypted
    subscribe_private
    subscribe_public
    subscribe_twice
    subscription_count
    subscriptions_max
    terminate_connections
    terminate_without_app
    unknown_app
    unknown_apps
    unknown_paths
    unsubscribe_own_channel
    unsubscribe_without_subscription
    unsubscribed
    unsupported_events
    users
    watchlist
    watchlist_of_oneself
    watchlist_off
    watchlist_states
    worked_examples
}

transcripts! { push1st:
    channel
    channels
    delivery
    delivery_not_cached
    disabled_app
    events
    events_data
    events_errors
    events_order
    hooks
    hooks_presence
    http_bodies
    kill_p1_presence_with_user_id
    kill_p2_event_without_data
    kill_p3_socket_without_key
    kill_p4_client_event
    kill_p5_event_that_is_a_number
    kill_p6_message_without_event
    legacy_tokens
    limit_hook_queue_max
    limit_memory_bytes_max
    pusher_sockets
    raw_channel_kinds
    raw_handshake_errors
    raw_no_member
    raw_origins
    raw_push
    raw_push_rate
    raw_push_refused
    raw_quota
    raw_refused
    raw_sessions
    raw_silence
    raw_size
    raw_socket
    reload_raw
    signature_on_trusted
    signed
    signed_prefix
    token_access
    token_access_ends
    token_access_errors
    token_access_of_another_app
    token_access_origin
    token_session
    token_session_errors
    token_unknown
    token_without_secret
    trusted_listener
    unknown
}

transcripts! { crossing:
    cache
    deflate
    from_gusher_v1
    from_gusher_v3
    from_push1st_string
    from_push1st_value
    from_pusher
    from_pusher_client
    from_raw_socket
    gusher_pushes
    isolation
    no_laxer_door
    one_order
    presence
    queries
    reserved_names
    right_credentials
    server_to_user
    socket_id
}

/// Every transcript of the folder is a test, can be parsed, and expects nothing that merely looks like JSON.
fn check_folder(protocol: &str, listed: &[&str]) {
    let mut mistakes = Vec::new();
    let files = std::fs::read_dir(player::folder(protocol)).expect("the folder of transcripts");
    let paths: Vec<_> = files.map(|file| file.expect("a directory entry").path()).collect();
    for path in &paths {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !listed.contains(&name) {
            mistakes.push(format!("{name} is not listed in tests/it/main.rs"));
        }
        let text = std::fs::read_to_string(path).expect("a readable file");
        match transcript::parse(&text) {
            Ok(transcript) => mistakes.extend(transcript.not_json().map(|line| format!("{name}.txt:{line}: not JSON"))),
            Err(reason) => mistakes.push(format!("{name}.txt:{reason}")),
        }
    }
    assert_eq!(paths.len(), listed.len(), "a transcript is listed that does not exist");
    assert!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
}
