//! The only contact with the field and the machine besides storage: TLS, TPM transports, serial lines, clock and
//! randomness.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod clock;
pub mod confine;
pub mod feed;
pub mod readout;
pub mod rng;
pub mod serial;
pub mod tls;
pub mod tpm;
