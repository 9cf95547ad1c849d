//! The onboarding protocol GSO v1: its bytes, its checks, and the machines of both ends.
//!
//! The device's half is [`device`], the owner's half is [`registrar`], which the endpoint manager drives. What needs a
//! secret of the owner is asked of the key service; the derivations both ends share are in [`secrets`].
//!
//! # Source
//! Onboarding specification, sections 5, 7 and 18.

pub mod cose;
pub mod delivery;
pub mod delivery_list;
pub mod device;
pub mod document;
#[doc(hidden)]
pub mod fuzz_entry;
pub mod init;
pub mod installation;
pub mod label;
pub mod order;
pub mod receipt;
pub mod registrar;
pub mod relay;
pub mod secrets;
pub mod session;
pub mod shipment;
pub mod voucher;
pub mod voucher_log;
pub mod wire;
pub mod witness;
