//! `sentinel serve`: the HTTP service alone, over what other processes write. It takes events, others fold them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use api::Service;
use domain::{Kind, Source};
use jobs::{control::Control, first_model, follow::follow_predictions, ingest::Intake, tables::Tables};
use lake::TableName;
use scheduler::Store;
use tokio::net::TcpListener;

use crate::{
    Outcome,
    app::App,
    commands::{Unavailable, runs},
    config::{Settings, SourceKind},
    elsewhere::Elsewhere,
    locks::{Role, RoleLock},
    status::ProgramStatus,
};

/// Serves until it is told to stop.
pub async fn run(settings: &Settings) -> anyhow::Result<Outcome> {
    let _lock = RoleLock::acquire(&settings.data.dir, Role::Http)?;
    let listener = bind(settings.http.bind).await?;
    let app = App::open(settings).await?;
    let restored = app.restore_feed().await?;
    let elsewhere = Elsewhere::new(&app, &settings.data.dir).await?;
    let status = ProgramStatus::without_jobs(&app, settings.model.first_model_rows, elsewhere.clone());
    let service = service(&app, settings, status, runs::store(settings).await?).await?;
    tracing::info!("serving http://{}", listener.local_addr()?);
    let cancel = app.cancel.clone();
    let follow = first_model::follow_champion(&app.models, &app.champion, &app.metrics, &app.cancel);
    let feed = follow_predictions(&app.lake, &app.feed, restored, &app.cancel);
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
    let (served, (), (), (), ()) = tokio::join!(serve, follow, feed, watch, runs);
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
pub async fn service(app: &App, settings: &Settings, status: ProgramStatus, store: Store) -> anyhow::Result<Service> {
    // What is stored is truer than what the settings intend.
    let stored = app.lake.pin(TableName::Events).await?.texts("SELECT source FROM events LIMIT 1").await?;
    let stored = stored.first().and_then(|row| Source::from_name(&row[0]));
    let intended = settings.source.kind == SourceKind::Simulated;
    let simulated = stored.map_or(intended, |source| source.kind() == Kind::Simulated);
    Ok(Service {
        model: app.champion.subscribe(),
        feed: app.feed.clone(),
        status: Arc::new(status),
        metrics: app.metrics.clone(),
        clock: app.clock.clone(),
        control: Control::new(app.registry.clone(), app.models.clone(), store, app.clock.clone()),
        intake: Intake::new(app.log.clone(), app.metrics.clone(), app.clock.clone()),
        tables: Tables::new(app.lake.clone()),
        simulated,
    })
}
