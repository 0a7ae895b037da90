//! `sentinel key`: who may ask the service for what.
//!
//! A new key goes to standard output alone, so that a script can take it, and into no log.

use std::{fs, sync::Arc};

use domain::Timestamp;
use jobs::keys::{KeyRecord, KeyRefusal, Keys, Scope, Scopes};
use serde_json::{Value, json};

use crate::{
    Outcome,
    cli::{KeyCommand, ScopeArg},
    clock::SystemClock,
    commands::Refused,
    config::Settings,
    output,
};

/// Runs a subcommand.
pub async fn run(command: &KeyCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    fs::create_dir_all(&settings.data.dir)?;
    let keys = Keys::open(&settings.data.dir, Arc::new(SystemClock)).await?;
    match command {
        KeyCommand::Create { name, scope, expires, output } => {
            create(&keys, name, scopes(scope)?, *expires, output.json).await?;
        }
        KeyCommand::List(format) => list(&keys.list().await?, format.json)?,
        KeyCommand::Revoke { id } => {
            let already = if keys.revoke(*id).await? { "" } else { " already" };
            output::line(&format!("API key {id} is revoked{already}"))?;
        }
    }
    Ok(Outcome::Fine)
}

fn scopes(given: &[ScopeArg]) -> anyhow::Result<Scopes> {
    let scopes: Vec<Scope> = given.iter().copied().map(as_scope).collect();
    Ok(Scopes::of(&scopes).ok_or_else(|| Refused("name at least one scope, such as --scope read".to_owned()))?)
}

const fn as_scope(scope: ScopeArg) -> Scope {
    match scope {
        ScopeArg::Read => Scope::Read,
        ScopeArg::Predict => Scope::Predict,
        ScopeArg::Ingest => Scope::Ingest,
        ScopeArg::Admin => Scope::Admin,
    }
}

async fn create(
    keys: &Keys,
    name: &str,
    scopes: Scopes,
    expires: Option<Timestamp>,
    as_json: bool,
) -> anyhow::Result<()> {
    let key = keys.create(name, scopes, expires).await?;
    tracing::info!(id = key.id(), name, %scopes, "made an API key; it is shown this once");
    if as_json {
        return output::json(&json!({
            "id": key.id(),
            "name": name,
            "scopes": names(scopes),
            "expires": expires.map(|time| time.to_string()),
            "key": key.revealed(),
        }));
    }
    output::line(&key.revealed())
}

fn list(keys: &[(KeyRecord, Option<KeyRefusal>)], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&keys.iter().map(|(record, refusal)| value(record, *refusal)).collect::<Vec<_>>());
    }
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let row = |(record, refusal): &(KeyRecord, Option<KeyRefusal>)| {
        let KeyRecord { id, key, .. } = record;
        vec![
            id.to_string(),
            key.name.clone(),
            key.scopes.to_string(),
            state(*refusal).to_owned(),
            key.created.to_string(),
            text(key.expires),
        ]
    };
    output::table(&["id", "name", "scopes", "state", "created", "expires"], &keys.iter().map(row).collect::<Vec<_>>())
}

fn value(record: &KeyRecord, refusal: Option<KeyRefusal>) -> Value {
    let KeyRecord { id, key, revoked } = record;
    json!({
        "id": id,
        "name": key.name,
        "scopes": names(key.scopes),
        "state": state(refusal),
        "created": key.created.to_string(),
        "expires": key.expires.map(|time| time.to_string()),
        "revoked": revoked.map(|time| time.to_string()),
    })
}

fn names(scopes: Scopes) -> Vec<&'static str> {
    scopes.iter().map(Scope::as_str).collect()
}

const fn state(refusal: Option<KeyRefusal>) -> &'static str {
    match refusal {
        None => "valid",
        Some(KeyRefusal::Revoked) => "revoked",
        Some(KeyRefusal::Expired) => "expired",
        Some(KeyRefusal::Unknown) => "unknown",
    }
}
