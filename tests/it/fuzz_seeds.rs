//! The seeds of the fuzz targets, and every input that once broke a promise: all of them keep what their target promises.
//!
//! The promises are those that `fuzz/run` tries to break; this holds them without a fuzzer.

use std::{collections::BTreeSet, fs, path::PathBuf};

use rstest::rstest;

#[path = "../../fuzz/src/codec.rs"]
mod codec;
#[path = "../../fuzz/src/frames.rs"]
mod frames;

#[path = "../../fuzz/src/artifact.rs"]
mod artifact;

#[path = "../../fuzz/src/archive.rs"]
mod archive;
#[path = "../../fuzz/src/sql.rs"]
mod sql;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

#[rstest]
#[case("codec", codec::check)]
#[case("frames", frames::check)]
#[case("artifact", artifact::check)]
#[case("archive", archive::check)]
#[case("sql", sql::check)]
fn every_seed_keeps_what_its_target_promises(#[case] target: &str, #[case] check: fn(&[u8])) {
    let mut held = 0;
    for seed in fs::read_dir(fuzz().join("seeds").join(target)).unwrap() {
        let path = seed.unwrap().path();
        // Shown where the test fails: the seed that it failed on is the last one.
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        held += 1;
    }
    assert!(held > 5, "{held} seeds of {target}");
}

#[test]
fn every_target_has_seeds_and_words() {
    let manifest: toml::Table = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap().parse().unwrap();
    let targets = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned());
    let targets: BTreeSet<String> = targets.collect();
    let named = |folder: &str| {
        let names = fs::read_dir(fuzz().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(named("fuzz_targets"), targets);
    assert_eq!(named("seeds"), targets);
    assert!(named("dictionaries").is_subset(&targets));
}
