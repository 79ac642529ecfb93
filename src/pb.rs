//! The wire's types, generated from `proto/` by the build, and their descriptors.
//!
//! Nothing but the entrances (`grpc`, `cli`) and the ledger's payloads uses them: the policy core has types of its own.

use std::fmt;

/// A module of generated types.
macro_rules! generated {
    ($(#[$about:meta])* $name:ident of $package:literal) => {
        $(#[$about])*
        #[allow(
            missing_docs,
            clippy::all,
            clippy::pedantic,
            rustdoc::all,
            reason = "generated; the protos hold the comments"
        )]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated! {
    /// `optgate.v1`: the public API.
    v1 of "optgate.v1"
}

/// `optgate.ledger`: what the ledger's records hold.
pub mod ledger {
    generated! {
        /// `optgate.ledger.v1`: the storage format. Only `engine::codec` knows it.
        v1 of "optgate.ledger.v1"
    }
}

/// `optgate.replication`: what optgates say to each other.
pub mod replication {
    generated! {
        /// `optgate.replication.v1`: one stream between two nodes. Only `replication::wire` knows it.
        v1 of "optgate.replication.v1"
    }
}

/// The descriptors of the API and the ledger, as an encoded `google.protobuf.FileDescriptorSet` without comments: for reflection and for the
/// test that pins the API.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptors of what peers say to each other, apart from the others: callers are never offered it.
pub const PEER_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peer_descriptors.bin"));

/// Writes `Name(redacted)`: a log line must not betray an address or a person's words.
macro_rules! redacted {
    ($($name:ty),+ $(,)?) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        })+
    };
}

redacted!(
    v1::Recipient,
    v1::recipient::Address,
    v1::Actor,
    v1::Evidence,
    v1::OptOut,
    v1::ImportRow,
    v1::ButtonReply,
    v1::HandleInboundMessageRequest,
    v1::handle_inbound_message_request::Content,
    ledger::v1::Personal,
    ledger::v1::Evidence,
    replication::v1::Record,
    replication::v1::record::Blob,
    replication::v1::PresentBlob,
    replication::v1::SubmitRequest,
);

#[cfg(test)]
mod tests {
    use super::v1;

    #[test]
    fn addresses_and_words_do_not_print() {
        let phone = v1::recipient::Address::Phone("+12025550142".into());
        let check = v1::CheckSendRequest {
            recipient: Some(v1::Recipient { address: Some(phone.clone()) }),
            ..Default::default()
        };
        let inbound = v1::HandleInboundMessageRequest {
            identifiers: vec![v1::Recipient { address: Some(phone.clone()) }],
            content: Some(v1::handle_inbound_message_request::Content::Text("canary".into())),
            ..Default::default()
        };
        let record = v1::RecordConsentRequest {
            changes: vec![v1::ConsentChange {
                change: Some(v1::consent_change::Change::OptOut(v1::OptOut {
                    text: "canary".into(),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            actor: Some(v1::Actor { id: "canary".into(), ..Default::default() }),
            ..Default::default()
        };
        let row = v1::ImportRow { recipient: "+12025550142".into(), ..Default::default() };
        for text in [
            format!("{check:?}"),
            format!("{inbound:?}"),
            format!("{record:?}"),
            format!("{row:?}"),
            format!("{phone:?}"),
        ] {
            assert!(text.contains("redacted"), "{text}");
            assert!(!text.contains("2025550142") && !text.contains("canary"), "{text}");
        }
    }
}
