//! The log on a real cluster, which `SENTINEL_TEST_FLUVIO` names; without one, these say that they were skipped.

use domain::{Timestamp, time::MICROS};
use fluvio::metadata::topic::TopicSpec;
use tempfile::TempDir;

use super::*;
use crate::conformance::{self, PARTITIONS, home, read_all, real, records, values};

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000)
    }
}

/// The cluster in `SENTINEL_TEST_FLUVIO`; none where it names none, which is said.
fn cluster() -> Option<String> {
    let endpoint = std::env::var("SENTINEL_TEST_FLUVIO").ok().filter(|endpoint| !endpoint.is_empty());
    if endpoint.is_none() {
        let required = std::env::var("SENTINEL_REQUIRE").unwrap_or_default();
        let is_required = required.split(',').any(|name| name.trim() == "fluvio");
        assert!(!is_required, "SENTINEL_REQUIRE names fluvio, but SENTINEL_TEST_FLUVIO names no cluster");
        println!("skipped: SENTINEL_TEST_FLUVIO names no cluster");
    }
    endpoint
}

fn settings(endpoint: &str, topic: &str) -> FluvioSettings {
    FluvioSettings {
        endpoint: Some(endpoint.to_owned()),
        profile: None,
        tls: None,
        topic: TopicSettings { name: topic.to_owned(), partitions: PARTITIONS },
        replication: 1,
        retention: RetentionPolicy::default(),
    }
}

/// A topic that no other test has.
fn new_topic() -> String {
    format!("test-{}", uuid::Uuid::new_v4().simple())
}

async fn open(settings: &FluvioSettings, folder: &TempDir) -> FluvioLog {
    FluvioLog::open(settings, &folder.path().join("ledger.db"), Arc::new(FixedClock)).await.unwrap()
}

async fn end(log: FluvioLog) {
    log.close().await;
    let admin = log.cluster.client().await.unwrap().admin().await;
    admin.delete::<TopicSpec>(log.topic.clone()).await.unwrap();
}

macro_rules! conforms {
    ($($behaviour:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            let Some(endpoint) = cluster() else { return };
            let folder = tempfile::tempdir().unwrap();
            let log = open(&settings(&endpoint, &new_topic()), &folder).await;
            conformance::$behaviour(&log).await;
            end(log).await;
        }
    )*};
}

// How brokers remove old records is theirs.
conformance::behaviours!(conforms);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handles_on_one_topic_append_and_read_at_the_same_time() {
    let Some(endpoint) = cluster() else { return };
    let (folder, settings) = (tempfile::tempdir().unwrap(), settings(&endpoint, &new_topic()));
    let (first, second, reader) =
        (open(&settings, &folder).await, open(&settings, &folder).await, open(&settings, &folder).await);
    assert_eq!(first.topic_id(), second.topic_id());
    conformance::concurrent_appends_and_reads_lose_nothing(&[&first, &second, &first], &reader).await;
    let simulated = AppendBatch { kind: Kind::Simulated, ..real(records("BTC-USDT", 0..1)) };
    assert!(matches!(second.append(simulated).await, Err(Error::OtherKind { .. })));
    end(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_found_again_and_other_partitions_are_refused() {
    let Some(endpoint) = cluster() else { return };
    let (folder, settings) = (tempfile::tempdir().unwrap(), settings(&endpoint, &new_topic()));
    let log = open(&settings, &folder).await;
    log.append(real(records("BTC-USDT", 0..2))).await.unwrap();
    let id = log.topic_id().to_owned();
    log.close().await;
    let again = open(&settings, &folder).await;
    assert_eq!(again.topic_id(), id);
    again.append(real(records("BTC-USDT", 2..3))).await.unwrap();
    assert_eq!(values(&again, "BTC-USDT").await, ["value 0", "value 1", "value 2"]);
    let mut other = settings.clone();
    other.topic.partitions = PARTITIONS + 1;
    let refused = FluvioLog::open(&other, &folder.path().join("other.db"), Arc::new(FixedClock)).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("was created with 4 partitions and 5 are asked for"), "{told}");
    end(again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn append_times_are_those_of_the_brokers_and_many_records_come_in_order() {
    let Some(endpoint) = cluster() else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = open(&settings(&endpoint, &new_topic()), &folder).await;
    log.append(real(records("BTC-USDT", 0..20_000))).await.unwrap();
    let (found, gaps) = read_all(&log, home("BTC-USDT"), 0, 7_000).await;
    assert!(gaps.is_empty());
    assert!(found.iter().map(|(offset, _)| *offset).eq(0..20_000));
    assert!((0..20_000).all(|number| found[number].1 == format!("value {number}").into_bytes()));
    let items = log.read(home("BTC-USDT"), 19_999, 1).await.unwrap();
    let [ReadItem::Batch(batch)] = items.as_slice() else { panic!("{items:?}") };
    let appended = batch.get(0).unwrap().append_time;
    assert!(appended.micros() > 1_750_000_000 * MICROS && appended.micros() % 1_000 == 0, "{appended}");
    end(log).await;
}

/// Copies what is missing.
async fn copy(from: &dyn EventLog, to: &FluvioLog) {
    for partition in 0..PARTITIONS {
        let mut next = to.copied_to(from.topic_id(), partition).await.unwrap().unwrap_or(0);
        loop {
            let items = from.read(partition, next, 7).await.unwrap();
            let Some(last) = items.last() else { break };
            next = last.end();
            for item in items {
                if let ReadItem::Batch(batch) = item {
                    to.append_copy(from.topic_id(), &batch).await.unwrap();
                }
            }
        }
    }
}

async fn all_records(log: &dyn EventLog, partition: Partition) -> Vec<(Offset, Timestamp, Vec<u8>, Vec<u8>)> {
    let (mut found, mut next) = (Vec::new(), 0);
    loop {
        let items = log.read(partition, next, 10).await.unwrap();
        let Some(last) = items.last() else { return found };
        next = last.end();
        let batches = items.iter().filter_map(|item| match item {
            ReadItem::Batch(batch) => Some(batch),
            ReadItem::Gap { .. } => None,
        });
        let records = batches.flat_map(LogBatch::records);
        found.extend(records.map(|r| (r.offset, r.append_time, r.key.to_vec(), r.value.to_vec())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_stands_in_for_the_log_that_it_was_made_from() {
    let Some(endpoint) = cluster() else { return };
    let (folder, settings) = (tempfile::tempdir().unwrap(), settings(&endpoint, &new_topic()));
    let source = folder.path().join("events.db");
    let source = EmbeddedLog::open(&source, &settings.topic, Arc::new(FixedClock)).await.unwrap();
    let step = |position: usize| {
        let expected = position.checked_sub(1).map(|before| before.to_string());
        let next = SourcePosition { source_id: "file".to_owned(), position: position.to_string(), finished: false };
        Some(SourceStep { expected, next })
    };
    let home = home("BTC-USDT");
    for number in 0..6 {
        let records = [records("BTC-USDT", number * 10..number * 10 + 10), records("ETH-USDT", number..number + 1)];
        source.append(AppendBatch { source: step(number), ..real(records.concat()) }).await.unwrap();
    }
    source.retain(home, 30, conformance::KEEP_NOTHING).await.unwrap();
    assert!(source.first_offset(home).await.unwrap() > 0, "the first records are gone");

    let target = open(&settings, &folder).await;
    copy(&source, &target).await;
    let ended = target.append(real(records("BTC-USDT", 0..1))).await.unwrap_err();
    assert!(matches!(ended, Error::CopyUnfinished { .. }), "{ended}");
    // As after an answer that was lost: the newest records were sent once more.
    let twice = all_records(&source, home).await.split_off(25);
    let again = twice.into_iter().map(|(offset, append_time, key, value)| OutgoingRecord {
        partition: home,
        key: copied_key(&key, Origin { offset, append_time }),
        value,
    });
    target.produce(&mut *target.sending.lock().await, again.collect()).await.unwrap();
    target.close().await;

    let target = open(&settings, &folder).await;
    source.append(AppendBatch { source: step(6), ..real(records("BTC-USDT", 60..75)) }).await.unwrap();
    assert!(matches!(target.finish_copy(&source).await, Err(Error::CopyUnfinished { .. })));
    copy(&source, &target).await;
    target.finish_copy(&source).await.unwrap();
    assert_eq!(target.positions().await.unwrap(), source.positions().await.unwrap());
    assert_eq!(target.kinds().await.unwrap(), source.kinds().await.unwrap());
    for partition in 0..PARTITIONS {
        assert_eq!(all_records(&target, partition).await, all_records(&source, partition).await);
        let ends = (target.end_offset(partition).await.unwrap(), source.end_offset(partition).await.unwrap());
        assert_eq!(ends.0, ends.1);
        let first = (target.first_offset(partition).await.unwrap(), source.first_offset(partition).await.unwrap());
        assert_eq!(first.0, first.1);
    }
    for from in 0..80 {
        let (found, _) = read_all(&target, home, from, 4).await;
        assert_eq!(found, read_all(&source, home, from, 4).await.0, "from {from}");
    }

    let appended = target.append(AppendBatch { source: step(7), ..real(records("BTC-USDT", 75..80)) }).await.unwrap();
    let next = source.end_offset(home).await.unwrap();
    assert_eq!(appended, AppendOutcome::Appended(vec![(home, next..next + 5)]));
    target.close().await;
    let target = open(&settings, &folder).await;
    let (found, gaps) = read_all(&target, home, next - 3, 100).await;
    assert!(gaps.is_empty());
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (next - 3..next + 5).collect::<Vec<_>>());
    assert_eq!(found.last().unwrap().1, b"value 79");
    source.close().await;
    end(target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_copied_to_a_topic_that_holds_something_else() {
    let Some(endpoint) = cluster() else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = open(&settings(&endpoint, &new_topic()), &folder).await;
    log.append(real(records("BTC-USDT", 0..2))).await.unwrap();
    let refused = log.copied_to("another", home("BTC-USDT")).await.unwrap_err();
    assert!(matches!(refused, Error::NotACopy { .. }), "{refused}");
    end(log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_brokers_have_removed_is_a_gap_and_the_rest_is_read() {
    let Some(endpoint) = cluster() else { return };
    let (folder, mut settings) = (tempfile::tempdir().unwrap(), settings(&endpoint, &new_topic()));
    settings.retention.max_partition_bytes = 1;
    let log = open(&settings, &folder).await;
    let home = home("BTC-USDT");
    for _ in 0..16 {
        let records = (0..4).map(|_| conformance::record("BTC-USDT", conformance::noise(1 << 20))).collect();
        log.append(real(records)).await.unwrap();
    }
    // Brokers look for what is to be removed every ten seconds.
    let mut first = 0;
    for _ in 0..300 {
        first = log.first_offset(home).await.unwrap();
        if first > 0 {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    assert!((1..64).contains(&first), "{first}");
    let (found, gaps) = read_all(&log, home, 0, 3).await;
    assert_eq!(gaps, [(0, first, "removed by retention".to_owned())]);
    assert!(found.iter().map(|(offset, _)| *offset).eq(first..64));
    let (found, gaps) = read_all(&log, home, first - 1, 3).await;
    assert_eq!((found.len(), gaps.len()), (usize::try_from(64 - first).unwrap(), 1));
    end(log).await;
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings("127.0.0.1:1", "nowhere");
    let told = FluvioLog::open(&settings, &folder.path().join("ledger.db"), Arc::new(FixedClock)).await.unwrap_err();
    assert_eq!(told.kind(), domain::ErrorKind::Unavailable);
    assert!(told.to_string().contains("the Fluvio cluster 127.0.0.1:1 could not be reached"), "{told}");
}

#[test]
fn certificates_are_never_shown() {
    let text = || "secret".to_owned();
    let tls = FluvioTls::Inline { domain: "cluster".to_owned(), ca_cert: text(), cert: text(), key: text() };
    assert_eq!(format!("{tls:?}"), "FluvioTls { domain: \"cluster\", .. }");
}
