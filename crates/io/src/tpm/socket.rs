//! An emulator that listens: swtpm's data port, and its control port for the power switch.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use gridseal_trust::root::{RootError, TpmTransport};

use super::{ANSWER_TIMEOUT, exchange};

/// Control command that powers the emulator up: CMD_INIT with no flags.
const CMD_INIT: [u8; 8] = [0, 0, 0, 2, 0, 0, 0, 0];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A TPM emulator over TCP.
#[derive(Debug)]
pub struct TpmSocket(TcpStream);

impl TpmSocket {
    /// Connects to the data port.
    ///
    /// # Errors
    /// [`std::io::Error`] as given by the system.
    pub fn connect(data: SocketAddr) -> std::io::Result<Self> {
        Ok(Self(open(data)?))
    }

    /// Powers the emulator up through its control port, then connects to the data port.
    ///
    /// # Errors
    /// [`std::io::Error`]; [`std::io::ErrorKind::Other`] when the emulator refuses to start.
    pub fn power_up(control: SocketAddr, data: SocketAddr) -> std::io::Result<Self> {
        let mut stream = open(control)?;
        stream.write_all(&CMD_INIT)?;
        let mut result = [0; 4];
        stream.read_exact(&mut result)?;
        if result != [0; 4] {
            return Err(std::io::Error::other("the TPM emulator does not start"));
        }
        Self::connect(data)
    }
}

fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    // Small messages in both directions: without this each answer waits for a delayed acknowledgement.
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

impl TpmTransport for TpmSocket {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, RootError> {
        exchange(&mut self.0, command)
    }
}
