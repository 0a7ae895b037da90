//! What every engine of the event log must do, as functions over the trait: each engine's tests run all of them on a
//! fresh topic of four partitions.

use domain::{ErrorKind, Kind, Offset, Partition, Symbol};

use xxhash_rust::xxh3::xxh3_64;

use crate::log::{
    AppendBatch, AppendOutcome, EventLog, MAX_APPEND_RECORDS, MAX_VALUE_BYTES, NewRecord, ReadItem, RetentionPolicy,
    SourcePosition, SourceStep, partition_of, unknown_key,
};

/// Gives a macro the names of all behaviours that need one log and nothing else.
macro_rules! behaviours {
    ($conforms:ident) => {
        $conforms!(
            records_are_read_from_any_offset,
            symbols_keep_their_order_in_their_partition,
            large_and_unicode_and_empty_values_come_back_as_they_were,
            an_empty_batch_moves_only_its_source,
            a_repeated_append_of_a_source_is_recognised,
            events_of_the_other_kind_are_refused_whole,
            records_without_a_readable_symbol_are_of_no_kind,
            sources_and_symbols_are_listed,
            a_waiting_reader_is_told_of_an_append,
            a_partition_that_does_not_exist_is_said_so,
        );
    };
}
pub(crate) use behaviours;

pub const PARTITIONS: Partition = 4;

/// Removes whatever may be removed.
pub const KEEP_NOTHING: RetentionPolicy = RetentionPolicy { max_age_micros: 0, max_partition_bytes: 0 };

pub fn symbol(name: &str) -> Symbol {
    Symbol::parse(name).unwrap()
}

pub fn record(name: &str, value: impl Into<Vec<u8>>) -> NewRecord {
    NewRecord { key: symbol(name), value: value.into() }
}

pub fn records(name: &str, values: std::ops::Range<usize>) -> Vec<NewRecord> {
    values.map(|n| record(name, format!("value {n}"))).collect()
}

pub fn real(records: Vec<NewRecord>) -> AppendBatch {
    AppendBatch { records, kind: Kind::Real, source: None }
}

pub fn home(name: &str) -> Partition {
    partition_of(symbol(name), PARTITIONS)
}

/// Reads to the end in steps, checks that the items follow on each other, and gives (offset, value) and the gaps.
pub async fn read_all(
    log: &dyn EventLog,
    partition: Partition,
    from: Offset,
    max_records: usize,
) -> (Vec<(Offset, Vec<u8>)>, Vec<(Offset, Offset, String)>) {
    let (mut found, mut gaps, mut next) = (Vec::new(), Vec::new(), from);
    loop {
        let items = log.read(partition, next, max_records).await.unwrap();
        if items.is_empty() {
            assert_eq!(next, log.end_offset(partition).await.unwrap().max(from));
            return (found, gaps);
        }
        for item in items {
            assert_eq!(item.start(), next);
            assert!(item.end() > next);
            next = item.end();
            match item {
                ReadItem::Batch(batch) => found.extend(batch.records().map(|r| (r.offset, r.value.to_vec()))),
                ReadItem::Gap { from, to, reason, .. } => gaps.push((from, to, reason)),
            }
        }
    }
}

/// Bytes that no compression makes shorter.
pub fn noise(length: u64) -> Vec<u8> {
    (0..length / 8).flat_map(|n| xxh3_64(&n.to_le_bytes()).to_le_bytes()).collect()
}

pub async fn values(log: &dyn EventLog, name: &str) -> Vec<String> {
    let (found, gaps) = read_all(log, home(name), 0, 1_000).await;
    assert!(gaps.is_empty());
    found.into_iter().map(|(_, value)| String::from_utf8(value).unwrap()).collect()
}

pub async fn records_are_read_from_any_offset(log: &dyn EventLog) {
    let partition = home("BTC-USDT");
    for values in [0..1, 1..5, 5..40, 40..41] {
        log.append(real(records("BTC-USDT", values))).await.unwrap();
    }
    for from in 0..=41 {
        for max_records in [1, 3, 100] {
            let (found, _) = read_all(log, partition, from, max_records).await;
            let expected: Vec<_> = (from..41).map(|n| (n, format!("value {n}").into_bytes())).collect();
            assert_eq!(found, expected);
        }
    }
    assert_eq!(log.read(partition, 5_000, 10).await.unwrap(), []);
    assert_eq!(log.read(partition, -1, 10).await.unwrap_err().kind(), ErrorKind::Invalid);
}

pub async fn symbols_keep_their_order_in_their_partition(log: &dyn EventLog) {
    let names = ["BTC-USDT", "ETH-USDT", "BNB-USDT", "SOL-USDT", "ADA-USDT"];
    let mixed: Vec<_> = (0..50).flat_map(|n| names.map(|name| record(name, format!("{name} {n}")))).collect();
    let AppendOutcome::Appended(ranges) = log.append(real(mixed)).await.unwrap() else { panic!("not appended") };
    let mut partitions: Vec<_> = names.into_iter().map(home).collect();
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!(ranges.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), partitions);
    for name in names {
        let of_symbol: Vec<_> = values(log, name).await.into_iter().filter(|value| value.starts_with(name)).collect();
        assert_eq!(of_symbol, (0..50).map(|n| format!("{name} {n}")).collect::<Vec<_>>());
    }
    for (partition, range) in ranges {
        assert_eq!((range.start, range.end), (0, log.end_offset(partition).await.unwrap()));
    }
}

pub async fn large_and_unicode_and_empty_values_come_back_as_they_were(log: &dyn EventLog) {
    let values = [noise(1 << 20), "größer 🚀 \u{0}".into(), Vec::new(), vec![7; MAX_VALUE_BYTES]];
    let batch = values.iter().map(|value| record("BTC-USDT", value.clone())).collect();
    log.append(real(batch)).await.unwrap();
    let (found, _) = read_all(log, home("BTC-USDT"), 0, 10).await;
    assert!(found.into_iter().map(|(_, value)| value).eq(values));
    let too_large = real(vec![record("BTC-USDT", vec![0; MAX_VALUE_BYTES + 1])]);
    assert_eq!(log.append(too_large).await.unwrap_err().kind(), ErrorKind::Invalid);
    let too_many = real(vec![record("BTC-USDT", "x"); MAX_APPEND_RECORDS + 1]);
    assert_eq!(log.append(too_many).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.end_offset(home("BTC-USDT")).await.unwrap(), 4);
}

pub async fn an_empty_batch_moves_only_its_source(log: &dyn EventLog) {
    assert_eq!(log.append(real(Vec::new())).await.unwrap(), AppendOutcome::Appended(Vec::new()));
    let end = SourcePosition { source_id: "file:a".into(), position: "{}".into(), finished: true };
    let batch = AppendBatch { source: Some(SourceStep { expected: None, next: end.clone() }), ..real(Vec::new()) };
    assert_eq!(log.append(batch).await.unwrap(), AppendOutcome::Appended(Vec::new()));
    assert_eq!(log.position("file:a").await.unwrap(), Some(end));
    for partition in 0..PARTITIONS {
        assert_eq!(log.end_offset(partition).await.unwrap(), 0);
    }
}

pub fn stepped(records: Vec<NewRecord>, expected: Option<&str>, next: &str, finished: bool) -> AppendBatch {
    let next = SourcePosition { source_id: "file:a".into(), position: next.into(), finished };
    AppendBatch { source: Some(SourceStep { expected: expected.map(Into::into), next }), ..real(records) }
}

pub async fn a_repeated_append_of_a_source_is_recognised(log: &dyn EventLog) {
    let step = |n: usize| {
        let expected = (n > 0).then(|| n.to_string());
        stepped(records("BTC-USDT", n..n + 1), expected.as_deref(), &(n + 1).to_string(), false)
    };
    for n in [0, 0, 1, 1, 1, 2] {
        let before = log.end_offset(home("BTC-USDT")).await.unwrap();
        let outcome = log.append(step(n)).await.unwrap();
        let repeated = usize::try_from(before).unwrap() > n;
        assert_eq!(outcome == AppendOutcome::AlreadyApplied, repeated);
    }
    let stale = log.append(step(0)).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    assert!(stale.to_string().contains("stands at 3") && stale.to_string().contains("its beginning"), "{stale}");
    let unmoved = log.append(stepped(records("BTC-USDT", 9..10), Some("3"), "3", false)).await.unwrap_err();
    assert_eq!(unmoved.kind(), ErrorKind::Invalid);
    log.append(stepped(Vec::new(), Some("3"), "3", true)).await.unwrap();
    assert!(log.position("file:a").await.unwrap().is_some_and(|position| position.finished));
    assert_eq!(log.position("file:b").await.unwrap(), None);
    assert_eq!(values(log, "BTC-USDT").await, ["value 0", "value 1", "value 2"]);
}

pub async fn events_of_the_other_kind_are_refused_whole(log: &dyn EventLog) {
    let simulated = |records| AppendBatch { kind: Kind::Simulated, ..real(records) };
    log.append(real(vec![record("BTC-USDT", "1")])).await.unwrap();
    log.append(simulated(vec![record("ETH-USDT", "1")])).await.unwrap();
    let mixed = simulated(vec![record("ETH-USDT", "2"), record("SOL-USDT", "2"), record("BTC-USDT", "2")]);
    let refusal = log.append(mixed).await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Invalid);
    assert!(refusal.to_string().contains("use another `--data-dir`"), "{refusal}");
    assert_eq!(log.kind_of(symbol("BTC-USDT")).await.unwrap(), Some(Kind::Real));
    assert_eq!(log.kind_of(symbol("ETH-USDT")).await.unwrap(), Some(Kind::Simulated));
    assert_eq!(log.kind_of(symbol("SOL-USDT")).await.unwrap(), None);
    let (eth, _) = read_all(log, home("ETH-USDT"), 0, 10).await;
    assert!(eth.iter().all(|(_, value)| value == b"1"));
}

pub async fn records_without_a_readable_symbol_are_of_no_kind(log: &dyn EventLog) {
    let unknown = || NewRecord { key: unknown_key(), value: b"broken".to_vec() };
    log.append(real(vec![unknown()])).await.unwrap();
    log.append(AppendBatch { kind: Kind::Simulated, ..real(vec![unknown()]) }).await.unwrap();
    assert_eq!(log.kind_of(unknown_key()).await.unwrap(), None);
    assert_eq!(values(log, "UNKNOWN-UNKNOWN").await, ["broken", "broken"]);
}

pub async fn sources_and_symbols_are_listed(log: &dyn EventLog) {
    assert_eq!((log.positions().await.unwrap(), log.kinds().await.unwrap()), (Vec::new(), Vec::new()));
    log.append(AppendBatch { kind: Kind::Simulated, ..real(records("ETH-USDT", 0..2)) }).await.unwrap();
    let mut batch = stepped([records("BTC-USDT", 0..2), records("ADA-USDT", 0..1)].concat(), None, "3", true);
    batch.records.push(NewRecord { key: unknown_key(), value: b"broken".to_vec() });
    log.append(batch).await.unwrap();
    let positions = [SourcePosition { source_id: "file:a".into(), position: "3".into(), finished: true }];
    assert_eq!(log.positions().await.unwrap(), positions);
    let kinds = [("ADA-USDT", Kind::Real), ("BTC-USDT", Kind::Real), ("ETH-USDT", Kind::Simulated)];
    assert_eq!(log.kinds().await.unwrap(), kinds.map(|(name, kind)| (symbol(name), kind)));
}

pub async fn a_waiting_reader_is_told_of_an_append(log: &dyn EventLog) {
    let partition = home("BTC-USDT");
    let append = async {
        log.append(real(records("BTC-USDT", 0..2))).await.unwrap();
    };
    let (waited, ()) = tokio::join!(log.wait_beyond(partition, 1), append);
    waited.unwrap();
    log.wait_beyond(partition, 0).await.unwrap();
}

pub async fn a_partition_that_does_not_exist_is_said_so(log: &dyn EventLog) {
    assert_eq!(log.read(PARTITIONS, 0, 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.first_offset(PARTITIONS).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.end_offset(PARTITIONS).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.wait_beyond(PARTITIONS, 0).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.retain(PARTITIONS, 0, KEEP_NOTHING).await.unwrap_err().kind(), ErrorKind::NotFound);
}

pub async fn retention_never_passes_what_is_needed_and_offsets_are_not_reused(log: &dyn EventLog) {
    let partition = home("BTC-USDT");
    for start in [0, 10, 20] {
        log.append(real(records("BTC-USDT", start..start + 10))).await.unwrap();
    }
    let untouched = log.retain(partition, 30, RetentionPolicy::default()).await.unwrap();
    assert_eq!((untouched.first_offset, untouched.removed_records), (0, 0));
    for first_needed in [0, 9, 10, 15, 30, 1_000] {
        let retained = log.retain(partition, first_needed, KEEP_NOTHING).await.unwrap();
        assert!(retained.first_offset <= first_needed);
        assert_eq!(log.first_offset(partition).await.unwrap(), retained.first_offset);
        let (found, gaps) = read_all(log, partition, 0, 7).await;
        assert!(found.iter().map(|(offset, _)| *offset).eq(retained.first_offset..30));
        let evicted =
            (retained.first_offset > 0).then(|| (0, retained.first_offset, "removed by retention".to_owned()));
        assert_eq!(gaps, Vec::from_iter(evicted));
    }
    assert_eq!(log.first_offset(partition).await.unwrap(), 30);
    let outcome = log.append(real(records("BTC-USDT", 0..1))).await.unwrap();
    assert_eq!(outcome, AppendOutcome::Appended(vec![(partition, 30..31)]));
}

pub async fn concurrent_appends_and_reads_lose_nothing(writers: &[&dyn EventLog], reader: &dyn EventLog) {
    const APPENDS: usize = 30;
    async fn append(number: usize, log: &dyn EventLog) {
        for n in 0..APPENDS {
            log.append(real(vec![record("BTC-USDT", format!("{number} {n}"))])).await.unwrap();
        }
    }
    let total = Offset::try_from(APPENDS * writers.len()).unwrap();
    let follow = || async {
        let (mut found, mut next) = (Vec::new(), 0);
        while next < total {
            reader.wait_beyond(home("BTC-USDT"), next).await.unwrap();
            for item in reader.read(home("BTC-USDT"), next, 10).await.unwrap() {
                assert_eq!(item.start(), next);
                next = item.end();
                let ReadItem::Batch(batch) = item else { panic!("a gap") };
                found.extend(batch.records().map(|r| String::from_utf8(r.value.to_vec()).unwrap()));
            }
        }
        found
    };
    let appends = futures::future::join_all(writers.iter().enumerate().map(|(number, log)| append(number, *log)));
    let (_, first, second) = tokio::join!(appends, follow(), follow());
    assert_eq!(first, second);
    for number in 0..writers.len() {
        let of_writer: Vec<_> =
            first.iter().filter(|value| value.starts_with(&format!("{number} "))).cloned().collect();
        assert_eq!(of_writer, (0..APPENDS).map(|n| format!("{number} {n}")).collect::<Vec<_>>());
    }
}
