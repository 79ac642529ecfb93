//! Calls as spans and metrics, continuing the trace that a caller's W3C `traceparent` names.

use std::time::Instant;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use rustc_hash::FxHashMap;
use tonic::Code;
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;
use super::metrics::CallMetrics;
use crate::grpc::method::{METHODS, Method, OTHER};
use crate::grpc::stack::{Observed, Observer};

/// An exporter of spans to `endpoint`, over OTLP.
pub(super) fn provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| TelemetryError::Otlp(error.to_string()))?;
    let resource = Resource::builder().with_service_name("optgate").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The layer that turns spans into OpenTelemetry's.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer().with_tracer(provider.tracer("optgate"))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Watches every call.
pub struct Calls {
    metrics: FxHashMap<&'static str, CallMetrics>,
    propagator: TraceContextPropagator,
    with_spans: bool,
}

impl Calls {
    /// Watches calls; makes spans only where somebody exports them, since a span costs more than a cached check.
    #[must_use]
    pub fn new(with_spans: bool) -> Self {
        Self {
            metrics: METHODS
                .iter()
                .chain([&OTHER])
                .map(|method| (method.path, CallMetrics::of(method)))
                .collect(),
            propagator: TraceContextPropagator::new(),
            with_spans,
        }
    }
}

impl Observer for Shared {
    type Call = Watched;

    fn start(&self, method: &'static Method, headers: &HeaderMap) -> Watched {
        let span = if self.0.with_spans {
            let span = tracing::info_span!(
                "call",
                otel.name = %format_args!("{}/{}", method.service, method.name),
                otel.kind = "server",
                rpc.system = "grpc",
                rpc.service = method.service,
                rpc.method = method.name,
                rpc.grpc.status_code = tracing::field::Empty,
            );
            // A context that cannot be read starts a trace of its own.
            let _ = span.set_parent(self.0.propagator.extract(&Headers(headers)));
            span
        } else {
            Span::none()
        };
        if let Some(metrics) = self.0.metrics.get(method.path) {
            metrics.begin();
        }
        Watched { calls: self.clone(), method, span, begun: Instant::now(), ended: false }
    }
}

/// The watcher, shared by all calls.
#[derive(Clone)]
pub struct Shared(std::sync::Arc<Calls>);

impl Shared {
    /// Shares a watcher.
    #[must_use]
    pub fn new(calls: Calls) -> Self {
        Self(std::sync::Arc::new(calls))
    }
}

/// One call that is watched.
pub struct Watched {
    calls: Shared,
    method: &'static Method,
    span: Span,
    begun: Instant,
    ended: bool,
}

impl Watched {
    fn end(&mut self, code: Code) {
        self.ended = true;
        self.span.record("rpc.grpc.status_code", code as i64);
        if let Some(metrics) = self.calls.0.metrics.get(self.method.path) {
            metrics.end(self.begun.elapsed(), code);
        }
    }
}

impl Observed for Watched {
    fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        if self.span.is_none() { poll() } else { self.span.in_scope(poll) }
    }

    fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn forget(mut self) {
        self.ended = true;
        if let Some(metrics) = self.calls.0.metrics.get(self.method.path) {
            metrics.forget();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}
