//! Black-box tests: the built server is started and spoken to in raw HTTP and WebSocket bytes.

#[allow(clippy::unwrap_used, reason = "what goes wrong here ends the test that asked")]
mod client;
mod http;
mod jobs;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod leaks;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod limits;
mod operations;
mod player;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod push1st;
mod server;
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod shutdown;
mod template;
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
