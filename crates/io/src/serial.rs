//! Serial lines: optical heads, level converters of the wired bus, radio sticks.
//!
//! A line is opened raw, alone, and with settings that were read back: a driver that cannot do what it was asked often
//! says nothing, and the bytes are then wrong in a way that looks like a bad meter.
//!
//! Seven bits with even parity (IEC 62056-21) take as long on the wire as eight bits without: start bit, eight bits,
//! stop bit. So the line always carries eight bits, and [`SevenEven`] checks and makes the parity. That works for
//! drivers that know eight bits only and for servers that hand a serial line on over TCP, and it tells where a byte
//! was damaged, which a driver's own check does not.

mod parity;
mod port;
mod settings;

pub use parity::SevenEven;
pub use port::{SerialError, SerialPort};
pub use settings::{Baud, LineSettings, LineSettingsError, Parity};
