//! `gridseal factory image`: a manifest with both signatures in front of firmware.

use std::path::PathBuf;

use anyhow::{Context, Result};
use gridseal_crypto::{
    SecondSigner, Signer, SigningKey,
    role::{FirmwareSecond, FirmwareSigning},
};
use gridseal_io::clock::utc_now;
use gridseal_trust::{
    enrol::voucher::VoucherKey,
    firmware::{FirmwareDraft, sign_image},
};
use gridseal_types::Digest;

use crate::{
    files::{Zone, format_voucher_key, read, write_atomic},
    tools::Usage,
};

/// Arguments of `factory image`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory of the firmware keys (P-256 and ML-DSA-65); made when it is not there.
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Model that the image is for, 1 to 64 bytes.
    #[arg(long)]
    model: String,
    /// Version: a meter takes none that is lower than what it runs.
    #[arg(long, value_name = "NUMBER")]
    image_version: u32,
    /// Identification, 1 to 64 bytes: what the meter shows of the image that runs.
    #[arg(long, value_name = "TEXT")]
    identifier: String,
    /// The firmware itself.
    #[arg(long, value_name = "FILE")]
    contents: PathBuf,
    /// Where the image goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Signs an image.
pub fn run(arguments: &Arguments) -> Result<()> {
    let zone = Zone::open_or_create(&arguments.keys)?;
    let key = SigningKey::new(&zone.load_or_generate::<FirmwareSigning>("firmware")?)?;
    let second = SecondSigner::new(&zone.load_or_generate_seed::<FirmwareSecond>("firmware-second")?)?;
    let draft = FirmwareDraft {
        model: &arguments.model,
        version: arguments.image_version,
        identifier: arguments.identifier.as_bytes(),
        issued: utc_now(),
    };
    let image = sign_image(draft, &read(&arguments.contents)?, (&key, &second))?.with_context(|| {
        Usage("model and identifier have 1 to 64 bytes, contents 1 byte to 16 MiB".into())
    })?;
    write_atomic(&arguments.out, &image)?;
    let trusted =
        VoucherKey { key: key.public(), second: Some(Digest(second.public().id())), recovery: None };
    println!("[image]");
    println!("model = {:?}", arguments.model);
    println!("key = \"{}\"", format_voucher_key(&trusted));
    Ok(())
}
