//! What optgate tells of itself: logs, spans, metrics, the decision log. None of it ever holds an address.

pub mod behind;
pub mod calls;
pub mod decisions;
mod line;
pub mod metrics;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config;

/// Why telemetry does not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("`telemetry.log` cannot be read ({0}); give a level such as `info`, or `optgate=debug,info`")]
    Filter(String),
    /// The exporter does not start.
    #[error("`telemetry.otlp_endpoint` cannot be used ({0}); give a URL such as `http://127.0.0.1:4317`")]
    Otlp(String),
    /// The metrics cannot be installed.
    #[error("metrics cannot be installed: {0}")]
    Metrics(String),
}

/// Everything that listens.
pub struct Telemetry {
    /// The metrics.
    metrics: metrics::Shared,
    spans: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logging, and exporting spans where an endpoint is configured.
    ///
    /// # Errors
    /// [`TelemetryError`].
    pub fn start(config: &config::Telemetry) -> Result<Self, TelemetryError> {
        let filter =
            EnvFilter::try_new(&config.log).map_err(|error| TelemetryError::Filter(error.to_string()))?;
        let human = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let log = if human {
            tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).boxed()
        } else {
            tracing_subscriber::fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed()
        };
        let spans = config.otlp_endpoint.as_deref().map(calls::provider).transpose()?;
        let exported = spans.as_ref().map(calls::layer::<Registry>);
        let installed =
            tracing_subscriber::registry().with(exported).with(log.with_filter(filter)).try_init();
        if let Err(error) = installed {
            return Err(TelemetryError::Filter(error.to_string()));
        }
        Ok(Self { metrics: std::sync::Arc::new(metrics::Metrics::install()?), spans })
    }

    /// The metrics.
    #[must_use]
    pub fn metrics_handle(&self) -> metrics::Shared {
        std::sync::Arc::clone(&self.metrics)
    }

    /// Whether spans are sent anywhere.
    #[must_use]
    pub const fn exports_spans(&self) -> bool {
        self.spans.is_some()
    }

    /// Sends what waits.
    pub fn stop(self) {
        if let Some(spans) = self.spans
            && let Err(error) = spans.shutdown()
        {
            eprintln!("optgate: the last spans were not sent: {error}");
        }
    }
}
