//! Traces for a collector: spans of requests, commits and trainings, sent by OTLP over HTTP to where
//! `telemetry.otlp_endpoint` says.
//!
//! Where it says nothing, nothing of this exists. A collector that cannot be reached costs spans and never waits: they are
//! kept in a queue of a fixed length, and dropped where it is full.

mod collector;
mod spans;

use std::time::Duration;

use anyhow::Context;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tokio::runtime::Handle;
use tracing::debug;

use crate::config::TelemetrySettings;
use collector::Collector;

pub use spans::SpanExport;

/// What the collector knows the program by.
const SERVICE: &str = "sentinel";

/// The path of traces below an endpoint (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
const TRACES: &str = "/v1/traces";

/// Spans that wait to be sent, at most.
const QUEUED: usize = 8_192;

/// Spans that are sent at once, at most.
const SENT_AT_ONCE: usize = 512;

/// The longest time that a span waits, unless the collector is slow.
const PAUSE: Duration = Duration::from_secs(2);

/// How long the collector may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long the end of the program waits for what has not been sent.
const END_LIMIT: Duration = Duration::from_secs(3);

/// What sends spans.
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Begins to send; none where no endpoint is set. Sending is done on `runtime`.
    ///
    /// # Errors
    /// Where the HTTP client or the exporter cannot be made.
    pub fn start(settings: &TelemetrySettings, runtime: &Handle) -> anyhow::Result<Option<Self>> {
        if settings.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let collector =
            Collector::new(ANSWER_LIMIT, runtime.clone()).context("no client for the collector of traces")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}{TRACES}", settings.otlp_endpoint.trim_end_matches('/')))
            .with_timeout(ANSWER_LIMIT)
            .with_http_client(collector)
            .build()
            .context("traces cannot be exported")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUED)
            .with_max_export_batch_size(SENT_AT_ONCE)
            .with_scheduled_delay(PAUSE);
        let resource = Resource::builder_empty()
            .with_service_name(SERVICE)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build())
            .with_resource(resource.build())
            // A request that says that its trace is not recorded is not recorded here either.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .build();
        Ok(Some(Self { provider }))
    }

    /// The layer that makes spans of this telemetry.
    pub fn spans(&self) -> SpanExport {
        SpanExport::new(self.provider.tracer(SERVICE))
    }

    /// Sends what has not been sent, within a limit, and nothing from then on. To be called off the runtime, which it
    /// needs.
    pub fn end(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(END_LIMIT) {
            debug!(%error, "spans were not sent before the end");
        }
    }
}

#[cfg(test)]
mod tests;
