//! Properties of admission and fold over seeded mixtures of in-order, out-of-order, repeated, late and dead
//! records, heartbeats, silences and forgotten symbols.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use crate::{
    admission::{ALLOWED_LATENESS_MICROS, Fate, LateReason},
    event::{Event, Floor, Heartbeat, Offset, Record, Source},
    features::FeatureRow,
    fold::{FORGET_AFTER_OFFSETS, Fold, MIN_EVENTS, Output, RawRecord, Recalled, Refold},
    panes::{PANE_MICROS, WINDOW_PANES, pane_of},
    symbol::Symbol,
    time::{MICROS, Timestamp},
    windows::{Cause, WindowRow},
};

const START: i64 = 1_710_000_000 * MICROS;

const NO_CAUSE: Cause = Cause { partition: 0, offset: 0, append_time: Timestamp::from_micros(0) };

/// A record of the generated log.
#[derive(Clone, Debug)]
struct Step {
    offset: Offset,
    decoded: Result<Record, String>,
}

/// What is drawn for a record; offsets and times are accumulated from it.
#[derive(Clone, Debug)]
struct Draw {
    symbol: usize,
    kind: u8,
    advance: i64,
    back: i64,
    id_back: i64,
    price: f64,
    explicit_return: bool,
    offset_jump: Offset,
}

fn draw() -> impl Strategy<Value = Draw> {
    let advance = prop_oneof![4 => 0_i64..300_000, 4 => 300_000_i64..2 * MICROS, 1 => 20 * MICROS..40 * MICROS, 1 => 60 * MICROS..200 * MICROS];
    let back = prop_oneof![6 => Just(0_i64), 3 => 0..5 * MICROS, 2 => 0..130 * MICROS];
    let jump = prop_oneof![60 => Just(1_i64), 2 => 300_000_i64..700_000];
    (
        0_usize..3,
        0_u8..20,
        advance,
        back,
        prop_oneof![5 => Just(0_i64), 1 => 1_i64..30],
        1.0_f64..1.1,
        any::<bool>(),
        jump,
    )
        .prop_map(|(symbol, kind, advance, back, id_back, price, explicit_return, offset_jump)| Draw {
            symbol,
            kind,
            advance,
            back,
            id_back,
            price,
            explicit_return,
            offset_jump,
        })
}

fn log() -> impl Strategy<Value = Vec<Step>> {
    (prop::collection::vec(draw(), 1..400), 1_i64..40).prop_map(|(draws, pace)| {
        let symbols = ["BTC-USDT", "ETH-USDT", "BNB-USDT"].map(|s| Symbol::parse(s).unwrap());
        let (mut offset, mut now, mut id) = (0, START, 0);
        draws
            .into_iter()
            .map(|draw| {
                now += draw.advance / pace;
                id += 1;
                offset += draw.offset_jump;
                let timestamp = Timestamp::from_micros(now - draw.back);
                let symbol = symbols[draw.symbol];
                let decoded = match draw.kind {
                    0 => Err("does not parse".to_owned()),
                    1 | 2 => Ok(Record::Heartbeat(Heartbeat { timestamp, symbol })),
                    3 => Ok(Record::Event(event(symbol, Timestamp::from_micros(0), 1.0, id))),
                    5 if draw.explicit_return => Ok(Record::Floor(Floor { timestamp, symbol })),
                    _ => {
                        let mut event = event(symbol, timestamp, 100.0 * draw.price, id - draw.id_back);
                        event.log_return = draw.explicit_return.then_some(draw.price - 1.05);
                        event.trade_id = (draw.kind != 4).then_some(id - draw.id_back);
                        Ok(Record::Event(event))
                    }
                };
                Step { offset, decoded }
            })
            .collect()
    })
}

fn event(symbol: Symbol, timestamp: Timestamp, price: f64, id: i64) -> Event {
    Event {
        timestamp,
        symbol,
        price,
        volume: price / 7.0,
        log_return: None,
        is_anomaly: None,
        anomaly_type: None,
        trade_id: Some(id),
        side: None,
        ingest_id: None,
        source: Source::File,
        extra: None,
    }
}

fn apply(fold: &mut Fold, step: &Step, out: &mut Output) -> Fate {
    let append_time = Timestamp::from_micros(START + 100_000_000 * MICROS);
    fold.apply(RawRecord { offset: step.offset, append_time, key: b"k", value: b"v" }, step.decoded.clone(), out)
}

fn fold_all(steps: &[Step]) -> (Fold, Output) {
    let (mut fold, mut out) = (Fold::new(0, 0), Output::default());
    for step in steps {
        apply(&mut fold, step, &mut out);
    }
    (fold, out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_split_gives_the_same_rows(steps in log(), size in 1_usize..50) {
        let whole = fold_all(&steps).1;
        let (mut fold, mut joined) = (Fold::new(0, 0), Output::default());
        for batch in steps.chunks(size) {
            let mut out = Output::default();
            for step in batch {
                apply(&mut fold, step, &mut out);
            }
            joined.append(out);
        }
        prop_assert_eq!(joined, whole);
    }

    #[test]
    fn a_fold_rebuilt_from_replay_at_any_offset_goes_on_with_the_same_rows(steps in log(), cut in 0_usize..400) {
        let cut = cut.min(steps.len());
        let (mut fold, _) = fold_all(&steps[..cut]);
        let mut rebuilt = Fold::with_floors(0, fold.replay(), floors_before(&steps, fold.replay()));
        let mut silent = Output::default();
        for step in steps[..cut].iter().filter(|step| step.offset >= fold.replay()) {
            apply(&mut rebuilt, step, &mut silent);
        }
        let (mut expected, mut actual) = (Output::default(), Output::default());
        for step in &steps[cut..] {
            let fates = (apply(&mut fold, step, &mut expected), apply(&mut rebuilt, step, &mut actual));
            prop_assert_eq!(fates.0, fates.1, "offset {}", step.offset);
        }
        prop_assert_eq!(actual, expected);
        prop_assert!(rebuilt.replay() >= 0 && rebuilt.symbols() == fold.symbols());
    }

    #[test]
    fn a_fold_that_recalls_what_the_log_has_lost_goes_on_with_the_same_rows(
        steps in log(), cut in 0_usize..400, lost in 0_usize..400
    ) {
        let steps: Vec<Step> = steps.into_iter().filter(|step| !is_heartbeat(step)).collect();
        let cut = cut.min(steps.len());
        let (mut fold, before) = fold_all(&steps[..cut]);
        let (mut recalled, again) = recall(&fold, &before, &steps[..cut], lost);
        let replay = fold.replay();
        let mut expected = before.events.iter().filter(|row| row.cause.offset >= replay);
        prop_assert!(again.events.iter().all(|row| Some(row) == expected.next()));
        let (mut expected, mut actual) = (Output::default(), Output::default());
        for step in &steps[cut..] {
            let fates = (apply(&mut fold, step, &mut expected), apply(&mut recalled, step, &mut actual));
            prop_assert_eq!(fates.0, fates.1, "offset {}", step.offset);
        }
        prop_assert_eq!(actual, expected);
    }

    #[test]
    fn heartbeats_that_the_log_has_lost_double_no_window(
        steps in log(), cut in 0_usize..400, lost in 0_usize..400
    ) {
        let cut = cut.min(steps.len());
        let (fold, mut all) = fold_all(&steps[..cut]);
        let (mut fold, _) = recall(&fold, &all, &steps[..cut], lost);
        let mut after = Output::default();
        for step in &steps[cut..] {
            apply(&mut fold, step, &mut after);
        }
        all.append(after);
        let mut windows = BTreeMap::new();
        for row in &all.windows {
            let starts = fresh_starts(&all, row.symbol);
            let epoch = starts.partition_point(|start| *start < row.offset);
            prop_assert_eq!(windows.insert((row.symbol, epoch, row.window_start), row.offset), None, "{:?}", row);
        }
    }

    #[test]
    fn every_offset_has_one_fate_and_one_row(steps in log()) {
        let (mut fold, mut out) = (Fold::new(0, 0), Output::default());
        let mut fates = BTreeMap::new();
        for step in &steps {
            fates.insert(step.offset, apply(&mut fold, step, &mut out));
        }
        let mut rows = BTreeMap::new();
        rows.extend(out.events.iter().map(|row| (row.cause.offset, Fate::Admitted)));
        rows.extend(out.late.iter().map(|row| (row.cause.offset, Fate::Late(row.reason))));
        rows.extend(out.dead.iter().map(|row| (row.cause.offset, Fate::Dead)));
        fates.retain(|_, fate| *fate != Fate::Control);
        prop_assert_eq!(rows, fates);
    }

    #[test]
    fn admitted_events_alone_give_the_same_rows_again(steps in log()) {
        let out = fold_all(&steps).1;
        for symbol in ["BTC-USDT", "ETH-USDT", "BNB-USDT"].map(|s| Symbol::parse(s).unwrap()) {
            let starts = fresh_starts(&out, symbol);
            let epoch = |offset| starts.partition_point(|start| *start <= offset);
            let mut windows = Vec::new();
            for number in 0..=starts.len() {
                let mut refold = Refold::default();
                for row in out.events.iter().filter(|r| r.event.symbol == symbol && epoch(r.cause.offset) == number) {
                    let feature = refold.admit(row, &mut windows);
                    prop_assert_eq!(Some(&feature), out.features.iter().find(|r| r.offset == row.cause.offset));
                }
                refold.finish(symbol, NO_CAUSE, &mut windows);
            }
            // Every window that the fold closed, in its order; those that are still open come last.
            let stored = out.windows.iter().filter(|row| row.symbol == symbol);
            for (stored, again) in stored.zip(windows) {
                let WindowRow { partition, offset, ingest_time, .. } = *stored;
                prop_assert_eq!(stored, &WindowRow { partition, offset, ingest_time, ..again });
            }
        }
    }

    #[test]
    fn statistics_agree_with_a_naive_recomputation(steps in log()) {
        let out = fold_all(&steps).1;
        for (index, row) in out.features.iter().enumerate() {
            let window: Vec<&FeatureRow> = naive_window(&out, index);
            prop_assert_eq!(row.window_events, i64::try_from(window.len()).unwrap());
            let scale = row.means[0].abs().max(1e-3);
            for lane in 0..3 {
                let values: Vec<f64> = window.iter().map(|r| [r.price, r.log_return, r.volume][lane]).collect();
                let (mean, deviation) = naive_moments(&values);
                let scale = if lane == 1 { 1.0 } else { scale };
                prop_assert!((row.means[lane] - mean).abs() <= 1e-9 * scale);
                let actual = if lane == 0 { row.deviations[0] * row.means[0] } else { row.deviations[lane] };
                prop_assert!((actual - deviation).abs() <= 1e-9 * scale, "{actual} {deviation}");
                if window.len() < usize::try_from(MIN_EVENTS).unwrap() {
                    prop_assert_eq!(row.z_scores[lane], 0.0);
                }
            }
        }
    }

    #[test]
    fn closed_windows_hold_the_admitted_events_of_their_minute(steps in log()) {
        // Without silences long enough to forget a symbol, its windows are exactly its minutes.
        let mut steps = steps;
        for (offset, step) in (0..).zip(&mut steps) {
            step.offset = offset;
        }
        let out = fold_all(&steps).1;
        for row in &out.windows {
            let events: Vec<_> = out.events.iter().filter(|e| e.event.symbol == row.symbol
                && e.event.timestamp >= row.window_start && e.event.timestamp < row.window_start.plus_micros(60 * MICROS)).collect();
            prop_assert_eq!(row.event_count, i64::try_from(events.len()).unwrap());
            let last = events.iter().max_by_key(|e| e.event.timestamp).unwrap();
            let first = events.iter().min_by_key(|e| e.event.timestamp).unwrap();
            prop_assert_eq!((row.open, row.close), (first.event.price, last.event.price));
            prop_assert!(row.low <= row.open && row.open <= row.high);
            prop_assert!(events.iter().all(|e| e.cause.offset <= row.offset));
        }
    }
}

const fn is_heartbeat(step: &Step) -> bool {
    matches!(step.decoded, Ok(Record::Heartbeat(_)))
}

/// The fold of `steps`, whose rows are `out`, rebuilt from its rows up to the place `lost` and from the records after it;
/// and what came out of the rows.
fn recall(fold: &Fold, out: &Output, steps: &[Step], lost: usize) -> (Fold, Output) {
    let first = steps.get(lost).map_or(fold.next(), |step| step.offset);
    let is_lost = |row: &Recalled| (fold.replay()..first).contains(&row.cause().offset);
    let events = out.events.iter().cloned().map(Recalled::Event);
    let late = out.late.iter().cloned().map(Recalled::Late);
    let floors = out.floors.iter().cloned().map(Recalled::Floor);
    let closed = out.windows.iter().map(|row| Recalled::Closed {
        cause: row.cause(),
        symbol: row.symbol,
        window_start: row.window_start,
    });
    let mut rows: Vec<Recalled> = events.chain(late).chain(floors).chain(closed).filter(is_lost).collect();
    rows.sort_by_key(Recalled::place);
    let mut recalled = Fold::with_floors(0, fold.replay(), floors_before(steps, fold.replay()));
    let mut again = Output::default();
    for row in rows {
        recalled.recall(row, &mut again);
    }
    let mut silent = Output::default();
    for step in steps.iter().skip(lost).filter(|step| step.offset >= fold.replay()) {
        apply(&mut recalled, step, &mut silent);
    }
    (recalled, again)
}

/// The greatest floor of every symbol below an offset.
fn floors_before(steps: &[Step], offset: Offset) -> HashMap<Symbol, Timestamp> {
    let mut floors = HashMap::new();
    for step in steps.iter().filter(|step| step.offset < offset) {
        if let Ok(Record::Floor(Floor { symbol, timestamp })) = step.decoded {
            let greatest = floors.entry(symbol).or_insert(timestamp);
            *greatest = timestamp.max(*greatest);
        }
    }
    floors
}

/// The admitted events before `index` in the 60 panes that end with the event's own; a forgotten symbol starts afresh.
fn naive_window(out: &Output, index: usize) -> Vec<&FeatureRow> {
    let row = &out.features[index];
    let pane = pane_of(row.timestamp);
    let fresh_since = fresh_starts(out, row.symbol).into_iter().filter(|start| *start <= row.offset).max().unwrap_or(0);
    out.features[..index]
        .iter()
        .filter(|r| r.symbol == row.symbol && r.offset >= fresh_since)
        .filter(|r| (pane - WINDOW_PANES + 1..=pane).contains(&pane_of(r.timestamp)))
        .collect()
}

/// The offsets at which a symbol starts afresh because it was forgotten.
fn fresh_starts(out: &Output, symbol: Symbol) -> Vec<Offset> {
    let offsets = symbol_offsets(out, symbol);
    let pairs = offsets.windows(2).filter(|pair| pair[1] - pair[0] >= FORGET_AFTER_OFFSETS);
    pairs.map(|pair| pair[1]).collect()
}

fn symbol_offsets(out: &Output, symbol: Symbol) -> Vec<Offset> {
    let mut offsets: Vec<Offset> =
        out.events.iter().filter(|r| r.event.symbol == symbol).map(|r| r.cause.offset).collect();
    offsets.extend(out.late.iter().filter(|r| r.event.symbol == symbol).map(|r| r.cause.offset));
    offsets.sort_unstable();
    offsets
}

fn naive_moments(values: &[f64]) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred values")]
    let count = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, if values.len() < 2 { 0.0 } else { (squares / (count - 1.0)).sqrt() })
}

fn one(symbol: &str, seconds: i64, price: f64, id: i64) -> Record {
    let timestamp = Timestamp::from_micros(START + seconds * MICROS);
    Record::Event(event(Symbol::parse(symbol).unwrap(), timestamp, price, id))
}

fn heartbeat(symbol: &str, seconds: i64) -> Record {
    let timestamp = Timestamp::from_micros(START + seconds * MICROS);
    Record::Heartbeat(Heartbeat { timestamp, symbol: Symbol::parse(symbol).unwrap() })
}

fn fates(records: Vec<Record>) -> (Vec<Fate>, Output) {
    let (mut fold, mut out) = (Fold::new(0, 0), Output::default());
    let fates = (0..)
        .zip(records)
        .map(|(offset, record)| apply(&mut fold, &Step { offset, decoded: Ok(record) }, &mut out))
        .collect();
    (fates, out)
}

#[test]
fn heartbeats_make_nothing_of_a_symbol_that_has_no_events() {
    // With a state of its own since the first heartbeat, the symbol would be forgotten by the fold and not by one that was
    // rebuilt from after that heartbeat, and then an event would be admitted by one and late for the other.
    let steps: Vec<_> = [
        (1, heartbeat("ETH-USDT", 0)),
        (508_400, one("BTC-USDT", 0, 100.0, 1)),
        (508_401, heartbeat("ETH-USDT", 3_000)),
        (1_000_001, one("BTC-USDT", 1, 100.0, 2)),
    ]
    .into_iter()
    .map(|(offset, record)| Step { offset, decoded: Ok(record) })
    .collect();
    let (mut fold, mut out) = fold_all(&steps);
    assert_eq!(fold.symbols(), 1);
    let event = Step { offset: 1_000_002, decoded: Ok(one("ETH-USDT", 5, 100.0, 3)) };
    assert_eq!(apply(&mut fold, &event, &mut out), Fate::Admitted);
}

#[test]
fn late_event_is_counted_and_never_reopens_its_window() {
    let (fates, out) = fates(vec![one("A-B", 0, 1.0, 1), one("A-B", 200, 1.0, 2), one("A-B", 1, 9.0, 3)]);
    assert_eq!(fates, [Fate::Admitted, Fate::Admitted, Fate::Late(LateReason::Late)]);
    assert_eq!(out.windows.iter().map(|w| (w.event_count, w.high)).collect::<Vec<_>>(), [(1, 1.0)]);
    assert_eq!(out.late[0].watermark, Timestamp::from_micros(START + 200 * MICROS - ALLOWED_LATENESS_MICROS));
}

#[test]
fn a_repeated_trade_id_is_a_duplicate_while_it_is_remembered() {
    let (fates, _) = fates(vec![one("A-B", 0, 1.0, 7), one("A-B", 1, 1.0, 7), one("A-B", 100, 1.0, 7)]);
    assert_eq!(fates, [Fate::Admitted, Fate::Late(LateReason::Duplicate), Fate::Admitted]);
}

#[test]
fn a_heartbeat_closes_the_windows_of_a_silent_symbol() {
    let (fates, out) = fates(vec![one("A-B", 0, 2.0, 1), heartbeat("A-B", 180)]);
    assert_eq!(fates, [Fate::Admitted, Fate::Control]);
    assert_eq!(out.windows.len(), 1);
    assert_eq!(out.windows[0].offset, 1);
}

#[test]
fn nothing_below_a_floor_is_admitted_whether_the_symbol_was_known_or_not() {
    let floor = |symbol, seconds| {
        let timestamp = Timestamp::from_micros(START + seconds * MICROS);
        Record::Floor(Floor { timestamp, symbol: Symbol::parse(symbol).unwrap() })
    };
    let (fates, out) = fates(vec![
        one("A-B", 0, 1.0, 1),
        floor("A-B", 180),
        floor("C-D", 180),
        floor("C-D", 60),
        one("A-B", 179, 1.0, 2),
        one("C-D", 179, 1.0, 3),
        one("A-B", 180, 1.0, 4),
        one("C-D", 180, 1.0, 5),
    ]);
    let (late, admitted) = (Fate::Late(LateReason::Late), Fate::Admitted);
    assert_eq!(fates[1..4], [Fate::Control; 3]);
    assert_eq!(fates[4..], [late, late, admitted, admitted]);
    assert_eq!(out.floors.iter().map(|row| row.cause.offset).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(out.windows.iter().map(|window| window.offset).collect::<Vec<_>>(), [1]);
}

#[test]
fn times_that_cannot_be_are_dead_letters_heartbeats_included() {
    let (fates, out) = fates(vec![heartbeat("A-B", 200_000_000), one("A-B", -1_000_000_000, 1.0, 1)]);
    assert_eq!(fates, [Fate::Dead; 2]);
    assert!(out.dead[0].reason.contains("more than 5 min after its append time"), "{}", out.dead[0].reason);
    assert!(out.dead[1].reason.contains("is before 2009-01-03T00:00:00Z"), "{}", out.dead[1].reason);
}

#[test]
fn a_dead_letter_keeps_its_key_and_bytes() {
    let (mut fold, mut out) = (Fold::new(0, 0), Output::default());
    let fate = apply(&mut fold, &Step { offset: 0, decoded: Err("does not parse".to_owned()) }, &mut out);
    assert_eq!(fate, Fate::Dead);
    assert_eq!((out.dead[0].key.as_slice(), out.dead[0].value.as_slice()), (&b"k"[..], &b"v"[..]));
}

#[test]
fn a_spike_does_not_hide_itself() {
    let mut records: Vec<_> = (0..30).map(|i| one("A-B", i, if i % 2 == 0 { 100.0 } else { 101.0 }, i)).collect();
    records.push(one("A-B", 30, 150.0, 30));
    let (_, out) = fates(records);
    let spike = out.features.last().unwrap();
    assert_eq!(spike.window_events, 30);
    assert!(spike.z_scores[0] > 90.0, "{:?}", spike.z_scores);
    assert!((spike.means[0] - 100.5).abs() < 1e-9);
}

#[test]
fn a_window_is_sixty_aligned_panes() {
    let (_, out) = fates((0..200).map(|i| one("A-B", i, 100.0, i)).collect());
    assert_eq!(PANE_MICROS, MICROS);
    assert_eq!(out.features.iter().map(|r| r.window_events).max(), Some(59));
    assert_eq!(out.windows.iter().map(|w| w.event_count).collect::<Vec<_>>(), [60, 60]);
}
