//! What must hold for any input: the promises that the fuzz targets try to break, one file each.
//!
//! Each of these files stands alone: the project's tests take them in too (`tests/it/fuzz_seeds.rs`) and hold every seed
//! against them. A broken promise is a panic. Nothing here knows the fuzzer.

pub mod codec;
pub mod frames;

pub mod artifact;

#[cfg(feature = "lake")]
pub mod archive;
#[cfg(feature = "lake")]
pub mod sql;

pub mod overflow;
