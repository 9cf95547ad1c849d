//! Bytes to values and back: one cursor for reading, one for writing, and the types that A-XDR and BER carry.

pub(crate) mod ber;
mod compact;
mod data;
mod date_time;
mod reader;
mod rows;
mod writer;

pub use compact::{CompactArray, DESCRIPTION_NODES_MAX, Elements};
pub(crate) use data::tag as type_tag;
pub use data::{BitString, DEPTH_MAX, Data};
pub use date_time::{Date, DateTime, DateTimeError, DeviationSign, Time};
pub use reader::{DecodeError, Reader, Rule};
pub use rows::{ClockColumn, Row, RowError, Rows};
pub use writer::Writer;
