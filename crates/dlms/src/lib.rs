//! DLMS/COSEM, sans-IO: values, frames, APDUs, associations of clients and servers, and their protection.
//!
//! Bytes in, values out: nothing here opens a socket, reads a clock or draws randomness. Whatever arrives is parsed
//! once by the one [`wire::Reader`], and a [`wire::DecodeError`] says which field broke which rule at which offset.
//!
//! | folder | what is in it |
//! |---|---|
//! | [`wire`] | cursor, A-XDR data with compact arrays, rows of profiles, date and time |
//! | [`frame`] | TCP and UDP wrapper, HDLC frames and links, general block transfer |
//! | [`acse`] | AARQ, AARE, RLRQ, RLRE, initiate, conformance |
//! | [`apdu`] | GET, SET, ACTION, ACCESS, notifications, exceptions, the carriers of protected APDUs |
//! | [`assoc`] | the machines of client and server, their table of states, the port to the objects |
//! | [`suite`] | protection, and the local performer of cryptographic operations |
//! | [`tree`] | messages taken apart for people |
//!
//! # Keys
//!
//! A machine holds no key: it asks for an [`assoc::Operation`] and gets an [`assoc::CryptoResult`] (decision D1).
//! Whoever performs it keeps challenges, dedicated keys and counters under an opaque [`assoc::AssociationHandle`]: on a
//! meter and in tools [`suite::local::LocalCrypto`], behind a head-end the key service. No key type is exported from
//! here, so a crate that links only this one cannot name a key (rule S4):
//!
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::protect::Key;
//! ```
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::protect::Ticket;
//! ```
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::local::Secret;
//! ```
//!
//! # A server
//!
//! 1. Implement [`assoc::Objects`] for the logical device. Each call names attribute or method, the selection, and who
//!    asks ([`assoc::AccessContext`]); values are encoded A-XDR, a long one may be an [`assoc::ValueSource`] that is
//!    asked for as many bytes as the next block needs. Access rights are judged there, everything else is judged
//!    before.
//! 2. Make one [`suite::local::LocalCrypto`] for each set of keys and one [`assoc::server::Server`] for each pair of
//!    connection and client, with the [`assoc::server::ServerSettings`] of that client: start from
//!    [`assoc::server::ServerSettings::public`] or [`assoc::server::ServerSettings::ciphered`].
//! 3. Feed it, and drain it after every input:
//!
//! ```
//! use gridseal_dlms::{
//!     assoc::{ActionReply, AssociationHandle, AttributeRequest, MethodRequest, Objects, Value, server},
//!     apdu::result::{ActionResult, DataAccessResult},
//!     wire::Data,
//! };
//! use gridseal_types::{SystemTitle, Tick};
//!
//! struct Meter;
//! impl Objects for Meter {
//!     fn get(&mut self, _: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
//!         Ok(Value::Encoded(Data::Unsigned(42).to_bytes()))
//!     }
//!     fn set(&mut self, _: AttributeRequest<'_>, _: &[u8]) -> Result<(), DataAccessResult> {
//!         Err(DataAccessResult::ReadWriteDenied)
//!     }
//!     fn action(&mut self, _: MethodRequest<'_>) -> ActionReply {
//!         ActionReply::refused(ActionResult::ObjectUndefined)
//!     }
//! }
//!
//! let settings = server::ServerSettings::public(16, SystemTitle(*b"GSL\0\0\0\0\x01"));
//! let mut server = server::Server::new(settings, AssociationHandle(1));
//! let mut answers = vec![];
//! let aarq: &[u8] = &[
//!     0x60, 0x1D, 0xA1, 0x09, 0x06, 0x07, 0x60, 0x85, 0x74, 0x05, 0x08, 0x01, 0x01, 0xBE, 0x10, 0x04, 0x0E, 0x01, 0, 0,
//!     0, 0x06, 0x5F, 0x1F, 0x04, 0, 0, 0x7E, 0x1F, 0x04, 0xB0,
//! ];
//! let get: &[u8] = &[0xC0, 1, 0xC1, 0, 1, 0, 0, 42, 0, 0, 255, 2, 0];
//! for apdu in [aarq, get] {
//!     server.handle(Tick(0), server::Input::Received(apdu), &mut Meter).unwrap();
//!     while let Some(output) = server.poll() {
//!         match output {
//!             // To the wrapper or the HDLC link of this client.
//!             server::Output::Transmit(apdu) => answers.push(apdu),
//!             // `LocalCrypto::perform(handle, &operation, ports)`, then `handle(.., Input::CryptoDone(id, result), ..)`.
//!             server::Output::Crypto(_handle, _id, _operation) => {}
//!             // To the security log.
//!             server::Output::Event(_event) => {}
//!             _ => {}
//!         }
//!     }
//! }
//! assert_eq!(answers[1], [0xC4, 1, 0xC1, 0, 0x11, 42]);
//! ```
//!
//! A loop that performs operations at once gives no further input before [`assoc::server::Server::poll`] has returned
//! `None`. `ServerError::Busy` says that this was forgotten. An answer to [`assoc::Operation::End`] is not expected.
//!
//! # A client
//!
//! [`assoc::client::Client`] has the same shape: [`assoc::client::Input::Associate`], wait for
//! [`assoc::client::Event::Associated`], then one [`assoc::client::Request`] after the other, each answered by one
//! [`assoc::client::Event::Response`] or [`assoc::client::Event::Failed`], then [`assoc::client::Input::Release`].
//! [`assoc::client::Event::Ignored`] reports what was forged, repeated or downgraded on the way: nothing was taken from
//! it, and the true answer may still come before the deadline. A tool that must not go on after a forgery ends there.
//! Blocks, lists and general block transfer are done inside; a response is always whole.
//!
//! # Frames
//!
//! On TCP, [`frame::wrapper::WrapperDecoder`] cuts the stream and [`frame::wrapper::WrapperFrame`] wraps; on UDP a
//! datagram is one unit, see [`frame::wrapper::datagram`]. On a serial line or `--hdlc-tcp`, [`frame::hdlc::Link`] does
//! both, for one client at a time.
//!
//! The limit that a decoder is given is [`assoc::server::ServerSettings::apdu_size_max`], or 4,096 bytes if that is
//! more: the messages that open an association are not yet bound by what they agree upon.
//!
//! # Taking recorded APDUs apart
//!
//! [`tree::TreeDecoder`] names every field of every message with its offset, puts segments and blocks together, and gives
//! what is protected to a [`tree::Opener`]. By hand, [`apdu::carrier::CipheredApdu`] shows carrier, title, control octet
//! and counter; a fresh [`suite::local::LocalCrypto`] opens one with [`assoc::Operation::Open`], whatever its counter,
//! because it has seen none yet. Without the authentication key only `gridseal_crypto::apdu::danger_decrypt_unverified` is left, which
//! verifies nothing and is for people alone. [`wire::Data`] reads values, [`wire::Rows`] buffers of profiles.
//!
//! Suites 0 and 1 have keys of 16 bytes and P-256, suite 2 keys of 32 bytes (`LocalCrypto<32>`) and P-384. Public keys of
//! peers are given ([`suite::local::SigningKeys`], [`suite::local::AgreementKeys`]): certificates are not read here.
//!
//! Not here: short names, compression.

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
pub mod assoc;
pub mod class;
pub mod frame;
#[doc(hidden)]
pub mod fuzz_entry;
pub mod suite;
pub mod tree;
pub mod wire;
