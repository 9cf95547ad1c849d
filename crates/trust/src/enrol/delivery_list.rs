//! A vendor's delivery list and what its columns mean to us: which device of a shipment goes to which connection point.
//!
//! The list is comma-separated text, as anybody exports it. The whole of it is read and compared with what the manufacturer
//! has signed before anything is imported; every row that is wrong is named by its line.
//!
//! # Source
//! Ours; the form of the list is RFC 4180.

use alloc::{
    borrow::ToOwned,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use gridseal_types::{DeviceType, EkName, SystemTitle};

use super::{installation::is_point, label::LabelA};

/// Largest list in bytes.
pub const LIST_SIZE_MAX: usize = 64 << 20;
/// Most columns.
const COLUMNS_MAX: usize = 256;
/// Longest cell in bytes.
const CELL_SIZE_MAX: usize = 1_024;
/// Most errors that are told: a list that is wrong from end to end needs no more.
const ERRORS_MAX: usize = 1_000;
/// Our names of columns.
pub const FIELDS: [&str; 6] = ["serial", "label", "point", "model", "device_type", "system_title"];

/// What the columns of a vendor's list mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// What stands between two cells.
    pub separator: char,
    /// Our field, one of [`FIELDS`], and the name of its column; empty where the columns have our names.
    pub columns: BTreeMap<String, String>,
    /// By our field: what the vendor writes, and what we say. Any other value of such a field is an error.
    pub values: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for Mapping {
    /// A list with our own names.
    fn default() -> Self {
        Self { separator: ',', columns: BTreeMap::new(), values: BTreeMap::new() }
    }
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// Line of the list, from 1; 0 for the list as a whole.
    pub line: usize,
    /// What is wrong, and with what.
    pub why: String,
}

/// One device of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    line: usize,
    cells: BTreeMap<&'static str, String>,
}

/// What the shipment says of one device.
#[derive(Debug, Clone)]
pub struct Shipped<'s> {
    /// Device.
    pub device: EkName,
    /// Serial number.
    pub serial: &'s str,
    /// Model.
    pub model: &'s str,
    /// What it is.
    pub device_type: DeviceType,
    /// DLMS system title.
    pub system_title: SystemTitle,
}

/// The rows of a list.
///
/// # Errors
/// Every line that is wrong.
pub fn rows(text: &str, mapping: &Mapping) -> Result<Vec<Row>, Vec<RowError>> {
    let mut records = records(text, mapping.separator).map_err(|error| vec![error])?.into_iter();
    let Some((_, names)) = records.next() else {
        return Err(vec![RowError { line: 0, why: "the list is empty".into() }]);
    };
    let columns = columns(&names, mapping)?;
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (line, cells) in records {
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        if errors.len() >= ERRORS_MAX {
            break;
        }
        if cells.len() != names.len() {
            let why = format!("{} cells where the first line has {}", cells.len(), names.len());
            errors.push(RowError { line, why });
            continue;
        }
        let mut row = Row { line, cells: BTreeMap::new() };
        for (field, at) in &columns {
            let Some(cell) = cells.get(*at).map(|cell| cell.trim()).filter(|cell| !cell.is_empty()) else {
                continue;
            };
            match mapping.values.get(*field).map(|values| values.get(cell)) {
                None => drop(row.cells.insert(field, cell.into())),
                Some(Some(ours)) => drop(row.cells.insert(field, ours.clone())),
                Some(None) => {
                    errors.push(RowError { line, why: format!("{field}: no value for {cell:?}") });
                }
            }
        }
        rows.push(row);
    }
    if errors.is_empty() { Ok(rows) } else { Err(errors) }
}

/// Where each of our fields stands.
fn columns(names: &[String], mapping: &Mapping) -> Result<Vec<(&'static str, usize)>, Vec<RowError>> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for field in FIELDS {
        let name = match mapping.columns.get(field) {
            Some(name) => name.as_str(),
            None if mapping.columns.is_empty() => field,
            None => continue,
        };
        let mut places = (0..).zip(names).filter(|(_, known)| known.trim() == name).map(|(at, _)| at);
        match (places.next(), places.next()) {
            (Some(at), None) => found.push((field, at)),
            (Some(_), Some(_)) => {
                errors.push(RowError { line: 1, why: format!("two columns {name:?}") });
            }
            (None, _) if mapping.columns.is_empty() => {}
            (None, _) => errors.push(RowError { line: 1, why: format!("{field}: no column {name:?}") }),
        }
    }
    if errors.is_empty() && !found.iter().any(|(field, _)| matches!(*field, "serial" | "label")) {
        errors.push(RowError { line: 1, why: "no column that says which device: serial or label".into() });
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// Comma-separated values: quoted cells may hold the separator, line ends and, doubled, quotation marks. Each record comes
/// with the line it begins in.
///
/// # Source
/// RFC 4180, with any separator; a byte-order mark and lone line feeds are taken too.
fn records(text: &str, separator: char) -> Result<Vec<(usize, Vec<String>)>, RowError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records: Vec<(usize, Vec<String>)> = Vec::new();
    let (mut line, mut began) = (1, 1);
    let (mut record, mut cell) = (Vec::new(), String::new());
    let (mut is_quoted, mut was_quoted) = (false, false);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        line += usize::from(char == '\n');
        let fault = |why: &str| Err(RowError { line, why: why.into() });
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' if is_quoted => (is_quoted, was_quoted) = (false, true),
            '"' if cell.is_empty() && !was_quoted => is_quoted = true,
            '"' => return fault("a quotation mark inside of a cell"),
            char if is_quoted => cell.push(char),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                record.push(core::mem::take(&mut cell));
                records.push((began, core::mem::take(&mut record)));
                (began, was_quoted) = (line, false);
            }
            char if char == separator => {
                record.push(core::mem::take(&mut cell));
                was_quoted = false;
            }
            _ if was_quoted => return fault("text after a quoted cell"),
            char => cell.push(char),
        }
        if cell.len() > CELL_SIZE_MAX || record.len() >= COLUMNS_MAX {
            return fault("more than 256 cells, or a cell of more than 1024 bytes");
        }
    }
    if is_quoted {
        return Err(RowError { line: began, why: "a quoted cell without an end".into() });
    }
    if !cell.is_empty() || was_quoted || !record.is_empty() {
        record.push(cell);
        records.push((began, record));
    }
    Ok(records)
}

/// Where each device of a shipment goes: connection point by device.
pub type Points = BTreeMap<EkName, (usize, String)>;

/// Compares a list with a shipment.
///
/// # Errors
/// Every row that does not fit.
pub fn assign(rows: &[Row], shipment: &[Shipped<'_>]) -> Result<Points, Vec<RowError>> {
    let by_serial: BTreeMap<&str, &Shipped<'_>> =
        shipment.iter().map(|shipped| (shipped.serial, shipped)).collect();
    let mut points = Points::new();
    let mut errors = Vec::new();
    let mut first_at: BTreeMap<EkName, usize> = BTreeMap::new();
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        if errors.len() >= ERRORS_MAX {
            break;
        }
        let outcome = device_of(row, &by_serial).and_then(|shipped| {
            fits(row, shipped)?;
            if let Some(line) = first_at.insert(shipped.device, row.line) {
                return Err(format!("{} is in line {line} already", shipped.serial));
            }
            let Some(point) = row.cells.get("point") else { return Ok(None) };
            if !is_point(point) {
                return Err(format!("{point:?} names no connection point: 1 to 40 of 0-9 A-Z a-z - . / _ :"));
            }
            match taken.insert(point, row.line) {
                Some(line) => Err(format!("connection point {point} is in line {line} already")),
                None => Ok(Some((shipped.device, point.clone()))),
            }
        });
        match outcome {
            Ok(Some((device, point))) => drop(points.insert(device, (row.line, point))),
            Ok(None) => {}
            Err(why) => errors.push(RowError { line: row.line, why }),
        }
    }
    if errors.is_empty() { Ok(points) } else { Err(errors) }
}

fn device_of<'s>(row: &Row, by_serial: &BTreeMap<&str, &'s Shipped<'s>>) -> Result<&'s Shipped<'s>, String> {
    let label = row.cells.get("label").map(|text| LabelA::parse(text));
    let label = label.transpose().map_err(|error| format!("label: {error}"))?;
    let serial = match (row.cells.get("serial"), &label) {
        (Some(serial), Some(label)) if *serial != label.serial => {
            return Err(format!("serial {serial}, but the label says {}", label.serial));
        }
        (Some(serial), _) => serial.as_str(),
        (None, Some(label)) => label.serial.as_str(),
        (None, None) => return Err("neither serial nor label".into()),
    };
    let shipped = by_serial.get(serial).ok_or_else(|| format!("{serial} is not in the shipment"))?;
    match &label {
        Some(label) if label.device != shipped.device || label.model != shipped.model => {
            Err(format!("the label of {serial} is another device's"))
        }
        _ => Ok(shipped),
    }
}

/// What the vendor's list says must be what the manufacturer has signed.
fn fits(row: &Row, shipped: &Shipped<'_>) -> Result<(), String> {
    let signed = [
        ("model", shipped.model.to_owned()),
        ("device_type", shipped.device_type.name().to_owned()),
        ("system_title", shipped.system_title.to_string()),
    ];
    for (field, signed) in signed {
        let listed = row.cells.get(field);
        if listed.is_some_and(|listed| !listed.eq_ignore_ascii_case(&signed)) {
            let listed = listed.map_or("", String::as_str);
            return Err(format!(
                "{field}: {listed} in the list, {signed} in the manifest of {}",
                shipped.serial
            ));
        }
    }
    Ok(())
}

/// Any text as a list: no panic, and equal input gives equal output.
pub(super) fn fuzz_entry(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let read = rows(text, &Mapping::default());
    assert_eq!(read, rows(text, &Mapping::default()), "equal input gives equal output");
    if let Ok(rows) = read {
        assert!(rows.is_empty() || assign(&rows, &[]).is_err(), "no device is in an empty shipment");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLE: SystemTitle = SystemTitle([b'G', b'S', b'L', 0, 0, 0, 0, 1]);

    fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn ours() -> Mapping {
        Mapping::default()
    }

    fn shipment() -> [Shipped<'static>; 2] {
        ["A-1", "A-2"].map(|serial| Shipped {
            device: EkName([serial.as_bytes()[2]; 34]),
            serial,
            model: "GS-1",
            device_type: DeviceType::Meter,
            system_title: TITLE,
        })
    }

    fn whys(errors: Vec<RowError>) -> Vec<(usize, String)> {
        errors.into_iter().map(|error| (error.line, error.why)).collect()
    }

    #[test]
    fn a_vendors_columns_and_values_become_ours() {
        let kinds = texts([("Strommesszähler", "meter")]);
        let mapping = Mapping {
            separator: ';',
            columns: texts([("serial", "Serial No."), ("point", "MaLo"), ("device_type", "Art")]),
            values: [("device_type".to_owned(), kinds)].into(),
        };
        let text = "\u{feff}Pos;Serial No.;Art;MaLo\r\n1;A-1;Strommesszähler;\"DE/0001\"\r\n\r\n2;A-2;;\r\n";
        let rows = rows(text, &mapping).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
        let points = assign(&rows, &shipment()).unwrap();
        assert_eq!(points.into_values().collect::<Vec<_>>(), [(2, "DE/0001".to_owned())]);
        let unknown = text.replace("Strommesszähler", "Gaszähler");
        let errors = rows_of(&unknown, &mapping).unwrap_err();
        assert_eq!(whys(errors), [(2, "device_type: no value for \"Gaszähler\"".to_owned())]);
    }

    fn rows_of(text: &str, mapping: &Mapping) -> Result<Vec<Row>, Vec<RowError>> {
        rows(text, mapping)
    }

    #[test]
    fn every_row_that_does_not_fit_is_named_by_its_line() {
        let label = |serial: &str, device| {
            LabelA { model: "GS-1".into(), serial: serial.into(), device: EkName(device) }.to_string()
        };
        let foreign = label("A-1", core::array::from_fn(|at| [0, 11, 9].get(at).copied().unwrap_or(9)));
        let rows = rows(
            &format!(
                "serial,label,point,model\nA-9,,P1,\nA-1,nonsense,P2,\nA-1,{foreign},P3,\n,,P4,\nA-1,,P 5,\n\
                 A-2,,P6,GS-2\nA-2,,P7,gs-1\nA-2,,P8,\nA-1,,P7,\n"
            ),
            &ours(),
        )
        .unwrap();
        let errors = whys(assign(&rows, &shipment()).unwrap_err());
        let lines: Vec<usize> = errors.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7, 9, 10], "{errors:?}");
        for (at, part) in [
            (0, "not in the shipment"),
            (1, "label:"),
            (2, "another device's"),
            (3, "neither"),
            (4, "names no connection point"),
            (5, "model: GS-2 in the list, GS-1 in the manifest"),
            (6, "in line 8 already"),
            (7, "in line "),
        ] {
            assert!(errors[at].1.contains(part), "{part}: {errors:?}");
        }
    }

    #[test]
    fn a_list_that_is_no_list_says_where() {
        let fault = |text: &str| whys(rows(text, &ours()).unwrap_err());
        assert_eq!(fault("")[0].1, "the list is empty");
        assert_eq!(fault("point\nP1\n")[0].0, 1);
        assert_eq!(fault("serial,serial\nA,B\n")[0].1, "two columns \"serial\"");
        assert_eq!(fault("serial,point\nA\n")[0], (2, "1 cells where the first line has 2".into()));
        assert_eq!(fault("serial\n\"A\n\nB")[0], (2, "a quoted cell without an end".into()));
        assert_eq!(fault("serial\nA\nA\"B\n")[0], (3, "a quotation mark inside of a cell".into()));
        assert_eq!(fault("serial\n\"A\"B\n")[0], (2, "text after a quoted cell".into()));
        let named = Mapping { columns: texts([("serial", "No")]), ..ours() };
        assert_eq!(whys(rows("serial\nA\n", &named).unwrap_err())[0].1, "serial: no column \"No\"");
        let two_lines = rows("serial,point\n\"A\"\"1\",\"a\nb\"\nA-2,P\n", &ours()).unwrap();
        assert_eq!(two_lines[0].cells["serial"], "A\"1");
        assert_eq!(two_lines[1].line, 4, "lines of the file, not records");
    }
}
