//! What some tests need and a machine may lack. A test whose requirement is missing says so and passes; where
//! `SENTINEL_REQUIRE` (a comma-separated list: `shared`, `python`, ...) names the requirement, it fails instead.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The file or folder below the `shared` folder beside the repository, `None` where it is absent.
///
/// # Panics
/// Where it is absent and `SENTINEL_REQUIRE` names `shared`.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(relative);
    if path.exists() {
        return Some(path);
    }
    missing("shared", &path.display().to_string())
}

/// A Python interpreter that can import these modules: the one in `SENTINEL_PYTHON`, else `python3`.
///
/// # Panics
/// Where there is none and `SENTINEL_REQUIRE` names `python`.
pub fn python(modules: &[&str]) -> Option<PathBuf> {
    interpreter("python", modules)
}

/// The same interpreter where it has Schemathesis, which no other test needs.
///
/// # Panics
/// Where it has not and `SENTINEL_REQUIRE` names `schemathesis`.
pub fn schemathesis() -> Option<PathBuf> {
    interpreter("schemathesis", &["schemathesis"])
}

fn interpreter(requirement: &str, modules: &[&str]) -> Option<PathBuf> {
    let interpreter = std::env::var_os("SENTINEL_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let imports: Vec<String> = modules.iter().map(|module| format!("import {module}")).collect();
    let imported = Command::new(&interpreter)
        .args(["-c", &imports.join("\n")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if imported.is_ok_and(|status| status.success()) {
        return Some(interpreter);
    }
    missing(requirement, &format!("{} with {}", interpreter.display(), modules.join(", ")))
}

/// The controller of the Fluvio cluster that `SENTINEL_TEST_FLUVIO` names.
///
/// # Panics
/// Where it names none and `SENTINEL_REQUIRE` names `fluvio`.
pub fn cluster() -> Option<String> {
    let endpoint = std::env::var("SENTINEL_TEST_FLUVIO").ok().filter(|endpoint| !endpoint.is_empty());
    if endpoint.is_none() {
        missing("fluvio", "SENTINEL_TEST_FLUVIO with the HOST:PORT of a cluster");
    }
    endpoint
}

/// Chromium, or a browser that is built from it: the one in `CHROME`, else one on the `PATH`.
///
/// # Panics
/// Where there is none and `SENTINEL_REQUIRE` names `chromium`.
pub fn chromium() -> Option<PathBuf> {
    let found = headless_chrome::browser::default_executable();
    found.ok().or_else(|| missing("chromium", "chromium on the PATH (Debian's package chromium)"))
}

fn missing(requirement: &str, what: &str) -> Option<PathBuf> {
    let required = std::env::var("SENTINEL_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name.trim() == requirement);
    assert!(!is_required, "SENTINEL_REQUIRE names {requirement}, but this is missing: {what}");
    println!("skipped: this is missing: {what}");
    None
}
