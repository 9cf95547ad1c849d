//! The shipment file: what a manufacturer gives to the buyer of devices, all of it public. The owner secrets travel apart from
//! it, in a delivery file or on labels.

use alloc::vec::Vec;

use super::{
    voucher_log::LogProof,
    wire::{Read, Reader, encode},
};

/// Most devices in one shipment or delivery file.
pub const SHIPMENT_MAX: usize = 1_000_000;
const ELEMENT_SIZE_MAX: usize = 65_536;
const HEAD_SIZE_MAX: usize = 512;

/// The papers of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Papers {
    /// Encoded COSE_Sign1 of the manifest.
    pub manifest: Vec<u8>,
    /// Encoded voucher.
    pub voucher: Vec<u8>,
    /// Where the voucher's last entry is in the manufacturer's log.
    pub logged: LogProof,
}

/// A shipment: `[log head: signed, [* [manifest, voucher, proof]]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipment {
    /// Encoded COSE_Sign1 of the log's head, against which the proofs are.
    pub log_head: Vec<u8>,
    /// Devices.
    pub devices: Vec<Papers>,
}

impl Shipment {
    /// Encoded file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(2).bytes(&self.log_head).list(&self.devices, |w, papers| {
                w.array(3).bytes(&papers.manifest).bytes(&papers.voucher);
                papers.logged.write(w);
            });
        })
    }

    /// Decodes a file.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.array(2..=2, |r, _| {
                let log_head = r.bytes(1..=HEAD_SIZE_MAX)?.to_vec();
                let devices = r.list(0..=SHIPMENT_MAX, |r| {
                    r.array(3..=3, |r, _| {
                        Ok(Papers {
                            manifest: r.bytes(1..=ELEMENT_SIZE_MAX)?.to_vec(),
                            voucher: r.bytes(1..=ELEMENT_SIZE_MAX)?.to_vec(),
                            logged: LogProof::read(r)?,
                        })
                    })
                })?;
                Ok(Self { log_head, devices })
            })
        })
    }
}

/// Papers of a device with the entry that sells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sold {
    /// Encoded COSE_Sign1 of the manifest.
    pub manifest: Vec<u8>,
    /// Encoded voucher; its last entry names the buyer.
    pub voucher: Vec<u8>,
}

/// A transfer: `[* [manifest, voucher]]`, from the seller to the release service, which logs the entries and hands the buyer
/// the secrets, and to the seller's own endpoint manager, which gives the devices up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer(pub Vec<Sold>);

impl Transfer {
    /// Encoded file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.list(&self.0, |w, sold| {
                w.array(2).bytes(&sold.manifest).bytes(&sold.voucher);
            });
        })
    }

    /// Decodes a file.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        Reader::whole(bytes, |r| {
            r.list(0..=SHIPMENT_MAX, |r| {
                r.array(2..=2, |r, _| {
                    let manifest = r.bytes(1..=ELEMENT_SIZE_MAX)?.to_vec();
                    Ok(Sold { manifest, voucher: r.bytes(1..=ELEMENT_SIZE_MAX)?.to_vec() })
                })
            })
            .map(Self)
        })
    }
}
