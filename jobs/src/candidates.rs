//! The judgement of candidates: each is held against the champion on rows newer than both trainings, and passes every
//! gate and becomes champion, or is turned down with the reasons.
//!
//! A candidate waits until there are enough such rows, and not for ever. The promotion expects the champion that it was
//! compared with: where another was faster, the candidate goes on waiting and is compared with that one. What was measured
//! is kept with both models before anything is decided.

use std::{fmt, sync::Arc, time::Duration};

use domain::{Clock, Timestamp};
use lake::{
    TableName,
    read::StoredFeatures,
    registry::{
        Evaluation, Expected, ModelRecord, Promoted,
        life::{Judgement, Verdict},
    },
};
use serde::Serialize;
use serde_json::json;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{
    active::{self, ActiveModel},
    error::Error,
    evaluate::as_json,
    report::{Report, Stability},
    workshop::{Chosen, MOST_ROWS, Slice, Workshop, digest, judge, symbols_of},
};

/// The deviation of anomaly scores below which they say nothing.
const LEAST_DEVIATION: f64 = 1e-6;

/// Events that are judged one by one to see how long one takes.
const TIMED_EVENTS: usize = 1_000;

/// What a candidate must show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gates {
    /// Rows newer than both trainings that it is judged by, at least.
    pub least_rows: u64,
    /// Labelled anomalies among them, at least, where rows have labels.
    pub least_anomalies: u64,
    /// How long it waits for them.
    pub patience: Duration,
    /// How far its area under the precision-recall curve may lie below the champion's, where rows have labels.
    pub pr_auc_below: f64,
    /// The least and the greatest share of rows called anomalies, in contaminations, where no row has a label.
    pub detected_contaminations: [f64; 2],
    /// The least rank correlation of its scores with the champion's, where no row has a label.
    pub rank_correlation: f64,
    /// How long one verdict may take on average.
    pub latency: Duration,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            least_rows: 2_000,
            least_anomalies: 20,
            patience: Duration::from_hours(24),
            pr_auc_below: 0.02,
            detected_contaminations: [0.5, 2.0],
            rank_correlation: 0.7,
            latency: Duration::from_millis(1),
        }
    }
}

/// One gate, and what was found at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// Which.
    pub gate: &'static str,
    /// Whether the candidate passed.
    pub passed: bool,
    /// What was found, as a sentence.
    pub found: String,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits for more rows.
    Waits,
    /// It is champion.
    Promoted,
    /// It failed at a gate.
    Rejected,
    /// It has waited too long.
    Expired,
    /// Another became champion while it was judged; it waits to be held against that one.
    Overtaken,
}

/// What was said about a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The candidate.
    pub version: i64,
    /// What became of it.
    pub fate: Fate,
    /// Why, as sentences.
    pub reasons: Vec<String>,
}

/// One sentence.
impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = match self.fate {
            Fate::Waits => "waits",
            Fate::Promoted => "is champion",
            Fate::Rejected => "is rejected",
            Fate::Expired => "has expired",
            Fate::Overtaken => "was overtaken and waits",
        };
        write!(f, "model version {} {fate}: {}", self.version, self.reasons.join("; "))
    }
}

/// Judges every candidate, oldest first.
///
/// # Errors
/// Where a table or the registry cannot be read or written.
pub async fn judge_all(workshop: &Workshop, gates: &Gates, actor: &str) -> Result<Vec<Judged>, Error> {
    let mut judged = Vec::new();
    for candidate in workshop.registry.candidates().await? {
        let champion = workshop.registry.champion().await?;
        judged.push(Case { workshop, gates, actor, candidate, champion }.decide().await?);
    }
    Ok(judged)
}

/// A candidate before its judge.
struct Case<'a> {
    workshop: &'a Workshop,
    gates: &'a Gates,
    actor: &'a str,
    candidate: ModelRecord,
    champion: Option<ModelRecord>,
}

impl Case<'_> {
    async fn decide(&self) -> Result<Judged, Error> {
        let Self { workshop, candidate, champion, .. } = self;
        let trained_until = champion.iter().map(|champion| champion.model.inputs.to);
        let from = trained_until.fold(candidate.model.inputs.to, Ord::max);
        let slice = Slice::new(Some(workshop.newest_from(from, MOST_ROWS).await?), None, &[])?;
        let chosen = workshop.choose(&slice, None).await?;
        if let Some(missing) = self.missing(&chosen.rows) {
            return self.wait(missing).await;
        }
        let loaded = match active::load(&workshop.registry, &workshop.models_dir, candidate.version).await {
            Ok(loaded) => loaded,
            Err(error) => return self.turn_down(vec![format!("it cannot be loaded: {error}")]).await,
        };
        let measuring = Measuring {
            gates: *self.gates,
            contamination: candidate.model.parameters.contamination,
            is_of_champions_features: champion
                .as_ref()
                .is_none_or(|champion| champion.model.specification_hash == candidate.model.specification_hash),
            champion: self.rival().await,
            clock: workshop.clock.clone(),
        };
        let (measured, chosen) =
            spawn_blocking(move || Ok::<_, Error>((measuring.measure(&loaded, &chosen.rows)?, chosen))).await??;
        self.keep(&measured, &chosen, &slice).await?;
        let failed = measured.gates.iter().filter(|gate| !gate.passed);
        let failed: Vec<String> = failed.map(|gate| format!("{}: {}", gate.gate, gate.found)).collect();
        if !failed.is_empty() {
            return self.turn_down(failed).await;
        }
        self.promote(measured.gates.iter().map(|gate| format!("{}: {}", gate.gate, gate.found)).collect()).await
    }

    /// What is missing before it can be judged; `None`, where nothing is.
    fn missing(&self, rows: &[StoredFeatures]) -> Option<String> {
        let (least_rows, least_anomalies) = (self.gates.least_rows, self.gates.least_anomalies);
        let count = rows.len() as u64;
        if count < least_rows {
            return Some(format!("{count} of {least_rows} rows newer than both trainings"));
        }
        let labelled = rows.iter().any(|row| row.is_anomaly.is_some());
        let anomalies = rows.iter().filter(|row| row.is_anomaly == Some(true)).count() as u64;
        (labelled && anomalies < least_anomalies)
            .then(|| format!("{anomalies} of {least_anomalies} labelled anomalies among {count} newer rows"))
    }

    /// The champion as something to compare with. One that cannot be loaded does not stand in the way of its successor.
    async fn rival(&self) -> Option<ActiveModel> {
        let version = self.champion.as_ref()?.version;
        let loaded = active::load(&self.workshop.registry, &self.workshop.models_dir, version).await;
        loaded.inspect_err(|error| warn!(version, %error, "the champion cannot be loaded to be compared with")).ok()
    }

    async fn wait(&self, missing: String) -> Result<Judged, Error> {
        let now = self.workshop.clock.now();
        let waited = now.micros().saturating_sub(self.candidate.model.created.micros());
        let patience = i64::try_from(self.gates.patience.as_micros()).unwrap_or(i64::MAX);
        if waited < patience {
            return Ok(self.said(Fate::Waits, vec![missing]));
        }
        let hours = self.gates.patience.as_secs() / 3_600;
        let reasons = vec![format!("there were only {missing} after {hours} h")];
        self.workshop.registry.turn_down(&self.judgement(Verdict::Expired, &reasons)).await?;
        Ok(self.said(Fate::Expired, reasons))
    }

    async fn turn_down(&self, reasons: Vec<String>) -> Result<Judged, Error> {
        self.workshop.registry.turn_down(&self.judgement(Verdict::Rejected, &reasons)).await?;
        Ok(self.said(Fate::Rejected, reasons))
    }

    async fn promote(&self, reasons: Vec<String>) -> Result<Judged, Error> {
        let expected = self.champion.as_ref().map_or(Expected::Nobody, |champion| Expected::Version(champion.version));
        let judgement = self.judgement(Verdict::Promoted, &reasons);
        let fate = match self.workshop.registry.promote_candidate(&judgement, expected).await? {
            Promoted::Promoted | Promoted::AlreadyChampion => Fate::Promoted,
            Promoted::Conflict { .. } => Fate::Overtaken,
        };
        Ok(self.said(fate, reasons))
    }

    fn judgement(&self, verdict: Verdict, reasons: &[String]) -> Judgement {
        let (at, actor) = (self.workshop.clock.now(), self.actor.to_owned());
        Judgement { version: self.candidate.version, at, verdict, actor, reasons: reasons.to_vec() }
    }

    const fn said(&self, fate: Fate, reasons: Vec<String>) -> Judged {
        Judged { version: self.candidate.version, fate, reasons }
    }

    /// Keeps what was measured with both models.
    async fn keep(&self, measured: &Measured, chosen: &Chosen, slice: &Slice) -> Result<(), Error> {
        let at = self.workshop.clock.now();
        let digest = digest(&chosen.rows);
        let of = |compared_with: Option<i64>| {
            json!({
                "table": TableName::Features.as_str(),
                "delta_version": chosen.delta_version,
                "predicate": slice.predicate(),
                "rows": chosen.rows.len(),
                "rows_dropped": chosen.dropped.len(),
                "in_sample": 0,
                "digest": digest,
                "symbols": symbols_of(&chosen.rows),
                "compared_with": compared_with,
            })
        };
        let version = self.candidate.version;
        let mut report = as_json(&measured.report)?;
        report["stability"] = as_json(&measured.stability)?;
        report["gates"] = as_json(&measured.gates)?;
        let mut found = vec![(version, measured.rival.as_ref().map(|(version, _)| *version), report)];
        if let Some((rival, report)) = &measured.rival {
            found.push((*rival, Some(version), as_json(report)?));
        }
        for (version, compared_with, report) in found {
            let evaluation = Evaluation { version, at, slice: of(compared_with), report };
            self.workshop.registry.record_evaluation(&evaluation).await?;
        }
        Ok(())
    }
}

/// What was measured about a candidate.
struct Measured {
    report: Report,
    /// The champion's version and what it did on the same rows.
    rival: Option<(i64, Report)>,
    stability: Option<Stability>,
    gates: Vec<Gate>,
}

/// What measuring needs. Long and without I/O.
struct Measuring {
    gates: Gates,
    contamination: f64,
    is_of_champions_features: bool,
    champion: Option<ActiveModel>,
    clock: Arc<dyn Clock>,
}

impl Measuring {
    fn measure(&self, candidate: &ActiveModel, rows: &[StoredFeatures]) -> Result<Measured, Error> {
        let verdicts = judge(&candidate.model, rows);
        let report = Report::with_intervals(rows, &verdicts)?;
        let (mut rival, mut stability) = (None, None);
        if let Some(champion) = &self.champion {
            let others = judge(&champion.model, rows);
            stability = Stability::of(champion.version, &verdicts, &others)?;
            rival = Some((champion.version, Report::with_intervals(rows, &others)?));
        }
        let mut gates = vec![self.specification(), Self::degenerate(&report)];
        match &report.labelled {
            Some(labelled) => {
                let champions = rival.as_ref().and_then(|(_, report)| report.labelled.as_ref()?.pr_auc);
                gates.push(self.pr_auc(labelled.pr_auc, champions));
            }
            None => gates.extend([self.detected_share(&report), self.rank_correlation(stability)]),
        }
        gates.push(self.latency(candidate, rows));
        Ok(Measured { report, rival, stability, gates })
    }

    fn specification(&self) -> Gate {
        let passed = self.is_of_champions_features;
        let found = if passed { "the champion's" } else { "another than the champion's" };
        Gate { gate: "features", passed, found: found.to_owned() }
    }

    fn degenerate(report: &Report) -> Gate {
        let deviation = report.scores.deviation;
        let found = format!("the scores deviate by {deviation:.4}");
        Gate { gate: "scores", passed: deviation > LEAST_DEVIATION, found }
    }

    fn pr_auc(&self, candidates: Option<f64>, champions: Option<f64>) -> Gate {
        let gate = "PR-AUC";
        let Some(area) = candidates else {
            return Gate { gate, passed: false, found: "it has none".to_owned() };
        };
        let Some(champions) = champions else {
            return Gate { gate, passed: true, found: format!("{area:.3}, with no champion to compare with") };
        };
        let least = champions - self.gates.pr_auc_below;
        let found = format!("{area:.3} where the champion has {champions:.3}, and {least:.3} is enough");
        Gate { gate, passed: area >= least, found }
    }

    fn detected_share(&self, report: &Report) -> Gate {
        let [least, most] = self.gates.detected_contaminations.map(|times| times * self.contamination);
        let share = report.detected_share;
        let found = format!("{:.3} % of the rows, {:.3} to {:.3} % are right", 1e2 * share, 1e2 * least, 1e2 * most);
        Gate { gate: "called anomalies", passed: (least..=most).contains(&share), found }
    }

    fn rank_correlation(&self, stability: Option<Stability>) -> Gate {
        let gate = "rank correlation";
        let Some(stability) = stability else {
            return Gate { gate, passed: true, found: "there is no champion to compare with".to_owned() };
        };
        let least = self.gates.rank_correlation;
        let Some(rho) = stability.rank_correlation else {
            return Gate { gate, passed: false, found: "one of the scores is constant".to_owned() };
        };
        let found = format!("{rho:.3} with the champion's scores, {least} is enough");
        Gate { gate, passed: rho >= least, found }
    }

    /// Judges events one by one, as the live scorer may have to.
    fn latency(&self, candidate: &ActiveModel, rows: &[StoredFeatures]) -> Gate {
        let rows = &rows[..rows.len().min(TIMED_EVENTS)];
        let begun = self.clock.now();
        for row in rows {
            std::hint::black_box(candidate.model.verdict(row.symbol, &row.features));
        }
        let micros = elapsed(begun, self.clock.now()) / rows.len().max(1) as u64;
        let most = self.gates.latency.as_micros();
        let found = format!("a verdict takes {micros} us, {most} us are allowed");
        Gate { gate: "latency", passed: u128::from(micros) <= most, found }
    }
}

fn elapsed(begun: Timestamp, ended: Timestamp) -> u64 {
    ended.micros().saturating_sub(begun.micros()).max(0).unsigned_abs()
}

#[cfg(test)]
mod tests;
