//! Certificate authority: linted request in, certificate out.
//!
//! States are types: [`Csr`] -> [`LintedCsr`] -> [`Draft`] (one [`profile`] each) -> [`Certificate`]. The bytes to be
//! signed are decoded again and linted before the key sees them; whoever holds the key is a [`gridseal_crypto::Signer`].
//! [`Authority::decide`] is the whole service as a function: what it answers, and the record that has to be durable before
//! the answer leaves. Nothing here opens a socket, reads a clock or touches a disk.
//!
//! # Source
//! RFC 5280 (profile), RFC 2986 (requests), IEEE 802.1AR (LDevID), RFC 7030 (EST).

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod authority;
mod certificate;
mod csr;
pub mod est;
mod issuer;
mod lint;
mod parties;
pub mod profile;

pub use authority::{
    Authority, Call, CertificateRecord, CertificateRecords, ENDPOINT_MANAGER, Holder, RecordsError, Settings,
};
pub use certificate::Certificate;
pub use csr::{Csr, LintedCsr, is_for_common_name};
pub use issuer::{IssueError, Issuer, self_signed};
pub use lint::LintError;
pub use parties::{PartyAuthority, PartyError};
pub use profile::{Draft, DraftError, SubjectName, Validity};
