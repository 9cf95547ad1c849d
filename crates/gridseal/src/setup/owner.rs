//! The owner's side: key service, certificate authorities, identities of the inner services, owner key and delegation.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    Curve, CurveSigner, Key, PublicKey, SecondSigner, Signer, SigningKey,
    role::{CaSigning, OwnerSecond, OwnerSigning, ServiceTls},
};
use gridseal_io::{clock::utc_now, rng::OsRng, tls::spki_hash};
use gridseal_keys::{KeystoreFile, PublicKeys};
use gridseal_pki::{
    Certificate, Csr, Issuer, PartyAuthority, SubjectName, Validity,
    profile::{issuing, pinned, root, service},
    self_signed,
};
use gridseal_trust::enrol::{
    cose::{SignedType, key_id, sign},
    document::{Delegation, Entry, EntryKind, OutOfDate, Policy},
};
use gridseal_types::{Digest, Epoch, SystemTitle, UtcTime};

use crate::{
    files::{self, Zone, read_if_there, write_atomic, write_certificates},
    process::INNER_ROOT,
};

const NEXT_OWNER: &str = "owner-next";
const NEXT_SECOND: &str = "owner-second-next";
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Who has an identity of its own in the inner network: services, and the operator who asks about keys.
pub const SERVICES: [&str; 6] = ["endpoint-manager", "keys", "pki", "headend", "config-server", "operator"];

fn validity(lifetime: Duration) -> Validity {
    Validity::starting(UtcTime(utc_now().0.saturating_sub(300)), lifetime)
}

/// Makes the key service's own keys, unless they are there, and returns their public halves.
pub fn keystore(dir: &Path) -> Result<PublicKeys> {
    let zone = Zone::open_or_create(dir)?;
    let path = dir.join("keystore.cbor");
    let file = match read_if_there(&path)? {
        Some(bytes) => minicbor::decode(&bytes).context("keystore.cbor is no keystore")?,
        None => {
            let file = KeystoreFile::create(zone.dek(), gridseal_crypto::random(&mut OsRng)?, &mut OsRng)?;
            write_atomic(&path, &minicbor::to_vec(&file)?)?;
            file
        }
    };
    Ok(file.public_keys(zone.dek())?)
}

/// The offline owner key: made on first use, stays in the ceremony's directory.
pub fn owner_key(ceremony: &Path) -> Result<SigningKey<OwnerSigning>> {
    let zone = Zone::open_or_create(ceremony)?;
    Ok(SigningKey::new(&zone.load_or_generate::<OwnerSigning>("owner")?)?)
}

/// The owner's second, post-quantum key: as offline as the owner key.
pub fn owner_second(ceremony: &Path) -> Result<SecondSigner<OwnerSecond>> {
    let zone = Zone::open_or_create(ceremony)?;
    Ok(SecondSigner::new(&zone.load_or_generate_seed::<OwnerSecond>("owner-second")?)?)
}

/// The keys that are to take the place of the owner's: made on first use.
pub fn next_owner_keys(ceremony: &Path) -> Result<(SigningKey<OwnerSigning>, SecondSigner<OwnerSecond>)> {
    let zone = Zone::open(ceremony)?;
    let key = SigningKey::new(&zone.load_or_generate::<OwnerSigning>(NEXT_OWNER)?)?;
    Ok((key, SecondSigner::new(&zone.load_or_generate_seed::<OwnerSecond>(NEXT_SECOND)?)?))
}

/// Puts the next owner keys in the place of those in use, which are kept beside. May be repeated.
pub fn put_next_owner_key(ceremony: &Path) -> Result<SigningKey<OwnerSigning>> {
    let zone = Zone::open(ceremony)?;
    let is_there = |name: &str| ceremony.join(format!("{name}.key")).is_file();
    if is_there(NEXT_OWNER) && is_there(NEXT_SECOND) {
        let (next, next_second) = next_owner_keys(ceremony)?;
        if owner_key(ceremony)?.public() != next.public() {
            zone.store("owner-before", &zone.load::<OwnerSigning>("owner")?)?;
            zone.store("owner", &zone.load::<OwnerSigning>(NEXT_OWNER)?)?;
        }
        if owner_second(ceremony)?.public().id() != next_second.public().id() {
            zone.store("owner-second-before", &zone.load::<OwnerSecond>("owner-second")?)?;
            zone.store("owner-second", &zone.load::<OwnerSecond>(NEXT_SECOND)?)?;
        }
        std::fs::remove_file(ceremony.join(format!("{NEXT_OWNER}.key")))?;
    }
    let _ = std::fs::remove_file(ceremony.join(format!("{NEXT_SECOND}.key")));
    owner_key(ceremony)
}

/// The owner key delegates to the key service's K_config, for both uses.
pub fn delegate(
    owner: &SigningKey<OwnerSigning>,
    keys: &PublicKeys,
    keys_dir: &Path,
    generation: u32,
) -> Result<()> {
    delegate_as(owner, keys, keys_dir, ("delegation.cbor", generation))
}

/// The same into a file of this name.
pub fn delegate_as(
    owner: &SigningKey<OwnerSigning>,
    keys: &PublicKeys,
    keys_dir: &Path,
    (name, generation): (&str, u32),
) -> Result<()> {
    let now = utc_now();
    let delegation = Delegation {
        owner_key: key_id(&owner.public()),
        uses: 3,
        key: keys.config,
        generation,
        not_before: now,
        not_after: UtcTime(now.0 + YEAR.as_secs() * 3),
    };
    let signed = sign(owner, SignedType::Delegation, &delegation.encode())?;
    write_atomic(&keys_dir.join(name), &signed)
}

/// Signs an attestation policy. In this version the owner key signs policies too.
pub fn sign_policy(
    owner: &SigningKey<OwnerSigning>,
    path: &Path,
    model: &str,
    pcrs: Vec<(u8, Vec<Digest>)>,
) -> Result<()> {
    let policy = Policy {
        model: model.into(),
        release: "1".into(),
        pcrs,
        ima_keys: Vec::new(),
        ima_paths: Vec::new(),
        version: 1,
        out_of_date: OutOfDate::Grace,
        logs_may_be_empty: true,
        issued: utc_now(),
    };
    write_atomic(path, &sign(owner, SignedType::Policy, &policy.encode())?)
}

/// An offline root: made on first use.
fn offline_root(ceremony: &Path, name: &str) -> Result<Issuer<SigningKey<CaSigning>>> {
    let zone = Zone::open_or_create(ceremony)?;
    let key: SigningKey<CaSigning> = SigningKey::new(&zone.load_or_generate::<CaSigning>(name)?)?;
    let path = ceremony.join(format!("{name}.der"));
    let certificate = match read_if_there(&path)? {
        Some(der) => {
            Certificate::parse(&der).with_context(|| format!("{} is no certificate", path.display()))?
        }
        None => {
            let draft = root(&format!("Gridseal {name}"), &key.public(), validity(YEAR * 20))?;
            let certificate = self_signed(draft, &key, &mut OsRng)?;
            write_atomic(&path, certificate.der())?;
            certificate
        }
    };
    Ok(Issuer::new(key, certificate)?)
}

/// The certificate authority's issuing key, in its own directory, certified by the operational root.
pub fn issuing_authority(ceremony: &Path, pki: &Path) -> Result<()> {
    let root = offline_root(ceremony, "operational-root")?;
    let zone = Zone::open_or_create(pki)?;
    let key: SigningKey<CaSigning> = SigningKey::new(&zone.load_or_generate::<CaSigning>("issuing")?)?;
    let draft = issuing("Gridseal issuing 1", &key.public(), validity(YEAR * 10))?;
    let certificate = root.issue(draft, &mut OsRng)?;
    let chain = [certificate.der().to_vec(), root.certificate().der().to_vec()];
    write_certificates(&pki.join("issuing.pem"), &chain)
}

/// Names of the files of parties' certificates, by suite.
pub const PARTY_SUITES: [u8; 2] = [1, 2];

/// The owner's authorities of DLMS parties, one of each curve, in the certificate authority's directory; with them the key
/// service's certificates as a DLMS client under a title. Both are left where certificate authority and key service read
/// them. What is there stays.
pub fn party_authorities(owner: &Path, title: SystemTitle) -> Result<()> {
    let (pki, keys) = (owner.join("pki"), owner.join("keys"));
    let file: KeystoreFile = minicbor::decode(&files::read(&keys.join("keystore.cbor"))?)
        .context("keystore.cbor is no keystore")?;
    let publics = file.signing_keys(Zone::open(&keys)?.dek())?;
    for suite in PARTY_SUITES {
        let signer = party_signer(&pki, suite)?;
        let anchor_path = pki.join(format!("party-{suite}.der"));
        let anchor = match read_if_there(&anchor_path)? {
            Some(der) => der,
            None => {
                PartyAuthority::found(&format!("Gridseal parties {suite}"), &signer, utc_now(), &mut OsRng)?
            }
        };
        write_atomic(&anchor_path, &anchor)?;
        write_atomic(&keys.join(format!("party-{suite}.der")), &anchor)?;
        let certificate = gridseal_trust::party::Certificate::parse(&anchor)?;
        let authority = PartyAuthority::new(signer, certificate, Vec::new())
            .with_context(|| format!("{} is not the certificate of its key", anchor_path.display()))?;
        // A keystore that was made before there were such keys speaks suite 0.
        let Some(key) = publics.iter().find(|key| key.curve() == authority.curve()) else { continue };
        let client = authority.certify(title, key, utc_now(), &mut OsRng)?;
        write_atomic(&keys.join(format!("client-{suite}.der")), &client)?;
        write_atomic(&pki.join(format!("client-{suite}.der")), &client)?;
    }
    Ok(())
}

/// The key of an authority of parties; drawn when there is none.
pub fn party_signer(pki: &Path, suite: u8) -> Result<CurveSigner> {
    let zone = Zone::open_or_create(pki)?;
    Ok(match Curve::of_suite(suite) {
        Curve::P256 => CurveSigner::new(&zone.load_or_generate::<CaSigning>("party-1")?)?,
        Curve::P384 => CurveSigner::new(&zone.load_or_generate_p384::<CaSigning>("party-2")?)?,
    })
}

/// Identities of the inner services, each with its key in its own directory.
pub fn service_identities(ceremony: &Path, owner: &Path) -> Result<()> {
    let root = offline_root(ceremony, "inner-root")?;
    for name in SERVICES {
        let dir = owner.join(name);
        let zone = Zone::open_or_create(&dir)?;
        let key: SigningKey<ServiceTls> = SigningKey::new(&zone.load_or_generate::<ServiceTls>("identity")?)?;
        let certificate = root.issue(service(name, &key.public(), validity(YEAR))?, &mut OsRng)?;
        write_certificates(&dir.join("identity.pem"), &[certificate.der().to_vec()])?;
        write_certificates(&dir.join(INNER_ROOT), &[root.certificate().der().to_vec()])?;
    }
    Ok(())
}

/// An identity in the inner network for a server that is none of our services: its own key, certified by the offline root.
pub fn foreign_identity(ceremony: &Path, name: &str, csr: &[u8]) -> Result<[Vec<u8>; 2]> {
    if SERVICES.contains(&name) {
        bail!("{name} is one of our own services: nobody else gets its name");
    }
    let root = offline_root(ceremony, "inner-root")?;
    let csr = Csr(csr).parse().map_err(|code| anyhow::anyhow!("{code}: no request for a P-256 key"))?;
    let certificate = root.issue(service(name, csr.key(), validity(YEAR))?, &mut OsRng)?;
    Ok([certificate.der().to_vec(), root.certificate().der().to_vec()])
}

/// The config server's certificate towards devices: self-signed, pinned by redirects. Returns the pin.
pub fn config_server_certificate(dir: &Path, host: &SocketAddr) -> Result<Digest> {
    let zone = Zone::open_or_create(dir)?;
    let key: Key<ServiceTls, 32> = zone.load_or_generate("field")?;
    let key: SigningKey<ServiceTls> = SigningKey::new(&key)?;
    let certificate = pinned_certificate("config-server", &key, host)?;
    write_certificates(&dir.join("field.pem"), std::slice::from_ref(&certificate))?;
    Ok(spki_hash(&certificate)?)
}

/// A self-signed TLS server certificate for an address.
pub fn pinned_certificate(name: &str, key: &SigningKey<ServiceTls>, host: &SocketAddr) -> Result<Vec<u8>> {
    let names = [SubjectName::Ip(host.ip())];
    let draft = pinned(name, &names, &key.public(), validity(YEAR * 19))?;
    Ok(self_signed(draft, key, &mut OsRng)?.der().to_vec())
}

/// What a manufacturer needs to know of an owner.
#[derive(Debug, Clone, Copy)]
pub struct OwnerKeys {
    /// Owner key.
    pub owner: PublicKey,
    /// Owner's encryption key.
    pub encryption: PublicKey,
    /// SHA-256 of the owner's second, post-quantum key.
    pub second: Option<Digest>,
}

impl OwnerKeys {
    /// An entry that makes this owner the next one. Its place in the voucher is set when the voucher is extended.
    pub fn next_entry(&self, kind: EntryKind, epoch: Epoch) -> Entry {
        Entry {
            index: 0,
            epoch,
            kind,
            previous: Digest([0; 32]),
            owner: self.owner,
            encryption: self.encryption,
            issued: utc_now(),
            second_key: None,
            owner_second: self.second,
        }
    }
}
