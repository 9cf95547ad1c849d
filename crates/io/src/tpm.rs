//! Ways to a TPM: the kernel's device file, the sockets of an emulator, and an emulator started here.
//!
//! Each is a [`TpmTransport`](gridseal_trust::root::TpmTransport): whole command out, whole response in. All calls block
//! the caller; on a meter that is fine, on a server's thread pool it is not.

mod device_file;
mod socket;
mod swtpm;

pub use device_file::DeviceFile;
pub use socket::TpmSocket;
pub use swtpm::{Swtpm, swtpm_available};

use std::{
    io::{Read, Write},
    time::Duration,
};

use gridseal_trust::root::RootError;

/// Size of a response header: tag, size, code.
const HEADER_SIZE: usize = 10;
/// Largest response that is read; the TPM library's limit is 4,096 bytes.
const RESPONSE_SIZE_MAX: usize = 4096;
/// A TPM may take seconds to make a key; after this long it is taken for dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends one command over a stream and reads one response, whose header tells its size.
fn exchange<S>(stream: &mut S, command: &[u8]) -> Result<Vec<u8>, RootError>
where
    S: Read + Write,
{
    stream.write_all(command).map_err(|_| RootError::Transport)?;
    let mut response = vec![0; HEADER_SIZE];
    stream.read_exact(&mut response).map_err(|_| RootError::Transport)?;
    let size = response.get(2..6).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    let size = size.and_then(|size| usize::try_from(size).ok()).ok_or(RootError::Malformed)?;
    if !(HEADER_SIZE..=RESPONSE_SIZE_MAX).contains(&size) {
        return Err(RootError::Malformed);
    }
    response.resize(size, 0);
    let body = response.get_mut(HEADER_SIZE..).ok_or(RootError::Malformed)?;
    stream.read_exact(body).map_err(|_| RootError::Transport)?;
    Ok(response)
}
