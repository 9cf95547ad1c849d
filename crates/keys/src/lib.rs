//! The key service: owner secrets, the owner's side of onboarding sessions, channel keys, and the opening of APDUs.
//!
//! | key | where its bytes are | who may have it used |
//! |---|---|---|
//! | owner secret N_e | wrapped in the database; opened per request in `keys-core` | endpoint manager, through seals and grants |
//! | K_config, owner encryption key | wrapped in the keystore; opened at start in `keys-core` | endpoint manager, for the payloads built here |
//! | K_act, salts, TPM session keys | wrapped in the session's record | endpoint manager, within that session |
//! | owner and lockout authorisation | wrapped, drawn once per device and epoch | endpoint manager, inside a tunnelled command |
//! | GUEK, GAK, KEK of a meter | wrapped, every version that ever left | the meter (wrapped to its TPM); head-end: opened APDUs only |
//! | data key | opened at start in `keys-core`, from the keystore | nobody |
//!
//! [`Core`] is the process `keys-core`: it decides, without input or output of its own, what a batch of requests changes
//! and what each is answered. The caller commits the changes, then lets the answers go (rule S2). [`front`] is the
//! process `keys`: who may ask for what. No answer holds a key value (rule Z1).

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod apdu;
mod core;
#[cfg(feature = "danger-inventory")]
mod danger_inventory;
mod data_keys;
pub mod front;
mod keystore;
pub mod lease;
mod onboard;
pub mod phase;
pub mod record;
mod rewrap;
pub mod site;
pub mod version;
mod window;

#[cfg(feature = "danger-inventory")]
pub use danger_inventory::Inventory;

pub use crate::{
    core::{Core, Decision, KeysError},
    data_keys::{DATA_KEY_PERIOD_S, DataKeys, DataKeysFile},
    keystore::{Keystore, KeystoreFile, PublicKeys},
    rewrap::RewrapStep,
    window::{Arrival, Window},
};
