//! `optgate status`: how the server does.

use clap::Args;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::text::{self, Lines};
use super::{exit, json, output};
use crate::pb::v1;

/// Flags of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Asks and prints. The exit code tells readiness too.
///
/// # Errors
/// [`Fault`].
pub async fn run(args: StatusArgs) -> Result<u8, Fault> {
    let mut client = connect::admin(&args.server).await?;
    let answer = client.get_status(connect::call(v1::GetStatusRequest {})).await?.into_inner();
    output::print(&if args.server.json { json::of(&answer) } else { readable(&answer) })?;
    Ok(if answer.ready { 0 } else { exit::UNAVAILABLE })
}

fn readable(answer: &v1::GetStatusResponse) -> String {
    let v1::GetStatusResponse {
        version,
        instance,
        start_time,
        ready,
        not_ready_reasons,
        rules_version,
        rules_error,
        ledger,
        view,
        disk_free_bytes,
        disk_low,
        as_of,
        replication,
        outbox,
        distrusted_origins,
    } = answer;
    let mut lines = Lines::new();
    lines.line(format!("optgate {} is {}", text::clean(version), if *ready { "ready" } else { "not ready" }));
    for reason in not_ready_reasons {
        lines.row("because", reason);
    }
    lines.row("started", text::moment(start_time.as_ref())).row("instance", instance);
    lines.row("rules", rules_version);
    lines.row("rules fault", rules_error);
    if let Some(ledger) = ledger {
        tell_ledger(&mut lines, ledger);
    }
    if let Some(view) = view {
        let v1::ViewStatus {
            records,
            size_bytes,
            behind_records,
            rebuilding,
            unstored_records,
            scattered_parts,
        } = view;
        let mut told = format!("{}, {}", text::count(*records, "record"), text::bytes(*size_bytes));
        if *unstored_records > 0 {
            told.push_str(&format!(", {} not written yet", text::count(*unstored_records, "change")));
        }
        if *scattered_parts > 0 {
            told.push_str(&format!(", {scattered_parts} of 256 parts to be put in order"));
        }
        if *behind_records > 0 {
            told.push_str(&format!(", {} behind the ledger", text::count(*behind_records, "event")));
        }
        if *rebuilding {
            told.push_str(", being rebuilt");
        }
        lines.row("view", told);
    }
    let low = if *disk_low { ": too little, only opt-outs are written" } else { "" };
    lines.row("disk free", format!("{}{low}", text::bytes(*disk_free_bytes)));
    lines.row("as of", as_of);
    for v1::DistrustedOrigin { origin, from_sequence } in distrusted_origins {
        lines.row(
            "forked",
            format!(
                "origin {origin} from {from_sequence} on: two nodes wrote as one; find out which was copied while it ran, and end the copy"
            ),
        );
    }
    if let Some(replication) = replication {
        tell_replication(&mut lines, replication);
    }
    if let Some(v1::OutboxStatus { items, size_bytes, failed }) = outbox {
        let told =
            format!("{} for an anchor, {}", text::count(u64::from(*items), "item"), text::bytes(*size_bytes));
        lines.row("outbox", told);
        if *failed {
            lines.row("outbox failed", "what waits is in memory alone; look at the disk and restart optgate");
        }
    }
    lines.text().to_owned()
}

fn tell_replication(lines: &mut Lines, replication: &v1::ReplicationStatus) {
    let v1::ReplicationStatus {
        stale,
        catching_up,
        backlog_events,
        members,
        last_error,
        peers,
        anchors,
        unverified_origins,
        anchors_heard,
        anchors_wanted,
        borrowed_records,
    } = replication;
    let state = match (catching_up, stale) {
        (true, _) => "catching up: everything is denied",
        (false, true) => "stale: too little is known of a majority of the anchors",
        (false, false) => "fresh",
    };
    lines.row("replica", state);
    if *backlog_events > 0 || *catching_up {
        let missing = text::count(*backlog_events, "event");
        lines.row("backlog", format!("{missing}; {anchors_heard} of {anchors_wanted} anchors heard in full"));
    }
    if *borrowed_records > 0 {
        let suppressed = text::count(*borrowed_records, "person");
        lines.row(
            "borrowed",
            format!("opt-outs of {suppressed}, from an anchor's snapshot, until their events are here"),
        );
    }
    lines.row("members", members.to_string());
    for peer in peers {
        lines.row("peer", tell_peer(peer));
    }
    for v1::AnchorFreshness { anchor, age } in anchors {
        let age = age.as_ref().map(text::seconds).unwrap_or_default();
        lines.row("anchor", format!("{anchor} as it was {age} ago"));
    }
    for v1::UnverifiedOrigin { origin, sequence, instance, kept_up_to } in unverified_origins {
        let kept =
            if *kept_up_to > 0 { format!("kept up to {kept_up_to}") } else { "not kept yet".to_owned() };
        lines.row(
            "does not verify",
            format!("origin {origin} from {sequence} on, as {instance} sends it; opt-outs are {kept}"),
        );
    }
    lines.row("last peer error", last_error);
}

fn tell_peer(peer: &v1::PeerStatus) -> String {
    let v1::PeerStatus {
        instance,
        role,
        connected,
        lag_events,
        waiting_bytes,
        received_bytes,
        sent_bytes,
        clock_ahead,
        anchor,
        lag,
        peer_lag_events,
        last_error,
    } = peer;
    let role = if *role == i32::from(v1::PeerRole::Edge) { "edge" } else { "anchor" };
    let mut told = format!("{role} {instance}");
    if !anchor.is_empty() && anchor != instance {
        told.push_str(&format!(" ({})", anchor));
    }
    if let Some(connected) = connected {
        told.push_str(&format!(", connected for {}", text::seconds(connected)));
    }
    if *lag_events > 0 {
        told.push_str(&format!(", {} ahead of us", text::count(*lag_events, "event")));
    }
    if *peer_lag_events > 0 {
        told.push_str(&format!(", {} behind us", text::count(*peer_lag_events, "event")));
    }
    match lag {
        Some(lag) => told.push_str(&format!(", known as it was {} ago", text::seconds(lag))),
        None => told.push_str(", not known in full yet"),
    }
    if *waiting_bytes > 0 {
        told.push_str(&format!(", {} on the way to it", text::bytes(*waiting_bytes)));
    }
    told.push_str(&format!(", {} in, {} out", text::bytes(*received_bytes), text::bytes(*sent_bytes)));
    if let Some(ahead) = clock_ahead {
        told.push_str(&format!(", clock {} ahead", text::seconds(ahead)));
    }
    if !last_error.is_empty() {
        told.push_str(&format!("; its last stream ended: {}", last_error));
    }
    told
}

fn tell_ledger(lines: &mut Lines, ledger: &v1::LedgerStatus) {
    let v1::LedgerStatus {
        records,
        size_bytes,
        segments,
        origins,
        last_sync_duration,
        reserve_free_bytes,
        failed,
    } = ledger;
    lines.row(
        "ledger",
        format!(
            "{}, {} in {}",
            text::count(*records, "record"),
            text::bytes(*size_bytes),
            text::count(u64::from(*segments), "segment")
        ),
    );
    if *failed {
        lines.row("ledger failed", "nothing is acknowledged any more; restart optgate");
    }
    if let Some(sync) = last_sync_duration {
        lines.row("last fdatasync", text::seconds(sync));
    }
    lines.row("reserve", format!("{} for opt-outs on a full disk", text::bytes(*reserve_free_bytes)));
    for v1::OriginStatus { origin, last_sequence, chain_sha256: _ } in origins {
        lines.row("origin", format!("{origin} up to {last_sequence}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_shown_with_what_each_lacks() {
        let peer = v1::PeerStatus {
            instance: "02".repeat(16),
            anchor: "two".into(),
            role: v1::PeerRole::Anchor.into(),
            lag_events: 1,
            peer_lag_events: 4,
            lag: Some(prost_types::Duration { seconds: 1, nanos: 250_000_000 }),
            last_error: "the peer\u{1b}[2J closed it".into(),
            ..Default::default()
        };
        let unverified = v1::UnverifiedOrigin {
            origin: "09".repeat(16),
            sequence: 8,
            instance: "02".repeat(16),
            kept_up_to: 7,
        };
        let told = readable(&v1::GetStatusResponse {
            replication: Some(v1::ReplicationStatus {
                catching_up: true,
                backlog_events: 12,
                borrowed_records: 3,
                anchors_heard: 1,
                anchors_wanted: 2,
                peers: vec![peer],
                unverified_origins: vec![unverified],
                ..Default::default()
            }),
            ..Default::default()
        });
        for expected in [
            "12 events; 1 of 2 anchors heard in full",
            "opt-outs of 3 persons, from an anchor's snapshot",
            "(two), 1 event ahead of us, 4 events behind us, known as it was 1.25s ago",
            "its last stream ended: the peer [2J closed it",
            "from 8 on, as 0202",
            "opt-outs are kept up to 7",
        ] {
            assert!(told.contains(expected), "{expected} in {told}");
        }
    }

    #[test]
    fn what_is_wrong_is_seen() {
        let told = readable(&v1::GetStatusResponse {
            version: "0.1.0".into(),
            not_ready_reasons: vec!["starting".into()],
            ledger: Some(v1::LedgerStatus { failed: true, records: 1, ..Default::default() }),
            view: Some(v1::ViewStatus { behind_records: 3, rebuilding: true, ..Default::default() }),
            disk_low: true,
            distrusted_origins: vec![v1::DistrustedOrigin { origin: "09".repeat(16), from_sequence: 101 }],
            ..Default::default()
        });
        for expected in [
            "0909 from 101 on: two nodes wrote as one",
            "0.1.0 is not ready",
            "starting",
            "restart optgate",
            "3 events behind",
            "rebuilt",
            "only opt-outs",
        ] {
            assert!(told.contains(expected), "{expected} in {told}");
        }
    }
}
