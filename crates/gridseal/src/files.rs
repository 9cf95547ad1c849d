//! Files of a process: written whole or not at all, readable by their owner alone, keys only as envelopes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{
    EnvelopeContext, Key, PublicKey, WrappedKey,
    role::{Dek, Role},
    sha256,
};
use gridseal_io::rng::OsRng;
use gridseal_trust::enrol::voucher::{RecoveryKey, VoucherKey};
use gridseal_types::Digest;

use crate::fault::{Coded, coded};

/// The directory that a file lies in: of a bare name, the current one.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a file or directory with one of these bits in its mode; one that is not there is in order.
pub fn refuse_exposed(path: &Path, forbidden: u32) -> Result<()> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if mode & forbidden == 0 {
        return Ok(());
    }
    let what = if mode & forbidden & 0o022 == 0 { "read" } else { "changed" };
    let message =
        format!("{} may be {what} by others (mode {mode:o}): chmod {:o}", path.display(), mode & !forbidden);
    Err(coded("keys.exposed", message))
}

/// Replaces a file by one atomic rename; durable when this returns. What cannot be written whole is not left behind: on a
/// full disk it would take the room that the next try needs.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = directory_of(path);
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write()
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file that may be absent; durable when this returns.
pub fn remove(path: &Path) -> Result<()> {
    let dir = directory_of(path);
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => File::open(dir).and_then(|dir| dir.sync_all()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Reads a file, naming it in the error.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a file that may be absent.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Keeps a second copy of a process out of its directory, until the returned file is dropped.
pub fn lock_directory(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => bail!("another process works in {}", dir.display()),
    }
}

/// A directory whose private keys are wrapped under one key file: a software keystore, to be replaced by an HSM.
#[derive(Debug)]
pub struct Zone {
    dir: PathBuf,
    dek: Key<Dek, 32>,
}

const ZONE_KEY: &str = "zone.kek";

impl Zone {
    /// Opens a zone.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(ZONE_KEY);
        let mut bytes = read(&path).context(Coded {
            code: "zone.missing",
            message: format!("{} opens the keys beside it and cannot be read", path.display()),
        })?;
        let mode = fs::metadata(&path)?.permissions().mode();
        if mode & 0o077 != 0 {
            let message =
                format!("{} may be read by others (mode {:o}): chmod 600", path.display(), mode & 0o777);
            return Err(coded("zone.exposed", message));
        }
        let Some(dek) = Key::take_slice(&mut bytes) else {
            return Err(coded("zone.damaged", format!("{} is not a key file of 32 bytes", path.display())));
        };
        Ok(Self { dir: dir.to_path_buf(), dek })
    }

    /// Opens a zone, or makes one with a fresh key.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        if !dir.join(ZONE_KEY).exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            let mut bytes = gridseal_crypto::random::<32>(&mut OsRng)?;
            write_atomic(&dir.join(ZONE_KEY), &bytes)?;
            bytes.fill(0);
        }
        Self::open(dir)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key that wraps the others.
    pub const fn dek(&self) -> &Key<Dek, 32> {
        &self.dek
    }

    /// Gives the wrapping key away, to the keystore that works with it.
    pub fn into_dek(self) -> Key<Dek, 32> {
        self.dek
    }

    fn context(name: &str) -> EnvelopeContext {
        let hash = sha256(&[name.as_bytes()]);
        let mut object = [0; 16];
        object.copy_from_slice(&hash[..16]);
        EnvelopeContext::new([0; 16], object, 1)
    }

    /// Loads a private key.
    pub fn load<R: Role>(&self, name: &str) -> Result<Key<R, 32>> {
        let path = self.dir.join(format!("{name}.key"));
        let wrapped = WrappedKey(read(&path)?);
        Key::unwrap_key(&self.dek, &Self::context(name), &wrapped)
            .with_context(|| format!("{} does not open under {ZONE_KEY}", path.display()))
    }

    /// Loads a private key, or draws and stores a new P-256 one.
    pub fn load_or_generate<R: Role>(&self, name: &str) -> Result<Key<R, 32>> {
        if self.dir.join(format!("{name}.key")).exists() {
            return self.load(name);
        }
        let key = Key::<R, 32>::generate_scalar(&mut OsRng)?;
        self.store(name, &key)?;
        Ok(key)
    }

    /// Loads a private key of P-384, or draws and stores a new one.
    pub fn load_or_generate_p384<R: Role>(&self, name: &str) -> Result<Key<R, 48>> {
        let path = self.dir.join(format!("{name}.key"));
        if let Some(wrapped) = read_if_there(&path)? {
            return Key::unwrap_key(&self.dek, &Self::context(name), &WrappedKey(wrapped))
                .with_context(|| format!("{} does not open under {ZONE_KEY}", path.display()));
        }
        let key = Key::<R, 48>::generate_scalar(&mut OsRng)?;
        let wrapped = key.wrap(&self.dek, &Self::context(name), &mut OsRng)?;
        write_atomic(&path, &wrapped.0)?;
        Ok(key)
    }

    /// Loads the seed of a second, post-quantum key, or draws and stores a new one.
    pub fn load_or_generate_seed<R: Role>(&self, name: &str) -> Result<Key<R, 32>> {
        if self.dir.join(format!("{name}.key")).exists() {
            return self.load(name);
        }
        let seed = Key::<R, 32>::generate(&mut OsRng)?;
        self.store(name, &seed)?;
        Ok(seed)
    }

    /// Stores a private key, wrapped.
    pub fn store<R: Role>(&self, name: &str, key: &Key<R, 32>) -> Result<()> {
        let wrapped = key.wrap(&self.dek, &Self::context(name), &mut OsRng)?;
        write_atomic(&self.dir.join(format!("{name}.key")), &wrapped.0)
    }
}

/// Writes certificates as PEM.
pub fn write_certificates(path: &Path, chain: &[Vec<u8>]) -> Result<()> {
    let mut text = String::new();
    for der in chain {
        text += &der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der)
            .map_err(|error| anyhow::anyhow!("certificate does not encode: {error}"))?;
    }
    write_atomic(path, text.as_bytes())
}

/// Reads certificates from PEM.
pub fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8(read(path)?).with_context(|| format!("{} is not text", path.display()))?;
    let mut chain = Vec::new();
    for block in text.split_inclusive(END).filter(|block| block.contains(END)) {
        let (_, der) = der::pem::decode_vec(block.trim().as_bytes())
            .map_err(|error| anyhow::anyhow!("{} is not PEM: {error}", path.display()))?;
        chain.push(der);
    }
    if chain.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(chain)
}

/// Parses a public key: x || y in hex, 128 digits.
pub fn parse_public_key(text: &str) -> Result<PublicKey> {
    let bytes = hex::decode(text).context("public key is not hex")?;
    let point: [u8; 64] = bytes.as_slice().try_into().context("public key is not 64 bytes")?;
    PublicKey::from_point(&point).context("public key is not on P-256")
}

/// Parses a SHA-256 digest: 64 hex digits.
pub fn parse_digest(text: &str) -> Result<Digest> {
    Digest::from_slice(&hex::decode(text)?).context("digest is not 32 bytes of hex")
}

/// Parses a voucher key: x || y in hex, and after a colon SHA-256 of its second, post-quantum key when it has one; then,
/// after a plus sign, the manufacturer's recovery key in the same form when it has one.
pub fn parse_voucher_key(text: &str) -> Result<VoucherKey> {
    let (voucher, recovery) = match text.split_once('+') {
        None => (text, None),
        Some((voucher, recovery)) => (voucher, Some(parse_pair(recovery).context("recovery key")?)),
    };
    let (key, second) = parse_pair(voucher).context("voucher key")?;
    Ok(VoucherKey { key, second, recovery: recovery.map(|(key, second)| RecoveryKey { key, second }) })
}

/// A key and, after a colon, the hash of its second one.
fn parse_pair(text: &str) -> Result<(PublicKey, Option<Digest>)> {
    match text.split_once(':') {
        None => Ok((parse_public_key(text)?, None)),
        Some((key, second)) => {
            Ok((parse_public_key(key)?, Some(parse_digest(second).context("second key")?)))
        }
    }
}

/// Prints a voucher key as [`parse_voucher_key`] reads it.
pub fn format_voucher_key(trusted: &VoucherKey) -> String {
    let pair = |key: &PublicKey, second: Option<Digest>| {
        let second = second.map(|second| format!(":{second}")).unwrap_or_default();
        format!("{}{second}", format_public_key(key))
    };
    let recovery = trusted.recovery.map(|recovery| format!("+{}", pair(&recovery.key, recovery.second)));
    format!("{}{}", pair(&trusted.key, trusted.second), recovery.unwrap_or_default())
}

/// Prints a public key as [`parse_public_key`] reads it.
pub fn format_public_key(key: &PublicKey) -> String {
    hex::encode(key.point())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_lies_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("act.cbor")), Path::new("."));
        assert_eq!(directory_of(Path::new("owner/act.cbor")), Path::new("owner"));
    }

    #[test]
    fn what_others_may_change_is_refused_and_what_is_not_there_is_in_order() {
        let dir = std::env::temp_dir().join(format!("gridseal-exposed-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let refused = |mode: u32, forbidden| {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            refuse_exposed(&dir, forbidden).is_err()
        };
        assert!(refused(0o777, 0o022) && refused(0o720, 0o022) && refused(0o704, 0o077));
        assert!(!refused(0o755, 0o022) && !refused(0o700, 0o077));
        fs::remove_dir(&dir).unwrap();
        assert!(refuse_exposed(&dir, 0o077).is_ok());
    }
}
