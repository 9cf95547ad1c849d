//! Bodies of the device's messages: C1, C3, C5, C7.

use alloc::{string::String, vec::Vec};

use gridseal_types::{Digest, EkName, Epoch, N16, service::keys::TpmSession};

use super::super::{
    document::{read_chain, read_digest, read_name},
    installation::read_point,
    wire::{Read, Reader, Writer, encode},
};
use crate::{
    measured::{LOG_SIZE_MAX, Logs},
    root::Attest,
};

/// C1: who the device is and which keys it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloBody {
    /// Suites, best first.
    pub suites: Vec<u16>,
    /// Device.
    pub ek_name: EkName,
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_pub: Vec<u8>,
    /// Its certificate and those of issuers, DER, leaf first; empty where the device has none.
    pub ek_chain: Vec<Vec<u8>>,
    /// Epoch.
    pub epoch: Epoch,
    /// TPMT_PUBLIC of attestation, storage, TLS and identity key.
    pub ak_pub: Vec<u8>,
    /// Storage key.
    pub sto_pub: Vec<u8>,
    /// TLS key.
    pub tls_pub: Vec<u8>,
    /// Identity key.
    pub iak_pub: Vec<u8>,
    /// Hash of the redirect that led here.
    pub redirect: Digest,
    /// Hash of the last element of the voucher that the device saw.
    pub voucher_head: Digest,
    /// Connection point that was read or typed at the device, an extension of ours (member -1, see ADR 21).
    pub place: Option<String>,
    /// Version and hash of the configuration that the device has, an extension of ours (member -2, see ADR 27): an owner who
    /// has lost his register continues from it.
    pub installed: Option<(u64, Digest)>,
}

pub(in crate::enrol) fn read_pub(r: &mut Reader<'_>) -> Read<Vec<u8>> {
    Ok(r.bytes(10..=600)?.to_vec())
}

fn read_cmd(r: &mut Reader<'_>) -> Read<Vec<u8>> {
    Ok(r.bytes(10..=1024)?.to_vec())
}

pub(in crate::enrol) fn write_commands(w: &mut Writer, commands: &[Vec<u8>]) {
    w.list(commands, |w, command| {
        w.bytes(command);
    });
}

/// At least `least` and at most two whole commands or responses.
pub(in crate::enrol) fn read_commands(r: &mut Reader<'_>, least: usize) -> Read<Vec<Vec<u8>>> {
    r.list(least..=2, read_cmd)
}

impl HelloBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            let optional = usize::from(self.place.is_some())
                + usize::from(self.installed.is_some())
                + usize::from(!self.ek_chain.is_empty());
            w.map(10 + optional).key(1).list(&self.suites, |w, suite| {
                w.uint(*suite);
            });
            w.key(2).bytes(self.ek_name.as_bytes()).key(3).bytes(&self.ek_pub);
            if !self.ek_chain.is_empty() {
                w.key(4).list(&self.ek_chain, |w, der| {
                    w.bytes(der);
                });
            }
            w.key(5).uint(self.epoch).key(6).bytes(&self.ak_pub).key(7).bytes(&self.sto_pub);
            w.key(8).bytes(&self.tls_pub).key(9).bytes(&self.iak_pub);
            w.key(10).bytes(self.redirect.as_bytes()).key(11).bytes(self.voucher_head.as_bytes());
            if let Some(place) = &self.place {
                w.key(-1).text(place);
            }
            if let Some((version, digest)) = &self.installed {
                w.key(-2).array(2).uint(*version).bytes(digest.as_bytes());
            }
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut suites, mut ek_name, mut ek_pub, mut epoch) = (None, None, None, None);
        let (mut ak_pub, mut sto_pub, mut tls_pub, mut iak_pub) = (None, None, None, None);
        let (mut redirect, mut voucher_head, mut place) = (None, None, None);
        let (mut ek_chain, mut installed) = (Vec::new(), None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => suites = Some(r.list(1..=8, Reader::suite)?),
                    2 => ek_name = Some(read_name(r)?),
                    3 => ek_pub = Some(read_pub(r)?),
                    4 => ek_chain = read_chain(r)?,
                    5 => epoch = Some(r.uint32()?),
                    6 => ak_pub = Some(read_pub(r)?),
                    7 => sto_pub = Some(read_pub(r)?),
                    8 => tls_pub = Some(read_pub(r)?),
                    9 => iak_pub = Some(read_pub(r)?),
                    10 => redirect = Some(read_digest(r)?),
                    11 => voucher_head = Some(read_digest(r)?),
                    -1 => place = Some(read_point(r)?),
                    -2 => {
                        let read = |r: &mut Reader<'_>, _| Ok((r.uint(0..=u64::MAX)?, read_digest(r)?));
                        installed = Some(r.array(2..=2, read)?);
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                suites: r.required(suites)?,
                ek_name: r.required(ek_name)?,
                ek_pub: r.required(ek_pub)?,
                ek_chain,
                epoch: r.required(epoch)?,
                ak_pub: r.required(ak_pub)?,
                sto_pub: r.required(sto_pub)?,
                tls_pub: r.required(tls_pub)?,
                iak_pub: r.required(iak_pub)?,
                redirect: r.required(redirect)?,
                voucher_head: r.required(voucher_head)?,
                place,
                installed,
            })
        })
    }
}

/// C3: what the TPM proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceBody {
    /// Proof of the activated credential.
    pub act: Digest,
    /// Sessions for owner and lockout hierarchy.
    pub sessions: [TpmSession; 2],
    /// Certify of the storage key.
    pub certify_storage: Attest,
    /// Certify of the TLS key.
    pub certify_tls: Attest,
    /// Certify of the identity key.
    pub certify_identity: Attest,
    /// Quote.
    pub quote: Attest,
    /// Event log and IMA list, may be empty where the policy says so.
    pub logs: Logs,
    /// PKCS#10 of the TLS key, DER.
    pub csr: Vec<u8>,
    /// TPM_PT_PERMANENT.
    pub permanent: u32,
    /// Whether the platform hierarchy has an empty authorisation.
    pub platform_open: bool,
}

pub(in crate::enrol) fn read_session(r: &mut Reader<'_>) -> Read<TpmSession> {
    r.array(2..=2, |r, _| Ok(TpmSession { handle: r.uint32()?, nonce_tpm: N16(r.fixed()?) }))
}

pub(in crate::enrol) fn write_session(w: &mut Writer, session: &TpmSession) {
    w.array(2).uint(session.handle).bytes(session.nonce_tpm.as_bytes());
}

pub(in crate::enrol) fn write_attest(w: &mut Writer, attest: &Attest) {
    w.array(2).bytes(&attest.attest).bytes(&attest.signature);
}

pub(in crate::enrol) fn read_attest(r: &mut Reader<'_>) -> Read<Attest> {
    r.array(2..=2, |r, _| {
        Ok(Attest { attest: r.bytes(40..=512)?.to_vec(), signature: r.bytes(10..=72)?.to_vec() })
    })
}

impl EvidenceBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(12).key(1).bytes(self.act.as_bytes());
            w.key(2).list(&self.sessions, write_session);
            write_attest(w.key(3), &self.certify_storage);
            write_attest(w.key(4), &self.certify_tls);
            write_attest(w.key(5), &self.certify_identity);
            write_attest(w.key(6), &self.quote);
            let Logs { event_log, ima_first, ima_log } = &self.logs;
            w.key(7).bytes(event_log).key(8).uint(*ima_first).key(9).bytes(ima_log);
            w.key(10).bytes(&self.csr).key(11).uint(self.permanent).key(12).boolean(self.platform_open);
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut act, mut sessions, mut certify_storage, mut certify_tls) = (None, None, None, None);
        let (mut certify_identity, mut quote, mut event_log, mut ima_first) = (None, None, None, None);
        let (mut ima_log, mut csr, mut permanent, mut platform_open) = (None, None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => act = Some(read_digest(r)?),
                    2 => sessions = Some(r.array(2..=2, |r, _| Ok([read_session(r)?, read_session(r)?]))?),
                    3 => certify_storage = Some(read_attest(r)?),
                    4 => certify_tls = Some(read_attest(r)?),
                    5 => certify_identity = Some(read_attest(r)?),
                    6 => quote = Some(read_attest(r)?),
                    7 => event_log = Some(r.bytes(0..=LOG_SIZE_MAX)?.to_vec()),
                    8 => ima_first = Some(r.uint(0..=u64::MAX)?),
                    9 => ima_log = Some(r.bytes(0..=LOG_SIZE_MAX)?.to_vec()),
                    10 => csr = Some(r.bytes(16..=4096)?.to_vec()),
                    11 => permanent = Some(r.uint32()?),
                    12 => platform_open = Some(r.boolean()?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self {
                act: r.required(act)?,
                sessions: r.required(sessions)?,
                certify_storage: r.required(certify_storage)?,
                certify_tls: r.required(certify_tls)?,
                certify_identity: r.required(certify_identity)?,
                quote: r.required(quote)?,
                logs: Logs {
                    event_log: r.required(event_log)?,
                    ima_first: r.required(ima_first)?,
                    ima_log: r.required(ima_log)?,
                },
                csr: r.required(csr)?,
                permanent: r.required(permanent)?,
                platform_open: r.required(platform_open)?,
            })
        })
    }
}

/// C5: what the TPM answered to the ownership commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponsesBody {
    /// Transcript after C4.
    pub th4: Digest,
    /// Whole responses; the first with rc != 0 ends the list.
    pub responses: Vec<Vec<u8>>,
}

impl ResponsesBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(2).key(1).bytes(self.th4.as_bytes()).key(2);
            write_commands(w, &self.responses);
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut th4, mut responses) = (None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => th4 = Some(read_digest(r)?),
                    2 => responses = Some(read_commands(r, 0)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self { th4: r.required(th4)?, responses: r.required(responses)? })
        })
    }
}

/// C7: the configuration is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledBody {
    /// Transcript after C6.
    pub th6: Digest,
    /// Receipt under the credential.
    pub receipt: Digest,
    /// Names of the imported objects, in order.
    pub names: Vec<EkName>,
}

impl InstalledBody {
    /// Encoded body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(3).key(1).bytes(self.th6.as_bytes()).key(2).bytes(self.receipt.as_bytes());
            w.key(3).list(&self.names, |w, name| {
                w.bytes(name.as_bytes());
            });
        })
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut th6, mut receipt, mut names) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => th6 = Some(read_digest(r)?),
                    2 => receipt = Some(read_digest(r)?),
                    3 => names = Some(r.list(0..=16, read_name)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self { th6: r.required(th6)?, receipt: r.required(receipt)?, names: r.required(names)? })
        })
    }
}
