//! `gridseal ceremony owner`, `configure` and `transfer`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    SecondSigner, Signer, SigningKey,
    role::{ConsentSigning, OwnerSecond, OwnerSigning},
};
use gridseal_keys::PublicKeys;
use gridseal_trust::enrol::{
    cose::Sign1,
    document::{Entry, EntryKind},
    shipment::{Sold, Transfer},
    voucher::Voucher,
};
use gridseal_types::Digest;

use super::{consent::CONSENT_KEY, factory::OwnerFile};
use crate::{
    config,
    files::{Zone, format_public_key, read, write_atomic, write_certificates},
    setup::{
        configure::{self, Choices, Inner, Manufacturer},
        factory::Anchor,
        owner::{
            OwnerKeys, config_server_certificate, delegate, delegate_as, foreign_identity, issuing_authority,
            keystore, next_owner_keys, owner_key, owner_second, party_authorities, put_next_owner_key,
            service_identities,
        },
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
    party_authorities(out, gridseal_keys::Core::CLIENT_TITLE)?;
    service_identities(&ceremony, out)?;
    let pin = config_server_certificate(&out.join("config-server"), &arguments.config_listen)?;
    let file = owner_file(&owner, &keys, &owner_second(&ceremony)?);
    config::save(&out.join("owner.toml"), &file)?;
    println!("owner key        {}", file.owner_key);
    println!("encryption key   {}", file.encryption_key);
    println!("config server pin {pin}");
    println!(
        "give {} to the manufacturer; keep {} offline",
        out.join("owner.toml").display(),
        ceremony.display()
    );
    Ok(())
}

/// Arguments of `ceremony configure`.
#[derive(Debug, clap::Args)]
pub struct Configure {
    /// Directory of the owner's zones, as for `ceremony owner`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The manufacturer's directory, as `factory make` has left it: its public facts are read from there.
    #[arg(long, value_name = "DIR")]
    factory: PathBuf,
    /// Model that the first attestation policy is for.
    #[arg(long, default_value = "GS-1")]
    model: String,
    /// Config server, for devices.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7441")]
    config_listen: SocketAddr,
    /// Config server, for the endpoint manager.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7442")]
    config_listen_inner: SocketAddr,
    /// Key service.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7443")]
    keys_listen: SocketAddr,
    /// Certificate authority.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7444")]
    pki_listen: SocketAddr,
    /// Head-end, for meters.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4059")]
    headend_listen: SocketAddr,
    /// Head-end, for the endpoint manager.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7445")]
    headend_listen_inner: SocketAddr,
    /// The manufacturer's init server.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:7440")]
    init_server: SocketAddr,
    /// Length of the meters' load-profile interval, seconds.
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    interval_s: u32,
    /// Replace configuration files that are there.
    #[arg(long)]
    replace: bool,
    /// Accept devices whose root of trust is software. Tests only.
    #[arg(long)]
    danger_accept_software_roots: bool,
}

/// Writes the configuration files of an owner's processes.
pub fn configure(arguments: &Configure) -> Result<()> {
    let owner = &arguments.out;
    let edited = owner.join("endpoint-manager/config.toml");
    if edited.exists() && !arguments.replace {
        anyhow::bail!(
            "{} exists and may have been edited: --replace writes all of them anew",
            edited.display()
        );
    }
    let manufacturer = manufacturer(&arguments.factory, arguments.init_server)?;
    let addresses = Inner {
        config: arguments.config_listen,
        config_inner: arguments.config_listen_inner,
        keys: arguments.keys_listen,
        pki: arguments.pki_listen,
        headend: arguments.headend_listen,
        headend_inner: arguments.headend_listen_inner,
    };
    let choices = Choices { interval_s: arguments.interval_s, ..Choices::default() };
    configure::keys(owner, addresses.keys, &manufacturer, &choices)?;
    configure::operator(owner, addresses.keys)?;
    configure::pki(owner, addresses.pki, &addresses.headend)?;
    configure::config_server(owner, addresses.config, addresses.config_inner, &choices)?;
    configure::headend(owner, &addresses, &choices)?;
    let anchor = if arguments.danger_accept_software_roots { Anchor::Software } else { Anchor::Tpm };
    let key = owner_key(&owner.join("ceremony"))?;
    let manager =
        configure::endpoint_manager(owner, &key, &manufacturer, &addresses, &arguments.model, anchor)?;
    for name in ["pki", "keys", "config-server", "headend", "endpoint-manager"] {
        println!("gridseal {name} --config {}", owner.join(name).join("config.toml").display());
    }
    println!("then: gridseal device register --config {} SHIPMENT", manager.display());
    Ok(())
}

/// A manufacturer's public facts, from the configuration of its init server.
fn manufacturer(factory: &Path, init_server: SocketAddr) -> Result<Manufacturer> {
    let (init, _): (config::InitServer, _) = config::load(&factory.join("init-server/config.toml"))?;
    Ok(Manufacturer {
        voucher_key: init.voucher_keys.first().context("the init server knows no voucher key")?.clone(),
        init_ca: String::from_utf8(read(&factory.join("init-server/identity.pem"))?)?,
        init_server,
    })
}

/// Arguments of `ceremony rekey`.
#[derive(Debug, clap::Args)]
pub struct RekeyArguments {
    /// Directory of the owner's zones.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Papers of the devices, as `device papers` has written them.
    #[arg(long, value_name = "FILE", required_unless_present = "finish")]
    papers: Option<PathBuf>,
    /// Where the signed entries go.
    #[arg(long, value_name = "FILE", required_unless_present = "finish")]
    to: Option<PathBuf>,
    /// Every device knows the next key: it becomes the owner key, and delegates alone.
    #[arg(long, conflicts_with_all = ["papers", "to"])]
    finish: bool,
}

/// Replaces the owner key.
pub fn rekey(arguments: &RekeyArguments) -> Result<()> {
    let RekeyArguments { out, papers, to, .. } = arguments;
    match (papers, to) {
        (Some(papers), Some(to)) => begin_rekey(out, papers, to),
        _ => finish_rekey(out),
    }
}

fn begin_rekey(out: &Path, path: &Path, to: &Path) -> Result<()> {
    let papers =
        Transfer::decode(&read(path)?).with_context(|| format!("{} are no papers", path.display()))?;
    let ceremony = out.join("ceremony");
    let (owner, second) = (owner_key(&ceremony)?, owner_second(&ceremony)?);
    let (next, next_second) = next_owner_keys(&ceremony)?;
    let keys = keystore(&out.join("keys"))?;
    let next_owner = OwnerKeys {
        owner: next.public(),
        encryption: keys.encryption,
        second: Some(Digest(next_second.public().id())),
    };
    let mut renewed = Vec::new();
    for Sold { manifest, voucher } in papers.0 {
        let mut voucher = Voucher::decode(&voucher).context("voucher does not decode")?;
        let last = voucher.entries.last().context("a device of the papers has no owner")?;
        let last = Entry::decode(Sign1::decode(last)?.payload)?;
        if last.owner != owner.public() {
            bail!("a device of the papers is not ours: its voucher names another owner key");
        }
        let entry = next_owner.next_entry(EntryKind::Rekey, last.epoch);
        voucher.extend(entry, &owner, last.owner_second.is_some().then_some(&second))?;
        renewed.push(Sold { manifest, voucher: voucher.encode() });
    }
    delegate_as(&next, &keys, &out.join("keys"), ("delegation-next.cbor", 1))?;
    let count = renewed.len();
    write_atomic(to, &Transfer(renewed).encode())?;
    println!("{count} devices: {} names the next owner key", to.display());
    println!("restart keys, then: gridseal device rekey --transfer {}", to.display());
    println!("the owner key in use goes on until ceremony rekey --finish: new devices are made out to it");
    Ok(())
}

fn finish_rekey(out: &Path) -> Result<()> {
    let (ceremony, keys) = (out.join("ceremony"), out.join("keys"));
    if !keys.join("delegation-next.cbor").is_file() {
        bail!("no next owner key is in use: ceremony rekey --papers makes one");
    }
    let owner = put_next_owner_key(&ceremony)?;
    let file = owner_file(&owner, &keystore(&keys)?, &owner_second(&ceremony)?);
    config::save(&out.join("owner.toml"), &file)?;
    let manager = out.join("endpoint-manager/config.toml");
    if manager.is_file() {
        let (mut manager_config, _): (config::EndpointManager, _) = config::load(&manager)?;
        manager_config.owner_key.clone_from(&file.owner_key);
        config::save(&manager, &manager_config)?;
    }
    // The last step: until here everything can be repeated.
    std::fs::rename(keys.join("delegation-next.cbor"), keys.join("delegation.cbor"))?;
    println!("owner key        {}", file.owner_key);
    println!(
        "restart keys and endpoint-manager, and give {} to the manufacturer",
        out.join("owner.toml").display()
    );
    Ok(())
}

fn owner_file(
    owner: &SigningKey<OwnerSigning>,
    keys: &PublicKeys,
    second: &SecondSigner<OwnerSecond>,
) -> OwnerFile {
    OwnerFile {
        owner_key: format_public_key(&owner.public()),
        encryption_key: format_public_key(&keys.encryption),
        second_key: Some(hex::encode(second.public().id())),
    }
}

/// Arguments of `ceremony identity`.
#[derive(Debug, clap::Args)]
pub struct IdentityArguments {
    /// Directory of the owner's zones: the inner network's root signs.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the server: letters, digits and hyphens; none of our own services.
    #[arg(long, value_name = "NAME", value_parser = parse_person)]
    name: String,
    /// Its certificate request, PEM: the key stays where it was made.
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// Where its identity goes, PEM; the root goes to the same name with `.root` appended.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// Certifies the key of a server of the inner network that is none of our services.
pub fn identity(arguments: &IdentityArguments) -> Result<()> {
    let IdentityArguments { out, name, csr, to } = arguments;
    let (_, request) = der::pem::decode_vec(&read(csr)?)
        .map_err(|error| anyhow::anyhow!("{} is not PEM: {error}", csr.display()))?;
    let [identity, root] = foreign_identity(&out.join("ceremony"), name, &request)?;
    write_certificates(to, &[identity])?;
    let mut beside = to.clone().into_os_string();
    beside.push(".root");
    write_certificates(Path::new(&beside), &[root])?;
    println!("{} is {name} in the inner network for a year", to.display());
    println!("it may enrol at pki once est.servers of {} names it", out.join("pki/config.toml").display());
    Ok(())
}

/// Arguments of `ceremony transfer`.
#[derive(Debug, clap::Args)]
pub struct TransferArguments {
    /// Directory of the owner's zones: the owner key signs.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Papers of the devices that are sold, as `device papers` has written them.
    #[arg(long, value_name = "FILE")]
    papers: PathBuf,
    /// Public keys of the buyer, as his `ceremony owner` wrote them.
    #[arg(long, value_name = "FILE")]
    buyer: PathBuf,
    /// Where the transfer goes.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Say what would be signed, and sign nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Signs the entries that make a buyer the next owner.
pub fn transfer(arguments: &TransferArguments) -> Result<()> {
    let TransferArguments { out, papers: path, buyer, to, dry_run } = arguments;
    let papers =
        Transfer::decode(&read(path)?).with_context(|| format!("{} are no papers", path.display()))?;
    let (buyer, _): (OwnerFile, _) = config::load(buyer)?;
    let buyer = buyer.keys()?;
    let ceremony = out.join("ceremony");
    let (owner, second) = (owner_key(&ceremony)?, owner_second(&ceremony)?);
    let mut sold = Vec::new();
    for Sold { manifest, voucher } in papers.0 {
        let mut voucher = Voucher::decode(&voucher).context("voucher does not decode")?;
        let last = voucher.entries.last().context("a device of the papers has no owner")?;
        let last = Entry::decode(Sign1::decode(last)?.payload)?;
        if last.owner != owner.public() {
            bail!("a device of the papers is not ours: its voucher names another owner key");
        }
        let epoch = last.epoch.checked_add(1).context("last epoch")?;
        let entry = buyer.next_entry(EntryKind::Transfer, epoch);
        // A second signature where the entry that made us the owner names our second key.
        voucher.extend(entry, &owner, last.owner_second.is_some().then_some(&second))?;
        sold.push(Sold { manifest, voucher: voucher.encode() });
    }
    if *dry_run {
        println!("would sign {} devices over; nothing was signed", sold.len());
        return Ok(());
    }
    let count = sold.len();
    write_atomic(to, &Transfer(sold).encode())?;
    println!("{count} devices signed over: {}", to.display());
    println!("give it to the manufacturer (factory release) and to the endpoint manager (device release)");
    Ok(())
}

/// Arguments of `ceremony approver`.
#[derive(Debug, clap::Args)]
pub struct Approver {
    /// Directory of the owner's zones, as for `ceremony owner`.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the person: lower-case letters, digits, hyphens.
    #[arg(long, value_name = "NAME", value_parser = parse_person)]
    name: String,
}

fn parse_person(text: &str) -> Result<String, String> {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&text.len()) && text.bytes().all(is_good) {
        Ok(text.to_owned())
    } else {
        Err("expected lower-case letters, digits and hyphens".to_owned())
    }
}

/// Makes the key by which a person consents to acts that need two, and names it in the key service's configuration.
pub fn approver(arguments: &Approver) -> Result<()> {
    let dir = arguments.out.join("approvers").join(&arguments.name);
    let key = Zone::open_or_create(&dir)?.load_or_generate::<ConsentSigning>(CONSENT_KEY)?;
    let key = format_public_key(&SigningKey::new(&key)?.public());
    println!("{} = \"{key}\"", arguments.name);
    let path = arguments.out.join("keys/config.toml");
    if path.is_file() {
        let (mut config, _): (config::Keys, _) = config::load(&path)?;
        config.approvers.insert(arguments.name.clone(), key);
        config::save(&path, &config)?;
        println!("{} names this person; the key service has to be started again", path.display());
    }
    println!("{} belongs to this person alone", dir.display());
    Ok(())
}
