//! The target of spans that may leave the program, where a collector of traces is named.
//!
//! A span with this target is made for that collector alone: no level of the log shows it, and where nobody collects it
//! is never made, whatever its fields would cost. Spans are named by what is done; of their fields, `otel.name`,
//! `otel.kind` and `otel.status_code` mean what `OpenTelemetry` calls so, and `trace_id`, `parent_id` and `trace_flags` are
//! the span of another program that they belong to.

/// The target.
pub const SPANS: &str = "telemetry";
