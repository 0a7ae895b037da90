//! Speed of the forest, medians of five: training on 100 000 rows, scoring 1 000 000 rows on one core, one row.
//!
//! The data are those of scikit-learn's and isotree's benchmark: five normal features, the last two absolute, all
//! standardised; 200 trees of 256 samples. Run by `cargo bench -p models`. The only place of the crate with a clock.

use std::{hint::black_box, time::Instant};

use domain::{FeatureVector, Symbol};
use models::{TrainParameters, TrainingSet, train};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};

const ROWS: usize = 1_000_000;
const TRAINING_ROWS: usize = 100_000;
const SINGLE_ROWS: usize = 2_000;
const REPETITIONS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let symbol = Symbol::parse("BTC-USDT")?;
    let rows = rows();
    let symbols = vec![symbol; rows.len()];
    let mut set = TrainingSet::with_capacity(TRAINING_ROWS);
    for row in &rows[..TRAINING_ROWS] {
        set.push(symbol, *row);
    }
    let parameters = TrainParameters::default();
    let model = train(&set, &parameters)?;

    let training = median_seconds(|| train(&set, &parameters));
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let training_one_thread = median_seconds(|| one_thread.install(|| train(&set, &parameters)));
    let batch = median_seconds(|| model.verdicts(&symbols, &rows));
    let single =
        median_seconds(|| rows[..SINGLE_ROWS].iter().map(|row| model.verdict(symbol, row)).collect::<Vec<_>>());

    println!("training on {TRAINING_ROWS} rows, {} threads: {training:.3} s", rayon::current_num_threads());
    println!("training on {TRAINING_ROWS} rows, 1 thread: {training_one_thread:.3} s");
    println!("scoring {ROWS} rows, one core: {:.0} rows/s", f64::from(u32::try_from(ROWS)?) / batch);
    println!("scoring one row: {:.2} us", single / f64::from(u32::try_from(SINGLE_ROWS)?) * 1e6);
    Ok(())
}

fn rows() -> Vec<FeatureVector> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut rows: Vec<FeatureVector> = Vec::with_capacity(ROWS);
    for _ in 0..ROWS {
        let mut row: FeatureVector = std::array::from_fn(|_| StandardNormal.sample(&mut random));
        row[3] = row[3].abs();
        row[4] = row[4].abs();
        rows.push(row);
    }
    rows
}

fn median_seconds<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut seconds: Vec<f64> = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[REPETITIONS / 2]
}
