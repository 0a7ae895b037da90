//! What window functions hold of their input, told to the memory of the query.
//!
//! `DataFusion` keeps the rows that a window ranges over, all of them where the window has no bounds, and tells nobody.
//! A step before each window tells for it, so that a query ends with an error and not the program with the memory. Rows
//! pass through unchanged.

use std::{fmt, sync::Arc};

use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use deltalake::datafusion::{
    common::{
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    error::{DataFusionError, Result as Planned},
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryConsumer},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
        ReplaceChildrenOptions, replace_children_if_necessary,
        stream::RecordBatchStreamAdapter,
        windows::{BoundedWindowAggExec, WindowAggExec},
    },
};
use futures::StreamExt;

/// Puts [`Held`] before every window.
#[derive(Debug)]
pub struct WindowsAreHeld;

impl PhysicalOptimizerRule for WindowsAreHeld {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Planned<Arc<dyn ExecutionPlan>> {
        let held = plan.transform_up(|step| {
            if !step.is::<WindowAggExec>() && !step.is::<BoundedWindowAggExec>() {
                return Ok(Transformed::no(step));
            }
            let inputs: Vec<Arc<dyn ExecutionPlan>> = step.children().into_iter().map(Held::before).collect();
            replace_children_if_necessary(step, inputs).map(Transformed::yes)
        })?;
        Ok(held.data)
    }

    fn name(&self) -> &'static str {
        "windows_are_held"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Counts the rows that pass as memory of the query, until the last one has passed.
#[derive(Debug)]
struct Held {
    input: Arc<dyn ExecutionPlan>,
}

impl Held {
    fn before(input: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input: Arc::clone(input) })
    }
}

impl DisplayAs for Held {
    fn fmt_as(&self, _form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl ExecutionPlan for Held {
    fn name(&self) -> &'static str {
        "Held"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _each: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Planned<TreeNodeRecursion>,
    ) -> Planned<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Planned<Arc<dyn ExecutionPlan>> {
        Ok(children.first().map_or_else(|| Arc::clone(&self) as Arc<dyn ExecutionPlan>, Self::before))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Planned<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Planned<SendableRecordBatchStream> {
        let held = MemoryConsumer::new("rows of a window").register(context.memory_pool());
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let counted = rows.map(move |batch| {
            let batch = batch?;
            held.try_grow(bytes_of(&batch))?;
            Ok::<_, DataFusionError>(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }
}

/// The memory of a batch as if its rows were all that its buffers have.
fn bytes_of(batch: &RecordBatch) -> usize {
    let of_column = |column: &Arc<dyn Array>| {
        let texts = column.as_string_view_opt().map_or(0, StringViewArray::total_buffer_bytes_used);
        let bytes = column.to_data().get_slice_memory_size();
        texts + bytes.unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(of_column).sum()
}

#[cfg(test)]
mod tests {
    use deltalake::datafusion::{
        execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder, session_state::SessionStateBuilder},
        prelude::SessionContext,
    };

    use super::*;

    /// The rows of a window over so many numbers, in a memory of 1 MiB.
    async fn rows_of_a_window(numbers: u64) -> Planned<usize> {
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(1 << 20)));
        let state = SessionStateBuilder::new()
            .with_runtime_env(runtime.build_arc()?)
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(WindowsAreHeld))
            .build();
        let sql = format!("SELECT sum(value) OVER () AS total FROM generate_series(1, {numbers})");
        let batches = SessionContext::new_with_state(state).sql(&sql).await?.collect().await?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn a_window_ends_with_an_error_when_its_rows_do_not_fit() {
        assert_eq!(rows_of_a_window(10_000).await.unwrap(), 10_000);
        let exhausted = rows_of_a_window(10_000_000).await.unwrap_err();
        assert!(matches!(exhausted.find_root(), DataFusionError::ResourcesExhausted(_)), "{exhausted}");
    }
}
