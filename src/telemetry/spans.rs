//! Spans of the program as spans of `OpenTelemetry`.
//!
//! What `tracing-opentelemetry` does, for the few spans that are meant to leave the program: their parent may be a span of
//! another program, named by fields, so that who makes a span need not know `OpenTelemetry`. Of other spans and of events
//! nothing is taken; `jobs::spans` says which fields have a meaning.

use std::fmt::Debug;

use jobs::spans::SPANS;
use opentelemetry::{
    Context as Ancestry, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use tracing::{
    Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, LevelFilter, filter_fn},
    layer::Context,
    registry::LookupSpan,
};

/// The layer.
pub struct SpanExport {
    tracer: SdkTracer,
}

impl SpanExport {
    /// Gives the spans to this tracer.
    pub fn new(tracer: SdkTracer) -> Self {
        Self { tracer }
    }

    /// What the layer is for, and nothing else.
    pub fn filter() -> FilterFn {
        let is_meant: fn(&Metadata<'_>) -> bool = |metadata| metadata.is_span() && metadata.target() == SPANS;
        filter_fn(is_meant).with_max_level_hint(LevelFilter::INFO)
    }
}

/// The exported side of a span, kept beside it.
struct Exported(Span);

impl<S> Layer<S> for SpanExport
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Exported>().map(|exported| exported.0.span_context().clone())
        });
        let ancestry = match parent.or_else(|| fields.remote_parent()) {
            Some(parent) => Ancestry::new().with_remote_span_context(parent),
            None => Ancestry::new(),
        };
        let name = fields.name.unwrap_or_else(|| attributes.metadata().name().to_owned());
        let builder = SpanBuilder::from_name(name).with_kind(fields.kind).with_attributes(fields.attributes);
        span.extensions_mut().insert(Exported(self.tracer.build_with_context(builder, &ancestry)));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        let mut extensions = span.extensions_mut();
        let Some(Exported(exported)) = extensions.get_mut::<Exported>() else { return };
        if let Some(name) = fields.name {
            exported.update_name(name);
        }
        if fields.failed {
            exported.set_status(Status::error(""));
        }
        for attribute in fields.attributes {
            exported.set_attribute(attribute);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let exported = span.extensions_mut().remove::<Exported>();
        if let Some(Exported(mut exported)) = exported {
            exported.end();
        }
    }
}

/// The fields of a span, those with a meaning apart from the others.
struct Fields {
    name: Option<String>,
    kind: SpanKind,
    failed: bool,
    trace_id: Option<TraceId>,
    parent_id: Option<SpanId>,
    trace_flags: TraceFlags,
    attributes: Vec<KeyValue>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            name: None,
            kind: SpanKind::Internal,
            failed: false,
            trace_id: None,
            parent_id: None,
            trace_flags: TraceFlags::default(),
            attributes: Vec::new(),
        }
    }
}

impl Fields {
    /// The span of another program that is named.
    fn remote_parent(&self) -> Option<SpanContext> {
        let (trace_id, parent_id) = (self.trace_id?, self.parent_id?);
        Some(SpanContext::new(trace_id, parent_id, self.trace_flags, true, TraceState::NONE))
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "otel.name" => self.name = Some(value.to_owned()),
            "otel.kind" if value == "server" => self.kind = SpanKind::Server,
            "otel.status_code" => self.failed = value == "ERROR",
            "trace_id" => self.trace_id = TraceId::from_hex(value).ok(),
            "parent_id" => self.parent_id = SpanId::from_hex(value).ok(),
            name => self.attributes.push(KeyValue::new(name, value.to_owned())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "trace_flags" => self.trace_flags = TraceFlags::new(u8::try_from(value).unwrap_or_default()),
            name => self.attributes.push(KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
