//! What the brokers that lead a topic's partitions answer: the bounds of a partition, and its records.
//!
//! One request, one answer. The client's own streams are not used: a broker keeps every stream that was ever opened over
//! a connection, wakes it at each append and sends records to it, until the connection ends.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

use domain::{Offset, Partition};
use fluvio::{
    Isolation,
    dataplane::{
        api::{Request, RequestMessage},
        link::ErrorCode,
        record::{Batch, RawRecords, RecordSet},
    },
    metadata::{partition::ReplicaKey, spu::SpuSpec},
};
use fluvio_socket::{ClientConfig, MultiplexerSocket, SharedMultiplexerSocket, Versions};
use fluvio_spu_schema::{
    fetch::{FetchPartition, FetchRequest, FetchableTopic},
    server::fetch_offset::FetchOffsetsRequest,
};

use super::cluster::{BoxedError, Cluster};
use crate::error::Error;

/// Bytes that one answer may have. What is cut off at its end is asked for again.
const FETCH_BYTES: i32 = 2 << 20;

/// The same where the next batch alone is longer: enough for the longest, which is about as long as one record.
const LONG_FETCH_BYTES: i32 = 16 << 20;

/// What there is from an offset on.
pub(super) enum Fetched {
    /// Batches; the first may begin before the offset. None where there is nothing yet.
    Batches(Vec<Batch<RawRecords>>),
    /// The offset is gone, and records begin at this one.
    Evicted(Offset),
}

/// The connections to the brokers that lead a topic's partitions.
pub(super) struct Brokers {
    topic: String,
    connections: RwLock<HashMap<Partition, Arc<Connection>>>,
}

impl fmt::Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brokers").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// A connection to one broker; any number of requests may be on their way.
struct Connection {
    spu: i32,
    socket: SharedMultiplexerSocket,
    versions: Versions,
}

impl Connection {
    async fn ask<R: Request + Send + Sync>(&self, request: R) -> Result<R::Response, BoxedError> {
        let mut message = RequestMessage::new_request(request);
        if let Some(version) = self.versions.lookup_version::<R>() {
            message.get_mut_header().set_api_version(version);
        }
        Ok(self.socket.send_and_receive(message).await?)
    }
}

impl Brokers {
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), connections: RwLock::default() }
    }

    /// The first offset of a partition and the one after the last that is committed.
    pub async fn bounds(&self, cluster: &Cluster, partition: Partition) -> Result<Range<Offset>, Error> {
        let number = partition.unsigned_abs();
        let request = FetchOffsetsRequest::new(self.topic.clone(), number);
        let answer = self.ask(cluster, partition, request).await?;
        let found = answer.find_partition(&ReplicaKey::new(self.topic.clone(), number));
        match found.map(|found| (found.error_code, found.start_offset..found.last_stable_offset)) {
            Some((ErrorCode::None, bounds)) => Ok(bounds),
            Some((code, _)) => Err(self.refused(cluster, partition, code)),
            None => Err(self.refused(cluster, partition, ErrorCode::PartitionPendingInitialization)),
        }
    }

    /// Batches of a partition from an offset on, as many as one answer holds and one at least.
    pub async fn fetch(&self, cluster: &Cluster, partition: Partition, from: Offset) -> Result<Fetched, Error> {
        for bytes in [FETCH_BYTES, LONG_FETCH_BYTES] {
            let fetched = self.fetch_bytes(cluster, partition, from, bytes).await?;
            let is_cut_off = matches!(&fetched, Fetched::Batches(batches) if batches.is_empty())
                && self.bounds(cluster, partition).await?.end > from;
            if !is_cut_off {
                return Ok(fetched);
            }
        }
        Err(self.refused(cluster, partition, ErrorCode::MessageTooLarge))
    }

    async fn fetch_bytes(
        &self,
        cluster: &Cluster,
        partition: Partition,
        from: Offset,
        bytes: i32,
    ) -> Result<Fetched, Error> {
        let number = partition.unsigned_abs();
        let wanted =
            FetchPartition { partition_index: number, fetch_offset: from, max_bytes: bytes, ..Default::default() };
        let request: FetchRequest<RecordSet<RawRecords>> = FetchRequest {
            max_bytes: bytes,
            isolation_level: Isolation::ReadCommitted,
            topics: vec![FetchableTopic { name: self.topic.clone(), fetch_partitions: vec![wanted] }],
            ..Default::default()
        };
        let answer = self.ask(cluster, partition, request).await?;
        let found = answer.find_partition(&self.topic, number);
        match found.map(|found| (found.error_code, found.records.batches)) {
            Some((ErrorCode::None, mut batches)) => {
                // Bytes are counted without a look at where a batch ends.
                batches.pop_if(|last| !last.validate_decoding());
                Ok(Fetched::Batches(batches))
            }
            Some((ErrorCode::OffsetEvicted { next_available, .. }, _)) => Ok(Fetched::Evicted(next_available)),
            // Beyond the end there is nothing yet, which brokers tell in more than one way.
            Some(_) if self.bounds(cluster, partition).await?.end <= from => Ok(Fetched::Batches(Vec::new())),
            Some((code, _)) => Err(self.refused(cluster, partition, code)),
            None => Err(self.refused(cluster, partition, ErrorCode::PartitionPendingInitialization)),
        }
    }

    /// Forgets all connections.
    pub fn leave(&self) {
        self.connections.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// An error that a broker told. Another one may lead the partition now.
    fn refused(&self, cluster: &Cluster, partition: Partition, code: ErrorCode) -> Error {
        self.forget(partition);
        cluster.failed("be read")(code.into())
    }

    fn forget(&self, partition: Partition) {
        self.connections.write().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    async fn ask<R: Request + Send + Sync>(
        &self,
        cluster: &Cluster,
        partition: Partition,
        request: R,
    ) -> Result<R::Response, Error> {
        let connection = self.connection(cluster, partition).await?;
        let answer = cluster.answer("be read", connection.ask(request)).await;
        answer.inspect_err(|_| self.forget(partition))
    }

    async fn connection(&self, cluster: &Cluster, partition: Partition) -> Result<Arc<Connection>, Error> {
        let known = self.connections.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned();
        if let Some(known) = known.filter(|known| !known.socket.is_stale()) {
            return Ok(known);
        }
        let spu = cluster.leader_of(&self.topic, partition).await?;
        let shared = {
            let known = self.connections.read().unwrap_or_else(PoisonError::into_inner);
            known.values().find(|known| known.spu == spu && !known.socket.is_stale()).cloned()
        };
        let connection = if let Some(shared) = shared { shared } else { Arc::new(connect(cluster, spu).await?) };
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        connections.insert(partition, connection.clone());
        Ok(connection)
    }
}

async fn connect(cluster: &Cluster, spu: i32) -> Result<Connection, Error> {
    let (name, broker) = cluster.broker(spu).await?;
    let config = cluster.config()?;
    let connecting = async {
        let direct = ClientConfig::new(&config.endpoint, config.tls.clone().try_into()?, config.use_spu_local_address);
        let mut direct = direct.with_prefix_sni_domain(&name);
        direct.set_addr(address(&broker, config.use_spu_local_address));
        Ok::<_, BoxedError>(direct.connect().await?.split())
    };
    let (socket, _, versions) = cluster.answer("be reached", connecting).await?;
    Ok(Connection { spu, socket: MultiplexerSocket::shared(socket), versions })
}

fn address(broker: &SpuSpec, is_local: bool) -> String {
    match &broker.public_endpoint_local {
        Some(local) if is_local => format!("{}:{}", local.host, local.port),
        _ => broker.public_endpoint.addr(),
    }
}
