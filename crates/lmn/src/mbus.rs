//! M-Bus: wireless (EN 13757-4), its transport and security layers (EN 13757-7, OMS), wired (EN 13757-2), and the
//! records that both carry (EN 13757-3).
//!
//! A telegram goes through [`frame`] (checksums), [`Opener`] (link, extended link, authentication and transport layers,
//! decryption) and [`record`] (typed readings). [`encode`] is the way back.

pub mod address;
pub mod afl;
pub mod compact;
pub mod crc;
pub mod ell;
pub mod encode;
pub mod frame;
#[doc(hidden)]
pub mod fuzz_entry;
mod open;
pub mod record;
pub mod registry;
pub mod tpl;
pub mod wired;

pub use address::{Manufacturer, Medium, MeterAddress};
pub use open::{
    Authenticity, Body, BodyKind, Counter, Header, KeySource, Known, OpenError, OpenOptions, Opened, Opener,
    Profile, Quirks, SingleKey,
};
