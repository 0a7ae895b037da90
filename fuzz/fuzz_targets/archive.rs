//! Bytes as an archive of trades: what is promised stands in `src/archive.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: promises::overflow::keep_the_input(), |bytes| promises::archive::check(bytes));
