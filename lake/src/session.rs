//! The sessions in which tables are read: what every one of them has, whoever reads.
//!
//! What the program itself asks runs in one of these as it is; what people ask gets bounds in `query/session.rs`. Every
//! session begins here, so that what is set right for one is right for all. Tables are not known here.

use std::sync::Arc;

use deltalake::datafusion::{
    execution::{runtime_env::RuntimeEnv, session_state::SessionStateBuilder},
    physical_optimizer::optimizer::PhysicalOptimizer,
    prelude::{SessionConfig, SessionContext},
};

/// The rule that moves a limit into what is said to keep it. deltalake's scan of partition values alone says so and keeps
/// none, so that `SELECT symbol FROM features LIMIT 1` gave every row; a limit above the scan costs nothing that matters.
const LIMIT_PUSHDOWN: &str = "LimitPushdown";

/// A session without bounds of its own.
pub(crate) fn plain() -> SessionContext {
    configured(SessionConfig::new())
}

/// A session with these settings, without bounds of its own.
pub(crate) fn configured(config: SessionConfig) -> SessionContext {
    SessionContext::new_with_state(builder(config, Arc::new(RuntimeEnv::default())).build())
}

/// What a session is made of.
pub(crate) fn builder(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionStateBuilder {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| rule.name() != LIMIT_PUSHDOWN);
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rules(rules)
}
