//! A victim's root of trust in an attacker's hands: every byte on its bus is seen, its power is cut at will, and commands
//! go to it that no firmware would send.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use gridseal_io::{rng::OsRng, tpm::Swtpm};
use gridseal_trust::root::{
    Assurance, Description, DeviceRoot, RootError, RootReply, RootRequest, TpmTransport,
    software::SoftwareRoot, tpm2::Tpm2Root,
};
use gridseal_types::Digest;

use crate::{
    config::{self, Firmware, Root},
    files::{Zone, read},
};

/// The bus of a discrete TPM with a probe on it.
pub(super) struct Probe {
    swtpm: Swtpm,
    /// Every command and response, in order.
    seen: Vec<Vec<u8>>,
}

impl TpmTransport for Probe {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, RootError> {
        self.seen.push(command.to_vec());
        let response = self.swtpm.transmit(command)?;
        self.seen.push(response.clone());
        Ok(response)
    }
}

/// A root of trust.
pub(super) enum Chip {
    /// A TPM with a probe.
    Tpm(Box<Tpm2Root<Probe>>),
    /// The software stand-in, from its file: what is changed here is not written back.
    Software(Box<SoftwareRoot>),
}

impl Chip {
    /// Gives power to the root of the device in a directory.
    pub(super) fn power_on(dir: &Path) -> Result<Self> {
        let (firmware, _): (Firmware, _) = config::load(&dir.join("firmware.toml"))?;
        match firmware.root {
            Root::Emulator { dir: state, .. } => {
                let probe = Probe { swtpm: Swtpm::start(&dir.join(state))?, seen: Vec::new() };
                let mut root = Tpm2Root::new(probe, Box::new(OsRng));
                root.boot().context("the TPM does not start")?;
                Ok(Self::Tpm(Box::new(root)))
            }
            Root::Software { state } => {
                let zone = Zone::open(dir)?;
                let root = SoftwareRoot::restore(Box::new(OsRng), zone.dek(), &read(&dir.join(state))?);
                Ok(Self::Software(Box::new(root.map_err(|error| anyhow!("software root: {error}"))?)))
            }
            Root::Device { .. } => Err(anyhow!("a device's TPM is no victim of a demo")),
        }
    }

    /// Cuts the power without notice, and gives it again.
    pub(super) fn power_cycle(&mut self) -> Result<()> {
        match self {
            Self::Tpm(root) => {
                let probe = root.transport_mut();
                probe.swtpm.power_cut();
                probe.swtpm.power_on()?;
                root.boot().context("the TPM does not start again")
            }
            Self::Software(root) => {
                root.power_cut();
                Ok(())
            }
        }
    }

    /// Sends a command as it is; `None` where there is no TPM.
    pub(super) fn raw(&mut self, command: &[u8]) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Tpm(root) => Ok(Some(root.transport_mut().transmit(command)?)),
            Self::Software(_) => Ok(None),
        }
    }

    /// Everything that was on the bus; nothing where there is none.
    pub(super) fn bus(&mut self) -> Vec<Vec<u8>> {
        match self {
            Self::Tpm(root) => root.transport_mut().seen.clone(),
            Self::Software(_) => Vec::new(),
        }
    }

    /// What the root says of itself.
    pub(super) fn description(&mut self) -> Result<Description> {
        match self.perform(RootRequest::Describe)? {
            RootReply::Described(description) => Ok(description),
            _ => Err(anyhow!("the root does not describe itself")),
        }
    }

    /// Boots other software: measures it into PCR 11.
    pub(super) fn measure(&mut self, what: [u8; 32]) -> Result<()> {
        match self {
            Self::Software(root) => Ok(root.extend_pcr(11, &Digest(what))?),
            Self::Tpm(_) => {
                let mut parameters = vec![0, 0, 0, 1, 0, 0x0b];
                parameters.extend_from_slice(&what);
                let response = self.raw(&with_empty_password(0x182, 11, &parameters))?;
                if response.as_deref().and_then(response_code) == Some(0) {
                    Ok(())
                } else {
                    Err(anyhow!("the TPM does not extend a PCR"))
                }
            }
        }
    }

    /// Failed authorisations that the TPM counts: LOCKOUT_COUNTER. `None` where there is no TPM.
    pub(super) fn lockout_counter(&mut self) -> Result<Option<u32>> {
        // GetCapability(TPM_PROPERTIES, TPM_PT_LOCKOUT_COUNTER, 1).
        let command = hex::decode("8001000000160000017a000000060000020e00000001")?;
        let Some(response) = self.raw(&command)? else { return Ok(None) };
        let value = response.get(23..27).and_then(|bytes| bytes.try_into().ok());
        Ok(Some(u32::from_be_bytes(value.context("no capability")?)))
    }
}

impl DeviceRoot for Chip {
    fn assurance(&self) -> Assurance {
        match self {
            Self::Tpm(root) => root.assurance(),
            Self::Software(root) => root.assurance(),
        }
    }

    fn perform(&mut self, request: RootRequest) -> Result<RootReply, RootError> {
        match self {
            Self::Tpm(root) => root.perform(request),
            Self::Software(root) => root.perform(request),
        }
    }
}

/// A TPM command on one handle, authorised with an empty password.
pub(super) fn with_empty_password(code: u32, handle: u32, parameters: &[u8]) -> Vec<u8> {
    let mut command = vec![0x80, 0x02];
    let size = u32::try_from(27usize.saturating_add(parameters.len())).unwrap_or(u32::MAX);
    command.extend_from_slice(&size.to_be_bytes());
    command.extend_from_slice(&code.to_be_bytes());
    command.extend_from_slice(&handle.to_be_bytes());
    command.extend_from_slice(&[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
    command.extend_from_slice(parameters);
    command
}

/// The response code of a TPM response.
pub(super) fn response_code(response: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(response.get(6..10)?.try_into().ok()?))
}
