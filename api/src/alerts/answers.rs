//! The objects of alerts. Instants are RFC 3339, UTC; absent values are `null`.

use domain::{AlertRow, AlertType, EventRow, FEATURE_NAMES, Prediction, Severity};
use jobs::{
    alerts::{self, AlertEntry, AlertVerdict, Evidence, Explained},
    feed::{FeedItem, Trade},
};
use poem_openapi::{Enum, Object, types::Example};
use serde::{Deserialize, Serialize};

use crate::answers::{ExplainAnswer, LivePrediction, iso_text};

/// What kind of anomaly: the leading feature of the first event, and whether it lies above or below what is usual.
#[derive(Serialize, Enum)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[oai(rename = "AlertType", rename_all = "SCREAMING_SNAKE_CASE", remote = "AlertType")]
pub enum AlertTypeName {
    /// The price, or its return, lies above.
    PriceSpike,
    /// The price, or its return, lies below.
    FlashCrash,
    /// The volume lies above.
    VolumeSpike,
    /// The volume lies below.
    VolumeDrop,
    /// Prices vary more.
    PriceTurbulence,
    /// Prices vary less.
    PriceStillness,
    /// Volumes vary more.
    VolumeTurbulence,
    /// Volumes vary less.
    VolumeStillness,
}

/// How rare the event is.
#[derive(Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename = "Severity", rename_all = "snake_case", remote = "Severity")]
pub enum SeverityName {
    /// A rare volume, within the limits of the others: it is kept, and shown and told only where that was asked for.
    Notice,
    /// Beyond the alert threshold.
    Warning,
    /// Nearer to the lowest score of calm training rows than to the alert threshold, or a z-score out of reach of theirs.
    High,
    /// Lower than the score of any calm training row.
    Critical,
}

impl SeverityName {
    /// The least severity of what is shown where nobody asked for another.
    pub fn least_shown() -> Self {
        Severity::LEAST_SHOWN.into()
    }
}

/// What an alert was.
#[derive(Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename = "Verdict", rename_all = "snake_case", remote = "AlertVerdict")]
pub enum VerdictName {
    /// It was worth a person's time.
    TruePositive,
    /// It was not.
    FalsePositive,
    /// Nobody can say.
    Unclear,
}

/// An alert, and how far people are with it.
#[derive(Serialize, Object)]
#[oai(example)]
#[expect(clippy::struct_field_names, reason = "the columns of the table and the members of the answer have one name")]
pub struct Alert {
    /// Partition and offset of the record that raised it, as `partition:offset`.
    pub id: String,
    /// The market.
    pub symbol: String,
    /// What kind of anomaly.
    pub alert_type: AlertTypeName,
    /// How rare its peak is.
    pub severity: SeverityName,
    /// Event time of the event that raised it.
    pub raised_at: String,
    /// The greatest event time of its events.
    pub last_at: String,
    /// Its events so far.
    pub events: u64,
    /// Where they came from.
    pub source: String,
    /// Its event with the lowest score.
    pub peak: AlertPeak,
    /// Whether somebody has acknowledged it.
    pub acknowledged: bool,
    /// What it was, by the newest verdict.
    #[oai(nullable)]
    pub verdict: Option<VerdictName>,
}

/// The event of an alert with the lowest score.
#[derive(Serialize, Object)]
pub struct AlertPeak {
    /// Partition and offset of its record, as `partition:offset`.
    pub id: String,
    /// Event time.
    pub timestamp: String,
    /// The decision function: negative = anomaly.
    pub anomaly_score: f64,
    /// Version of the model that judged.
    pub model_version: i64,
    /// The feature with the largest share of what makes the score anomalous, of those out of reach where there are any. Of a
    /// notice the volume.
    pub leading_feature: String,
    /// That share, 0 to 1; of a notice 1.
    pub share: f64,
}

impl From<&AlertEntry> for Alert {
    fn from(AlertEntry { alert, standing }: &AlertEntry) -> Self {
        let peak = &alert.peak;
        Self {
            id: alert.alert.to_string(),
            symbol: alert.symbol.to_string(),
            alert_type: alert.alert_type.into(),
            severity: peak.severity.into(),
            raised_at: iso_text(alert.raised_at),
            last_at: iso_text(alert.last_at),
            events: alert.events,
            source: alert.source.as_str().to_owned(),
            peak: AlertPeak {
                id: format!("{}:{}", alert.alert.partition, peak.offset),
                timestamp: iso_text(peak.timestamp),
                anomaly_score: peak.anomaly_score,
                model_version: peak.model_version,
                leading_feature: peak.leading_feature.to_owned(),
                share: peak.share,
            },
            acknowledged: standing.is_acknowledged,
            verdict: standing.verdict.map(VerdictName::from),
        }
    }
}

impl Example for Alert {
    fn example() -> Self {
        Self {
            id: "0:21644".to_owned(),
            symbol: "BTC-USDT".to_owned(),
            alert_type: AlertTypeName::PriceSpike,
            severity: SeverityName::Critical,
            raised_at: "2026-11-22T08:00:00+00:00".to_owned(),
            last_at: "2026-11-22T08:00:07+00:00".to_owned(),
            events: 5,
            source: "binance".to_owned(),
            peak: AlertPeak {
                id: "0:21650".to_owned(),
                timestamp: "2026-11-22T08:00:02+00:00".to_owned(),
                anomaly_score: -0.1192,
                model_version: 1,
                leading_feature: FEATURE_NAMES[0].to_owned(),
                share: 0.288,
            },
            acknowledged: true,
            verdict: Some(VerdictName::FalsePositive),
        }
    }
}

/// A page of alerts.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct AlertList {
    /// The version of the table `alerts` that was read.
    pub version: u64,
    /// The alerts, the last raised first.
    pub alerts: Vec<Alert>,
    /// The `cursor` of the next page; null on the last one.
    #[oai(nullable)]
    pub next: Option<String>,
}

impl From<&alerts::AlertPage> for AlertList {
    fn from(page: &alerts::AlertPage) -> Self {
        Self {
            version: page.version,
            alerts: page.alerts.iter().map(Alert::from).collect(),
            next: page.next.map(|next| next.to_string()),
        }
    }
}

impl Example for AlertList {
    fn example() -> Self {
        Self { version: 17, alerts: vec![Alert::example()], next: Some("1795334400000000-0:21644".to_owned()) }
    }
}

/// An alert and everything that people said about it, oldest first.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct AlertRecord {
    /// The alert.
    pub alert: Alert,
    /// Who has acknowledged it.
    pub acknowledgements: Vec<AlertAcknowledgement>,
    /// What it was; the newest counts.
    pub verdicts: Vec<GivenVerdict>,
}

/// Somebody has seen an alert.
#[derive(Serialize, Object)]
pub struct AlertAcknowledgement {
    /// When.
    pub at: String,
    /// Who: a person, or `API`, with the number of the key where there was one, as in `API key 3`.
    pub who: String,
    /// What there is to say about it.
    pub note: String,
}

/// Somebody has said what an alert was.
#[derive(Serialize, Object)]
#[oai(rename = "AlertVerdict")]
pub struct GivenVerdict {
    /// When.
    pub at: String,
    /// What it was.
    pub verdict: VerdictName,
    /// Who: a person, or `API`, with the number of the key where there was one, as in `API key 3`.
    pub who: String,
    /// Why.
    pub note: String,
}

impl From<&alerts::AlertRecord> for AlertRecord {
    fn from(record: &alerts::AlertRecord) -> Self {
        let seen = |said: &alerts::Acknowledgement| AlertAcknowledgement {
            at: iso_text(said.at),
            who: said.actor.clone(),
            note: said.note.clone(),
        };
        let judged = |said: &alerts::GivenVerdict| GivenVerdict {
            at: iso_text(said.at),
            verdict: said.verdict.into(),
            who: said.actor.clone(),
            note: said.note.clone(),
        };
        Self {
            alert: Alert::from(&record.entry),
            acknowledgements: record.acknowledgements.iter().map(seen).collect(),
            verdicts: record.verdicts.iter().map(judged).collect(),
        }
    }
}

impl Example for AlertRecord {
    fn example() -> Self {
        let at = |time: &str| format!("2026-11-22T{time}+00:00");
        let who = || "API key 3".to_owned();
        Self {
            alert: Alert::example(),
            acknowledgements: vec![AlertAcknowledgement { at: at("08:01:10"), who: who(), note: String::new() }],
            verdicts: vec![GivenVerdict {
                at: at("08:05:42"),
                verdict: VerdictName::FalsePositive,
                who: who(),
                note: "a test of the venue".to_owned(),
            }],
        }
    }
}

/// An alert with what there is to look at before a verdict.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct AlertPage {
    /// The alert, and what people said.
    #[serde(flatten)]
    #[oai(flatten)]
    pub record: AlertRecord,
    /// Its first 1000 events, in the order of the log.
    pub events: Vec<AlertEvent>,
    /// What was predicted at its peak; null where that is not committed yet.
    #[oai(nullable)]
    pub prediction: Option<LivePrediction>,
    /// Why the model that scored the peak says so; null where it cannot be asked.
    #[oai(nullable)]
    pub explanation: Option<ExplainAnswer>,
    /// Why there is no explanation.
    #[oai(nullable)]
    pub not_explained: Option<String>,
    /// The events of the market from 60 s before the peak to 60 s after it, in the order of event time; the 2000 nearest.
    pub around: Vec<MarketEvent>,
    /// Whether there were more of them.
    pub around_is_cut: bool,
}

/// An event that raised an alert, or joined one.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct AlertEvent {
    /// Partition and offset of its record, as `partition:offset`; a repeat after a crash has the same.
    pub id: String,
    /// The alert that it is of, named by the event that raised it.
    pub alert_id: String,
    /// Whether it raised the alert.
    pub is_raising: bool,
    /// The market.
    pub symbol: String,
    /// Event time.
    pub timestamp: String,
    /// Event time of the event that raised the alert.
    pub raised_at: String,
    /// What kind of anomaly.
    pub alert_type: AlertTypeName,
    /// How rare this event is.
    pub severity: SeverityName,
    /// The decision function: negative = anomaly.
    pub anomaly_score: f64,
    /// Version of the model that judged.
    pub model_version: i64,
    /// The feature with the largest share of what makes the score anomalous, of those out of reach where there are any. Of a
    /// notice the volume.
    pub leading_feature: String,
    /// That share, 0 to 1; of a notice 1.
    pub share: f64,
    /// Where it came from.
    pub source: String,
}

impl From<&AlertRow> for AlertEvent {
    fn from(row: &AlertRow) -> Self {
        Self {
            id: format!("{}:{}", row.partition, row.offset),
            alert_id: row.alert.to_string(),
            is_raising: row.is_raising(),
            symbol: row.symbol.to_string(),
            timestamp: iso_text(row.timestamp),
            raised_at: iso_text(row.raised_at),
            alert_type: row.alert_type.into(),
            severity: row.severity.into(),
            anomaly_score: row.anomaly_score,
            model_version: row.model_version,
            leading_feature: row.leading_feature.to_owned(),
            share: row.share,
            source: row.source.as_str().to_owned(),
        }
    }
}

impl Example for AlertEvent {
    fn example() -> Self {
        Self {
            id: "0:21644".to_owned(),
            alert_id: "0:21644".to_owned(),
            is_raising: true,
            symbol: "BTC-USDT".to_owned(),
            timestamp: "2026-11-22T08:00:00+00:00".to_owned(),
            raised_at: "2026-11-22T08:00:00+00:00".to_owned(),
            alert_type: AlertTypeName::PriceSpike,
            severity: SeverityName::High,
            anomaly_score: -0.0811,
            model_version: 1,
            leading_feature: FEATURE_NAMES[0].to_owned(),
            share: 0.271,
            source: "binance".to_owned(),
        }
    }
}

/// An event of a market, as its source gave it.
#[derive(Serialize, Object)]
pub struct MarketEvent {
    /// Partition and offset of its record; of one that a backfill put there, -1 and its trade id or line.
    pub id: String,
    /// Event time.
    pub timestamp: String,
    /// Price in quote units.
    pub price: f64,
    /// Volume in base units.
    pub volume: f64,
    /// The venue's id of the trade.
    #[oai(nullable)]
    pub trade_id: Option<i64>,
    /// The side of the taker, `buy` or `sell`.
    #[oai(nullable)]
    pub side: Option<String>,
    /// The label of its source.
    #[oai(nullable)]
    pub is_anomaly: Option<bool>,
    /// The labelled kind of anomaly.
    #[oai(nullable)]
    pub anomaly_type: Option<String>,
    /// Where it came from.
    pub source: String,
}

impl From<&EventRow> for MarketEvent {
    fn from(EventRow { cause, event, .. }: &EventRow) -> Self {
        Self {
            id: format!("{}:{}", cause.partition, cause.offset),
            timestamp: iso_text(event.timestamp),
            price: event.price,
            volume: event.volume,
            trade_id: event.trade_id,
            side: event.side.map(|side| side.as_str().to_owned()),
            is_anomaly: event.is_anomaly,
            anomaly_type: event.anomaly_type.as_deref().map(str::to_owned),
            source: event.source.as_str().to_owned(),
        }
    }
}

impl From<&Evidence> for AlertPage {
    fn from(evidence: &Evidence) -> Self {
        let symbol = evidence.record.entry.alert.symbol;
        let (explanation, not_explained) = match &evidence.explained {
            Explained::By(model, explanation) => (Some(ExplainAnswer::telling(model, symbol, explanation)), None),
            Explained::Not(reason) => (None, Some(reason.clone())),
        };
        // Of the events around the peak, its own is the nearest.
        let trade = |prediction: &Prediction| {
            let record = (prediction.partition, prediction.offset);
            let own = evidence.around.events.iter().find(|row| (row.cause.partition, row.cause.offset) == record);
            own.map(|EventRow { event, .. }| Trade { price: event.price, volume: event.volume })
        };
        let prediction = evidence.prediction.as_ref().map(|told| FeedItem::live(told, trade(told)));
        Self {
            record: AlertRecord::from(&evidence.record),
            events: evidence.events.iter().map(AlertEvent::from).collect(),
            prediction: prediction.as_ref().map(LivePrediction::from),
            explanation,
            not_explained,
            around: evidence.around.events.iter().map(MarketEvent::from).collect(),
            around_is_cut: evidence.around.is_cut,
        }
    }
}

impl Example for AlertPage {
    fn example() -> Self {
        let trade = MarketEvent {
            id: "0:21650".to_owned(),
            timestamp: "2026-11-22T08:00:02+00:00".to_owned(),
            price: 43_150.5,
            volume: 12.534_21,
            trade_id: Some(4_711),
            side: Some("buy".to_owned()),
            is_anomaly: None,
            anomaly_type: None,
            source: "binance".to_owned(),
        };
        Self {
            record: AlertRecord::example(),
            events: vec![AlertEvent::example()],
            prediction: Some(LivePrediction::example()),
            explanation: Some(ExplainAnswer::example()),
            not_explained: None,
            around: vec![trade],
            around_is_cut: false,
        }
    }
}

/// What there is to say about an alert that was seen.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(example)]
pub struct AcknowledgeRequest {
    /// A note, for the history.
    #[serde(default)]
    #[oai(default)]
    pub note: String,
}

impl Example for AcknowledgeRequest {
    fn example() -> Self {
        Self { note: "asked the venue".to_owned() }
    }
}

/// What an alert was.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(example)]
pub struct VerdictRequest {
    /// `true_positive`, `false_positive` or `unclear`.
    #[serde(default)]
    #[oai(validator(pattern = "^(true_positive|false_positive|unclear)$"))]
    pub verdict: String,
    /// Why, for the history.
    #[serde(default)]
    #[oai(default)]
    pub note: String,
}

impl Example for VerdictRequest {
    fn example() -> Self {
        Self { verdict: "false_positive".to_owned(), note: "a test of the venue".to_owned() }
    }
}
