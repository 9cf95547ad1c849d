//! What the certificate authority is asked for.

use alloc::{string::String, vec::Vec};

use super::keys::{Bytes, CertifyRequest};
use crate::{Code, EkName, UtcTime};

/// One request to the certificate authority.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum CertificateRequest {
    /// An LDevID for a meter. Endpoint manager only. Idempotent by (device, public key).
    #[n(0)]
    LDevId {
        /// Device, which the certificate's serial-number attribute names in hex.
        #[n(0)]
        device: EkName,
        /// Serial number from the register, never from the request.
        #[n(1)]
        serial: String,
        /// Model from the register.
        #[n(2)]
        model: String,
        /// PKCS#10, DER. Only its public key and proof of possession count.
        #[cbor(n(3), with = "minicbor::bytes")]
        csr: Vec<u8>,
    },
    /// A TLS server certificate for a service of the inner network, at most 24 hours. That service only.
    #[n(1)]
    Server {
        /// PKCS#10, DER.
        #[cbor(n(0), with = "minicbor::bytes")]
        csr: Vec<u8>,
    },
    /// A certificate of a meter's signing key as a DLMS party. Head-end only, which carries it: what counts is the key
    /// service's signature in it. Idempotent by (device, public key).
    #[n(2)]
    Party(#[n(0)] CertifyRequest),
}

/// One answer of the certificate authority.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
#[non_exhaustive]
pub enum CertificateReply {
    /// The certificate and what leads to its root.
    #[n(0)]
    Issued {
        /// Chain, leaf first, DER, without the root.
        #[n(0)]
        chain: Vec<Bytes>,
        /// Root certificate, DER.
        #[cbor(n(1), with = "minicbor::bytes")]
        root: Vec<u8>,
        /// notAfter of the leaf.
        #[n(2)]
        not_after: UtcTime,
    },
    /// Refused; nothing was signed.
    #[n(1)]
    Refused {
        /// Why.
        #[n(0)]
        code: Code,
    },
}
