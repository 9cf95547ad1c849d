//! Devices in the manufacturer's stock, and their sale: voucher entry, public log, owner secrets for the buyer alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{DeviceRootSecret, OwnerSecret, RecoverySecond, RecoverySigning, VoucherSecond, VoucherSigning},
};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_trust::enrol::{
    delivery::{Release, deliver, encode_delivery},
    document::{EntryKind, Header, Manifest},
    label::LabelB,
    secrets::owner_secret,
    shipment::{Papers, Shipment, Sold, Transfer},
    voucher::{RecoveryKey, Voucher, VoucherKey},
    voucher_log::{LogEntry, LogProof, VoucherLog},
    wire::{Reader, encode},
};
use gridseal_types::{Digest, EkName};

use super::{labels, owner::OwnerKeys};
use crate::files::{Zone, format_voucher_key, parse_voucher_key, read, read_if_there, write_atomic};

/// Papers of a shipment.
pub const SHIPMENT_FILE: &str = "shipment.cbor";
/// Owner secrets of a shipment, encrypted to the buyer.
pub const DELIVERY_FILE: &str = "delivery.cbor";
/// The manufacturer's public log of voucher entries.
pub const LOG_FILE: &str = "voucher-log.cbor";
const STOCK: &str = "stock";
const INSERTS: &str = "inserts";

/// The manufacturer's voucher key with its second, post-quantum one.
pub struct VoucherSigner {
    /// P-256 key: also signs manifests, releases and the log.
    pub key: SigningKey<VoucherSigning>,
    second: SecondSigner<VoucherSecond>,
    /// Public halves of the recovery key, which is elsewhere.
    recovery: Option<RecoveryKey>,
}

/// Public facts about the manufacturer's keys, in the directory of each kind: which recovery key, which voucher key.
const TRUSTED: &str = "trusted.txt";

impl VoucherSigner {
    /// Opens the keys in a directory, or draws them.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        Self::of(&Zone::open_or_create(dir)?)
    }

    /// Opens the keys in a directory.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::of(&Zone::open(dir)?)
    }

    fn of(zone: &Zone) -> Result<Self> {
        let key = SigningKey::new(&zone.load_or_generate::<VoucherSigning>("voucher")?)?;
        let second = SecondSigner::new(&zone.load_or_generate_seed::<VoucherSecond>("voucher-second")?)?;
        let trusted = read_trusted(zone)?;
        Ok(Self { key, second, recovery: trusted.and_then(|trusted| trusted.recovery) })
    }

    /// Founds the recovery key in a directory of its own, to be kept offline, and lets both directories know of each other.
    pub fn found_recovery(&mut self, dir: &Path, recovery: &Path) -> Result<()> {
        let signer = RecoverySigner::open_or_create(recovery)?;
        self.recovery = Some(signer.public());
        let text = format_voucher_key(&self.trusted());
        write_atomic(&dir.join(TRUSTED), text.as_bytes())?;
        write_atomic(&recovery.join(TRUSTED), text.as_bytes())
    }

    /// The voucher key as a verifier trusts it.
    pub fn trusted(&self) -> VoucherKey {
        VoucherKey {
            key: self.key.public(),
            second: Some(Digest(self.second.public().id())),
            recovery: self.recovery,
        }
    }

    /// A voucher without an owner, signed by both keys.
    pub fn issue(&self, header: Header) -> Result<Voucher> {
        Ok(Voucher::issue(header, &self.key, Some(&self.second))?)
    }
}

fn read_trusted(zone: &Zone) -> Result<Option<VoucherKey>> {
    let path = zone.dir().join(TRUSTED);
    let Some(text) = read_if_there(&path)? else { return Ok(None) };
    let text = String::from_utf8(text).with_context(|| format!("{} is not text", path.display()))?;
    parse_voucher_key(text.trim()).map(Some).with_context(|| format!("{}", path.display()))
}

/// The manufacturer's recovery key with its second one: signs in place of owners who have vanished.
pub struct RecoverySigner {
    key: SigningKey<RecoverySigning>,
    second: SecondSigner<RecoverySecond>,
    /// The voucher key that it belongs to.
    vendor: Option<VoucherKey>,
}

impl RecoverySigner {
    /// Opens the keys in a directory, or draws them.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        Self::of(&Zone::open_or_create(dir)?)
    }

    /// Opens the keys in a directory, which are there: new ones would sign for nothing.
    pub fn open(dir: &Path) -> Result<Self> {
        if ["recovery.key", "recovery-second.key"].iter().any(|name| !dir.join(name).is_file()) {
            bail!("{} holds no recovery key", dir.display());
        }
        Self::of(&Zone::open(dir)?)
    }

    fn of(zone: &Zone) -> Result<Self> {
        let key = SigningKey::new(&zone.load_or_generate::<RecoverySigning>("recovery")?)?;
        let second = SecondSigner::new(&zone.load_or_generate_seed::<RecoverySecond>("recovery-second")?)?;
        Ok(Self { key, second, vendor: read_trusted(zone)? })
    }

    fn public(&self) -> RecoveryKey {
        RecoveryKey { key: self.key.public(), second: Some(Digest(self.second.public().id())) }
    }

    /// Signs an entry that makes a buyer the owner of a device whose present one has vanished; gives its serial number too.
    pub fn recover(&self, sold: Sold, buyer: &OwnerKeys) -> Result<(String, Sold)> {
        let vendor = self.vendor.context("this directory does not say whose recovery key it holds")?;
        let mut voucher = Voucher::decode(&sold.voucher).context("voucher does not decode")?;
        let verified = voucher
            .verify(&[vendor])
            .map_err(|code| anyhow::anyhow!("{code}: a voucher of the papers does not hold"))?;
        let serial = verified.header.serial.clone();
        check_manifest(&sold.manifest, &verified.header, &vendor)?;
        if verified.owner().is_none() {
            bail!("{serial} has no owner: sell it");
        }
        let epoch = verified.epoch.checked_add(1).context("last epoch")?;
        let entry = buyer.next_entry(EntryKind::Recovery, epoch);
        voucher.extend(entry, &self.key, Some(&self.second))?;
        Ok((serial, Sold { manifest: sold.manifest, voucher: voucher.encode() }))
    }
}

/// A device that was made and not sold.
pub struct Stocked {
    /// Device.
    pub ek_name: EkName,
    /// Serial number.
    pub serial: String,
    /// Encoded COSE_Sign1 of its manifest.
    pub manifest: Vec<u8>,
    /// Voucher without an owner.
    pub voucher: Voucher,
    /// The first owner's secret.
    pub n_1: Key<OwnerSecret, 32>,
}

/// The manufacturer's stock: papers, and owner secrets wrapped under a key of the directory.
pub struct Stock {
    zone: Zone,
}

impl Stock {
    /// Opens the stock of a factory's directory, or begins one.
    pub fn open_or_create(out: &Path) -> Result<Self> {
        Ok(Self { zone: Zone::open_or_create(&out.join(STOCK))? })
    }

    fn path(&self, serial: &str) -> PathBuf {
        self.zone.dir().join(format!("{serial}.cbor"))
    }

    /// Stores a device, the secret before the papers.
    pub fn put(&self, device: &Stocked) -> Result<()> {
        self.zone.store(&device.serial, &device.n_1)?;
        let papers = encode(|w| {
            w.array(2).bytes(&device.manifest).bytes(&device.voucher.encode());
        });
        write_atomic(&self.path(&device.serial), &papers)
    }

    /// Every device in stock, by serial number.
    pub fn list(&self) -> Result<Vec<Stocked>> {
        let mut serials = Vec::new();
        for file in fs::read_dir(self.zone.dir())? {
            let name = file?.file_name();
            serials.extend(name.to_str().and_then(|name| name.strip_suffix(".cbor")).map(str::to_owned));
        }
        serials.sort();
        serials.iter().map(|serial| self.load(serial)).collect()
    }

    fn load(&self, serial: &str) -> Result<Stocked> {
        let bytes = read(&self.path(serial))?;
        let (manifest, voucher) = Reader::whole(&bytes, |r| {
            r.array(2..=2, |r, _| Ok((r.bytes(1..=65_536)?.to_vec(), r.bytes(1..=65_536)?.to_vec())))
        })?;
        let voucher = Voucher::decode(&voucher)?;
        let header = gridseal_trust::enrol::cose::Sign1::decode(&voucher.header)?;
        let header = Header::decode(header.payload)?;
        let n_1 = self.zone.load(serial)?;
        Ok(Stocked { ek_name: header.ek_name, serial: serial.into(), manifest, voucher, n_1 })
    }

    /// Forgets a device that was sold: its secret is the buyer's alone.
    pub fn remove(&self, serial: &str) -> Result<()> {
        fs::remove_file(self.path(serial))?;
        fs::remove_file(self.zone.dir().join(format!("{serial}.key")))?;
        Ok(())
    }
}

/// Refuses to write over a shipment: its devices are not to be forgotten.
pub fn refuse_second_shipment(out: &Path) -> Result<()> {
    for name in [SHIPMENT_FILE, DELIVERY_FILE] {
        let path = out.join(name);
        if path.exists() {
            bail!(
                "{} exists: its devices are not to be forgotten, move it away or choose another --out",
                path.display()
            );
        }
    }
    Ok(())
}

/// A device with the entry that sells it, and the secret of its new epoch.
struct Handed {
    manifest: Vec<u8>,
    voucher: Voucher,
    release: Release,
    secret: Key<OwnerSecret, 32>,
    encryption: PublicKey,
}

/// Sells devices: an entry for each voucher, all of them in the public log before anybody gets one, then the buyer's files.
pub fn sell(vendor: &VoucherSigner, devices: Vec<Stocked>, buyer: &OwnerKeys, out: &Path) -> Result<()> {
    let mut handed = Vec::new();
    for mut device in devices {
        let entry = buyer.next_entry(EntryKind::Transfer, 1);
        device.voucher.extend(entry, &vendor.key, Some(&vendor.second))?;
        handed.push(Handed {
            manifest: device.manifest,
            voucher: device.voucher,
            release: Release {
                ek_name: device.ek_name,
                epoch: 1,
                serial: device.serial,
                entry: Digest([0; 32]),
            },
            secret: device.n_1,
            encryption: buyer.encryption,
        });
    }
    hand_over(vendor, handed, &out.join(LOG_FILE), out)
}

/// The release service: logs the entries of a transfer, first come, first served, and hands the secrets of the new epoch to
/// the buyer that each entry names. Who sells a device twice sells it once.
pub fn release(vendor: &VoucherSigner, transfer: Transfer, out: &Path, to: &Path) -> Result<Vec<String>> {
    let escrow = Escrow::open(out)?;
    let mut handed = Vec::new();
    for sold in transfer.0 {
        let voucher = Voucher::decode(&sold.voucher).context("voucher does not decode")?;
        let verified = voucher
            .verify(&[vendor.trusted()])
            .map_err(|code| anyhow::anyhow!("{code}: a voucher of the transfer does not hold"))?;
        let serial = verified.header.serial.clone();
        check_manifest(&sold.manifest, &verified.header, &vendor.trusted())?;
        if verified.epoch < 2 {
            bail!("{serial}: the transfer has no entry after the first sale");
        }
        handed.push(Handed {
            manifest: sold.manifest,
            voucher,
            release: Release {
                ek_name: verified.header.ek_name,
                epoch: verified.epoch,
                serial: serial.clone(),
                entry: verified.head(),
            },
            secret: escrow.secret(&serial, verified.epoch)?,
            encryption: verified.encryption().context("voucher has no owner")?,
        });
    }
    let serials = handed.iter().map(|handed| handed.release.serial.clone()).collect();
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    refuse_second_shipment(to)?;
    hand_over(vendor, handed, &out.join(LOG_FILE), to)?;
    Ok(serials)
}

/// The entry is logged once: papers that the buyer cannot import would use it up.
fn check_manifest(signed: &[u8], header: &Header, vendor: &VoucherKey) -> Result<()> {
    let manifest = Manifest::open(signed, &[*vendor])
        .map_err(|code| anyhow::anyhow!("{code}: the manifest of {} does not hold", header.serial))?;
    if !header.agrees(&manifest) {
        bail!("the manifest beside the voucher of {} is another device's", header.serial);
    }
    Ok(())
}

fn hand_over(vendor: &VoucherSigner, handed: Vec<Handed>, log_path: &Path, to: &Path) -> Result<()> {
    let mut log = match read_if_there(log_path)? {
        None => VoucherLog::default(),
        Some(bytes) => {
            VoucherLog::open(&bytes, &[vendor.trusted()])
                .map_err(|code| anyhow::anyhow!("{}: {code}", log_path.display()))?
                .1
        }
    };
    let mut sold = Vec::new();
    let mut deliveries = Vec::new();
    for Handed { manifest, voucher, release, secret, encryption } in handed {
        let hashes = voucher.element_hashes().context("own voucher does not decode")?;
        let [.., previous, entry] = hashes.as_slice() else { bail!("own voucher has no entry") };
        let index = log
            .append(LogEntry { previous: *previous, entry: *entry })
            .map_err(|code| anyhow::anyhow!("{} was sold before: {code}", release.serial))?;
        deliveries.push(deliver(&release, &secret, &vendor.key, &encryption, &mut OsRng)?);
        sold.push((manifest, voucher, index));
    }
    write_atomic(log_path, &log.encode(&vendor.key, utc_now())?)?;
    let proofs = log.proofs();
    let mut papers = Vec::new();
    for (manifest, voucher, index) in sold {
        let path = proofs.inclusion(usize::try_from(index)?).context("entry is not in the log")?;
        papers.push(Papers { manifest, voucher: voucher.encode(), logged: LogProof { index, path } });
    }
    let shipment = Shipment { log_head: log.head(&vendor.key, utc_now())?, devices: papers };
    write_atomic(&to.join(DELIVERY_FILE), &encode_delivery(&deliveries))?;
    write_atomic(&to.join(SHIPMENT_FILE), &shipment.encode())
}

/// Root secrets of devices, kept for their next owners: a zone of its own, which another party than the manufacturer may
/// hold.
pub struct Escrow {
    zone: Zone,
}

impl Escrow {
    const DIR: &str = "escrow";

    /// Opens the escrow of a factory's directory, or begins one.
    pub fn open_or_create(out: &Path) -> Result<Self> {
        Ok(Self { zone: Zone::open_or_create(&out.join(Self::DIR))? })
    }

    fn open(out: &Path) -> Result<Self> {
        Ok(Self { zone: Zone::open(&out.join(Self::DIR)).context("no escrow of root secrets")? })
    }

    /// Keeps the root secret of a device.
    pub fn put(&self, serial: &str, root: &Key<DeviceRootSecret, 32>) -> Result<()> {
        self.zone.store(serial, root)
    }

    fn secret(&self, serial: &str, epoch: u32) -> Result<Key<OwnerSecret, 32>> {
        let root: Key<DeviceRootSecret, 32> =
            self.zone.load(serial).with_context(|| format!("{serial} is not in the escrow"))?;
        Ok(owner_secret(&root, epoch))
    }
}

/// Prints label B of a device for its sealed insert: a directory of its own, never on the device.
pub fn print_insert(out: &Path, device: &Stocked) -> Result<()> {
    let dir = out.join(INSERTS);
    fs::create_dir_all(&dir)?;
    let text = LabelB::text(&device.serial, &device.n_1);
    write_atomic(&dir.join(format!("{}.txt", device.serial)), text.as_slice())?;
    write_atomic(
        &dir.join(format!("{}.svg", device.serial)),
        labels::svg(text.as_slice(), &device.serial)?.as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_crypto::random;
    use gridseal_trust::enrol::{delivery::decode_delivery, secrets::OwnerSecretExt, voucher_log::LogHead};

    fn stocked(vendor: &VoucherSigner, serial: &str) -> Result<Stocked> {
        let n_1 = Key::generate(&mut OsRng)?;
        let ek_name = EkName([serial.len().try_into()?; 34]);
        let header = Header {
            ek_name,
            model: "M".into(),
            serial: serial.into(),
            n_commit: n_1.commitment(),
            second_key: None,
        };
        let voucher = vendor.issue(header)?;
        Ok(Stocked { ek_name, serial: serial.into(), manifest: vec![1], voucher, n_1 })
    }

    #[test]
    fn what_is_in_stock_is_sold_once_and_every_sale_is_in_the_log() -> Result<()> {
        let out =
            std::env::temp_dir().join(format!("gridseal-sale-{}", hex::encode(random::<8>(&mut OsRng)?)));
        fs::create_dir_all(&out)?;
        let vendor = VoucherSigner::open_or_create(&out.join("vendor"))?;
        let (owner, encryption) = (vendor.key.public(), vendor.key.public());
        let buyer = OwnerKeys { owner, encryption, second: None };
        let stock = Stock::open_or_create(&out)?;
        for serial in ["A", "BB"] {
            stock.put(&stocked(&vendor, serial)?)?;
        }
        let devices = stock.list()?;
        let secret = fs::read(stock.path("A"))?;
        assert!(!secret.windows(4).any(|part| part == b"GSO1"), "papers hold no label");
        sell(&vendor, devices, &buyer, &out)?;
        assert!(refuse_second_shipment(&out).is_err());
        let other = OwnerKeys { second: Some(Digest([1; 32])), ..buyer };
        let again = sell(&vendor, stock.list()?, &other, &out).expect_err("sold twice");
        assert!(again.to_string().contains("E_FORK"), "{again}");

        let shipment = Shipment::decode(&read(&out.join(SHIPMENT_FILE))?)?;
        let head = LogHead::verify(&shipment.log_head, &[vendor.trusted()])
            .map_err(|code| anyhow::anyhow!("{code}"))?;
        for papers in &shipment.devices {
            let voucher = Voucher::decode(&papers.voucher)?;
            let verified = voucher.verify(&[vendor.trusted()]).map_err(|code| anyhow::anyhow!("{code}"))?;
            assert_eq!(verified.owner(), Some(owner));
            assert_eq!(head.includes(&verified, &papers.logged), Ok(()));
        }
        assert_eq!(decode_delivery(&read(&out.join(DELIVERY_FILE))?)?.len(), 2);
        stock.remove("A")?;
        assert_eq!(stock.list()?.len(), 1);
        fs::remove_dir_all(&out)?;
        Ok(())
    }
}
