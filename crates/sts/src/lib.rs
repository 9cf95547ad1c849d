//! STS prepayment tokens (IEC 62055-41), sans-IO: how a token is made and read, which key it needs, when a meter takes it
//! and what an issuer may give out.
//!
//! | module | what is in it |
//! |---|---|
//! | [`token`] | 20 digits, the block inside, its contents by class and subclass |
//! | [`amount`] | the two codings of amounts, exact, without floating point |
//! | [`tid`] | token identifiers and base dates |
//! | [`identity`] | meter numbers, supply groups, key types and their check digits |
//! | [`derive`](mod@derive) | decoder keys from vending keys |
//! | [`key_change`] | key change sets of two, three and four sections |
//! | [`meter`] | the meter: acceptance, memory of identifiers, lock-out, key change; durable before acknowledged |
//! | [`issuer`] | the issuer: no identifier twice, idempotent, expiry |
//!
//! Written from the facts that were verified against published vectors. What was not verified (DKGA 01 and 03, EA 09, the
//! meanings of control bits, proprietary and reserved subclasses) is refused as not supported. Not certified; production
//! vending keys come from the standard's key management centre.

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

pub mod amount;
pub mod derive;
#[doc(hidden)]
pub mod fuzz_entry;
pub mod identity;
pub mod issuer;
pub mod key_change;
pub mod meter;
pub mod tid;
pub mod token;
