//! The endpoint manager's inbox: a directory in which installers' requests are left. Whoever may write there can do no more
//! than bind what is free; what is not a small regular file with a request in it is moved aside.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gridseal_io::clock::utc_now;
use gridseal_onboarding::endpoint_manager::installation::{self, By};
use gridseal_store::SqliteRecords;
use gridseal_trust::enrol::installation::{InstallRequest, REQUEST_SIZE_MAX};
use gridseal_types::Code;

use crate::{files::read, observe::Observer};

/// The directory beside the endpoint manager's configuration.
pub const INBOX: &str = "inbox";
/// Where refused requests go.
const REFUSED: &str = "refused";
/// Requests taken in one look.
const STEP: usize = 64;

/// Makes the inbox of an endpoint manager.
pub fn make(dir: &Path) -> Result<PathBuf> {
    let inbox = dir.join(INBOX);
    fs::create_dir_all(inbox.join(REFUSED)).with_context(|| format!("cannot make {}", inbox.display()))?;
    Ok(inbox)
}

/// Takes the requests that are there.
pub fn take(inbox: &Path, records: &mut SqliteRecords, observer: &Observer) -> Result<()> {
    for file in fs::read_dir(inbox)?.take(STEP + 1) {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "cbor") {
            continue;
        }
        match bind(&path, records)? {
            Ok(request) => {
                observer.event("installed", &[("serial", &request.label.serial), ("point", &request.point)]);
                fs::remove_file(&path)?;
            }
            Err((code, digest)) => {
                let name = path.file_name().context("request has no name")?;
                let fields: [(&str, &dyn std::fmt::Display); 3] =
                    [("file", &name.display()), ("code", &code.name()), ("message", &digest)];
                observer.event("installation-refused", &fields);
                fs::rename(&path, inbox.join(REFUSED).join(name))?;
            }
        }
    }
    Ok(())
}

/// Binds what a file asks for. When it is refused: why, and SHA-256 of what was read, in hex; empty for what was not.
fn bind(path: &Path, records: &mut SqliteRecords) -> Result<Result<InstallRequest, (Code, String)>> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || usize::try_from(about.len()).is_ok_and(|size| size > REQUEST_SIZE_MAX) {
        return Ok(Err((Code::Size, String::new())));
    }
    let wire = read(path)?;
    let refused = |code| (code, hex::encode(gridseal_crypto::sha256(&[&wire])));
    let Ok(request) = InstallRequest::decode(&wire) else { return Ok(Err(refused(Code::Format))) };
    let bound = records.transact(|view| installation::bind(view, utc_now(), By::Installer, &request))?;
    Ok(bound.map(|_| request).map_err(refused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_trust::enrol::label::LabelA;
    use gridseal_types::{EkName, UtcTime};

    #[test]
    fn what_is_no_request_of_a_known_device_is_moved_aside() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("gridseal-inbox-{}", std::process::id()));
        let inbox = make(&dir)?;
        let label = LabelA { model: "M".into(), serial: "S".into(), device: EkName([0; 34]) };
        let request = InstallRequest { label, point: "P".into(), at: UtcTime(0) };
        fs::write(inbox.join("junk.cbor"), b"junk")?;
        fs::write(inbox.join("large.cbor"), vec![0; REQUEST_SIZE_MAX + 1])?;
        fs::write(inbox.join("stranger.cbor"), request.encode())?;
        std::os::unix::fs::symlink("/dev/zero", inbox.join("link.cbor"))?;
        fs::write(inbox.join("note.txt"), b"")?;
        let mut records = SqliteRecords::open(dir.join("register.db"))?;
        take(&inbox, &mut records, &Observer::new("test"))?;
        for name in ["junk", "large", "stranger", "link"] {
            assert!(fs::symlink_metadata(inbox.join(REFUSED).join(format!("{name}.cbor"))).is_ok(), "{name}");
        }
        assert!(inbox.join("note.txt").exists());
        fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
