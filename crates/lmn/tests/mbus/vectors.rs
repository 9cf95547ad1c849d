//! Walks `tests/vectors/lmn`: every M-Bus vector must give what it expects.

use gridseal_lmn::mbus::OpenOptions;

use super::telegram::{bytes, open, open_with, single};

fn outcome(vector: &toml::Table) -> Result<String, String> {
    let text = |field: &str| vector.get(field).and_then(|value| value.as_str()).unwrap_or_default();
    let options = OpenOptions { is_wired: text("kind") == "wired", ..OpenOptions::default() };
    let input = bytes(text("input"));
    let mut opener = gridseal_lmn::mbus::Opener::default();
    if !text("format").is_empty() {
        opener.formats_mut().add(&bytes(text("format"))).unwrap();
    }
    let result = if text("key").is_empty() {
        open_with(&mut opener, &(), &options, &input)
    } else {
        open_with(&mut opener, &single(text("key")), &options, &input)
    };
    result.map(|(_, line)| line).map_err(|error| format!("{}: {error}", error.code()))
}

#[test]
fn every_vector_gives_what_it_expects_and_one_in_three_is_negative() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/lmn");
    let (mut positive, mut negative) = (0, 0);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let vector: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let text = |field: &str| vector.get(field).and_then(|value| value.as_str()).map(str::to_owned);
        if !matches!(text("kind").as_deref(), Some("wireless" | "wired")) {
            continue;
        }
        for field in ["source", "clause", "made_by"] {
            assert!(text(field).is_some_and(|text| !text.is_empty()), "{name}: {field}");
        }
        if let Some(error) = text("error") {
            negative += 1;
            assert_eq!(outcome(&vector), Err(error), "{name}");
        } else {
            positive += 1;
            assert_eq!(outcome(&vector), Ok(text("expect").unwrap()), "{name}");
        }
    }
    assert!(positive >= 8 && negative * 2 >= positive, "{positive} positive, {negative} negative");
}

#[test]
fn bodies_published_in_clear_are_read_only_when_asked_and_are_never_proven() {
    // T5 as it stands in a log: decrypted, the session still saying that it is encrypted.
    let input = bytes("24442d2c692845631b168d3050209cd6210d177802ff2000000413803c070044139f380700");
    let (key, plain) = (
        single("4e5508544202058100dfefa06b0934a5"),
        OpenOptions { plain_body: true, ..OpenOptions::default() },
    );
    let body = &input[17 + 2..];
    let checksum = gridseal_lmn::mbus::crc::crc(body).to_le_bytes();
    let input = [&input[..17], &checksum, body].concat();
    let mut input = input;
    input[0] = u8::try_from(input.len() - 1).unwrap();
    assert!(open(&key, &OpenOptions::default(), &input).is_err());
    let (_, line) = open(&key, &plain, &input).unwrap();
    assert!(line.starts_with("unproven stripped"), "{line}");
}
