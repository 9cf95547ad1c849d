//! The record store of `keys-core`: SQLite, or PostgreSQL where the configuration names one; the same claim on both.

use std::path::Path;

use anyhow::Result;
use gridseal_io::clock::utc_now;
use gridseal_store::{
    Claim, ClaimError, PostgresRecords, PostgresSettings, SoleWriter, SqliteRecords, record_tag_key,
};
use gridseal_trust::audit::{self, Act};
use gridseal_types::records::{Overlay, RecordsError};

use crate::{config, fault::Coded, files::Zone};

/// Records in `keys.db`, authenticated.
pub fn sqlite(dir: &Path) -> Result<SqliteRecords> {
    let path = dir.join("keys.db");
    let records = SqliteRecords::open(&path).map_err(|error| {
        let code = error.code();
        let message = format!("cannot open the key store {}", path.display());
        anyhow::Error::new(error).context(Coded { code, message })
    })?;
    Ok(records.authenticated_by(record_tag_key(Zone::open(dir)?.dek())))
}

/// Records in a schema of a PostgreSQL server on this machine, authenticated. This site stands alone: a commit waits for
/// the server's disk, not for a standby's.
pub fn postgres(postgres: &config::Postgres, dir: &Path) -> Result<PostgresRecords> {
    let settings = PostgresSettings::new(&postgres.connection, &postgres.schema);
    let records = PostgresRecords::connect(settings).map_err(|error| {
        let code = error.code();
        anyhow::Error::new(error).context(Coded { code, message: "cannot connect to the key store".into() })
    })?;
    Ok(records.standing_alone().authenticated_by(record_tag_key(Zone::open(dir)?.dek())))
}

/// Becomes the only writer of records that are not older than their marker.
pub fn claim(records: &mut impl SoleWriter, config: &config::Keys, dir: &Path) -> Result<()> {
    let marker = dir.join(&config.marker);
    let is_first = !marker.exists();
    let claimed = match records.claim(Claim::IfFree, &marker) {
        // Written before rows were authenticated; with a marker that would be an attack.
        Err(ClaimError::Unauthenticated) if is_first => {
            records.claim(Claim::Adopt, &marker).map(|_| Some("keys.adopted"))
        }
        Err(error) if config.accept_restored.is_some() && config.accept_restored == stands_at(&error) => {
            super::outdate_site(dir)?;
            records.claim(Claim::Restored, &marker).map(|_| Some("keys.restored"))
        }
        claimed => claimed.map(|_| None),
    };
    let told = claimed.map_err(|error| {
        let code = error.code();
        anyhow::Error::new(error).context(Coded { code, message: "cannot claim the key store".into() })
    })?;
    if let Some(act) = told {
        records.transact(|view| {
            let mut overlay = Overlay::new(view);
            let act = Act { actor: "keys", act, subject: &"keys.db", detail: &"" };
            audit::append(&mut overlay, utc_now(), act)?;
            Ok::<_, RecordsError>((overlay.into_writes(), ()))
        })?;
    }
    Ok(())
}

/// Where a database and its marker stand that do not belong together.
const fn stands_at(error: &ClaimError) -> Option<[u64; 2]> {
    match error {
        ClaimError::Stale { found, marker } => Some([*found, *marker]),
        ClaimError::MarkerMissing { found } => Some([*found, 0]),
        _ => None,
    }
}
