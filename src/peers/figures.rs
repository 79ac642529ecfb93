//! The peers' figures in the metrics, and what of them an operator should know at once.

use std::collections::{BTreeMap, BTreeSet};

use super::usage;
use crate::readiness::Remark;
use crate::replication::{Counters, Machine, Mono, PeerStatus};
use crate::telemetry::metrics::describe_peers;

/// How often figures are taken, in milliseconds: some need a look at every origin.
const EVERY_MS: u64 = 1_000;
/// The label of peers that found no room for one of their own.
const OTHERS: &str = "others";

/// One peer's figures.
#[derive(Clone, Copy, Debug, Default)]
struct Lags {
    lag_events: u64,
    lag_ms: Option<u64>,
    unsent_events: u64,
}

/// Shows figures now and then.
pub struct Figures {
    /// Labels that were shown: a metric cannot be taken back, so no more than `labels_max` peers get one of their own.
    labels: BTreeSet<String>,
    labels_max: usize,
    shown: Option<Mono>,
}

impl Figures {
    pub fn new(labels_max: usize) -> Self {
        describe_peers();
        Self { labels: BTreeSet::new(), labels_max, shown: None }
    }

    /// Shows how the cluster looks and says what is remarkable, once a second.
    pub fn show(&mut self, machine: &Machine, stale: bool, now: Mono) -> Option<Vec<Remark>> {
        if self.shown.is_some_and(|shown| now.since_ms(shown) < EVERY_MS) {
            return None;
        }
        self.shown = Some(now);
        let set = |name: &'static str, value: usize| metrics::gauge!(name).set(value as f64);
        let peers = machine.peers(now);
        let unverified = machine.unverified_origins().len();
        set("optgate_peers_connected", peers.len());
        set("optgate_peer_unverified_origins", unverified);
        set("optgate_peer_window_bytes", machine.window_bytes());
        metrics::gauge!("optgate_peer_backlog_events").set(machine.progress().backlog_events as f64);
        count(machine.counters());
        self.show_peers(&peers);
        let unverified = (unverified > 0).then_some(Remark::Unverified { origins: unverified });
        Some(stale.then_some(Remark::Stale).into_iter().chain(unverified).collect())
    }

    fn show_peers(&mut self, peers: &[PeerStatus]) {
        let mut connected: BTreeMap<&str, Lags> = BTreeMap::new();
        let names: Vec<String> = peers
            .iter()
            .map(|peer| peer.anchor.clone().unwrap_or_else(|| peer.instance.to_string()))
            .collect();
        for name in &names {
            if self.labels.len() < self.labels_max {
                self.labels.insert(name.clone());
            }
        }
        for (peer, name) in peers.iter().zip(&names) {
            let label = if self.labels.contains(name) { name.as_str() } else { OTHERS };
            // Copies of one store share a name: the worst of them is shown.
            let lags = connected.entry(label).or_insert(Lags { lag_ms: Some(0), ..Lags::default() });
            lags.lag_events = lags.lag_events.max(peer.lag_events);
            lags.lag_ms = lags.lag_ms.zip(peer.lag_ms).map(|(a, b)| a.max(b));
            lags.unsent_events = lags.unsent_events.max(peer.peer_lag_events);
        }
        let known = self.labels.iter().map(String::as_str).chain([OTHERS]);
        for label in known.filter(|label| *label != OTHERS || self.labels.len() >= self.labels_max) {
            let lags = connected.get(label).copied();
            let set = |name: &'static str, value: Option<f64>| {
                metrics::gauge!(name, "peer" => label.to_owned()).set(value.unwrap_or(f64::NAN));
            };
            set("optgate_peer_connected", Some(f64::from(u8::from(lags.is_some()))));
            set("optgate_peer_lag_events", lags.map(|lags| lags.lag_events as f64));
            set("optgate_peer_lag_seconds", lags.and_then(|lags| lags.lag_ms).map(|ms| ms as f64 / 1_000.0));
            set("optgate_peer_unsent_events", lags.map(|lags| lags.unsent_events as f64));
        }
    }
}

fn count(counters: Counters) {
    let Counters {
        records_in,
        records_known,
        records_apart,
        gaps,
        moves,
        unverified,
        forks,
        went_back,
        store_pauses,
        unreadable,
        closed_equal,
        closed_asked,
        usage_dropped,
    } = counters;
    let set = |name: &'static str, value: u64| metrics::counter!(name).absolute(value);
    set("optgate_peer_records_total", records_in);
    set("optgate_peer_records_known_total", records_known);
    set("optgate_peer_records_apart_total", records_apart);
    set("optgate_peer_gaps_total", gaps);
    set("optgate_peer_moves_total", moves);
    set("optgate_peer_records_unverified_total", unverified);
    set("optgate_peer_forks_total", forks);
    set("optgate_peer_went_back_total", went_back);
    set("optgate_peer_store_pauses_total", store_pauses);
    set("optgate_peer_unreadable_total", unreadable);
    set("optgate_peer_closed_equal_total", closed_equal);
    set("optgate_peer_closed_asked_total", closed_asked);
    metrics::counter!(usage::DROPPED, "at" => "link").absolute(usage_dropped);
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::replication::frame::{Instance, Role, Run};
    use crate::replication::vector::Heads;
    use crate::replication::{Link, Settings};

    fn peer(name: u8, lag_events: u64, lag_ms: Option<u64>) -> PeerStatus {
        PeerStatus {
            link: Link(u64::from(name)),
            instance: Instance([name; 16]),
            anchor: Some(format!("anchor-{name}")),
            role: Role::Anchor,
            since: Mono(0),
            lag_events,
            lag_ms,
            peer_lag_events: 7,
            window_bytes: 0,
            clock_off_ms: None,
            last_fault: None,
        }
    }

    fn rendered(show: impl FnOnce()) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, show);
        recorder.handle().render()
    }

    #[test]
    fn each_peer_has_its_figures_and_one_that_left_has_none() {
        let mut figures = Figures::new(64);
        let both = [peer(1, 3, Some(1_500)), peer(2, 0, None)];
        let told = rendered(|| figures.show_peers(&both));
        for line in [
            "optgate_peer_connected{peer=\"anchor-1\"} 1\n",
            "optgate_peer_lag_events{peer=\"anchor-1\"} 3\n",
            "optgate_peer_lag_seconds{peer=\"anchor-1\"} 1.5\n",
            "optgate_peer_unsent_events{peer=\"anchor-1\"} 7\n",
            "optgate_peer_lag_seconds{peer=\"anchor-2\"} NaN\n",
        ] {
            assert!(told.contains(line), "{line} in {told}");
        }
        assert!(!told.contains(OTHERS), "{told}");
        let told = rendered(|| figures.show_peers(&both[..1]));
        assert!(told.contains("optgate_peer_connected{peer=\"anchor-2\"} 0\n"), "{told}");
        assert!(told.contains("optgate_peer_lag_events{peer=\"anchor-2\"} NaN\n"), "{told}");
    }

    #[test]
    fn one_peer_more_than_there_are_labels_is_shown_among_others() {
        let mut figures = Figures::new(2);
        rendered(|| figures.show_peers(&[peer(1, 0, None), peer(2, 0, None)]));
        let told = rendered(|| figures.show_peers(&[peer(3, 5, Some(1)), peer(4, 9, Some(2))]));
        assert!(told.contains("optgate_peer_lag_events{peer=\"others\"} 9\n"), "{told}");
        assert!(!told.contains("anchor-3") && !told.contains("anchor-4"), "{told}");
        assert!(told.contains("optgate_peer_connected{peer=\"anchor-1\"} 0\n"), "{told}");
    }

    #[test]
    fn figures_are_taken_once_a_second_and_staleness_is_remarked_on() {
        let mut figures = Figures::new(2);
        let machine = Machine::new(Settings::new(Instance([1; 16]), Run([1; 16])), Heads::default());
        let mut remarks = None;
        let told = rendered(|| remarks = figures.show(&machine, true, Mono(5)));
        assert_eq!(remarks, Some(vec![Remark::Stale]));
        assert!(told.contains("optgate_peers_connected 0\n"), "{told}");
        assert!(told.contains("optgate_peer_records_total 0\n"), "{told}");
        assert_eq!(figures.show(&machine, true, Mono(1_004)), None);
        assert_eq!(figures.show(&machine, false, Mono(1_005)), Some(Vec::new()));
    }
}
