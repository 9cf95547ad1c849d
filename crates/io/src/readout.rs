//! Reads a meter out over an optical head: the shell around the asking side of IEC 62056-21, mode C.

use std::time::Duration;

use gridseal_lmn::iec62056_21::readout::{Input, Output, Readout, ReadoutError};
use gridseal_types::Kind;

use crate::{
    clock::tick_now,
    feed::Got,
    serial::{Baud, LineSettings, Parity, SerialError, SerialPort, SevenEven},
};

/// The longest that is sent takes 1.3 s at 300 baud.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A readout did not give a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadoutFailure {
    /// The line.
    #[error(transparent)]
    Line(#[from] SerialError),
    /// The meter, or what came from it.
    #[error(transparent)]
    Meter(#[from] ReadoutError),
}

impl ReadoutFailure {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Line(error) => error.kind(),
            Self::Meter(error) => error.kind(),
        }
    }

    /// Stable code of the cause.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Line(error) => error.code(),
            Self::Meter(error) => error.code(),
        }
    }
}

/// Reads the meter on `port` out once and returns its message, identification line first, checked.
///
/// # Errors
/// [`ReadoutFailure`]; a new [`Readout`] may be tried on the same line, unless the line itself has failed.
pub fn read_out(port: &mut SerialPort, mut readout: Readout) -> Result<Vec<u8>, ReadoutFailure> {
    readout.handle(tick_now(), Input::Start)?;
    loop {
        if let Some(message) = drain(port, &mut readout)? {
            return Ok(message);
        }
        let now = tick_now();
        let patience = readout.deadline().map_or(Duration::ZERO, |deadline| deadline.since(now));
        if patience.is_zero() {
            readout.handle(now, Input::Timeout)?;
            continue;
        }
        let mut buffer = [0; 256];
        let Got::Bytes(count) = port.read(&mut buffer, patience)? else { continue };
        for byte in buffer.iter().take(count) {
            match SevenEven::decode(*byte) {
                Some(character) => readout.handle(tick_now(), Input::Bytes(&[character]))?,
                None => readout.handle(tick_now(), Input::Damaged)?,
            }
        }
    }
}

fn drain(port: &mut SerialPort, readout: &mut Readout) -> Result<Option<Vec<u8>>, ReadoutFailure> {
    while let Some(output) = readout.poll() {
        match output {
            Output::Baud(rate) => {
                let baud = Baud::of(rate).unwrap_or(Baud::B300);
                port.change(LineSettings { baud, parity: Parity::SevenEven })?;
            }
            Output::Transmit(characters) => {
                let bytes: Vec<u8> = characters.into_iter().map(SevenEven::encode).collect();
                port.send(&bytes, SEND_TIMEOUT)?;
                readout.handle(tick_now(), Input::Sent)?;
            }
            Output::Identified(_) => {}
            Output::Message(message) => return Ok(Some(message)),
        }
    }
    Ok(None)
}
