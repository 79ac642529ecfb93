//! `ConsentService`.

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::address::Address;
use crate::engine::Engine;
use crate::engine::audit::{ConsentView, PAGE_SIZE_MAX, REFS_MAX};
use crate::engine::error::EngineError;
use crate::engine::people::Identity;
use crate::grpc::convert::event::pb_events;
use crate::grpc::convert::record::{pb_scope_state, record_request, record_response};
use crate::grpc::convert::{Faults, address, pb_event_id, pb_timestamp, words};
use crate::grpc::method::READ;
use crate::grpc::status::ApiError;
use crate::pb::v1;
use crate::pb::v1::consent_service_server::ConsentService;
use crate::policy::ids::BusinessId;
use crate::policy::standing::{WINDOW_MS, latest_by_id};
use crate::policy::types::Channel;

use super::stream::{self, Answers};
use super::{ANSWER_BEFORE, import, opt_out_ref, replicated_until, wait_for_all, wait_within};

/// The service.
#[derive(Clone)]
pub struct Consent {
    engine: Engine,
    end_streams: CancellationToken,
}

impl Consent {
    /// Answers with `engine`; its streams end when `end_streams` is cancelled.
    #[must_use]
    pub const fn new(engine: Engine, end_streams: CancellationToken) -> Self {
        Self { engine, end_streams }
    }
}

/// Reads whom a call is about.
fn person(business_id: &str, recipient: Option<&v1::Recipient>) -> Result<(BusinessId, Address), ApiError> {
    let mut faults = Faults::default();
    let business = faults.business("business_id", business_id);
    let address = faults.address("recipient", recipient);
    match (business, address) {
        (Some(business), Some(address)) => Ok((business, address)),
        _ => faults.or(()).and(Err(ApiError::Internal)),
    }
}

#[tonic::async_trait]
impl ConsentService for Consent {
    async fn record_consent(
        &self,
        request: Request<v1::RecordConsentRequest>,
    ) -> Result<Response<v1::RecordConsentResponse>, Status> {
        let until = replicated_until(request.metadata());
        let (request, refused) = record_request(request.into_inner(), self.engine.key(), until)?;
        let answer = self.engine.record_consent(request).await.map_err(ApiError::from)?;
        match refused {
            Some(refusal) => Err(ApiError::OnlyOptOuts { refusal: Box::new(refusal) }.into()),
            None => Ok(Response::new(record_response(answer))),
        }
    }

    async fn get_consent(
        &self,
        request: Request<v1::GetConsentRequest>,
    ) -> Result<Response<v1::GetConsentResponse>, Status> {
        let within = wait_within(request.metadata(), READ, ANSWER_BEFORE);
        let v1::GetConsentRequest { business_id, recipient, channels, at_least_as_fresh } =
            request.into_inner();
        let (business, address) = person(&business_id, recipient.as_ref())?;
        let mut faults = Faults::default();
        let read: Vec<Channel> = channels.iter().filter_map(|number| words::channel(*number)).collect();
        if read.len() < channels.len() {
            faults.add("channels", "names a channel that this version does not know");
        }
        let token = faults.token(|| "at_least_as_fresh".into(), &at_least_as_fresh);
        faults.or(())?;
        wait_for_all(&self.engine, token, within).await;
        if token.is_some_and(|token| !self.engine.knows(token)) {
            return Err(ApiError::Stale.into());
        }
        let mut view =
            self.engine.consent(business.as_str(), &address, &read, token).map_err(ApiError::from)?;
        view.stale |= self.engine.is_stale();
        Ok(Response::new(consent_response(view)))
    }

    async fn list_consent_events(
        &self,
        request: Request<v1::ListConsentEventsRequest>,
    ) -> Result<Response<v1::ListConsentEventsResponse>, Status> {
        let v1::ListConsentEventsRequest { business_id, recipient, page_size, page_token } =
            request.into_inner();
        let (business, address) = person(&business_id, recipient.as_ref())?;
        let from = read_page_token(&page_token)?;
        let page_size = usize::try_from(page_size).unwrap_or(0);
        let page_size = if page_size == 0 { PAGE_SIZE_MAX } else { page_size };
        let engine = self.engine.clone();
        let trail =
            tokio::task::spawn_blocking(move || engine.trail(business.as_str(), &address, from, page_size));
        let (events, next) = trail.await.unwrap_or(Err(EngineError::Abandoned)).map_err(ApiError::from)?;
        Ok(Response::new(v1::ListConsentEventsResponse {
            events: events.iter().flat_map(|event| pb_events(event, true)).collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    type ImportConsentsStream = Answers<v1::ImportConsentsResponse>;

    async fn import_consents(
        &self,
        request: Request<Streaming<v1::ImportConsentsRequest>>,
    ) -> Result<Response<Self::ImportConsentsStream>, Status> {
        let answers = import::run(self.engine.clone(), request.into_inner(), self.end_streams.clone());
        Ok(Response::new(answers))
    }

    type ExportConsentEventsStream = Answers<v1::ExportConsentEventsResponse>;

    async fn export_consent_events(
        &self,
        request: Request<v1::ExportConsentEventsRequest>,
    ) -> Result<Response<Self::ExportConsentEventsStream>, Status> {
        Ok(Response::new(stream::export(&self.engine, request.into_inner(), &self.end_streams)?))
    }

    type WatchConsentsStream = Answers<v1::WatchConsentsResponse>;

    async fn watch_consents(
        &self,
        request: Request<v1::WatchConsentsRequest>,
    ) -> Result<Response<Self::WatchConsentsStream>, Status> {
        Ok(Response::new(stream::watch(&self.engine, request.into_inner(), &self.end_streams)?))
    }

    async fn get_recipient_refs(
        &self,
        request: Request<v1::GetRecipientRefsRequest>,
    ) -> Result<Response<v1::GetRecipientRefsResponse>, Status> {
        let v1::GetRecipientRefsRequest { business_id, recipients } = request.into_inner();
        let mut faults = Faults::default();
        let business = faults.business("business_id", &business_id);
        if recipients.is_empty() || recipients.len() > REFS_MAX {
            faults.add("recipients", format!("must hold 1 to {REFS_MAX} recipients"));
        }
        let mut read = Vec::new();
        // An address that cannot be read has no reference; the others keep their places.
        for recipient in recipients.iter().take(REFS_MAX) {
            read.push(address(Some(recipient)).ok());
        }
        let Some(business) = business else {
            return Err(faults.or(()).err().unwrap_or(ApiError::Internal).into());
        };
        faults.or(())?;
        let refs = read.iter().map(|address| {
            let Some(address) = address else { return v1::RecipientRefs::default() };
            let Identity { own, aliases } = self.engine.identity(business.as_str(), address);
            v1::RecipientRefs {
                recipient_ref: own.to_string(),
                alias_refs: aliases.iter().map(ToString::to_string).collect(),
            }
        });
        Ok(Response::new(v1::GetRecipientRefsResponse { refs: refs.collect() }))
    }

    async fn erase_evidence(
        &self,
        request: Request<v1::EraseEvidenceRequest>,
    ) -> Result<Response<v1::EraseEvidenceResponse>, Status> {
        let v1::EraseEvidenceRequest { business_id, recipient } = request.into_inner();
        let (business, address) = person(&business_id, recipient.as_ref())?;
        let erased = self.engine.erase_evidence(business.as_str(), &address).await;
        let (now, before) = erased.map_err(ApiError::from)?;
        Ok(Response::new(v1::EraseEvidenceResponse {
            erased_events: u32::try_from(now).unwrap_or(u32::MAX),
            already_erased_events: u32::try_from(before).unwrap_or(u32::MAX),
        }))
    }
}

/// A page token is the number of the event that the page starts with.
fn read_page_token(token: &str) -> Result<usize, ApiError> {
    if token.is_empty() {
        return Ok(0);
    }
    token.parse().map_err(|_| ApiError::field("page_token", "is not a token that optgate gave out"))
}

fn consent_response(view: ConsentView) -> v1::GetConsentResponse {
    let ConsentView { recipient, states, person, others, owes_instructions, now, as_of, stale } = view;
    let records = || std::iter::once(&person).chain(&others).map(|person| &person.record);
    let opt_outs = records()
        .flat_map(|record| &record.cells)
        .flat_map(|(_, cell)| cell.outs.iter().chain(cell.imported_outs.iter()))
        .copied();
    v1::GetConsentResponse {
        states: states.into_iter().map(pb_scope_state).collect(),
        opt_outs: latest_by_id(opt_outs).into_iter().map(opt_out_ref).collect(),
        windows: person
            .usage
            .windows
            .iter()
            .map(|window| (window, window.last.plus_ms(WINDOW_MS)))
            .filter(|(_, until)| now < *until)
            .map(|(window, until)| v1::ServiceWindow {
                sender_id: window.sender.as_str().to_owned(),
                channel: words::pb_channel(window.channel).into(),
                until_time: Some(pb_timestamp(until)),
            })
            .collect(),
        holds: records()
            .flat_map(|record| &record.holds)
            .filter(|(_, register)| register.suppresses)
            .map(|(channel, register)| v1::ActiveHold {
                event: Some(pb_event_id(register.event)),
                channel: words::pb_channel(*channel).into(),
                since_time: Some(pb_timestamp(register.time)),
            })
            .collect(),
        sender_suppressions: records()
            .flat_map(|record| &record.preferences)
            .filter(|(_, register)| register.suppresses)
            .map(|(sender, register)| v1::ActiveSenderSuppression {
                sender_id: sender.as_str().to_owned(),
                since_time: Some(pb_timestamp(register.time)),
                event: Some(pb_event_id(register.event)),
            })
            .collect(),
        obligations: owes_instructions
            .into_iter()
            .map(|channel| v1::OpenObligation {
                channel: words::pb_channel(channel).into(),
                kind: v1::Obligation::IncludeOptOutInstructions.into(),
            })
            .collect(),
        recipient_ref: recipient.to_string(),
        as_of,
        stale,
    }
}
