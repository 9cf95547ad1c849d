//! `gridseal ceremony owner`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use gridseal_crypto::Signer;

use super::factory::OwnerFile;
use crate::{
    config,
    files::format_public_key,
    setup::owner::{
        config_server_certificate, delegate, issuing_authority, keystore, owner_key, service_identities,
    },
};

/// Arguments of `ceremony owner`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory of the owner's zones; the ceremony's own part (`ceremony/`) is to be kept offline.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Address at which the config server will listen for devices.
    #[arg(long, value_name = "IP:PORT")]
    config_listen: SocketAddr,
    /// Generation of the delegation: raise it to replace the key service's signing key.
    #[arg(long, default_value_t = 1)]
    generation: u32,
}

/// Makes keys and certificates of an owner.
pub fn run(arguments: &Arguments) -> Result<()> {
    let out = &arguments.out;
    let ceremony = out.join("ceremony");
    let keys = keystore(&out.join("keys"))?;
    let owner = owner_key(&ceremony)?;
    delegate(&owner, &keys, &out.join("keys"), arguments.generation)?;
    issuing_authority(&ceremony, &out.join("pki"))?;
    service_identities(&ceremony, out)?;
    let pin = config_server_certificate(&out.join("config-server"), &arguments.config_listen)?;
    let file = OwnerFile {
        owner_key: format_public_key(&owner.public()),
        encryption_key: format_public_key(&keys.encryption),
    };
    config::save(&out.join("owner.toml"), &file)?;
    println!("owner key        {}", file.owner_key);
    println!("encryption key   {}", file.encryption_key);
    println!("config server pin {pin}");
    println!("give {} to the manufacturer; keep {} offline", out.join("owner.toml").display(), ceremony.display());
    Ok(())
}
