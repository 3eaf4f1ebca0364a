//! Any bytes as a client's message, as what a backend signs, as a body, a query, a path: no panic, and what is passed on
//! as JSON is JSON in every dialect.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| hydrant::protocol::pusher::fuzz(data));
