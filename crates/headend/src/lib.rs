//! The head-end: which meters are admitted, and the way of a reading from a meter's link into the store.
//!
//! Sans-IO: the shell owns sockets, the link to the key service and the database. Whatever a meter sends stays sealed
//! here; [`Ingest`] asks for it to be opened, in batches, and acknowledges a frame only after its readings are durable.
//!
//! The head-end holds no key and cannot even name one (rule S4): it links neither the crate that has keys nor the one
//! that keeps them, and the protocol crate hands no key type on.
//!
//! ```compile_fail,E0433
//! fn hold(key: gridseal_crypto::Key<gridseal_crypto::role::Guek, 16>) {}
//! ```
//! ```compile_fail,E0433
//! fn ask(store: gridseal_keys::Keystore) {}
//! ```
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::protect::Key;
//! ```
//! ```compile_fail,E0603
//! use gridseal_dlms::suite::protect::Guek;
//! ```
//! while the crates that it does link are there:
//! ```
//! use gridseal_dlms::suite::protect::open_general_glo as _;
//! use gridseal_types::SystemTitle as _;
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admission;
mod ingest;
pub mod key_change;
pub mod memory;
mod plausibility;
mod push;
mod store;

pub use ingest::{
    BatchId, CloseReason, ConnectionId, Event, FRAME_SIZE_MAX, FRAMES_PER_CONNECTION_MAX, Ingest,
    IngestError, Input, OPEN_BATCH_MAX, OPEN_BATCHES_MAX, OPEN_TOPUP_MIN, Output, QUEUE_FRAMES_MAX,
    RETRY_DELAY, Refusal, STORE_FRAMES_MAX,
};
pub use plausibility::{CLOCK_AHEAD_MAX_S, Implausible, implausible};
pub use push::{ClockStamp, FormError, PushModel, decode_push};
pub use store::{LIST_MAX, ReadingFilter, ReadingStore, StoreOutcome};
