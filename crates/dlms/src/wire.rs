//! Bytes to values and back: one cursor for reading, one for writing, and the types that A-XDR carries.

mod data;
mod date_time;
mod reader;
mod writer;

pub use data::{BitString, DEPTH_MAX, Data};
pub use date_time::{Date, DateTime, DateTimeError, DeviationSign, Time};
pub use reader::{DecodeError, Reader, Rule};
pub use writer::Writer;
