//! What a detector did on rows: the same report after training and in an evaluation, as JSON and as tables to read.
//!
//! Rows with labels are counted per event, never point-adjusted, and beside that per episode, because every event of
//! an episode carries its label while a price returns to normal. A ratio without a denominator is null, not 0.

#![allow(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]

pub mod stability;

use std::{collections::BTreeMap, fmt, ops::AddAssign};

use domain::Timestamp;
use lake::read::StoredFeatures;
use models::{Verdict, bootstrap, metrics};
use serde::{Deserialize, Serialize};

use crate::error::Error;

pub use stability::Stability;

/// Rows of one minute are drawn together where intervals are looked for: an episode and a rolling window last about that.
pub const BLOCK_MICROS: i64 = 60_000_000;

/// What the chance of the draws depends on: the same rows have the same intervals.
const DRAW_SEED: u64 = 42;

/// What a detector did on rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Rows judged.
    pub rows: u64,
    /// The least event time among them.
    #[serde(with = "instant")]
    pub first: Timestamp,
    /// The greatest event time among them.
    #[serde(with = "instant")]
    pub last: Timestamp,
    /// Rows whose z-scores are all 0: too few events preceded, or nothing moved.
    pub without_z_scores: u64,
    /// Rows called anomalies.
    pub detected: u64,
    /// Their share.
    pub detected_share: f64,
    /// The distribution of the anomaly scores.
    pub scores: Scores,
    /// What the rows with labels say; none where there are none.
    pub labelled: Option<Labelled>,
}

/// The distribution of anomaly scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean.
    pub mean: f64,
    /// Population deviation.
    pub deviation: f64,
    /// Shares, ascending, each with the score that this share of the rows does not exceed.
    pub quantiles: Vec<(f64, f64)>,
}

/// What rows with labels say about a detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// Rows that carry a label.
    pub rows: u64,
    /// Rows labelled anomalies.
    pub anomalies: u64,
    /// The share of called anomalies that are labelled so.
    pub precision: Option<f64>,
    /// The share of labelled anomalies that are called so.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall.
    pub f1: Option<f64>,
    /// Area under the precision-recall curve.
    pub pr_auc: Option<f64>,
    /// Rows by label and verdict.
    pub confusion_matrix: Confusion,
    /// Labelled events by type of anomaly; those without a type under the empty name.
    pub by_type: BTreeMap<String, Found>,
    /// The same rows, seen as episodes.
    pub episodes: Episodes,
    /// How sure the ratios are; none, where nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Intervals>,
}

/// The least and the greatest value of each ratio in 95 of 100 draws of the rows, whole minutes at a time; none, where it
/// has no value in most of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    /// Of the precision.
    pub precision: Option<[f64; 2]>,
    /// Of the recall.
    pub recall: Option<[f64; 2]>,
    /// Of their harmonic mean.
    pub f1: Option<[f64; 2]>,
    /// Of the area under the precision-recall curve.
    pub pr_auc: Option<[f64; 2]>,
    /// Of the recall by type of anomaly.
    pub recall_by_type: BTreeMap<String, [f64; 2]>,
}

/// Rows by label and verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Labelled and called anomalies.
    pub true_positives: u64,
    /// Called anomalies without the label.
    pub false_positives: u64,
    /// Neither labelled nor called anomalies.
    pub true_negatives: u64,
    /// Labelled anomalies that were missed.
    pub false_negatives: u64,
}

/// Labelled things, and how many of them were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// How many there are.
    pub labelled: u64,
    /// How many were found.
    pub detected: u64,
}

impl Found {
    /// The share found.
    #[must_use]
    pub fn recall(&self) -> Option<f64> {
        (self.labelled > 0).then(|| self.detected as f64 / self.labelled as f64)
    }
}

impl AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.labelled += other.labelled;
        self.detected += other.detected;
    }
}

/// Rows seen as episodes and alarms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Episodes {
    /// Episodes by type of anomaly, found where any of their events was called an anomaly.
    pub by_type: BTreeMap<String, Found>,
    /// Runs of consecutive events of one symbol that were called anomalies.
    pub alarms: u64,
    /// Alarms without a labelled event.
    pub false_alarms: u64,
}

impl Report {
    /// Describes what was said about rows.
    ///
    /// # Errors
    /// [`Error::Nothing`] where there are no rows; [`Error::Models`] where a score is not a number.
    ///
    /// # Panics
    /// Where there is not one verdict for each row.
    pub fn of(rows: &[StoredFeatures], verdicts: &[Verdict]) -> Result<Self, Error> {
        assert_eq!(rows.len(), verdicts.len(), "every row has its verdict");
        let scores: Vec<f64> = verdicts.iter().map(|verdict| verdict.anomaly_score).collect();
        let times = rows.iter().map(|row| row.timestamp);
        let (Some(distribution), Some(first), Some(last)) =
            (metrics::distribution(&scores)?, times.clone().min(), times.max())
        else {
            let remedy = "choose a range and symbols that have feature rows";
            return Err(Error::Nothing { what: "there are no rows to report on".to_owned(), remedy });
        };
        let detected = verdicts.iter().filter(|verdict| verdict.is_anomaly).count() as u64;
        Ok(Self {
            rows: rows.len() as u64,
            first,
            last,
            without_z_scores: rows.iter().filter(|row| !has_z_scores(row)).count() as u64,
            detected,
            detected_share: detected as f64 / rows.len() as f64,
            scores: Scores {
                mean: distribution.mean,
                deviation: distribution.deviation,
                quantiles: distribution.quantiles.to_vec(),
            },
            labelled: Labelled::of(rows, verdicts)?,
        })
    }

    /// [`Report::of`], with how sure its ratios are.
    ///
    /// # Errors
    /// As [`Report::of`].
    ///
    /// # Panics
    /// As [`Report::of`].
    pub fn with_intervals(rows: &[StoredFeatures], verdicts: &[Verdict]) -> Result<Self, Error> {
        let mut report = Self::of(rows, verdicts)?;
        if let Some(labelled) = &mut report.labelled {
            let judged: Vec<Judged<'_>> = rows.iter().zip(verdicts).filter_map(Judged::of).collect();
            labelled.intervals = Some(Intervals::of(&judged)?);
        }
        Ok(report)
    }
}

impl Intervals {
    fn of(judged: &[Judged<'_>]) -> Result<Self, Error> {
        let Columns { scores, called, labels, types } = Columns::of(judged);
        let blocks: Vec<i64> = judged.iter().map(|event| event.row.timestamp.span(BLOCK_MICROS)).collect();
        let rows =
            bootstrap::Labelled { scores: &scores, verdicts: &called, labels: &labels, types: &types, blocks: &blocks };
        let found = bootstrap::intervals(&rows, DRAW_SEED)?;
        let ends = |interval: bootstrap::Interval| [interval.low, interval.high];
        let by_type = found.recall_by_type.into_iter();
        Ok(Self {
            precision: found.precision.map(ends),
            recall: found.recall.map(ends),
            f1: found.f1.map(ends),
            pr_auc: found.average_precision.map(ends),
            recall_by_type: by_type.map(|(name, interval)| (name, ends(interval))).collect(),
        })
    }
}

/// Whether a row says anything about how its event stands out.
#[must_use]
pub fn has_z_scores(row: &StoredFeatures) -> bool {
    row.features[..3].iter().any(|z_score| *z_score != 0.0)
}

impl Labelled {
    /// Judges verdicts by the labels of their rows; `None` where no row has one.
    fn of(rows: &[StoredFeatures], verdicts: &[Verdict]) -> Result<Option<Self>, Error> {
        let judged: Vec<Judged<'_>> = rows.iter().zip(verdicts).filter_map(Judged::of).collect();
        if judged.is_empty() {
            return Ok(None);
        }
        let Columns { scores, called, labels, types } = Columns::of(&judged);
        let found = metrics::evaluate(&scores, &called, &labels, &types)?;
        let by_type = found.by_type.into_iter();
        Ok(Some(Self {
            rows: found.confusion.rows(),
            anomalies: found.confusion.true_positives + found.confusion.false_negatives,
            precision: found.confusion.precision(),
            recall: found.confusion.recall(),
            f1: found.confusion.f1(),
            pr_auc: found.average_precision,
            confusion_matrix: Confusion {
                true_positives: found.confusion.true_positives,
                false_positives: found.confusion.false_positives,
                true_negatives: found.confusion.true_negatives,
                false_negatives: found.confusion.false_negatives,
            },
            by_type: by_type.map(|(name, of)| (name, Found { labelled: of.labelled, detected: of.detected })).collect(),
            episodes: episodes(judged),
            intervals: None,
        }))
    }
}

/// A row with a label, and what was said about it.
#[derive(Clone, Copy, Debug)]
struct Judged<'a> {
    row: &'a StoredFeatures,
    /// The type of a labelled anomaly, empty where it has none; `None` for what is labelled normal.
    anomaly: Option<&'a str>,
    verdict: Verdict,
}

impl<'a> Judged<'a> {
    fn of((row, verdict): (&'a StoredFeatures, &Verdict)) -> Option<Self> {
        let anomaly = row.is_anomaly?.then(|| row.anomaly_type.as_deref().unwrap_or_default());
        Some(Self { row, anomaly, verdict: *verdict })
    }
}

/// Judged rows as columns.
struct Columns<'a> {
    scores: Vec<f64>,
    called: Vec<bool>,
    labels: Vec<bool>,
    types: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(judged: &[Judged<'a>]) -> Self {
        Self {
            scores: judged.iter().map(|event| event.verdict.anomaly_score).collect(),
            called: judged.iter().map(|event| event.verdict.is_anomaly).collect(),
            labels: judged.iter().map(|event| event.anomaly.is_some()).collect(),
            types: judged.iter().map(|event| event.anomaly).collect(),
        }
    }
}

/// Sees labelled rows as episodes: an episode is a run of events of one symbol, consecutive in event time, that are
/// labelled with one type; it is found where any of them is called an anomaly.
fn episodes(mut judged: Vec<Judged<'_>>) -> Episodes {
    let place = |event: &Judged<'_>| (event.row.symbol, event.row.timestamp, event.row.partition, event.row.offset);
    judged.sort_unstable_by_key(place);
    let mut seen = Episodes::default();
    for run in judged.chunk_by(|a, b| (a.row.symbol, a.anomaly) == (b.row.symbol, b.anomaly)) {
        if let Some(name) = run[0].anomaly {
            let detected = u64::from(run.iter().any(|event| event.verdict.is_anomaly));
            *seen.by_type.entry(name.to_owned()).or_default() += Found { labelled: 1, detected };
        }
    }
    let said = |event: &Judged<'_>| (event.row.symbol, event.verdict.is_anomaly);
    for run in judged.chunk_by(|a, b| said(a) == said(b)).filter(|run| run[0].verdict.is_anomaly) {
        seen.alarms += 1;
        seen.false_alarms += u64::from(run.iter().all(|event| event.anomaly.is_none()));
    }
    seen
}

/// Tables to read, each line ended.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rows, {} to {}", self.rows, self.first, self.last)?;
        if self.without_z_scores > 0 {
            writeln!(f, "{} of them without z-scores (fewer than 10 events before them)", self.without_z_scores)?;
        }
        writeln!(f, "called anomalies: {} ({:.2} %)", self.detected, 100.0 * self.detected_share)?;
        match &self.labelled {
            Some(labelled) => labelled.fmt(f),
            None => self.scores.fmt(f),
        }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "anomaly score: mean {:.4}, deviation {:.4}; below 0 is an anomaly", self.mean, self.deviation)?;
        writeln!(f, "{:>12}  {:>10}", "share", "score up to")?;
        self.quantiles.iter().try_for_each(|(q, score)| writeln!(f, "{:>10.2} %  {score:>11.4}", 100.0 * q))
    }
}

impl fmt::Display for Labelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "labelled anomalies: {} of {} labelled rows\n", self.anomalies, self.rows)?;
        let line = |cells: [String; 4]| cells.map(|cell| format!("{cell:>16}")).concat();
        writeln!(f, "{}", line(["precision", "recall", "F1", "PR-AUC"].map(str::to_owned)))?;
        writeln!(f, "{}", line([self.precision, self.recall, self.f1, self.pr_auc].map(ratio)))?;
        if let Some(Intervals { precision, recall, f1, pr_auc, .. }) = &self.intervals {
            writeln!(f, "{}", line([precision, recall, f1, pr_auc].map(|ends| interval(ends.as_ref()))))?;
        }
        writeln!(f)?;
        let confusion = &self.confusion_matrix;
        writeln!(f, "{:<18}{:>16}{:>16}", "", "called anomaly", "called normal")?;
        let row = |name, called, missed| format!("{name:<18}{called:>16}{missed:>16}");
        writeln!(f, "{}", row("labelled anomaly", confusion.true_positives, confusion.false_negatives))?;
        writeln!(f, "{}\n", row("labelled normal", confusion.false_positives, confusion.true_negatives))?;
        self.write_types(f)?;
        let episodes = &self.episodes;
        writeln!(f, "\nalarms (runs of called events): {}, false ones: {}", episodes.alarms, episodes.false_alarms)
    }
}

impl Labelled {
    /// Events and episodes by type, and all of them.
    fn write_types(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = |of: &Found| format!("{:>9}{:>7}{:>9}", of.detected, of.labelled, ratio(of.recall()));
        let heading = format!("{:>9}{:>7}{:>9}", "found", "of", "recall");
        writeln!(f, "{:<18}{:>25}{:>25}", "", "events", "episodes")?;
        writeln!(f, "{:<18}{heading}{heading}", "type")?;
        let (mut events, mut episodes) = (Found::default(), Found::default());
        for (name, of) in &self.by_type {
            let seen = self.episodes.by_type.get(name).copied().unwrap_or_default();
            let ends = self.intervals.as_ref().and_then(|intervals| intervals.recall_by_type.get(name));
            let sure = ends.map(|ends| format!("  recall of events {}", interval(Some(ends)))).unwrap_or_default();
            let name = if name.is_empty() { "(no type)" } else { name };
            writeln!(f, "{name:<18}{}{}{sure}", cells(of), cells(&seen))?;
            events += *of;
            episodes += seen;
        }
        writeln!(f, "{:<18}{}{}", "all", cells(&events), cells(&episodes))
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn interval(ends: Option<&[f64; 2]>) -> String {
    ends.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}"))
}

/// Instants in JSON: RFC 3339 text, exact to the microsecond.
pub(crate) mod instant {
    use domain::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Source, Symbol};
    use rstest::rstest;

    /// One event per character and second. `.` normal, `P` and `V` labelled anomalies of two types, `?` without a label.
    fn rows(name: &str, labels: &str) -> Vec<StoredFeatures> {
        let row = |(second, label): (usize, char)| StoredFeatures {
            partition: 0,
            offset: i64::try_from(second).unwrap(),
            ingest_time: Timestamp::default(),
            timestamp: Timestamp::from_seconds(i64::try_from(second).unwrap()),
            symbol: Symbol::parse(name).unwrap(),
            features: [0.0, 0.0, if second < 2 { 0.0 } else { 1.0 }, 0.0, 0.0],
            is_anomaly: (label != '?').then_some(label != '.'),
            anomaly_type: matches!(label, 'P' | 'V').then(|| label.to_string().into()),
            source: Source::Simulated,
        };
        labels.chars().enumerate().map(row).collect()
    }

    /// `!` called an anomaly, `.` not.
    pub(super) fn verdicts(calls: &str) -> Vec<Verdict> {
        let verdict = |call| Verdict { anomaly_score: if call == '!' { -0.1 } else { 0.1 }, is_anomaly: call == '!' };
        calls.chars().map(verdict).collect()
    }

    fn seen(labels: &str, calls: &str) -> Episodes {
        let rows = rows("A-X", labels);
        Report::of(&rows, &verdicts(calls)).unwrap().labelled.unwrap().episodes
    }

    fn found(name: &str, labelled: u64, detected: u64) -> (String, Found) {
        (name.to_owned(), Found { labelled, detected })
    }

    #[rstest]
    #[case::nothing("....", "....", &[], (0, 0))]
    #[case::found_by_one_event(".PPP.", "..!..", &[found("P", 1, 1)], (1, 0))]
    #[case::missed("PPP..", "....!", &[found("P", 1, 0)], (1, 1))]
    #[case::two_of_a_type("PP.PP", "!....", &[found("P", 2, 1)], (1, 0))]
    #[case::types_that_touch("PPVV.", "!....", &[found("P", 1, 1), found("V", 1, 0)], (1, 0))]
    #[case::one_alarm_over_two_episodes("PPVV.", ".!!..", &[found("P", 1, 1), found("V", 1, 1)], (1, 0))]
    #[case::alarm_that_begins_before(".P...", "!!...", &[found("P", 1, 1)], (1, 0))]
    #[case::alarms_apart("P....", "!.!.!", &[found("P", 1, 1)], (3, 2))]
    #[case::without_type("xx...", "!....", &[found("", 1, 1)], (1, 0))]
    fn runs_of_a_label_are_episodes_and_runs_of_calls_are_alarms(
        #[case] labels: &str,
        #[case] calls: &str,
        #[case] types: &[(String, Found)],
        #[case] (alarms, false_alarms): (u64, u64),
    ) {
        assert_eq!(seen(labels, calls), Episodes { by_type: types.iter().cloned().collect(), alarms, false_alarms });
    }

    #[test]
    fn episodes_end_with_their_symbol_and_follow_event_time_not_row_order() {
        let mut both = rows("A-X", "..PP");
        both.extend(rows("B-X", "PP.."));
        both.reverse();
        let report = Report::of(&both, &verdicts("....!...")).unwrap();
        let labelled = report.labelled.unwrap();
        assert_eq!(labelled.by_type, BTreeMap::from([found("P", 4, 1)]));
        assert_eq!(labelled.episodes.by_type, BTreeMap::from([found("P", 2, 1)]));
    }

    #[test]
    fn rows_without_a_label_count_in_the_distribution_alone() {
        let report = Report::of(&rows("A-X", "?P.?"), &verdicts("!!..")).unwrap();
        assert_eq!((report.rows, report.detected, report.without_z_scores), (4, 2, 2));
        let labelled = report.labelled.unwrap();
        let confusion = Confusion { true_positives: 1, false_positives: 0, true_negatives: 1, false_negatives: 0 };
        assert_eq!((labelled.rows, labelled.anomalies, labelled.confusion_matrix), (2, 1, confusion));
        assert_eq!((labelled.precision, labelled.recall, labelled.pr_auc), (Some(1.0), Some(1.0), Some(1.0)));
    }

    #[test]
    fn report_without_labels_prints_the_distribution() {
        let report = Report::of(&rows("A-X", "????"), &verdicts("!...")).unwrap();
        assert_eq!(report.labelled, None);
        let text = report.to_string();
        assert!(text.contains("called anomalies: 1 (25.00 %)") && text.contains("mean 0.0500"), "{text}");
    }

    #[test]
    fn report_with_labels_prints_every_type_and_the_whole() {
        let report = Report::of(&rows("A-X", "PP.V..P..."), &verdicts("!..!.!....")).unwrap();
        let text = report.to_string();
        let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for line in [
            "0.667 0.500 0.571 0.533",
            "labelled anomaly 2 2",
            "labelled normal 1 5",
            "P 1 3 0.333 1 2 0.500",
            "V 1 1 1.000 1 1 1.000",
            "all 2 4 0.500 2 3 0.667",
            "alarms (runs of called events): 3, false ones: 1",
        ] {
            assert!(cells.contains(&line.split(' ').collect()), "no line {line}\n{text}");
        }
    }

    #[test]
    fn report_is_read_back_from_its_json() {
        let report = Report::of(&rows("A-X", "PP.V..P..."), &verdicts("!..!.!....")).unwrap();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["labelled"]["confusion_matrix"]["true_positives"], 2);
        assert_eq!(json["first"], "1970-01-01T00:00:00Z");
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn intervals_are_kept_printed_and_read_back() {
        let labels: String = "..P.....".chars().cycle().take(8 * 60).collect();
        let calls: String = "..!..!....!.....".chars().cycle().take(8 * 60).collect();
        let rows = rows("A-X", &labels);
        let report = Report::with_intervals(&rows, &verdicts(&calls)).unwrap();
        let labelled = report.labelled.as_ref().unwrap();
        let [low, high] = labelled.intervals.as_ref().unwrap().precision.unwrap();
        assert!(low <= labelled.precision.unwrap() && labelled.precision.unwrap() <= high);
        assert!(report.to_string().contains(&format!("{low:.3} to {high:.3}")), "{report}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
        let plain = Report::of(&rows, &verdicts(&calls)).unwrap();
        assert_eq!(plain.labelled.unwrap().intervals, None);
    }

    #[test]
    fn no_rows_are_refused() {
        assert!(matches!(Report::of(&[], &[]), Err(Error::Nothing { .. })));
    }
}
