//! Compares key ranges of the view with those of anchors, one at a time and all of them again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::anchors::{Anchors, Client};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::ranges::{ORIGINS_MAX, RANGES, RangeDigest, Verdict};
use crate::grpc::status::ApiError;
use crate::pb::replication::v1 as pb;
use crate::policy::ids::OriginId;
use crate::readiness::{Obstacle, Readiness};
use crate::view::PERSON_FORM_VERSION;

/// How long an anchor may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often an edge asks once more about a range that differs: the anchor may be the one that is damaged, and builds its own anew.
const ASK_AGAIN: u32 = 3;
/// How long it waits in between.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long an edge takes at most to have its snapshot confirmed: what is not by then is believed, and compared later as always.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);
/// How often a range is tried while events come in between, and how long to wait before it is.
const CONFIRM_TRIES: u32 = 10;
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What comparing needs.
pub struct Comparing {
    pub engine: Engine,
    pub readiness: Readiness,
    pub anchors: Arc<Anchors>,
    pub member: pb::Membership,
    /// How long to wait between two ranges.
    pub every: Duration,
}

/// Compares until `stop`.
pub async fn run(comparing: &Comparing, stop: CancellationToken) {
    let (mut range, mut round) = (0, 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(comparing.every) => {}
        }
        let replica = comparing.engine.replica();
        if replica.is_catching_up() || replica.is_damaged() || comparing.engine.is_behind() {
            continue;
        }
        comparing.anchors.look_up().await;
        let anchors = comparing.anchors.in_turn();
        if anchors.is_empty() {
            continue;
        }
        // Each range with one anchor; in the next round with the next.
        let (addr, client) = anchors[(range + round) % anchors.len()].clone();
        let verdict = tokio::select! {
            () = stop.cancelled() => return,
            verdict = comparing.once(range, client) => verdict,
        };
        match verdict {
            Some(Verdict::Different) => {
                tracing::error!(range, peer = %addr, "a range of the view differs from a peer's although the same events are applied");
                if comparing.engine.edge().is_none() {
                    repair(&comparing.engine, range).await;
                } else {
                    let client = &anchors[(range + round) % anchors.len()].1;
                    if comparing.after_a_while(range, client).await == Verdict::Different {
                        return comparing.distrust();
                    }
                }
            }
            Some(Verdict::Equal) => {
                metrics::counter!("optgate_ranges_compared_total").increment(1);
            }
            Some(Verdict::Incomparable) | None => {}
        }
        range += 1;
        if range >= RANGES {
            (range, round) = (0, round + 1);
        }
    }
}

/// Builds a range anew that differs from a peer's.
pub async fn repair(engine: &Engine, range: usize) {
    metrics::counter!("optgate_ranges_different_total").increment(1);
    let rebuilding = engine.clone();
    let rebuilt = tokio::task::spawn_blocking(move || rebuilding.rebuild_range(range)).await;
    match rebuilt.unwrap_or(Err(EngineError::Abandoned)) {
        Ok(true) => {
            metrics::counter!("optgate_ranges_repaired_total").increment(1);
            tracing::error!(range, "a range of the view was damaged here; it is built anew from the ledger");
        }
        Ok(false) => tracing::warn!(range, "a range that differs from a peer's is as the ledger here has it"),
        // Both sides of a comparison, or several peers, may find the same.
        Err(EngineError::Busy | EngineError::NoHistory) => {}
        Err(error) => {
            tracing::error!(range, %error, "a range that differs from a peer's cannot be built anew; nobody in it is sent to until a restart");
        }
    }
}

impl Comparing {
    /// Asks other anchors than the one that gave the snapshot in force whether it is sound, range by range: what was damaged there must not
    /// be believed here. Where there is nobody else to ask, it is believed.
    pub async fn confirm(&self, giver: Option<SocketAddr>) {
        self.readiness.raise(Obstacle::ConfirmingSnapshot);
        let differs = AtomicBool::new(false);
        let asking = async {
            let mut others = self.anchors.in_turn();
            others.retain(|(addr, _)| Some(*addr) != giver);
            for range in 0..RANGES {
                if !self.is_confirmed(range, &mut others, &differs).await {
                    return false;
                }
                self.engine.believe_range(range);
            }
            true
        };
        match tokio::time::timeout(CONFIRMED_WITHIN, asking).await {
            Ok(true) => {}
            Ok(false) => return self.distrust(),
            Err(_) if differs.load(Ordering::Relaxed) => return self.distrust(),
            Err(_) => {
                tracing::warn!("other anchors did not confirm all of the snapshot in time");
                (0..RANGES).for_each(|range| self.engine.believe_range(range));
            }
        }
        self.readiness.clear(Obstacle::ConfirmingSnapshot);
    }

    async fn is_confirmed(
        &self,
        range: usize,
        others: &mut Vec<(SocketAddr, Client)>,
        differs: &AtomicBool,
    ) -> bool {
        for _ in 0..CONFIRM_TRIES {
            let mut silent = Vec::new();
            for (addr, client) in others.iter() {
                match self.once(range, client.clone()).await {
                    Some(Verdict::Equal) => return true,
                    Some(Verdict::Different) => {
                        differs.store(true, Ordering::Relaxed);
                        let confirmed = self.after_a_while(range, client).await == Verdict::Equal;
                        differs.store(!confirmed, Ordering::Relaxed);
                        return confirmed;
                    }
                    Some(Verdict::Incomparable) => {}
                    None => silent.push(*addr),
                }
            }
            others.retain(|(addr, _)| !silent.contains(addr));
            if others.is_empty() {
                break;
            }
            tokio::time::sleep(CONFIRM_AGAIN_AFTER).await;
        }
        // Nobody could tell.
        true
    }

    fn distrust(&self) {
        tracing::error!("this edge's view cannot be trusted; restart it for a new snapshot");
        self.engine.distrust_view();
        self.readiness.raise(Obstacle::TaskEnded("view"));
    }

    /// What an anchor says that had time to mend its own view: the last that it could tell.
    async fn after_a_while(&self, range: usize, client: &Client) -> Verdict {
        metrics::counter!("optgate_ranges_different_total").increment(1);
        for _ in 0..ASK_AGAIN {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
            if self.once(range, client.clone()).await == Some(Verdict::Equal) {
                return Verdict::Equal;
            }
        }
        self.once(range, client.clone()).await.unwrap_or(Verdict::Incomparable)
    }

    /// Compares once; `None`: the other does not answer.
    async fn once(&self, range: usize, mut client: Client) -> Option<Verdict> {
        let engine = self.engine.clone();
        let digest = tokio::task::spawn_blocking(move || engine.range_digest(range)).await.ok()?;
        let Some(RangeDigest { range, digest, moving, resting }) = digest.ok()? else {
            return Some(Verdict::Incomparable);
        };
        let request = pb::CompareRequest {
            member: Some(self.member.clone()),
            range: range as u32,
            digest: digest.to_vec(),
            person_form_version: PERSON_FORM_VERSION.into(),
            moving: moving
                .into_iter()
                .map(|(origin, sequence)| pb::AckedOrigin { origin: origin.0.to_vec(), sequence })
                .collect(),
            resting: resting.to_vec(),
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.compare(request)).await.ok()?.ok()?;
        match answer.into_inner().verdict() {
            pb::RangeVerdict::Equal => Some(Verdict::Equal),
            pb::RangeVerdict::Different => Some(Verdict::Different),
            pb::RangeVerdict::Incomparable | pb::RangeVerdict::Unspecified => Some(Verdict::Incomparable),
        }
    }
}

/// Answers a comparison that another node asks for; where the range differs, it is built anew here too.
pub async fn answer(engine: &Engine, request: pb::CompareRequest) -> Result<pb::CompareResponse, ApiError> {
    let pb::CompareRequest { member: _, range, digest, person_form_version, moving, resting } = request;
    let bytes = |name, bytes: Vec<u8>| {
        <[u8; 32]>::try_from(bytes).map_err(|_| ApiError::field(name, "must have 32 bytes"))
    };
    if moving.len() > ORIGINS_MAX {
        return Err(ApiError::field("moving", format!("must have at most {ORIGINS_MAX} origins")));
    }
    let range = usize::try_from(range).ok().filter(|range| *range < RANGES);
    let range = range.ok_or_else(|| ApiError::field("range", "must be below 257"))?;
    let moving = moving
        .into_iter()
        .map(|pb::AckedOrigin { origin, sequence }| {
            let origin =
                origin.try_into().map_err(|_| ApiError::field("moving.origin", "must have 16 bytes"))?;
            Ok((OriginId(origin), sequence))
        })
        .collect::<Result<_, ApiError>>()?;
    let theirs =
        RangeDigest { range, digest: bytes("digest", digest)?, moving, resting: bytes("resting", resting)? };
    let verdict = if person_form_version == u32::from(PERSON_FORM_VERSION) {
        let comparing = engine.clone();
        let compared = tokio::task::spawn_blocking(move || comparing.compare_range(&theirs)).await;
        compared.unwrap_or(Err(EngineError::Abandoned)).map_err(ApiError::from)?
    } else {
        Verdict::Incomparable
    };
    if verdict == Verdict::Different {
        tracing::error!(
            range,
            "a range of the view differs from a peer's although the same events are applied"
        );
        let engine = engine.clone();
        tokio::spawn(async move { repair(&engine, range).await });
    }
    let verdict = match verdict {
        Verdict::Equal => pb::RangeVerdict::Equal,
        Verdict::Different => pb::RangeVerdict::Different,
        Verdict::Incomparable => pb::RangeVerdict::Incomparable,
    };
    Ok(pb::CompareResponse { verdict: verdict.into() })
}
