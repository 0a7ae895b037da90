//! What people do with alerts: find them, see what speaks for them, acknowledge them and say what they were. The same for
//! the command line and the service.
//!
//! An alert is in the table once its events are committed, seconds after the feed has told of them; nothing can be said
//! about it before. Tables are read only; what people say goes to the registry.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use domain::{AlertId, AlertRow, Clock, FeatureVector, Prediction, Symbol, Timestamp, time::MICROS};
use lake::{Lake, TableName, evidence::EventName, registry::Registry};
use models::Explanation;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::warn;

/// What the lake calls it; the service knows them by this module.
pub use lake::{
    alerts::{Peak, StoredAlert, WantedAlerts},
    evidence::Around,
    registry::alerts::{Acknowledgement, AlertVerdict, GivenVerdict, Standing},
};

use crate::{active::ActiveModel, error::Error, library::Models};

/// Events of an alert that are shown, at most: the first.
pub const EVENTS_SHOWN: u32 = 1_000;

/// Event time before and after the peak of an alert whose events are shown.
pub const AROUND_MICROS: i64 = 60 * MICROS;

/// Events around the peak that are shown, at most: the nearest.
pub const AROUND_SHOWN: u32 = 2_000;

/// Alerts are read for so many at a time, others wait: each read may take memory of its own to sort in.
const READS: usize = 4;

/// Which alerts are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertFilter {
    /// By what the table says.
    pub wanted: WantedAlerts,
    /// Acknowledged ones only, or others only.
    pub is_acknowledged: Option<bool>,
    /// Of this newest verdict only.
    pub verdict: Option<AlertVerdict>,
}

impl AlertFilter {
    fn asks_people(&self) -> bool {
        self.is_acknowledged.is_some() || self.verdict.is_some()
    }

    fn admits(&self, standing: Standing) -> bool {
        self.is_acknowledged.is_none_or(|wanted| wanted == standing.is_acknowledged)
            && self.verdict.is_none_or(|wanted| Some(wanted) == standing.verdict)
    }
}

/// Where a page of alerts ends and the next one begins.
///
/// It names an alert and no version of the table: alerts are never changed or removed, so that those behind it are the
/// same ones in every version, and what people say has no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertCursor {
    /// When the last alert of the page was raised.
    pub raised_at: Timestamp,
    /// Its name.
    pub alert: AlertId,
}

/// As `1710000000000000-2:10451`.
impl fmt::Display for AlertCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.raised_at.micros(), self.alert)
    }
}

impl FromStr for AlertCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = |(micros, alert): (&str, &str)| {
            Some(Self { raised_at: Timestamp::from_micros(micros.parse().ok()?), alert: alert.parse().ok()? })
        };
        text.rsplit_once('-').and_then(read).ok_or_else(|| {
            Error::Invalid(
                "a cursor is taken from the page before as it is, such as 1710000000000000-2:10451".to_owned(),
            )
        })
    }
}

/// An alert and how far people are with it.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertEntry {
    /// The alert.
    pub alert: StoredAlert,
    /// What people said, in short.
    pub standing: Standing,
}

/// Alerts, the last raised first.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertPage {
    /// The version of the table that was read.
    pub version: u64,
    /// The alerts.
    pub alerts: Vec<AlertEntry>,
    /// Where the next page begins; none, where there is none.
    pub next: Option<AlertCursor>,
}

/// An alert and everything that people said about it, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRecord {
    /// The alert.
    pub entry: AlertEntry,
    /// Who has acknowledged it.
    pub acknowledgements: Vec<Acknowledgement>,
    /// What it was; the newest counts.
    pub verdicts: Vec<GivenVerdict>,
}

/// What there is to look at before a verdict on an alert.
#[derive(Debug)]
pub struct Evidence {
    /// The alert, and what people said.
    pub record: AlertRecord,
    /// Its first [`EVENTS_SHOWN`] events, in the order of the log.
    pub events: Vec<AlertRow>,
    /// What was predicted at its peak, with the features; none, where it is not committed yet.
    pub prediction: Option<Prediction>,
    /// Why that was predicted.
    pub explained: Explained,
    /// What happened to the symbol within [`AROUND_MICROS`] of the peak, by event time: the nearest [`AROUND_SHOWN`].
    pub around: Around,
}

/// Why a prediction is what it is.
#[derive(Debug)]
pub enum Explained {
    /// The model that made it says why.
    By(Arc<ActiveModel>, Box<Explanation>),
    /// It cannot: a sentence that says why not.
    Not(String),
}

/// The alerts, to be asked and judged.
#[derive(Clone)]
pub struct Alerts {
    lake: Arc<Lake>,
    registry: Registry,
    models: Models,
    clock: Arc<dyn Clock>,
    places: Arc<Semaphore>,
}

/// The clock has no form.
impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alerts").field("lake", &self.lake).field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Alerts {
    /// The alerts of these tables.
    #[must_use]
    pub fn new(lake: Arc<Lake>, registry: Registry, models: Models, clock: Arc<dyn Clock>) -> Self {
        Self { lake, registry, models, clock, places: Arc::new(Semaphore::new(READS)) }
    }

    /// At most `limit` alerts, the last raised first.
    ///
    /// # Errors
    /// Where nothing lies between the times; where the table or the registry cannot be read.
    pub async fn list(&self, filter: &AlertFilter, limit: u16) -> Result<AlertPage, Error> {
        let AlertFilter { wanted, .. } = filter;
        if let (Some(from), Some(to)) = (wanted.from, wanted.to)
            && from >= to
        {
            return Err(Error::Invalid(format!("nothing lies between {from} and {to}: `from` must be before `to`")));
        }
        // Given back with the answer, or when nobody waits for it any more.
        let _place = self.places.acquire().await;
        let standings = self.registry.standings().await?;
        let table = self.lake.pin(TableName::Alerts).await?;
        // One more than asked for tells whether there is another page.
        let and_one = u32::from(limit) + 1;
        let mut found = if filter.asks_people() {
            table.alerts_among(wanted, and_one, |alert| filter.admits(standing_of(&standings, alert))).await?
        } else {
            table.alerts(wanted, and_one).await?
        };
        let is_last = found.len() <= usize::from(limit);
        found.truncate(usize::from(limit));
        let end = found.last().map(|last| AlertCursor { raised_at: last.raised_at, alert: last.alert });
        let entry = |alert: StoredAlert| AlertEntry { standing: standing_of(&standings, alert.alert), alert };
        Ok(AlertPage {
            version: table.version(),
            alerts: found.into_iter().map(entry).collect(),
            next: end.filter(|_| !is_last),
        })
    }

    /// One alert, with what there is to look at before a verdict on it.
    ///
    /// # Errors
    /// [`Error::Nothing`] where there is none of this name, or not yet; where a table or the registry cannot be read. A
    /// model that cannot be loaded is none: [`Evidence::explained`] says so.
    pub async fn show(&self, alert: AlertId) -> Result<Evidence, Error> {
        let _place = self.places.acquire().await;
        let stored = self.stored(alert).await?;
        let events = self.lake.pin(TableName::Alerts).await?.events_of_alert(alert, EVENTS_SHOWN).await?;
        let (symbol, peak) = (stored.symbol, stored.peak.timestamp);
        let event = EventName { symbol, timestamp: peak, partition: alert.partition, offset: stored.peak.offset };
        let prediction = self.lake.prediction_about(event).await?;
        Ok(Evidence {
            record: self.record(stored).await?,
            events,
            explained: self.explain(prediction.as_ref()).await?,
            prediction,
            around: self.lake.events_around(symbol, peak, AROUND_MICROS, AROUND_SHOWN).await?,
        })
    }

    /// Keeps that somebody has seen an alert. The same from the same actor again changes nothing.
    ///
    /// # Errors
    /// [`Error::Nothing`] where there is none of this name, or not yet; where the registry cannot be written.
    pub async fn acknowledge(&self, alert: AlertId, who: &str, note: &str) -> Result<AlertRecord, Error> {
        let stored = self.stored(alert).await?;
        let (at, actor, note) = (self.clock.now(), who.to_owned(), note.to_owned());
        self.registry.acknowledge(&Acknowledgement { alert, at, actor, note }).await?;
        self.record(stored).await
    }

    /// Keeps what an alert was. The newest verdict counts, the others stay; the same from the same actor again changes
    /// nothing.
    ///
    /// # Errors
    /// As [`Alerts::acknowledge`].
    pub async fn give_verdict(
        &self,
        alert: AlertId,
        verdict: AlertVerdict,
        who: &str,
        note: &str,
    ) -> Result<AlertRecord, Error> {
        let stored = self.stored(alert).await?;
        let (at, actor, note) = (self.clock.now(), who.to_owned(), note.to_owned());
        self.registry.give_verdict(&GivenVerdict { alert, at, verdict, actor, note }).await?;
        self.record(stored).await
    }

    async fn stored(&self, alert: AlertId) -> Result<StoredAlert, Error> {
        let stored = self.lake.pin(TableName::Alerts).await?.alert(alert).await?;
        stored.ok_or_else(|| Error::Nothing {
            what: format!("there is no alert {alert}"),
            remedy: "`sentinel alert list` shows those there are; one that was raised just now is there within seconds",
        })
    }

    async fn record(&self, alert: StoredAlert) -> Result<AlertRecord, Error> {
        let acknowledgements = self.registry.acknowledgements(alert.alert).await?;
        let verdicts = self.registry.alert_verdicts(alert.alert).await?;
        let standing = Standing {
            is_acknowledged: !acknowledgements.is_empty(),
            verdict: verdicts.last().map(|newest| newest.verdict),
        };
        Ok(AlertRecord { entry: AlertEntry { alert, standing }, acknowledgements, verdicts })
    }

    /// Lets the model that made a prediction say why.
    async fn explain(&self, prediction: Option<&Prediction>) -> Result<Explained, Error> {
        let Some(prediction) = prediction else {
            return Ok(Explained::Not("what was predicted is not in its table yet".to_owned()));
        };
        let version = prediction.model_version;
        let model = match self.models.load(version).await {
            Ok(model) => model,
            Err(error) => {
                warn!(version, %error, "an alert cannot be explained");
                return Ok(Explained::Not(format!("model version {version} cannot be loaded: {error}")));
            }
        };
        let (symbol, features): (Symbol, FeatureVector) = (prediction.symbol, prediction.features);
        let explain = move || {
            let explanation = Box::new(model.model.explain(symbol, &features));
            Explained::By(model, explanation)
        };
        Ok(spawn_blocking(explain).await?)
    }
}

fn standing_of(standings: &HashMap<AlertId, Standing>, alert: AlertId) -> Standing {
    standings.get(&alert).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use domain::{AlertType, ErrorKind, FEATURE_NAMES, Offset, Severity, Source};
    use lake::PartitionFlush;
    use models::TrainParameters;
    use rstest::rstest;

    use super::*;
    use crate::{
        train::{Then, TrainRequest, train},
        workshop::{
            Workshop,
            example::{Market, START, workshop},
        },
    };

    const fn second(second: i64) -> Timestamp {
        START.plus_micros(second * MICROS)
    }

    const fn named(offset: Offset) -> AlertId {
        AlertId { partition: 1, offset }
    }

    /// An event a second, of the alert that the event of offset `alert` raised.
    fn row(offset: Offset, alert: Offset, anomaly_score: f64, model_version: i64) -> AlertRow {
        AlertRow {
            partition: 1,
            offset,
            ingest_time: second(offset),
            timestamp: second(offset),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            alert: named(alert),
            raised_at: second(alert),
            alert_type: AlertType::PriceSpike,
            severity: Severity::High,
            anomaly_score,
            model_version,
            leading_feature: FEATURE_NAMES[0],
            share: 0.5,
            source: Source::Simulated,
        }
    }

    fn prediction(row: &AlertRow) -> Prediction {
        Prediction {
            partition: row.partition,
            offset: row.offset,
            ingest_time: row.ingest_time,
            timestamp: row.timestamp,
            symbol: row.symbol,
            features: [4.5, 3.8, 1.5, 0.008, 25.0],
            anomaly_score: row.anomaly_score,
            is_anomaly: true,
            model_version: row.model_version,
            in_sample: false,
            label_is_anomaly: None,
            label_anomaly_type: None,
            source: row.source,
        }
    }

    async fn commit(workshop: &Workshop, alerts: Vec<AlertRow>, predictions: Vec<Prediction>) {
        let flush = PartitionFlush { partition: 1, next: 10_000, alerts, predictions, ..PartitionFlush::default() };
        workshop.lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
    }

    fn alerts(workshop: &Workshop) -> Alerts {
        let models = Models::new(workshop.registry.clone(), workshop.models_dir.clone());
        Alerts::new(workshop.lake.clone(), workshop.registry.clone(), models, workshop.clock.clone())
    }

    #[tokio::test]
    async fn alerts_are_found_by_what_people_said_page_by_page() {
        let (_folder, workshop) = workshop().await;
        commit(&workshop, (0..9).map(|offset| row(offset, offset, -0.1, 1)).collect(), Vec::new()).await;
        let alerts = alerts(&workshop);
        for offset in [2, 4, 6, 7] {
            alerts.acknowledge(named(offset), "ann", "").await.unwrap();
        }
        alerts.give_verdict(named(4), AlertVerdict::TruePositive, "ann", "").await.unwrap();
        alerts.give_verdict(named(6), AlertVerdict::TruePositive, "ann", "").await.unwrap();
        alerts.give_verdict(named(6), AlertVerdict::Unclear, "bob", "").await.unwrap();
        let all = async |mut filter: AlertFilter| {
            let mut offsets = Vec::new();
            loop {
                let page = alerts.list(&filter, 2).await.unwrap();
                assert!(page.alerts.len() == 2 || page.next.is_none());
                offsets.extend(page.alerts.iter().map(|entry| entry.alert.alert.offset));
                let Some(next) = page.next else { return offsets };
                let next: AlertCursor = next.to_string().parse().unwrap();
                filter.wanted.before = Some((next.raised_at, next.alert));
            }
        };
        let acknowledged =
            |is_acknowledged| AlertFilter { is_acknowledged: Some(is_acknowledged), ..AlertFilter::default() };
        let of = |verdict| AlertFilter { verdict: Some(verdict), ..AlertFilter::default() };
        assert_eq!(all(AlertFilter::default()).await, [8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(all(acknowledged(true)).await, [7, 6, 4, 2]);
        assert_eq!(all(acknowledged(false)).await, [8, 5, 3, 1, 0]);
        assert_eq!(all(of(AlertVerdict::TruePositive)).await, [4]);
        assert_eq!(all(AlertFilter { is_acknowledged: Some(false), ..of(AlertVerdict::Unclear) }).await, [0_i64; 0]);
        let page = alerts.list(&of(AlertVerdict::Unclear), 9).await.unwrap();
        assert_eq!((page.version, page.next), (1, None));
        let standing = Standing { is_acknowledged: true, verdict: Some(AlertVerdict::Unclear) };
        assert_eq!(page.alerts[0].standing, standing);
        let (from, to) = (Some(second(3)), Some(second(3)));
        let nothing = WantedAlerts { from, to, ..WantedAlerts::default() };
        let error = alerts.list(&AlertFilter { wanted: nothing, ..AlertFilter::default() }, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn an_alert_is_shown_with_what_speaks_for_it_and_explained_by_the_model_that_scored_it() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        let parameters = TrainParameters { trees: 10, ..TrainParameters::default() };
        let request = TrainRequest::on_every_row(parameters, Then::Promote, "test", "first model");
        let version = train(&workshop, &request).await.unwrap().version;
        let rows = [row(98, 98, -0.1, version), row(100, 98, -0.3, version), row(101, 98, -0.2, version)];
        commit(&workshop, rows.to_vec(), rows.iter().map(prediction).collect()).await;
        let alerts = alerts(&workshop);
        alerts.acknowledge(named(98), "ann", "").await.unwrap();
        alerts.give_verdict(named(98), AlertVerdict::FalsePositive, "ann", "a test of the venue").await.unwrap();
        let shown = alerts.show(named(98)).await.unwrap();
        assert_eq!((shown.record.entry.alert.events, shown.record.entry.alert.peak.offset), (3, 100));
        assert_eq!(shown.events, rows);
        assert_eq!(shown.prediction, Some(prediction(&rows[1])));
        let said: Vec<_> = shown.record.verdicts.iter().map(|said| (said.verdict, said.note.as_str())).collect();
        assert_eq!(said, [(AlertVerdict::FalsePositive, "a test of the venue")]);
        assert_eq!(shown.record.acknowledgements[0].at, workshop.clock.now());
        let Explained::By(model, explanation) = &shown.explained else { panic!("{:?}", shown.explained) };
        assert_eq!(model.version, version);
        assert_eq!(**explanation, model.model.explain(rows[1].symbol, &prediction(&rows[1]).features));
        let times: Vec<_> = shown.around.events.iter().map(|row| row.event.timestamp).collect();
        assert_eq!((times.len(), times[0], times[120], shown.around.is_cut), (121, second(40), second(160), false));
    }

    #[tokio::test]
    async fn an_alert_whose_model_is_lost_is_shown_and_says_so() {
        let (_folder, workshop) = workshop().await;
        let rows = [row(7, 7, -0.1, 3), row(8, 8, -0.1, 3)];
        commit(&workshop, rows.to_vec(), vec![prediction(&rows[0])]).await;
        let alerts = alerts(&workshop);
        for (offset, expected) in [(7, "model version 3 cannot be loaded: there is no"), (8, "not in its table yet")] {
            let shown = alerts.show(named(offset)).await.unwrap();
            let Explained::Not(reason) = &shown.explained else { panic!("{:?}", shown.explained) };
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[tokio::test]
    async fn nothing_can_be_said_about_an_alert_that_is_not_there() {
        let (_folder, workshop) = workshop().await;
        commit(&workshop, vec![row(7, 7, -0.1, 1), row(8, 7, -0.1, 1)], Vec::new()).await;
        let alerts = alerts(&workshop);
        for unknown in [named(8), AlertId { partition: 0, offset: 7 }] {
            let errors = [
                alerts.show(unknown).await.unwrap_err(),
                alerts.acknowledge(unknown, "ann", "").await.unwrap_err(),
                alerts.give_verdict(unknown, AlertVerdict::Unclear, "ann", "").await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            }
        }
        assert_eq!(workshop.registry.standings().await.unwrap(), HashMap::new());
    }

    #[rstest]
    #[case("")]
    #[case("2:10451")]
    #[case("-2:10451")]
    #[case("1710000000000000-2")]
    #[case("soon-2:10451")]
    fn what_is_no_cursor_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<AlertCursor>().unwrap_err().kind(), ErrorKind::Invalid);
    }
}
