//! Every key and every primitive of Gridseal: the only crate that sees key bytes.
//!
//! A [`Key`] belongs to one role and one size, is wiped when dropped, and can be neither printed, cloned, compared with
//! `==` nor serialised. Bytes enter by `generate`, `derive`, `unwrap_key` or `take`; they leave only wrapped or as the
//! result of an operation. Two back ends with one interface do the arithmetic ([`backend`]): RustCrypto on devices,
//! aws-lc-rs on servers (feature `aws-lc`); the same vectors run on both.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod apdu;
pub mod backend;
mod counter;
mod curve;
mod delivery;
mod envelope;
mod foreign;
pub mod group;
mod hash;
pub mod hls;
mod key;
mod key_wrap;
pub mod lmn;
mod pair;
mod rng;
pub mod role;
mod rsa;
mod seal;
mod second;
mod sign;
pub mod sts;
pub mod tpm;

pub use counter::{CounterError, InvocationCounter, Reservation, Ticket};
pub use curve::{Curve, CurveAgreement, CurvePublic, CurveSigner, KeyAlgorithm, SharedSecret};
pub use delivery::{DELIVERY_NONCE_SIZE, SecretBytes, delivery_open, delivery_seal};
pub use envelope::{
    DataKey, ENVELOPE_OVERHEAD, EnvelopeContext, EnvelopeError, Origin, SealedUnder, WrappedKey, open_bytes,
    seal_bytes,
};
pub use foreign::{ForeignKey, HashAlgorithm};
pub use hash::{ct_eq, sha256};
pub use key::{Key, KeyError};
pub use key_wrap::{WRAP_OVERHEAD, WRAPPED_SIZE};
pub use pair::{ApduKeys, PairContext, PairSeal, SealedPair};
pub use rng::{Rng, RngError, random};
pub use rsa::RsaPublicKey;
pub use seal::SealError;
pub use second::{SECOND_KEY_SIZE, SECOND_SIGNATURE_SIZE, SecondKey, SecondSigner};
pub use sign::{AgreementKey, PublicKey, Signature, Signer, SigningKey};
