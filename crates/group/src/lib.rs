//! Group keys, sans-IO: one message after which everybody but the evicted has the new key of a group.
//!
//! | module | what is in it |
//! |---|---|
//! | [`tree`] | nodes, seats and subsets of a binary tree |
//! | [`cover`](mod@cover) | which subsets cover everybody but the revoked, in one pass with a short stack |
//! | [`revoked`] | the list of the revoked, coded small |
//! | [`sd`] | subset difference: stateless, for fleets |
//! | [`lkh`] | a hierarchy of keys of degree 4: stateful, for small groups and for comparison |
//! | [`flat`] | a wrap for each member: the fallback and the yardstick |
//! | [`header`] | the signed header around any of them |
//! | [`epoch`] | what an epoch yields, and signed broadcast commands |
//! | [`member`] | the member: acceptance, never a lower epoch, durable before used |
//! | [`storage`] | what a member keeps, in slots that come through a power cut |
//! | [`sender`] | the key service's side: seats, joins, evictions, re-seating |
//! | [`schedule`] | when the next epoch is due, and when new seats are |
//! | [`fragment`] | a header in pieces for lossy broadcast, with parity |
//! | [`pair`] | keys between two devices, handed out and revoked |
//!
//! Only the header is authentic by itself. A group key is known to every member, so what is sealed under it proves no
//! sender: every broadcast command is signed as well, or refused.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod bytes;
pub mod cover;
pub mod epoch;
pub mod flat;
pub mod fragment;
#[doc(hidden)]
pub mod fuzz_entry;
pub mod header;
pub mod lkh;
pub mod member;
pub mod pair;
pub mod revoked;
pub mod schedule;
mod scheme;
pub mod sd;
pub mod sender;
pub mod storage;
pub mod tree;

pub use scheme::{Receive, Rekey, RekeyError, Scheme};
