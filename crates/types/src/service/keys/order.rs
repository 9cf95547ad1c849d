//! Orders to devices that have an owner: what the endpoint manager asks the key service for.

use alloc::{string::String, vec::Vec};

use super::{Bytes, TpmSession};
use crate::{Digest, EkName, N16, OrderSeq};

/// An order to be signed and sealed. The same device and `id` get the same bytes again.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct OrderRequest {
    /// Device.
    #[n(0)]
    pub device: EkName,
    /// Name of the request, drawn by the caller.
    #[n(1)]
    pub id: N16,
    /// What is ordered.
    #[n(2)]
    pub act: OrderAct,
}

/// What is ordered. What needs a secret is made by the key service.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum OrderAct {
    /// A new configuration, with new channel secrets when a storage key is named.
    #[n(1)]
    Provision(#[n(0)] ProvisionOrder),
    /// A quote with logs.
    #[n(2)]
    Attest {
        /// Encoded TPML_PCR_SELECTION.
        #[cbor(n(0), with = "minicbor::bytes")]
        pcr_selection: Vec<u8>,
        /// First IMA entry wanted.
        #[n(1)]
        ima_next: u64,
    },
    /// TPM sessions for the commands that follow.
    #[n(3)]
    Sessions {
        /// Endorsement key as [`super::Challenge::endorsement`].
        #[cbor(n(0), with = "minicbor::bytes")]
        endorsement: Vec<u8>,
        /// What for.
        #[n(1)]
        purpose: TunnelPurpose,
    },
    /// The commands of the sessions that the device has answered.
    #[n(4)]
    Commands {
        /// Sequence number of the order for the sessions.
        #[n(0)]
        sessions_seq: OrderSeq,
        /// As the device opened them.
        #[n(1)]
        sessions: Vec<TpmSession>,
        /// TPM_PT_PERMANENT: bit 0 ownerAuthSet, bit 2 lockoutAuthSet.
        #[n(2)]
        permanent: u32,
    },
    /// Stop working.
    #[n(5)]
    Suspend,
    /// Work again.
    #[n(6)]
    Resume,
    /// Go to the next owner.
    #[n(7)]
    Release {
        /// Encoded COSE_Sign1 of the voucher entry that names him.
        #[cbor(n(0), with = "minicbor::bytes")]
        entry: Vec<u8>,
        /// Its second signature, empty when it names no second key.
        #[cbor(n(1), with = "minicbor::bytes")]
        second: Vec<u8>,
    },
    /// Come to the end.
    #[n(8)]
    Decommission,
    /// Make a new TLS key, and a new storage key when told so.
    #[n(9)]
    Renew {
        /// Whether the storage key too.
        #[n(0)]
        with_storage: bool,
    },
    /// The owner has a new key.
    #[n(10)]
    Rekey {
        /// Encoded COSE_Sign1 of voucher entries of kind 2.
        #[n(0)]
        entries: Vec<Bytes>,
        /// Their second signatures, one each, or none.
        #[n(1)]
        second: Vec<Bytes>,
    },
}

/// What tunnelled commands are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum TunnelPurpose {
    /// New authorisations for the owner and the lockout hierarchy.
    #[n(0)]
    Authorisations,
    /// TPM2_Clear; only once a release or a decommissioning was ordered.
    #[n(1)]
    Clear,
}

/// What a provision order is made from.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct ProvisionOrder {
    /// Point of the certified storage key, x || y, 64 bytes: new channel secrets are wrapped to it. None: none are made.
    #[n(0)]
    pub storage_point: Option<Bytes>,
    /// LDevID chain, leaf first, DER.
    #[n(1)]
    pub ldevid_chain: Vec<Bytes>,
    /// Certificates against which the meter checks its terminus, DER.
    #[n(2)]
    pub ca_bundle: Vec<Bytes>,
    /// Terminus addresses in order of preference.
    #[n(3)]
    pub terminus: Vec<String>,
    /// Configuration version, above the meter's last.
    #[n(4)]
    pub policy_version: u64,
    /// Hash of the configuration before.
    #[n(5)]
    pub previous: Digest,
    /// Index of the voucher's last entry.
    #[n(6)]
    pub entry_index: u32,
    /// Hash of the voucher's last entry.
    #[n(7)]
    pub entry: Digest,
}

/// A sealed order, stored and repeated byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct SealedOrder {
    /// Sequence number.
    #[n(0)]
    pub seq: OrderSeq,
    /// What names it in its result and in TPM statements.
    #[n(1)]
    pub digest: Digest,
    /// The whole wire message.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub wire: Vec<u8>,
    /// TPM Names of the objects in a provision order, in order.
    #[n(3)]
    pub objects: Vec<EkName>,
    /// Hash of the configuration in a provision order: what the next one names as its previous.
    #[n(4)]
    pub configuration: Digest,
    /// Number of its kind.
    #[n(5)]
    pub kind: u8,
}

/// What became of tunnelled commands.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum Tunnelled {
    /// Both authorisations are the new ones, as the TPM's own responses prove.
    #[n(0)]
    Authorised,
    /// The TPM is cleared, as its own response proves: the device is released or decommissioned here. Encoded COSE_Sign1 of
    /// the receipt, and the delegation under which it was made.
    #[n(1)]
    Cleared {
        /// Receipt.
        #[cbor(n(0), with = "minicbor::bytes")]
        receipt: Vec<u8>,
        /// Encoded COSE_Sign1 of the delegation.
        #[cbor(n(1), with = "minicbor::bytes")]
        delegation: Vec<u8>,
        /// Encoded COSE_Sign1 of the order that ended the ownership.
        #[cbor(n(2), with = "minicbor::bytes")]
        order: Vec<u8>,
        /// Encoded COSE_Sign1 of the order that had the Clear.
        #[cbor(n(3), with = "minicbor::bytes")]
        commands: Vec<u8>,
    },
    /// The TPM refused a command, or did not execute it: new sessions, and again.
    #[n(2)]
    Again,
}
