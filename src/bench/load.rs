//! The callers: what services would ask, as fast as the answers come.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::BenchError;
use crate::pb::v1;
use crate::pb::v1::admin_service_client::AdminServiceClient;
use crate::pb::v1::consent_service_client::ConsentServiceClient;
use crate::pb::v1::send_service_client::SendServiceClient;

/// How many callers, over how many connections.
#[derive(Clone, Copy)]
pub struct Callers {
    /// Connections.
    pub connections: u32,
    /// Callers on each.
    pub per_connection: u32,
}

/// Whom the calls are about.
#[derive(Clone, Copy)]
pub struct Target {
    /// How many recipients are asked for.
    pub recipients: u64,
    /// How many are stored; those asked for are spread over all of them.
    pub stored: u64,
    /// Which draw of them: that of another measurement is another, or it would ask for whom the one before has just brought to mind.
    pub draw: u32,
}

impl Target {
    /// Another draw of the same.
    pub fn drawn(self, draw: u32) -> Self {
        Self { draw, ..self }
    }

    /// The number of the recipient `at` a place among those asked for.
    fn number(self, at: u64) -> u64 {
        at * (self.stored / self.recipients.max(1))
    }
}

/// What one measurement saw.
#[derive(Default)]
pub struct Sample {
    /// Calls answered.
    pub calls: u64,
    /// Of these, ALLOW.
    pub allowed: u64,
    /// In how long.
    pub took: Duration,
    /// Each call's time, in microseconds, sorted.
    pub latencies_us: Vec<u32>,
    /// The processor time that the server took.
    pub server_cpu: Duration,
    /// The processor time that the callers took.
    pub client_cpu: Duration,
}

impl Sample {
    /// The time that `part` of the calls stayed below.
    pub fn quantile_us(&self, part: f64) -> u32 {
        let at = (self.latencies_us.len() as f64 * part) as usize;
        self.latencies_us.get(at.min(self.latencies_us.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// Calls a second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }
}

/// Connects to a server's socket.
pub async fn connect(uds: &Path) -> Result<Channel, BenchError> {
    let uds: PathBuf = uds.to_owned();
    // The authority is not used: the connector always dials the socket.
    let endpoint = Endpoint::from_static("http://bench");
    let dial = move |_: Uri| {
        let uds = uds.clone();
        async move { UnixStream::connect(uds).await.map(TokioIo::new) }
    };
    Ok(endpoint.connect_with_connector(service_fn(dial)).await?)
}

/// Whether a server is there and ready.
pub async fn answers(uds: &Path) -> bool {
    let Ok(channel) = connect(uds).await else { return false };
    let mut client = SendServiceClient::new(channel);
    match client.check_send(check(0, true)).await {
        // Anything but UNAVAILABLE: the sidecar has its consents at hand.
        Ok(answer) => answer.into_inner().reason() != v1::Reason::Unavailable,
        Err(_) => false,
    }
}

/// Waits until what was recorded is in the store, as it is with most of a business's recipients at any time.
pub async fn settled(uds: &Path) -> Result<(), BenchError> {
    const WITHIN: Duration = Duration::from_secs(120);
    let mut client = AdminServiceClient::new(connect(uds).await?);
    let begun = Instant::now();
    loop {
        let status = client.get_status(v1::GetStatusRequest::default()).await.map_err(failed)?.into_inner();
        if status.view.is_some_and(|view| view.unstored_records == 0 && view.scattered_parts == 0) {
            return Ok(());
        }
        if begun.elapsed() > WITHIN {
            return Err(BenchError::NotThere("the import, in order in the store,"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn phone(number: u64) -> v1::Recipient {
    v1::Recipient { address: Some(v1::recipient::Address::Phone(format!("+491510{number:07}"))) }
}

fn check(number: u64, peek: bool) -> v1::CheckSendRequest {
    check_of(phone(number), peek)
}

/// A check of a template to `recipient`.
pub fn check_of(recipient: v1::Recipient, peek: bool) -> v1::CheckSendRequest {
    let mode = if peek { v1::CheckMode::Peek } else { v1::CheckMode::Enforce };
    let template = v1::TemplateRef { name: "update".into(), language: "en_US".into() };
    v1::CheckSendRequest {
        business_id: "bench".into(),
        sender_id: "sender".into(),
        recipient: Some(recipient),
        channel: v1::Channel::Whatsapp.into(),
        content: Some(v1::check_send_request::Content::Template(template)),
        mode: mode.into(),
        ..v1::CheckSendRequest::default()
    }
}

/// A small fast generator; the same numbers for both sides.
struct Draw(u64);

impl Draw {
    fn new(caller: u64, draw: u32) -> Self {
        // Mixed, since it never leaves zero and begins alike where it starts alike.
        let mut seed = (u64::from(draw) << 32 | caller).wrapping_add(0x9e37_79b9_7f4a_7c15);
        for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
            seed = (seed ^ seed >> 30).wrapping_mul(factor);
        }
        Self(seed | 1)
    }

    fn next(&mut self, target: Target) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        target.number(self.0 % target.recipients.max(1))
    }
}

/// A call that failed.
pub fn failed(status: tonic::Status) -> BenchError {
    BenchError::Call(Box::new(status))
}

/// Runs callers until `span` is over.
async fn drive<F, Fut>(uds: &Path, callers: Callers, span: Duration, call: F) -> Result<Sample, BenchError>
where
    F: Fn(Channel, u64) -> Fut, // a connection, and which caller it is
    Fut: Future<Output = Result<(u64, Vec<u32>), BenchError>> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for connection in 0..callers.connections {
        let channel = connect(uds).await?;
        for caller in 0..callers.per_connection {
            tasks.spawn(call(channel.clone(), u64::from(connection * callers.per_connection + caller)));
        }
    }
    let mut sample = Sample::default();
    while let Some(ended) = tasks.join_next().await {
        let Ok(ended) = ended else { continue };
        let (allowed, mut latencies) = ended?;
        sample.allowed += allowed;
        sample.calls += latencies.len() as u64;
        sample.latencies_us.append(&mut latencies);
    }
    sample.took = begun.elapsed().max(span);
    sample.latencies_us.sort_unstable();
    Ok(sample)
}

fn micros(since: Instant) -> u32 {
    micros_between(since, Instant::now())
}

/// Microseconds from one moment to a later one.
pub fn micros_between(from: Instant, to: Instant) -> u32 {
    u32::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u32::MAX)
}

/// Checks that consume.
pub async fn checks(
    uds: &Path,
    callers: Callers,
    target: Target,
    span: Duration,
) -> Result<Sample, BenchError> {
    let until = Instant::now() + span;
    drive(uds, callers, span, |channel, caller| async move {
        let mut client = SendServiceClient::new(channel);
        let mut draw = Draw::new(caller, target.draw);
        let (mut allowed, mut latencies) = (0, Vec::with_capacity(1 << 14));
        while Instant::now() < until {
            let request = check(draw.next(target), false);
            let begun = Instant::now();
            let answer = client.check_send(request).await.map_err(failed)?;
            latencies.push(micros(begun));
            allowed += u64::from(answer.into_inner().decision() == v1::Decision::Allow);
        }
        Ok((allowed, latencies))
    })
    .await
}

/// How many a batch asks for.
const BATCH: u64 = 1_000;

/// A batch that only asks.
fn batch(numbers: impl Iterator<Item = u64>) -> v1::BatchCheckSendRequest {
    let item =
        |number| v1::CheckSendRequest { recipient: Some(phone(number)), ..v1::CheckSendRequest::default() };
    v1::BatchCheckSendRequest { defaults: Some(check(0, true)), items: numbers.map(item).collect() }
}

/// Batches that only ask. Answers decisions and the time they took.
pub async fn batches(uds: &Path, target: Target, span: Duration) -> Result<(u64, Duration), BenchError> {
    let callers = Callers { connections: 2, per_connection: 1 };
    let until = Instant::now() + span;
    let sample = drive(uds, callers, span, |channel, caller| async move {
        let mut client = SendServiceClient::new(channel);
        let mut draw = Draw::new(caller, target.draw);
        let (mut decisions, mut latencies) = (0, Vec::new());
        while Instant::now() < until {
            let request = batch((0..BATCH).map(|_| draw.next(target)));
            let begun = Instant::now();
            let answer = client.batch_check_send(request).await.map_err(failed)?;
            latencies.push(micros(begun));
            decisions += answer.into_inner().results.len() as u64;
        }
        Ok((decisions, latencies))
    })
    .await?;
    Ok((sample.allowed, sample.took))
}

/// Asks for each recipient once.
pub async fn ask_for_all(uds: &Path, target: Target) -> Result<(), BenchError> {
    let mut client = SendServiceClient::new(connect(uds).await?);
    for first in (0..target.recipients).step_by(BATCH as usize) {
        let numbers = first..(first + BATCH).min(target.recipients);
        let request = batch(numbers.map(|at| target.number(at)));
        client.batch_check_send(request).await.map_err(failed)?;
    }
    Ok(())
}

/// Opt-outs, each of another person of its own range.
pub async fn records(uds: &Path, callers: Callers, span: Duration) -> Result<Sample, BenchError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let until = Instant::now() + span;
    drive(uds, callers, span, |channel, _| async move {
        let mut client = ConsentServiceClient::new(channel);
        let mut latencies = Vec::with_capacity(1 << 12);
        while Instant::now() < until {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let request = opt_out(number);
            let begun = Instant::now();
            client.record_consent(request).await.map_err(failed)?;
            latencies.push(micros(begun));
        }
        Ok((0, latencies))
    })
    .await
}

/// The person whom [`opt_out`] and [`opt_in`] are about.
pub fn recorded_phone(number: u64) -> v1::Recipient {
    let text = format!("+491520{:07}", number % 10_000_000);
    v1::Recipient { address: Some(v1::recipient::Address::Phone(text)) }
}

/// An opt-in of a person of its own.
pub fn opt_in(number: u64) -> v1::RecordConsentRequest {
    let row = row(number);
    let opt_in = v1::OptIn {
        channels: vec![v1::Channel::Whatsapp.into()],
        topics: row.topics,
        evidence: Some(v1::Evidence {
            method: v1::OptInMethod::CheckoutFlow.into(),
            business_name: row.business_name,
            channels_named: vec![v1::Channel::Whatsapp.into()],
            message_types: row.message_types,
            notice_text: row.notice_text,
            language: row.language,
            ..v1::Evidence::default()
        }),
        ..v1::OptIn::default()
    };
    // Some time ago: the clocks of servers and callers may differ.
    let occurred = prost_types::Timestamp { seconds: 1_768_000_000, nanos: 0 };
    v1::RecordConsentRequest {
        request_id: format!("bench-{number}"),
        business_id: "bench".into(),
        recipient: Some(recorded_phone(number)),
        changes: vec![v1::ConsentChange {
            change: Some(v1::consent_change::Change::OptIn(opt_in)),
            occurred_time: Some(occurred),
        }],
        ..v1::RecordConsentRequest::default()
    }
}

/// An opt-out of a person of its own.
pub fn opt_out(number: u64) -> v1::RecordConsentRequest {
    let out = v1::OptOut {
        channels: vec![v1::Channel::Sms.into()],
        method: v1::OptOutMethod::WebForm.into(),
        ..v1::OptOut::default()
    };
    v1::RecordConsentRequest {
        request_id: format!("bench-{number}"),
        business_id: "bench".into(),
        recipient: Some(recorded_phone(number)),
        changes: vec![v1::ConsentChange {
            change: Some(v1::consent_change::Change::OptOut(out)),
            occurred_time: None,
        }],
        ..v1::RecordConsentRequest::default()
    }
}

/// Stores `count` recipients through an import.
pub async fn import(uds: &Path, count: u64) -> Result<(), BenchError> {
    const CHUNK: u64 = 1_000;
    let mut client = ConsentServiceClient::new(connect(uds).await?);
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let feeding = tokio::spawn(async move {
        use v1::import_consents_request::Part;
        let start = v1::ImportStart {
            business_id: "bench".into(),
            import_id: "bench".into(),
            ..v1::ImportStart::default()
        };
        let mut parts = vec![Part::Start(start)];
        let mut from = 0;
        loop {
            for part in parts.drain(..) {
                if sender.send(v1::ImportConsentsRequest { part: Some(part) }).await.is_err() {
                    return;
                }
            }
            if from >= count {
                return;
            }
            let to = (from + CHUNK).min(count);
            let rows = (from..to).map(row).collect();
            parts.push(Part::Chunk(v1::ImportChunk { first_row: from + 1, rows }));
            from = to;
        }
    });
    let mut answers =
        client.import_consents(ReceiverStream::new(requests)).await.map_err(failed)?.into_inner();
    while let Some(answer) = answers.message().await.map_err(failed)? {
        if let Some(v1::import_consents_response::Result::Chunk(chunk)) = answer.result
            && let Some(error) = chunk.errors.first()
        {
            let why = format!("row {} was refused: {:?}", error.row, error.violations);
            return Err(failed(tonic::Status::invalid_argument(why)));
        }
    }
    // The feeder ends with its channel.
    let _ = feeding.await;
    Ok(())
}

fn row(number: u64) -> v1::ImportRow {
    v1::ImportRow {
        recipient: format!("+491510{number:07}"),
        channels: vec!["WHATSAPP".into()],
        change: "opt_in".into(),
        topics: vec!["updates".into()],
        occurred_time: "2026-01-15T10:00:00Z".into(),
        method: "CHECKOUT_FLOW".into(),
        business_name: "Bench".into(),
        channels_named: vec!["WHATSAPP".into()],
        message_types: vec!["updates".into()],
        notice_text: "Yes, send me updates about my order from Bench on WhatsApp.".into(),
        language: "en".into(),
        ..v1::ImportRow::default()
    }
}

/// The median time of appending a record's worth of bytes and syncing it, in microseconds, with `pause` between two: a disk that has
/// nothing to do takes longer to begin.
pub fn fdatasync_us(dir: &Path, rounds: usize, pause: Duration) -> std::io::Result<u32> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(dir.join("sync"))?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        file.write_all(&[7; 300])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(micros(begun));
        std::thread::sleep(pause);
    }
    times.sort_unstable();
    Ok(times.get(rounds / 2).copied().unwrap_or(0))
}
