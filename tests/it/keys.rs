//! API keys from the outside: made, listed and revoked by one process, asked for by another; and which addresses are
//! not served without one.

use serde_json::Value;

use crate::harness::{Data, Served, printed};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_key_works_and_does_not_any_more_while_the_service_runs() {
    let data = Data::new();
    let key = data.run("key create grafana --scope read").trim().to_owned();
    assert!(key.starts_with("sntl_1_") && key.len() == "sntl_1_".len() + 64, "{key}");
    let mut command = data.sentinel("serve --bind 127.0.0.1:0");
    command.env("SENTINEL__HTTP__REQUIRE_KEYS", "true");
    let served = Served::start(command);
    assert_eq!((served.status("/stats", ""), served.status("/livez", "")), (401, 200));
    assert_eq!(served.status("/stats", &key), 200);

    // What other processes write is known soon after.
    let made = json(&data.run("key create feed --scope predict,ingest --expires 2100-01-01 --json"));
    served.wait_for_status("/stats", made["key"].as_str().unwrap(), 403);
    assert!(data.run("key revoke 1").contains("API key 1 is revoked"));
    served.wait_for_status("/stats", &key, 401);
    assert!(data.run("key revoke 1").contains("already"));

    let listed = data.run("key list --json");
    let keys = json(&listed);
    let shown = |number: usize, field: &str| keys[number][field].clone();
    assert_eq!((shown(0, "name"), shown(0, "state")), (Value::from("grafana"), Value::from("revoked")));
    assert_eq!((shown(1, "name"), shown(1, "state")), (Value::from("feed"), Value::from("valid")));
    assert_eq!(shown(1, "scopes"), json("[\"predict\", \"ingest\"]"));
    assert_eq!(shown(1, "expires"), "2100-01-01T00:00:00Z");
    assert_eq!(made["expires"], "2100-01-01T00:00:00Z");
    assert!(data.run("key list").contains("predict,ingest") && !listed.contains(&key[7..]));
    assert!(served.interrupt().success());
}

#[test]
fn an_address_that_others_reach_is_not_served_without_a_key_unless_that_was_said() {
    let data = Data::new();
    for arguments in ["serve --bind 0.0.0.0:0", "up --bind 0.0.0.0:0"] {
        let refused = data.sentinel(arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", printed(&refused));
        let told = printed(&refused);
        assert!(told.contains("sentinel key create") && told.contains("--insecure-no-keys"), "{told}");
    }
    assert!(!data.path().join("data/lake").exists(), "tables were made before that was known");
    // A key that is not valid any more is none.
    data.run("key create ann --scope admin");
    data.run("key revoke 1");
    assert_eq!(data.sentinel("serve --bind 0.0.0.0:0").output().unwrap().status.code(), Some(2));

    let served = Served::start(data.sentinel("serve --bind 0.0.0.0:0 --insecure-no-keys"));
    assert_eq!(served.status("/stats", ""), 200);
    assert!(served.interrupt().success());
    let key = data.run("key create ann --scope read").trim().to_owned();
    let served = Served::start(data.sentinel("serve --bind 0.0.0.0:0"));
    assert_eq!((served.status("/stats", ""), served.status("/stats", &key)), (401, 200));
}

#[test]
fn mistakes_about_keys_and_certificates_are_usage_errors_that_say_what_to_do() {
    let data = Data::new();
    for (arguments, remedy) in [
        ("key create ann --scope read --expires 2020-01-01", "would have expired already"),
        ("key revoke 7", "`sentinel key list` shows"),
    ] {
        let refused = data.sentinel(arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", printed(&refused));
        assert!(printed(&refused).contains(remedy), "{}", printed(&refused));
    }
    let mut command = data.sentinel("serve --bind 127.0.0.1:0");
    command.env("SENTINEL__HTTP__TLS_CERT", "nowhere.pem").env("SENTINEL__HTTP__TLS_KEY", "key.pem");
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", printed(&refused));
    assert!(printed(&refused).contains("nowhere.pem"), "{}", printed(&refused));
}
