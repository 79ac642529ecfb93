//! `SendService`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::engine::check::Mode;
use crate::engine::token::Token;
use crate::engine::{CheckRequest, Engine};
use crate::grpc::connection::put_message;
use crate::grpc::convert::check::{
    BATCH_ITEMS_MAX, check_request, check_response, report_response, send_report, with_defaults,
};
use crate::grpc::method::{BATCH, CHECK};
use crate::grpc::routes::AnswersNow;
use crate::grpc::status::{ApiError, FieldFault};
use crate::pb::v1;
use crate::pb::v1::send_service_server::SendService;
use crate::policy::ids::{EventId, OriginId};

use super::{wait_for_all, wait_within};

/// The service.
#[derive(Clone)]
pub struct Send {
    engine: Engine,
}

impl Send {
    /// Answers with `engine`.
    #[must_use]
    pub const fn new(engine: Engine) -> Self {
        Self { engine }
    }

    fn check(&self, request: v1::CheckSendRequest) -> Result<v1::CheckSendResponse, ApiError> {
        let request = check_request(request, None)?;
        let answer = self.engine.check(&request)?;
        Ok(check_response(answer, || self.engine.instructions(&request.business)))
    }
}

impl AnswersNow for Send {
    fn answer(&self, message: Bytes, out: &mut BytesMut) -> Result<bool, Status> {
        let request = v1::CheckSendRequest::decode(message).map_err(|_| ApiError::Undecodable)?;
        if unknown_here(&self.engine, &request).is_some() {
            return Ok(false);
        }
        put_message(out, &self.check(request)?)?;
        Ok(true)
    }
}

/// What the request asks to be known and is not known here yet. A token that cannot be read is the check's to refuse.
fn unknown_here(engine: &Engine, request: &v1::CheckSendRequest) -> Option<Token> {
    if request.at_least_as_fresh.is_empty() {
        return None;
    }
    let token = request.at_least_as_fresh.parse().ok()?;
    (!engine.knows(token)).then_some(token)
}

/// What a check needs of its time to judge and answer.
const TO_ANSWER: Duration = Duration::from_millis(25);
/// What each item of a batch needs besides: its recipient may be in no cache, and other batches run beside it.
const TO_ANSWER_PER_ITEM: Duration = Duration::from_micros(500);
/// Items for which a thread is worth its start: a few milliseconds of work.
const ITEMS_PER_THREAD_MIN: usize = 250;
/// The most threads that share a batch.
const THREADS_PER_BATCH_MAX: usize = 4;

#[tonic::async_trait]
impl SendService for Send {
    async fn check_send(
        &self,
        request: Request<v1::CheckSendRequest>,
    ) -> Result<Response<v1::CheckSendResponse>, Status> {
        let within = wait_within(request.metadata(), CHECK, TO_ANSWER);
        let request = request.into_inner();
        wait_for_all(&self.engine, unknown_here(&self.engine, &request), within).await;
        // Microseconds: moving it to another thread would cost more than it takes.
        Ok(Response::new(self.check(request)?))
    }

    async fn batch_check_send(
        &self,
        request: Request<v1::BatchCheckSendRequest>,
    ) -> Result<Response<v1::BatchCheckSendResponse>, Status> {
        let metadata = request.metadata().clone();
        let v1::BatchCheckSendRequest { defaults, items } = request.into_inner();
        if items.is_empty() || items.len() > BATCH_ITEMS_MAX {
            let why = format!("must hold 1 to {BATCH_ITEMS_MAX} items");
            return Err(ApiError::field("items", why).into());
        }
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        // Milliseconds: on the runtime's threads it would hold up single checks.
        let read = tokio::task::spawn_blocking(move || read_all(items, defaults.as_ref()));
        let requests = read.await.unwrap_or(Err(ApiError::Internal))?;
        let to_answer = TO_ANSWER + TO_ANSWER_PER_ITEM * count;
        wait_for_all(&self.engine, newest(&requests), wait_within(&metadata, BATCH, to_answer)).await;
        let work: Vec<_> = shares(requests, threads())
            .into_iter()
            .map(|share| {
                let this = self.clone();
                tokio::task::spawn_blocking(move || this.check_all(&share))
            })
            .collect();
        let mut results = Vec::with_capacity(count as usize);
        for share in work {
            results.extend(share.await.unwrap_or(Err(ApiError::Internal))?);
        }
        Ok(Response::new(v1::BatchCheckSendResponse { results }))
    }

    async fn report_send(
        &self,
        request: Request<v1::ReportSendRequest>,
    ) -> Result<Response<v1::ReportSendResponse>, Status> {
        let report = send_report(request.into_inner())?;
        let answer = self.engine.report_send(report).await.map_err(ApiError::from)?;
        Ok(Response::new(report_response(answer)))
    }
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

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_PER_BATCH_MAX)
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

impl Send {
    /// Checks items of a batch, all of them where any consumes.
    fn check_all(&self, requests: &[CheckRequest]) -> Result<Vec<v1::CheckSendResponse>, ApiError> {
        self.bind_all(requests)?;
        let answers = requests.iter().map(|request| {
            let answer = self.engine.check(request)?;
            Ok(check_response(answer, || self.engine.instructions(&request.business)))
        });
        answers.collect()
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
