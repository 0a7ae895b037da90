//! The service beside its `OpenAPI` document: Schemathesis makes requests of the document, right and wrong ones, and
//! compares the answers. `CONTRIBUTING.md` has the command that asks for longer.

use std::{path::Path, process::Command};

use crate::{
    harness::{Data, Served, printed},
    requirements,
};

#[test]
fn the_service_does_what_its_document_says() {
    let Some(python) = requirements::schemathesis() else { return };
    let data = Data::quiet();
    let served = Served::start(data.sentinel("up --bind 127.0.0.1:0"));
    served.wait_for("/readyz", "\"status\":\"ready\"");
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis.toml");
    // In the data folder, so that what it keeps between runs ends with the test.
    let mut contract = Command::new(python);
    contract
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(data.path())
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(settings);
    contract.arg("run").arg(served.url("/openapi.json"));
    contract.args(["--checks", "all", "--max-examples", "5", "--seed", "1", "--no-color"]);
    let output = contract.output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    assert!(served.interrupt().success());
}
