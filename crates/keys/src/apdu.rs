//! Opening of meters' APDUs: idempotent, with the replay window of each key here and nowhere else (decision D1).

use gridseal_crypto::{
    Key,
    role::{Gak, Guek},
    sha256,
};
use gridseal_dlms::{apdu::ciphered::GeneralGlo, suite::protect::open_general_glo};
use gridseal_types::{
    Code, EkName, SystemTitle,
    records::Records,
    service::keys::{KeyReply, OpenVerdict},
};

use crate::{
    Arrival,
    core::{Stop, Work},
    record::{CHANNELS, ChannelEntry, ChannelState, DeviceEntry, TITLES, channel_key, context, opened},
};

/// Newest versions of a meter's keys that are tried beside the active one.
const CANDIDATES_MAX: u32 = 4;

impl<R: Records> Work<'_, R> {
    pub(crate) fn open_apdu(&mut self, apdu: &[u8]) -> Result<KeyReply, Stop> {
        let ciphered = GeneralGlo::from_bytes(apdu).map_err(|_| Code::Format)?;
        let title = ciphered.system_title.ok_or(Code::Unknown)?;
        let name = self.records.get(TITLES, title.as_bytes())?.ok_or(Code::Unknown)?;
        let name = EkName::from_slice(&name).ok_or(gridseal_types::records::RecordsError::Damaged)?;
        let entry = self.device(&name)?;
        if !self.may_open(&entry) {
            return Err(Code::State.into());
        }
        let oldest = entry.channel_version.saturating_sub(CANDIDATES_MAX).saturating_add(1).max(1);
        // However many were sent and lost since: the one that the meter is known to have is always tried.
        let active = (1..oldest).contains(&entry.active_version).then_some(entry.active_version);
        for version in (oldest..=entry.channel_version).rev().chain(active) {
            let key = channel_key(&name, version);
            let Some(channel) = self.records.load::<ChannelEntry>(CHANNELS, &key)? else { continue };
            if channel.state == ChannelState::Deactivated {
                continue;
            }
            let context = context(&self.core.keystore.tenant, &name, version);
            let guek: Key<Guek, 16> = opened(&self.core.keystore.dek, &context, &channel.guek)?;
            let gak: Key<Gak, 16> = opened(&self.core.keystore.dek, &context, &channel.gak)?;
            if let Ok(plain) = open_general_glo(&guek, &gak, title, &ciphered) {
                let verdict =
                    self.arrived(&entry, version, channel, ciphered.invocation_counter, apdu, title, plain)?;
                return Ok(KeyReply::Apdu(verdict));
            }
        }
        Err(Code::Grant.into())
    }

    /// Rule S13: the state allows it, and the last attestation is fresh.
    fn may_open(&self, entry: &DeviceEntry) -> bool {
        let age_s = self.now.0.saturating_sub(entry.attested_at.0);
        entry.state.may_exchange() && age_s <= self.core.attestation_age_max_s
    }

    #[expect(clippy::too_many_arguments, reason = "one APDU with everything that was found out about it")]
    fn arrived(
        &mut self,
        entry: &DeviceEntry,
        version: u32,
        mut channel: ChannelEntry,
        counter: u32,
        apdu: &[u8],
        system_title: SystemTitle,
        plain: alloc::vec::Vec<u8>,
    ) -> Result<OpenVerdict, Stop> {
        let arrival = channel.window.arrive(counter, apdu);
        if channel.state == ChannelState::Sent {
            // An APDU under the new key, verified here: only this confirms a change (rule S3).
            channel.state = ChannelState::Active;
            self.deactivate_older(entry, version)?;
            let mut entry = entry.clone();
            entry.active_version = version;
            self.save_device(&entry);
            self.audit("channel-keys.confirmed", &entry.device, &version)?;
        }
        if let Arrival::Fresh { .. } = arrival {
            self.records.save(CHANNELS, &channel_key(&entry.device, version), &channel);
            self.opened.push(sha256(&[apdu]));
        }
        Ok(match arrival {
            Arrival::Fresh { late } => OpenVerdict::Fresh { system_title, plain, late },
            Arrival::Duplicate => OpenVerdict::Duplicate { system_title, plain },
            Arrival::Replay => OpenVerdict::Replay,
        })
    }

    fn deactivate_older(&mut self, entry: &DeviceEntry, version: u32) -> Result<(), Stop> {
        for older in 1..version {
            let key = channel_key(&entry.device, older);
            if let Some(mut channel) = self.records.load::<ChannelEntry>(CHANNELS, &key)?
                && channel.state != ChannelState::Deactivated
            {
                channel.state = ChannelState::Deactivated;
                self.records.save(CHANNELS, &key, &channel);
            }
        }
        Ok(())
    }
}
