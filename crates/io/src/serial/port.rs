//! One serial line of this machine.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::Duration,
};

use gridseal_types::Kind;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc,
    poll::PollFlags,
    sys::termios::{
        self, ControlFlags, InputFlags, SetArg, SpecialCharacterIndices, Termios, cfgetospeed, cfmakeraw,
        cfsetspeed, tcdrain, tcgetattr, tcsetattr,
    },
};

use super::{LineSettings, Parity};
use crate::feed::{self, Got};

/// A serial line cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// The device file cannot be opened.
    #[error("cannot open the line: {0}")]
    Open(io::Error),
    /// The file is no serial line.
    #[error("the file is no serial line")]
    NotALine,
    /// Another program has the line.
    #[error("another program reads this line")]
    Taken,
    /// The driver did not take the settings.
    #[error("the line cannot be set to {wanted}")]
    Refused {
        /// Settings that were asked for.
        wanted: LineSettings,
    },
    /// The line is gone: unplugged, or the other end of a pseudo-terminal was closed.
    #[error("the line is gone")]
    Gone,
    /// The line did not take what was to be sent within the time given.
    #[error("the line does not send")]
    Stuck,
    /// The system reported something else.
    #[error("the line failed: {0}")]
    Failed(io::Error),
}

impl SerialError {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Open(_) | Self::NotALine | Self::Refused { .. } => Kind::Local,
            Self::Taken | Self::Gone | Self::Stuck | Self::Failed(_) => Kind::Transient,
        }
    }

    /// Stable code, such as `io.serial.gone`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Open(_) => "io.serial.open",
            Self::NotALine => "io.serial.not_a_line",
            Self::Taken => "io.serial.taken",
            Self::Refused { .. } => "io.serial.refused",
            Self::Gone => "io.serial.gone",
            Self::Stuck => "io.serial.stuck",
            Self::Failed(_) => "io.serial.failed",
        }
    }
}

/// An open serial line: raw, locked against other programs that lock, and set back when it is dropped.
#[derive(Debug)]
pub struct SerialPort {
    file: Flock<File>,
    before: Termios,
    settings: LineSettings,
}

impl SerialPort {
    /// Opens `path` (`/dev/ttyUSB0`) and sets the line. Waits for no carrier: optical heads have none.
    ///
    /// # Errors
    /// [`SerialError::Open`], [`SerialError::NotALine`], [`SerialError::Taken`], [`SerialError::Refused`].
    pub fn open(path: &Path, settings: LineSettings) -> Result<Self, SerialError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
        let file = options.open(path).map_err(SerialError::Open)?;
        let before = tcgetattr(&file).map_err(|_| SerialError::NotALine)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| SerialError::Taken)?;
        let mut port = Self { file, before, settings };
        port.set(settings, SetArg::TCSAFLUSH)?;
        Ok(port)
    }

    /// Settings of the line.
    #[must_use]
    pub const fn settings(&self) -> LineSettings {
        self.settings
    }

    /// Changes the settings, after everything written has been sent; received bytes stay.
    ///
    /// # Errors
    /// [`SerialError::Refused`].
    pub fn change(&mut self, settings: LineSettings) -> Result<(), SerialError> {
        self.set(settings, SetArg::TCSADRAIN)
    }

    fn set(&mut self, settings: LineSettings, when: SetArg) -> Result<(), SerialError> {
        let refused = |_| SerialError::Refused { wanted: settings };
        let mut wanted = self.before.clone();
        shape(&mut wanted, settings).map_err(refused)?;
        tcsetattr(&*self.file, when, &wanted).map_err(refused)?;
        // The call succeeds when any of the settings could be made: what holds now must be asked.
        let now = tcgetattr(&*self.file).map_err(refused)?;
        let shape_bits =
            ControlFlags::CSIZE | ControlFlags::PARENB | ControlFlags::PARODD | ControlFlags::CSTOPB;
        let same_shape = now.control_flags & shape_bits == wanted.control_flags & shape_bits;
        if cfgetospeed(&now) != settings.baud.rate() || !same_shape {
            return Err(SerialError::Refused { wanted: settings });
        }
        self.settings = settings;
        Ok(())
    }

    /// Waits up to `patience` for bytes and reads what is there, at most `buffer.len()`.
    ///
    /// # Errors
    /// [`SerialError::Gone`], [`SerialError::Failed`].
    pub fn read(&mut self, buffer: &mut [u8], patience: Duration) -> Result<Got, SerialError> {
        if !feed::wait(self.as_fd(), PollFlags::POLLIN, patience).map_err(failed)? {
            return Ok(Got::Silence);
        }
        match self.file.read(buffer) {
            // A line has no end: nothing to read after the system said there is means that it was hung up.
            Ok(0) => Err(SerialError::Gone),
            Ok(count) => Ok(Got::Bytes(count)),
            Err(error) if feed::is_empty(&error) => Ok(Got::Silence),
            Err(error) => Err(failed(error)),
        }
    }

    /// Sends all of `bytes` and waits until the last bit has left; `patience` is for each stretch without progress.
    ///
    /// # Errors
    /// [`SerialError::Gone`], [`SerialError::Stuck`], [`SerialError::Failed`].
    pub fn send(&mut self, mut bytes: &[u8], patience: Duration) -> Result<(), SerialError> {
        while !bytes.is_empty() {
            if !feed::wait(self.as_fd(), PollFlags::POLLOUT, patience).map_err(failed)? {
                return Err(SerialError::Stuck);
            }
            match self.file.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if feed::is_empty(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        tcdrain(&*self.file).map_err(|errno| failed(errno.into()))
    }
}

impl AsFd for SerialPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SerialPort {
    fn drop(&mut self) {
        // The line may be gone; then there is nothing to set back.
        let _: Result<(), Errno> = tcsetattr(&*self.file, SetArg::TCSANOW, &self.before);
    }
}

fn failed(error: io::Error) -> SerialError {
    match error.raw_os_error() {
        Some(libc::EIO | libc::ENXIO | libc::ENODEV) => SerialError::Gone,
        _ => SerialError::Failed(error),
    }
}

/// Raw bytes, no flow control, no modem lines, one stop bit.
fn shape(line: &mut Termios, settings: LineSettings) -> Result<(), Errno> {
    cfmakeraw(line);
    cfsetspeed(line, settings.baud.rate())?;
    line.control_flags |= ControlFlags::CREAD | ControlFlags::CLOCAL;
    line.control_flags &= !(ControlFlags::CSIZE
        | ControlFlags::PARENB
        | ControlFlags::PARODD
        | ControlFlags::CSTOPB
        | ControlFlags::CRTSCTS);
    line.control_flags |= ControlFlags::CS8;
    line.input_flags &= !(InputFlags::IXOFF | InputFlags::IGNPAR | InputFlags::INPCK);
    if settings.parity == Parity::Even {
        line.control_flags |= ControlFlags::PARENB;
        // A byte with wrong parity arrives as 00: the frame's checksum then fails, and no byte goes missing.
        line.input_flags |= InputFlags::INPCK;
    }
    let (least, pause) = (SpecialCharacterIndices::VMIN, SpecialCharacterIndices::VTIME);
    if let Some(least) = line.control_chars.get_mut(index(least)) {
        *least = 1;
    }
    if let Some(pause) = line.control_chars.get_mut(index(pause)) {
        *pause = 0;
    }
    Ok(())
}

#[expect(clippy::as_conversions, reason = "the discriminant is the index; the crate offers no other way")]
const fn index(of: termios::SpecialCharacterIndices) -> usize {
    of as usize
}
