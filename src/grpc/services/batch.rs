//! `BatchCheckSend`: read, judged and encoded on threads of its own, since it takes milliseconds and single checks microseconds.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::engine::CheckRequest;
use crate::engine::check::Mode;
use crate::engine::token::Token;
use crate::grpc::convert::check::{
    BATCH_ITEMS_MAX, check_request, check_response, put_result, with_defaults,
};
use crate::grpc::method::BATCH;
use crate::grpc::routes::AnswersEncoded;
use crate::grpc::status::{ApiError, FieldFault};
use crate::pb::v1;
use crate::policy::ids::{EventId, OriginId};

use super::send::{Send, TO_ANSWER};
use super::{wait_for_all, wait_within};

/// What each item of a batch needs besides: its recipient may be in no cache, and other batches run beside it.
const TO_ANSWER_PER_ITEM: Duration = Duration::from_micros(500);
/// Items for which a thread is worth its start: a few milliseconds of work.
const ITEMS_PER_THREAD_MIN: usize = 250;
/// The most threads that share a batch.
const THREADS_PER_BATCH_MAX: usize = 4;
/// Room for an answer: most are shorter.
const RESULT_BYTES_USUAL: usize = 256;

/// Encoded results of a share of a batch.
type Results = Result<Bytes, ApiError>;

/// A batch that was read.
enum Begun {
    /// It was judged: the first share here, the others on threads of their own.
    Judged(Results, Vec<JoinHandle<Results>>),
    /// Something that it asks to be known is not known yet.
    Waits(Vec<CheckRequest>, Vec<Token>),
}

impl AnswersEncoded for Send {
    async fn answer(&self, message: Bytes, metadata: &MetadataMap) -> Result<Vec<Bytes>, Status> {
        let read = || v1::BatchCheckSendRequest::decode(message).map_err(|_| ApiError::Undecodable);
        Ok(self.answer_batch(read, metadata).await?)
    }
}

impl Send {
    /// Answers what `read` gives: parts of an encoded `BatchCheckSendResponse`.
    pub(super) async fn answer_batch(
        &self,
        read: impl FnOnce() -> Result<v1::BatchCheckSendRequest, ApiError> + std::marker::Send + 'static,
        metadata: &MetadataMap,
    ) -> Result<Vec<Bytes>, ApiError> {
        let this = self.clone();
        let mut begun = run(move || this.begin(read()?)).await?;
        if let Begun::Waits(requests, tokens) = begun {
            let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
            let within = wait_within(metadata, BATCH, TO_ANSWER + TO_ANSWER_PER_ITEM * count);
            wait_for_all(&self.engine, tokens, within).await;
            let this = self.clone();
            begun = run(move || Ok(this.judge(requests))).await?;
        }
        let Begun::Judged(first, others) = begun else { return Err(ApiError::Internal) };
        let mut results = vec![first?];
        for share in others {
            results.push(share.await.unwrap_or(Err(ApiError::Internal))?);
        }
        Ok(results)
    }

    /// Reads a batch, and judges it where all that it asks to be known is known.
    fn begin(&self, request: v1::BatchCheckSendRequest) -> Result<Begun, ApiError> {
        let v1::BatchCheckSendRequest { defaults, items } = request;
        if items.is_empty() || items.len() > BATCH_ITEMS_MAX {
            let why = format!("must hold 1 to {BATCH_ITEMS_MAX} items");
            return Err(ApiError::field("items", why));
        }
        let requests = read_all(items, defaults.as_ref())?;
        let tokens = newest(&requests);
        if tokens.iter().all(|token| self.engine.knows(*token)) {
            Ok(self.judge(requests))
        } else {
            Ok(Begun::Waits(requests, tokens))
        }
    }

    /// Judges a batch. To be called on a thread that may be kept busy.
    fn judge(&self, requests: Vec<CheckRequest>) -> Begun {
        let (_judging, running) = Judging::one_more(&self.judging);
        let mut shares = shares(requests, threads(running)).into_iter();
        let first = shares.next().unwrap_or_default();
        let others = shares.map(|share| {
            let this = self.clone();
            spawn_blocking(move || this.check_all(&share))
        });
        let others = others.collect();
        Begun::Judged(self.check_all(&first), others)
    }

    /// Checks items of a batch, all of them where any consumes.
    fn check_all(&self, requests: &[CheckRequest]) -> Results {
        self.bind_all(requests)?;
        let mut results = BytesMut::with_capacity(requests.len() * RESULT_BYTES_USUAL);
        let mut put = Ok(());
        self.engine.check_each(requests, |answer| {
            if put.is_ok() {
                put = put_result(&mut results, &check_response(answer));
            }
        })?;
        put.map(|()| results.freeze())
    }

    /// No item consumes before the ids of all are known to be theirs.
    fn bind_all(&self, requests: &[CheckRequest]) -> Result<(), ApiError> {
        let mut faults = Vec::new();
        let consuming = requests.iter().enumerate().filter(|(_, request)| request.mode == Mode::Enforce);
        for (at, request) in consuming {
            match self.engine.bind(request).map_err(ApiError::from) {
                Ok(()) => {}
                Err(ApiError::InvalidArgument(of_item)) => {
                    faults.extend(of_item.into_iter().map(|FieldFault { field, description }| {
                        FieldFault::new(format!("items[{at}].{field}"), description)
                    }));
                }
                Err(other) => return Err(other),
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(ApiError::InvalidArgument(faults)) }
    }
}

/// Runs `work` on a thread that it may keep busy.
async fn run<T: std::marker::Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + std::marker::Send + 'static,
) -> Result<T, ApiError> {
    spawn_blocking(work).await.unwrap_or(Err(ApiError::Internal))
}

/// A malformed item refuses the batch before any item consumes.
fn read_all(
    items: Vec<v1::CheckSendRequest>,
    defaults: Option<&v1::CheckSendRequest>,
) -> Result<Vec<CheckRequest>, ApiError> {
    let mut faults = Vec::new();
    let mut requests = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        match check_request(with_defaults(item, defaults), Some(at)) {
            Ok(request) => requests.push(request),
            Err(ApiError::InvalidArgument(of_item)) => faults.extend(of_item),
            Err(other) => return Err(other),
        }
    }
    if faults.is_empty() { Ok(requests) } else { Err(ApiError::InvalidArgument(faults)) }
}

/// How many threads a batch gets where as many as `judging` batches, itself among them, share the machine.
fn threads(judging: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / judging.max(1)).clamp(1, THREADS_PER_BATCH_MAX)
}

/// A batch that is being judged, until it is dropped.
struct Judging<'a>(&'a AtomicUsize);

impl<'a> Judging<'a> {
    /// Says also how many there are with it.
    fn one_more(count: &'a AtomicUsize) -> (Self, usize) {
        let others = count.fetch_add(1, Ordering::Relaxed);
        (Self(count), others + 1)
    }
}

impl Drop for Judging<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Parts a batch for several threads. One that consumes stays whole: of its items the earlier one gets what is left of a limit.
fn shares(mut requests: Vec<CheckRequest>, threads: usize) -> Vec<Vec<CheckRequest>> {
    let consumes = requests.iter().any(|request| request.mode == Mode::Enforce);
    let count = if consumes { 1 } else { threads.min(requests.len() / ITEMS_PER_THREAD_MIN).max(1) };
    let mut shares: Vec<_> =
        (1..count).rev().map(|left| requests.split_off(requests.len() * left / (left + 1))).collect();
    shares.push(requests);
    shares.reverse();
    shares
}

/// Of each origin the newest event that any of `requests` asks to be known: whoever knows it knows those before it.
fn newest(requests: &[CheckRequest]) -> Vec<Token> {
    let mut newest: BTreeMap<OriginId, u64> = BTreeMap::new();
    for event in requests.iter().filter_map(|request| request.at_least_as_fresh?.0) {
        let highest = newest.entry(event.origin).or_default();
        *highest = event.sequence.max(*highest);
    }
    newest.into_iter().map(|(origin, sequence)| Token(Some(EventId { origin, sequence }))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(count: usize, mode: v1::CheckMode) -> Vec<CheckRequest> {
        let request = |number: usize| {
            let item = v1::CheckSendRequest {
                request_id: format!("r-{number}"),
                business_id: "acme".into(),
                sender_id: "555".into(),
                recipient: Some(v1::Recipient {
                    address: Some(v1::recipient::Address::Phone("+4915123456789".into())),
                }),
                channel: v1::Channel::Sms.into(),
                content: Some(v1::check_send_request::Content::Message(v1::MessageContent::default())),
                mode: mode.into(),
                ..Default::default()
            };
            check_request(item, None).expect("a request")
        };
        (0..count).map(request).collect()
    }

    #[test]
    fn shares_keep_the_order_and_what_consumes_stays_whole() {
        for count in [1, 2, 249, 250, 499, 500, 501, 777, 999, 1_000] {
            for threads in [1, 2, 3, 4] {
                let shares = shares(requests(count, v1::CheckMode::Peek), threads);
                let expected = threads.min(count / ITEMS_PER_THREAD_MIN).max(1);
                assert_eq!(shares.len(), expected, "{count} in {threads}");
                let lens: Vec<_> = shares.iter().map(Vec::len).collect();
                assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1, "{lens:?}");
                let ids: Vec<_> = shares.iter().flatten().map(|request| request.request_id.clone()).collect();
                assert_eq!(ids, (0..count).map(|number| format!("r-{number}")).collect::<Vec<_>>());
            }
        }
        let mut mixed = requests(999, v1::CheckMode::Peek);
        mixed.extend(requests(1, v1::CheckMode::Enforce));
        assert_eq!(shares(mixed, 4).len(), 1);
    }
}
