//! Alerts as the tables tell them: to go on where a partition ends, and to be looked at.
//!
//! The table has one row per event of an alert and is never rewritten; an alert is the rows that name it. Its peak is the
//! row with the lowest score, of equal ones the first.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use domain::{
    AlertId, AlertRow, AlertType, FEATURE_NAMES, NewestAlert, Offset, Partition, Prediction, Severity, Source, Symbol,
    Timestamp,
};
use futures::StreamExt;

use crate::{
    error::Error,
    export::instant,
    lake::Lake,
    read::{Columns, Pinned, as_stored},
    schema::TableName,
};

/// An alert: all events of it together.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAlert {
    /// Its name.
    pub alert: AlertId,
    /// The market.
    pub symbol: Symbol,
    /// What kind of anomaly.
    pub alert_type: AlertType,
    /// Event time of the event that raised it.
    pub raised_at: Timestamp,
    /// The greatest event time of its events.
    pub last_at: Timestamp,
    /// Its events.
    pub events: u64,
    /// Where its events came from.
    pub source: Source,
    /// Its event with the lowest score.
    pub peak: Peak,
}

/// The event of an alert with the lowest score.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// Offset of the record, in the alert's partition.
    pub offset: Offset,
    /// Event time.
    pub timestamp: Timestamp,
    /// How rare it is.
    pub severity: Severity,
    /// Its score.
    pub anomaly_score: f64,
    /// The model that said so.
    pub model_version: i64,
    /// The feature with the largest share of the score, of those out of reach where there are any.
    pub leading_feature: &'static str,
    /// Its share, 0 to 1.
    pub share: f64,
}

/// Which alerts are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedAlerts {
    /// Of one symbol only.
    pub symbol: Option<Symbol>,
    /// Of one kind only.
    pub alert_type: Option<AlertType>,
    /// Of this severity at least, at their peak.
    pub severity: Option<Severity>,
    /// Raised at this time or later.
    pub from: Option<Timestamp>,
    /// Raised before this time.
    pub to: Option<Timestamp>,
    /// Raised before this one, in the order of [`Pinned::alerts`].
    pub before: Option<(Timestamp, AlertId)>,
}

impl Lake {
    /// The newest alert of each symbol and kind that records of a partition below an offset belong to, of notices and of
    /// others.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn newest_alerts(&self, partition: Partition, below: Offset) -> Result<Vec<NewestAlert>, Error> {
        let sql = format!(
            "SELECT CAST(symbol AS VARCHAR) AS symbol, CAST(alert_type AS VARCHAR) AS alert_type, \
             severity = '{}' AS is_notice, last_value(alert_id ORDER BY \"offset\") AS alert_id, last_value(raised_at ORDER BY \"offset\") AS raised_at \
             FROM alerts WHERE partition = {partition} AND \"offset\" < {below} \
             GROUP BY symbol, alert_type, is_notice ORDER BY symbol, alert_type, is_notice",
            Severity::Notice.as_str()
        );
        let mut alerts = Vec::new();
        for batch in self.pin(TableName::Alerts).await?.rows(&sql).await? {
            let columns = Columns::new(&batch, TableName::Alerts);
            for row in 0..batch.num_rows() {
                alerts.push(NewestAlert {
                    symbol: columns.symbol(row)?,
                    alert_type: columns.named("alert_type", row, AlertType::from_name)?,
                    is_notice: columns.flag("is_notice", row)?.unwrap_or_default(),
                    alert: columns.named("alert_id", row, |text| text.parse().ok())?,
                    raised_at: columns.time("raised_at", row)?,
                });
            }
        }
        Ok(alerts)
    }

    /// Of the predictions of a range of a partition that were made when their events came, the newest of each symbol, so
    /// many at most, in the order of offsets. However long the range is, memory holds no more of it.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn newest_live_predictions(
        &self,
        partition: Partition,
        offsets: Range<Offset>,
        of_each: usize,
    ) -> Result<Vec<Prediction>, Error> {
        let table = self.pin(TableName::Predictions).await?;
        let sql = format!(
            "SELECT * FROM predictions WHERE partition = {partition} AND \"offset\" >= {} AND \"offset\" < {} \
             AND NOT in_sample",
            offsets.start, offsets.end
        );
        let mut newest: HashMap<Symbol, BTreeMap<Offset, Prediction>> = HashMap::new();
        let mut batches = table.query(&sql).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|e| table.failed("read")(e.into()))?;
            let batch = as_stored(&batch, TableName::Predictions).map_err(|e| table.failed("read")(e.into()))?;
            for prediction in Columns::new(&batch, TableName::Predictions).predictions()? {
                let of_symbol = newest.entry(prediction.symbol).or_default();
                of_symbol.insert(prediction.offset, prediction);
                if of_symbol.len() > of_each {
                    of_symbol.pop_first();
                }
            }
        }
        let mut predictions: Vec<Prediction> = newest.into_values().flat_map(BTreeMap::into_values).collect();
        predictions.sort_unstable_by_key(|prediction| prediction.offset);
        Ok(predictions)
    }
}

impl Pinned {
    /// At most `limit` alerts, the last raised first; of those raised at one time the one with the greater name.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where this is not `alerts`.
    pub async fn alerts(&self, wanted: &WantedAlerts, limit: u32) -> Result<Vec<StoredAlert>, Error> {
        self.alerts_in(&format!("{} LIMIT {limit}", wanted.sql()), limit, |_| true).await
    }

    /// [`Pinned::alerts`], of those alone that `is_wanted` chooses by what the table does not know. The others are passed
    /// over one by one.
    ///
    /// # Errors
    /// As [`Pinned::alerts`].
    pub async fn alerts_among(
        &self,
        wanted: &WantedAlerts,
        limit: u32,
        is_wanted: impl Fn(AlertId) -> bool + Send,
    ) -> Result<Vec<StoredAlert>, Error> {
        self.alerts_in(&wanted.sql(), limit, is_wanted).await
    }

    /// One alert, `None` where there is none of this name.
    ///
    /// # Errors
    /// As [`Pinned::alerts`].
    pub async fn alert(&self, alert: AlertId) -> Result<Option<StoredAlert>, Error> {
        let sql = sql(&of_alert(alert), "TRUE");
        Ok(self.alerts_in(&sql, 1, |_| true).await?.pop())
    }

    async fn alerts_in(
        &self,
        sql: &str,
        limit: u32,
        is_wanted: impl Fn(AlertId) -> bool + Send,
    ) -> Result<Vec<StoredAlert>, Error> {
        let mut alerts = Vec::new();
        let mut batches = self.query(sql).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|e| self.failed("read")(e.into()))?;
            let columns = Columns::new(&batch, self.table());
            for row in 0..batch.num_rows() {
                if alerts.len() == limit as usize {
                    return Ok(alerts);
                }
                let alert = columns.alert(row)?;
                if is_wanted(alert.alert) {
                    alerts.push(alert);
                }
            }
        }
        Ok(alerts)
    }

    /// The first events of an alert in the order of the log, at most `limit`.
    ///
    /// # Errors
    /// As [`Pinned::alerts`].
    pub async fn events_of_alert(&self, alert: AlertId, limit: u32) -> Result<Vec<AlertRow>, Error> {
        self.alert_rows(&format!("{} ORDER BY \"offset\" LIMIT {limit}", of_alert(alert))).await
    }

    /// Events of alerts, from the text after `WHERE` over the columns of `alerts`. All are in memory.
    ///
    /// # Errors
    /// As [`Pinned::alerts`].
    pub async fn alert_rows(&self, condition: &str) -> Result<Vec<AlertRow>, Error> {
        let mut rows = Vec::new();
        for batch in self.rows(&format!("SELECT * FROM alerts WHERE {condition}")).await? {
            let batch = as_stored(&batch, self.table()).map_err(|e| self.failed("read")(e.into()))?;
            let columns = Columns::new(&batch, self.table());
            for row in 0..batch.num_rows() {
                rows.push(columns.alert_row(row)?);
            }
        }
        Ok(rows)
    }
}

impl WantedAlerts {
    fn sql(&self) -> String {
        let mut conditions = vec!["TRUE".to_owned()];
        conditions.extend(self.symbol.map(|symbol| format!("symbol = '{symbol}'")));
        conditions.extend(self.alert_type.map(|kind| format!("alert_type = '{}'", kind.as_str())));
        conditions.extend(self.from.map(|from| format!("raised_at >= {}", instant(from))));
        conditions.extend(self.to.map(|to| format!("raised_at < {}", instant(to))));
        let mut of_whole = vec!["TRUE".to_owned()];
        of_whole.extend(self.severity.map(|least| {
            let names = Severity::ALL.into_iter().filter(|severity| *severity >= least);
            let names: Vec<String> = names.map(|severity| format!("'{}'", severity.as_str())).collect();
            format!("peak_severity IN ({})", names.join(", "))
        }));
        of_whole.extend(self.before.map(|(raised_at, alert)| {
            let (raised_at, AlertId { partition, offset }) = (instant(raised_at), alert);
            format!(
                "(raised_at < {raised_at} OR (raised_at = {raised_at} AND (partition < {partition} \
                 OR (partition = {partition} AND raised_offset < {offset}))))"
            )
        }));
        sql(&conditions.join(" AND "), &of_whole.join(" AND "))
    }
}

/// The rows of an alert; it has none before the one that raised it.
fn of_alert(alert: AlertId) -> String {
    let AlertId { partition, offset } = alert;
    format!("alert_id = '{alert}' AND partition = {partition} AND \"offset\" >= {offset}")
}

/// The alerts whose rows meet one condition and that as a whole meet another, the last raised first. No column of the
/// outer query has the name of one that is aggregated.
fn sql(condition: &str, of_whole: &str) -> String {
    let peak = |column: &str| format!("first_value({column} ORDER BY anomaly_score, \"offset\")");
    format!(
        "SELECT * FROM (SELECT alert_id, CAST(symbol AS VARCHAR) AS symbol, alert_type, raised_at, source, partition, \
         min(\"offset\") AS raised_offset, max(timestamp) AS last_at, count(*) AS events, \
         {} AS peak_offset, {} AS peak_at, {} AS peak_severity, min(anomaly_score) AS peak_score, \
         {} AS peak_model, {} AS peak_feature, {} AS peak_share \
         FROM alerts WHERE {condition} GROUP BY alert_id, symbol, alert_type, raised_at, source, partition) \
         WHERE {of_whole} ORDER BY raised_at DESC, partition DESC, raised_offset DESC",
        peak("\"offset\""),
        peak("timestamp"),
        peak("severity"),
        peak("model_version"),
        peak("leading_feature"),
        peak("share"),
    )
}

impl Columns<'_> {
    fn alert(&self, row: usize) -> Result<StoredAlert, Error> {
        Ok(StoredAlert {
            alert: self.named("alert_id", row, |text| text.parse().ok())?,
            symbol: self.symbol(row)?,
            alert_type: self.named("alert_type", row, AlertType::from_name)?,
            raised_at: self.time("raised_at", row)?,
            last_at: self.time("last_at", row)?,
            events: u64::try_from(self.long("events", row)?).unwrap_or(0),
            source: self.named("source", row, Source::from_name)?,
            peak: Peak {
                offset: self.long("peak_offset", row)?,
                timestamp: self.time("peak_at", row)?,
                severity: self.named("peak_severity", row, Severity::from_name)?,
                anomaly_score: self.double("peak_score", row)?,
                model_version: self.long("peak_model", row)?,
                leading_feature: self.named("peak_feature", row, feature)?,
                share: self.double("peak_share", row)?,
            },
        })
    }

    fn alert_row(&self, row: usize) -> Result<AlertRow, Error> {
        Ok(AlertRow {
            partition: self.partition(row)?,
            offset: self.long("offset", row)?,
            ingest_time: self.time("ingest_time", row)?,
            timestamp: self.time("timestamp", row)?,
            symbol: self.symbol(row)?,
            alert: self.named("alert_id", row, |text| text.parse().ok())?,
            raised_at: self.time("raised_at", row)?,
            alert_type: self.named("alert_type", row, AlertType::from_name)?,
            severity: self.named("severity", row, Severity::from_name)?,
            anomaly_score: self.double("anomaly_score", row)?,
            model_version: self.long("model_version", row)?,
            leading_feature: self.named("leading_feature", row, feature)?,
            share: self.double("share", row)?,
            source: self.named("source", row, Source::from_name)?,
        })
    }

    /// The value that a text names.
    fn named<T>(&self, name: &'static str, row: usize, value: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        self.text(name, row)?.and_then(value).ok_or_else(|| self.unexpected(name))
    }
}

fn feature(text: &str) -> Option<&'static str> {
    FEATURE_NAMES.into_iter().find(|name| *name == text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        PartitionFlush,
        fixture::{lake, prediction},
    };

    fn row(offset: Offset, second: i64, alert: Offset, anomaly_score: f64) -> AlertRow {
        AlertRow {
            partition: 0,
            offset,
            ingest_time: Timestamp::from_seconds(1_710_000_000 + second),
            timestamp: Timestamp::from_seconds(1_710_000_000 + second),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            alert: AlertId { partition: 0, offset: alert },
            raised_at: Timestamp::from_seconds(1_710_000_000 + alert),
            alert_type: AlertType::PriceSpike,
            severity: if anomaly_score < -0.2 { Severity::Critical } else { Severity::Warning },
            anomaly_score,
            model_version: 1,
            leading_feature: FEATURE_NAMES[0],
            share: 0.75,
            source: Source::Simulated,
        }
    }

    async fn stored(alerts: Vec<AlertRow>) -> (tempfile::TempDir, Lake) {
        let (folder, lake) = lake().await;
        let flush = PartitionFlush { next: 10_000, alerts, ..PartitionFlush::default() };
        lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
        (folder, lake)
    }

    #[tokio::test]
    async fn an_alert_is_all_rows_that_name_it_and_its_peak_the_lowest_score() {
        let (_folder, lake) = stored(vec![row(5, 5, 5, -0.1), row(9, 9, 5, -0.3), row(7, 7, 5, -0.2)]).await;
        let alerts = lake.pin(TableName::Alerts).await.unwrap();
        let expected = StoredAlert {
            alert: AlertId { partition: 0, offset: 5 },
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            alert_type: AlertType::PriceSpike,
            raised_at: Timestamp::from_seconds(1_710_000_005),
            last_at: Timestamp::from_seconds(1_710_000_009),
            events: 3,
            source: Source::Simulated,
            peak: Peak {
                offset: 9,
                timestamp: Timestamp::from_seconds(1_710_000_009),
                severity: Severity::Critical,
                anomaly_score: -0.3,
                model_version: 1,
                leading_feature: FEATURE_NAMES[0],
                share: 0.75,
            },
        };
        assert_eq!(alerts.alert(expected.alert).await.unwrap(), Some(expected.clone()));
        assert_eq!(alerts.alerts(&WantedAlerts::default(), 10).await.unwrap(), [expected]);
        assert_eq!(alerts.alert(AlertId { partition: 0, offset: 9 }).await.unwrap(), None);
    }

    #[tokio::test]
    async fn alerts_are_paged_from_the_last_raised_on() {
        let (_folder, lake) = stored((0..7).map(|place| row(place, place / 2, place, -0.1)).collect()).await;
        let alerts = lake.pin(TableName::Alerts).await.unwrap();
        let mut wanted = WantedAlerts::default();
        let mut met = Vec::new();
        loop {
            let page = alerts.alerts(&wanted, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            wanted.before = Some((last.raised_at, last.alert));
            met.extend(page.iter().map(|alert| alert.alert.offset));
        }
        assert_eq!(met, [6, 5, 4, 3, 2, 1, 0]);
        let from = Some(Timestamp::from_seconds(1_710_000_002));
        let to = Some(Timestamp::from_seconds(1_710_000_004));
        let between = alerts.alerts(&WantedAlerts { from, to, ..WantedAlerts::default() }, 10).await.unwrap();
        assert_eq!(between.iter().map(|alert| alert.alert.offset).collect::<Vec<_>>(), [3, 2]);
        let other = WantedAlerts { alert_type: Some(AlertType::FlashCrash), ..WantedAlerts::default() };
        assert_eq!(alerts.alerts(&other, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_alert_is_as_severe_as_its_peak() {
        let notice = AlertRow { severity: Severity::Notice, ..row(5, 5, 5, 0.1) };
        let rows = [row(1, 1, 1, -0.1), row(2, 2, 2, -0.1), row(3, 3, 2, -0.3), row(4, 4, 4, -0.3), notice];
        let (_folder, lake) = stored(rows.to_vec()).await;
        let alerts = lake.pin(TableName::Alerts).await.unwrap();
        let offsets = async |severity| {
            let wanted = WantedAlerts { severity: Some(severity), ..WantedAlerts::default() };
            let found = alerts.alerts(&wanted, 10).await.unwrap();
            found.iter().map(|alert| alert.alert.offset).collect::<Vec<_>>()
        };
        assert_eq!(offsets(Severity::Notice).await, [5, 4, 2, 1]);
        assert_eq!(offsets(Severity::Warning).await, [4, 2, 1]);
        assert_eq!(offsets(Severity::High).await, [4, 2]);
        assert_eq!(offsets(Severity::Critical).await, [4, 2]);
    }

    #[tokio::test]
    async fn alerts_are_chosen_by_what_the_table_does_not_know() {
        let (_folder, lake) = stored((0..9).map(|place| row(place, place, place, -0.1)).collect()).await;
        let alerts = lake.pin(TableName::Alerts).await.unwrap();
        let before = Some((Timestamp::from_seconds(1_710_000_007), AlertId { partition: 0, offset: 7 }));
        let wanted = WantedAlerts { before, ..WantedAlerts::default() };
        let found = alerts.alerts_among(&wanted, 2, |alert| alert.offset % 2 == 0).await.unwrap();
        assert_eq!(found.iter().map(|alert| alert.alert.offset).collect::<Vec<_>>(), [6, 4]);
    }

    #[tokio::test]
    async fn the_events_of_an_alert_are_read_as_they_were_written() {
        let rows = vec![row(5, 5, 5, -0.1), row(6, 6, 6, -0.2), row(9, 9, 5, -0.3)];
        let (_folder, lake) = stored(rows.clone()).await;
        let alerts = lake.pin(TableName::Alerts).await.unwrap();
        let alert = AlertId { partition: 0, offset: 5 };
        let of_alert = [rows[0].clone(), rows[2].clone()];
        assert_eq!(alerts.events_of_alert(alert, 10).await.unwrap(), of_alert);
        assert_eq!(alerts.events_of_alert(alert, 1).await.unwrap(), of_alert[..1]);
        assert_eq!(alerts.alert_rows("TRUE ORDER BY \"offset\"").await.unwrap(), rows);
    }

    #[tokio::test]
    async fn the_newest_alert_of_a_kind_is_that_of_its_last_row() {
        let (_folder, lake) = stored(vec![row(5, 5, 5, -0.1), row(6, 6, 5, -0.1), row(8, 3_000, 8, -0.1)]).await;
        let newest = async |below| {
            let alerts = lake.newest_alerts(0, below).await.unwrap();
            alerts.iter().map(|newest| newest.alert.offset).collect::<Vec<_>>()
        };
        assert_eq!((newest(5).await, newest(8).await, newest(9).await), (vec![], vec![5], vec![8]));
        assert_eq!(lake.newest_alerts(1, 100).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_newest_notice_is_told_apart_from_the_newest_alert_of_its_kind() {
        let notice = |offset, alert| AlertRow { severity: Severity::Notice, ..row(offset, offset, alert, 0.1) };
        let (_folder, lake) = stored(vec![row(5, 5, 5, -0.1), notice(6, 6), row(7, 7, 5, -0.1), notice(9, 6)]).await;
        let newest = lake.newest_alerts(0, 100).await.unwrap();
        let newest = newest.iter().map(|newest| (newest.is_notice, newest.alert.offset)).collect::<Vec<_>>();
        assert_eq!(newest, [(false, 5), (true, 6)]);
    }

    #[tokio::test]
    async fn the_newest_predictions_of_each_symbol_are_those_with_the_greatest_offsets() {
        let (_folder, lake) = lake().await;
        let made = |offset: Offset| Prediction {
            symbol: Symbol::parse(if offset % 5 == 0 { "ETH-USDT" } else { "BTC-USDT" }).unwrap(),
            // The newest in the log is not the newest in time.
            timestamp: Timestamp::from_seconds(1_710_000_000 - offset),
            in_sample: offset == 28,
            ..prediction(offset)
        };
        for (start, next) in [(0, 20), (20, 40)] {
            let predictions = (start..next).map(made).collect();
            let flush = PartitionFlush { start, next, predictions, ..PartitionFlush::default() };
            lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
        }
        let newest = async |offsets, of_each| lake.newest_live_predictions(0, offsets, of_each).await.unwrap();
        let expected: Vec<_> = [15, 20, 25, 26, 27, 29].map(made).to_vec();
        assert_eq!(newest(3..30, 3).await, expected);
        assert_eq!(newest(28..29, 3).await, []);
        assert_eq!(lake.newest_live_predictions(1, 0..40, 3).await.unwrap(), []);
    }
}
