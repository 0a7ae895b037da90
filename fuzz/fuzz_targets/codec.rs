//! Bytes as a record of the log: what is promised stands in `src/codec.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: promises::overflow::keep_the_input(), |bytes| promises::codec::check(bytes));
