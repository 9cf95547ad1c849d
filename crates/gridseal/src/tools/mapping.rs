//! A mapping file: TOML that names a vendor's delivery list and what its columns mean, or such a list itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_trust::enrol::delivery_list::{FIELDS, LIST_SIZE_MAX, Mapping, Row, RowError, rows};
use serde::Deserialize;

use crate::{config, files::read};

/// A mapping file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingFile {
    /// The vendor's list, relative to this file.
    list: PathBuf,
    /// What stands between two cells.
    #[serde(default = "comma")]
    separator: char,
    /// Our field, and the name of its column.
    columns: BTreeMap<String, String>,
    /// By our field: what the vendor writes, and what we say.
    #[serde(default)]
    values: BTreeMap<String, BTreeMap<String, String>>,
}

const fn comma() -> char {
    ','
}

/// Reads a mapping and its list: the rows, or every line that is wrong.
pub fn load(path: &Path) -> Result<std::result::Result<Vec<Row>, Vec<RowError>>> {
    let is_list = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let (list, mapping) = if is_list {
        (path.to_path_buf(), Mapping::default())
    } else {
        let (MappingFile { list, separator, columns, values }, dir): (MappingFile, _) = config::load(path)?;
        for field in columns.keys().chain(values.keys()) {
            if !FIELDS.contains(&field.as_str()) {
                bail!("{}: no field {field}: there are {}", path.display(), FIELDS.join(", "));
            }
        }
        if columns.is_empty() {
            bail!(
                "{}: [columns] names none: give the list itself when its columns have our names",
                path.display()
            );
        }
        (dir.join(list), Mapping { separator, columns, values })
    };
    let bytes = read(&list)?;
    if bytes.len() > LIST_SIZE_MAX {
        bail!("{} has more than {LIST_SIZE_MAX} bytes", list.display());
    }
    let text = std::str::from_utf8(&bytes)
        .with_context(|| format!("{} is not UTF-8: export it so", list.display()))?;
    Ok(rows(text, &mapping))
}
