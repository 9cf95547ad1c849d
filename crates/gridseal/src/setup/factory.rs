//! The manufacturer's side: vendor keys, and devices with a root of trust, labels and papers.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    Key, PublicKey, Signer, SigningKey, random,
    role::{DeviceRootSecret, InitSigning, ServiceTls, VoucherSigning},
    sha256,
};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_trust::{
    csr::subject_public_key_info,
    enrol::{
        cose::{SignedType, sign},
        delivery::{Release, deliver},
        document::{Entry, EntryKind, Header, Manifest},
        secrets::{OwnerSecretExt, owner_secret},
        voucher::Voucher,
        wire::{Reader, encode},
    },
    root::{RootReply, RootRequest},
    tpm,
};
use gridseal_types::{Digest, EkName, SystemTitle, UtcTime};

use super::owner::{OwnerKeys, pinned_certificate};
use crate::{
    config::{self, Firmware, Root},
    files::{Zone, format_public_key, read, write_atomic, write_certificates},
    process::meter::root::SharedRoot,
};

/// Which root of trust devices get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Anchor {
    /// A TPM 2.0, emulated by swtpm.
    Tpm,
    /// A software stand-in: for tests and load.
    Software,
}

impl Anchor {
    /// Name as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Software => "software",
        }
    }
}

/// The manufacturer's keys and what devices are told of them.
pub struct Vendor {
    voucher: SigningKey<VoucherSigning>,
    init: PublicKey,
    init_ca_pem: String,
    name: String,
}

impl Vendor {
    /// Opens a manufacturer's directory, or founds one: voucher key there, the init server's keys in its own directory.
    pub fn open_or_found(dir: &Path, init_server: &Path, name: &str, init_host: &SocketAddr) -> Result<Self> {
        let zone = Zone::open_or_create(dir)?;
        let voucher = SigningKey::new(&zone.load_or_generate::<VoucherSigning>("voucher")?)?;
        let init_zone = Zone::open_or_create(init_server)?;
        let init: SigningKey<InitSigning> =
            SigningKey::new(&init_zone.load_or_generate::<InitSigning>("init")?)?;
        let certificate_path = init_server.join("identity.pem");
        if !certificate_path.exists() {
            let key = SigningKey::new(&init_zone.load_or_generate::<ServiceTls>("identity")?)?;
            let certificate = pinned_certificate("init-server", &key, init_host)?;
            write_certificates(&certificate_path, &[certificate])?;
        }
        let init_ca_pem = String::from_utf8(read(&certificate_path)?).context("identity.pem is not text")?;
        Ok(Self { voucher, init: init.public(), init_ca_pem, name: name.into() })
    }

    /// The voucher key, x || y in hex.
    pub fn voucher_key(&self) -> String {
        format_public_key(&self.voucher.public())
    }

    /// The init server's certificate, which devices and owners trust, PEM.
    pub fn init_ca(&self) -> &str {
        &self.init_ca_pem
    }
}

/// One order of devices.
#[derive(Debug, Clone)]
pub struct Order {
    /// Model, 1..=20 of `0-9 A-Z - .`.
    pub model: String,
    /// How many.
    pub count: u32,
    /// Root of trust.
    pub anchor: Anchor,
    /// Init servers, `https://host:port`.
    pub init_servers: Vec<String>,
    /// Who buys them.
    pub buyer: OwnerKeys,
    /// Length of a load-profile interval, seconds.
    pub interval_s: u32,
    /// First ceiling of the devices' back-off, milliseconds.
    pub backoff_ms: u64,
    /// Average consumption of the simulated households, watts.
    pub simulated_w: u32,
}

/// A device that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Serial number.
    pub serial: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Text of label A.
    pub label: String,
}

/// The papers of a shipment: for each device its manifest, its voucher, and the delivery record of its owner secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Papers {
    /// Encoded COSE_Sign1 of the manifest.
    pub manifest: Vec<u8>,
    /// Encoded voucher.
    pub voucher: Vec<u8>,
    /// Encoded NRecord.
    pub delivery: Vec<u8>,
}

/// Most devices in one shipment file.
const SHIPMENT_MAX: usize = 1_000_000;

/// Encodes a shipment file.
pub fn encode_shipment(papers: &[Papers]) -> Vec<u8> {
    encode(|w| {
        w.list(papers, |w, papers| {
            w.array(3).bytes(&papers.manifest).bytes(&papers.voucher).bytes(&papers.delivery);
        });
    })
}

/// Decodes a shipment file.
pub fn decode_shipment(bytes: &[u8]) -> Result<Vec<Papers>> {
    let papers = Reader::whole(bytes, |r| {
        r.list(0..=SHIPMENT_MAX, |r| {
            r.array(3..=3, |r, _| {
                Ok(Papers {
                    manifest: r.bytes(1..=65_536)?.to_vec(),
                    voucher: r.bytes(1..=65_536)?.to_vec(),
                    delivery: r.bytes(1..=4_096)?.to_vec(),
                })
            })
        })
    })?;
    Ok(papers)
}

/// Makes devices: each with a manufactured root in a directory of its own, and the shipment file for the buyer.
pub fn make(
    vendor: &Vendor,
    order: &Order,
    out: &Path,
    mut progress: impl FnMut(&Made),
) -> Result<Vec<Made>> {
    let fits = |text: &str| {
        (1..=20).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase() || b"-.".contains(&byte))
    };
    if !fits(&order.model) {
        bail!("model must be 1 to 20 characters of 0-9 A-Z - .");
    }
    let shipment_path = out.join("shipment.cbor");
    if shipment_path.exists() {
        bail!(
            "{} exists: its devices are not to be forgotten, choose another --out",
            shipment_path.display()
        );
    }
    let batch: [u8; 3] = random(&mut OsRng)?;
    let mut made = Vec::new();
    let mut shipment = Vec::new();
    for number in 1..=order.count {
        let serial = format!("{}{number:06}", hex::encode_upper(batch));
        let (device, papers) = make_one(vendor, order, out, &serial)?;
        progress(&device);
        made.push(device);
        shipment.push(papers);
    }
    write_atomic(&shipment_path, &encode_shipment(&shipment))?;
    Ok(made)
}

fn make_one(vendor: &Vendor, order: &Order, out: &Path, serial: &str) -> Result<(Made, Papers)> {
    let dir = out.join(serial);
    fs::create_dir_all(dir.join("tpm")).with_context(|| format!("cannot make {}", dir.display()))?;
    let root_config = match order.anchor {
        Anchor::Tpm => Root::Emulator { dir: "tpm".into() },
        Anchor::Software => Root::Software { state: "tpm/root.cbor".into() },
    };
    // N_root goes into the root, N_1 encrypted to the buyer; no copy stays (design section 2, factory).
    let n_root = Key::<DeviceRootSecret, 32>::generate(&mut OsRng)?;
    let n_1 = owner_secret(&n_root, 1);
    let root = SharedRoot::power_on(&root_config, &dir)?;
    let RootReply::Described(description) = root.perform(RootRequest::Manufacture(n_root))? else {
        bail!("the root was not manufactured");
    };
    drop(root);
    let ek_name = tpm::name(&description.ek_public);
    let endorsement =
        tpm::endorsement_key(&description.ek_public).map_err(|code| anyhow::anyhow!("root: {code}"))?;
    let system_title = system_title(&ek_name);
    let manifest = Manifest {
        serial: serial.into(),
        model: order.model.clone(),
        ek_name,
        ek_pub: description.ek_public,
        spki: Digest(sha256(&[&subject_public_key_info(&endorsement)])),
        n_commit: n_1.commitment(),
        vendor: vendor.name.clone(),
        made: utc_now(),
        system_title: Some(system_title),
        software_root: order.anchor == Anchor::Software,
    };
    let papers = Papers {
        voucher: sell(vendor, &manifest, &order.buyer)?,
        delivery: deliver(
            &Release { ek_name, epoch: 1, serial: serial.into(), entry: Digest([0; 32]) },
            &n_1,
            &vendor.voucher,
            &order.buyer.encryption,
            &mut OsRng,
        )?,
        manifest: sign(&vendor.voucher, SignedType::Manifest, &manifest.encode())?,
    };
    let firmware = Firmware {
        serial: serial.into(),
        model: order.model.clone(),
        system_title: system_title.to_string(),
        init_servers: order.init_servers.clone(),
        init_keys: vec![format_public_key(&vendor.init)],
        init_server_ca: vendor.init_ca_pem.clone(),
        voucher_keys: vec![vendor.voucher_key()],
        root: root_config,
        interval_s: order.interval_s,
        backoff_ms: order.backoff_ms,
        simulated_w: order.simulated_w,
    };
    config::save(&dir.join("firmware.toml"), &firmware)?;
    let label = label_a(&order.model, serial, &ek_name);
    write_atomic(&dir.join("label.txt"), label.as_bytes())?;
    Ok((Made { serial: serial.into(), dir, label }, papers))
}

/// Voucher header, and entry 1 that names the buyer.
fn sell(vendor: &Vendor, manifest: &Manifest, buyer: &OwnerKeys) -> Result<Vec<u8>> {
    let header = Header {
        ek_name: manifest.ek_name,
        model: manifest.model.clone(),
        serial: manifest.serial.clone(),
        n_commit: manifest.n_commit,
        second_key: None,
    }
    .encode();
    let entry = Entry {
        index: 1,
        epoch: 1,
        kind: EntryKind::Transfer,
        previous: SignedType::Voucher.hash(&header),
        owner: buyer.owner,
        encryption: buyer.encryption,
        issued: UtcTime(utc_now().0),
        second_key: None,
    }
    .encode();
    let voucher = Voucher {
        header: sign(&vendor.voucher, SignedType::Voucher, &header)?,
        entries: vec![sign(&vendor.voucher, SignedType::Entry, &entry)?],
    };
    Ok(voucher.encode())
}

/// `GSL`, then five bytes of the device's Name digest.
fn system_title(device: &EkName) -> SystemTitle {
    let mut title = *b"GSL\0\0\0\0\0";
    title.iter_mut().skip(3).zip(device.as_bytes().iter().skip(2)).for_each(|(to, from)| *to = *from);
    SystemTitle(title)
}

/// Label A: `GSO1:A:<model>:<serial>:<base32(digest of the Name)>:<crc32>`. It holds no secret.
pub fn label_a(model: &str, serial: &str, device: &EkName) -> String {
    let name = base32(device.as_bytes().get(2..).unwrap_or_default());
    let text = format!("GSO1:A:{model}:{serial}:{name}");
    let crc = crc32(text.as_bytes());
    format!("{text}:{crc:08X}")
}

fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::new();
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[usize::try_from((buffer >> bits) & 31).unwrap_or(0)]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[usize::try_from((buffer << (5 - bits)) & 31).unwrap_or(0)]));
    }
    text
}

/// CRC-32 (ISO-HDLC).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_the_check_value_and_alphabet_of_their_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(base32(b"foobar"), "MZXW6YTBOI");
        let label = label_a("GS-1", "0000000001", &EkName([0xab; 34]));
        assert_eq!(label.split(':').count(), 6);
        assert_eq!(label.split(':').nth(4).map(str::len), Some(52));
        assert!(
            label
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b":-.".contains(&byte))
        );
    }
}
