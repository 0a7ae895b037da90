//! Which model scores which offset of one partition.
//!
//! An assignment is in the registry before any row scored by it can be committed, so that a restart scores the same
//! offsets with the same model. Rows before the first assignment are not scored here.

use std::{collections::HashMap, sync::Arc};

use domain::{FeatureRow, Offset, Partition, Prediction, Timestamp};
use lake::registry::{Assigned, Assignment, Registry, assigned};

use crate::{active::ActiveModel, error::Error, library::Models};

/// The assignments of one partition and the models that they name.
pub(super) struct Scorer {
    topic: String,
    partition: Partition,
    assignments: Vec<Assignment>,
    models: HashMap<i64, Arc<ActiveModel>>,
}

impl Scorer {
    /// Reads the assignments and loads the models that score `next` and later.
    pub(super) async fn restore(
        registry: &Registry,
        models: &Models,
        topic: &str,
        partition: Partition,
        next: Offset,
    ) -> Result<Self, Error> {
        let assignments = registry.assignments(topic, partition).await?;
        let later = assignments.iter().filter(|a| a.first_offset > next).map(|a| a.model_version);
        let mut loaded = HashMap::new();
        for version in later.chain(assigned(&assignments, next)) {
            loaded.insert(version, models.load(version).await?);
        }
        Ok(Self { topic: topic.to_owned(), partition, assignments, models: loaded })
    }

    /// Lets `champion` score from `next` on, unless it does already.
    pub(super) async fn adopt(
        &mut self,
        registry: &Registry,
        champion: &Arc<ActiveModel>,
        next: Offset,
        at: Timestamp,
    ) -> Result<(), Error> {
        if self.assignments.last().is_some_and(|last| last.model_version == champion.version) {
            return Ok(());
        }
        let assignment = Assignment { model_version: champion.version, first_offset: next, at };
        match registry.assign(&self.topic, self.partition, assignment).await? {
            Assigned::Assigned => self.assignments.push(assignment),
            // A run before a crash, or another worker, has assigned further ahead: that stands until it is reached.
            Assigned::AlreadyAssigned | Assigned::Conflict { .. } => {
                self.assignments = registry.assignments(&self.topic, self.partition).await?;
            }
        }
        self.models.insert(champion.version, champion.clone());
        Ok(())
    }

    /// Scores rows in offset order; rows that no model is assigned to are left out. `scored` is told what each model said.
    pub(super) fn score(
        &self,
        rows: &[FeatureRow],
        predictions: &mut Vec<Prediction>,
        mut scored: impl FnMut(&ActiveModel, &[Prediction]),
    ) {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let next_change = self.assignments.iter().map(|a| a.first_offset).filter(|o| *o > first.offset).min();
            let end = next_change.map_or(rest.len(), |change| rest.partition_point(|row| row.offset < change));
            let (run, later) = rest.split_at(end);
            if let Some(model) = assigned(&self.assignments, first.offset).and_then(|v| self.models.get(&v)) {
                let said = model.predict(run);
                scored(model, &said);
                predictions.extend(said);
            }
            rest = later;
        }
    }
}
