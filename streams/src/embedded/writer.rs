//! The one task of a handle that writes: it takes the appends that wait, commits them as one immediate transaction
//! and answers each caller after the commit.
//!
//! Invariant: what a caller is told is on disk, and what a caller is refused left no trace. After any failure of the
//! storage the connection is thrown away, so that no half-open transaction can leak into the next group. Never reads
//! records.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use domain::{Clock, Kind, Offset, Partition, Symbol, Timestamp};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::{
    BEGIN_WRITE, Failure, kind_from_name,
    packing::{StoredBatch, pack},
};
use crate::{
    error::Error,
    log::{AppendBatch, AppendOutcome, NewRecord, Retained, RetentionPolicy, SourcePosition, offset_of, partition_of},
};

/// The most appends of one transaction.
const MAX_GROUP_APPENDS: usize = 1_024;

/// A group is closed with the append that brings its values to this many bytes.
const MAX_GROUP_BYTES: usize = 16 << 20;

/// The most batches that one transaction of retention removes.
const MAX_REMOVED_BATCHES: i64 = 1_000;

/// An append on its way to the writer.
pub struct Append {
    pub batch: AppendBatch,
    /// The distinct keys that are simulated or real.
    pub keys: BTreeSet<Symbol>,
    pub bytes: usize,
    pub reply: oneshot::Sender<Result<AppendOutcome, Error>>,
    /// Keeps the bytes waiting below their limit.
    pub permit: OwnedSemaphorePermit,
}

/// What the writer is asked to do.
pub enum Command {
    Append(Append),
    Retain {
        partition: Partition,
        first_needed: Offset,
        policy: RetentionPolicy,
        reply: oneshot::Sender<Result<Retained, Error>>,
    },
    Close(oneshot::Sender<()>),
}

/// The writing side of an embedded log.
pub struct Writer {
    pub failure: Failure,
    pub options: SqliteConnectOptions,
    pub connection: Option<SqliteConnection>,
    pub partitions: Partition,
    pub clock: Arc<dyn Clock>,
    /// Kinds known to be committed; they never change.
    pub kinds: HashMap<Symbol, Kind>,
    /// End offsets after this writer's last commit, for those who wait.
    pub ends: watch::Sender<Vec<Offset>>,
}

/// What is decided about one append of a group.
enum Verdict {
    Accepted(usize),
    Answered(Result<AppendOutcome, Error>),
}

/// The state of the accepted appends of a group that is not committed yet.
#[derive(Default)]
struct Group {
    records: Vec<Vec<NewRecord>>,
    kinds: BTreeMap<Symbol, Kind>,
    positions: BTreeMap<String, SourcePosition>,
}

/// The columns of a partition that an append moves.
#[derive(Clone, Copy)]
struct Head {
    end: Offset,
    last_append: Timestamp,
}

/// A group with its offsets given and its records packed.
struct PackedGroup {
    batches: Vec<StoredBatch>,
    ends: BTreeMap<Partition, (Offset, Timestamp, i64)>,
    /// Per accepted append, the offsets it got.
    ranges: Vec<Vec<(Partition, Range<Offset>)>>,
}

impl Writer {
    /// Works until the log is closed or every handle is gone, then closes the file.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut closing = None;
        let mut next = None;
        while let Some(command) = match next.take() {
            Some(command) => Some(command),
            None => commands.recv().await,
        } {
            match command {
                Command::Append(first) => {
                    let group = fill_group(first, &mut commands, &mut next);
                    self.append_group(group).await;
                }
                Command::Retain { partition, first_needed, policy, reply } => {
                    // Whoever asked may have gone; the work is done all the same.
                    let _ = reply.send(self.retain(partition, first_needed, policy).await);
                }
                Command::Close(reply) => {
                    commands.close();
                    closing = Some(reply);
                }
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the event log was not closed cleanly; it is recovered when it is opened again");
        }
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    async fn append_group(&mut self, group: Vec<Append>) {
        let mut replies = Vec::with_capacity(group.len());
        let mut appends = Vec::with_capacity(group.len());
        let mut permits = Vec::with_capacity(group.len());
        for Append { batch, keys, reply, permit, .. } in group {
            replies.push(reply);
            appends.push((batch, keys));
            permits.push(permit);
        }
        let answers = match self.commit_group(appends).await {
            Ok(answers) => answers,
            Err(error) => {
                self.connection = None;
                let cause = Arc::new(error);
                replies.iter().map(|_| Err(self.failure.describe("append", Arc::clone(&cause)))).collect()
            }
        };
        drop(permits);
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever asked may have gone; the records are in the log all the same.
            let _ = reply.send(answer);
        }
    }

    async fn commit_group(
        &mut self,
        appends: Vec<(AppendBatch, BTreeSet<Symbol>)>,
    ) -> Result<Vec<Result<AppendOutcome, Error>>, sqlx::Error> {
        let (partitions, now) = (self.partitions, self.clock.now());
        let mut connection = self.take_connection().await?;
        let mut transaction = connection.begin_with(BEGIN_WRITE).await?;
        let mut group = Group::default();
        let mut verdicts = Vec::with_capacity(appends.len());
        for (batch, keys) in appends {
            verdicts.push(judge(&mut transaction, &self.kinds, &mut group, batch, &keys).await?);
        }
        let heads = heads(&mut transaction).await?;
        let records = std::mem::take(&mut group.records);
        let packed = tokio::task::spawn_blocking(move || pack_group(records, &heads, partitions, now))
            .await
            .map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
        store(&mut transaction, &group, &packed).await?;
        transaction.commit().await?;
        self.connection = Some(connection);
        self.kinds.extend(group.kinds);
        self.ends.send_if_modified(|ends| publish(ends, &packed.ends));
        let mut ranges = packed.ranges;
        Ok(verdicts
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Accepted(place) => Ok(AppendOutcome::Appended(std::mem::take(&mut ranges[place]))),
                Verdict::Answered(answer) => answer,
            })
            .collect())
    }

    async fn retain(
        &mut self,
        partition: Partition,
        first_needed: Offset,
        policy: RetentionPolicy,
    ) -> Result<Retained, Error> {
        let mut total = Retained { first_offset: 0, removed_records: 0, removed_bytes: 0 };
        loop {
            match self.remove_oldest(partition, first_needed, policy).await {
                Ok((removed, more)) => {
                    total.first_offset = removed.first_offset;
                    total.removed_records += removed.removed_records;
                    total.removed_bytes += removed.removed_bytes;
                    if !more {
                        return Ok(total);
                    }
                }
                Err(error) => {
                    self.connection = None;
                    return Err(self.failure.describe("remove old records", Arc::new(error)));
                }
            }
        }
    }

    /// Removes up to [`MAX_REMOVED_BATCHES`] in one transaction; the flag says whether there may be more.
    async fn remove_oldest(
        &mut self,
        partition: Partition,
        first_needed: Offset,
        policy: RetentionPolicy,
    ) -> Result<(Retained, bool), sqlx::Error> {
        let oldest_kept = self.clock.now().plus_micros(-policy.max_age_micros);
        let mut connection = self.take_connection().await?;
        let mut transaction = connection.begin_with(BEGIN_WRITE).await?;
        let (first, end, mut bytes): (i64, i64, i64) =
            sqlx::query_as("SELECT first_offset, end_offset, stored_bytes FROM partitions WHERE partition = ?")
                .bind(partition)
                .fetch_one(&mut *transaction)
                .await?;
        let oldest: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT base_offset, records, append_micros, stored_bytes FROM batches WHERE partition = ? \
             ORDER BY base_offset LIMIT ?",
        )
        .bind(partition)
        .bind(MAX_REMOVED_BATCHES)
        .fetch_all(&mut *transaction)
        .await?;
        let limit = i64::try_from(policy.max_partition_bytes).unwrap_or(i64::MAX);
        let before = bytes;
        let removed = oldest
            .iter()
            .take_while(|(base, records, appended, stored)| {
                let expired = *appended < oldest_kept.micros() || bytes > limit;
                let removable = base.saturating_add(*records) <= first_needed.min(end) && expired;
                bytes -= if removable { *stored } else { 0 };
                removable
            })
            .count();
        let new_first = removed
            .checked_sub(1)
            .and_then(|last| oldest.get(last))
            .map_or(first, |(base, records, ..)| base + records);
        sqlx::query("DELETE FROM batches WHERE partition = ? AND base_offset < ?")
            .bind(partition)
            .bind(new_first)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE partitions SET first_offset = ?, stored_bytes = ? WHERE partition = ?")
            .bind(new_first)
            .bind(bytes)
            .bind(partition)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.connection = Some(connection);
        let retained = Retained {
            first_offset: new_first,
            removed_records: u64::try_from(new_first - first).unwrap_or(0),
            removed_bytes: u64::try_from(before - bytes).unwrap_or(0),
        };
        Ok((retained, offset_of(removed) == MAX_REMOVED_BATCHES))
    }

    /// The connection of this writer, opened anew after a failure. Put back by whoever succeeds.
    async fn take_connection(&mut self) -> Result<SqliteConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => SqliteConnection::connect_with(&self.options).await,
        }
    }
}

/// Takes what waits, up to the limits of a group; a command of another kind is left in `next`.
fn fill_group(first: Append, commands: &mut mpsc::Receiver<Command>, next: &mut Option<Command>) -> Vec<Append> {
    let mut bytes = first.bytes;
    let mut group = vec![first];
    while group.len() < MAX_GROUP_APPENDS && bytes < MAX_GROUP_BYTES {
        match commands.try_recv() {
            Ok(Command::Append(append)) => {
                bytes += append.bytes;
                group.push(append);
            }
            Ok(other) => {
                *next = Some(other);
                break;
            }
            Err(_) => break,
        }
    }
    group
}

/// Decides about one append and, where it is accepted, adds it to the group.
async fn judge(
    transaction: &mut SqliteConnection,
    known: &HashMap<Symbol, Kind>,
    group: &mut Group,
    batch: AppendBatch,
    keys: &BTreeSet<Symbol>,
) -> Result<Verdict, sqlx::Error> {
    if let Some(step) = &batch.source {
        let found = match group.positions.get(&step.next.source_id) {
            Some(position) => Some(position.clone()),
            None => stored_position(transaction, &step.next.source_id).await?,
        };
        match step.is_taken(found) {
            Ok(false) => {}
            Ok(true) => return Ok(Verdict::Answered(Ok(AppendOutcome::AlreadyApplied))),
            Err(moved) => return Ok(Verdict::Answered(Err(moved))),
        }
    }
    let mut fresh = Vec::new();
    for symbol in keys {
        let recorded = match known.get(symbol).or_else(|| group.kinds.get(symbol)) {
            Some(kind) => Some(*kind),
            None => stored_kind(transaction, *symbol).await?,
        };
        match recorded {
            Some(recorded) if recorded != batch.kind => {
                let refusal = Error::OtherKind { symbol: *symbol, recorded, sent: batch.kind };
                return Ok(Verdict::Answered(Err(refusal)));
            }
            Some(_) => {}
            None => fresh.push((*symbol, batch.kind)),
        }
    }
    group.kinds.extend(fresh);
    if let Some(step) = batch.source {
        group.positions.insert(step.next.source_id.clone(), step.next);
    }
    group.records.push(batch.records);
    Ok(Verdict::Accepted(group.records.len() - 1))
}

/// How far a source has been appended.
pub async fn stored_position(
    connection: &mut SqliteConnection,
    source_id: &str,
) -> Result<Option<SourcePosition>, sqlx::Error> {
    let row: Option<(String, bool)> = sqlx::query_as("SELECT position, finished FROM sources WHERE source_id = ?")
        .bind(source_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|(position, finished)| SourcePosition { source_id: source_id.to_owned(), position, finished }))
}

/// Whether a symbol is simulated or real.
pub async fn stored_kind(connection: &mut SqliteConnection, symbol: Symbol) -> Result<Option<Kind>, sqlx::Error> {
    let name: Option<String> = sqlx::query_scalar("SELECT kind FROM symbols WHERE symbol = ?")
        .bind(symbol.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(name.as_deref().and_then(kind_from_name))
}

/// How far every source has been appended.
pub async fn stored_positions(connection: &mut SqliteConnection) -> Result<Vec<SourcePosition>, sqlx::Error> {
    let rows: Vec<(String, String, bool)> =
        sqlx::query_as("SELECT source_id, position, finished FROM sources ORDER BY source_id")
            .fetch_all(connection)
            .await?;
    let position = |(source_id, position, finished)| SourcePosition { source_id, position, finished };
    Ok(rows.into_iter().map(position).collect())
}

/// Every symbol and whether it is simulated or real.
pub async fn stored_kinds(connection: &mut SqliteConnection) -> Result<Vec<(Symbol, Kind)>, sqlx::Error> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT symbol, kind FROM symbols ORDER BY symbol").fetch_all(connection).await?;
    let parse = |(symbol, kind): &(String, String)| Some((Symbol::parse(symbol).ok()?, kind_from_name(kind)?));
    Ok(rows.iter().filter_map(parse).collect())
}

async fn heads(transaction: &mut SqliteConnection) -> Result<BTreeMap<Partition, Head>, sqlx::Error> {
    let rows: Vec<(Partition, i64, i64)> =
        sqlx::query_as("SELECT partition, end_offset, last_append_micros FROM partitions")
            .fetch_all(transaction)
            .await?;
    let head = |(partition, end, last)| (partition, Head { end, last_append: Timestamp::from_micros(last) });
    Ok(rows.into_iter().map(head).collect())
}

/// Gives offsets and append times, and packs. CPU work only.
fn pack_group(
    appends: Vec<Vec<NewRecord>>,
    heads: &BTreeMap<Partition, Head>,
    partitions: Partition,
    now: Timestamp,
) -> PackedGroup {
    let mut per_partition: BTreeMap<Partition, Vec<NewRecord>> = BTreeMap::new();
    let mut partition_of_key: HashMap<Symbol, Partition> = HashMap::new();
    let end_of = |partition: Partition, records: &BTreeMap<Partition, Vec<NewRecord>>| {
        let base = heads.get(&partition).map_or(0, |head| head.end);
        base + records.get(&partition).map_or(0, |records| offset_of(records.len()))
    };
    let mut ranges = Vec::with_capacity(appends.len());
    for records in appends {
        let mut counts: BTreeMap<Partition, usize> = BTreeMap::new();
        for record in records {
            let partition = *partition_of_key.entry(record.key).or_insert_with(|| partition_of(record.key, partitions));
            *counts.entry(partition).or_default() += 1;
            per_partition.entry(partition).or_default().push(record);
        }
        let range = |(partition, count): (Partition, usize)| {
            let end = end_of(partition, &per_partition);
            (partition, end - offset_of(count)..end)
        };
        ranges.push(counts.into_iter().map(range).collect());
    }
    let mut packed = PackedGroup { batches: Vec::new(), ends: BTreeMap::new(), ranges };
    for (partition, records) in &per_partition {
        let head = heads.get(partition).copied().unwrap_or(Head { end: 0, last_append: now });
        let append_time = now.max(head.last_append);
        let batches = pack(*partition, head.end, append_time, records);
        let bytes = batches.iter().map(|batch| offset_of(batch.payload.len())).sum();
        packed.ends.insert(*partition, (head.end + offset_of(records.len()), append_time, bytes));
        packed.batches.extend(batches);
    }
    packed
}

async fn store(transaction: &mut SqliteConnection, group: &Group, packed: &PackedGroup) -> Result<(), sqlx::Error> {
    for batch in &packed.batches {
        sqlx::query(
            "INSERT INTO batches (partition, base_offset, records, append_micros, stored_bytes, raw_bytes, checksum, \
             payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(batch.partition)
        .bind(batch.base_offset)
        .bind(batch.records)
        .bind(batch.append_time.micros())
        .bind(offset_of(batch.payload.len()))
        .bind(batch.raw_bytes)
        .bind(batch.checksum.cast_signed())
        .bind(&batch.payload)
        .execute(&mut *transaction)
        .await?;
    }
    for (partition, (end, append_time, bytes)) in &packed.ends {
        sqlx::query(
            "UPDATE partitions SET end_offset = ?, last_append_micros = ?, stored_bytes = stored_bytes + ? \
             WHERE partition = ?",
        )
        .bind(end)
        .bind(append_time.micros())
        .bind(bytes)
        .bind(partition)
        .execute(&mut *transaction)
        .await?;
    }
    for (symbol, kind) in &group.kinds {
        sqlx::query("INSERT INTO symbols (symbol, kind) VALUES (?, ?)")
            .bind(symbol.as_str())
            .bind(kind.as_str())
            .execute(&mut *transaction)
            .await?;
    }
    for position in group.positions.values() {
        sqlx::query(
            "INSERT INTO sources (source_id, position, finished) VALUES (?, ?, ?) \
             ON CONFLICT (source_id) DO UPDATE SET position = excluded.position, finished = excluded.finished",
        )
        .bind(&position.source_id)
        .bind(&position.position)
        .bind(position.finished)
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}

fn publish(ends: &mut [Offset], packed: &BTreeMap<Partition, (Offset, Timestamp, i64)>) -> bool {
    for (partition, (end, ..)) in packed {
        if let Some(known) = ends.get_mut(partition.unsigned_abs() as usize) {
            *known = *end;
        }
    }
    !packed.is_empty()
}
