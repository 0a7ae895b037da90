//! A fresh model of the default simulated market, asked about four events that a person would judge at a glance.

use domain::{FeatureVector, Fold, Output, RawRecord, Record, Symbol, Timestamp};
use models::{TrainParameters, TrainingSet, train};
use streams::{SimulatedMarket, SimulatedSettings};

const NORMAL: FeatureVector = [0.1, 0.05, 0.2, 0.002, 10.0];
const ANOMALIES: [(&str, FeatureVector); 3] = [
    ("price spike", [4.5, 3.8, 1.5, 0.008, 25.0]),
    ("volume spike", [0.5, 0.3, 4.8, 0.003, 45.0]),
    ("flash crash", [-4.2, -4.5, 3.5, 0.009, 40.0]),
];

/// Two hours at one event a second.
const TICKS: i64 = 7_200;

fn history(seed: u64) -> TrainingSet {
    let start = Timestamp::from_seconds(1_710_000_000);
    let mut market = SimulatedMarket::new(SimulatedSettings::with_defaults(seed, start).unwrap(), None).unwrap();
    let (mut fold, mut output) = (Fold::new(0, 0), Output::default());
    let append_time = Timestamp::from_seconds(1_710_100_000);
    for event in (0..TICKS).flat_map(|_| market.next_tick()) {
        let raw = RawRecord { offset: fold.next(), append_time, key: b"", value: b"" };
        fold.apply(raw, Ok(Record::Event(event)), &mut output);
    }
    let mut set = TrainingSet::new();
    for row in &output.features {
        set.push(row.symbol, row.vector());
    }
    set
}

#[test]
fn over_twenty_markets_the_forest_calls_the_plain_normal_and_the_plain_anomalies_so() {
    let symbol = Symbol::parse("BTC-USDT").unwrap();
    let mut normal = 0;
    let mut found = [0; ANOMALIES.len()];
    for seed in 0..20 {
        let model = train(&history(seed), &TrainParameters { seed, ..TrainParameters::default() }).unwrap();
        normal += u32::from(!model.verdict(symbol, &NORMAL).is_anomaly);
        for (found, (_, vector)) in found.iter_mut().zip(ANOMALIES) {
            *found += u32::from(model.verdict(symbol, &vector).is_anomaly);
        }
    }
    println!(
        "normal {normal} of 20; {:?} of 20",
        ANOMALIES.map(|(name, _)| name).iter().zip(found).collect::<Vec<_>>()
    );
    assert_eq!(normal, 20);
    assert!(found.iter().all(|found| *found >= 18), "{found:?}");
}
