//! Sealing: text that callers keep for us and hand back, e.g. decision ids. They can neither read
//! nor forge it, and any node with the key opens it.
//!
//! ```text
//! sealed = base64url(0x02 ‖ count (8) ‖ AES-256-GCM-SIV(text) ‖ tag (16)), without padding
//! nonce  = count, 4 zero bytes
//! ```
//!
//! AES-GCM-SIV (RFC 8452) stays sound when a nonce is used twice: a repeated count (a copied machine, no randomness at
//! the start) shows at most that two texts are equal. The label is authenticated: what was sealed for one
//! purpose does not open for another.

use std::sync::atomic::Ordering;

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::{AeadInOut, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ClusterKey;

/// The longest sealed text that is opened, in bytes.
pub const SEALED_LEN_MAX: usize = 2_048;

const VERSION: u8 = 2;
const COUNT_LEN: usize = 8;
const TAG_LEN: usize = 16;
const HEAD_LEN: usize = 1 + COUNT_LEN;

/// A text that this key did not seal for this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("was not issued by this cluster, or has been altered")]
pub struct SealFault;

impl ClusterKey {
    /// Seals `text` for the purpose `label`.
    #[must_use]
    pub fn seal(&self, label: &str, text: &[u8]) -> String {
        let count = self.seals.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut sealed = Vec::with_capacity(HEAD_LEN + text.len() + TAG_LEN);
        sealed.push(VERSION);
        sealed.extend_from_slice(&count);
        sealed.extend_from_slice(text);
        let body = (&mut sealed[HEAD_LEN..]).into();
        match self.cipher.encrypt_inout_detached(&nonce_of(count), label.as_bytes(), body) {
            Ok(tag) => sealed.extend_from_slice(&tag),
            // Only texts of 64 GiB and more are too long to seal; what opens nowhere is safe.
            Err(_) => sealed.truncate(HEAD_LEN),
        }
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Opens what [`seal`](Self::seal) made for the same `label`.
    ///
    /// # Errors
    /// When the text was not sealed with this key for this label, or is longer than
    /// [`SEALED_LEN_MAX`].
    pub fn open(&self, label: &str, sealed: &str) -> Result<Vec<u8>, SealFault> {
        if sealed.len() > SEALED_LEN_MAX {
            return Err(SealFault);
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SealFault)?;
        let (&[VERSION, ref count @ ..], rest) = bytes.split_first_chunk::<HEAD_LEN>().ok_or(SealFault)?
        else {
            return Err(SealFault);
        };
        let mut text = rest.to_vec();
        self.cipher
            .decrypt_in_place(&nonce_of(*count), label.as_bytes(), &mut text)
            .map_err(|_| SealFault)?;
        Ok(text)
    }
}

fn nonce_of(count: [u8; COUNT_LEN]) -> Nonce<Aes256GcmSiv> {
    let mut nonce = Nonce::<Aes256GcmSiv>::default();
    nonce[..COUNT_LEN].copy_from_slice(&count);
    nonce
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::key;
    use super::*;

    #[test]
    fn what_is_altered_or_foreign_does_not_open() {
        let key = key();
        let sealed = key.seal("decision", b"some facts");
        assert_eq!(key.open("decision", &sealed).as_deref(), Ok(&b"some facts"[..]));
        assert_eq!(key.open("cursor", &sealed), Err(SealFault));
        assert_eq!(ClusterKey::from_bytes(&[7; 32]).open("decision", &sealed), Err(SealFault));
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(key.open("decision", &URL_SAFE_NO_PAD.encode(altered)), Err(SealFault), "{at}");
            assert_eq!(key.open("decision", &URL_SAFE_NO_PAD.encode(&bytes[..at])), Err(SealFault), "{at}");
        }
        for bad in ["", "A", "====", "ä", &format!("{sealed}="), &format!("{sealed}A")] {
            assert_eq!(key.open("decision", bad), Err(SealFault), "{bad}");
        }
    }

    #[test]
    fn another_process_with_the_key_opens_it_and_seals_differ() {
        let (one, other) = (key(), key());
        let sealed = one.seal("decision", b"");
        assert_eq!(other.open("decision", &sealed), Ok(Vec::new()));
        assert_ne!(one.seal("decision", b""), sealed);
    }

    #[test]
    fn over_long_text_is_not_even_decoded() {
        let key = key();
        let text = vec![0; SEALED_LEN_MAX / 4 * 3 - HEAD_LEN - TAG_LEN];
        let longest = key.seal("decision", &text);
        assert_eq!(longest.len(), SEALED_LEN_MAX);
        assert_eq!(key.open("decision", &longest), Ok(text.clone()));
        let longer = key.seal("decision", &[text, vec![0]].concat());
        assert_eq!(key.open("decision", &longer), Err(SealFault));
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text in proptest::collection::vec(any::<u8>(), 0..200), label in "[a-z]{0,9}") {
            let key = key();
            let sealed = key.seal(&label, &text);
            prop_assert!(sealed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(key.open(&label, &sealed), Ok(text));
        }
    }
}
