//! The event log on a Fluvio cluster: the only place that touches the client.
//!
//! The cluster keeps the records. What it has no place for, how far sources are and which symbols are simulated, is in a
//! ledger beside it: a file of the embedded engine that never holds a record of a market. The ledger's id is the topic's.
//!
//! Invariants: an append is acknowledged by the brokers before it is told; the server's store of consumer offsets is not
//! used. Every request has a time of its own, since the client waits for ever. A failed append may have been made in part:
//! repeating it can double records, which admission removes by their ids.

mod brokers;
mod cluster;
mod copies;
mod reading;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use domain::{Clock, Kind, Offset, Partition, Symbol};
use fluvio::{
    Compression, Isolation, TopicProducerConfigBuilder, TopicProducerPool,
    config::{TlsCerts, TlsPaths, TlsPolicy},
    dataplane::record::{Batch, RawRecords},
};
use tokio::sync::{Mutex, Notify};

use crate::{
    embedded::EmbeddedLog,
    error::Error,
    log::{
        AppendBatch, AppendOutcome, CopyTarget, EventLog, LogBatch, MAX_APPEND_BYTES, MAX_PARTITIONS, MAX_READ_RECORDS,
        NewRecord, ReadItem, Retained, RetentionPolicy, SourcePosition, SourceStep, TopicSettings, check_limits,
        check_offset, check_partition, check_partitions, offset_of, partition_of, unknown_key,
    },
};

use brokers::{Brokers, Fetched};
use cluster::{ANSWER_TIMEOUT, BoxedError, Cluster};
use copies::{Origin, Places, copied_key, split_key};
use reading::Reading;

/// Bytes that the brokers must accept each second of an append, beyond the time of an answer. Then the append has failed,
/// and whoever appends can say that it waits.
const APPEND_BYTES_PER_SECOND: usize = 1 << 20;

/// How often a waiting reader looks for appends of other processes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often a partition of a new topic is looked for.
const BROKER_LOOKS: u32 = 50;

/// Bytes of records that travel together.
const BATCH_BYTES: usize = 1 << 20;

/// The client sends what waits when an append is complete; until then it waits for full batches.
const LINGER: Duration = Duration::from_millis(100);

/// How the cluster is reached, and what the topic is made with where it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FluvioSettings {
    /// `HOST:PORT` of the cluster's controller; where absent, that of the profile.
    pub endpoint: Option<String>,
    /// A profile of the Fluvio client's own configuration; the current one where both are absent.
    pub profile: Option<String>,
    /// Encryption of connections to `endpoint`; a profile has its own.
    pub tls: Option<FluvioTls>,
    /// The topic.
    pub topic: TopicSettings,
    /// Brokers that keep each partition.
    pub replication: u32,
    /// How long and how much brokers keep.
    pub retention: RetentionPolicy,
}

/// Certificates for connections to a cluster, PEM.
#[derive(Clone, PartialEq, Eq)]
pub enum FluvioTls {
    /// In files.
    Files {
        /// The name that the cluster's certificate is for.
        domain: String,
        /// The authority's certificate.
        ca_cert: PathBuf,
        /// The client's certificate.
        cert: PathBuf,
        /// The client's key.
        key: PathBuf,
    },
    /// As text.
    Inline {
        /// The name that the cluster's certificate is for.
        domain: String,
        /// The authority's certificate.
        ca_cert: String,
        /// The client's certificate.
        cert: String,
        /// The client's key.
        key: String,
    },
}

/// Never shows a key.
impl fmt::Debug for FluvioTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Files { domain, .. } | Self::Inline { domain, .. }) = self;
        f.debug_struct("FluvioTls").field("domain", domain).finish_non_exhaustive()
    }
}

impl FluvioTls {
    fn policy(&self) -> TlsPolicy {
        match self.clone() {
            Self::Files { domain, ca_cert, cert, key } => TlsPaths { domain, key, cert, ca_cert }.into(),
            Self::Inline { domain, ca_cert, cert, key } => TlsCerts { domain, key, cert, ca_cert }.into(),
        }
    }
}

/// A topic on a Fluvio cluster.
pub struct FluvioLog {
    cluster: Cluster,
    brokers: Brokers,
    topic: String,
    partitions: Partition,
    ledger: EmbeddedLog,
    /// Kinds known to be in the ledger; they never change.
    kinds: RwLock<HashMap<Symbol, Kind>>,
    /// Where offsets stand on the brokers, by partition.
    places: RwLock<Vec<Arc<Places>>>,
    /// One append at a time, so that records of a symbol keep their order.
    sending: Mutex<Sending>,
    appended: Notify,
}

/// What appends need; nothing of it is kept after a failure.
#[derive(Default)]
struct Sending {
    producer: Option<TopicProducerPool>,
    /// Of partitions that are copied to: the end on the brokers, and the offset of the log that comes next.
    copied: HashMap<Partition, (Offset, Option<Offset>)>,
}

impl fmt::Debug for FluvioLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FluvioLog").field("cluster", &self.cluster).field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl FluvioLog {
    /// Opens the topic, made where it is missing; `ledger` is the file beside it.
    ///
    /// # Errors
    /// [`Error::Cluster`] where the cluster cannot be reached, [`Error::OtherPartitionCount`] where the topic has other
    /// partitions than are asked for, or as [`EmbeddedLog::open`].
    pub async fn open(settings: &FluvioSettings, ledger: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let TopicSettings { name, partitions } = settings.topic.clone();
        check_partitions(partitions)?;
        let cluster = Cluster::new(settings);
        let known = cluster.partitions_of(&name).await?;
        let found = match known {
            Some(found) => found,
            None => cluster.create(&name, settings).await?,
        };
        if found != partitions {
            return Err(Error::OtherPartitionCount { topic: name, found, asked: partitions });
        }
        let ledger = EmbeddedLog::open(ledger, &settings.topic, clock).await?;
        let mut places = Vec::new();
        for partition in 0..partitions {
            let stored = ledger.position(&Places::source_id(partition)).await?;
            places.push(Arc::new(stored.as_ref().map(Places::parse).transpose()?.unwrap_or_default()));
        }
        let (kinds, sending, appended) = (RwLock::default(), Mutex::default(), Notify::new());
        let places = RwLock::new(places);
        let brokers = Brokers::new(&name);
        let log = Self { cluster, brokers, topic: name, partitions, ledger, kinds, places, sending, appended };
        if known.is_none() {
            log.await_brokers().await?;
        }
        Ok(log)
    }

    /// Waits until every partition of a new topic answers. What the controller says of them may be late for ever.
    async fn await_brokers(&self) -> Result<(), Error> {
        for partition in 0..self.partitions {
            let mut looks = 1;
            while let Err(error) = self.brokers.bounds(&self.cluster, partition).await {
                if looks == BROKER_LOOKS {
                    return Err(error);
                }
                looks += 1;
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// The topics of a cluster by name, each with its partitions.
    ///
    /// # Errors
    /// [`Error::Cluster`] where the cluster cannot be reached.
    pub async fn topics(settings: &FluvioSettings) -> Result<Vec<(String, Partition)>, Error> {
        let cluster = Cluster::new(settings);
        let mut topics = cluster.topics(Vec::new()).await?;
        topics.sort_unstable();
        Ok(topics)
    }

    /// Notes the kind of symbols that were never met, by a record without a value in the ledger.
    async fn note_kinds(&self, batch: &AppendBatch) -> Result<(), Error> {
        let mut keys: BTreeSet<Symbol> = batch.records.iter().map(|record| record.key).collect();
        keys.remove(&unknown_key());
        {
            let known = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
            keys.retain(|key| known.get(key) != Some(&batch.kind));
        }
        let mut fresh = Vec::new();
        for key in &keys {
            if self.ledger.kind_of(*key).await? != Some(batch.kind) {
                fresh.push(NewRecord { key: *key, value: Vec::new() });
            }
        }
        if !fresh.is_empty() {
            self.ledger.append(AppendBatch { records: fresh, kind: batch.kind, source: None }).await?;
        }
        let mut known = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(keys.into_iter().map(|key| (key, batch.kind)));
        Ok(())
    }

    /// Sends records and waits until the brokers have accepted all of them; their offsets on the brokers by partition.
    async fn produce(
        &self,
        sending: &mut Sending,
        records: Vec<OutgoingRecord>,
    ) -> Result<Vec<(Partition, Range<Offset>)>, Error> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let producer = if let Some(producer) = sending.producer.take() {
            producer
        } else {
            // What is given to a producer while no broker is there is sent whenever one comes back.
            for partition in 0..self.partitions {
                self.end_offset(partition).await?;
            }
            self.new_producer().await?
        };
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        let patience = ANSWER_TIMEOUT + Duration::from_secs((bytes / APPEND_BYTES_PER_SECOND) as u64);
        let sent = tokio::time::timeout(patience, send(&producer, records));
        match sent.await.unwrap_or_else(|late| Err(late.into())) {
            Ok(ranges) => {
                sending.producer = Some(producer);
                self.appended.notify_waiters();
                Ok(ranges)
            }
            Err(source) => {
                sending.copied.clear();
                self.cluster.leave();
                Err(self.cluster.failed("accept records")(source))
            }
        }
    }

    async fn new_producer(&self) -> Result<TopicProducerPool, Error> {
        let failed = self.cluster.failed("take records");
        let config = TopicProducerConfigBuilder::default()
            .batch_size(BATCH_BYTES)
            .max_request_size(MAX_APPEND_BYTES)
            .linger(LINGER)
            .compression(Compression::Lz4)
            .isolation(Isolation::ReadCommitted)
            .timeout(ANSWER_TIMEOUT)
            .partitioner(Arc::new(BySymbol))
            .build()
            .map_err(|error| failed(error.into()))?;
        let client = self.cluster.client().await?;
        self.cluster.answer("take records", client.topic_producer_with_config(self.topic.clone(), config)).await
    }

    fn places(&self, partition: Partition) -> Arc<Places> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        usize::try_from(partition).ok().and_then(|place| places.get(place).cloned()).unwrap_or_default()
    }

    /// Notes in the ledger where offsets of a partition stand from now on.
    async fn note_places(&self, partition: Partition, places: Places) -> Result<(), Error> {
        let source_id = Places::source_id(partition);
        let expected = self.ledger.position(&source_id).await?.map(|stored| stored.position);
        let next = SourcePosition { source_id, position: places.to_string(), finished: places.complete };
        let source = Some(SourceStep { expected, next });
        // Without records the kind says nothing.
        self.ledger.append(AppendBatch { records: Vec::new(), kind: Kind::Real, source }).await?;
        let mut known = self.places.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = usize::try_from(partition).ok().and_then(|place| known.get_mut(place)) {
            *known = Arc::new(places);
        }
        Ok(())
    }

    /// The end of a partition on its brokers, and the offset of the log that is to be copied next; none where nothing
    /// was copied yet.
    async fn copied(
        &self,
        sending: &mut Sending,
        source: &str,
        partition: Partition,
    ) -> Result<(Offset, Option<Offset>), Error> {
        if let Some(known) = sending.copied.get(&partition) {
            return Ok(*known);
        }
        let places = self.places(partition);
        let Range { start, end } = self.brokers.bounds(&self.cluster, partition).await?;
        let next = if start < end {
            self.last_origin(partition, end).await?.map(|origin| origin.offset + 1)
        } else {
            (!places.is_plain()).then(|| places.in_log(end))
        };
        let is_other =
            if places.from.is_empty() { end > 0 } else { places.from != source || (end > 0 && next.is_none()) };
        if is_other {
            return Err(Error::NotACopy { topic: self.topic.clone() });
        }
        sending.copied.insert(partition, (end, next));
        Ok((end, next))
    }

    /// Where the last record before an offset on the brokers was copied from.
    async fn last_origin(&self, partition: Partition, end: Offset) -> Result<Option<Origin>, Error> {
        let Fetched::Batches(batches) = self.brokers.fetch(&self.cluster, partition, end - 1).await? else {
            return Ok(None);
        };
        let Some(batch) = batches.into_iter().next() else { return Ok(None) };
        let records = self.unpacked(batch)?.into_consumer_records_iter(partition.unsigned_abs());
        let last = records.take_while(|record| record.offset() < end).last();
        Ok(last.and_then(|record| split_key(record.key().unwrap_or_default()).1))
    }

    fn unpacked(&self, batch: Batch<RawRecords>) -> Result<Batch, Error> {
        let unpacked: Result<Batch, <Batch as TryFrom<Batch<RawRecords>>>::Error> = batch.try_into();
        unpacked.map_err(|error| self.cluster.failed("be read")(error.into()))
    }
}

#[async_trait]
impl EventLog for FluvioLog {
    fn topic_id(&self) -> &str {
        self.ledger.topic_id()
    }

    fn partitions(&self) -> Partition {
        self.partitions
    }

    async fn append(&self, batch: AppendBatch) -> Result<AppendOutcome, Error> {
        check_limits(&batch)?;
        if (0..self.partitions).any(|partition| self.places(partition).is_filling()) {
            return Err(Error::CopyUnfinished { topic: self.topic.clone() });
        }
        let mut sending = self.sending.lock().await;
        if let Some(step) = &batch.source
            && step.is_taken(self.ledger.position(&step.next.source_id).await?)?
        {
            return Ok(AppendOutcome::AlreadyApplied);
        }
        self.note_kinds(&batch).await?;
        let AppendBatch { records, kind, source } = batch;
        let record = |NewRecord { key, value }| {
            let partition = partition_of(key, self.partitions);
            OutgoingRecord { partition, key: key.as_str().into(), value }
        };
        let mut ranges = self.produce(&mut sending, records.into_iter().map(record).collect()).await?;
        for (partition, range) in &mut ranges {
            let places = self.places(*partition);
            *range = places.in_log(range.start)..places.in_log(range.end);
        }
        if source.is_some() {
            self.ledger.append(AppendBatch { records: Vec::new(), kind, source }).await?;
        }
        Ok(AppendOutcome::Appended(ranges))
    }

    async fn read(&self, partition: Partition, from: Offset, max_records: usize) -> Result<Vec<ReadItem>, Error> {
        check_partition(partition, self.partitions)?;
        check_offset(from)?;
        let max_records = max_records.clamp(1, MAX_READ_RECORDS);
        let mut reading = Reading::new(partition, self.places(partition), from);
        while !reading.is_full(max_records) {
            match self.brokers.fetch(&self.cluster, partition, reading.from()).await? {
                Fetched::Batches(batches) if batches.is_empty() => break,
                Fetched::Batches(batches) => {
                    for batch in batches {
                        if reading.is_full(max_records) {
                            break;
                        }
                        reading.take(self.unpacked(batch)?)?;
                    }
                }
                Fetched::Evicted(next_available) => {
                    if !reading.evicted(next_available) {
                        break;
                    }
                }
            }
        }
        Ok(reading.into_items())
    }

    async fn first_offset(&self, partition: Partition) -> Result<Offset, Error> {
        check_partition(partition, self.partitions)?;
        let bounds = self.brokers.bounds(&self.cluster, partition).await?;
        Ok(self.places(partition).in_log(bounds.start))
    }

    async fn end_offset(&self, partition: Partition) -> Result<Offset, Error> {
        check_partition(partition, self.partitions)?;
        let bounds = self.brokers.bounds(&self.cluster, partition).await?;
        Ok(self.places(partition).in_log(bounds.end))
    }

    async fn wait_beyond(&self, partition: Partition, offset: Offset) -> Result<(), Error> {
        check_partition(partition, self.partitions)?;
        loop {
            let appended = self.appended.notified();
            if self.end_offset(partition).await? > offset {
                return Ok(());
            }
            tokio::select! { () = appended => {}, () = tokio::time::sleep(POLL_INTERVAL) => {} }
        }
    }

    async fn position(&self, source_id: &str) -> Result<Option<SourcePosition>, Error> {
        self.ledger.position(source_id).await
    }

    async fn positions(&self) -> Result<Vec<SourcePosition>, Error> {
        let mut positions = self.ledger.positions().await?;
        positions.retain(|known| (0..self.partitions).all(|of| known.source_id != Places::source_id(of)));
        Ok(positions)
    }

    async fn kinds(&self) -> Result<Vec<(Symbol, Kind)>, Error> {
        self.ledger.kinds().await
    }

    async fn kind_of(&self, symbol: Symbol) -> Result<Option<Kind>, Error> {
        self.ledger.kind_of(symbol).await
    }

    /// The brokers remove old records by themselves, as the topic was made; nothing is removed here.
    async fn retain(&self, partition: Partition, _: Offset, _: RetentionPolicy) -> Result<Retained, Error> {
        let first_offset = self.first_offset(partition).await?;
        Ok(Retained { first_offset, removed_records: 0, removed_bytes: 0 })
    }

    async fn close(&self) {
        *self.sending.lock().await = Sending::default();
        self.cluster.leave();
        self.brokers.leave();
        self.ledger.close().await;
    }
}

#[async_trait]
impl CopyTarget for FluvioLog {
    async fn copied_to(&self, source: &str, partition: Partition) -> Result<Option<Offset>, Error> {
        check_partition(partition, self.partitions)?;
        let (_, next) = self.copied(&mut *self.sending.lock().await, source, partition).await?;
        Ok(next)
    }

    async fn append_copy(&self, source: &str, batch: &LogBatch) -> Result<(), Error> {
        let partition = batch.partition();
        check_partition(partition, self.partitions)?;
        let mut sending = self.sending.lock().await;
        let (end, next) = self.copied(&mut sending, source, partition).await?;
        let mut records = Vec::with_capacity(batch.len());
        for record in batch.records().filter(|record| next.is_none_or(|next| record.offset >= next)) {
            let origin = Origin { offset: record.offset, append_time: record.append_time };
            records.push(OutgoingRecord {
                partition,
                key: copied_key(record.key, origin),
                value: record.value.to_vec(),
            });
        }
        let Some(first) = batch.records().len().checked_sub(records.len()).and_then(|known| batch.get(known)) else {
            return Ok(());
        };
        let mut places = Places::clone(&self.places(partition));
        if places.from.is_empty() {
            places = Places::of(source);
        }
        if places.go_on(end, first.offset) {
            self.note_places(partition, places).await?;
        }
        let count = records.len();
        let sent = self.produce(&mut sending, records).await?;
        sending.copied.remove(&partition);
        // Where a lost answer has left records twice, the brokers are asked again.
        if let [(_, range)] = sent.as_slice()
            && range.start == end
            && range.end == end + offset_of(count)
        {
            sending.copied.insert(partition, (range.end, Some(batch.end_offset())));
        }
        Ok(())
    }

    async fn finish_copy(&self, source: &dyn EventLog) -> Result<(), Error> {
        let mut sending = self.sending.lock().await;
        for partition in 0..self.partitions {
            let (end, next) = self.copied(&mut sending, source.topic_id(), partition).await?;
            let wanted = source.end_offset(partition).await?;
            let mut left = source.read(partition, next.unwrap_or(0), 1).await?.into_iter();
            if left.any(|item| matches!(item, ReadItem::Batch(_))) {
                return Err(Error::CopyUnfinished { topic: self.topic.clone() });
            }
            let mut places = Places::clone(&self.places(partition));
            places.from = source.topic_id().to_owned();
            places.complete = true;
            places.go_on(end, wanted);
            self.note_places(partition, places).await?;
        }
        for kind in [Kind::Simulated, Kind::Real] {
            let kinds = source.kinds().await?.into_iter().filter(|(_, of)| *of == kind);
            let records = kinds.map(|(key, _)| NewRecord { key, value: Vec::new() }).collect();
            self.note_kinds(&AppendBatch { records, kind, source: None }).await?;
        }
        for next in source.positions().await? {
            let expected = self.ledger.position(&next.source_id).await?;
            if expected.as_ref() == Some(&next) {
                continue;
            }
            let source = Some(SourceStep { expected: expected.map(|known| known.position), next });
            self.ledger.append(AppendBatch { records: Vec::new(), kind: Kind::Real, source }).await?;
        }
        Ok(())
    }
}

/// A record on its way to the brokers.
struct OutgoingRecord {
    partition: Partition,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Records go where they go on every engine.
struct BySymbol;

impl fluvio::Partitioner for BySymbol {
    fn partition(&self, config: &fluvio::PartitionerConfig, key: Option<&[u8]>, _value: &[u8]) -> u32 {
        let partitions = Partition::try_from(config.partition_count()).unwrap_or(MAX_PARTITIONS);
        let (key, _) = split_key(key.unwrap_or_default());
        let symbol = std::str::from_utf8(key).ok().and_then(|text| Symbol::parse(text).ok());
        partition_of(symbol.unwrap_or_else(unknown_key), partitions).unsigned_abs()
    }
}

/// Gives records to a producer and waits for all answers; the offsets by partition.
async fn send(
    producer: &TopicProducerPool,
    records: Vec<OutgoingRecord>,
) -> Result<Vec<(Partition, Range<Offset>)>, BoxedError> {
    let mut answers = Vec::with_capacity(records.len());
    for OutgoingRecord { partition, key, value } in records {
        answers.push((partition, producer.send(key, value).await?));
    }
    producer.flush().await?;
    let mut ranges: BTreeMap<Partition, Range<Offset>> = BTreeMap::new();
    for (partition, answer) in answers {
        let offset = answer.wait().await?.offset();
        let range = ranges.entry(partition).or_insert(offset..offset + 1);
        *range = range.start.min(offset)..range.end.max(offset + 1);
    }
    Ok(ranges.into_iter().collect())
}
