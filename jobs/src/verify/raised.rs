//! Alerts raised again, from the live predictions that are stored of one symbol.
//!
//! Predictions are read by event time, alerts follow from them in the order of the log, and are compared by event time
//! again. Within an epoch an event is older than one before it in the log by the allowed lateness at most: two minutes of
//! events wait here, however many there are. Never knows which alerts are stored.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use domain::{AlertRow, Cause, Offset, Prediction, Timestamp, admission::ALLOWED_LATENESS_MICROS};
use lake::{
    compare::{Derived, Key},
    epochs::FreshStarts,
};

use crate::{active::ActiveModel, alerting::Alerting};

/// A symbol's alerts on their way, for a thread that may block. They come in the order of their keys.
#[derive(Debug)]
pub struct RaisedAgain {
    starts: FreshStarts,
    alerting: Alerting,
    epoch: usize,
    /// Event time of the newest prediction.
    time: Timestamp,
    /// Predictions of the epoch that others may precede in the log.
    predictions: BTreeMap<Offset, Prediction>,
    /// Alerts of the epoch that others may precede in time.
    alerts: BTreeMap<Key, AlertRow>,
}

impl RaisedAgain {
    /// Begins before the first prediction.
    pub fn new(starts: FreshStarts) -> Self {
        Self {
            starts,
            alerting: Alerting::default(),
            epoch: 0,
            time: Timestamp::default(),
            predictions: BTreeMap::new(),
            alerts: BTreeMap::new(),
        }
    }

    /// Takes in the next predictions by epoch and event time, made by these models; the alerts that are complete.
    pub fn take(
        &mut self,
        predictions: Vec<Prediction>,
        models: &HashMap<i64, Arc<ActiveModel>>,
    ) -> Vec<(Key, AlertRow)> {
        let mut complete = Vec::new();
        for prediction in predictions {
            let epoch = self.starts.epoch(prediction.cause(), prediction.timestamp);
            if epoch != self.epoch {
                complete.extend(self.rest(models));
                self.epoch = epoch;
            }
            self.time = prediction.timestamp;
            self.predictions.insert(prediction.offset, prediction);
            self.raise(models);
        }
        // What waits is the lateness older at most than the first of them, and that than the newest one.
        let bound = self.time.plus_micros(-2 * ALLOWED_LATENESS_MICROS);
        let nothing = Cause { partition: 0, offset: Offset::MIN, append_time: bound };
        let later = self.alerts.split_off(&AlertRow::key(self.epoch, bound, nothing));
        complete.extend(std::mem::replace(&mut self.alerts, later));
        complete
    }

    /// The alerts of all predictions that wait: nothing precedes them any more.
    pub fn rest(&mut self, models: &HashMap<i64, Arc<ActiveModel>>) -> Vec<(Key, AlertRow)> {
        while let Some((_, prediction)) = self.predictions.pop_first() {
            self.judge(&prediction, models);
        }
        std::mem::take(&mut self.alerts).into_iter().collect()
    }

    /// Judges the predictions that are the next of the log, whatever may still come.
    fn raise(&mut self, models: &HashMap<i64, Arc<ActiveModel>>) {
        let complete = self.time.plus_micros(-ALLOWED_LATENESS_MICROS);
        while let Some(first) = self.predictions.first_entry()
            && first.get().timestamp < complete
        {
            let prediction = first.remove();
            self.judge(&prediction, models);
        }
    }

    fn judge(&mut self, prediction: &Prediction, models: &HashMap<i64, Arc<ActiveModel>>) {
        if let Some(alert) = self.alerting.take(&models[&prediction.model_version], prediction) {
            self.alerts.insert(AlertRow::key(self.epoch, alert.timestamp, alert.cause()), alert);
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{Event, EventRow, Output, Source, Symbol, fold::FORGET_AFTER_OFFSETS, time::MICROS};
    use lake::{PartitionFlush, TableName};
    use models::TrainParameters;

    use super::*;
    use crate::{
        library::Models,
        train::{Then, TrainRequest, train},
        workshop::{
            Workshop,
            example::{Market, START, workshop},
        },
    };

    /// Offsets that the market has taken.
    const TAKEN: Offset = 600;

    /// A prediction at an offset and a second of a symbol that the market does not have.
    fn prediction(offset: Offset, second: i64, anomaly_score: f64) -> Prediction {
        let timestamp = START.plus_micros(second * MICROS);
        Prediction {
            partition: 0,
            offset,
            ingest_time: timestamp,
            timestamp,
            symbol: Symbol::parse("KO-USDT").unwrap(),
            features: [4.5, 3.8, 1.5, 0.008, 25.0],
            anomaly_score,
            is_anomaly: anomaly_score < 0.0,
            model_version: 1,
            in_sample: false,
            label_is_anomaly: None,
            label_anomaly_type: None,
            source: Source::File,
        }
    }

    /// Every twelve seconds a prediction in the order of the log, up to a minute older than one before it; in the middle the
    /// symbol is forgotten, and comes back a day older.
    fn in_log_order(beyond: f64) -> Vec<Prediction> {
        let numbers = 0..300;
        let score = |number: i64| if number * number % 7 < 3 { beyond } else { 0.1 };
        let second = |number: i64| number * 12 - number * 37 % 60;
        let first = numbers.clone().map(|number| prediction(TAKEN + number, second(number), score(number)));
        let again = numbers.map(|number| {
            prediction(TAKEN + 300 + FORGET_AFTER_OFFSETS + number, second(number) - 86_400, score(number))
        });
        first.chain(again).collect()
    }

    /// The events that predictions are about.
    async fn commit(workshop: &Workshop, predictions: &[Prediction]) {
        let event = |prediction: &Prediction| EventRow {
            cause: prediction.cause(),
            fold_time: prediction.timestamp,
            event: Event {
                timestamp: prediction.timestamp,
                symbol: prediction.symbol,
                price: 60.0,
                volume: 3.0,
                log_return: None,
                is_anomaly: None,
                anomaly_type: None,
                trade_id: None,
                side: None,
                ingest_id: None,
                source: prediction.source,
                extra: None,
            },
        };
        let output = Output { events: predictions.iter().map(event).collect(), ..Output::default() };
        let next = predictions[predictions.len() - 1].offset + 1;
        let flush = PartitionFlush { start: TAKEN, next, replay: next, output, ..PartitionFlush::default() };
        workshop.lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
    }

    #[tokio::test]
    async fn alerts_are_those_of_the_order_of_the_log_and_come_in_that_of_time() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        let parameters = TrainParameters { trees: 10, ..TrainParameters::default() };
        let request = TrainRequest::on_every_row(parameters, Then::Promote, "test", "first model");
        train(&workshop, &request).await.unwrap();
        let models = Models::new(workshop.registry.clone(), workshop.models_dir.clone());
        let model = models.load(1).await.unwrap();
        let mut predictions = in_log_order(model.model.alert_limits().threshold - 0.001);
        commit(&workshop, &predictions).await;
        let (events, late) = (
            workshop.lake.pin(TableName::Events).await.unwrap(),
            workshop.lake.pin(TableName::LateEvents).await.unwrap(),
        );
        let starts = events.fresh_starts(&late, predictions[0].symbol).await.unwrap();
        let key = |row: &AlertRow| AlertRow::key(starts.epoch(row.cause(), row.timestamp), row.timestamp, row.cause());
        let mut alerting = Alerting::default();
        let mut expected: Vec<AlertRow> =
            predictions.iter().filter_map(|prediction| alerting.take(&model, prediction)).collect();
        expected.sort_by_key(key);
        assert!(expected.len() > 100 && expected[0].offset < TAKEN + 300, "{}", expected.len());
        assert!(expected[expected.len() - 1].offset > FORGET_AFTER_OFFSETS);

        predictions.sort_by_key(|row| (starts.epoch(row.cause(), row.timestamp), row.timestamp, row.offset));
        let models = HashMap::from([(1, model)]);
        let (mut again, mut made) = (RaisedAgain::new(starts.clone()), Vec::new());
        for batch in predictions.chunks(11) {
            made.extend(again.take(batch.to_vec(), &models));
            assert!(again.predictions.len() + again.alerts.len() < 100, "two minutes of events wait");
        }
        made.extend(again.rest(&models));
        assert!(made.iter().all(|(at, row)| *at == key(row)));
        assert_eq!(made.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), expected);
    }
}
