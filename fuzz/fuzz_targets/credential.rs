//! Any bytes as a token, a token's payload, a key file, an auth, a signed request: no panic, and nothing unsigned is
//! accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| hydrant::credential::fuzz(data));
