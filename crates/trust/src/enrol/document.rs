//! Signed documents: manifest, voucher header and entry, delegation, redirect, policy, release.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::PublicKey;
use gridseal_types::{Code, DeviceType, Digest, EkName, Epoch, OrderSeq, SystemTitle, UtcTime};

use super::{
    cose::{Sign1, SignedType, key_id, read_key, write_key},
    voucher::VoucherKey,
    wire::{Read, Reader, encode},
};
use crate::endorsement::{CERTIFICATE_SIZE_MAX, CHAIN_MAX};

/// Most addresses in a redirect or a terminus.
pub const URLS_MAX: usize = 8;
/// Most public-key pins in a redirect or a terminus.
pub const PINS_MAX: usize = 4;

pub(super) fn read_url(r: &mut Reader<'_>) -> Read<String> {
    r.text(8..=256).map(String::from)
}

pub(super) fn read_name(r: &mut Reader<'_>) -> Read<EkName> {
    r.fixed().map(EkName)
}

pub(super) fn read_digest(r: &mut Reader<'_>) -> Read<Digest> {
    r.fixed().map(Digest)
}

/// Certificates of an endorsement key, leaf first.
pub(super) fn read_chain(r: &mut Reader<'_>) -> Read<Vec<Vec<u8>>> {
    r.list(1..=CHAIN_MAX, |r| Ok(r.bytes(16..=CERTIFICATE_SIZE_MAX)?.to_vec()))
}

/// What the manufacturer says of one device (payload ManifestP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Serial number, 1..=20 characters.
    pub serial: String,
    /// Model, 1..=20 characters.
    pub model: String,
    /// Name of the endorsement key.
    pub ek_name: EkName,
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_pub: Vec<u8>,
    /// Certificate of the endorsement key and those of issuers, DER, leaf first; may be empty.
    pub ek_chain: Vec<Vec<u8>>,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo.
    pub spki: Digest,
    /// Commitment to N_1.
    pub n_commit: Digest,
    /// Manufacturer.
    pub vendor: String,
    /// When it was made.
    pub made: UtcTime,
    /// DLMS system title, an extension of ours (member -2, see ADR 4).
    pub system_title: Option<SystemTitle>,
    /// Whether the root of trust is a software stand-in, an extension of ours (member -3, see ADR 4).
    pub software_root: bool,
    /// What it is, an extension of ours (member -4, see ADR 4); a meter when it is left out.
    pub device_type: DeviceType,
    /// Name of the identity key of its TPM, an extension of ours (member -5, see ADR 26): a receipt that this key signed is
    /// then proof for anybody who believes the manufacturer.
    pub identity: Option<EkName>,
}

impl Manifest {
    /// Opens a signed manifest (encoded COSE_Sign1) of one of these manufacturers.
    ///
    /// # Errors
    /// [`Code::Voucher`] when none of them signed it, [`Code::Format`] for its form.
    pub fn open(signed: &[u8], voucher_keys: &[VoucherKey]) -> Result<Self, Code> {
        let signed = Sign1::decode(signed)?;
        let vendor = voucher_keys.iter().find(|trusted| key_id(&trusted.key) == signed.key_id);
        let vendor = vendor.ok_or(Code::Voucher)?;
        if !signed.verify(SignedType::Manifest, &vendor.key) {
            return Err(Code::Voucher);
        }
        Ok(Self::decode(signed.payload)?)
    }

    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            let is_other = self.device_type != DeviceType::Meter;
            let extensions = [
                self.system_title.is_some(),
                self.software_root,
                is_other,
                !self.ek_chain.is_empty(),
                self.identity.is_some(),
            ];
            w.map(8 + extensions.into_iter().filter(|is_there| *is_there).count());
            w.key(1).text(&self.serial).key(2).text(&self.model);
            w.key(3).bytes(self.ek_name.as_bytes()).key(4).bytes(&self.ek_pub);
            if !self.ek_chain.is_empty() {
                w.key(5).list(&self.ek_chain, |w, der| {
                    w.bytes(der);
                });
            }
            w.key(6).bytes(self.spki.as_bytes()).key(7).bytes(self.n_commit.as_bytes());
            w.key(8).text(&self.vendor).key(9).uint(self.made.0);
            if let Some(title) = self.system_title {
                w.key(-2).bytes(title.as_bytes());
            }
            if self.software_root {
                w.key(-3).boolean(true);
            }
            if is_other {
                w.key(-4).uint(self.device_type.number());
            }
            if let Some(identity) = self.identity {
                w.key(-5).bytes(identity.as_bytes());
            }
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut serial, mut model, mut ek_name, mut ek_pub, mut spki) = (None, None, None, None, None);
        let (mut n_commit, mut vendor, mut made, mut system_title) = (None, None, None, None);
        let (mut software_root, mut device_type) = (false, DeviceType::Meter);
        let (mut ek_chain, mut identity) = (Vec::new(), None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => serial = Some(r.text(1..=20)?.into()),
                    2 => model = Some(r.text(1..=20)?.into()),
                    3 => ek_name = Some(read_name(r)?),
                    4 => ek_pub = Some(r.bytes(10..=600)?.to_vec()),
                    5 => ek_chain = read_chain(r)?,
                    6 => spki = Some(read_digest(r)?),
                    7 => n_commit = Some(read_digest(r)?),
                    8 => vendor = Some(r.text(1..=64)?.into()),
                    9 => made = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    -2 => system_title = Some(SystemTitle(r.fixed()?)),
                    -3 => software_root = r.boolean()?,
                    -4 => {
                        let number = r.uint(0..=u64::MAX)?;
                        let known =
                            DeviceType::ALL.into_iter().find(|kind| u64::from(kind.number()) == number);
                        device_type = r.required(known)?;
                    }
                    -5 => identity = Some(read_name(r)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                serial: r.required(serial)?,
                model: r.required(model)?,
                ek_name: r.required(ek_name)?,
                ek_pub: r.required(ek_pub)?,
                ek_chain,
                spki: r.required(spki)?,
                n_commit: r.required(n_commit)?,
                vendor: r.required(vendor)?,
                made: r.required(made)?,
                system_title,
                software_root,
                device_type,
                identity,
            })
        })
    }
}

/// First element of a voucher (payload HeaderP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Device.
    pub ek_name: EkName,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Commitment to N_1.
    pub n_commit: Digest,
    /// Hash of the signer's second, post-quantum key, when it names one.
    pub second_key: Option<Digest>,
}

impl Header {
    /// Whether manifest and voucher are of one device.
    #[must_use]
    pub fn agrees(&self, manifest: &Manifest) -> bool {
        self.ek_name == manifest.ek_name
            && self.n_commit == manifest.n_commit
            && self.serial == manifest.serial
            && self.model == manifest.model
    }

    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(5 + usize::from(self.second_key.is_some())).key(1).uint(1u8);
            w.key(2).bytes(self.ek_name.as_bytes()).key(3).text(&self.model);
            w.key(4).text(&self.serial).key(5).bytes(self.n_commit.as_bytes());
            if let Some(second) = self.second_key {
                w.key(-1).bytes(second.as_bytes());
            }
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut version, mut ek_name, mut model, mut serial, mut n_commit) = (None, None, None, None, None);
        let mut second_key = None;
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => version = Some(r.constant(1)?),
                    2 => ek_name = Some(read_name(r)?),
                    3 => model = Some(r.text(1..=20)?.into()),
                    4 => serial = Some(r.text(1..=20)?.into()),
                    5 => n_commit = Some(read_digest(r)?),
                    -1 => second_key = Some(read_digest(r)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            r.required(version)?;
            Ok(Self {
                ek_name: r.required(ek_name)?,
                model: r.required(model)?,
                serial: r.required(serial)?,
                n_commit: r.required(n_commit)?,
                second_key,
            })
        })
    }
}

/// What a voucher entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// To a new owner, epoch + 1, signed by the owner before.
    Transfer,
    /// To a new owner, epoch + 1, signed by a recovery key.
    Recovery,
    /// Same owner, same epoch, new key.
    Rekey,
}

impl EntryKind {
    const fn number(self) -> u8 {
        match self {
            Self::Transfer => 0,
            Self::Recovery => 1,
            Self::Rekey => 2,
        }
    }
}

/// One entry of a voucher (payload EntryP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place in the chain, 1..=32 without gaps.
    pub index: u32,
    /// Epoch from this entry on.
    pub epoch: Epoch,
    /// What it does.
    pub kind: EntryKind,
    /// Hash of the element before.
    pub previous: Digest,
    /// Owner key.
    pub owner: PublicKey,
    /// Owner's encryption key.
    pub encryption: PublicKey,
    /// When it was issued.
    pub issued: UtcTime,
    /// Hash of the signer's second, post-quantum key, when it names one.
    pub second_key: Option<Digest>,
    /// Hash of the owner's second key: the next entry must name it. An extension of ours (member -2, see ADR 20).
    pub owner_second: Option<Digest>,
}

impl Entry {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(7 + usize::from(self.second_key.is_some()) + usize::from(self.owner_second.is_some()));
            w.key(1).uint(self.index);
            w.key(2).uint(self.epoch).key(3).uint(self.kind.number());
            w.key(4).bytes(self.previous.as_bytes());
            write_key(w.key(5), &self.owner);
            write_key(w.key(6), &self.encryption);
            w.key(7).uint(self.issued.0);
            if let Some(second) = self.second_key {
                w.key(-1).bytes(second.as_bytes());
            }
            if let Some(second) = self.owner_second {
                w.key(-2).bytes(second.as_bytes());
            }
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut index, mut epoch, mut kind, mut previous) = (None, None, None, None);
        let (mut owner, mut encryption, mut issued) = (None, None, None);
        let (mut second_key, mut owner_second) = (None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => index = u32::try_from(r.uint(1..=32)?).ok(),
                    2 => epoch = Some(r.uint32()?),
                    3 => {
                        kind = Some(match r.uint(0..=2)? {
                            0 => EntryKind::Transfer,
                            1 => EntryKind::Recovery,
                            _ => EntryKind::Rekey,
                        });
                    }
                    4 => previous = Some(read_digest(r)?),
                    5 => owner = Some(read_key(r)?),
                    6 => encryption = Some(read_key(r)?),
                    7 => issued = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    -1 => second_key = Some(read_digest(r)?),
                    -2 => owner_second = Some(read_digest(r)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                index: r.required(index)?,
                epoch: r.required(epoch)?,
                kind: r.required(kind)?,
                previous: r.required(previous)?,
                owner: r.required(owner)?,
                encryption: r.required(encryption)?,
                issued: r.required(issued)?,
                second_key,
                owner_second,
            })
        })
    }
}

/// What a delegated key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Speak to meters: C2, C4, C6, C8 and orders.
    Config,
    /// Sign redirects.
    Redirect,
}

impl Use {
    const fn bit(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::Redirect => 2,
        }
    }
}

/// The owner key names an online key (payload DelegationP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Key id of the owner key, which signs.
    pub owner_key: Digest,
    /// Bit 0: config, bit 1: redirect.
    pub uses: u8,
    /// Delegated key.
    pub key: PublicKey,
    /// Generation, which the meter never lets fall.
    pub generation: u32,
    /// Not to be used before.
    pub not_before: UtcTime,
    /// Not to be used after.
    pub not_after: UtcTime,
}

impl Delegation {
    /// Whether it covers a use.
    #[must_use]
    pub const fn allows(&self, wanted: Use) -> bool {
        self.uses & wanted.bit() != 0
    }

    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(6).key(1).bytes(self.owner_key.as_bytes()).key(2).uint(self.uses);
            write_key(w.key(3), &self.key);
            w.key(4).uint(self.generation).key(5).uint(self.not_before.0).key(6).uint(self.not_after.0);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut owner_key, mut uses, mut delegated, mut generation) = (None, None, None, None);
        let (mut not_before, mut not_after) = (None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => owner_key = Some(read_digest(r)?),
                    2 => uses = u8::try_from(r.uint(1..=3)?).ok(),
                    3 => delegated = Some(read_key(r)?),
                    4 => generation = Some(r.uint32()?),
                    5 => not_before = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    6 => not_after = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                owner_key: r.required(owner_key)?,
                uses: r.required(uses)?,
                key: r.required(delegated)?,
                generation: r.required(generation)?,
                not_before: r.required(not_before)?,
                not_after: r.required(not_after)?,
            })
        })
    }
}

/// Where a device finds its owner's config server (payload RedirectP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Device.
    pub ek_name: EkName,
    /// Epoch of the voucher's last entry.
    pub epoch: Epoch,
    /// Config servers in order of preference, 1..=8.
    pub urls: Vec<String>,
    /// SHA-256 of their SubjectPublicKeyInfo, 1..=4.
    pub pins: Vec<Digest>,
    /// Not to be used before.
    pub not_before: UtcTime,
    /// Not to be used after.
    pub expires: UtcTime,
    /// Rises with each redirect of this device.
    pub seq: OrderSeq,
}

impl Redirect {
    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(7).key(1).bytes(self.ek_name.as_bytes()).key(2).uint(self.epoch);
            w.key(3).list(&self.urls, |w, url| {
                w.text(url);
            });
            w.key(4).list(&self.pins, |w, pin| {
                w.bytes(pin.as_bytes());
            });
            w.key(5).uint(self.not_before.0).key(6).uint(self.expires.0).key(7).uint(self.seq);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut ek_name, mut epoch, mut urls, mut pins) = (None, None, None, None);
        let (mut not_before, mut expires, mut seq) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => ek_name = Some(read_name(r)?),
                    2 => epoch = Some(r.uint32()?),
                    3 => urls = Some(r.list(1..=URLS_MAX, read_url)?),
                    4 => pins = Some(r.list(1..=PINS_MAX, read_digest)?),
                    5 => not_before = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    6 => expires = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    7 => seq = Some(r.uint(1..=0x7fff_ffff_ffff_ffff)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                ek_name: r.required(ek_name)?,
                epoch: r.required(epoch)?,
                urls: r.required(urls)?,
                pins: r.required(pins)?,
                not_before: r.required(not_before)?,
                expires: r.required(expires)?,
                seq: r.required(seq)?,
            })
        })
    }
}

/// What becomes of a device that shows a known release which is not current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfDate {
    /// It is provisioned, and an update is due.
    Grace,
    /// It is refused.
    Fail,
}

impl OutOfDate {
    const fn number(self) -> u8 {
        match self {
            Self::Grace => 0,
            Self::Fail => 1,
        }
    }
}

/// Most keys of signed files in one policy.
const IMA_KEYS_MAX: usize = 8;
/// Most rules for files in one policy.
const PATHS_MAX: usize = 1_024;

/// Which software a device may show, one document per release (payload PolicyP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Model.
    pub model: String,
    /// Release.
    pub release: String,
    /// PCR and its allowed values, ascending.
    pub pcrs: Vec<(u8, Vec<Digest>)>,
    /// SHA-256 of the SubjectPublicKeyInfo of each key whose signature of a file counts.
    pub ima_keys: Vec<Digest>,
    /// Path of a file and its SHA-256, ascending; a path may have several.
    pub ima_paths: Vec<(String, Digest)>,
    /// Version: the highest of a model is the current release.
    pub version: u64,
    /// What this policy means once it is not current.
    pub out_of_date: OutOfDate,
    /// Whether event log and IMA log may be empty.
    pub logs_may_be_empty: bool,
    /// When it was issued.
    pub issued: UtcTime,
}

fn read_paths(r: &mut Reader<'_>) -> Read<Vec<(String, Digest)>> {
    let paths = r.list(0..=PATHS_MAX, |r| {
        r.array(2..=2, |r, _| Ok((String::from(r.text(1..=1_024)?), read_digest(r)?)))
    })?;
    // Ascending, so that a look-up is a bisection and one set of rules has one form.
    let is_ascending = paths.iter().zip(paths.iter().skip(1)).all(|(before, after)| before < after);
    if is_ascending { Ok(paths) } else { r.fail("rules for files not ascending") }
}

impl Policy {
    /// Whether a rule names this file with this digest.
    #[must_use]
    pub fn allows_file(&self, path: &[u8], algorithm: &[u8], digest: &[u8]) -> bool {
        let (Ok(path), Some(digest)) = (core::str::from_utf8(path), Digest::from_slice(digest)) else {
            return false;
        };
        algorithm == b"sha256"
            && self
                .ima_paths
                .binary_search_by(|(known, allowed)| (known.as_str(), allowed).cmp(&(path, &digest)))
                .is_ok()
    }

    /// Encoded payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(9).key(1).text(&self.model).key(2).text(&self.release);
            w.key(3).list(&self.pcrs, |w, (pcr, values)| {
                w.array(2).uint(*pcr).list(values, |w, value| {
                    w.bytes(value.as_bytes());
                });
            });
            w.key(4).list(&self.ima_keys, |w, id| {
                w.bytes(id.as_bytes());
            });
            w.key(5).list(&self.ima_paths, |w, (path, digest)| {
                w.array(2).text(path).bytes(digest.as_bytes());
            });
            w.key(6).uint(self.version).key(7).uint(self.out_of_date.number());
            w.key(8).boolean(self.logs_may_be_empty).key(9).uint(self.issued.0);
        })
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut model, mut release, mut pcrs, mut version) = (None, None, None, None);
        let (mut ima_keys, mut ima_paths) = (None, None);
        let (mut out_of_date, mut logs_may_be_empty, mut issued) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => model = Some(r.text(1..=20)?.into()),
                    2 => release = Some(r.text(1..=64)?.into()),
                    3 => {
                        pcrs = Some(r.list(0..=24, |r| {
                            r.array(2..=2, |r, _| {
                                let pcr = u8::try_from(r.uint(0..=23)?).unwrap_or(u8::MAX);
                                Ok((pcr, r.list(1..=64, read_digest)?))
                            })
                        })?);
                    }
                    4 => ima_keys = Some(r.list(0..=IMA_KEYS_MAX, read_digest)?),
                    5 => ima_paths = Some(read_paths(r)?),
                    6 => version = Some(r.uint(0..=u64::MAX)?),
                    7 => {
                        out_of_date =
                            Some(if r.uint(0..=1)? == 0 { OutOfDate::Grace } else { OutOfDate::Fail });
                    }
                    8 => logs_may_be_empty = Some(r.boolean()?),
                    9 => issued = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                model: r.required(model)?,
                release: r.required(release)?,
                pcrs: r.required(pcrs)?,
                ima_keys: r.required(ima_keys)?,
                ima_paths: r.required(ima_paths)?,
                version: r.required(version)?,
                out_of_date: r.required(out_of_date)?,
                logs_may_be_empty: r.required(logs_may_be_empty)?,
                issued: r.required(issued)?,
            })
        })
    }
}
