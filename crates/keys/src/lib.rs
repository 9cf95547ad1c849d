//! The key service: owner secrets, the owner's side of onboarding sessions, channel keys, and the opening of APDUs.
//!
//! | key | where its bytes are | who may have it used |
//! |---|---|---|
//! | owner secret N_e | wrapped in the database; opened per request in `keys-core` | endpoint manager, through seals and grants |
//! | K_config, owner encryption key | wrapped in the keystore; opened at start in `keys-core` | endpoint manager, for the payloads built here |
//! | K_act, salts, TPM session keys | wrapped in the record of the session or order | endpoint manager, within that session or order |
//! | owner and lockout authorisation | wrapped, drawn once per device and epoch | endpoint manager, inside a tunnelled command |
//! | the service's signing keys as a DLMS client | wrapped in the keystore; opened at start in `keys-core` | nobody: they sign ephemeral keys that were drawn here |
//! | ephemeral key of an agreement | wrapped, until its key change is resolved | nobody |
//! | GUEK, GAK, KEK of a meter | wrapped, every version that ever left | the meter (wrapped to its TPM); head-end: opened APDUs only |
//! | data key | opened at start in `keys-core`, from the keystore | nobody |
//!
//! [`Service`] is the process `keys-core`: it decides, without input or output of its own, what a batch of requests changes
//! and what each is answered. [`front`] is the process `keys`: who may ask for what. No answer holds a key value (rule Z1).
//!
//! # How to drive it
//! 1. [`Service::load`] once, from the records of a database that nobody else writes. Give it the [`site::Site`]: index,
//!    number of sites, the client's system title, the epoch in the marker outside the database.
//! 2. [`Service::decide`] per batch. The records that it is given show every decision before, committed or not.
//! 3. Of a [`Decision`], in this order: write `marker`, commit `writes` as durable as `durability` says, let `replies` go
//!    (rule S2). The next batch may be decided while the commit runs; commits keep the order of decisions.
//! 4. After any error, of a decision or of a commit, throw the service away and load it again: what it holds in memory is
//!    ahead of what is on record.
//! 5. Now and then [`Service::fold`], a few rows per call and committed like a decision, or the traffic log grows.
//! 6. [`Service::set_standby`] when the standby comes or goes; [`Service::import`] for devices without a root of trust.
//!
//! # Two planes
//! Opening and sealing touch one slot of a table in memory (`traffic`), and the batch's one log blob in
//! [`record::TRAFFIC_LOG`]. Everything else reads and writes rows. An APDU from which more may follow than a counter, the
//! proof of a new key above all, goes through both in the same decision (`evidence`).
//!
//! # A key change
//! An operator's `PrepareKeyChange` makes the new keys; the head-end finds the meter in `PendingChanges`.
//! `BeginKeyChange` answers with the sealed transfer. Send it; then `ReportKeyChange` with what came. An APDU under the new
//! keys that is opened here, whatever it is, confirms. Without an answer the change is `unknown`: `ProbePlan` gives sealed
//! GETs, one for each pair of keys that the meter may have; open what comes back. An answer under the old keys makes it
//! `not-installed`, and `BeginKeyChange` gives the transfer again. A new master key is proven by a transfer under it, which
//! `ReportKeyChange` hands out by itself.
//!
//! In suites 1 and 2 the master key is agreed upon, so that who knows the keys before learns none of the new ones; fresh keys
//! under it prove it. The same raises the suite of a meter (`RaiseSuite`); nothing lowers it.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod acts;
mod agreement;
mod apdu;
mod associations;
mod change;
mod claim;
mod classify;
mod consent;
mod core;
#[cfg(feature = "danger-faults")]
pub mod danger_faults;
#[cfg(feature = "danger-inventory")]
mod danger_inventory;
mod data_keys;
mod device;
mod evidence;
pub mod front;
#[doc(hidden)]
pub mod fuzz_entry;
mod import;
mod keystore;
pub mod lease;
mod meter_key;
mod onboard;
mod orders;
mod parties;
pub mod phase;
mod probe;
pub mod record;
mod rewrap;
mod seal;
mod service;
mod setup;
pub mod site;
mod sites;
mod traffic;
pub mod version;
mod window;

#[cfg(feature = "danger-inventory")]
pub use danger_inventory::Inventory;

pub use crate::{
    acts::ORIGINATOR_PERIOD_S,
    classify::is_harmless,
    consent::{Approver, CONSENTS, needs_consent},
    core::{Core, KeysError, only_reads},
    data_keys::{DATA_KEY_PERIOD_S, DataKeys, DataKeysFile, needs_data_keys},
    import::{Import, imported_name},
    keystore::{Keystore, KeystoreFile, PublicKeys},
    meter_key::MeterKey,
    parties::PartyAnchors,
    probe::LOCKOUT_DEFAULT,
    rewrap::RewrapStep,
    seal::APDU_SIZE_MAX,
    service::{Decision, Service},
    setup::CERTIFY_LABEL,
    window::{Arrival, TagHead, WINDOW_SIZE, Window},
};
