//! What a device keeps on flash.

use alloc::{string::String, vec::Vec};

use gridseal_types::{Digest, Epoch, Nonce, OrderSeq, UtcTime, service::keys::Bytes};

use super::super::{init::SignedRedirect, order::Kind};
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
    /// Orders of this owner.
    #[n(6)]
    #[cbor(default)]
    pub orders: Orders,
    /// What the owner before is still to be told, once an order has ended its ownership.
    #[n(7)]
    pub ended: Option<Ended>,
    /// Epoch of a recovery entry that was accepted under the button; the redirect is the new owner's. Gone when nothing of the
    /// owner before is left.
    #[n(8)]
    pub recovery: Option<Epoch>,
}

/// What orders have left on flash; gone with the owner that gave them.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub struct Orders {
    /// The last order that was accepted: its number is on flash before the device acts.
    #[n(0)]
    pub accepted: Option<Accepted>,
    /// Whether the owner has told the device to stop working.
    #[n(1)]
    #[cbor(default)]
    pub is_suspended: bool,
    /// New keys that wait for the configuration with their certificate.
    #[n(2)]
    pub renewed: Option<RenewedKeys>,
    /// Whose orders count.
    #[n(3)]
    pub owner: Option<OwnerChain>,
    /// A release or decommissioning that is not finished.
    #[n(4)]
    pub ending: Option<Ending>,
}

/// An order that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Accepted {
    /// Sequence number.
    #[n(0)]
    pub seq: OrderSeq,
    /// SHA-256 of the whole message: the same bytes are the same order.
    #[n(1)]
    pub message: Digest,
    /// The whole sealed result, once there is one; repeated byte for byte.
    #[n(2)]
    pub result: Option<Bytes>,
}

/// Keys that were made for an order of kind 9.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct RenewedKeys {
    /// TLS key.
    #[n(0)]
    pub tls: KeyBlob,
    /// Storage key, when it is renewed too.
    #[n(1)]
    pub storage: Option<KeyBlob>,
}

/// The owner as of the last configuration, and of entries of kind 2 since.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct OwnerChain {
    /// Encoded voucher.
    #[n(0)]
    pub voucher: Bytes,
    /// Addresses of the config servers.
    #[n(1)]
    pub urls: Vec<String>,
    /// Their public-key pins.
    #[n(2)]
    pub pins: Vec<Digest>,
}

/// How far a release or decommissioning has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum EndingStage {
    /// The order is stored: the owner may clear the TPM.
    #[n(0)]
    Ordered,
    /// The TPM was cleared, and its response is in the result of the last order.
    #[n(1)]
    Cleared,
    /// That result has arrived: what is left needs nobody else.
    #[n(2)]
    Told,
}

/// A stored order of kind 7 or 8.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Ending {
    /// Release or decommission.
    #[n(0)]
    pub kind: Kind,
    /// Sequence number of the order.
    #[n(1)]
    pub seq: OrderSeq,
    /// Its R.
    #[n(2)]
    pub r: Nonce,
    /// SHA-256 of its payload.
    #[n(3)]
    pub order: Digest,
    /// Epoch of the owner that gave it.
    #[n(4)]
    pub epoch: Epoch,
    /// The next owner's pin; the epoch counter is then raised by one. `None` for a decommissioning.
    #[n(5)]
    pub next: Option<OwnerPin>,
    /// How far it has come.
    #[n(6)]
    pub stage: EndingStage,
}

/// What is left of an owner after a release or decommissioning.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Ended {
    /// Release or decommission.
    #[n(0)]
    pub kind: Kind,
    /// The sealed result that says so, until it has arrived or a week has passed.
    #[n(1)]
    pub result: Option<Bytes>,
    /// Addresses of that owner's config servers.
    #[n(2)]
    pub urls: Vec<String>,
    /// Their public-key pins.
    #[n(3)]
    pub pins: Vec<Digest>,
}

/// A configuration that was delivered by C6 or by an order.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Installed {
    /// LDevID chain, leaf first, DER.
    #[n(0)]
    pub ldevid_chain: Vec<Bytes>,
    /// Certificates against which the terminus is checked, DER.
    #[n(1)]
    pub ca_bundle: Vec<Bytes>,
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
    /// Sequence number of the last order that was accepted in this epoch, 0 before the first.
    #[must_use]
    pub fn order_seq(&self) -> OrderSeq {
        self.orders.accepted.as_ref().map_or(0, |accepted| accepted.seq)
    }

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
