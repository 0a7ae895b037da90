//! Bytes as a model's artifact: what is promised stands in `src/artifact.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: promises::overflow::keep_the_input(), |bytes| promises::artifact::check(bytes));
