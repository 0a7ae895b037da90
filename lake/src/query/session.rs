//! The session in which a query of people is planned and runs, and what it may take of the machine.
//!
//! Sorting, grouping and joining report their memory to a pool of the session's own and go to disk beyond it; what
//! windows hold, `held` reports for them. Functions report nothing: how far a guest's values may grow is told by
//! `growth` before the query runs, and guests have no function whose answer is as long as an argument says. Tables are
//! not known here.

use std::sync::Arc;

use deltalake::datafusion::{
    execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder, session_state::SessionStateBuilder},
    prelude::{SessionConfig, SessionContext},
};

use super::{held::WindowsAreHeld, query_failed};
use crate::{error::Error, session, sql::NothingIgnored};

/// Memory of one query before it spills to disk.
const QUERY_BYTES: usize = 512 << 20;

/// Disk that a guest's query may fill, in the system's folder for temporary files.
const GUESTS_SPILL_BYTES: u64 = 1 << 30;

/// The functions of single values that guests have. Not among them is what makes a text or a list of any length from a
/// number, and what takes the name of a type: a value of some types can be as big.
const GUESTS_SCALARS: &str = "\
    abs acos acosh array_element array_has array_length arrow_typeof ascii asin asinh atan atan2 atanh bit_length btrim \
    cardinality cbrt ceil character_length chr coalesce concat concat_ws contains cos cosh cot current_date current_time \
    date_bin date_part date_trunc degrees ends_with exp factorial find_in_set floor from_unixtime gcd get_field greatest \
    initcap isnan iszero lcm least left ln log log10 log2 lower ltrim make_array make_date md5 named_struct nanvl now \
    nullif nvl nvl2 octet_length pi power radians random regexp_count regexp_like regexp_replace replace reverse right \
    round rtrim sha256 signum sin sinh split_part sqrt starts_with strpos substr tan tanh to_char to_date to_hex \
    to_local_time to_timestamp to_timestamp_micros to_timestamp_millis to_timestamp_nanos to_timestamp_seconds \
    to_unixtime translate trunc upper";

/// The functions of groups that guests have: those whose answer is not longer than one of the values. Percentiles of a
/// precision that an argument names are not among them.
const GUESTS_AGGREGATES: &str = "\
    any_value approx_distinct approx_median avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp \
    first_value grouping last_value max median min percentile_cont regr_avgx regr_avgy regr_count regr_intercept regr_r2 \
    regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop sum var var_pop";

/// A session of who owns the program.
pub fn of_owner() -> Result<SessionContext, Error> {
    let runtime = RuntimeEnvBuilder::new();
    Ok(opened(builder(SessionConfig::new(), runtime)?))
}

/// A session of somebody who may be careless or hostile: without recursion, without functions of tables and of lambdas,
/// and with the functions that are named here.
pub fn of_guest() -> Result<SessionContext, Error> {
    let mut config = SessionConfig::new();
    config.options_mut().execution.enable_recursive_ctes = false;
    let mut builder = builder(config, RuntimeEnvBuilder::new().with_max_temp_directory_size(GUESTS_SPILL_BYTES))?;
    if let Some(scalars) = builder.scalar_functions() {
        scalars.retain(|function| is_named(GUESTS_SCALARS, function.name()));
    }
    if let Some(aggregates) = builder.aggregate_functions() {
        aggregates.retain(|function| is_named(GUESTS_AGGREGATES, function.name()));
    }
    *builder.higher_order_functions() = None;
    *builder.table_functions() = None;
    Ok(opened(builder))
}

fn builder(config: SessionConfig, runtime: RuntimeEnvBuilder) -> Result<SessionStateBuilder, Error> {
    let runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(QUERY_BYTES)));
    let builder = session::builder(config, runtime.build_arc().map_err(query_failed)?)
        .with_relation_planners(vec![Arc::new(NothingIgnored)])
        .with_physical_optimizer_rule(Arc::new(WindowsAreHeld));
    Ok(builder)
}

fn opened(builder: SessionStateBuilder) -> SessionContext {
    SessionContext::new_with_state(builder.build())
}

fn is_named(names: &str, name: &str) -> bool {
    names.split_whitespace().any(|listed| listed == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What is listed and what there is, by the names of the functions themselves.
    fn unknown(listed: &str, there: impl Iterator<Item = String>) -> Vec<&str> {
        let there: BTreeSet<String> = there.collect();
        listed.split_whitespace().filter(|name| !there.contains(*name)).collect()
    }

    #[test]
    fn every_function_of_guests_is_one_of_owners() {
        let state = of_owner().unwrap().state();
        let scalars = state.scalar_functions().values().map(|function| function.name().to_owned());
        assert_eq!(unknown(GUESTS_SCALARS, scalars), Vec::<&str>::new());
        let aggregates = state.aggregate_functions().values().map(|function| function.name().to_owned());
        assert_eq!(unknown(GUESTS_AGGREGATES, aggregates), Vec::<&str>::new());
    }

    #[test]
    fn guests_have_no_function_of_tables_and_of_lambdas() {
        let state = of_guest().unwrap().state();
        assert!(state.table_functions().is_empty() && state.higher_order_functions().is_empty());
        assert!(!state.scalar_functions().contains_key("repeat"));
        assert!(state.scalar_functions().contains_key("substring"), "aliases come with their function");
        assert!(!state.aggregate_functions().contains_key("array_agg"));
    }
}
