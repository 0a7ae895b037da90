//! The house rules that a compiler does not know: who may depend on whom, and how a file opens.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A crate, the crates of this workspace that it may name, and the foreign systems that only it or its peers touch.
const HOUSE: [(&str, &[&str]); 7] = [
    ("domain", &[]),
    ("models", &["domain"]),
    ("streams", &["domain"]),
    ("lake", &["domain"]),
    ("scheduler", &["domain"]),
    ("jobs", &["domain", "models", "streams", "lake", "scheduler"]),
    ("api", &["domain", "models", "jobs"]),
];

/// A foreign package and the only crates that may depend on it.
const DOORS: [(&str, &[&str]); 26] = [
    ("arrow", &["lake"]),
    ("deltalake", &["lake"]),
    ("object_store", &["lake"]),
    ("parquet", &["lake"]),
    ("polars", &["lake"]),
    ("sqlx", &["streams", "lake", "scheduler"]),
    ("fluvio", &["streams"]),
    ("fluvio-socket", &["streams"]),
    ("fluvio-spu-schema", &["streams"]),
    ("tokio-tungstenite", &["streams"]),
    ("rustls", &["streams"]),
    ("reqwest", &["streams", "sentinel"]),
    ("cron", &["scheduler"]),
    ("linfa-preprocessing", &["models"]),
    ("ndarray", &["models"]),
    ("getrandom", &["jobs"]),
    ("governor", &["api"]),
    ("hyper", &["api"]),
    ("hyper-util", &["api"]),
    ("tokio-rustls", &["api"]),
    ("poem", &["api"]),
    ("poem-openapi", &["api"]),
    ("plotly", &["api"]),
    ("clap", &["sentinel"]),
    ("opentelemetry", &["sentinel"]),
    ("opentelemetry-otlp", &["sentinel"]),
];

/// What the pure crates never touch.
const IMPURE: [&str; 8] = ["tokio", "async-trait", "futures", "tracing", "uuid", "chrono", "url", "bytes"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names under `[dependencies]` of a manifest; tests may use more.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

fn dependencies_of(package: &str) -> BTreeSet<String> {
    let folder = if package == "sentinel" { root() } else { root().join(package) };
    dependencies(&folder.join("Cargo.toml"))
}

#[test]
fn data_flow_one_way_between_the_crates() {
    let crates: BTreeSet<&str> = HOUSE.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in HOUSE {
        let named = dependencies_of(name);
        let ours: Vec<_> = named.iter().filter(|dependency| crates.contains(dependency.as_str())).collect();
        let forbidden: Vec<_> = ours.into_iter().filter(|dependency| !allowed.contains(&dependency.as_str())).collect();
        assert!(forbidden.is_empty(), "{name} must not depend on {forbidden:?}: an arrow against the flow of data");
    }
}

#[test]
fn every_foreign_system_has_one_door() {
    for (package, doors) in DOORS {
        for name in HOUSE.iter().map(|(name, _)| *name).chain(["sentinel"]) {
            let touches = dependencies_of(name).contains(package);
            assert!(!touches || doors.contains(&name), "{name} depends on {package}, which is for {doors:?} alone");
        }
    }
}

#[test]
fn the_pure_crates_stay_pure() {
    for name in ["domain", "models"] {
        let named = dependencies_of(name);
        let impure: Vec<_> = IMPURE.iter().filter(|package| named.contains(**package)).collect();
        assert!(impure.is_empty(), "{name} depends on {impure:?}");
    }
}

#[test]
fn every_dependency_is_declared_once_in_the_workspace() {
    for name in HOUSE.iter().map(|(name, _)| *name) {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        for section in ["dependencies", "dev-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for (package, value) in table {
                let from_workspace = value.get("workspace").and_then(toml::Value::as_bool).unwrap_or(false);
                assert!(from_workspace, "{name} declares {package} itself: write `{package}.workspace = true`");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    let folders = ["domain", "models", "streams", "lake", "scheduler", "jobs", "api", "src", "tests"];
    let folders = folders.into_iter().chain(["fuzz/src", "fuzz/fuzz_targets"]);
    let files: Vec<PathBuf> = folders.flat_map(|folder| rust_files(&root().join(folder))).collect();
    assert!(files.len() > 60, "only {} files found", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let opening = text.lines().next().unwrap_or_default();
        assert!(
            opening.len() > "//! .".len() && opening.starts_with("//! "),
            "{} opens with `{opening}`",
            file.display()
        );
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| match path.extension() {
        _ if path.is_dir() => rust_files(&path),
        Some(extension) if extension == "rs" => vec![path],
        _ => Vec::new(),
    });
    files.collect()
}

#[test]
fn every_column_of_every_table_is_documented() {
    let text = fs::read_to_string(root().join("docs/tables.md")).unwrap();
    for table in lake::TableName::ALL {
        let heading = format!("## `{}`", table.as_str());
        let section = text.split("\n## ").map(|section| format!("## {section}")).find(|s| s.starts_with(&heading));
        let section = section.unwrap_or_else(|| panic!("docs/tables.md has no section {heading}"));
        let documented: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let schema = table.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(documented, columns, "{heading} in docs/tables.md");
    }
}
