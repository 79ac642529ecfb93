//! What surrounds every call: a place in its group or a refusal at once, a deadline, and an answer even to a panic.
//!
//! It is one piece instead of a pile of layers, since it stands in the path of every check: it allocates nothing
//! for a call that is answered, takes two atomic steps for its place, and arms a timer only if the first poll leaves
//! the call waiting.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Bytes};
use tonic::{Code, Status};

use super::connection::RequestBody;
use super::method::{Group, Method};
use super::routes::{AnswersNow, Routes};
use super::status::ApiError;

/// How many calls of each group run at once. What comes above is refused at once: a caller that waits in a queue
/// until its deadline is worse off than one that may retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Single checks.
    pub checks: usize,
    /// Batches of checks.
    pub batches: usize,
    /// Writes of consent and reports.
    pub records: usize,
    /// Reads of consent.
    pub reads: usize,
    /// Messages of people, templates, senders.
    pub inbound_and_admin: usize,
    /// Streams and other long calls.
    pub streams: usize,
    /// Health and reflection.
    pub other: usize,
}

impl Default for Places {
    fn default() -> Self {
        // Checks and records: what eight full connections may send. A batch keeps a core busy for up to 17 ms.
        Self {
            checks: 1024,
            batches: 32,
            records: 1024,
            reads: 256,
            inbound_and_admin: 256,
            streams: 64,
            other: 256,
        }
    }
}

impl Places {
    const fn of(&self, group: Group) -> usize {
        match group {
            Group::Checks => self.checks,
            Group::Batches => self.batches,
            Group::Records => self.records,
            Group::Reads => self.reads,
            Group::InboundAndAdmin => self.inbound_and_admin,
            Group::Streams => self.streams,
            Group::Other => self.other,
        }
    }
}

/// Watches calls: metrics, and spans with the caller's trace context.
pub trait Observer: Send + Sync + 'static {
    /// What it keeps during one call. Dropped without [`Observed::finish`] if the caller went away.
    type Call: Observed;

    /// A call begins.
    fn start(&self, method: &'static Method, headers: &HeaderMap) -> Self::Call;
}

/// One call that is watched.
pub trait Observed: Send + Unpin + 'static {
    /// Runs one poll of the call, e.g. within its span.
    fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        poll()
    }

    /// The call was answered; for streams: began to be answered.
    fn finish(self, code: Code);

    /// It begins again elsewhere.
    fn forget(self);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    type Call = Self;

    fn start(&self, _: &'static Method, _: &HeaderMap) -> Self {
        Self
    }
}

impl Observed for Unobserved {
    fn finish(self, _: Code) {}

    fn forget(self) {}
}

#[derive(Debug)]
struct Counter {
    taken: AtomicUsize,
    max: usize,
}

#[derive(Debug)]
struct Counters([Counter; Group::ALL.len()]);

/// One place; given back when dropped.
struct Place {
    counters: Arc<Counters>,
    group: Group,
}

impl Counters {
    fn new(places: &Places) -> Arc<Self> {
        Arc::new(Self(Group::ALL.map(|group| Counter { taken: AtomicUsize::new(0), max: places.of(group) })))
    }

    fn take(self: &Arc<Self>, group: Group) -> Option<Place> {
        let counter = &self.0[group as usize];
        // Counting first and giving back what was too many never admits one above `max`.
        if counter.taken.fetch_add(1, Ordering::Relaxed) < counter.max {
            return Some(Place { counters: Arc::clone(self), group });
        }
        counter.taken.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.0[self.group as usize].taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The routes with everything that surrounds them. Cheap to clone: each connection has its own.
pub struct Stack<O> {
    routes: Arc<Routes>,
    counters: Arc<Counters>,
    observer: Arc<O>,
    cut: CancellationToken,
}

impl<O> Clone for Stack<O> {
    fn clone(&self) -> Self {
        Self {
            routes: Arc::clone(&self.routes),
            counters: Arc::clone(&self.counters),
            observer: Arc::clone(&self.observer),
            cut: self.cut.clone(),
        }
    }
}

impl<O: Observer> Stack<O> {
    /// Surrounds `routes`. Once `cut` is cancelled every long answer ends with UNAVAILABLE.
    pub fn new(routes: Routes, places: &Places, observer: Arc<O>, cut: CancellationToken) -> Self {
        Self { routes: Arc::new(routes), counters: Counters::new(places), observer, cut }
    }

    /// How many calls of `group` run now.
    #[must_use]
    pub fn running(&self, group: Group) -> usize {
        self.counters.0[group as usize].taken.load(Ordering::Relaxed)
    }

    /// Whether `method` is answered at once, by [`Stack::answer_now`].
    pub(super) fn answers_now(&self, method: &Method) -> bool {
        method.group == Group::Checks && self.routes.checks().is_some()
    }

    /// Answers a call of microseconds, with everything that surrounds a call but a timer, which would never ring.
    pub(super) fn answer_now(
        &self,
        method: &'static Method,
        headers: &HeaderMap,
        work: impl FnOnce(&dyn AnswersNow) -> Result<bool, Status>,
    ) -> Result<bool, Status> {
        let mut observed = self.observer.start(method, headers);
        let answer = match (self.counters.take(method.group), self.routes.checks()) {
            (Some(_place), Some(checks)) => {
                // The panic hook has logged it; the caller must not see what it said.
                let run = || catch_unwind(AssertUnwindSafe(|| work(checks)));
                observed.run(run).unwrap_or_else(|_| Err(ApiError::Internal.into()))
            }
            (None, _) => Err(ApiError::Overloaded.into()),
            (_, None) => Err(ApiError::Internal.into()),
        };
        match &answer {
            // It is counted as the call that it becomes.
            Ok(false) => observed.forget(),
            Ok(true) => observed.finish(Code::Ok),
            Err(status) => observed.finish(status.code()),
        }
        answer
    }

    /// Starts any other call.
    pub(super) fn call(&self, method: &'static Method, request: Request<RequestBody>) -> Call<O::Call> {
        let observed = Some(self.observer.start(method, request.headers()));
        let Some(place) = self.counters.take(method.group) else {
            let state = State::Refused(ApiError::Overloaded);
            return Call { state, observed, place: None, time: None, limit: None, cut: None };
        };
        let limit = time_for(method, request.headers());
        let cut = method.is_long().then(|| self.cut.clone());
        let answer = self.routes.call(method, request);
        Call { state: State::Running(answer), observed, place: Some(place), time: None, limit, cut }
    }
}

/// What the method allows, or less if the caller asks for less. Streams end when their callers end them.
fn time_for(method: &Method, headers: &HeaderMap) -> Option<Duration> {
    let deadline = method.deadline?;
    Some(asked_deadline(headers).map_or(deadline, |asked| deadline.min(asked)))
}

/// The caller's `grpc-timeout`: up to eight digits and a unit. A malformed one is no deadline, as in other servers.
pub(super) fn asked_deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.as_bytes();
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let mut amount = 0_u64;
    for digit in digits {
        amount = amount * 10 + u64::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
    }
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

enum State {
    Running(BoxFuture<Response<Body>, Infallible>),
    Refused(ApiError),
    Done,
}

pin_project_lite::pin_project! {
    /// One call on its way to its answer.
    pub struct Call<C> {
        state: State,
        observed: Option<C>,
        place: Option<Place>,
        limit: Option<Duration>,
        cut: Option<CancellationToken>,
        #[pin]
        time: Option<Sleep>,
    }
}

impl<C: Observed> Future for Call<C> {
    type Output = Response<Body>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let response = match std::mem::replace(this.state, State::Done) {
            State::Done => return Poll::Pending,
            State::Refused(error) => Status::from(error).into_http(),
            State::Running(mut answer) => {
                let mut poll = || catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context)));
                let polled = match this.observed.as_mut() {
                    Some(observed) => observed.run(poll),
                    None => poll(),
                };
                match polled {
                    Ok(Poll::Ready(Ok(response))) => explained(response),
                    Ok(Poll::Pending) => {
                        if !time_is_up(this.time.as_mut(), *this.limit, context) {
                            *this.state = State::Running(answer);
                            return Poll::Pending;
                        }
                        Status::from(ApiError::DeadlineExceeded).into_http()
                    }
                    // The panic hook has logged it; the caller must not see what it said.
                    Err(_) => Status::from(ApiError::Internal).into_http(),
                }
            }
        };
        if let Some(observed) = this.observed.take() {
            observed.finish(code_of(response.headers()));
        }
        let place = this.place.take();
        Poll::Ready(match this.cut.take() {
            Some(cut) if !response.body().is_end_stream() => {
                response.map(|body| Body::new(LongBody::new(body, place, cut)))
            }
            _ => response,
        })
    }
}

/// Arms the timer on the first pending poll and looks whether it rang.
fn time_is_up(mut time: Pin<&mut Option<Sleep>>, limit: Option<Duration>, context: &mut Context<'_>) -> bool {
    let Some(limit) = limit else { return false };
    if time.is_none() {
        time.set(Some(tokio::time::sleep(limit)));
    }
    time.as_pin_mut().is_some_and(|time| time.poll(context).is_ready())
}

const GRPC_STATUS: &str = "grpc-status";
const GRPC_DETAILS: &str = "grpc-status-details-bin";

/// The code of an answer whose head already tells it; else OK.
fn code_of(headers: &HeaderMap) -> Code {
    headers.get(GRPC_STATUS).map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// Gives errors of the gRPC library their reason. Every error of optgate's own carries details; one without comes from
/// the library, which blames itself (INTERNAL) for requests that cannot be decoded, and calls too large a message
/// OUT_OF_RANGE.
fn explained(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(GRPC_STATUS) || headers.contains_key(GRPC_DETAILS) {
        return response;
    }
    match code_of(headers) {
        Code::Internal => Status::from(ApiError::Undecodable).into_http(),
        Code::OutOfRange | Code::ResourceExhausted => Status::from(ApiError::MessageTooLarge).into_http(),
        _ => response,
    }
}

pin_project_lite::pin_project! {
    /// The body of a long answer: keeps its place until it ends, and ends when the server stops.
    struct LongBody {
        #[pin]
        body: Body,
        place: Option<Place>,
        #[pin]
        cut: WaitForCancellationFutureOwned,
        ended: bool,
    }
}

impl LongBody {
    fn new(body: Body, place: Option<Place>, cut: CancellationToken) -> Self {
        Self { body, place, cut: cut.cancelled_owned(), ended: false }
    }
}

impl http_body::Body for LongBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        // What is ready goes out even while the server stops; only then is the answer cut.
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            if frame.is_none() {
                *this.ended = true;
                this.place.take();
            }
            return Poll::Ready(frame);
        }
        if this.cut.poll(context).is_pending() {
            return Poll::Pending;
        }
        *this.ended = true;
        this.place.take();
        let mut trailers = HeaderMap::new();
        let sent = Status::from(ApiError::Stopping).add_header(&mut trailers);
        Poll::Ready(Some(sent.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::method::of_path;
    use super::*;

    fn headers(timeout: &'static str) -> HeaderMap {
        let name = http::HeaderName::from_static("grpc-timeout");
        HeaderMap::from_iter([(name, http::HeaderValue::from_static(timeout))])
    }

    fn asked(text: &'static str) -> Option<Duration> {
        asked_deadline(&headers(text))
    }

    #[test]
    fn a_caller_may_ask_for_less_time_but_not_for_more() {
        let time = |path, timeout| time_for(of_path(path), &headers(timeout));
        assert_eq!(time("/optgate.v1.SendService/CheckSend", "40m"), Some(Duration::from_millis(40)));
        assert_eq!(time("/optgate.v1.SendService/CheckSend", "9S"), Some(Duration::from_millis(250)));
        assert_eq!(time("/optgate.v1.ConsentService/RecordConsent", "9S"), Some(Duration::from_secs(2)));
        assert_eq!(time("/optgate.v1.ConsentService/WatchConsents", "9S"), None);
    }

    #[test]
    fn the_callers_deadline_is_read() {
        assert_eq!(asked("250m"), Some(Duration::from_millis(250)));
        assert_eq!(asked("1S"), Some(Duration::from_secs(1)));
        assert_eq!(asked("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(asked("7u"), Some(Duration::from_micros(7)));
        for malformed in ["", "S", "5", "123456789m", "1x", "-1m", "1 m"] {
            assert_eq!(asked(malformed), None, "{malformed}");
        }
        assert_eq!(asked_deadline(&HeaderMap::new()), None);
    }

    #[test]
    fn a_group_has_as_many_places_as_it_says() {
        let counters = Counters::new(&Places { checks: 2, ..Places::default() });
        let first = counters.take(Group::Checks);
        let second = counters.take(Group::Checks);
        assert!(first.is_some() && second.is_some());
        assert!(counters.take(Group::Checks).is_none());
        assert!(counters.take(Group::Records).is_some());
        drop(first);
        assert!(counters.take(Group::Checks).is_some());
    }
}
