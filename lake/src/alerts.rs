//! Alerts as the tables tell them: to go on where a partition ends, and to be looked at.
//!
//! The table has one row per event of an alert and is never rewritten; an alert is the rows that name it. Its peak is the
//! row with the lowest score, of equal ones the first.

use std::ops::Range;

use domain::{AlertId, AlertType, FEATURE_NAMES, Offset, Partition, Prediction, Severity, Source, Symbol, Timestamp};

use crate::{
    error::Error,
    lake::Lake,
    read::{Columns, Pinned},
    schema::TableName,
};

/// The newest alert of a symbol and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestAlert {
    /// The market.
    pub symbol: Symbol,
    /// What kind of anomaly.
    pub alert_type: AlertType,
    /// Its name.
    pub alert: AlertId,
    /// When it was raised.
    pub raised_at: Timestamp,
}

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
    /// How rare its score is.
    pub severity: Severity,
    /// Its score.
    pub anomaly_score: f64,
    /// The model that said so.
    pub model_version: i64,
    /// The feature with the largest share of the score.
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
    /// Raised at this time or later.
    pub from: Option<Timestamp>,
    /// Raised before this time.
    pub to: Option<Timestamp>,
    /// Raised before this one, in the order of [`Pinned::alerts`].
    pub before: Option<(Timestamp, AlertId)>,
}

impl Lake {
    /// The newest alert of each symbol and kind that records of a partition below an offset belong to.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn newest_alerts(&self, partition: Partition, below: Offset) -> Result<Vec<NewestAlert>, Error> {
        let sql = format!(
            "SELECT CAST(symbol AS VARCHAR) AS symbol, CAST(alert_type AS VARCHAR) AS alert_type, \
             last_value(alert_id ORDER BY \"offset\") AS alert_id, last_value(raised_at ORDER BY \"offset\") AS raised_at \
             FROM alerts WHERE partition = {partition} AND \"offset\" < {below} \
             GROUP BY symbol, alert_type ORDER BY symbol, alert_type"
        );
        let mut alerts = Vec::new();
        for batch in self.pin(TableName::Alerts).await?.rows(&sql).await? {
            let columns = Columns::new(&batch, TableName::Alerts);
            for row in 0..batch.num_rows() {
                alerts.push(NewestAlert {
                    symbol: columns.symbol(row)?,
                    alert_type: columns.named("alert_type", row, AlertType::from_name)?,
                    alert: columns.named("alert_id", row, |text| text.parse().ok())?,
                    raised_at: columns.time("raised_at", row)?,
                });
            }
        }
        Ok(alerts)
    }

    /// The predictions of a range of a partition that were made when their events came, in the order of offsets. All are
    /// in memory.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn live_predictions(
        &self,
        partition: Partition,
        offsets: Range<Offset>,
    ) -> Result<Vec<Prediction>, Error> {
        let condition = format!(
            "WHERE partition = {partition} AND \"offset\" >= {} AND \"offset\" < {} AND NOT in_sample \
             ORDER BY \"offset\"",
            offsets.start, offsets.end
        );
        self.pin(TableName::Predictions).await?.predictions_in(&condition).await
    }
}

impl Pinned {
    /// At most `limit` alerts, the last raised first; of those raised at one time the one with the greater name.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where this is not `alerts`.
    pub async fn alerts(&self, wanted: &WantedAlerts, limit: u32) -> Result<Vec<StoredAlert>, Error> {
        let mut conditions = vec!["TRUE".to_owned()];
        conditions.extend(wanted.symbol.map(|symbol| format!("symbol = '{symbol}'")));
        conditions.extend(wanted.alert_type.map(|kind| format!("alert_type = '{}'", kind.as_str())));
        let time = |time: Timestamp| format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", time.micros());
        conditions.extend(wanted.from.map(|from| format!("raised_at >= {}", time(from))));
        conditions.extend(wanted.to.map(|to| format!("raised_at < {}", time(to))));
        let after = wanted.before.map_or_else(String::new, |(raised_at, alert)| {
            let (raised_at, AlertId { partition, offset }) = (time(raised_at), alert);
            format!(
                "WHERE raised_at < {raised_at} OR (raised_at = {raised_at} AND (partition < {partition} \
                 OR (partition = {partition} AND raised_offset < {offset})))"
            )
        });
        self.alerts_in(&conditions.join(" AND "), &after, limit).await
    }

    /// One alert, `None` where there is none of this name.
    ///
    /// # Errors
    /// As [`Pinned::alerts`].
    pub async fn alert(&self, alert: AlertId) -> Result<Option<StoredAlert>, Error> {
        Ok(self.alerts_in(&format!("alert_id = '{alert}'"), "", 1).await?.pop())
    }

    async fn alerts_in(&self, condition: &str, after: &str, limit: u32) -> Result<Vec<StoredAlert>, Error> {
        let peak = |column: &str| format!("first_value({column} ORDER BY anomaly_score, \"offset\")");
        let sql = format!(
            "SELECT * FROM (SELECT alert_id, CAST(symbol AS VARCHAR) AS symbol, alert_type, raised_at, source, partition, \
             min(\"offset\") AS raised_offset, max(timestamp) AS last_at, count(*) AS events, {} AS peak_offset, \
             {} AS peak_at, {} AS severity, min(anomaly_score) AS peak_score, {} AS model_version, \
             {} AS leading_feature, {} AS share \
             FROM alerts WHERE {condition} GROUP BY alert_id, symbol, alert_type, raised_at, source, partition) {after} \
             ORDER BY raised_at DESC, partition DESC, raised_offset DESC LIMIT {limit}",
            peak("\"offset\""),
            peak("timestamp"),
            peak("severity"),
            peak("model_version"),
            peak("leading_feature"),
            peak("share"),
        );
        let mut alerts = Vec::new();
        for batch in self.rows(&sql).await? {
            let columns = Columns::new(&batch, TableName::Alerts);
            for row in 0..batch.num_rows() {
                alerts.push(columns.alert(row)?);
            }
        }
        Ok(alerts)
    }
}

impl Columns<'_> {
    fn alert(&self, row: usize) -> Result<StoredAlert, Error> {
        let feature = |text: &str| FEATURE_NAMES.into_iter().find(|name| *name == text);
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
                severity: self.named("severity", row, Severity::from_name)?,
                anomaly_score: self.double("peak_score", row)?,
                model_version: self.long("model_version", row)?,
                leading_feature: self.named("leading_feature", row, feature)?,
                share: self.double("share", row)?,
            },
        })
    }

    /// The value that a text names.
    fn named<T>(&self, name: &'static str, row: usize, value: impl FnOnce(&str) -> Option<T>) -> Result<T, Error> {
        self.text(name, row)?.and_then(value).ok_or_else(|| self.unexpected(name))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::AlertRow;

    use super::*;
    use crate::{PartitionFlush, fixture::lake};

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
    async fn the_newest_alert_of_a_kind_is_that_of_its_last_row() {
        let (_folder, lake) = stored(vec![row(5, 5, 5, -0.1), row(6, 6, 5, -0.1), row(8, 3_000, 8, -0.1)]).await;
        let newest = async |below| {
            let alerts = lake.newest_alerts(0, below).await.unwrap();
            alerts.iter().map(|newest| newest.alert.offset).collect::<Vec<_>>()
        };
        assert_eq!((newest(5).await, newest(8).await, newest(9).await), (vec![], vec![5], vec![8]));
        assert_eq!(lake.newest_alerts(1, 100).await.unwrap(), []);
    }
}
