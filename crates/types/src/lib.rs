//! The shared nouns of Gridseal, and the request and reply types with which its services speak to each other.
//!
//! Everybody may use this crate, so that the head-end can ask the key service for an opened APDU without linking
//! any of its code. Nothing here holds a key value: a key is named, or travels wrapped as opaque bytes.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod bytes;
mod code;
mod device_type;
mod id;
mod obis;
mod reading;
pub mod records;
pub mod service;
mod state;
mod time;

pub use code::{Code, Kind};
pub use device_type::DeviceType;
pub use id::{Digest, EkName, Epoch, Kid, N16, Nonce, OrderSeq, Sid, SystemTitle};
pub use obis::{ObisCode, ObisParseError};
pub use reading::{Quality, Reading, ReadingKey, Unit};
pub use state::DeviceState;
pub use time::{Tick, UtcTime};
