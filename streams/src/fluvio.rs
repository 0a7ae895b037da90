//! The event log on a Fluvio cluster: the only place that touches the client.
//!
//! The cluster keeps the records. What it has no place for, how far sources are and which symbols are simulated, is in a
//! ledger beside it: a file of the embedded engine that never holds a record of a market. The ledger's id is the topic's.
//!
//! Invariants: an append is acknowledged by the brokers before it is told; the server's store of consumer offsets is not
//! used. Every request has a time of its own, since the client waits for ever. A failed append may have been made in part:
//! repeating it can double records, which admission removes by their ids.

mod copies;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    future::Future,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use domain::{Clock, Kind, Offset, Partition, Symbol, Timestamp};
use fluvio::{
    Compression, Fluvio, FluvioClusterConfig, Isolation, Offset as From, TopicProducerConfigBuilder, TopicProducerPool,
    config::{TlsCerts, TlsPaths, TlsPolicy},
    consumer::{ConsumerConfig, PartitionConsumer},
    dataplane::{link::ErrorCode, record::Batch},
    metadata::{
        partition::{PartitionSpec, PartitionStatus},
        topic::{CleanupPolicy, SegmentBasedPolicy, TopicSpec, TopicStorageConfig},
    },
};
use futures::{Stream, StreamExt as _};
use tokio::sync::{Mutex, Notify};

use crate::{
    embedded::EmbeddedLog,
    error::Error,
    log::{
        AppendBatch, AppendOutcome, CopyTarget, EventLog, LogBatch, MAX_APPEND_BYTES, MAX_PARTITIONS, MAX_READ_BYTES,
        MAX_READ_RECORDS, NewRecord, ReadItem, Retained, RetentionPolicy, SourcePosition, SourceStep, TopicSettings,
        check_limits, check_offset, check_partition, check_partitions, offset_of, partition_of, unknown_key,
    },
};

use copies::{Origin, Places, copied_key, split_key};

/// How long an answer of the cluster is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the brokers may take to accept a whole append.
const APPEND_TIMEOUT: Duration = Duration::from_mins(1);

/// How often a waiting reader looks for appends of other processes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often a partition of a new topic is looked for.
const BROKER_LOOKS: u32 = 50;

/// Bytes of records that travel together.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes that one answer to a read may have; a record that is longer comes alone.
const FETCH_BYTES: i32 = 8 << 20;

/// The smallest segments that a topic is made with. A broker never takes a record again after one that does not fit into a
/// segment, and removes old records segment by segment.
const MIN_SEGMENT_BYTES: u64 = 16 << 20;

/// The largest; Fluvio's own.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Segments that the records which a partition may keep lie in.
const SEGMENTS: u64 = 8;

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
        let log = Self { cluster, topic: name, partitions, ledger, kinds, places, sending, appended };
        if known.is_none() {
            log.await_brokers().await?;
        }
        Ok(log)
    }

    /// Waits until every partition of a new topic answers. What the controller says of them may be late for ever.
    async fn await_brokers(&self) -> Result<(), Error> {
        for partition in 0..self.partitions {
            let mut looks = 1;
            while let Err(error) = self.first_batch(partition, From::beginning()).await {
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
        let sent = tokio::time::timeout(APPEND_TIMEOUT, send(&producer, records));
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

    /// The batches of a partition from an offset to the end that it has now.
    async fn batches(
        &self,
        partition: Partition,
        from: From,
    ) -> Result<impl Stream<Item = Result<Batch, ErrorCode>> + Send + use<>, Error> {
        let client = self.cluster.client().await?;
        let number = partition.unsigned_abs();
        #[expect(deprecated, reason = "its successor keeps one offset for all partitions")]
        let consumer = self.cluster.answer("be read", client.partition_consumer(self.topic.clone(), number)).await?;
        let config = ConsumerConfig::builder()
            .disable_continuous(true)
            .max_bytes(FETCH_BYTES)
            .isolation(Isolation::ReadCommitted)
            .build()
            .map_err(|error| self.cluster.failed("be read")(error.into()))?;
        self.cluster.answer("be read", opened(consumer, from, config)).await
    }

    /// The first batch from an offset on; none where there is nothing.
    async fn first_batch(&self, partition: Partition, from: From) -> Result<Option<Batch>, Error> {
        let mut batches = Box::pin(self.batches(partition, from).await?);
        self.next_batch(&mut batches).await?.transpose().map_err(|code| self.unreadable(code))
    }

    async fn next_batch(
        &self,
        batches: &mut (impl Stream<Item = Result<Batch, ErrorCode>> + Unpin + Send),
    ) -> Result<Option<Result<Batch, ErrorCode>>, Error> {
        self.cluster.answer("be read", async { Ok::<_, ErrorCode>(batches.next().await) }).await
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
        let mut end = self.cluster.end_of(&self.topic, partition).await?;
        let mut next = (!places.is_plain()).then(|| places.in_log(end));
        if let Some(batch) = self.first_batch(partition, From::from_end(1)).await? {
            end = batch.get_last_offset() + 1;
            let last = batch.into_consumer_records_iter(partition.unsigned_abs()).last();
            let origin = last.and_then(|record| split_key(record.key().unwrap_or_default()).1);
            next = origin.map(|origin| origin.offset + 1);
        }
        let is_other =
            if places.from.is_empty() { end > 0 } else { places.from != source || (end > 0 && next.is_none()) };
        if is_other {
            return Err(Error::NotACopy { topic: self.topic.clone() });
        }
        sending.copied.insert(partition, (end, next));
        Ok((end, next))
    }

    fn unreadable(&self, code: ErrorCode) -> Error {
        self.cluster.leave();
        self.cluster.failed("be read")(code.into())
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
        let places = self.places(partition);
        let mut reading = Reading { partition, places, next: from, items: Vec::new(), records: 0, bytes: 0 };
        loop {
            let at = reading.places.on_brokers(reading.next);
            let at = From::absolute(at).map_err(|error| self.cluster.failed("be read")(error.into()))?;
            let mut batches = Box::pin(self.batches(partition, at).await?);
            let evicted = loop {
                if reading.records >= max_records || reading.bytes >= MAX_READ_BYTES {
                    return Ok(reading.items);
                }
                match self.next_batch(&mut batches).await? {
                    None => return Ok(reading.items),
                    Some(Ok(batch)) => reading.take(batch)?,
                    Some(Err(ErrorCode::OffsetEvicted { next_available, .. })) => {
                        break reading.places.in_log(next_available);
                    }
                    Some(Err(code)) => return Err(self.unreadable(code)),
                }
            };
            if !reading.gap(evicted, "removed by retention") {
                return Err(self.unreadable(ErrorCode::OffsetOutOfRange));
            }
        }
    }

    async fn first_offset(&self, partition: Partition) -> Result<Offset, Error> {
        check_partition(partition, self.partitions)?;
        let first = match self.first_batch(partition, From::beginning()).await? {
            Some(batch) => batch.get_base_offset(),
            None => self.cluster.end_of(&self.topic, partition).await?,
        };
        Ok(self.places(partition).in_log(first))
    }

    async fn end_offset(&self, partition: Partition) -> Result<Offset, Error> {
        check_partition(partition, self.partitions)?;
        let end = match self.first_batch(partition, From::from_end(1)).await? {
            Some(batch) => batch.get_last_offset() + 1,
            None => self.cluster.end_of(&self.topic, partition).await?,
        };
        Ok(self.places(partition).in_log(end))
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

async fn opened(
    consumer: PartitionConsumer,
    from: From,
    config: ConsumerConfig,
) -> Result<impl Stream<Item = Result<Batch, ErrorCode>> + Send + use<>, BoxedError> {
    Ok(consumer.stream_batches_with_config(from, config).await?)
}

/// How a partition that keeps so many bytes is stored; a broker keeps two segments at least.
fn storage(max_partition_bytes: u64) -> TopicStorageConfig {
    let segment = (max_partition_bytes / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
    let max_partition_size = Some(max_partition_bytes.max(2 * segment));
    TopicStorageConfig { segment_size: u32::try_from(segment).ok(), max_partition_size }
}

/// Items on their way to a reader.
struct Reading {
    partition: Partition,
    places: Arc<Places>,
    next: Offset,
    items: Vec<ReadItem>,
    records: usize,
    bytes: usize,
}

impl Reading {
    /// Takes the records of a batch that were not read yet: a first batch may begin before what was asked for, and of
    /// copied records some may be there twice.
    fn take(&mut self, batch: Batch) -> Result<(), Error> {
        let mut taken = LogBatch::new(self.partition, self.next);
        for record in batch.into_consumer_records_iter(self.partition.unsigned_abs()) {
            let (mut key, mut offset) = (record.key().unwrap_or_default(), record.offset());
            let mut append_time = Timestamp::from_millis(record.timestamp());
            if !self.places.is_plain() {
                let (symbol, origin) = split_key(key);
                offset = origin.map_or_else(|| self.places.in_log(offset), |origin| origin.offset);
                append_time = origin.map_or(append_time, |origin| origin.append_time);
                key = symbol;
            }
            if offset < self.next {
                continue;
            }
            if offset > self.next {
                self.give(std::mem::replace(&mut taken, LogBatch::new(self.partition, offset)));
                self.gap(offset, "the brokers have no records there");
            }
            taken.push(append_time, key, record.value())?;
            self.next = offset + 1;
        }
        self.give(taken);
        Ok(())
    }

    fn give(&mut self, taken: LogBatch) {
        self.records += taken.len();
        self.bytes += taken.bytes_held();
        if !taken.is_empty() {
            self.items.push(ReadItem::Batch(taken));
        }
    }

    /// Notes that offsets below `to` cannot be had; whether there are any.
    fn gap(&mut self, to: Offset, reason: &str) -> bool {
        let is_gap = to > self.next;
        if is_gap {
            let (partition, from) = (self.partition, self.next);
            self.items.push(ReadItem::Gap { partition, from, to, reason: reason.to_owned() });
            self.next = to;
        }
        is_gap
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The connection to a cluster, made when it is needed and again after a failure.
struct Cluster {
    name: String,
    settings: FluvioSettings,
    client: RwLock<Option<Arc<Fluvio>>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Cluster {
    fn new(settings: &FluvioSettings) -> Self {
        let profile = settings.profile.as_ref().map(|profile| format!("of profile `{profile}`"));
        let name = settings.endpoint.clone().or(profile).unwrap_or_else(|| "of the current profile".to_owned());
        Self { name, settings: settings.clone(), client: RwLock::default() }
    }

    fn failed(&self, doing: &'static str) -> impl Fn(BoxedError) -> Error + use<> {
        let cluster = self.name.clone();
        move |source| Error::Cluster { cluster: cluster.clone(), doing, source }
    }

    /// An answer of the cluster, waited for no longer than [`ANSWER_TIMEOUT`]. After a failure the connection is made anew.
    async fn answer<T, E: Into<BoxedError>>(
        &self,
        doing: &'static str,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, request).await;
        let answer = answer.map_or_else(|late| Err(late.into()), |answer| answer.map_err(Into::into));
        answer.map_err(|source| {
            self.leave();
            self.failed(doing)(source)
        })
    }

    async fn client(&self) -> Result<Arc<Fluvio>, Error> {
        if let Some(client) = self.client.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(client.clone());
        }
        let config = self.config()?;
        let client = Arc::new(self.answer("be reached", Fluvio::connect_with_config(&config)).await?);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Forgets the connection.
    fn leave(&self) {
        self.client.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn config(&self) -> Result<FluvioClusterConfig, Error> {
        let FluvioSettings { endpoint, profile, tls, .. } = &self.settings;
        let failed = self.failed("be found");
        match (endpoint, profile) {
            (Some(endpoint), _) => {
                let config = FluvioClusterConfig::new(endpoint);
                Ok(tls.as_ref().map_or(config.clone(), |tls| config.with_tls(tls.policy())))
            }
            (None, Some(profile)) => {
                FluvioClusterConfig::load_with_profile(profile).map_err(|error| failed(error.into()))?.ok_or_else(
                    || Error::Settings(format!("Fluvio has no profile `{profile}`: see `fluvio profile list`")),
                )
            }
            (None, None) => FluvioClusterConfig::load().map_err(|error| failed(error.into())),
        }
    }

    /// The partitions of a topic; none where there is no such topic.
    async fn partitions_of(&self, topic: &str) -> Result<Option<Partition>, Error> {
        let topics = self.topics(vec![topic.to_owned()]).await?;
        Ok(topics.into_iter().find(|(name, _)| name == topic).map(|(_, partitions)| partitions))
    }

    /// The topics whose names hold one of some texts, all without one; each with its partitions.
    async fn topics(&self, filters: Vec<String>) -> Result<Vec<(String, Partition)>, Error> {
        let admin = self.client().await?.admin().await;
        let topics = self.answer("list topics", admin.list::<TopicSpec, _>(filters)).await?;
        let partitions = |spec: &TopicSpec| Partition::try_from(spec.replicas().partitions()).unwrap_or(Partition::MAX);
        Ok(topics.into_iter().map(|topic| (topic.name, partitions(&topic.spec))).collect())
    }

    /// Makes a topic; its partitions, which have no brokers yet.
    async fn create(&self, topic: &str, settings: &FluvioSettings) -> Result<Partition, Error> {
        let asked = settings.topic.partitions;
        let mut spec = TopicSpec::new_computed(asked.unsigned_abs(), settings.replication, None);
        let seconds = settings.retention.max_age_micros / domain::time::MICROS;
        let time_in_seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        spec.set_cleanup_policy(CleanupPolicy::Segment(SegmentBasedPolicy { time_in_seconds }));
        spec.set_storage(storage(settings.retention.max_partition_bytes));
        let admin = self.client().await?.admin().await;
        let created = self.answer("make the topic", admin.create(topic.to_owned(), false, spec)).await;
        // Another process may have been faster.
        match (self.partitions_of(topic).await?, created) {
            (Some(found), _) => Ok(found),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(asked),
        }
    }

    /// The end of a partition that holds no records, as its broker has told the controller.
    async fn end_of(&self, topic: &str, partition: Partition) -> Result<Offset, Error> {
        Ok(self.status_of(topic, partition).await?.map_or(0, |status| status.leader.leo.max(0)))
    }

    async fn status_of(&self, topic: &str, partition: Partition) -> Result<Option<PartitionStatus>, Error> {
        let admin = self.client().await?.admin().await;
        let name = format!("{topic}-{partition}");
        let found = self.answer("list partitions", admin.list::<PartitionSpec, _>(vec![name.clone()])).await?;
        Ok(found.into_iter().find(|found| found.name == name).map(|found| found.status))
    }
}

#[cfg(test)]
mod tests {
    use domain::time::MICROS;
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

        let appended =
            target.append(AppendBatch { source: step(7), ..real(records("BTC-USDT", 75..80)) }).await.unwrap();
        let next = source.end_offset(home).await.unwrap();
        assert_eq!(appended, AppendOutcome::Appended(vec![(home, next..next + 5)]));
        target.close().await;
        let target = open(&settings, &folder).await;
        let (found, gaps) = read_all(&target, home, next - 3, 100).await;
        assert!(gaps.is_empty());
        assert_eq!(
            found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(),
            (next - 3..next + 5).collect::<Vec<_>>()
        );
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

    #[test]
    fn a_partition_lies_in_segments_that_every_record_fits_into() {
        let sizes = |bytes| {
            let TopicStorageConfig { segment_size, max_partition_size } = storage(bytes);
            (u64::from(segment_size.unwrap()), max_partition_size.unwrap())
        };
        assert_eq!(sizes(0), (16 << 20, 32 << 20));
        assert_eq!(sizes(800 << 20), (100 << 20, 800 << 20));
        assert_eq!(sizes(1 << 40), (1 << 30, 1 << 40));
        assert!(MIN_SEGMENT_BYTES > 2 * crate::log::MAX_VALUE_BYTES as u64);
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings("127.0.0.1:1", "nowhere");
        let told =
            FluvioLog::open(&settings, &folder.path().join("ledger.db"), Arc::new(FixedClock)).await.unwrap_err();
        assert_eq!(told.kind(), domain::ErrorKind::Unavailable);
        assert!(told.to_string().contains("the Fluvio cluster 127.0.0.1:1 could not be reached"), "{told}");
    }

    #[test]
    fn certificates_are_never_shown() {
        let text = || "secret".to_owned();
        let tls = FluvioTls::Inline { domain: "cluster".to_owned(), ca_cert: text(), cert: text(), key: text() };
        assert_eq!(format!("{tls:?}"), "FluvioTls { domain: \"cluster\", .. }");
    }
}
