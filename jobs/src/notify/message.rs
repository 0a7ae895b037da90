//! A notification as a webhook is told it: JSON, described in `docs/webhook.md`.
//!
//! Invariants: of the same alerts it is the same bytes, so that a repeat is recognised; its form only ever grows, what
//! receivers know keeps its name and meaning.

use std::sync::Arc;

use domain::{AlertId, AlertRow, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::grouping::Notification;

/// The version of the form; another one is not understood by those who know this one.
const VERSION: u32 = 1;

/// Hexadecimal digits that tell apart notifications of several alerts that begin alike.
const DIGEST_DIGITS: usize = 16;

/// A message to a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its name: that of its alert, or that of the first with a digest of all.
    pub id: String,
    /// Its text.
    pub body: Vec<u8>,
    /// What it is about.
    pub alerts: Vec<AlertId>,
}

impl Message {
    /// Writes a notification.
    pub fn of(notification: &Notification) -> Self {
        let rows = notification.alerts();
        let alerts: Vec<AlertId> = rows.iter().map(|row| row.alert).collect();
        let id = name(&alerts);
        let newest = rows.iter().map(|row| row.raised_at).max().unwrap_or_default();
        let body = body(&id, newest, rows).to_string().into_bytes();
        Self { id, body, alerts }
    }
}

fn name(alerts: &[AlertId]) -> String {
    let names: Vec<String> = alerts.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [] => String::new(),
        [alert] => alert.clone(),
        [first, ..] => {
            let digest = format!("{:x}", Sha256::digest(names.join(",")));
            format!("{first}+{}", &digest[..DIGEST_DIGITS])
        }
    }
}

fn body(id: &str, newest: Timestamp, rows: &[Arc<AlertRow>]) -> Value {
    json!({
        "type": "alerts.raised",
        "version": VERSION,
        "id": id,
        "timestamp": newest.to_string(),
        "data": { "alerts": rows.iter().map(|row| told(row)).collect::<Vec<_>>() },
    })
}

fn told(row: &AlertRow) -> Value {
    json!({
        "id": row.alert.to_string(),
        "symbol": row.symbol.as_str(),
        "type": row.alert_type.as_str(),
        "severity": row.severity.as_str(),
        "raised_at": row.raised_at.to_string(),
        "ingest_time": row.ingest_time.to_string(),
        "anomaly_score": row.anomaly_score,
        "model_version": row.model_version,
        "leading_feature": row.leading_feature,
        "share": row.share,
        "source": row.source.as_str(),
        "path": format!("/alerts/{}", row.alert),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::grouping::{notifications, tests::alert};

    /// The only message about alerts of these symbols.
    fn message(symbols: &[&str]) -> Message {
        let alerts = (7..).zip(symbols).map(|(offset, symbol)| Arc::new(alert(offset, symbol))).collect();
        let [notification] = notifications(alerts).try_into().unwrap();
        Message::of(&notification)
    }

    #[test]
    fn the_form_that_receivers_know_stays() {
        let message = message(&["BTC-USDT"]);
        let expected = json!({
            "type": "alerts.raised",
            "version": 1,
            "id": "0:7",
            "timestamp": "2024-03-09T16:00:07Z",
            "data": {"alerts": [{
                "id": "0:7",
                "symbol": "BTC-USDT",
                "type": "PRICE_SPIKE",
                "severity": "high",
                "raised_at": "2024-03-09T16:00:07Z",
                "ingest_time": "2024-03-09T16:00:07.250000Z",
                "anomaly_score": -0.25,
                "model_version": 3,
                "leading_feature": "z_score_price",
                "share": 0.75,
                "source": "simulated",
                "path": "/alerts/0:7",
            }]},
        });
        assert_eq!(serde_json::from_slice::<Value>(&message.body).unwrap(), expected);
        assert_eq!((message.id.as_str(), message.alerts), ("0:7", vec![AlertId { partition: 0, offset: 7 }]));
    }

    #[test]
    fn several_alerts_have_a_name_that_tells_all_of_them() {
        let [three, again, four] =
            [&["BTC-USDT", "ETH-USDT", "BNB-USDT"][..], &["A-B", "C-D", "E-F"][..], &["A-B", "C-D", "E-F", "G-H"][..]]
                .map(message);
        assert_eq!(three.id, again.id);
        assert_ne!(three.id, four.id);
        // `printf '0:7,0:8,0:9' | sha256sum`
        assert_eq!(three.id, "0:7+3c9e2a8e0a4b19ec");
        let body: Value = serde_json::from_slice(&four.body).unwrap();
        assert_eq!(body["timestamp"], "2024-03-09T16:00:10Z");
        assert_eq!(body["data"]["alerts"].as_array().unwrap().len(), 4);
    }
}
