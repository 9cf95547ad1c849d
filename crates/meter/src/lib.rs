//! The meter: its load profile, the push of each captured row to the head-end, and the COSEM objects that a DLMS client
//! reaches ([`cosem`]).
//!
//! Sans-IO: no clock, no disk, no randomness, no socket. [`LoadProfile`] says when to capture and what; [`Push`] seals
//! each [`Row`] under the meter's keys, keeps it until the head-end has confirmed that it is durable there, and tells
//! the shell what to send, to persist and to report.
//!
//! What holds, and where it is tested (`tests/model.rs`):
//!
//! | rule | how |
//! |---|---|
//! | no (key, nonce) pair twice (S1) | counter values come out of blocks whose end is durable first |
//! | nothing is sent before it is durable (S2) | a frame waits until the record that contains it is persisted |
//! | no row is lost once it is persisted (S7) | it stays queued until its own invocation is confirmed |
//! | no row is counted twice (S7) | a repeat has the same bytes; after a fresh seal it has the same interval start |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cosem;
mod load_profile;
mod push;
mod row;

pub use load_profile::{Consumption, LoadProfile};
pub use push::{
    APDU_SIZE_MAX, CONFIRM_TIMEOUT, COUNTER_BLOCK, Event, IN_FLIGHT_MAX, Input, Output, PersistId, Push,
    PushConfig, PushError, PushKeys, QUEUE_ROWS_MAX, RESEAL_ATTEMPTS, RecordError, RequestRefusal,
    retry_delay,
};
pub use row::{ROW_STATUS_POWER_DOWN, Row};
