//! A TPM emulator as a child of this process.

use std::{
    fs::File,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use gridseal_trust::root::{RootError, TpmTransport};

use super::{ANSWER_TIMEOUT, exchange};

const PROGRAM: &str = "swtpm";

/// Whether the emulator is installed and can be started.
#[must_use]
pub fn swtpm_available() -> bool {
    Command::new(PROGRAM)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A running swtpm: blank when its state folder is.
///
/// It speaks over an inherited socket: no port is taken, nobody else can connect, and it ends by itself when this process
/// ends in whatever way. Starting is one `fork` and one `exec`; the first command waits in the socket until it is ready.
#[derive(Debug)]
pub struct Swtpm {
    state: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    stream: UnixStream,
}

impl Drop for Running {
    fn drop(&mut self) {
        // By process id of our own child; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Swtpm {
    /// Starts an emulator whose non-volatile state lies in `state`, a folder that exists. Its messages go to
    /// `swtpm.log` in it.
    ///
    /// # Errors
    /// [`std::io::Error`] as given by the system. A missing swtpm shows at the first command only: ask
    /// [`swtpm_available`] before.
    pub fn start(state: &Path) -> std::io::Result<Self> {
        let mut swtpm = Self { state: state.to_path_buf(), running: None };
        swtpm.power_on()?;
        Ok(swtpm)
    }

    /// Cuts the power: the process is killed without any notice.
    pub fn power_cut(&mut self) {
        self.running = None;
    }

    /// Gives power again, with the state that was on disk. No effect while it runs.
    ///
    /// # Errors
    /// As [`Swtpm::start`].
    pub fn power_on(&mut self) -> std::io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let log = File::options().create(true).append(true).open(self.state.join("swtpm.log"))?;
        let child = bound_to(std::process::id(), PROGRAM)
            // Of its two ways to inherit a socket only `--server` takes descriptor 0; it reads any stream there.
            .args(["socket", "--tpm2", "--server", "type=tcp,fd=0"])
            .args(["--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(state_argument(&self.state))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C at the terminal is for us: the emulator loses its power when we say so, or with our last breath.
            .process_group(0)
            .spawn()?;
        self.running = Some(Running { child, stream });
        Ok(())
    }

    /// Process id, `None` while the power is cut.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }
}

/// A program that ends with the thread that starts it here, which belongs to the process `parent`: an emulator whose peer
/// goes with an answer unread takes the broken connection for a listening one and spins for ever. The system ends it; what
/// it cannot end, because the parent was killed before it was asked to, does not begin.
fn bound_to(parent: u32, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "sh", "-c", r#"[ "$PPID" = "$0" ] && exec "$@""#]);
    command.arg(parent.to_string()).arg(program);
    command
}

fn state_argument(state: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("dir=");
    argument.push(state);
    argument
}

impl TpmTransport for Swtpm {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, RootError> {
        exchange(&mut self.running.as_mut().ok_or(RootError::Transport)?.stream, command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_lost_its_parent_does_not_begin() {
        assert!(bound_to(std::process::id(), "true").status().is_ok_and(|status| status.success()));
        assert!(bound_to(u32::MAX, "true").status().is_ok_and(|status| !status.success()));
    }
}
