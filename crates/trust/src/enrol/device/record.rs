//! What a device keeps on flash.

use alloc::{string::String, vec::Vec};

use gridseal_types::{Digest, OrderSeq, UtcTime};

use super::super::init::SignedRedirect;
use crate::root::{KeyBlob, OwnerKeys, OwnerPin};

/// Everything that outlives a power cut, written whole by one atomic rename. It holds no key value: blobs are useless
/// without the root that made them.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub struct DeviceRecord {
    /// The accepted redirect.
    #[n(0)]
    pub redirect: Option<SignedRedirect>,
    /// Its epoch and sequence number: a lower one of the same epoch is refused.
    #[n(1)]
    pub redirect_seq: Option<(u32, OrderSeq)>,
    /// Keys made for this owner.
    #[n(2)]
    pub keys: Option<OwnerKeys>,
    /// Installed configuration.
    #[n(3)]
    pub installed: Option<Installed>,
    /// Floor clock: largest time in an accepted, signed message of this epoch.
    #[n(4)]
    pub floor: UtcTime,
    /// Strongest suite used; a weaker one is never offered again.
    #[n(5)]
    pub suite: u16,
}

/// A configuration that was delivered by C6.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Installed {
    /// LDevID chain, leaf first, DER.
    #[n(0)]
    pub ldevid_chain: Vec<gridseal_types::service::keys::Bytes>,
    /// Certificates against which the terminus is checked, DER.
    #[n(1)]
    pub ca_bundle: Vec<gridseal_types::service::keys::Bytes>,
    /// Terminus addresses in order of preference.
    #[n(2)]
    pub terminus_urls: Vec<String>,
    /// Public-key pins of the terminus, may be empty.
    #[n(3)]
    pub terminus_pins: Vec<Digest>,
    /// Delivered secrets.
    #[n(4)]
    pub keys: Vec<DeliveredKey>,
    /// Version of the configuration.
    #[n(5)]
    pub policy_version: u64,
    /// Hash of the configuration: what the next one names as its previous.
    #[n(6)]
    pub digest: Digest,
    /// Pin under which it was accepted.
    #[n(7)]
    pub pin: OwnerPin,
    /// Whether C8 was seen.
    #[n(8)]
    pub confirmed: bool,
    /// Whether a counter was begun for the delivered keys: then its file must be there, a lost one is never begun anew.
    #[n(9)]
    pub is_counting: bool,
    /// Generation counter of the root when it was installed: who begins to count has to find that value.
    #[n(10)]
    #[cbor(default)]
    pub generation: u64,
}

/// One delivered secret, imported into the root.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct DeliveredKey {
    /// What it is for: 1 GUEK, 2 GAK, 3 KEK.
    #[n(0)]
    pub id: u8,
    /// Imported object.
    #[n(1)]
    pub blob: KeyBlob,
}

impl Installed {
    /// The imported object with this id.
    #[must_use]
    pub fn key(&self, id: u8) -> Option<&KeyBlob> {
        self.keys.iter().find(|key| key.id == id).map(|key| &key.blob)
    }
}

impl DeviceRecord {
    /// Encoded form for the flash.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).unwrap_or_default()
    }

    /// Decodes what the flash holds.
    ///
    /// # Errors
    /// When it is no record: a torn or foreign file.
    pub fn decode(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        minicbor::decode(bytes)
    }
}
