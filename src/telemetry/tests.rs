//! Spans as they would leave the program; `tests/it/telemetry.rs` is a collector that gets them.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use jobs::spans::SPANS;
use opentelemetry::trace::{SpanKind, Status, TraceId};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use tracing::{field::Empty, info_span};
use tracing_subscriber::{Layer, layer::SubscriberExt};

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Keeps what is exported.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// What is exported of `work`.
fn exported(work: impl FnOnce()) -> Vec<SpanData> {
    let kept = Kept::default();
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).with_sampler(sampler).build();
    in_spans_of(&Telemetry { provider }, work);
    let spans = kept.0.lock().unwrap();
    spans.clone()
}

fn in_spans_of(telemetry: &Telemetry, work: impl FnOnce()) {
    let layer = telemetry.spans().with_filter(SpanExport::filter());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
}

/// A request whose sender's trace has these flags.
fn request(trace_flags: u8) -> tracing::Span {
    info_span!(
        target: SPANS,
        "request",
        otel.name = "GET /health",
        otel.kind = "server",
        otel.status_code = Empty,
        http.response.status_code = Empty,
        request_id = "order-7",
        trace_id = TRACE,
        parent_id = PARENT,
        trace_flags,
    )
}

#[test]
fn a_request_is_a_span_in_the_trace_of_its_sender() {
    let spans = exported(|| {
        let span = request(1);
        span.record("http.response.status_code", 503_u16);
        span.record("otel.status_code", "ERROR");
    });
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((&*span.name, &span.span_kind, &span.status), ("GET /health", &SpanKind::Server, &Status::error("")));
    assert_eq!(span.span_context.trace_id(), TraceId::from_hex(TRACE).unwrap());
    assert_eq!((span.parent_span_id.to_string().as_str(), span.parent_span_is_remote), (PARENT, true));
    let attributes = [KeyValue::new("request_id", "order-7"), KeyValue::new("http.response.status_code", 503_i64)];
    assert_eq!(span.attributes, attributes);
}

#[test]
fn a_trace_that_its_sender_does_not_record_is_not_recorded() {
    assert_eq!(exported(|| drop(request(0))), []);
}

#[test]
fn a_span_is_part_of_the_one_around_it_whatever_lies_between() {
    let spans = exported(|| {
        let outer = info_span!(target: SPANS, "train", rows = 7);
        let _outer = outer.enter();
        let _other = info_span!(target: "lake", "of another target").entered();
        drop(info_span!(target: SPANS, "flush", events = 3_usize));
    });
    let [inner, outer] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((&*inner.name, &*outer.name), ("flush", "train"));
    assert_eq!(inner.parent_span_id, outer.span_context.span_id());
    assert_eq!(inner.span_context.trace_id(), outer.span_context.trace_id());
    assert_eq!((&inner.span_kind, &inner.status), (&SpanKind::Internal, &Status::Unset));
    assert_eq!(inner.attributes, [KeyValue::new("events", 3_i64)]);
}

#[test]
fn a_collector_that_is_not_there_fails_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let settings = TelemetrySettings { otlp_endpoint: format!("http://{address}/") };
    let telemetry = Telemetry::start(&settings, runtime.handle()).unwrap().unwrap();
    in_spans_of(&telemetry, || drop(request(1)));
    telemetry.end();
    telemetry.end();
}

#[test]
fn without_an_endpoint_there_is_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    assert!(Telemetry::start(&TelemetrySettings::default(), runtime.handle()).unwrap().is_none());
}
