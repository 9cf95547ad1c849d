//! What a device is and what runs on it: TPM structures, device roots of trust, and the onboarding protocol with the
//! machines of both its ends.
//!
//! Nothing here opens a socket, reads a clock or touches a disk: TPM commands leave through [`root::TpmTransport`], the
//! machines of [`enrol`] take inputs and give outputs.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod audit;
pub mod csr;
pub mod der;
pub mod endorsement;
pub mod enrol;
pub mod firmware;
pub mod measured;
pub mod party;
pub mod root;
pub mod tpm;
