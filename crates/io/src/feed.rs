//! Where bytes of meters come from: a serial line, a TCP connection, standard input.
//!
//! Reading waits with a limit, so that a caller can keep its own deadlines; nothing here knows what the bytes mean.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use gridseal_types::Kind;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::serial::{LineSettings, SerialError, SerialPort};

/// Longest wait for a TCP peer to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What reading gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing within the time given.
    Silence,
    /// The other side has ended; nothing will follow.
    End,
}

/// A source of bytes failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The serial line.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// The name cannot be resolved.
    #[error("cannot resolve the address: {0}")]
    Resolve(io::Error),
    /// Nobody answers there.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// Reading failed.
    #[error("cannot read: {0}")]
    Read(io::Error),
    /// Writing failed, or this source cannot be written to.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

impl FeedError {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Serial(error) => error.kind(),
            Self::Resolve(_) => Kind::Local,
            Self::Connect(_) | Self::Read(_) | Self::Write(_) => Kind::Transient,
        }
    }

    /// Stable code, such as `io.feed.connect`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Serial(error) => error.code(),
            Self::Resolve(_) => "io.feed.resolve",
            Self::Connect(_) => "io.feed.connect",
            Self::Read(_) => "io.feed.read",
            Self::Write(_) => "io.feed.write",
        }
    }
}

/// A source of bytes; serial lines and TCP connections take bytes, too.
#[derive(Debug)]
pub struct Feed(Source);

#[derive(Debug)]
enum Source {
    Serial(SerialPort),
    Tcp(TcpStream),
    Input(File),
}

impl Feed {
    /// A serial line of this machine.
    ///
    /// # Errors
    /// [`FeedError::Serial`].
    pub fn serial(path: &Path, settings: LineSettings) -> Result<Self, FeedError> {
        Ok(Self(Source::Serial(SerialPort::open(path, settings)?)))
    }

    /// A connection to `address` (`host:port`), such as a server that hands a serial line on.
    ///
    /// # Errors
    /// [`FeedError::Resolve`], [`FeedError::Connect`] when none of its addresses answers within 10 s each.
    pub fn tcp(address: &str) -> Result<Self, FeedError> {
        let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(FeedError::Resolve)?.collect();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(Self(Source::Tcp(stream))),
                Err(error) => last = error,
            }
        }
        Err(FeedError::Connect(last))
    }

    /// Standard input of this process. Bytes that somebody else has buffered are not seen.
    ///
    /// # Errors
    /// [`FeedError::Read`] when it is closed.
    pub fn standard_input() -> Result<Self, FeedError> {
        let own = io::stdin().as_fd().try_clone_to_owned().map_err(FeedError::Read)?;
        Ok(Self::from(own))
    }

    /// Waits up to `patience` for bytes and reads what is there, at most `buffer.len()`.
    ///
    /// # Errors
    /// [`FeedError::Serial`], [`FeedError::Read`].
    pub fn read(&mut self, buffer: &mut [u8], patience: Duration) -> Result<Got, FeedError> {
        match &mut self.0 {
            Source::Serial(port) => Ok(port.read(buffer, patience)?),
            Source::Tcp(stream) => take(stream, buffer, patience).map_err(FeedError::Read),
            Source::Input(file) => take(file, buffer, patience).map_err(FeedError::Read),
        }
    }

    /// Sends all of `bytes`; on a serial line returns when the last bit has left.
    ///
    /// # Errors
    /// [`FeedError::Serial`], [`FeedError::Write`]; the latter always for standard input.
    pub fn send(&mut self, bytes: &[u8], patience: Duration) -> Result<(), FeedError> {
        match &mut self.0 {
            Source::Serial(port) => Ok(port.send(bytes, patience)?),
            Source::Tcp(stream) => {
                stream.set_write_timeout(Some(patience)).map_err(FeedError::Write)?;
                stream.write_all(bytes).map_err(FeedError::Write)
            }
            Source::Input(_) => Err(FeedError::Write(io::Error::from(io::ErrorKind::Unsupported))),
        }
    }
}

impl From<OwnedFd> for Feed {
    /// A pipe or a file.
    fn from(own: OwnedFd) -> Self {
        Self(Source::Input(File::from(own)))
    }
}

/// Waits for bytes and reads them; a source that has ended is always ready.
fn take<S: AsFd + Read>(source: &mut S, buffer: &mut [u8], patience: Duration) -> io::Result<Got> {
    if !wait(source.as_fd(), PollFlags::POLLIN, patience)? {
        return Ok(Got::Silence);
    }
    match source.read(buffer) {
        Ok(0) => Ok(Got::End),
        Ok(count) => Ok(Got::Bytes(count)),
        Err(error) if is_empty(&error) => Ok(Got::Silence),
        Err(error) => Err(error),
    }
}

/// Whether the file is ready within `patience`; a hang-up is ready, too: reading then says what happened.
pub(crate) fn wait(fd: BorrowedFd<'_>, ready_for: PollFlags, patience: Duration) -> io::Result<bool> {
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, ready_for)], patience) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether an error says: not now.
pub(crate) fn is_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
