//! The cluster key: turns addresses into identifiers and seals what callers carry for us.
//!
//! All that is derived from it is fixed for ever, since stored identifiers depend on it:
//!
//! ```text
//! sub-key(label)  = HMAC-SHA256(key, "optgate/v1/" ‖ label)
//! field(x)        = length of x as 4 bytes, big-endian ‖ x
//! identifier      = HMAC-SHA256(sub-key("identifier"), field(business id) ‖ kind ‖ canonical address)
//! mac16           = first 16 bytes of HMAC-SHA256(sub-key("mac"), field(label) ‖ field(part) …)
//! check value     = first 16 bytes of sub-key("check")
//! ```
//!
//! The kind is one byte, [`AddressKind::tag`](crate::address::AddressKind::tag). Whoever loses the
//! key loses every opt-out; whoever has it can test whether an address is in a ledger.

mod file;
mod seal;

use std::fmt;
use std::sync::atomic::AtomicU64;

use aes_gcm_siv::Aes256GcmSiv;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::address::Address;
use crate::policy::ids::Identifier;

pub use file::{KeyFileFault, LoadedKey};
pub use seal::{SEALED_LEN_MAX, SealFault};

/// The bytes of a key.
pub const KEY_LEN: usize = 32;

type HmacSha256 = Hmac<Sha256>;

/// The secret that all members of a cluster share. `Debug` shows nothing of it.
///
/// Only derived states are kept, each with the hash of its key already begun, so that an identifier
/// costs two blocks of SHA-256.
pub struct ClusterKey {
    identifiers: HmacSha256,
    macs: HmacSha256,
    cipher: Aes256GcmSiv,
    check_value: [u8; 16],
    /// Makes two seals of the same text differ.
    seals: AtomicU64,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(redacted)")
    }
}

impl ClusterKey {
    /// The key whose bytes are `key`. The caller's copy is the caller's to wipe.
    #[must_use]
    pub fn from_bytes(key: &[u8; KEY_LEN]) -> Self {
        let master = keyed(key);
        let sub_key = |label: &str| -> Secret {
            let mut mac = master.clone();
            mac.update(b"optgate/v1/");
            mac.update(label.as_bytes());
            Secret(mac.finalize().into_bytes().into())
        };
        // Where there is no randomness the count starts at 0: seals stay sound, see `seal`.
        let first = getrandom::u64().unwrap_or(0);
        Self {
            identifiers: keyed(&sub_key("identifier").0),
            macs: keyed(&sub_key("mac").0),
            cipher: Aes256GcmSiv::new(&sub_key("seal").0.into()),
            check_value: first_16(&sub_key("check").0),
            seals: AtomicU64::new(first),
        }
    }

    /// What a ledger keeps to recognise its key by. It reveals nothing of the key.
    #[must_use]
    pub const fn check_value(&self) -> [u8; 16] {
        self.check_value
    }

    /// The identifier of `address` at the business `business_id`: the same address has unrelated
    /// identifiers at two businesses.
    #[must_use]
    pub fn identifier(&self, business_id: &str, address: &Address) -> Identifier {
        let mut mac = self.identifiers.clone();
        field(&mut mac, business_id.as_bytes());
        mac.update(&[address.kind().tag()]);
        mac.update(address.as_str().as_bytes());
        Identifier(mac.finalize().into_bytes().into())
    }

    /// A keyed hash of `parts` for the purpose `label`: request ids, hashes of contents, recipients
    /// of a portfolio. Parts cannot run into one another, nor can purposes.
    #[must_use]
    pub fn mac16(&self, label: &str, parts: &[&[u8]]) -> [u8; 16] {
        let mut mac = self.macs.clone();
        field(&mut mac, label.as_bytes());
        for part in parts {
            field(&mut mac, part);
        }
        first_16(&mac.finalize().into_bytes().into())
    }
}

/// Key bytes that are overwritten when they are no longer needed, as far as the language lets us.
struct Secret([u8; KEY_LEN]);

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites `bytes` in a way that the compiler does not leave out.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn keyed(key: &[u8; KEY_LEN]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// Adds `bytes` after their length.
fn field(mac: &mut HmacSha256, bytes: &[u8]) {
    // Nothing that is hashed comes near 4 GiB: every id and message is bounded at the door.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    mac.update(&length.to_be_bytes());
    mac.update(bytes);
}

fn first_16(bytes: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    pub(super) fn key() -> ClusterKey {
        ClusterKey::from_bytes(&std::array::from_fn(|i| u8::try_from(i).unwrap()))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed by Python's `hmac` from the formulas above: a change here loses every opt-out.
    #[test]
    fn derived_values_never_change() {
        let key = key();
        let phone = Address::parse_phone("+12025550142").unwrap();
        assert_eq!(hex(&key.check_value()), "50d69b494f04adf1efc150bf69163184");
        assert_eq!(
            hex(&key.identifier("acme-air", &phone).0),
            "ebeadf614d86422885fa3bfda8306bbcca097a58a1b8fec06c2f1ebe6ec40c27"
        );
        assert_eq!(hex(&key.mac16("request", &[b"acme-air", b"r-1"])), "101bf639e77d5f870b708d13b0971f5a");
    }

    #[test]
    fn identifiers_tell_businesses_kinds_and_addresses_apart() {
        let key = key();
        let phone = Address::parse_phone("+12025550142").unwrap();
        let other = Address::parse_phone("+12025550143").unwrap();
        let id = key.identifier("acme", &phone);
        assert_eq!(id, key.identifier("acme", &Address::parse_wa_id("12025550142").unwrap()));
        assert_ne!(id, key.identifier("acmf", &phone));
        assert_ne!(id, key.identifier("acme", &other));
        assert_ne!(id, ClusterKey::from_bytes(&[7; KEY_LEN]).identifier("acme", &phone));
        assert_ne!(key.check_value(), ClusterKey::from_bytes(&[7; KEY_LEN]).check_value());
    }

    #[test]
    fn parts_and_labels_do_not_run_together() {
        let key = key();
        let mac = key.mac16("a", &[b"bc", b"d"]);
        for (label, parts) in
            [("a", [&b"b"[..], b"cd"]), ("ab", [b"c", b"d"]), ("a", [b"bcd", b""]), ("a", [b"d", b"bc"])]
        {
            assert_ne!(mac, key.mac16(label, &parts));
        }
        assert_ne!(key.mac16("a", &[]), key.mac16("a", &[b""]));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", key()), "ClusterKey(redacted)");
    }
}
