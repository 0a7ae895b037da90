//! Bytes as a frame of Binance: what is promised stands in `src/frames.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: promises::overflow::keep_the_input(), |bytes| promises::frames::check(bytes));
