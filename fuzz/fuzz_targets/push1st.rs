//! Any bytes as a client's push, a body of the API, a query, a path: no panic, and what is passed on as JSON is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| hydrant::protocol::push1st::fuzz(data));
