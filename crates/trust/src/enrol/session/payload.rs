//! Payloads that K_config signs: C2, C4, C6, C8.

use alloc::{string::String, vec::Vec};

use gridseal_types::{Digest, EkName, Epoch, N16, Nonce, UtcTime};

use super::{
    super::{
        cose::SignedType,
        document::{PINS_MAX, URLS_MAX, read_digest, read_name, read_url},
        wire::{Read, Reader, Writer, encode},
    },
    body::{read_commands, write_commands},
};
use crate::root::OwnerPin;

pub(in crate::enrol) fn read_tpm2b(r: &mut Reader<'_>) -> Read<Vec<u8>> {
    Ok(r.bytes(2..=1026)?.to_vec())
}

/// Body of C2: signed payload, grant, delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeBody {
    /// Encoded COSE_Sign1 of the payload.
    pub signed: Vec<u8>,
    /// Proof that the owner holds N_e.
    pub grant: Digest,
    /// Encoded COSE_Sign1 of the delegation.
    pub delegation: Vec<u8>,
}

impl ChallengeBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(3).bytes(&self.signed).bytes(self.grant.as_bytes()).bytes(&self.delegation);
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(3..=3, |r, _| {
                Ok(Self {
                    signed: r.bytes(1..=65_536)?.to_vec(),
                    grant: read_digest(r)?,
                    delegation: r.bytes(1..=1_024)?.to_vec(),
                })
            })
        })
    }
}

/// C2: what the device must prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengePayload {
    /// Transcript after C1.
    pub th1: Digest,
    /// Device.
    pub ek_name: EkName,
    /// Epoch.
    pub epoch: Epoch,
    /// Suites as the device listed them.
    pub suites: Vec<u16>,
    /// Chosen suite: the first.
    pub suite: u16,
    /// TPM2B_ID_OBJECT with its size word.
    pub credential: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET with its size word.
    pub secret: Vec<u8>,
    /// encryptedSalt of the owner and the lockout session.
    pub salts: [Vec<u8>; 2],
    /// nonceCaller of the owner and the lockout session.
    pub nonce_callers: [N16; 2],
    /// TPML_PCR_SELECTION.
    pub pcr_selection: Vec<u8>,
    /// First IMA entry wanted.
    pub ima_next: u64,
    /// Hash of the voucher's last element.
    pub voucher_head: Digest,
    /// M of C1.
    pub m: Nonce,
    /// M_em of this message.
    pub m_em: Nonce,
}

impl ChallengePayload {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(14).key(1).bytes(self.th1.as_bytes()).key(2).bytes(self.ek_name.as_bytes());
            w.key(3).uint(self.epoch).key(4).list(&self.suites, |w, suite| {
                w.uint(*suite);
            });
            w.key(5).uint(self.suite).key(6).bytes(&self.credential).key(7).bytes(&self.secret);
            w.key(8).list(&self.salts, |w, salt| {
                w.bytes(salt);
            });
            w.key(9).list(&self.nonce_callers, |w, nonce| {
                w.bytes(nonce.as_bytes());
            });
            w.key(10).bytes(&self.pcr_selection).key(11).uint(self.ima_next);
            w.key(12).bytes(self.voucher_head.as_bytes());
            w.key(13).bytes(self.m.as_bytes()).key(14).bytes(self.m_em.as_bytes());
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut th1, mut ek_name, mut epoch, mut suites, mut suite) = (None, None, None, None, None);
        let (mut credential, mut secret, mut salts, mut nonce_callers) = (None, None, None, None);
        let (mut pcr_selection, mut ima_next, mut voucher_head) = (None, None, None);
        let (mut m, mut m_em) = (None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => th1 = Some(read_digest(r)?),
                    2 => ek_name = Some(read_name(r)?),
                    3 => epoch = Some(r.uint32()?),
                    4 => suites = Some(r.list(1..=8, Reader::suite)?),
                    5 => suite = Some(r.suite()?),
                    6 => credential = Some(read_tpm2b(r)?),
                    7 => secret = Some(read_tpm2b(r)?),
                    8 => salts = Some(r.array(2..=2, |r, _| Ok([read_tpm2b(r)?, read_tpm2b(r)?]))?),
                    9 => {
                        let pair = |r: &mut Reader<'_>, _| Ok([N16(r.fixed()?), N16(r.fixed()?)]);
                        nonce_callers = Some(r.array(2..=2, pair)?);
                    }
                    10 => pcr_selection = Some(r.bytes(0..=256)?.to_vec()),
                    11 => ima_next = Some(r.uint(0..=u64::MAX)?),
                    12 => voucher_head = Some(read_digest(r)?),
                    13 => m = Some(Nonce(r.fixed()?)),
                    14 => m_em = Some(Nonce(r.fixed()?)),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                th1: r.required(th1)?,
                ek_name: r.required(ek_name)?,
                epoch: r.required(epoch)?,
                suites: r.required(suites)?,
                suite: r.required(suite)?,
                credential: r.required(credential)?,
                secret: r.required(secret)?,
                salts: r.required(salts)?,
                nonce_callers: r.required(nonce_callers)?,
                pcr_selection: r.required(pcr_selection)?,
                ima_next: r.required(ima_next)?,
                voucher_head: r.required(voucher_head)?,
                m: r.required(m)?,
                m_em: r.required(m_em)?,
            })
        })
    }
}

/// C4: commands that take the TPM into ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPayload {
    /// Transcript after C3.
    pub th3: Digest,
    /// Whole TPM commands, owner before lockout.
    pub commands: Vec<Vec<u8>>,
}

impl OwnPayload {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(2).key(1).bytes(self.th3.as_bytes()).key(2);
            write_commands(w, &self.commands);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut th3, mut commands) = (None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => th3 = Some(read_digest(r)?),
                    2 => commands = Some(read_commands(r, 0)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self { th3: r.required(th3)?, commands: r.required(commands)? })
        })
    }
}

/// A secret delivered to the device's storage key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredObject {
    /// What it is for: 1 GUEK, 2 GAK, 3 KEK.
    pub id: u8,
    /// TPMT_PUBLIC of the sealed object.
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE.
    pub duplicate: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET.
    pub in_sym_seed: Vec<u8>,
}

impl DeliveredObject {
    /// DLMS global unicast encryption key.
    pub const GUEK: u8 = 1;
    /// DLMS authentication key.
    pub const GAK: u8 = 2;
    /// DLMS master key.
    pub const KEK: u8 = 3;

    fn decode(r: &mut Reader<'_>) -> Read<Self> {
        let (mut id, mut public, mut duplicate, mut in_sym_seed) = (None, None, None, None);
        r.map(|r, key| {
            match key {
                1 => id = u8::try_from(r.uint(1..=255)?).ok(),
                2 => public = Some(r.bytes(10..=600)?.to_vec()),
                3 => duplicate = Some(read_tpm2b(r)?),
                4 => in_sym_seed = Some(read_tpm2b(r)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            id: r.required(id)?,
            public: r.required(public)?,
            duplicate: r.required(duplicate)?,
            in_sym_seed: r.required(in_sym_seed)?,
        })
    }
}

/// What a device needs to work for its owner: members 2 to 10 of C6 and of a provision order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// LDevID chain, leaf first, DER.
    pub ldevid_chain: Vec<Vec<u8>>,
    /// Certificates against which the terminus is checked, DER.
    pub ca_bundle: Vec<Vec<u8>>,
    /// Terminus addresses in order of preference.
    pub terminus_urls: Vec<String>,
    /// Public-key pins of the terminus, empty when the chain alone counts.
    pub terminus_pins: Vec<Digest>,
    /// Delivered secrets.
    pub objects: Vec<DeliveredObject>,
    /// Version, above the last accepted one.
    pub policy_version: u64,
    /// [`config_digest`] of the last accepted configuration, zero at first.
    pub previous: Digest,
    /// Epoch.
    pub epoch: Epoch,
    /// Pin that the device must have.
    pub pin: OwnerPin,
    /// For the floor clock.
    pub now: UtcTime,
}

/// What the next configuration names as its previous: hash over the whole signed payload that brought this one, be it the
/// payload of C6 or of a provision order.
#[must_use]
pub fn config_digest(payload: &[u8]) -> Digest {
    SignedType::C6.hash(payload)
}

/// C6: the configuration, within a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Transcript after C5.
    pub th5: Digest,
    /// The configuration.
    pub config: Config,
}

fn read_certificates(r: &mut Reader<'_>, most: usize) -> Read<Vec<Vec<u8>>> {
    r.list(1..=most, |r| Ok(r.bytes(16..=4096)?.to_vec()))
}

fn read_terminus(r: &mut Reader<'_>) -> Read<(Vec<String>, Vec<Digest>)> {
    let (mut urls, mut pins) = (None, None);
    r.map(|r, key| {
        match key {
            1 => urls = Some(r.list(1..=URLS_MAX, read_url)?),
            2 => pins = Some(r.list(0..=PINS_MAX, read_digest)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((r.required(urls)?, r.required(pins)?))
}

pub(in crate::enrol) fn read_pin(r: &mut Reader<'_>) -> Read<OwnerPin> {
    r.array(3..=3, |r, _| {
        let index = u32::try_from(r.uint(1..=32)?).unwrap_or(u32::MAX);
        Ok(OwnerPin { index, generation: r.uint32()?, entry: read_digest(r)? })
    })
}

pub(in crate::enrol) fn write_pin(w: &mut Writer, pin: &OwnerPin) {
    w.array(3).uint(pin.index).uint(pin.generation).bytes(pin.entry.as_bytes());
}

impl Config {
    /// Members 2 to 10 of a map.
    pub(in crate::enrol) const MEMBERS: usize = 9;

    pub(in crate::enrol) fn write(&self, w: &mut Writer) {
        w.key(2).list(&self.ldevid_chain, |w, der| {
            w.bytes(der);
        });
        w.key(3).list(&self.ca_bundle, |w, der| {
            w.bytes(der);
        });
        w.key(4).map(2).key(1).list(&self.terminus_urls, |w, url| {
            w.text(url);
        });
        w.key(2).list(&self.terminus_pins, |w, pin| {
            w.bytes(pin.as_bytes());
        });
        w.key(5).list(&self.objects, |w, object| {
            w.map(4).key(1).uint(object.id).key(2).bytes(&object.public);
            w.key(3).bytes(&object.duplicate).key(4).bytes(&object.in_sym_seed);
        });
        w.key(6).uint(self.policy_version).key(7).bytes(self.previous.as_bytes());
        write_pin(w.key(8).uint(self.epoch).key(9), &self.pin);
        w.key(10).uint(self.now.0);
    }
}

/// The members of a [`Config`] while a map is read.
#[derive(Default)]
pub(in crate::enrol) struct ConfigMembers {
    ldevid_chain: Option<Vec<Vec<u8>>>,
    ca_bundle: Option<Vec<Vec<u8>>>,
    terminus: Option<(Vec<String>, Vec<Digest>)>,
    objects: Option<Vec<DeliveredObject>>,
    policy_version: Option<u64>,
    previous: Option<Digest>,
    epoch: Option<Epoch>,
    pin: Option<OwnerPin>,
    now: Option<UtcTime>,
}

impl ConfigMembers {
    pub(in crate::enrol) fn take(&mut self, r: &mut Reader<'_>, key: i64) -> Read<bool> {
        match key {
            2 => self.ldevid_chain = Some(read_certificates(r, 4)?),
            3 => self.ca_bundle = Some(read_certificates(r, 8)?),
            4 => self.terminus = Some(read_terminus(r)?),
            5 => self.objects = Some(r.list(0..=16, DeliveredObject::decode)?),
            6 => self.policy_version = Some(r.uint(0..=u64::MAX)?),
            7 => self.previous = Some(read_digest(r)?),
            8 => self.epoch = Some(r.uint32()?),
            9 => self.pin = Some(read_pin(r)?),
            10 => self.now = Some(UtcTime(r.uint(0..=u64::MAX)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(in crate::enrol) fn finish(self, r: &Reader<'_>) -> Read<Config> {
        let (terminus_urls, terminus_pins) = r.required(self.terminus)?;
        Ok(Config {
            ldevid_chain: r.required(self.ldevid_chain)?,
            ca_bundle: r.required(self.ca_bundle)?,
            terminus_urls,
            terminus_pins,
            objects: r.required(self.objects)?,
            policy_version: r.required(self.policy_version)?,
            previous: r.required(self.previous)?,
            epoch: r.required(self.epoch)?,
            pin: r.required(self.pin)?,
            now: r.required(self.now)?,
        })
    }
}

impl Configuration {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(1 + Config::MEMBERS).key(1).bytes(self.th5.as_bytes());
            self.config.write(w);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut th5, mut config) = (None, ConfigMembers::default());
        Reader::whole(bytes, |r| {
            r.map(|r, key| match key {
                1 => read_digest(r).map(|digest| th5 = Some(digest)).map(|()| true),
                _ => config.take(r, key),
            })?;
            Ok(Self { th5: r.required(th5)?, config: config.finish(r)? })
        })
    }
}

/// C8: the session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedPayload {
    /// Transcript after C7.
    pub th7: Digest,
    /// For the floor clock.
    pub now: UtcTime,
}

impl FinishedPayload {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(2).key(1).bytes(self.th7.as_bytes()).key(2).uint(self.now.0);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut th7, mut now) = (None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => th7 = Some(read_digest(r)?),
                    2 => now = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self { th7: r.required(th7)?, now: r.required(now)? })
        })
    }
}
