//! From a client command to the server: over TCP or a Unix socket, with a deadline for every call.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::fault::Fault;
use crate::pb::v1::admin_service_client::AdminServiceClient;
use crate::pb::v1::consent_service_client::ConsentServiceClient;
use crate::pb::v1::send_service_client::SendServiceClient;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call with one answer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take that reads or rewrites many records.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest answer taken: 256 events with all the evidence that one may hold.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where the server is and how to print.
#[derive(Args, Clone, Debug)]
pub struct ServerFlags {
    /// Where optgate listens: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`.
    #[arg(
        long,
        env = "OPTGATE_ADDRESS",
        default_value = "http://127.0.0.1:50051",
        value_name = "ADDRESS",
        help_heading = "Connection and output"
    )]
    pub server: String,
    /// Print JSON, errors included.
    #[arg(long, help_heading = "Connection and output")]
    pub json: bool,
}

/// What `--server` names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp(String),
    Unix(PathBuf),
}

fn target(server: &str) -> Result<Target, Fault> {
    let wrong = |why: &str| Err(Fault::Usage(format!("--server {server}: {why}")));
    if let Some(path) = server.strip_prefix("unix:") {
        // `unix:///run/x` and `unix:/run/x` are the same file.
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            wrong("name the socket: `unix:/run/optgate.sock`")
        } else {
            Ok(Target::Unix(path.into()))
        };
    }
    match server.split_once("://") {
        Some(("http", _)) => Ok(Target::Tcp(server.to_owned())),
        Some(("https", _)) => wrong("TLS is not built yet; use `http://` or `unix:`"),
        Some(_) => wrong("use `http://HOST:PORT` or `unix:PATH`"),
        None => Ok(Target::Tcp(format!("http://{server}"))),
    }
}

/// Connects.
///
/// # Errors
/// [`Fault::Usage`] for an address that is none, [`Fault::Connect`] when nobody answers there.
pub async fn connect(flags: &ServerFlags) -> Result<Channel, Fault> {
    let failed = |why: String| Fault::Connect { server: flags.server.clone(), why };
    let target = target(&flags.server)?;
    let uri = match &target {
        Target::Tcp(uri) => uri.clone(),
        // Needed as the calls' authority; the connector decides where they go.
        Target::Unix(_) => "http://localhost".to_owned(),
    };
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|_| Fault::Usage(format!("--server {}: is no address", flags.server)))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    let connected = match target {
        Target::Tcp(_) => endpoint.connect().await,
        Target::Unix(path) => {
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connector).await
        }
    };
    connected.map_err(|error| failed(root(&error)))
}

/// The innermost cause: what the system said.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The client of `SendService`.
///
/// # Errors
/// As [`connect`].
pub async fn send(flags: &ServerFlags) -> Result<SendServiceClient<Channel>, Fault> {
    Ok(SendServiceClient::new(connect(flags).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// The client of `ConsentService`.
///
/// # Errors
/// As [`connect`].
pub async fn consent(flags: &ServerFlags) -> Result<ConsentServiceClient<Channel>, Fault> {
    Ok(ConsentServiceClient::new(connect(flags).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// The client of `AdminService`.
///
/// # Errors
/// As [`connect`].
pub async fn admin(flags: &ServerFlags) -> Result<AdminServiceClient<Channel>, Fault> {
    Ok(AdminServiceClient::new(connect(flags).await?).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// A call with one answer, soon.
pub fn call<T>(message: T) -> Request<T> {
    with_timeout(message, CALL_TIMEOUT)
}

/// A call that reads or rewrites many records.
pub fn long_call<T>(message: T) -> Request<T> {
    with_timeout(message, LONG_CALL_TIMEOUT)
}

fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let tcp = |uri: &str| Target::Tcp(uri.into());
        for (server, expected) in [
            ("http://127.0.0.1:50051", tcp("http://127.0.0.1:50051")),
            ("localhost:50051", tcp("http://localhost:50051")),
            ("unix:/run/optgate.sock", Target::Unix("/run/optgate.sock".into())),
            ("unix:///run/optgate.sock", Target::Unix("/run/optgate.sock".into())),
            ("unix:data/sock", Target::Unix("data/sock".into())),
        ] {
            assert_eq!(target(server).ok(), Some(expected), "{server}");
        }
        for server in ["https://127.0.0.1:50051", "unix:", "ftp://x"] {
            assert!(matches!(target(server), Err(Fault::Usage(_))), "{server}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_the_address() {
        let dir = tempfile::tempdir().expect("a directory");
        let server = format!("unix:{}", dir.path().join("no.sock").display());
        let flags = ServerFlags { server: server.clone(), json: false };
        let fault = connect(&flags).await.expect_err("nobody listens");
        assert!(matches!(&fault, Fault::Connect { server: named, .. } if *named == server));
        assert!(fault.words().contains("OPTGATE_ADDRESS"), "{}", fault.words());
    }
}
