//! The connection to a cluster's controller: which topics there are, who leads their partitions, where brokers are.

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use domain::Partition;
use fluvio::{
    Fluvio, FluvioClusterConfig,
    metadata::{
        partition::PartitionSpec,
        spu::SpuSpec,
        topic::{CleanupPolicy, SegmentBasedPolicy, TopicSpec, TopicStorageConfig},
    },
};

use super::FluvioSettings;
use crate::error::Error;

/// How long an answer of the cluster is waited for.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The smallest segments that a topic is made with. A broker never takes a record again after one that does not fit into a
/// segment, and removes old records segment by segment.
const MIN_SEGMENT_BYTES: u64 = 16 << 20;

/// The largest; Fluvio's own.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Segments that the records which a partition may keep lie in.
const SEGMENTS: u64 = 8;

pub(super) type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The connection to a cluster, made when it is needed and again after a failure.
pub(super) struct Cluster {
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
    pub fn new(settings: &FluvioSettings) -> Self {
        let profile = settings.profile.as_ref().map(|profile| format!("of profile `{profile}`"));
        let name = settings.endpoint.clone().or(profile).unwrap_or_else(|| "of the current profile".to_owned());
        Self { name, settings: settings.clone(), client: RwLock::default() }
    }

    pub fn failed(&self, doing: &'static str) -> impl Fn(BoxedError) -> Error + use<> {
        let cluster = self.name.clone();
        move |source| Error::Cluster { cluster: cluster.clone(), doing, source }
    }

    /// An answer of the cluster, waited for no longer than [`ANSWER_TIMEOUT`]. After a failure the connection is made anew.
    pub async fn answer<T, E: Into<BoxedError>>(
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

    pub async fn client(&self) -> Result<Arc<Fluvio>, Error> {
        if let Some(client) = self.client.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Ok(client.clone());
        }
        let config = self.config()?;
        let client = Arc::new(self.answer("be reached", Fluvio::connect_with_config(&config)).await?);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Forgets the connection.
    pub fn leave(&self) {
        self.client.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub fn config(&self) -> Result<FluvioClusterConfig, Error> {
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
    pub async fn partitions_of(&self, topic: &str) -> Result<Option<Partition>, Error> {
        let topics = self.topics(vec![topic.to_owned()]).await?;
        Ok(topics.into_iter().find(|(name, _)| name == topic).map(|(_, partitions)| partitions))
    }

    /// The topics whose names hold one of some texts, all without one; each with its partitions.
    pub async fn topics(&self, filters: Vec<String>) -> Result<Vec<(String, Partition)>, Error> {
        let admin = self.client().await?.admin().await;
        let topics = self.answer("list topics", admin.list::<TopicSpec, _>(filters)).await?;
        let partitions = |spec: &TopicSpec| Partition::try_from(spec.replicas().partitions()).unwrap_or(Partition::MAX);
        Ok(topics.into_iter().map(|topic| (topic.name, partitions(&topic.spec))).collect())
    }

    /// Makes a topic; its partitions, which have no brokers yet.
    pub async fn create(&self, topic: &str, settings: &FluvioSettings) -> Result<Partition, Error> {
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

    /// The id of the broker that leads a partition.
    pub async fn leader_of(&self, topic: &str, partition: Partition) -> Result<i32, Error> {
        let admin = self.client().await?.admin().await;
        let name = format!("{topic}-{partition}");
        let found = self.answer("list partitions", admin.list::<PartitionSpec, _>(vec![name.clone()])).await?;
        let leader = found.into_iter().find(|found| found.name == name).map(|found| found.spec.leader);
        leader.ok_or_else(|| self.failed("say who leads a partition")(format!("there is no partition {name}").into()))
    }

    /// A broker, with the name that its certificate is for.
    pub async fn broker(&self, id: i32) -> Result<(String, SpuSpec), Error> {
        let admin = self.client().await?.admin().await;
        let brokers = self.answer("list brokers", admin.list::<SpuSpec, _>(Vec::<String>::new())).await?;
        let found = brokers.into_iter().find(|broker| broker.spec.id == id).map(|broker| (broker.name, broker.spec));
        found.ok_or_else(|| self.failed("say where a broker is")(format!("there is no broker {id}").into()))
    }
}

/// How a partition that keeps so many bytes is stored; a broker keeps two segments at least.
fn storage(max_partition_bytes: u64) -> TopicStorageConfig {
    let segment = (max_partition_bytes / SEGMENTS).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
    let max_partition_size = Some(max_partition_bytes.max(2 * segment));
    TopicStorageConfig { segment_size: u32::try_from(segment).ok(), max_partition_size }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
