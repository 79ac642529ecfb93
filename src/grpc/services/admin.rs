//! `AdminService`.

use std::time::Instant;

use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::engine::edge::Edge;
use crate::engine::error::EngineError;
use crate::grpc::convert::admin::{pb_sender, pb_template, sender, template};
use crate::grpc::convert::record::pb_durability;
use crate::grpc::convert::{pb_duration, pb_event_id, pb_timestamp};
use crate::grpc::status::ApiError;
use crate::ledger;
use crate::pb::v1;
use crate::pb::v1::admin_service_server::AdminService;
use crate::peers;
use crate::policy::distrust::Distrust;
use crate::policy::ids::{BusinessId, EventId};
use crate::policy::time::Timestamp;
use crate::readiness::Readiness;
use crate::replication::frame::Role;
use crate::replication::{PeerStatus, Progress, Unverified};

use super::replicated_until;

/// The most entries one page of templates or senders has.
const PAGE_SIZE_MAX: usize = 100;

/// How the process is, beyond the engine.
pub trait Host: Send + Sync + 'static {
    /// Why the last reload of the rules was refused; empty when it was not.
    fn rules_error(&self) -> String;
    /// The room kept for opt-outs on a full disk, in bytes.
    fn reserve_bytes(&self) -> u64;
    /// What the ledger's files take, in bytes.
    fn ledger_bytes(&self) -> u64;
    /// How the cluster looks from here; `None`: the node is alone.
    fn peers(&self) -> Option<peers::Report>;
    /// Verifies the whole ledger. Blocking.
    ///
    /// # Errors
    /// When it cannot be read.
    fn verify(&self) -> Result<ledger::verify::Report, EngineError>;
}

/// The service.
#[derive(Clone)]
pub struct Admin {
    engine: Engine,
    readiness: Readiness,
    host: std::sync::Arc<dyn Host>,
    started: Timestamp,
    instance: String,
}

impl Admin {
    /// Answers with `engine`.
    #[must_use]
    pub fn new(
        engine: Engine,
        readiness: Readiness,
        host: std::sync::Arc<dyn Host>,
        instance: String,
    ) -> Self {
        let started = engine.now();
        Self { engine, readiness, host, started, instance }
    }

    fn token(event: EventId) -> String {
        crate::engine::token::Token(Some(event)).to_string()
    }
}

/// A page of `all`, and the token of the next.
fn page<T>(all: Vec<T>, page_size: i32, page_token: &str) -> Result<(Vec<T>, String), ApiError> {
    let from: usize = if page_token.is_empty() {
        0
    } else {
        page_token
            .parse()
            .map_err(|_| ApiError::field("page_token", "is not a token that optgate gave out"))?
    };
    let size = usize::try_from(page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE_SIZE_MAX);
    let size = size.min(PAGE_SIZE_MAX);
    let count = all.len();
    let page: Vec<T> = all.into_iter().skip(from).take(size).collect();
    let next = from.saturating_add(page.len());
    let token = if next < count && !page.is_empty() { next.to_string() } else { String::new() };
    Ok((page, token))
}

fn read_business(text: &str) -> Result<BusinessId, ApiError> {
    BusinessId::new(text).map_err(|fault| ApiError::field("business_id", fault.to_string()))
}

impl Admin {
    /// Waits for as many disks as `wanted` says.
    async fn durable(&self, event: EventId, wanted: Option<Instant>) -> Result<i32, ApiError> {
        Ok(pb_durability(self.engine.durability(event, wanted, false).await?).into())
    }
}

/// How long to wait for other disks, where they are asked for.
fn wanted_durability(min_durability: i32, until: Instant) -> Result<Option<Instant>, ApiError> {
    match v1::Durability::try_from(min_durability) {
        Ok(v1::Durability::Unspecified | v1::Durability::Local) => Ok(None),
        Ok(v1::Durability::Replicated) => Ok(Some(until)),
        Err(_) => Err(ApiError::field("min_durability", "is unknown; choose LOCAL or REPLICATED")),
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn put_template(
        &self,
        request: Request<v1::PutTemplateRequest>,
    ) -> Result<Response<v1::PutTemplateResponse>, Status> {
        let until = replicated_until(request.metadata());
        let v1::PutTemplateRequest { template: given, min_durability } = request.into_inner();
        let wanted = wanted_durability(min_durability, until)?;
        let entry = template(given)?;
        let (entry, event) = self.engine.put_template(entry).await.map_err(ApiError::from)?;
        let durability = self.durable(event, wanted).await?;
        Ok(Response::new(v1::PutTemplateResponse {
            template: Some(pb_template(&entry)),
            event: Some(pb_event_id(event)),
            token: Self::token(event),
            durability,
        }))
    }

    async fn list_templates(
        &self,
        request: Request<v1::ListTemplatesRequest>,
    ) -> Result<Response<v1::ListTemplatesResponse>, Status> {
        let v1::ListTemplatesRequest { business_id, page_size, page_token } = request.into_inner();
        let business = read_business(&business_id)?;
        let (templates, next) = page(self.engine.templates(business.as_str()), page_size, &page_token)?;
        let templates = templates.iter().map(|template| pb_template(template)).collect();
        Ok(Response::new(v1::ListTemplatesResponse { templates, next_page_token: next }))
    }

    async fn put_sender_state(
        &self,
        request: Request<v1::PutSenderStateRequest>,
    ) -> Result<Response<v1::PutSenderStateResponse>, Status> {
        let until = replicated_until(request.metadata());
        let v1::PutSenderStateRequest { state, min_durability } = request.into_inner();
        let wanted = wanted_durability(min_durability, until)?;
        let entry = sender(state)?;
        let (entry, event) = self.engine.put_sender(entry).await.map_err(ApiError::from)?;
        let durability = self.durable(event, wanted).await?;
        Ok(Response::new(v1::PutSenderStateResponse {
            state: Some(pb_sender(&entry)),
            event: Some(pb_event_id(event)),
            token: Self::token(event),
            durability,
        }))
    }

    async fn list_sender_states(
        &self,
        request: Request<v1::ListSenderStatesRequest>,
    ) -> Result<Response<v1::ListSenderStatesResponse>, Status> {
        let v1::ListSenderStatesRequest { business_id, page_size, page_token } = request.into_inner();
        let business = read_business(&business_id)?;
        let (senders, next) = page(self.engine.senders(business.as_str()), page_size, &page_token)?;
        let states = senders.iter().map(|sender| pb_sender(sender)).collect();
        Ok(Response::new(v1::ListSenderStatesResponse { states, next_page_token: next }))
    }

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let failed = self.engine.storage_failed().is_some();
        let ledger = self.engine.ledger().ok();
        let health = ledger.map(ledger::Ledger::health);
        let state = self.readiness.now();
        let origins = self.engine.heads();
        let view = self.engine.view().stats();
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            start_time: Some(pb_timestamp(self.started)),
            ready: state.is_ready(),
            not_ready_reasons: state.obstacles().map(|obstacle| obstacle.to_string()).collect(),
            rules_version: self.engine.book().version().to_owned(),
            rules_error: self.host.rules_error(),
            ledger: ledger.map(|ledger| v1::LedgerStatus {
                records: origins.iter().map(|(_, head)| head.sequence).sum(),
                size_bytes: self.host.ledger_bytes(),
                segments: ledger.head().segment(),
                origins: origins.into_iter().map(|(origin, head)| origin_status(origin, head)).collect(),
                last_sync_duration: None,
                reserve_free_bytes: if health.as_ref().is_some_and(|health| health.reserve_ready) {
                    self.host.reserve_bytes()
                } else {
                    0
                },
                failed,
            }),
            view: Some(v1::ViewStatus {
                records: view.persons,
                size_bytes: view.store_bytes + view.logged_bytes,
                behind_records: u64::from(self.engine.is_behind()),
                rebuilding: false,
                unstored_records: view.dirty,
                scattered_parts: u32::try_from(view.scattered_shards).unwrap_or(u32::MAX),
            }),
            disk_free_bytes: health
                .as_ref()
                .map_or_else(|| self.engine.edge().and_then(Edge::free_bytes), |health| health.free_bytes)
                .unwrap_or(0),
            disk_low: health.as_ref().is_some_and(|health| health.space_low),
            as_of: self.engine.as_of(),
            replication: self.host.peers().map(|report| pb_replication(&self.engine, report)),
            outbox: self.engine.edge().map(pb_outbox),
            distrusted_origins: pb_distrust(&self.engine.distrusted()),
        }))
    }

    async fn verify_ledger(
        &self,
        _request: Request<v1::VerifyLedgerRequest>,
    ) -> Result<Response<v1::VerifyLedgerResponse>, Status> {
        let host = std::sync::Arc::clone(&self.host);
        let verified = tokio::task::spawn_blocking(move || host.verify());
        let report = verified.await.unwrap_or(Err(EngineError::Abandoned)).map_err(ApiError::from)?;
        Ok(Response::new(crate::grpc::convert::admin::verify_response(report)))
    }
}

fn pb_outbox(edge: &Edge) -> v1::OutboxStatus {
    let waiting = edge.waiting();
    v1::OutboxStatus {
        items: u32::try_from(waiting.items).unwrap_or(u32::MAX),
        size_bytes: waiting.bytes as u64,
        failed: edge.failed().is_some(),
    }
}

fn pb_distrust(distrust: &Distrust) -> Vec<v1::DistrustedOrigin> {
    let origins = distrust.iter();
    origins
        .map(|(origin, from_sequence)| v1::DistrustedOrigin { origin: origin.to_string(), from_sequence })
        .collect()
}

fn origin_status(origin: crate::policy::ids::OriginId, head: ledger::Head) -> v1::OriginStatus {
    v1::OriginStatus {
        origin: origin.to_string(),
        last_sequence: head.sequence,
        chain_sha256: crate::grpc::convert::record::hex(&head.hash),
    }
}

fn pb_replication(engine: &Engine, report: peers::Report) -> v1::ReplicationStatus {
    let peers::Report { peers, freshness_ms, unverified, progress, anchors_wanted, last_error } = report;
    let Progress { backlog_events, anchors } = progress;
    let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let replica = engine.replica();
    v1::ReplicationStatus {
        stale: engine.is_stale(),
        catching_up: replica.is_catching_up(),
        backlog_events,
        members: replica.members(),
        last_error,
        peers: peers.into_iter().map(pb_peer).collect(),
        anchors: freshness_ms
            .into_iter()
            .map(|(anchor, age_ms)| v1::AnchorFreshness { anchor, age: Some(duration_of_ms(age_ms)) })
            .collect(),
        unverified_origins: unverified.into_iter().map(pb_unverified).collect(),
        anchors_heard: few(anchors),
        anchors_wanted: few(anchors_wanted),
        borrowed_records: engine.view().borrowed().records as u64,
    }
}

fn pb_unverified(unverified: Unverified) -> v1::UnverifiedOrigin {
    let Unverified { origin, sequence, instance, kept_apart } = unverified;
    v1::UnverifiedOrigin {
        origin: origin.to_string(),
        sequence,
        instance: instance.to_string(),
        kept_up_to: kept_apart,
    }
}

fn pb_peer(report: peers::PeerReport) -> v1::PeerStatus {
    let peers::PeerReport { status, connected, received_bytes, sent_bytes } = report;
    let PeerStatus {
        link: _,
        instance,
        anchor,
        role,
        since: _,
        lag_events,
        lag_ms,
        peer_lag_events,
        window_bytes,
        clock_off_ms,
        last_fault,
    } = status;
    v1::PeerStatus {
        instance: instance.to_string(),
        role: match role {
            Role::Anchor => v1::PeerRole::Anchor.into(),
            Role::Edge => v1::PeerRole::Edge.into(),
        },
        connected: Some(duration_of_ms(u64::try_from(connected.as_millis()).unwrap_or(u64::MAX))),
        lag_events,
        waiting_bytes: window_bytes as u64,
        received_bytes,
        sent_bytes,
        clock_ahead: clock_off_ms.map(pb_duration),
        anchor: anchor.unwrap_or_default(),
        lag: lag_ms.map(duration_of_ms),
        peer_lag_events,
        last_error: last_fault.unwrap_or_default(),
    }
}

fn duration_of_ms(ms: u64) -> prost_types::Duration {
    pb_duration(i64::try_from(ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ids::OriginId;
    use crate::replication::frame::Instance;
    use crate::replication::{Link, Mono};

    #[test]
    fn what_is_known_of_a_peer_is_told() {
        let status = PeerStatus {
            link: Link(1),
            instance: Instance([2; 16]),
            anchor: Some("two".into()),
            role: Role::Anchor,
            since: Mono(0),
            lag_events: 3,
            lag_ms: Some(1_250),
            peer_lag_events: 4,
            window_bytes: 5,
            clock_off_ms: Some(-40),
            last_fault: Some("the peer closed it".into()),
        };
        let connected = std::time::Duration::from_secs(60);
        let report = peers::PeerReport { status, connected, received_bytes: 6, sent_bytes: 7 };
        let told = v1::PeerStatus {
            instance: "02".repeat(16),
            role: v1::PeerRole::Anchor.into(),
            connected: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            lag_events: 3,
            waiting_bytes: 5,
            received_bytes: 6,
            sent_bytes: 7,
            clock_ahead: Some(prost_types::Duration { seconds: 0, nanos: -40_000_000 }),
            anchor: "two".into(),
            lag: Some(prost_types::Duration { seconds: 1, nanos: 250_000_000 }),
            peer_lag_events: 4,
            last_error: "the peer closed it".into(),
        };
        assert_eq!(pb_peer(report), told);
    }

    #[test]
    fn forked_origins_are_named() {
        let mut distrust = Distrust::default();
        distrust.add(OriginId([9; 16]), 101);
        let told = v1::DistrustedOrigin { origin: "09".repeat(16), from_sequence: 101 };
        assert_eq!(pb_distrust(&distrust), [told]);
    }

    #[test]
    fn what_does_not_verify_is_named() {
        let unverified =
            Unverified { origin: OriginId([9; 16]), sequence: 8, instance: Instance([2; 16]), kept_apart: 7 };
        let told = v1::UnverifiedOrigin {
            origin: "09".repeat(16),
            sequence: 8,
            instance: "02".repeat(16),
            kept_up_to: 7,
        };
        assert_eq!(pb_unverified(unverified), told);
    }
}
