//! Bytes as a statement of SQL: what is promised stands in `src/sql.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(init: promises::overflow::keep_the_input(), |bytes| promises::sql::check(bytes));
