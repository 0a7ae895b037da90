//! Alerts: which anomalies are worth a person's time, what kind they are of, and which of them are one episode.
//!
//! A model calls a fixed share of all events anomalies; an alert asks for more. Its score lies beyond a rarer quantile
//! of the scores of calm training rows, and it is confirmed: by another such event among the four before it, or by a
//! score that no calm training row had. Or a z-score of it lies out of reach of theirs, whatever its score. What is of
//! one symbol and one kind within half an hour is one alert. A volume that is only rare is a notice: an alert that is kept
//! for those who look for it, told to nobody who did not ask, and apart from the graver ones.
//!
//! Everything is in the order of the log and in event time, so that the same predictions give the same alerts. The state
//! depends on nothing older than the fold's own ([`Watch`]) and on rows that were stored ([`Episodes`]).

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
};

use crate::{
    event::{Offset, Partition, Source},
    features::{FEATURE_NAMES, FeatureVector, Z_SCORES},
    fold::FORGET_AFTER_OFFSETS,
    prediction::Prediction,
    symbol::Symbol,
    time::Timestamp,
    windows::Cause,
};

/// Events among which another one beyond the alert threshold confirms an event: itself and the four before it.
pub const CONFIRMING_EVENTS: usize = 5;

/// How far apart in event time two events may lie of which one confirms the other, in microseconds. A second less than a
/// minute, so that the fold's state always reaches back to them.
pub const CONFIRMING_MICROS: i64 = 59_000_000;

/// How far in event time from where an alert was raised repeats join it, in microseconds: half an hour.
pub const EPISODE_MICROS: i64 = 30 * 60 * 1_000_000;

/// What kind of anomaly an alert is about: its leading feature and to which side that lies of what is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertType {
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

impl AlertType {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::PriceSpike,
        Self::FlashCrash,
        Self::VolumeSpike,
        Self::VolumeDrop,
        Self::PriceTurbulence,
        Self::PriceStillness,
        Self::VolumeTurbulence,
        Self::VolumeStillness,
    ];

    /// The kind that a leading feature stands for; `None` for a name that is not one of [`FEATURE_NAMES`].
    #[must_use]
    pub fn of(leading_feature: &str, is_above: bool) -> Option<Self> {
        let place = FEATURE_NAMES.iter().position(|name| *name == leading_feature)?;
        let [above, below] = match place {
            0 | 1 => [Self::PriceSpike, Self::FlashCrash],
            2 => [Self::VolumeSpike, Self::VolumeDrop],
            3 => [Self::PriceTurbulence, Self::PriceStillness],
            _ => [Self::VolumeTurbulence, Self::VolumeStillness],
        };
        Some(if is_above { above } else { below })
    }

    /// Its name; those of labelled anomalies are the same.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PriceSpike => "PRICE_SPIKE",
            Self::FlashCrash => "FLASH_CRASH",
            Self::VolumeSpike => "VOLUME_SPIKE",
            Self::VolumeDrop => "VOLUME_DROP",
            Self::PriceTurbulence => "PRICE_TURBULENCE",
            Self::PriceStillness => "PRICE_STILLNESS",
            Self::VolumeTurbulence => "VOLUME_TURBULENCE",
            Self::VolumeStillness => "VOLUME_STILLNESS",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// How rare an alert's event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A rare volume, within the limits of the others: it is kept, and shown and told only where that was asked for.
    Notice,
    /// Beyond the alert threshold.
    Warning,
    /// Nearer to the lowest score of calm training rows than to the alert threshold, or a z-score out of reach.
    High,
    /// Lower than the score of any calm training row.
    Critical,
}

impl Severity {
    /// Every severity, the least first.
    pub const ALL: [Self; 4] = [Self::Notice, Self::Warning, Self::High, Self::Critical];

    /// The least that people are shown and told of who did not ask for another.
    pub const LEAST_SHOWN: Self = Self::Warning;

    /// The severity of a confirmed event beyond the limits.
    #[must_use]
    pub fn of(prediction: &Prediction, limits: AlertLimits) -> Self {
        let anomaly_score = prediction.anomaly_score;
        let nearer_to_minimum = f64::midpoint(limits.threshold, limits.training_minimum);
        if anomaly_score < limits.training_minimum {
            Self::Critical
        } else if anomaly_score < nearer_to_minimum || limits.are_out_of_reach(&prediction.features) {
            Self::High
        } else {
            Self::Warning
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == name)
    }
}

/// How far a z-score may lie from those of calm training rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// Values below this are out of reach.
    pub low: f64,
    /// Values above this are out of reach.
    pub high: f64,
}

impl Reach {
    fn is_exceeded_by(self, value: f64) -> bool {
        !(self.low..=self.high).contains(&value)
    }
}

/// From where on what a model says of an event is worth an alert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AlertLimits {
    /// Scores below this count; at most 0.
    pub threshold: f64,
    /// Scores below this need no other event to confirm them.
    pub training_minimum: f64,
    /// The reach of each z-score, in the order of [`FEATURE_NAMES`]. An event out of it needs neither a score nor another
    /// event: the score of a forest hardly falls where one feature of five grows without bound. `None` for models that
    /// were trained before there was one.
    pub reach: Option<[Reach; Z_SCORES]>,
    /// A volume above its rolling mean by more than so many of the rolling deviations that are usual for its symbol is worth
    /// a notice; above 0. `None` for models that were trained before there was one.
    pub surplus: Option<f64>,
}

impl AlertLimits {
    /// The reach of a feature; `None` where it has none.
    #[must_use]
    pub fn reach_of(&self, feature: &str) -> Option<Reach> {
        let place = FEATURE_NAMES.iter().position(|name| *name == feature)?;
        self.reach?.get(place).copied()
    }

    /// Whether a value of a feature is out of reach.
    #[must_use]
    pub fn is_out_of_reach(&self, feature: &str, value: f64) -> bool {
        self.reach_of(feature).is_some_and(|reach| reach.is_exceeded_by(value))
    }

    /// Whether any of the features is.
    #[must_use]
    pub fn are_out_of_reach(&self, features: &FeatureVector) -> bool {
        self.reach.is_some_and(|reach| reach.iter().zip(features).any(|(reach, value)| reach.is_exceeded_by(*value)))
    }
}

/// The name of an alert: the record that raised it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlertId {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// A text that names no alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAlertId;

impl fmt::Display for NoAlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an alert is named PARTITION:OFFSET, such as 2:10451")
    }
}

impl std::error::Error for NoAlertId {}

impl FromStr for AlertId {
    type Err = NoAlertId;

    fn from_str(text: &str) -> Result<Self, NoAlertId> {
        let (partition, offset) = text.split_once(':').ok_or(NoAlertId)?;
        let id = Self {
            partition: partition.parse().map_err(|_| NoAlertId)?,
            offset: offset.parse().map_err(|_| NoAlertId)?,
        };
        // One name for one alert: no sign, no leading zero.
        (id.partition >= 0 && id.offset >= 0 && id.to_string() == text).then_some(id).ok_or(NoAlertId)
    }
}

/// One row of the `alerts` table: an event that raised an alert, or joined one.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRow {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// Append time of the record.
    pub ingest_time: Timestamp,
    /// Event time.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
    /// The alert that the event belongs to; where it raised it, the event's own place.
    pub alert: AlertId,
    /// Event time of the event that raised the alert.
    pub raised_at: Timestamp,
    /// What kind of anomaly.
    pub alert_type: AlertType,
    /// How rare this event is.
    pub severity: Severity,
    /// This event's score; negative but where a z-score is out of reach, or in a notice.
    pub anomaly_score: f64,
    /// The model that said so.
    pub model_version: i64,
    /// The feature with the largest share of the score, of those out of reach where there are any; one of
    /// [`FEATURE_NAMES`]. Of a notice the volume.
    pub leading_feature: &'static str,
    /// Its share, 0 to 1; of a notice 1.
    pub share: f64,
    /// Where the event came from.
    pub source: Source,
}

impl AlertRow {
    /// The record that made the row appear.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        Cause { partition: self.partition, offset: self.offset, append_time: self.ingest_time }
    }

    /// Whether the event raised its alert; others join one.
    #[must_use]
    pub fn is_raising(&self) -> bool {
        self.alert == AlertId { partition: self.partition, offset: self.offset }
    }
}

/// Which of the newest events of each symbol lay beyond the limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watch {
    symbols: HashMap<Symbol, Newest>,
}

/// The newest events of a symbol, the oldest first; fewer than [`CONFIRMING_EVENTS`].
#[derive(Clone, Debug, Default, PartialEq)]
struct Newest {
    events: VecDeque<(Timestamp, bool)>,
    last: Offset,
}

impl Watch {
    /// Takes in the next scored event of the log; whether it is a confirmed alert.
    pub fn observe(&mut self, prediction: &Prediction, limits: AlertLimits) -> bool {
        let is_out_of_reach = limits.are_out_of_reach(&prediction.features);
        let is_beyond = is_out_of_reach || prediction.anomaly_score < limits.threshold;
        let is_certain = is_out_of_reach || prediction.anomaly_score < limits.training_minimum;
        let newest = self.symbols.entry(prediction.symbol).or_default();
        if prediction.offset - newest.last >= FORGET_AFTER_OFFSETS {
            // The fold may have forgotten the symbol, and a state that is rebuilt then knows nothing of these.
            newest.events.clear();
        }
        let confirms = |(timestamp, is_beyond): &(Timestamp, bool)| {
            *is_beyond && (prediction.timestamp.micros() - timestamp.micros()).abs() <= CONFIRMING_MICROS
        };
        let is_confirmed = is_beyond && (is_certain || newest.events.iter().any(confirms));
        newest.events.push_back((prediction.timestamp, is_beyond));
        if newest.events.len() == CONFIRMING_EVENTS {
            newest.events.pop_front();
        }
        newest.last = prediction.offset;
        is_confirmed
    }

    /// Forgets symbols without an event at `replay` or later, which the fold has forgotten: they confirm none.
    pub fn forget_before(&mut self, replay: Offset) {
        self.symbols.retain(|_, newest| newest.last >= replay);
    }
}

/// The newest alert of a symbol and kind, of its notices or of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestAlert {
    /// The market.
    pub symbol: Symbol,
    /// What kind of anomaly.
    pub alert_type: AlertType,
    /// Whether it is a notice.
    pub is_notice: bool,
    /// Its name.
    pub alert: AlertId,
    /// When it was raised.
    pub raised_at: Timestamp,
}

/// The newest alert of each symbol and kind, notices apart from others: none of these joins a notice, where nobody would be
/// told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Episodes {
    newest: HashMap<(Symbol, AlertType, bool), (AlertId, Timestamp)>,
}

impl Episodes {
    /// The alert that a confirmed event or a notice belongs to, and when it was raised: by this event, where the newest of the
    /// kind was not raised within [`EPISODE_MICROS`]. An event may be older than it, much older where its symbol had been
    /// forgotten.
    pub fn join(&mut self, prediction: &Prediction, alert_type: AlertType, is_notice: bool) -> (AlertId, Timestamp) {
        let raised = (AlertId { partition: prediction.partition, offset: prediction.offset }, prediction.timestamp);
        let newest = self.newest.entry((prediction.symbol, alert_type, is_notice)).or_insert(raised);
        if (prediction.timestamp.micros() - newest.1.micros()).abs() > EPISODE_MICROS {
            *newest = raised;
        }
        *newest
    }

    /// Takes in an alert that was the newest of its symbol and kind before.
    pub fn recall(&mut self, newest: NewestAlert) {
        let NewestAlert { symbol, alert_type, is_notice, alert, raised_at } = newest;
        self.newest.insert((symbol, alert_type, is_notice), (alert, raised_at));
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const REACH: Reach = Reach { low: -8.0, high: 9.0 };

    const LIMITS: AlertLimits = AlertLimits {
        threshold: -0.1,
        training_minimum: -0.2,
        reach: Some([REACH, REACH, Reach { low: -3.0, high: 20.0 }]),
        surplus: None,
    };

    fn scored(offset: Offset, second: i64, anomaly_score: f64) -> Prediction {
        Prediction {
            partition: 0,
            offset,
            ingest_time: Timestamp::from_seconds(second),
            timestamp: Timestamp::from_seconds(1_710_000_000 + second),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            features: [0.0; 5],
            anomaly_score,
            is_anomaly: anomaly_score < 0.0,
            model_version: 1,
            in_sample: false,
            label_is_anomaly: None,
            label_anomaly_type: None,
            source: Source::Binance,
        }
    }

    fn confirmed(events: &[(i64, f64)]) -> Vec<bool> {
        let mut watch = Watch::default();
        let events = (0..).zip(events).map(|(offset, (second, score))| scored(offset, *second, *score));
        events.map(|event| watch.observe(&event, LIMITS)).collect()
    }

    #[rstest]
    #[case::an_anomaly_within_the_threshold_is_none(&[(0, -0.05), (1, -0.05)], &[false, false])]
    #[case::one_event_beyond_it_is_not_confirmed(&[(0, -0.15)], &[false])]
    #[case::the_second_of_two_is(&[(0, -0.15), (1, -0.15)], &[false, true])]
    #[case::within_five_events(&[(0, -0.15), (1, 0.1), (2, 0.1), (3, 0.1), (4, -0.15)], &[false, false, false, false, true])]
    #[case::and_not_of_six(&[(0, -0.15), (1, 0.1), (2, 0.1), (3, 0.1), (4, 0.1), (5, -0.15)], &[false; 6])]
    #[case::within_a_minute(&[(0, -0.15), (59, -0.15)], &[false, true])]
    #[case::and_not_later(&[(0, -0.15), (60, -0.15)], &[false, false])]
    #[case::also_where_the_second_is_older(&[(30, -0.15), (0, -0.15)], &[false, true])]
    #[case::beyond_all_calm_rows_one_is_enough(&[(0, -0.25)], &[true])]
    fn an_alert_is_confirmed(#[case] events: &[(i64, f64)], #[case] expected: &[bool]) {
        assert_eq!(confirmed(events), expected);
    }

    #[rstest]
    #[case::a_price_above([9.1, 0.0, 0.0, 0.0, 0.0], true)]
    #[case::a_return_below([0.0, -8.1, 0.0, 0.0, 0.0], true)]
    #[case::a_volume_by_its_own_limit([9.0, -8.0, 20.1, 0.0, 0.0], true)]
    #[case::what_is_just_within([9.0, -8.0, 20.0, 0.0, 0.0], false)]
    #[case::deviations_have_none([0.0, 0.0, 0.0, 1e9, 1e9], false)]
    #[case::what_is_no_number([f64::NAN, 0.0, 0.0, 0.0, 0.0], true)]
    fn a_z_score_out_of_reach_is_an_alert_whatever_the_score(#[case] features: FeatureVector, #[case] expected: bool) {
        let event = Prediction { features, ..scored(0, 0, 0.05) };
        assert_eq!(Watch::default().observe(&event, LIMITS), expected);
        let limits_of_old = AlertLimits { reach: None, ..LIMITS };
        assert!(!Watch::default().observe(&event, limits_of_old));
        // It confirms another one as any event beyond the limits does.
        let mut watch = Watch::default();
        watch.observe(&event, LIMITS);
        assert_eq!(watch.observe(&scored(1, 1, -0.15), LIMITS), expected);
    }

    #[test]
    fn the_reach_of_a_feature_is_known_by_its_name() {
        assert_eq!(LIMITS.reach_of("z_score_volume"), Some(Reach { low: -3.0, high: 20.0 }));
        assert_eq!(LIMITS.reach_of("rolling_price_std"), None);
        assert_eq!(AlertLimits { reach: None, ..LIMITS }.reach_of("z_score_volume"), None);
        assert!(LIMITS.is_out_of_reach("z_score_price", -9.0) && !LIMITS.is_out_of_reach("z_score_volume", 19.0));
        assert!(!LIMITS.is_out_of_reach("rolling_volume_std", 1e9) && !LIMITS.is_out_of_reach("prize", 1e9));
    }

    #[test]
    fn the_events_of_one_symbol_do_not_confirm_those_of_another() {
        let mut watch = Watch::default();
        assert!(!watch.observe(&scored(0, 0, -0.15), LIMITS));
        let other = Prediction { symbol: Symbol::parse("ETH-USDT").unwrap(), ..scored(1, 1, -0.15) };
        assert!(!watch.observe(&other, LIMITS));
    }

    #[test]
    fn a_symbol_is_forgotten_with_its_last_event() {
        let mut watch = Watch::default();
        watch.observe(&scored(7, 0, -0.15), LIMITS);
        watch.forget_before(7);
        assert!(watch.clone().observe(&scored(8, 1, -0.15), LIMITS));
        watch.forget_before(8);
        assert_eq!(watch, Watch::default());
    }

    #[test]
    fn an_event_of_a_symbol_that_may_have_been_forgotten_is_confirmed_by_none_before_it() {
        let mut watch = Watch::default();
        watch.observe(&scored(7, 0, -0.15), LIMITS);
        let next = 7 + FORGET_AFTER_OFFSETS;
        assert!(watch.clone().observe(&scored(next - 1, 1, -0.15), LIMITS));
        assert!(!watch.observe(&scored(next, 1, -0.15), LIMITS), "whether or not it was told to forget");
        assert!(watch.observe(&scored(next + 1, 1, -0.15), LIMITS));
    }

    #[test]
    fn repeats_within_half_an_hour_join_the_alert_of_their_kind() {
        let mut episodes = Episodes::default();
        let first = scored(5, 0, -0.3);
        let raised = (AlertId { partition: 0, offset: 5 }, first.timestamp);
        assert_eq!(episodes.join(&first, AlertType::PriceSpike, false), raised);
        assert_eq!(episodes.join(&scored(6, 1_800, -0.3), AlertType::PriceSpike, false), raised);
        let other = episodes.join(&scored(7, 1_800, -0.3), AlertType::VolumeSpike, false);
        assert_eq!(other.0, AlertId { partition: 0, offset: 7 });
        let later = episodes.join(&scored(8, 1_801, -0.3), AlertType::PriceSpike, false);
        assert_eq!(later.0, AlertId { partition: 0, offset: 8 });
        let late = episodes.join(&scored(9, 1_760, -0.3), AlertType::PriceSpike, false);
        assert_eq!(late, later);
        let of_another_day = episodes.join(&scored(10, -86_400, -0.3), AlertType::PriceSpike, false);
        assert_eq!(of_another_day.0, AlertId { partition: 0, offset: 10 });
    }

    #[test]
    fn no_alert_joins_a_notice_and_no_notice_an_alert() {
        let mut episodes = Episodes::default();
        let mut names = [false, true, false, true].into_iter().zip(5..).map(|(is_notice, offset)| {
            episodes.join(&scored(offset, 0, -0.3), AlertType::VolumeSpike, is_notice).0.offset
        });
        assert_eq!([(); 4].map(|()| names.next().unwrap()), [5, 6, 5, 6]);
    }

    #[test]
    fn alerts_that_were_stored_are_joined_like_others() {
        let (mut lived, mut recalled) = (Episodes::default(), Episodes::default());
        let symbol = scored(0, 0, 0.0).symbol;
        for (offset, second) in [(5, 0), (6, 1_000), (7, 2_000), (8, 2_001)] {
            let alert_type = AlertType::FlashCrash;
            for is_notice in [false, true] {
                let (alert, raised_at) = lived.join(&scored(offset, second, -0.3), alert_type, is_notice);
                recalled.recall(NewestAlert { symbol, alert_type, is_notice, alert, raised_at });
            }
        }
        assert_eq!(recalled, lived);
    }

    #[rstest]
    #[case("z_score_price", true, Some(AlertType::PriceSpike))]
    #[case("z_score_log_return", false, Some(AlertType::FlashCrash))]
    #[case("z_score_volume", true, Some(AlertType::VolumeSpike))]
    #[case("rolling_price_std", true, Some(AlertType::PriceTurbulence))]
    #[case("rolling_volume_std", false, Some(AlertType::VolumeStillness))]
    #[case("prize", true, None)]
    fn the_kind_is_that_of_the_leading_feature(
        #[case] feature: &str,
        #[case] is_above: bool,
        #[case] expected: Option<AlertType>,
    ) {
        assert_eq!(AlertType::of(feature, is_above), expected);
    }

    #[rstest]
    #[case(-0.11, Severity::Warning)]
    #[case(-0.15, Severity::Warning)]
    #[case(-0.16, Severity::High)]
    #[case(-0.2, Severity::High)]
    #[case(-0.21, Severity::Critical)]
    fn severity_grows_with_rarity(#[case] score: f64, #[case] expected: Severity) {
        assert_eq!(Severity::of(&scored(0, 0, score), LIMITS), expected);
    }

    #[rstest]
    #[case(0.05, Severity::High)]
    #[case(-0.11, Severity::High)]
    #[case(-0.21, Severity::Critical)]
    fn what_is_out_of_reach_is_no_mere_warning(#[case] score: f64, #[case] expected: Severity) {
        let event = Prediction { features: [-50.0, -100.0, 0.0, 0.0, 0.0], ..scored(0, 0, score) };
        assert_eq!(Severity::of(&event, LIMITS), expected);
    }

    #[test]
    fn names_read_back() {
        for kind in AlertType::ALL {
            assert_eq!(AlertType::from_name(kind.as_str()), Some(kind));
        }
        for severity in Severity::ALL {
            assert_eq!(Severity::from_name(severity.as_str()), Some(severity));
        }
        let id = AlertId { partition: 3, offset: 10_451 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "3", "3:", ":1", "03:1", "3:01", "+3:1", "-1:5", "3:-5", "3:1:1", "3:99999999999999999999"] {
            assert_eq!(text.parse::<AlertId>(), Err(NoAlertId), "{text}");
        }
    }
}
