//! The HTTP side: `/healthz`, `/readyz` and `/metrics`, for probes and scrapers, which do not dial a local gRPC port.
//!
//! Knows no service and no store: it reads [`Readiness`] and prints what it is given.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;

use crate::net::accept::{self, Drained, Io, Protocol, Uncounted};
use crate::net::listen::Listener;
use crate::readiness::{Readiness, State as ReadyState};

/// How long a client may take to send a request's head, and to send the next one.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// Headers of one request.
const HEADERS_MAX: usize = 64;
/// Bytes of one request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Renders all metrics as Prometheus text.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    metrics: RenderMetrics,
}

/// `/healthz`: 200 while the process should be left running. `/readyz`: 200 while it should be sent calls. Both name
/// what stands in the way, as lines or, if asked for `application/json`, as JSON; `/readyz` also remarks on what an operator should
/// know, as lines that begin with `note:`. `/metrics`: Prometheus text.
pub fn routes(readiness: Readiness, metrics: RenderMetrics) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(Shown { readiness, metrics })
}

async fn healthz(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let state = shown.readiness.now();
    told(state.is_live(), "live", &state, Vec::new(), &headers)
}

async fn readyz(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let state = shown.readiness.now();
    let remarks = state.remarks().map(|remark| remark.to_string()).collect();
    told(state.is_ready(), "ready", &state, remarks, &headers)
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], (shown.metrics)()).into_response()
}

fn told(yes: bool, word: &str, state: &ReadyState, remarks: Vec<String>, headers: &HeaderMap) -> Response {
    let code = if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let obstacles: Vec<String> = state.obstacles().map(|obstacle| obstacle.to_string()).collect();
    let json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    if json {
        let body = serde_json::json!({ word: yes, "obstacles": obstacles, "remarks": remarks }).to_string();
        let kind = HeaderValue::from_static("application/json");
        return (code, [(header::CONTENT_TYPE, kind)], body).into_response();
    }
    let head = if yes { word.to_owned() } else { format!("not {word}") };
    let remarks = remarks.into_iter().map(|remark| format!("note: {remark}"));
    let body = std::iter::once(head).chain(obstacles).chain(remarks).collect::<Vec<_>>().join("\n") + "\n";
    (code, body).into_response()
}

/// Serves a listener until `stop`, then lets connections finish for at most `drain`.
pub async fn serve(listener: Listener, routes: Router, stop: CancellationToken, drain: Duration) -> Drained {
    accept::serve(listener, Arc::new(Http1 { routes }), Arc::new(Uncounted), stop, drain).await
}

struct Http1 {
    routes: Router,
}

impl Protocol for Http1 {
    async fn serve(&self, io: impl Io, stop: CancellationToken) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(self.routes.clone()));
        let mut connection = std::pin::pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::net::listen::BoundAddr;
    use crate::readiness::{Obstacle, Remark};

    struct Running {
        addr: std::net::SocketAddr,
        readiness: Readiness,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<Drained>,
    }

    fn run() -> Running {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address"), 4).expect("binds");
        let BoundAddr::Tcp(addr) = *listener.addr() else { panic!("a TCP address") };
        let (readiness, stop) = (Readiness::starting(), CancellationToken::new());
        let routes = routes(readiness.clone(), Arc::new(|| "up 1\n".into()));
        let task = tokio::spawn(serve(listener, routes, stop.clone(), Duration::from_secs(10)));
        Running { addr, readiness, stop, task }
    }

    async fn get(addr: std::net::SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    #[tokio::test]
    async fn probes_follow_readiness_and_say_why() {
        let running = run();
        let answer = get(running.addr, "/readyz", "*/*").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("not ready\nthe store is being opened\n"), "{answer}");
        assert!(
            get(running.addr, "/healthz", "*/*").await.ends_with("\r\n\r\nlive\nthe store is being opened\n")
        );
        running.readiness.clear(Obstacle::Starting);
        let answer = get(running.addr, "/readyz", "*/*").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nready\n"), "{answer}");
        running.readiness.raise(Obstacle::LedgerFailed);
        assert!(get(running.addr, "/healthz", "*/*").await.starts_with("HTTP/1.1 503"));
        let json = get(running.addr, "/readyz", "application/json").await;
        assert!(json.contains(r#""ready":false"#) && json.contains("synced to disk"), "{json}");
        running.stop.cancel();
        running.task.await.expect("ends");
    }

    #[tokio::test]
    async fn remarks_are_shown_beside_a_ready_answer() {
        let running = run();
        running.readiness.clear(Obstacle::Starting);
        running.readiness.remark([Remark::Unverified { origins: 2 }]);
        let answer = get(running.addr, "/readyz", "*/*").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\r\n\r\nready\nnote: records of 2 origin(s) do not verify"), "{answer}");
        let json = get(running.addr, "/readyz", "application/json").await;
        assert!(json.contains(r#""ready":true"#) && json.contains(r#""remarks":["records of 2"#), "{json}");
        assert!(get(running.addr, "/healthz", "*/*").await.ends_with("\r\n\r\nlive\n"));
        running.stop.cancel();
        running.task.await.expect("ends");
    }

    #[tokio::test]
    async fn metrics_are_shown_and_other_paths_are_not_there() {
        let running = run();
        let answer = get(running.addr, "/metrics", "*/*").await;
        assert!(answer.contains("text/plain; version=0.0.4") && answer.ends_with("up 1\n"), "{answer}");
        assert!(get(running.addr, "/secrets", "*/*").await.starts_with("HTTP/1.1 404"));
        running.stop.cancel();
        assert_eq!(running.task.await.expect("ends").cut, 0);
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_delay_a_stop() {
        let running = run();
        let idle = TcpStream::connect(running.addr).await.expect("connects");
        assert!(get(running.addr, "/metrics", "*/*").await.starts_with("HTTP/1.1 200"));
        running.stop.cancel();
        assert_eq!(running.task.await.expect("ends").cut, 0);
        drop(idle);
    }
}
