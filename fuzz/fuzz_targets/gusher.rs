//! Any bytes as a client's message, a form, a JSON body, a path: no panic, and what is passed on as JSON is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| hydrant::protocol::gusher::fuzz(data));
