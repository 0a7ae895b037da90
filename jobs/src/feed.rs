//! What was predicted, in memory: the newest predictions and counters over all of them, for the service to show.
//!
//! Live predictions come from the stream job, manual ones from `POST /predict` and `/predict/batch`; both are merged by
//! arrival. Live ones are on disk as well and are restored at start, manual ones end with the process. Memory is
//! bounded by the limits below. Nothing here reads a clock or computes under its lock: a push hands over what is made,
//! statistics work on a copy. Who follows the live ones shares them with the feed and asks for them when it likes: a push
//! waits for nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domain::{AlertRow, FEATURE_NAMES, FeatureVector, Kind, Offset, Partition, Prediction, Symbol, Timestamp};
use models::Verdict;
use tokio::sync::{broadcast, watch};

/// What the lake calls it; the service knows it by this module.
pub use lake::evidence::Trade;

/// Live predictions kept.
pub const LIVE_KEPT: usize = 10_000;

/// Manual predictions kept.
pub const MANUAL_KEPT: usize = 500;

/// Alerts that wait for each of those that follow them; who is further behind is told how many it missed. Those that
/// were raised are kept for themselves, so that events that join one do not push them out.
pub const ALERTS_KEPT: usize = 1_024;

/// The newest predictions that percentiles and feature statistics describe.
pub const DESCRIBED: usize = 10_000;

/// Symbols that manual predictions can bring into the counters; anybody may ask about any symbol, so that they are
/// bounded. Predictions for further symbols count in the totals only.
pub const MANUAL_SYMBOLS: usize = 1_000;

/// Who asked for a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The stream job.
    Live,
    /// A request.
    Manual,
}

impl Origin {
    /// Every origin, in the order of their declaration.
    pub const ALL: [Self; 2] = [Self::Live, Self::Manual];

    /// `live` or `manual`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Manual => "manual",
        }
    }
}

/// One prediction as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedItem {
    /// The market.
    pub symbol: Symbol,
    /// Event time of a live prediction, time of the request of a manual one.
    pub timestamp: Timestamp,
    /// What the model was shown.
    pub features: FeatureVector,
    /// The decision function: negative = anomaly.
    pub anomaly_score: f64,
    /// The verdict.
    pub is_anomaly: bool,
    /// Version of the model.
    pub model_version: i64,
    /// Who asked.
    pub origin: Origin,
    /// Partition and offset of the record that caused a live prediction; a manual one has none.
    pub position: Option<(Partition, Offset)>,
    /// Whether a live prediction is about a made-up market.
    pub is_simulated: bool,
    /// What was traded in the event that a live prediction is about, where that is known; a manual one has none.
    pub trade: Option<Trade>,
}

impl FeedItem {
    /// What the stream job or the tables tell, with what was traded in the event.
    #[must_use]
    pub fn live(prediction: &Prediction, trade: Option<Trade>) -> Self {
        Self {
            symbol: prediction.symbol,
            timestamp: prediction.timestamp,
            features: prediction.features,
            anomaly_score: prediction.anomaly_score,
            is_anomaly: prediction.is_anomaly,
            model_version: prediction.model_version,
            origin: Origin::Live,
            position: Some((prediction.partition, prediction.offset)),
            is_simulated: prediction.source.kind() == Kind::Simulated,
            trade,
        }
    }
}

/// Predictions counted, for one symbol or all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Predictions.
    pub count: u64,
    /// Those that said anomaly.
    pub anomalies: u64,
    /// Sum of the scores.
    pub score_sum: f64,
}

impl Tally {
    fn count(&mut self, anomaly_score: f64, is_anomaly: bool) {
        self.count += 1;
        self.anomalies += u64::from(is_anomaly);
        self.score_sum += anomaly_score;
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.anomalies += other.anomalies;
        self.score_sum += other.score_sum;
    }

    /// Share of anomalies in percent, 0 without predictions.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn anomaly_rate(&self) -> f64 {
        if self.count == 0 { 0.0 } else { 100.0 * self.anomalies as f64 / self.count as f64 }
    }

    /// Mean score, 0 without predictions.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn average_score(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.score_sum / self.count as f64 }
    }
}

/// Percentiles of scores, linearly interpolated between the two nearest ranks (the definition of `numpy.percentile`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Lower quartile.
    pub p25: f64,
    /// Median.
    pub p50: f64,
    /// Upper quartile.
    pub p75: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// One feature over the described predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureStatistics {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation, 0 for one prediction.
    pub std: f64,
    /// Smallest value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

/// What [`Feed::statistics`] tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// All predictions.
    pub total: Tally,
    /// Predictions by symbol; see [`MANUAL_SYMBOLS`].
    pub per_symbol: BTreeMap<Symbol, Tally>,
    /// Over the newest [`DESCRIBED`]; `None` without predictions.
    pub score_percentiles: Option<Percentiles>,
    /// In the order of [`domain::FEATURE_NAMES`], over the newest [`DESCRIBED`]; `None` without predictions.
    pub feature_stats: Option<[FeatureStatistics; FEATURE_NAMES.len()]>,
}

/// The predictions of this program, shared by the stream job and the service.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<State>,
    /// Wakes those that follow.
    came: watch::Sender<()>,
    alerts: broadcast::Sender<Arc<AlertRow>>,
    raised: broadcast::Sender<Arc<AlertRow>>,
}

impl Default for Feed {
    fn default() -> Self {
        let (alerts, raised) = (broadcast::Sender::new(ALERTS_KEPT), broadcast::Sender::new(ALERTS_KEPT));
        Self { state: Mutex::default(), came: watch::Sender::default(), alerts, raised }
    }
}

#[derive(Debug, Default)]
struct State {
    arrivals: u64,
    /// Live predictions appended so far; the newest of them end `live`.
    appended: u64,
    live: VecDeque<Arrived>,
    manual: VecDeque<Arrived>,
    total: Tally,
    per_symbol: BTreeMap<Symbol, Tally>,
}

/// The arrival number of predictions about the past; live and manual ones count from 1.
const HISTORY: u64 = 0;

#[derive(Debug)]
struct Arrived {
    number: u64,
    item: Arc<FeedItem>,
}

/// Live predictions that a follower has not seen before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Those that the feed still keeps, in their order.
    pub items: Vec<Arc<FeedItem>>,
    /// How many came before them and are gone.
    pub lost: u64,
}

/// Sees every live prediction once, as far as the feed keeps it.
#[derive(Debug)]
pub struct Follower {
    feed: Arc<Feed>,
    came: watch::Receiver<()>,
    /// Live predictions seen.
    seen: u64,
}

impl Follower {
    /// What came live since the call before; waits until something has.
    ///
    /// A call that is given up loses nothing.
    pub async fn news(&mut self) -> News {
        loop {
            self.came.mark_unchanged();
            let (news, appended) = self.feed.lock().after(self.seen);
            if appended > self.seen {
                self.seen = appended;
                return news;
            }
            // The feed holds the sender, and this the feed: it never goes.
            if self.came.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Feed {
    /// A feed that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over what the lake holds: counters over every stored prediction, and the newest of them, oldest first
    /// (at most [`LIVE_KEPT`] are used). The newest are part of the counters and are not counted again. To be called
    /// before anybody follows.
    pub fn restore(
        &self,
        counters: impl IntoIterator<Item = (Symbol, Tally)>,
        newest: impl IntoIterator<Item = FeedItem, IntoIter: ExactSizeIterator>,
    ) {
        let counters: Vec<_> = counters.into_iter().collect();
        let newest = newest.into_iter();
        let surplus = newest.len().saturating_sub(LIVE_KEPT);
        let kept = newest.skip(surplus).map(Arc::new).collect();
        let mut state = self.lock();
        state.count(counters.iter().map(|(symbol, tally)| (*symbol, tally)));
        state.append_live(surplus, kept);
    }

    /// Appends what the stream job predicted, in its order.
    pub fn push_live(&self, items: impl IntoIterator<Item = FeedItem, IntoIter: ExactSizeIterator>) {
        let items = items.into_iter();
        let surplus = items.len().saturating_sub(LIVE_KEPT);
        let (batch, kept) = counted(items, surplus);
        let mut state = self.lock();
        state.count(batch.iter().map(|(symbol, tally)| (*symbol, tally)));
        state.append_live(surplus, kept);
        drop(state);
        if !batch.is_empty() {
            self.came.send_replace(());
        }
    }

    /// Follows what is pushed live from now on.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Follower {
        let came = self.came.subscribe();
        let seen = self.lock().appended;
        Follower { feed: Arc::clone(self), came, seen }
    }

    /// Tells those that follow alerts what the stream job found, in its order.
    pub fn push_alerts(&self, alerts: &[AlertRow]) {
        for alert in alerts {
            let alert = Arc::new(alert.clone());
            // Where nobody follows, nobody misses it.
            if alert.is_raising() {
                let _ = self.raised.send(Arc::clone(&alert));
            }
            let _ = self.alerts.send(alert);
        }
    }

    /// Follows the alerts that come from now on, each event of them once.
    #[must_use]
    pub fn follow_alerts(&self) -> broadcast::Receiver<Arc<AlertRow>> {
        self.alerts.subscribe()
    }

    /// Follows the alerts that are raised from now on, without the events that join them.
    #[must_use]
    pub fn follow_raised(&self) -> broadcast::Receiver<Arc<AlertRow>> {
        self.raised.subscribe()
    }

    /// Takes in predictions about the past, in any order of calls: they are counted, and shown by their event time
    /// before all that arrived live, as far as there is room.
    pub fn push_older(&self, items: impl IntoIterator<Item = FeedItem>) {
        let (batch, mut newest) = counted(items, 0);
        newest.sort_by_key(|item| item.timestamp);
        newest.drain(..newest.len().saturating_sub(LIVE_KEPT));
        let mut state = self.lock();
        state.count(batch.iter().map(|(symbol, tally)| (*symbol, tally)));
        state.merge_history(newest);
    }

    /// Appends the answer to one request that came at `now`.
    pub fn push_manual(
        &self,
        symbol: Symbol,
        features: FeatureVector,
        verdict: Verdict,
        model_version: i64,
        now: Timestamp,
    ) {
        let Verdict { anomaly_score, is_anomaly, .. } = verdict;
        let item = FeedItem {
            symbol,
            timestamp: now,
            features,
            anomaly_score,
            is_anomaly,
            model_version,
            origin: Origin::Manual,
            position: None,
            is_simulated: false,
            trade: None,
        };
        let mut tally = Tally::default();
        tally.count(anomaly_score, is_anomaly);
        let mut state = self.lock();
        state.count_manual(symbol, &tally);
        state.append_manual(item);
    }

    /// Appends the answers to one request about many vectors that came at `now`, in its order. All are counted, the
    /// newest [`MANUAL_KEPT`] are shown.
    ///
    /// # Panics
    /// Where the slices have different lengths.
    pub fn push_manual_batch(
        &self,
        symbols: &[Symbol],
        vectors: &[FeatureVector],
        verdicts: &[Verdict],
        model_version: i64,
        now: Timestamp,
    ) {
        assert!(
            symbols.len() == vectors.len() && vectors.len() == verdicts.len(),
            "every vector has its symbol and its verdict"
        );
        let mut batch = BTreeMap::<Symbol, Tally>::new();
        for (symbol, verdict) in symbols.iter().zip(verdicts) {
            batch.entry(*symbol).or_default().count(verdict.anomaly_score, verdict.is_anomaly);
        }
        let answers = symbols.iter().zip(vectors).zip(verdicts);
        let newest = answers.skip(symbols.len().saturating_sub(MANUAL_KEPT));
        let newest: Vec<_> = newest
            .map(|((symbol, features), verdict)| FeedItem {
                symbol: *symbol,
                timestamp: now,
                features: *features,
                anomaly_score: verdict.anomaly_score,
                is_anomaly: verdict.is_anomaly,
                model_version,
                origin: Origin::Manual,
                position: None,
                is_simulated: false,
                trade: None,
            })
            .collect();
        let mut state = self.lock();
        for (symbol, tally) in &batch {
            state.count_manual(*symbol, tally);
        }
        for item in newest {
            state.append_manual(item);
        }
    }

    /// The newest `limit` predictions, of one symbol or of all, oldest of them first.
    #[must_use]
    pub fn latest(&self, limit: usize, symbol: Option<Symbol>) -> Vec<FeedItem> {
        let state = self.lock();
        let wanted = |item: &&FeedItem| symbol.is_none_or(|symbol| symbol == item.symbol);
        let mut items: Vec<_> = state.newest_first().filter(wanted).take(limit).cloned().collect();
        drop(state);
        items.reverse();
        items
    }

    /// Counters over everything, percentiles and feature statistics over the newest [`DESCRIBED`].
    ///
    /// Takes about a millisecond where the feed is full: call it off the threads that serve.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.lock();
        let total = state.total;
        let per_symbol = state.per_symbol.clone();
        let (mut scores, vectors): (Vec<f64>, Vec<FeatureVector>) =
            state.newest_first().take(DESCRIBED).map(|item| (item.anomaly_score, item.features)).unzip();
        drop(state);
        scores.sort_unstable_by(f64::total_cmp);
        let some = !scores.is_empty();
        Statistics {
            total,
            per_symbol,
            score_percentiles: some.then(|| percentiles(&scores)),
            feature_stats: some.then(|| std::array::from_fn(|feature| describe(&vectors, feature))),
        }
    }

    /// A push cannot leave the state half changed in a way that matters here, so that a poisoned lock is taken over.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count<'a>(&mut self, tallies: impl Iterator<Item = (Symbol, &'a Tally)>) {
        for (symbol, tally) in tallies {
            self.total.add(tally);
            self.per_symbol.entry(symbol).or_default().add(tally);
        }
    }

    /// Appends what is kept of a batch, and counts the surplus that came before it.
    fn append_live(&mut self, surplus: usize, kept: Vec<Arc<FeedItem>>) {
        self.appended += (surplus + kept.len()) as u64;
        let oldest = (self.live.len() + kept.len()).saturating_sub(LIVE_KEPT);
        self.live.drain(..oldest);
        for item in kept {
            self.arrivals += 1;
            self.live.push_back(Arrived { number: self.arrivals, item });
        }
        assert!(self.live.len() <= LIVE_KEPT, "the surplus was drained");
    }

    /// What was appended after the first `seen`, and how many were appended in all.
    fn after(&self, seen: u64) -> (News, u64) {
        let unseen = self.appended - seen;
        let kept = usize::try_from(unseen).unwrap_or(usize::MAX).min(self.live.len());
        let newest = self.live.iter().skip(self.live.len() - kept);
        let items = newest.map(|arrived| Arc::clone(&arrived.item)).collect();
        (News { items, lost: unseen - kept as u64 }, self.appended)
    }

    /// Puts the past in front of what arrived live, ordered by event time; the oldest go where there is no room.
    fn merge_history(&mut self, items: Vec<Arc<FeedItem>>) {
        let known = self.live.partition_point(|arrived| arrived.number == HISTORY);
        let mut history: Vec<Arc<FeedItem>> = self.live.drain(..known).map(|arrived| arrived.item).collect();
        history.extend(items);
        history.sort_by_key(|item| item.timestamp);
        let room = LIVE_KEPT - self.live.len();
        for item in history.into_iter().rev().take(room) {
            self.live.push_front(Arrived { number: HISTORY, item });
        }
    }

    fn count_manual(&mut self, symbol: Symbol, tally: &Tally) {
        self.total.add(tally);
        let room = self.per_symbol.len() < MANUAL_SYMBOLS;
        if let Some(known) = self.per_symbol.get_mut(&symbol) {
            known.add(tally);
        } else if room {
            self.per_symbol.insert(symbol, *tally);
        }
    }

    fn append_manual(&mut self, item: FeedItem) {
        if self.manual.len() == MANUAL_KEPT {
            self.manual.pop_front();
        }
        self.arrivals += 1;
        self.manual.push_back(Arrived { number: self.arrivals, item: Arc::new(item) });
    }

    /// Live and manual predictions merged, the newest arrival first.
    fn newest_first(&self) -> impl Iterator<Item = &FeedItem> {
        let mut live = self.live.iter().rev().peekable();
        let mut manual = self.manual.iter().rev().peekable();
        std::iter::from_fn(move || match (live.peek(), manual.peek()) {
            (Some(a), Some(b)) if a.number < b.number => manual.next(),
            (None, _) => manual.next(),
            (Some(_), _) => live.next(),
        })
        .map(|arrived| &*arrived.item)
    }
}

/// A batch, counted by symbol, and what comes after its first `surplus` items, to be kept.
fn counted(items: impl IntoIterator<Item = FeedItem>, surplus: usize) -> (BTreeMap<Symbol, Tally>, Vec<Arc<FeedItem>>) {
    let items = items.into_iter();
    let mut batch = BTreeMap::<Symbol, Tally>::new();
    let mut kept = Vec::with_capacity(items.size_hint().0.saturating_sub(surplus));
    for (place, item) in items.enumerate() {
        batch.entry(item.symbol).or_default().count(item.anomaly_score, item.is_anomaly);
        if place >= surplus {
            kept.push(Arc::new(item));
        }
    }
    (batch, kept)
}

fn percentiles(ascending: &[f64]) -> Percentiles {
    let at = |percent| percentile(ascending, percent);
    Percentiles { p25: at(25.0), p50: at(50.0), p75: at(75.0), p95: at(95.0), p99: at(99.0) }
}

/// The value below which `percent` of `ascending` (not empty) lie, linearly interpolated.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is between 0 and DESCRIBED"
)]
fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let last = ascending.len() - 1;
    let rank = percent / 100.0 * last as f64;
    let below = rank as usize;
    let above = (below + 1).min(last);
    ascending[below] + (ascending[above] - ascending[below]) * (rank - below as f64)
}

/// A feature above it is made smaller while it is described, so that the sum of squares stays finite.
const LARGE: f64 = 1e140;

/// Statistics of one feature over `vectors` (not empty), in two passes.
#[expect(clippy::cast_precision_loss, reason = "at most DESCRIBED values")]
fn describe(vectors: &[FeatureVector], feature: usize) -> FeatureStatistics {
    let values = || vectors.iter().map(|vector| vector[feature]);
    let (min, max) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    // A power of two, which changes no digit.
    let scale = if max > LARGE { 2.0_f64.powi(-600) } else { 1.0 };
    let scaled = || values().map(|value| value * scale);
    let count = vectors.len() as f64;
    let mean = scaled().sum::<f64>() / count;
    let squares: f64 = scaled().map(|value| (value - mean) * (value - mean)).sum();
    FeatureStatistics {
        mean: (mean / scale).min(max),
        std: ((squares / (count - 1.0).max(1.0)).sqrt() / scale).min(max - min),
        min,
        max,
    }
}

#[cfg(test)]
mod tests {
    use domain::Source;

    use super::*;

    const TRADE: Trade = Trade { price: 100.5, volume: 1.5 };

    fn symbol(text: &str) -> Symbol {
        Symbol::parse(text).unwrap()
    }

    /// The `offset`-th live prediction; its score tells the offset.
    fn live(offset: i64, market: &str) -> FeedItem {
        let score = f64::from(i32::try_from(offset).unwrap());
        FeedItem {
            symbol: symbol(market),
            timestamp: Timestamp::from_seconds(offset),
            features: [score, 0.0, 0.0, 0.0, 1.0],
            anomaly_score: score,
            is_anomaly: false,
            model_version: 1,
            origin: Origin::Live,
            position: Some((0, offset)),
            is_simulated: true,
            trade: Some(TRADE),
        }
    }

    fn push_manual(feed: &Feed, market: &str, score: f64) {
        let verdict = Verdict { anomaly_score: score, is_anomaly: score < 0.0 };
        feed.push_manual(symbol(market), [score, 0.0, 0.0, 0.0, 1.0], verdict, 1, Timestamp::from_seconds(0));
    }

    fn scores(items: &[FeedItem]) -> Vec<f64> {
        items.iter().map(|item| item.anomaly_score).collect()
    }

    #[test]
    fn a_live_prediction_is_shown_with_what_was_traded_and_a_manual_one_without() {
        let prediction = |source| Prediction {
            partition: 0,
            offset: 7,
            ingest_time: Timestamp::from_seconds(8),
            timestamp: Timestamp::from_seconds(7),
            symbol: symbol("BTC-USDT"),
            features: [7.0, 0.0, 0.0, 0.0, 1.0],
            anomaly_score: 7.0,
            is_anomaly: false,
            model_version: 1,
            in_sample: false,
            label_is_anomaly: None,
            label_anomaly_type: None,
            source,
        };
        let made_up = live(7, "BTC-USDT");
        assert_eq!(FeedItem::live(&prediction(Source::Simulated), Some(TRADE)), made_up);
        let real = FeedItem { is_simulated: false, trade: None, ..made_up };
        assert_eq!(FeedItem::live(&prediction(Source::Binance), None), real);
        let feed = Feed::new();
        feed.push_live([live(1, "BTC-USDT")]);
        push_manual(&feed, "BTC-USDT", 2.0);
        let verdict = Verdict { anomaly_score: 3.0, is_anomaly: false };
        feed.push_manual_batch(&[symbol("BTC-USDT")], &[[0.0; 5]], &[verdict], 1, Timestamp::from_seconds(0));
        let trades: Vec<_> = feed.latest(9, None).iter().map(|item| item.trade).collect();
        assert_eq!(trades, [Some(TRADE), None, None]);
    }

    #[test]
    fn an_empty_feed_tells_zeros_and_nothing_else() {
        let feed = Feed::new();
        assert_eq!(feed.latest(100, None), []);
        assert_eq!(feed.statistics(), Statistics::default());
        assert_eq!((Tally::default().anomaly_rate(), Tally::default().average_score()), (0.0, 0.0));
    }

    #[test]
    fn the_newest_come_oldest_first_and_merged_by_arrival() {
        let feed = Feed::new();
        feed.push_live([live(1, "BTC-USDT"), live(2, "ETH-USDT")]);
        push_manual(&feed, "BTC-USDT", 3.0);
        feed.push_live([live(4, "BTC-USDT")]);
        push_manual(&feed, "ETH-USDT", 5.0);
        assert_eq!(scores(&feed.latest(100, None)), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(scores(&feed.latest(2, None)), [4.0, 5.0]);
        assert_eq!(scores(&feed.latest(2, Some(symbol("BTC-USDT")))), [3.0, 4.0]);
        assert_eq!(feed.latest(2, Some(symbol("XRP-USDT"))), []);
        assert_eq!(feed.latest(2, None).iter().map(|i| i.origin).collect::<Vec<_>>(), [Origin::Live, Origin::Manual]);
    }

    #[tokio::test]
    async fn a_follower_sees_every_live_prediction_once_and_is_told_how_many_it_lost() {
        let feed = Arc::new(Feed::new());
        feed.restore([], [live(1, "BTC-USDT")]);
        feed.push_live([live(2, "BTC-USDT")]);
        let mut follower = feed.follow();
        feed.push_live([live(3, "BTC-USDT"), live(4, "ETH-USDT")]);
        push_manual(&feed, "BTC-USDT", 5.0);
        feed.push_older([live(6, "BTC-USDT")]);
        feed.push_live([live(7, "BTC-USDT")]);
        let offsets =
            |news: &News| news.items.iter().map(|item| item.position.unwrap_or_default().1).collect::<Vec<_>>();
        let news = follower.news().await;
        assert_eq!((offsets(&news), news.lost), (vec![3, 4, 7], 0));
        let batch: Vec<_> = (10..25_010).map(|offset| live(offset, "BTC-USDT")).collect();
        feed.push_live(batch);
        let news = follower.news().await;
        assert_eq!((news.items.len(), offsets(&news)[0], news.lost), (LIVE_KEPT, 15_010, 15_000));
        let pushed = tokio::spawn(async move { feed.push_live([live(30_000, "BTC-USDT")]) });
        assert_eq!(offsets(&follower.news().await), [30_000]);
        pushed.await.unwrap();
    }

    #[test]
    fn many_manual_predictions_push_out_no_live_one() {
        let feed = Feed::new();
        feed.push_live([live(1, "BTC-USDT")]);
        for number in 0..2_000_i32 {
            push_manual(&feed, "ETH-USDT", f64::from(number));
        }
        let all = feed.latest(usize::MAX, None);
        assert_eq!(all.len(), 1 + MANUAL_KEPT);
        assert_eq!(all[0].origin, Origin::Live);
        assert_eq!(feed.statistics().total.count, 2_001);
    }

    #[test]
    fn a_batch_greater_than_what_is_kept_is_counted_whole() {
        let feed = Feed::new();
        feed.push_live([live(0, "BTC-USDT")]);
        let batch: Vec<_> = (1..=25_000).map(|offset| live(offset, "BTC-USDT")).collect();
        feed.push_live(batch);
        let kept = scores(&feed.latest(usize::MAX, None));
        assert_eq!((kept.len(), kept[0], kept[LIVE_KEPT - 1]), (LIVE_KEPT, 15_001.0, 25_000.0));
        assert_eq!(feed.statistics().total.count, 25_001);
    }

    #[test]
    fn a_manual_batch_greater_than_what_is_kept_is_counted_whole_and_its_newest_are_shown() {
        let feed = Feed::new();
        push_manual(&feed, "BTC-USDT", -1.0);
        let numbers = || (0..700_i32).map(f64::from);
        let symbols: Vec<_> =
            numbers().map(|number| symbol(if number < 100.0 { "BTC-USDT" } else { "ETH-USDT" })).collect();
        let vectors: Vec<_> = numbers().map(|number| [number, 0.0, 0.0, 0.0, 1.0]).collect();
        let verdicts: Vec<_> =
            numbers().map(|number| Verdict { anomaly_score: number, is_anomaly: number < 1.0 }).collect();
        feed.push_manual_batch(&symbols, &vectors, &verdicts, 7, Timestamp::from_seconds(9));
        feed.push_manual_batch(&[], &[], &[], 7, Timestamp::from_seconds(10));
        let shown = feed.latest(usize::MAX, None);
        assert_eq!(scores(&shown), numbers().skip(200).collect::<Vec<_>>());
        assert!(shown.iter().all(|item| item.model_version == 7 && item.timestamp == Timestamp::from_seconds(9)));
        assert!(shown.iter().all(|item| item.features[0] == item.anomaly_score && item.origin == Origin::Manual));
        let statistics = feed.statistics();
        assert_eq!(statistics.total, Tally { count: 701, anomalies: 2, score_sum: 244_649.0 });
        assert_eq!(
            statistics.per_symbol,
            BTreeMap::from([
                (symbol("BTC-USDT"), Tally { count: 101, anomalies: 2, score_sum: 4_949.0 }),
                (symbol("ETH-USDT"), Tally { count: 600, anomalies: 0, score_sum: 239_700.0 }),
            ])
        );
    }

    #[test]
    fn restored_counters_go_on_and_restored_predictions_are_not_counted_twice() {
        let feed = Feed::new();
        let stored = Tally { count: 70, anomalies: 1, score_sum: 7.0 };
        feed.restore([(symbol("BTC-USDT"), stored)], [live(1, "BTC-USDT"), live(2, "BTC-USDT")]);
        assert_eq!(feed.statistics().total, stored);
        assert_eq!(scores(&feed.latest(10, None)), [1.0, 2.0]);
        feed.push_live([live(3, "BTC-USDT")]);
        push_manual(&feed, "ETH-USDT", -1.0);
        let statistics = feed.statistics();
        assert_eq!(statistics.total, Tally { count: 72, anomalies: 2, score_sum: 9.0 });
        assert_eq!(
            statistics.per_symbol,
            BTreeMap::from([
                (symbol("BTC-USDT"), Tally { count: 71, anomalies: 1, score_sum: 10.0 }),
                (symbol("ETH-USDT"), Tally { count: 1, anomalies: 1, score_sum: -1.0 }),
            ])
        );
    }

    #[test]
    fn the_past_comes_before_what_is_live_in_order_of_its_event_time() {
        let feed = Feed::new();
        feed.push_live([live(90_000, "BTC-USDT")]);
        push_manual(&feed, "BTC-USDT", 95_000.0);
        let older = |offsets: std::ops::Range<i64>| offsets.map(|offset| live(offset, "ETH-USDT")).collect::<Vec<_>>();
        feed.push_older(older(0..30_000));
        feed.push_older(older(40_000..44_000));
        feed.push_older(older(30_000..40_000));
        feed.push_live([live(91_000, "BTC-USDT")]);
        let kept = scores(&feed.latest(usize::MAX, None));
        assert!(kept.is_sorted_by(|a, b| a < b || (*a, *b) == (95_000.0, 91_000.0)));
        assert_eq!((kept.len(), kept[0], kept[LIVE_KEPT]), (LIVE_KEPT + 1, 34_002.0, 91_000.0));
        assert_eq!(feed.statistics().total.count, 44_003);
    }

    /// The expected values are those of `numpy.percentile([0, 1, 2, 3, 10], [25, 50, 75, 95, 99])`, `mean`,
    /// `std(ddof=1)`.
    #[test]
    fn percentiles_and_feature_statistics_are_those_of_numpy() {
        let feed = Feed::new();
        feed.push_live([10, 0, 3, 1, 2].map(|offset| live(offset, "BTC-USDT")));
        let statistics = feed.statistics();
        let found = statistics.score_percentiles.unwrap();
        for (found, expected) in
            [(found.p25, 1.0), (found.p50, 2.0), (found.p75, 3.0), (found.p95, 8.6), (found.p99, 9.72)]
        {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
        let [first, .., last] = statistics.feature_stats.unwrap();
        assert!((first.std - 3.962_322_551_231_79).abs() < 1e-12, "{first:?}");
        assert_eq!((first.mean, first.min, first.max), (3.2, 0.0, 10.0));
        assert_eq!(last, FeatureStatistics { mean: 1.0, std: 0.0, min: 1.0, max: 1.0 });
    }

    #[test]
    fn the_greatest_features_have_finite_statistics() {
        let feed = Feed::new();
        let verdict = Verdict { anomaly_score: -0.5, is_anomaly: true };
        for (last, middle) in [(f64::MAX, 0.0), (f64::MAX, f64::MAX)] {
            let features = [0.0, 0.0, 0.0, middle, last];
            feed.push_manual(symbol("BTC-USDT"), features, verdict, 1, Timestamp::from_seconds(0));
        }
        let [.., middle, last] = feed.statistics().feature_stats.unwrap();
        assert_eq!(last, FeatureStatistics { mean: f64::MAX, std: 0.0, min: f64::MAX, max: f64::MAX });
        assert_eq!((middle.mean, middle.max), (f64::MAX / 2.0, f64::MAX));
        assert!((middle.std / f64::MAX - 0.5_f64.sqrt()).abs() < 1e-12, "{middle:?}");
    }

    #[test]
    fn one_prediction_has_no_deviation() {
        let feed = Feed::new();
        push_manual(&feed, "BTC-USDT", -0.5);
        let statistics = feed.statistics();
        assert_eq!(statistics.score_percentiles.unwrap().p99, -0.5);
        assert_eq!(statistics.feature_stats.unwrap()[0].std, 0.0);
        assert_eq!((statistics.total.anomaly_rate(), statistics.total.average_score()), (100.0, -0.5));
    }

    #[test]
    fn percentiles_look_at_the_newest_ten_thousand_only() {
        let feed = Feed::new();
        let old: Vec<_> = (0..100).map(|_| live(1_000_000, "BTC-USDT")).collect();
        feed.push_live(old);
        for number in 0..300_i32 {
            push_manual(&feed, "BTC-USDT", f64::from(number));
        }
        let new: Vec<_> = (0..9_700).map(|_| live(5, "BTC-USDT")).collect();
        feed.push_live(new);
        let statistics = feed.statistics();
        assert_eq!(statistics.feature_stats.unwrap()[0].max, 299.0);
        assert_eq!(statistics.total.count, 10_100);
    }

    #[test]
    fn strange_symbols_cannot_grow_the_counters_without_end() {
        let feed = Feed::new();
        for number in 0..MANUAL_SYMBOLS + 50 {
            push_manual(&feed, &format!("X{number}-USDT"), 0.0);
        }
        feed.push_live([live(1, "BTC-USDT")]);
        let statistics = feed.statistics();
        assert_eq!(statistics.per_symbol.len(), MANUAL_SYMBOLS + 1);
        assert_eq!(statistics.total.count, u64::try_from(MANUAL_SYMBOLS).unwrap() + 51);
    }
}
