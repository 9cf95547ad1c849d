//! What the endpoint manager tells the head-end: that a meter is admitted, never how to decrypt it.

use crate::{DeviceState, Digest, SystemTitle};

/// One admission of a meter, or a change of its state. Idempotent: the newest `revision` of a meter counts.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Admission {
    /// Meter as the head-end knows it.
    #[n(0)]
    pub meter: SystemTitle,
    /// SHA-256 of the SubjectPublicKeyInfo in its LDevID.
    #[n(1)]
    pub tls_key: Digest,
    /// State; only `operating` is served in full.
    #[n(2)]
    pub state: DeviceState,
    /// Rises with each change of this meter.
    #[n(3)]
    pub revision: u64,
}

/// Answer to one admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum AdmissionReply {
    /// Durable; an older revision than the one on record is accepted and changes nothing.
    #[n(0)]
    Recorded,
}
