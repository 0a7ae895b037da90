//! Stored alerts beside those that the stored predictions raise.

use lake::{PartitionFlush, read::StoredFeatures, replace::Replaced};
use models::TrainParameters;
use streams::{EmbeddedLog, TopicSettings};

use super::*;
use crate::{
    alerting::Alerting,
    train::{Then, TrainRequest, train},
    workshop::{
        Workshop,
        example::{Market, START, workshop},
    },
};

/// Rows older than the first model.
const HISTORY: Offset = 300;

/// Rows in all: an event a second of three symbols.
const ROWS: Offset = 1_200;

/// Tables that were made from a log.
struct Scene {
    _folder: tempfile::TempDir,
    workshop: Workshop,
    log: EmbeddedLog,
    /// What is stored in `alerts`.
    alerts: Vec<AlertRow>,
}

const fn second(second: i64) -> Timestamp {
    START.plus_micros(second * 1_000_000)
}

/// What a model says, but that two events of each symbol, one after the other, are beyond its limit from time to time.
fn prediction(row: StoredFeatures, model: &ActiveModel) -> Prediction {
    let is_beyond = row.offset % 50 < 6;
    let anomaly_score = if is_beyond { model.model.alert_limits().threshold - 0.001 } else { 0.1 };
    Prediction {
        partition: row.partition,
        offset: row.offset,
        ingest_time: row.ingest_time,
        timestamp: row.timestamp,
        symbol: row.symbol,
        features: row.features,
        anomaly_score,
        is_anomaly: is_beyond,
        model_version: model.version,
        in_sample: row.offset < HISTORY,
        label_is_anomaly: row.is_anomaly,
        label_anomaly_type: row.anomaly_type,
        source: row.source,
    }
}

impl Scene {
    async fn new() -> Self {
        let (folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 400).await;
        let parameters = TrainParameters { trees: 10, ..TrainParameters::default() };
        let request = TrainRequest::on_every_row(parameters, Then::Promote, "test", "first model");
        let version = train(&workshop, &request).await.unwrap().version;
        let model = Self::models(&workshop).load(version).await.unwrap();
        let rows = workshop.lake.pin(TableName::Features).await.unwrap().features("TRUE").await.unwrap();
        let predictions: Vec<Prediction> = rows.into_iter().map(|row| prediction(row, &model)).collect();
        let mut alerting = Alerting::default();
        let live = predictions.iter().filter(|prediction| !prediction.in_sample);
        let alerts: Vec<AlertRow> = live.filter_map(|prediction| alerting.take(&model, prediction)).collect();
        let flush = PartitionFlush { next: ROWS, predictions, alerts: alerts.clone(), ..PartitionFlush::default() };
        workshop.lake.flush_derived("topic", &Arc::new(vec![flush])).await.unwrap();
        let topic = TopicSettings { name: "market".to_owned(), partitions: 1 };
        let path = folder.path().join("events.db");
        let log = EmbeddedLog::open(&path, &topic, workshop.clock.clone()).await.unwrap();
        workshop.lake.follow("topic", log.topic_id(), &[0]).await.unwrap();
        Self { _folder: folder, workshop, log, alerts }
    }

    fn models(workshop: &Workshop) -> Models {
        Models::new(workshop.registry.clone(), workshop.models_dir.clone())
    }

    async fn verified(&self, from: Option<Timestamp>, to: Option<Timestamp>) -> TableReport {
        let request = VerifyRequest { tables: vec![TableName::Alerts], from, to, symbols: Vec::new() };
        let models = Self::models(&self.workshop);
        let reports = verify(&self.workshop.lake, &self.log, &models, &request, &|_| ()).await.unwrap();
        let [report] = reports.try_into().unwrap();
        report
    }

    /// Puts other rows in the place of the alerts of a symbol.
    async fn put(&self, symbol: Symbol, rows: &[AlertRow]) {
        let lake = &self.workshop.lake;
        let mut replacement = lake.replacement(TableName::Alerts, symbol, START..second(ROWS)).await.unwrap();
        replacement.add(&rows.iter().collect::<Vec<_>>()).await.unwrap();
        let replaced = lake.replace(replacement, "others").await.unwrap();
        assert!(matches!(replaced, Replaced::Committed { .. }), "{replaced:?}");
    }
}

#[tokio::test]
async fn stored_alerts_are_those_that_the_predictions_raise() {
    let scene = Scene::new().await;
    let all = scene.verified(None, None).await;
    assert!(all.is_equal(), "{all:?}");
    assert_eq!((all.compared.rows, all.version), (scene.alerts.len() as u64, 2));
    assert!(scene.alerts.len() > 40 && scene.alerts.iter().any(|row| !row.is_raising()), "{}", scene.alerts.len());
    // Which alert an event belongs to depends on those before the part that is compared.
    let (from, to) = (second(200), second(300));
    let part = scene.verified(Some(from), Some(to)).await;
    let within = scene.alerts.iter().filter(|row| (from..to).contains(&row.timestamp)).count();
    assert!(part.is_equal() && within > 0, "{part:?}");
    assert_eq!(part.compared.rows, within as u64);
    assert_ne!(part.digest, all.digest);
}

#[tokio::test]
async fn an_alert_that_is_changed_missing_or_one_too_many_is_found() {
    let scene = Scene::new().await;
    let symbol = scene.alerts[0].symbol;
    let mut rows: Vec<AlertRow> = scene.alerts.iter().filter(|row| row.symbol == symbol).cloned().collect();
    let count = rows.len() as u64;
    let last = rows.last().unwrap().clone();
    let timestamp = last.timestamp.plus_micros(1);
    rows.push(AlertRow { offset: last.offset + 3, timestamp, ..last });
    let missing = rows.remove(5);
    rows[2].share = rows[2].share.next_down();
    scene.put(symbol, &rows).await;
    let found = scene.verified(None, None).await.compared;
    let others = scene.alerts.len() as u64 - count;
    assert_eq!((found.rows, found.differing, found.missing, found.extra), (others + count - 1, 1, 1, 1));
    let told: Vec<_> = found.first.iter().map(|difference| (difference.offset, &difference.what)).collect();
    let [(changed, What::Value { column, .. }), one, other] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((*changed, column.as_str()), (rows[2].offset, "share"));
    assert_eq!([*one, *other], [(missing.offset, &What::Missing), (last.offset + 3, &What::Extra)]);
}
