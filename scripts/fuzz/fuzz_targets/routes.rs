//! The admin page's file of routes, JSON with comments, from any bytes.
#![no_main]

#[allow(dead_code)]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::routes(data));
