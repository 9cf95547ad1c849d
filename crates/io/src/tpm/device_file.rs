//! A TPM behind a device file of the kernel.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use gridseal_trust::root::{RootError, TpmTransport};

use super::RESPONSE_SIZE_MAX;

/// Response codes of a TPM that wants time: testing, NV rate, NV unavailable, retry, yielded.
const WANTS_TIME: [[u8; 4]; 5] =
    [[0, 0, 0x09, 0x0a], [0, 0, 0x09, 0x20], [0, 0, 0x09, 0x23], [0, 0, 0x09, 0x22], [0, 0, 0x09, 0x08]];
/// How long it gets before the answer is passed on; the root then sends the command again.
const PAUSE: Duration = Duration::from_millis(5);

/// `/dev/tpmrm0` (with the kernel's resource manager) or `/dev/tpm0`.
#[derive(Debug)]
pub struct DeviceFile(File);

impl DeviceFile {
    /// Opens the device.
    ///
    /// # Errors
    /// [`std::io::Error`] as given by the system.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(path).map(Self)
    }
}

impl TpmTransport for DeviceFile {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, RootError> {
        // The driver takes a command in one write and gives the response in one read; it has its own timeouts.
        let written = self.0.write(command).map_err(|_| RootError::Transport)?;
        if written != command.len() {
            return Err(RootError::Transport);
        }
        let mut response = vec![0; RESPONSE_SIZE_MAX];
        let size = self.0.read(&mut response).map_err(|_| RootError::Transport)?;
        response.truncate(size);
        if response.get(6..10).is_some_and(|code| WANTS_TIME.iter().any(|wants| code == wants)) {
            #[expect(
                clippy::disallowed_methods,
                reason = "a chip under test or out of NV budget signals nothing"
            )]
            std::thread::sleep(PAUSE);
        }
        Ok(response)
    }
}
