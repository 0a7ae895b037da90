//! Which alerts are told together. Pure.
//!
//! Invariant: every alert is in exactly one notification, and all are in the order in which they came.

use std::{collections::HashSet, sync::Arc};

use domain::AlertRow;

/// From so many symbols on, alerts that come together are one happening.
pub const MANY_SYMBOLS: usize = 3;

/// Alerts that are told together; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification(Vec<Arc<AlertRow>>);

impl Notification {
    /// The alerts, in their order.
    pub fn alerts(&self) -> &[Arc<AlertRow>] {
        &self.0
    }
}

/// Makes one notification of alerts of many symbols, and one of each alert otherwise.
pub fn notifications(collected: Vec<Arc<AlertRow>>) -> Vec<Notification> {
    let symbols: HashSet<_> = collected.iter().map(|alert| alert.symbol).collect();
    if symbols.len() >= MANY_SYMBOLS {
        return vec![Notification(collected)];
    }
    collected.into_iter().map(|alert| Notification(vec![alert])).collect()
}

#[cfg(test)]
pub mod tests {
    use domain::{AlertId, AlertType, FEATURE_NAMES, Offset, Severity, Source, Symbol, Timestamp};
    use proptest::prelude::*;

    use super::*;

    /// The alert that the record at an offset raised.
    pub fn alert(offset: Offset, symbol: &str) -> AlertRow {
        let time = Timestamp::from_seconds(1_710_000_000 + offset);
        AlertRow {
            partition: 0,
            offset,
            ingest_time: time.plus_micros(250_000),
            timestamp: time,
            symbol: Symbol::parse(symbol).unwrap(),
            alert: AlertId { partition: 0, offset },
            raised_at: time,
            alert_type: AlertType::PriceSpike,
            severity: Severity::High,
            anomaly_score: -0.25,
            model_version: 3,
            leading_feature: FEATURE_NAMES[0],
            share: 0.75,
            source: Source::Simulated,
        }
    }

    fn offsets(notifications: &[Notification]) -> Vec<Vec<Offset>> {
        let of = |notification: &Notification| notification.alerts().iter().map(|alert| alert.offset).collect();
        notifications.iter().map(of).collect()
    }

    fn told(symbols: &[&str]) -> Vec<Vec<Offset>> {
        let alerts = (0..).zip(symbols).map(|(offset, symbol)| Arc::new(alert(offset, symbol))).collect();
        offsets(&notifications(alerts))
    }

    #[test]
    fn alerts_of_three_symbols_are_one_happening_and_of_two_are_not() {
        let one_each: Vec<Vec<Offset>> = vec![vec![0], vec![1], vec![2]];
        assert_eq!(told(&["BTC-USDT", "ETH-USDT", "BTC-USDT"]), one_each);
        assert_eq!(told(&["BTC-USDT", "ETH-USDT", "BTC-USDT", "BNB-USDT"]), [[0, 1, 2, 3]]);
        assert_eq!(told(&[]), Vec::<Vec<Offset>>::new());
    }

    proptest! {
        #[test]
        fn every_alert_is_in_one_notification_and_in_its_place(markets in prop::collection::vec(0..5_u8, 0..30)) {
            let names: Vec<String> = markets.iter().map(|market| format!("C{market}-USDT")).collect();
            let groups = told(&names.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(groups.concat(), (0..).take(markets.len()).collect::<Vec<Offset>>());
            let distinct = markets.iter().collect::<HashSet<_>>().len();
            let expected = if distinct >= MANY_SYMBOLS { 1 } else { markets.len() };
            prop_assert_eq!(groups.len(), expected);
        }
    }
}
