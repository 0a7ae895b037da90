//! Replay: history folded and scored once more, into a report or into tables beside the lake. It never alerts, and never
//! touches what is served.

use std::{
    cmp::Ordering,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{FeatureRow, Prediction, Symbol, Timestamp, WindowRow};
use futures::{Stream, TryStreamExt, future::try_join_all};
use lake::{
    Error as LakeError, Lake, TableName,
    compare::{Compared, Comparison, Derived, Key},
    lake::next_id,
    read::Pinned,
    rows::TableRow,
    table::Slice,
    truth::Extent,
};
use streams::{EventLog, Pace, partition_of};
use tokio_util::sync::CancellationToken;

use crate::{
    active::ActiveModel,
    error::Error,
    refold::{MadeAgain, SymbolFold, Timeline, wanted},
};

/// Changed verdicts that are told one by one, per symbol.
pub const CHANGES_TOLD: usize = 10;

/// How much of the time that a paced replay takes passes between two groups of its rows.
const DUE_TOGETHER: Duration = Duration::from_secs(1);

/// What is replayed.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// From this event time on.
    pub from: Option<Timestamp>,
    /// Before this event time.
    pub to: Option<Timestamp>,
    /// Only these; all, where empty.
    pub symbols: Vec<Symbol>,
    /// Times the pace of the events, 0 = as fast as possible.
    pub speed: f64,
    /// Scores the features; nothing is scored without.
    pub model: Option<Arc<ActiveModel>>,
    /// A folder that does not exist yet, for the rows.
    pub shadow: Option<PathBuf>,
    /// Whether rows and verdicts are compared with the stored ones.
    pub diff: bool,
}

/// What a replay of one symbol gave.
#[derive(Clone, Debug, PartialEq)]
pub struct SymbolReplay {
    /// The market.
    pub symbol: Symbol,
    /// Feature rows, one per event.
    pub features: u64,
    /// Windows, those that no event has closed yet included.
    pub windows: u64,
    /// Feature rows that were scored.
    pub scored: u64,
    /// Anomalies among them.
    pub anomalies: u64,
    /// Sum of the scores.
    pub score_sum: f64,
    /// What differs from the stored rows, where that was asked for.
    pub diff: Option<ReplayDiff>,
}

/// How a replay differs from what is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayDiff {
    /// Feature rows.
    pub features: Compared,
    /// Windows.
    pub windows: Compared,
    /// Verdicts.
    pub verdicts: VerdictDiff,
}

/// How verdicts differ from those that were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerdictDiff {
    /// Rows with a verdict of both.
    pub compared: u64,
    /// Rows that have no stored verdict.
    pub never_judged: u64,
    /// Anomalies now, and not as stored.
    pub new_anomalies: u64,
    /// Anomalies as stored, and not now.
    pub former_anomalies: u64,
    /// The greatest change of a score, in absolute terms.
    pub greatest_change: f64,
    /// The first changed verdicts, at most [`CHANGES_TOLD`].
    pub first: Vec<VerdictChange>,
}

/// A verdict that has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct VerdictChange {
    /// The market.
    pub symbol: Symbol,
    /// Event time.
    pub time: Timestamp,
    /// Offset of the event.
    pub offset: i64,
    /// The version that gave the stored verdict.
    pub stored_version: i64,
    /// The stored score.
    pub stored_score: f64,
    /// The score now.
    pub score: f64,
}

/// Replays symbols side by side, and gives what became of each, ascending.
///
/// # Errors
/// Where a table cannot be read, the shadow's folder exists already or cannot be written, or a symbol has no events.
pub async fn replay(
    lake: &Lake,
    log: &dyn EventLog,
    request: &ReplayRequest,
    cancel: &CancellationToken,
) -> Result<Vec<SymbolReplay>, Error> {
    let pins = Pins {
        events: lake.pin(TableName::Events).await?,
        late: lake.pin(TableName::LateEvents).await?,
        features: lake.pin(TableName::Features).await?,
        windows: lake.pin(TableName::Windows).await?,
        predictions: lake.pin(TableName::Predictions).await?,
    };
    let shadow = match &request.shadow {
        None => None,
        Some(folder) if folder.exists() => {
            return Err(Error::Invalid(format!("{} exists already: name another shadow", folder.display())));
        }
        Some(folder) => Some(Lake::open(folder).await?),
    };
    let mut pace = Pace::new(request.speed)?;
    if let Some(from) = request.from {
        // Every symbol keeps its distance from the beginning of the range.
        pace.due(from);
    }
    let started = Instant::now();
    let mut replays = Vec::new();
    for symbol in wanted(&pins.events, &request.symbols).await? {
        let id = next_id(log.topic_id(), partition_of(symbol, log.partitions()));
        let next = pins.events.transaction(&id).await?.unwrap_or(0);
        let extent = Extent { from: request.from, to: request.to, next };
        let of_symbol =
            SymbolJob { pins: &pins, shadow: shadow.as_ref(), request, symbol, extent, pace: pace.clone(), started };
        replays.push(of_symbol.run(cancel));
    }
    try_join_all(replays).await
}

struct Pins {
    events: Pinned,
    late: Pinned,
    features: Pinned,
    windows: Pinned,
    predictions: Pinned,
}

/// The replay of one symbol.
struct SymbolJob<'a> {
    pins: &'a Pins,
    shadow: Option<&'a Lake>,
    request: &'a ReplayRequest,
    symbol: Symbol,
    extent: Extent,
    pace: Pace,
    started: Instant,
}

impl SymbolJob<'_> {
    async fn run(mut self, cancel: &CancellationToken) -> Result<SymbolReplay, Error> {
        let starts = self.pins.events.fresh_starts(&self.pins.late, self.symbol).await?;
        let mut fold = SymbolFold::begin(&self.pins.events, self.symbol, self.extent.clone(), starts).await?;
        let mut against = if self.request.diff { Some(self.stored(fold.timeline()).await?) } else { None };
        let mut replayed = SymbolReplay {
            symbol: self.symbol,
            features: 0,
            windows: 0,
            scored: 0,
            anomalies: 0,
            score_sum: 0.0,
            diff: None,
        };
        let mut number = 0;
        'fold: while let Some(made) = fold.next().await? {
            for made in self.at_pace(made) {
                if !self.keep_pace(&made, cancel).await {
                    break 'fold;
                }
                let predictions = self.score(&made.features).await?;
                replayed.count(&made, &predictions);
                if let Some(shadow) = self.shadow {
                    self.write(shadow, &made, &predictions, number).await?;
                    number += 1;
                }
                if let Some(against) = &mut against {
                    against.take_in(&made, &predictions).await?;
                }
            }
        }
        if let Some(against) = against {
            replayed.diff = Some(against.end().await?);
        }
        Ok(replayed)
    }

    async fn stored(&self, timeline: &Timeline) -> Result<Stored, Error> {
        let (pins, symbol, extent, starts) = (self.pins, self.symbol, &self.extent, &timeline.starts);
        Ok(Stored {
            features: Comparison::begin::<FeatureRow>(&pins.features, symbol, extent, starts).await?,
            windows: Comparison::begin::<WindowRow>(&pins.windows, symbol, extent, starts).await?,
            predictions: Box::pin(pins.predictions.predictions_of(symbol, extent, starts).await?),
            timeline: timeline.clone(),
            waiting: Vec::new().into_iter(),
            verdicts: VerdictDiff::default(),
        })
    }

    /// The rows in the parts that are due together: all of them, where nothing waits.
    fn at_pace(&self, made: MadeAgain) -> Vec<MadeAgain> {
        if self.pace.is_full_speed() {
            return vec![made];
        }
        #[expect(clippy::cast_possible_truncation, reason = "a span beyond i64 is as good as none")]
        let span = (DUE_TOGETHER.as_secs_f64() * self.request.speed * 1e6) as i64;
        made.in_parts(span.max(1))
    }

    /// Waits until the last of the rows is due; false where the replay was cancelled.
    async fn keep_pace(&mut self, made: &MadeAgain, cancel: &CancellationToken) -> bool {
        let due = made.features.last().map(|(_, row)| self.pace.due(row.timestamp));
        let wait = due.map_or(Duration::ZERO, |due| due.saturating_sub(self.started.elapsed()));
        tokio::select! { () = tokio::time::sleep(wait) => {}, () = cancel.cancelled() => {} }
        !cancel.is_cancelled()
    }

    async fn score(&self, rows: &[(Key, FeatureRow)]) -> Result<Vec<Prediction>, Error> {
        let Some(model) = self.request.model.clone() else { return Ok(Vec::new()) };
        let rows: Vec<FeatureRow> = rows.iter().map(|(_, row)| row.clone()).collect();
        Ok(tokio::task::spawn_blocking(move || model.predict(&rows)).await?)
    }

    /// Appends to the shadow. Batches are numbered: whatever the offsets are, none is taken for one written before.
    async fn write(
        &self,
        shadow: &Lake,
        made: &MadeAgain,
        predictions: &[Prediction],
        number: u64,
    ) -> Result<(), Error> {
        let progress = format!("replay/{}/{number}", self.symbol);
        let features: Vec<_> = made.features.iter().map(|(_, row)| row.clone()).collect();
        let windows: Vec<_> = made.windows.iter().map(|(_, row)| row.clone()).collect();
        append(shadow, &progress, &features).await?;
        append(shadow, &progress, &windows).await?;
        append(shadow, &progress, predictions).await
    }
}

async fn append<R: TableRow>(shadow: &Lake, progress: &str, rows: &[R]) -> Result<(), Error> {
    let slice = Slice { progress: progress.to_owned(), start: 0, next: 1, along: Vec::new(), rows };
    shadow.append(&slice).await?;
    Ok(())
}

impl SymbolReplay {
    fn count(&mut self, made: &MadeAgain, predictions: &[Prediction]) {
        self.features += made.features.len() as u64;
        self.windows += made.windows.len() as u64;
        self.scored += predictions.len() as u64;
        self.anomalies += predictions.iter().filter(|prediction| prediction.is_anomaly).count() as u64;
        self.score_sum += predictions.iter().map(|prediction| prediction.anomaly_score).sum::<f64>();
    }
}

/// What is stored, on its way beside the replay.
struct Stored {
    features: Comparison,
    windows: Comparison,
    predictions: Pin<Box<dyn Stream<Item = Result<Vec<Prediction>, LakeError>> + Send>>,
    timeline: Timeline,
    /// Stored predictions that were read and not yet met.
    waiting: std::vec::IntoIter<Prediction>,
    verdicts: VerdictDiff,
}

impl Stored {
    async fn take_in(&mut self, made: &MadeAgain, predictions: &[Prediction]) -> Result<(), Error> {
        let timeline = &self.timeline;
        self.features.next(&made.features, |_| true).await?;
        self.windows.next(&made.windows, |(key, row)| timeline.has_closed(row, key.epoch())).await?;
        for prediction in predictions {
            match self.stored_verdict(prediction).await? {
                Some(stored) => self.verdicts.compare(&stored, prediction),
                None => self.verdicts.never_judged += 1,
            }
        }
        Ok(())
    }

    /// The stored prediction about the same event; those about events before it are passed.
    async fn stored_verdict(&mut self, prediction: &Prediction) -> Result<Option<Prediction>, Error> {
        let starts = &self.timeline.starts;
        let key =
            |row: &Prediction| FeatureRow::key(starts.epoch(row.cause(), row.timestamp), row.timestamp, row.cause());
        loop {
            match self.waiting.as_slice().first().map(|stored| key(stored).cmp(&key(prediction))) {
                Some(Ordering::Less) => self.waiting.next(),
                Some(Ordering::Equal) => return Ok(self.waiting.next()),
                Some(Ordering::Greater) => return Ok(None),
                None => {
                    let Some(batch) = self.predictions.try_next().await? else { return Ok(None) };
                    self.waiting = batch.into_iter();
                    continue;
                }
            };
        }
    }

    async fn end(self) -> Result<ReplayDiff, Error> {
        let (features, _) = self.features.end().await?;
        let (windows, _) = self.windows.end().await?;
        Ok(ReplayDiff { features, windows, verdicts: self.verdicts })
    }
}

impl VerdictDiff {
    fn compare(&mut self, stored: &Prediction, now: &Prediction) {
        self.compared += 1;
        self.greatest_change = self.greatest_change.max((now.anomaly_score - stored.anomaly_score).abs());
        if stored.is_anomaly == now.is_anomaly {
            return;
        }
        self.new_anomalies += u64::from(now.is_anomaly);
        self.former_anomalies += u64::from(stored.is_anomaly);
        if self.first.len() < CHANGES_TOLD {
            self.first.push(VerdictChange {
                symbol: now.symbol,
                time: now.timestamp,
                offset: now.offset,
                stored_version: stored.model_version,
                stored_score: stored.anomaly_score,
                score: now.anomaly_score,
            });
        }
    }
}
