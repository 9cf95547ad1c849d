//! The manufacturer's side: vendor keys, and devices with a root of trust and labels.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    Key, PublicKey, Signer, SigningKey, random,
    role::{DeviceRootSecret, InitSigning, ServiceTls},
    sha256,
};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_trust::{
    csr::endorsement_key_info,
    enrol::{
        cose::{SignedType, sign},
        document::{Header, Manifest},
        label::{LabelA, is_label_word},
        secrets::{OwnerSecretExt, owner_secret},
    },
    root::{RootReply, RootRequest},
    tpm,
};
use gridseal_types::{DeviceType, Digest, EkName, SystemTitle};

use super::{
    labels,
    owner::{OwnerKeys, pinned_certificate},
    sale::{self, Escrow, Stock, Stocked, VoucherSigner},
};
use crate::{
    config::{self, Endorsement, Firmware, Root},
    files::{Zone, format_public_key, format_voucher_key, read, write_atomic, write_certificates},
    process::meter::root::SharedRoot,
};

/// Directory of the recovery key, beside that of the voucher keys: to be kept offline.
pub const RECOVERY: &str = "recovery";

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
    /// What signs manifests and vouchers.
    pub voucher: VoucherSigner,
    init: PublicKey,
    init_ca_pem: String,
    name: String,
}

impl Vendor {
    /// Opens a manufacturer's directory, or founds one: voucher keys there, the init server's keys in its own directory.
    pub fn open_or_found(dir: &Path, init_server: &Path, name: &str, init_host: &SocketAddr) -> Result<Self> {
        let mut voucher = VoucherSigner::open_or_create(dir)?;
        voucher.found_recovery(dir, &dir.with_file_name(RECOVERY))?;
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

    /// The voucher key as configuration files have it.
    pub fn voucher_key(&self) -> String {
        format_voucher_key(&self.voucher.trusted())
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
    /// Endorsement keys of TPMs.
    pub endorsement: Endorsement,
    /// Init servers, `https://host:port`.
    pub init_servers: Vec<String>,
    /// What they are.
    pub device_type: DeviceType,
    /// Who buys them; nobody yet: they stay in stock.
    pub buyer: Option<OwnerKeys>,
    /// Print label B of each for its sealed insert.
    pub inserts: bool,
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

/// Makes devices, each with a manufactured root in a directory of its own, and sells them when there is a buyer; else they
/// stay in stock.
pub fn make(
    vendor: &Vendor,
    order: &Order,
    out: &Path,
    mut progress: impl FnMut(&Made),
) -> Result<Vec<Made>> {
    if !is_label_word(&order.model) {
        bail!("model must be 1 to 20 characters of 0-9 A-Z - .");
    }
    sale::refuse_second_shipment(out)?;
    let stock = order.buyer.is_none().then(|| Stock::open_or_create(out)).transpose()?;
    let batch: [u8; 3] = random(&mut OsRng)?;
    let mut made = Vec::new();
    let mut to_sell = Vec::new();
    for number in 1..=order.count {
        let serial = format!("{}{number:06}", hex::encode_upper(batch));
        let (device, stocked) = make_one(vendor, order, out, &serial)?;
        if order.inserts {
            sale::print_insert(out, &stocked)?;
        }
        match &stock {
            Some(stock) => stock.put(&stocked)?,
            None => to_sell.push(stocked),
        }
        progress(&device);
        made.push(device);
    }
    if let Some(buyer) = &order.buyer {
        sale::sell(&vendor.voucher, to_sell, buyer, out)?;
    }
    Ok(made)
}

fn make_one(vendor: &Vendor, order: &Order, out: &Path, serial: &str) -> Result<(Made, Stocked)> {
    let dir = out.join(serial);
    fs::create_dir_all(dir.join("tpm")).with_context(|| format!("cannot make {}", dir.display()))?;
    let root_config = match order.anchor {
        Anchor::Tpm => Root::Emulator { dir: "tpm".into(), endorsement: order.endorsement },
        Anchor::Software => Root::Software { state: "tpm/root.cbor".into() },
    };
    // N_root goes into the root, and into the escrow for later owners; what stays in stock is N_1, for the first one.
    let n_root = Key::<DeviceRootSecret, 32>::generate(&mut OsRng)?;
    let n_1 = owner_secret(&n_root, 1);
    Escrow::open_or_create(out)?.put(serial, &n_root)?;
    let root = SharedRoot::power_on(&root_config, None, &dir)?;
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
        ek_chain: Some(description.ek_certificate).filter(|der| !der.is_empty()).into_iter().collect(),
        spki: Digest(sha256(&[&endorsement_key_info(&endorsement)])),
        n_commit: n_1.commitment(),
        vendor: vendor.name.clone(),
        made: utc_now(),
        system_title: Some(system_title),
        software_root: order.anchor == Anchor::Software,
        device_type: order.device_type,
        identity: Some(tpm::name(&description.iak_public)),
    };
    let header = Header {
        ek_name,
        model: manifest.model.clone(),
        serial: manifest.serial.clone(),
        n_commit: manifest.n_commit,
        second_key: None,
    };
    let stocked = Stocked {
        ek_name,
        serial: serial.into(),
        manifest: sign(&vendor.voucher.key, SignedType::Manifest, &manifest.encode())?,
        voucher: vendor.voucher.issue(header)?,
        n_1,
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
        measurements: None,
        interval_s: order.interval_s,
        backoff_ms: order.backoff_ms,
        simulated_w: order.simulated_w,
        // As patient as with everything else: 5 min in the field.
        orders_every_s: u32::try_from(order.backoff_ms / 100).unwrap_or(u32::MAX).clamp(1, 300),
    };
    config::save(&dir.join("firmware.toml"), &firmware)?;
    let label = LabelA { model: order.model.clone(), serial: serial.into(), device: ek_name }.to_string();
    write_atomic(&dir.join("label.txt"), label.as_bytes())?;
    write_atomic(&dir.join("label.svg"), labels::svg(label.as_bytes(), serial)?.as_bytes())?;
    Ok((Made { serial: serial.into(), dir, label }, stocked))
}

/// `GSL`, then five bytes of the device's Name digest.
fn system_title(device: &EkName) -> SystemTitle {
    let mut title = *b"GSL\0\0\0\0\0";
    title.iter_mut().skip(3).zip(device.as_bytes().iter().skip(2)).for_each(|(to, from)| *to = *from);
    SystemTitle(title)
}
