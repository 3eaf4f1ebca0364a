//! Any text as a configuration file, TOML or YAML, or a file of variables: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| hydrant::config::fuzz(text));
