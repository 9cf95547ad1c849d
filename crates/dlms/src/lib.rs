//! DLMS/COSEM, sans-IO: A-XDR values, the TCP wrapper, notifications and protected APDUs.
//!
//! Bytes in, values out: nothing here opens a socket, reads a clock or draws randomness. Whatever arrives is parsed
//! once by the one [`wire::Reader`], and a [`wire::DecodeError`] says which field broke which rule at which offset.
//! Keys are borrowed from `gridseal-crypto` by the two functions of [`suite::protect`] and by nothing else; no key
//! type is exported from here, so a crate that links only this one cannot name a key (rule S4):
//!
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::protect::Key;
//! ```
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::protect::Ticket;
//! ```
//!
//! | folder | what is in it |
//! |---|---|
//! | [`wire`] | cursor, A-XDR data, date and time |
//! | [`frame`] | TCP wrapper |
//! | [`apdu`] | DataNotification and its confirmation, general-glo-ciphering |
//! | [`class`] | interface classes: attributes, methods, types |
//! | [`suite`] | protection in security suite 0 |
//!
//! Not here yet: associations, GET, SET, ACTION, HDLC, block transfer, suites 1 and 2, compact arrays.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used
    )
)]

extern crate alloc;

pub mod acse;
pub mod apdu;
pub mod class;
pub mod frame;
#[doc(hidden)]
pub mod fuzz_entry;
pub mod suite;
pub mod wire;
