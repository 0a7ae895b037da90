//! `sentinel serve`: the HTTP service alone, over what other processes write. It takes events, others fold them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use api::{Protection, Service, Tls};
use domain::{Kind, Source};
use jobs::{
    control::Control,
    first_model,
    follow::{follow_alerts, follow_predictions},
    ingest::Intake,
    keys::Keys,
    tables::Tables,
};
use lake::{TableName, registry::Registry};
use scheduler::Store;
use tokio::net::TcpListener;

use crate::{
    Outcome,
    app::{self, App},
    clock::SystemClock,
    commands::{Refused, Unavailable, runs},
    config::{HttpSettings, Settings, SourceKind},
    elsewhere::Elsewhere,
    locks::{Role, RoleLock},
    settings_to_parts,
    status::ProgramStatus,
};

/// Files that are open beside the connections: those of the log, of the tables and of whoever reads them.
const OTHER_FILES: u64 = 1_024;

/// Serves until it is told to stop.
pub async fn run(settings: &Settings) -> anyhow::Result<Outcome> {
    let _lock = RoleLock::acquire(&settings.data.dir, Role::Http)?;
    let registry = app::registry(settings).await?;
    let protection = protection(&registry, &settings.http).await?;
    let listener = bind(settings.http.bind).await?;
    let app = App::with(registry, settings).await?;
    let alerted = app.lake.state(TableName::Alerts).await?.version;
    let restored = app.restore_feed().await?;
    let elsewhere = Elsewhere::new(&app, &settings.data.dir).await?;
    let status = ProgramStatus::without_jobs(&app, settings.model.first_model_rows, elsewhere.clone());
    let service = service(&app, settings, status, runs::store(settings).await?, protection).await?;
    tracing::info!("serving {}://{}", scheme(&service), listener.local_addr()?);
    let cancel = app.cancel.clone();
    let follow = first_model::follow_champion(&app.models, &app.champion, &app.metrics, &app.cancel);
    let feed = follow_predictions(&app.lake, &app.feed, restored, &app.cancel);
    let alerts = follow_alerts(&app.lake, &app.feed, alerted, &app.cancel);
    let watch = elsewhere.watch(&app, &app.cancel);
    let control = service.control.clone();
    let runs = control.watch_runs(&app.metrics, &app.cancel);
    let serve = api::serve(listener, service, async move { cancel.cancelled().await });
    // A service that has failed leaves nothing to keep current.
    let serve = async {
        let served = serve.await;
        app.cancel.cancel();
        served
    };
    let (served, (), (), (), (), ()) = tokio::join!(serve, follow, feed, alerts, watch, runs);
    served.context("the HTTP service ended")?;
    app.close().await;
    Ok(Outcome::Fine)
}

/// Opens the address, or says who has it.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let text =
            format!("cannot serve at {address} ({error}): stop what uses it, or name another address with --bind");
        Unavailable(text).into()
    })
}

/// The service over the opened parts.
pub async fn service(
    app: &App,
    settings: &Settings,
    status: ProgramStatus,
    store: Store,
    protection: Protection,
) -> anyhow::Result<Service> {
    // What is stored is truer than what the settings intend.
    let stored = app.lake.pin(TableName::Events).await?.texts("SELECT source FROM events LIMIT 1").await?;
    let stored = stored.first().and_then(|row| Source::from_name(&row[0]));
    let intended = settings.source.kind == SourceKind::Simulated;
    let simulated = stored.map_or(intended, |source| source.kind() == Kind::Simulated);
    let control = Control::new(app.registry.clone(), app.models.clone(), store, app.clock.clone());
    Ok(Service {
        model: app.champion.subscribe(),
        feed: app.feed.clone(),
        status: Arc::new(status),
        metrics: app.metrics.clone(),
        clock: app.clock.clone(),
        alerts: control.alerts(app.lake.clone()),
        control,
        intake: Intake::new(app.log.clone(), app.metrics.clone(), app.clock.clone()),
        tables: Tables::new(app.lake.clone()),
        simulated,
        protection,
    })
}

/// Lets the process open a file for each connection beside its others, as far as the system allows: a process without
/// one left could neither commit nor answer.
fn make_room(connections: u32) {
    let wanted = u64::from(connections) + OTHER_FILES;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(allowed) if allowed >= wanted => {}
        Ok(allowed) => tracing::warn!(
            allowed,
            wanted,
            "the system allows fewer open files than connections may need: lower http.max_connections, or raise the limit"
        ),
        Err(error) => tracing::warn!(%error, wanted, "the limit of open files stays as it is"),
    }
}

/// The scheme of the service's addresses.
pub const fn scheme(service: &Service) -> &'static str {
    if service.protection.tls.is_some() { "https" } else { "http" }
}

/// Who is let in at the address that the settings name. One that others can reach is not served without a key, unless
/// it was said that everybody may come in: to be asked before there are tables.
pub async fn protection(registry: &Registry, http: &HttpSettings) -> anyhow::Result<Protection> {
    let keys = Keys::load(registry.clone(), Arc::new(SystemClock)).await?;
    let (address, keys_required) = (http.bind, http.keys_required());
    if keys_required && !keys.any_is_valid() {
        let text = format!(
            "requests at {address} need an API key and there is no valid one: make one with `sentinel key create NAME \
             --scope read`, use 127.0.0.1:{} with http.require_keys = \"auto\", or let everybody in with \
             --insecure-no-keys",
            address.port()
        );
        return Err(Refused(text).into());
    }
    let tls = match (http.tls_cert.0.as_str(), http.tls_key.0.as_str()) {
        ("", _) => None,
        (certificate, key) => Some(Tls::load(certificate.as_ref(), key.as_ref())?),
    };
    if !address.ip().is_loopback() {
        if !keys_required {
            tracing::warn!(%address, "whoever reaches this address may do everything: no API key is asked for");
        }
        if tls.is_none() {
            tracing::warn!(
                %address,
                "keys and answers are sent unencrypted: set http.tls_cert and http.tls_key, or let a proxy do it"
            );
        }
    }
    make_room(http.max_connections);
    let (rate, limits) = (settings_to_parts::rate(http), settings_to_parts::limits(http));
    Ok(Protection { keys, keys_required, rate, tls, limits })
}
