//! The built-in market: per symbol a geometric random walk with log-normal volume and labelled anomaly episodes.
//!
//! Invariant: the events are a function of the settings, (seed, symbol, tick) and the state in the position, so that
//! the same seed gives the same bytes and an interrupted market goes on as if it had not been. Never reads a clock:
//! event time starts at the settings' `start` and moves by `interval_micros` a tick.
//!
//! An anomaly is an episode, and every event of it carries the label:
//! - `PRICE_SPIKE`: the price jumps 5 to 15 % above the walk and returns to it in equal steps over the next 1 to 10
//!   events, the last of which lies on the walk; the volume is raised with it.
//! - `FLASH_CRASH`: the same downwards.
//! - `VOLUME_SPIKE`: 1 to 3 events of eight times the volume.

use domain::{Event, IngestId, Source, Symbol, Timestamp, time::MICROS};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;

/// The relative size of a price episode.
const PRICE_JUMP: std::ops::Range<f64> = 0.05..0.15;

/// Over how many events a price returns to the walk.
const RETURN_EVENTS: std::ops::RangeInclusive<u32> = 1..=10;

/// How many events a volume spike has.
const VOLUME_EVENTS: std::ops::RangeInclusive<u32> = 1..=3;

/// The factor of a volume spike.
const VOLUME_FACTOR: f64 = 8.0;

/// The volume's rise at the height of a price spike: three times.
const SPIKE_VOLUME_RISE: f64 = 2.0;

/// The volume's rise at the depth of a flash crash: five times.
const CRASH_VOLUME_RISE: f64 = 4.0;

/// The mean number of events of an episode: a jump and 5.5 returning events, twice, and 2, each kind a third.
const MEAN_EPISODE_EVENTS: f64 = (6.5 + 6.5 + 2.0) / 3.0;

/// Prices and volumes are rounded to 1e-8, the smallest step of the venues; a walk never falls below it.
const STEPS_PER_UNIT: f64 = 1e8;

/// What a simulated market is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSettings {
    /// The seed of everything random.
    pub seed: u64,
    /// The symbols, each with its own walk.
    pub symbols: Vec<SimulatedSymbol>,
    /// Event time between two ticks in microseconds; default 1 s.
    pub interval_micros: i64,
    /// The expected share of labelled events, 0 to 1; default 0.01. One that is episode after episode has 1.
    pub anomaly_probability: f64,
    /// Event time of the first tick of a market that does not resume.
    pub start: Timestamp,
}

impl SimulatedSettings {
    /// BTC-USDT, ETH-USDT and BNB-USDT at one event per second, 1 % of the events in anomaly episodes.
    ///
    /// # Errors
    /// None in practice: the symbols are constants.
    pub fn with_defaults(seed: u64, start: Timestamp) -> Result<Self, Error> {
        let symbol = |(name, price): (&str, f64)| {
            let symbol = Symbol::parse(name).map_err(|error| Error::Settings(error.to_string()))?;
            Ok(SimulatedSymbol::with_defaults(symbol, price))
        };
        let markets = [("BTC-USDT", 43_000.0), ("ETH-USDT", 2_300.0), ("BNB-USDT", 310.0)];
        Ok(Self {
            seed,
            symbols: markets.into_iter().map(symbol).collect::<Result<_, Error>>()?,
            interval_micros: MICROS,
            anomaly_probability: 0.01,
            start,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::Settings(text));
        if self.symbols.is_empty() {
            return refuse("a simulated market needs at least one symbol".to_owned());
        }
        if self.interval_micros <= 0 {
            return refuse(format!("the interval {} us must be above 0", self.interval_micros));
        }
        if !(0.0..=1.0).contains(&self.anomaly_probability) {
            return refuse(format!("the anomaly probability {} must be 0 to 1", self.anomaly_probability));
        }
        let mut names: Vec<Symbol> = self.symbols.iter().map(|settings| settings.symbol).collect();
        names.sort_unstable();
        if let Some((twice, _)) = names.iter().zip(names.iter().skip(1)).find(|(one, next)| one == next) {
            return refuse(format!("the simulated symbol {twice} is listed twice"));
        }
        self.symbols.iter().try_for_each(SimulatedSymbol::check)
    }
}

/// The walk and the volume of one symbol.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSymbol {
    /// The market.
    pub symbol: Symbol,
    /// Where its walk begins, in quote units.
    pub start_price: f64,
    /// Standard deviation of the walk's log-return per event. A walk of deviation s has a standard deviation of about
    /// s * sqrt(10) within 60 events; the default gives 0.002 there.
    pub volatility: f64,
    /// Mean of ln(volume); the default gives a mean volume of 14.
    pub volume_log_mean: f64,
    /// Standard deviation of ln(volume); the default gives a standard deviation of the volume of 10.
    pub volume_log_sigma: f64,
}

impl SimulatedSymbol {
    /// The default walk from a start price.
    #[must_use]
    pub fn with_defaults(symbol: Symbol, start_price: f64) -> Self {
        // A log-normal of mean m and deviation d has sigma^2 = ln(1 + (d/m)^2) and mu = ln(m) - sigma^2 / 2.
        let (mean, deviation) = (14.0_f64, 10.0_f64);
        let variance = libm::log1p((deviation / mean) * (deviation / mean));
        Self {
            symbol,
            start_price,
            volatility: 0.002 / 10.0_f64.sqrt(),
            volume_log_mean: libm::log(mean) - variance / 2.0,
            volume_log_sigma: variance.sqrt(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let Self { symbol, start_price, volatility, volume_log_mean, volume_log_sigma } = self;
        let within = |value: f64, limit: f64| (0.0..=limit).contains(&value);
        if !(*start_price >= 1.0 / STEPS_PER_UNIT && *start_price <= 1e12) {
            return Err(Error::Settings(format!("the start price {start_price} of {symbol} must be 1e-8 to 1e12")));
        }
        if !within(*volatility, 1.0) || !within(*volume_log_sigma, 10.0) || !within(volume_log_mean.abs(), 20.0) {
            return Err(Error::Settings(format!(
                "{symbol}: the volatility must be 0 to 1, the volume's log-sigma 0 to 10 and its log-mean -20 to 20"
            )));
        }
        Ok(())
    }
}

/// A market that makes itself up, tick by tick.
#[derive(Clone, Debug)]
pub struct SimulatedMarket {
    settings: SimulatedSettings,
    run: Box<str>,
    /// Probability that an event outside an episode begins one.
    onset: f64,
    tick: u64,
    time: Timestamp,
    walks: Vec<Walk>,
}

/// The state of one symbol: what the last logged events leave behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Walk {
    /// Price of the undisturbed walk.
    price: f64,
    /// The episode under way, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    episode: Option<Episode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Episode {
    kind: EpisodeKind,
    /// Relative jump of the price; 0 for a volume spike.
    size: f64,
    /// Events of the episode, the first included.
    length: u32,
    /// Events emitted.
    step: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum EpisodeKind {
    PriceSpike,
    VolumeSpike,
    FlashCrash,
}

impl EpisodeKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::PriceSpike => "PRICE_SPIKE",
            Self::VolumeSpike => "VOLUME_SPIKE",
            Self::FlashCrash => "FLASH_CRASH",
        }
    }
}

impl Episode {
    /// The factors of price and volume at the current step.
    fn factors(&self) -> (f64, f64) {
        let returning = f64::from(self.length.saturating_sub(1)).max(1.0);
        let left = 1.0 - f64::from(self.step) / returning;
        match self.kind {
            EpisodeKind::PriceSpike => (1.0 + self.size * left, 1.0 + SPIKE_VOLUME_RISE * left),
            EpisodeKind::FlashCrash => (1.0 - self.size * left, 1.0 + CRASH_VOLUME_RISE * left),
            EpisodeKind::VolumeSpike => (1.0, VOLUME_FACTOR),
        }
    }

    fn next(mut self) -> Option<Self> {
        self.step += 1;
        (self.step < self.length).then_some(self)
    }
}

/// The text of a position.
#[derive(Serialize, Deserialize)]
struct Position {
    tick: u64,
    time_micros: i64,
    walks: BTreeMap<String, Walk>,
}

impl SimulatedMarket {
    /// A market at its first tick, or at the one after the given position. Event time then goes on from the position,
    /// and a symbol that is new in the settings starts its walk.
    ///
    /// # Errors
    /// [`Error::Settings`] where settings are outside their limits, [`Error::Position`] where the text is not of
    /// [`SimulatedMarket::position`].
    pub fn new(settings: SimulatedSettings, resume: Option<&str>) -> Result<Self, Error> {
        settings.check()?;
        let mut position = match resume {
            Some(text) => serde_json::from_str(text).map_err(|error| Error::Position {
                position: text.chars().take(200).collect(),
                reason: error.to_string(),
            })?,
            None => Position { tick: 0, time_micros: settings.start.micros(), walks: BTreeMap::new() },
        };
        let walk = |symbol: &SimulatedSymbol| {
            position.walks.remove(symbol.symbol.as_str()).unwrap_or(Walk { price: symbol.start_price, episode: None })
        };
        let walks = settings.symbols.iter().map(walk).collect();
        let share = settings.anomaly_probability;
        Ok(Self {
            run: format!("sim-{}", settings.seed).into(),
            // Episodes of mean length L and gaps of mean length (1 - s) / s alternate: share = L / (L + (1 - s) / s).
            onset: if share > 0.0 { share / (share + MEAN_EPISODE_EVENTS * (1.0 - share)) } else { 0.0 },
            tick: position.tick,
            time: Timestamp::from_micros(position.time_micros),
            walks,
            settings,
        })
    }

    /// Identity of the source: `sim-<seed>`, also the run of its events' ids.
    #[must_use]
    pub fn source_id(&self) -> &str {
        &self.run
    }

    /// Event time of the next tick.
    #[must_use]
    pub const fn next_time(&self) -> Timestamp {
        self.time
    }

    /// Number of the next tick, counted from 0.
    #[must_use]
    pub const fn tick(&self) -> u64 {
        self.tick
    }

    /// The events of the next tick, one per symbol in the order of the settings.
    pub fn next_tick(&mut self) -> Vec<Event> {
        let (tick, time) = (self.tick, self.time);
        self.tick += 1;
        self.time = time.plus_micros(self.settings.interval_micros);
        let settings = &self.settings;
        let (run, onset) = (&self.run, self.onset);
        let event = |(symbol, walk): (&SimulatedSymbol, &mut Walk)| {
            let mut chance = chance(settings.seed, symbol.symbol, tick);
            let (price, volume, episode) = step(symbol, walk, onset, &mut chance);
            Event {
                timestamp: time,
                symbol: symbol.symbol,
                price,
                volume,
                log_return: None,
                is_anomaly: Some(episode.is_some()),
                anomaly_type: episode.map(|kind| kind.as_str().into()),
                trade_id: None,
                side: None,
                ingest_id: Some(IngestId { run: run.clone(), sequence: i64::try_from(tick).unwrap_or(i64::MAX) }),
                source: Source::Simulated,
                extra: None,
            }
        };
        settings.symbols.iter().zip(&mut self.walks).map(event).collect()
    }

    /// Where the market stands: all that is needed to go on exactly, as JSON text.
    #[must_use]
    pub fn position(&self) -> String {
        let names = self.settings.symbols.iter().map(|symbol| symbol.symbol.to_string());
        let walks = names.zip(self.walks.iter().cloned()).collect();
        let position = Position { tick: self.tick, time_micros: self.time.micros(), walks };
        serde_json::to_string(&position).unwrap_or_else(|error| unreachable!("numbers and names: {error}"))
    }
}

/// The random numbers of one event: a generator of its own, whose key is (seed, symbol, tick).
fn chance(seed: u64, symbol: Symbol, tick: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&xxh3_64(symbol.as_bytes()).to_le_bytes());
    key[16..24].copy_from_slice(&tick.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Moves a walk by one event: its price, volume and label.
fn step(
    symbol: &SimulatedSymbol,
    walk: &mut Walk,
    onset: f64,
    chance: &mut ChaCha8Rng,
) -> (f64, f64, Option<EpisodeKind>) {
    let price_move: f64 = StandardNormal.sample(chance);
    let volume_move: f64 = StandardNormal.sample(chance);
    // The half of the variance makes the price itself, not its logarithm, free of a trend.
    let drift = symbol.volatility * symbol.volatility / 2.0;
    walk.price = (walk.price * libm::exp(symbol.volatility * price_move - drift)).max(1.0 / STEPS_PER_UNIT);
    let volume = libm::exp(symbol.volume_log_mean + symbol.volume_log_sigma * volume_move);
    let episode = match walk.episode {
        Some(under_way) => Some(under_way),
        None if chance.random::<f64>() < onset => Some(begin_episode(chance)),
        None => None,
    };
    walk.episode = episode.and_then(Episode::next);
    let (price_factor, volume_factor) = episode.map_or((1.0, 1.0), |episode| episode.factors());
    let price = rounded(walk.price * price_factor).max(1.0 / STEPS_PER_UNIT);
    (price, rounded(volume * volume_factor), episode.map(|episode| episode.kind))
}

fn begin_episode(chance: &mut ChaCha8Rng) -> Episode {
    let kind = match chance.random_range(0..3_u32) {
        0 => EpisodeKind::PriceSpike,
        1 => EpisodeKind::FlashCrash,
        _ => EpisodeKind::VolumeSpike,
    };
    let (size, length) = match kind {
        EpisodeKind::VolumeSpike => (0.0, chance.random_range(VOLUME_EVENTS)),
        _ => (chance.random_range(PRICE_JUMP), 1 + chance.random_range(RETURN_EVENTS)),
    };
    Episode { kind, size, length, step: 0 }
}

fn rounded(value: f64) -> f64 {
    (value * STEPS_PER_UNIT).round() / STEPS_PER_UNIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use domain::Record;
    use proptest::prelude::*;

    fn settings(seed: u64, probability: f64) -> SimulatedSettings {
        let start = Timestamp::from_seconds(1_710_000_000);
        SimulatedSettings { anomaly_probability: probability, ..SimulatedSettings::with_defaults(seed, start).unwrap() }
    }

    fn market(seed: u64, probability: f64) -> SimulatedMarket {
        SimulatedMarket::new(settings(seed, probability), None).unwrap()
    }

    fn bytes(market: &mut SimulatedMarket, ticks: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for event in (0..ticks).flat_map(|_| market.next_tick()) {
            encode(&Record::Event(event), &mut out);
            out.push(b'\n');
        }
        out
    }

    fn labelled_share(market: &mut SimulatedMarket, events: usize) -> f64 {
        let labelled = (0..events / 3).flat_map(|_| market.next_tick()).filter(|e| e.is_anomaly == Some(true)).count();
        f64::from(u32::try_from(labelled).unwrap()) / f64::from(u32::try_from(events).unwrap())
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let run = |seed| bytes(&mut market(seed, 0.05), 500);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn the_first_events_of_a_seed_are_pinned() {
        let text = String::from_utf8(bytes(&mut market(42, 0.3), 4)).unwrap();
        assert_eq!(text, include_str!("../tests/golden/simulated.jsonl"));
    }

    proptest! {
        #[test]
        fn an_interrupted_market_goes_on_as_if_it_had_not_been(seed: u64, interruptions in prop::collection::vec(0..40_usize, 1..6)) {
            let mut undisturbed = market(seed, 0.2);
            let expected = bytes(&mut undisturbed, interruptions.iter().sum());
            let mut position: Option<String> = None;
            let mut got = Vec::new();
            for ticks in interruptions {
                let mut resumed = SimulatedMarket::new(settings(seed, 0.2), position.as_deref()).unwrap();
                got.extend(bytes(&mut resumed, ticks));
                position = Some(resumed.position());
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(position, Some(undisturbed.position()));
        }
    }

    #[test]
    fn the_labelled_share_is_the_asked_probability() {
        let share = labelled_share(&mut market(1, 0.01), 200_000);
        assert!((share / 0.01 - 1.0).abs() < 0.1, "{share}");
        // Over many seeds chance averages out, and the share must be closer.
        let mean = (0..5).map(|seed| labelled_share(&mut market(seed, 0.01), 200_000)).sum::<f64>() / 5.0;
        assert!((mean / 0.01 - 1.0).abs() < 0.05, "{mean}");
        for probability in [0.0, 0.1, 0.5, 1.0] {
            let share = labelled_share(&mut market(3, probability), 60_000);
            assert!((share - probability).abs() <= 0.05 * probability, "{probability}: {share}");
        }
    }

    /// The same walk with and without episodes: what differs is the episode.
    #[test]
    fn a_price_episode_leaves_the_walk_and_returns_to_it() {
        let (mut disturbed, mut calm) = (market(5, 0.05), market(5, 0.0));
        let mut seen = BTreeMap::new();
        for _ in 0..20_000 {
            for (event, walk) in disturbed.next_tick().into_iter().zip(calm.next_tick()) {
                let excess = event.price / walk.price - 1.0;
                let size = excess.abs();
                match event.anomaly_type.as_deref() {
                    None => {
                        let bits = |e: &Event| (e.price.to_bits(), e.volume.to_bits());
                        assert_eq!(bits(&event), bits(&walk));
                    }
                    Some("VOLUME_SPIKE") => {
                        assert!(size < 1e-12 && (event.volume / walk.volume - 8.0).abs() < 1e-6);
                    }
                    Some("PRICE_SPIKE") => assert!(excess >= -1e-9 && size < 0.1501),
                    Some(_) => assert!(excess <= 1e-9 && size < 0.1501),
                }
                let label = event.anomaly_type.map_or_else(String::new, String::from);
                let greatest: &mut f64 = seen.entry(label).or_default();
                *greatest = greatest.max(size);
            }
        }
        assert_eq!(
            seen.keys().map(String::as_str).collect::<Vec<_>>(),
            ["", "FLASH_CRASH", "PRICE_SPIKE", "VOLUME_SPIKE"]
        );
        assert!(seen["PRICE_SPIKE"] > 0.14 && seen["FLASH_CRASH"] > 0.14);
    }

    #[test]
    fn the_default_walk_has_the_documented_deviations() {
        let mut market = market(11, 0.0);
        let events: Vec<_> = (0..60_000).map(|_| market.next_tick().remove(0)).collect();
        let deviation = |values: &[f64]| {
            let n = f64::from(u32::try_from(values.len()).unwrap());
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
            ((squares / (n - 1.0)).sqrt(), mean)
        };
        let windows = events.chunks(60).map(|window| {
            let (deviation, mean) = deviation(&window.iter().map(|event| event.price).collect::<Vec<_>>());
            deviation / mean
        });
        let relative = windows.sum::<f64>() / 1_000.0;
        assert!((0.0017..0.0023).contains(&relative), "{relative}");
        let (volume, mean) = deviation(&events.iter().map(|event| event.volume).collect::<Vec<_>>());
        assert!((9.0..11.0).contains(&volume) && (13.5..14.5).contains(&mean), "{volume} {mean}");
    }

    #[test]
    fn a_new_symbol_joins_a_resumed_market() {
        let mut first = market(9, 0.0);
        bytes(&mut first, 10);
        let mut more = settings(9, 0.0);
        let solana = Symbol::parse("SOL-USDT").unwrap();
        more.symbols.push(SimulatedSymbol::with_defaults(solana, 100.0));
        let mut resumed = SimulatedMarket::new(more, Some(&first.position())).unwrap();
        let events = resumed.next_tick();
        assert_eq!(events[..3], first.next_tick());
        assert_eq!((events[3].symbol, events[3].timestamp), (solana, events[0].timestamp));
    }

    #[test]
    fn settings_and_positions_outside_their_limits_are_refused() {
        let refused = |change: &dyn Fn(&mut SimulatedSettings)| {
            let mut settings = settings(1, 0.01);
            change(&mut settings);
            matches!(SimulatedMarket::new(settings, None), Err(Error::Settings(_)))
        };
        assert!(refused(&|s| s.symbols.clear()));
        assert!(refused(&|s| s.interval_micros = 0));
        assert!(refused(&|s| s.anomaly_probability = 1.1));
        assert!(refused(&|s| s.anomaly_probability = f64::NAN));
        assert!(refused(&|s| s.symbols[0].start_price = 0.0));
        assert!(refused(&|s| s.symbols[0].volatility = -1.0));
        assert!(refused(&|s| s.symbols.push(s.symbols[0].clone())));
        assert!(matches!(SimulatedMarket::new(settings(1, 0.0), Some("{}")), Err(Error::Position { .. })));
    }
}
