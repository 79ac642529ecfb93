//! Every method that the server answers, with how long it may take and what it competes with.

use std::time::Duration;

/// Whom a method shares its places with. Each group has its own, so that no flood of one starves another: above
/// all, checks never keep an opt-out from being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Single checks.
    Checks,
    /// Batches of checks: few at once, since each keeps a core busy for milliseconds.
    Batches,
    /// Writes of consent and of what became of messages.
    Records,
    /// Reads of consent.
    Reads,
    /// Messages of people, templates, senders.
    InboundAndAdmin,
    /// Streams and other long calls.
    Streams,
    /// Health and whatever else is not optgate's own.
    Other,
}

impl Group {
    /// Every group, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Checks,
        Self::Batches,
        Self::Records,
        Self::Reads,
        Self::InboundAndAdmin,
        Self::Streams,
        Self::Other,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checks => "checks",
            Self::Batches => "batches",
            Self::Records => "records",
            Self::Reads => "reads",
            Self::InboundAndAdmin => "inbound_and_admin",
            Self::Streams => "streams",
            Self::Other => "other",
        }
    }
}

/// Which of optgate's services answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Send,
    Consent,
    Inbound,
    Admin,
    /// Health, reflection and services that the application adds.
    Other,
}

impl Owner {
    pub(crate) const COUNT: usize = 4;
}

/// One method.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// The path that HTTP/2 carries.
    pub path: &'static str,
    /// Its service, with its package: for spans and metrics.
    pub service: &'static str,
    /// Its name: for spans and metrics.
    pub name: &'static str,
    /// Whom it competes with.
    pub group: Group,
    /// The longest it may take; the caller may ask for less. `None`: as long as it needs.
    pub deadline: Option<Duration>,
    pub(crate) owner: Owner,
}

impl Method {
    /// Whether its answer lasts, so that its place stays taken until the last byte of it.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.deadline.is_none()
    }
}

/// How long a check may take.
pub(super) const CHECK: Duration = Duration::from_millis(250);
/// How long a write may take: two disks' syncs and a network between them, many times over.
pub(super) const WRITE: Duration = Duration::from_secs(2);
/// A thousand checks of recipients that are in no cache, behind as many others as may run at once.
pub(super) const BATCH: Duration = Duration::from_secs(2);
/// How long a read may take.
pub(super) const READ: Duration = Duration::from_secs(2);
/// Overwrites every blob of a person, each with its sync.
const ERASE: Option<Duration> = Some(Duration::from_secs(30));

macro_rules! methods {
    ($($owner:ident $service:literal { $($name:literal $group:ident $deadline:expr;)+ })+) => {
        /// Every method of optgate's own services.
        pub const METHODS: &[Method] = &[$($(Method {
            path: concat!("/", $service, "/", $name),
            service: $service,
            name: $name,
            group: Group::$group,
            deadline: $deadline,
            owner: Owner::$owner,
        },)+)+];

        /// The method behind a path. One comparison by length and bytes per candidate, and no hashing: the list
        /// is short and the likeliest come first.
        #[must_use]
        pub fn of_path(path: &str) -> &'static Method {
            METHODS.iter().find(|method| method.path == path).unwrap_or(&OTHER)
        }
    };
}

/// Health, reflection and unknown paths: no metric or span may take its name from what a caller sent.
pub const OTHER: Method = Method {
    path: "",
    service: "other",
    name: "other",
    group: Group::Other,
    deadline: None,
    owner: Owner::Other,
};

methods! {
    Send "optgate.v1.SendService" {
        "CheckSend" Checks Some(CHECK);
        "ReportSend" Records Some(WRITE);
        "BatchCheckSend" Batches Some(BATCH);
    }
    Consent "optgate.v1.ConsentService" {
        "RecordConsent" Records Some(WRITE);
        "GetConsent" Reads Some(READ);
        "ListConsentEvents" Reads Some(READ);
        "GetRecipientRefs" Reads Some(READ);
        "ImportConsents" Streams None;
        "ExportConsentEvents" Streams None;
        "WatchConsents" Streams None;
        "EraseEvidence" Records ERASE;
    }
    Inbound "optgate.v1.InboundService" {
        "HandleInboundMessage" InboundAndAdmin Some(WRITE);
    }
    Admin "optgate.v1.AdminService" {
        "PutTemplate" InboundAndAdmin Some(WRITE);
        "ListTemplates" InboundAndAdmin Some(READ);
        "PutSenderState" InboundAndAdmin Some(WRITE);
        "ListSenderStates" InboundAndAdmin Some(READ);
        "GetStatus" InboundAndAdmin Some(READ);
        "VerifyLedger" Streams None;
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_of_the_protos_is_considered() {
        let set = prost_types::FileDescriptorSet::decode(crate::pb::FILE_DESCRIPTOR_SET).expect("it decodes");
        let mut seen = 0;
        for file in set.file.iter().filter(|file| file.package() == "optgate.v1") {
            for service in &file.service {
                for rpc in &service.method {
                    let path = format!("/optgate.v1.{}/{}", service.name(), rpc.name());
                    let method = of_path(&path);
                    assert_eq!(method.path, path, "not in the table");
                    let streams = rpc.client_streaming() || rpc.server_streaming();
                    assert!(!streams || method.is_long(), "{path} would be cut");
                    assert_eq!(streams || rpc.name() == "VerifyLedger", method.is_long(), "{path}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, METHODS.len());
    }

    #[test]
    fn groups_are_numbered_in_order() {
        for (number, group) in Group::ALL.into_iter().enumerate() {
            assert_eq!(group as usize, number);
        }
    }

    #[test]
    fn unknown_paths_lend_no_names() {
        assert_eq!(of_path("/optgate.v1.SendService/Nonsense").name, "other");
        assert_eq!(of_path("").group, Group::Other);
    }
}
