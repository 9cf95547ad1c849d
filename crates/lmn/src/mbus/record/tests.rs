//! Records, rule by rule.

use alloc::{format, string::String, vec::Vec};

use super::*;
use crate::reading::Compound;

fn records(hex: &str) -> Vec<Result<String, DecodeError>> {
    let bytes = hex::decode(hex).unwrap();
    Records::new(&bytes, 0, RecordOptions { medium: Medium(2), text_before_extensions: false })
        .map(|record| record.map(|record| line(&record)))
        .collect()
}

fn line(record: &Record<'_>) -> String {
    let reading = &record.reading;
    let value = match reading.value {
        Value::Number(number) => format!("{number}"),
        Value::Real(number) => format!("{number}"),
        Value::Text(text) => format!("{text}"),
        Value::DateTime(at) => format!("{at}"),
        Value::Date(date) => format!("{date}"),
        other => format!("{other:?}"),
    };
    let compound = match reading.compound {
        Compound::None => String::new(),
        Compound::Per(unit) => format!("/{}", unit.symbol()),
        Compound::Times(unit) => format!("*{}", unit.symbol()),
    };
    let unit = record.unit_text.map_or_else(|| String::from(reading.unit.symbol()), |text| format!("{text}"));
    format!("{} {value} {unit}{compound}", reading.quantity.name())
}

fn one(hex: &str) -> String {
    let all = records(hex);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone().unwrap()
}

#[test]
fn the_records_of_the_first_vector_are_read() {
    let all: Vec<_> =
        records("2f2f0c1427048502046d32371f1502fd1700002f2f").into_iter().map(Result::unwrap).collect();
    assert_eq!(all, ["volume 28504.27 m3", "date_time 2008-05-31T23:50 ", "error_flags 0 "]);
}

#[test]
fn every_integer_is_signed_and_flags_are_not() {
    assert_eq!(one("0113ff"), "volume -0.001 m3");
    assert_eq!(one("0213feff"), "volume -0.002 m3");
    assert_eq!(one("0713ffffffffffffffff"), "volume -0.001 m3");
    assert_eq!(one("02fd17ffff"), "error_flags 65535 ");
}

//= LMN 8: BCD with top nibble F is negative, other digits A to E are an error display
#[test]
fn decimal_digits_may_be_negative_or_no_number() {
    assert_eq!(one("0a1334f2"), "volume -0.234 m3");
    assert_eq!(one("0a13341a"), "volume NotANumber([52, 26]) m3");
    assert_eq!(one("0e13563412907856"), "volume 567890123.456 m3");
}

#[test]
fn variable_data_has_its_forms_and_reserved_lengths_are_refused() {
    assert_eq!(one("0d7803434241"), "fabrication_number ABC ");
    assert_eq!(one("0d13c21234"), "volume 3.412 m3");
    assert_eq!(one("0d13d21234"), "volume -3.412 m3");
    assert_eq!(one("0dfd0ce20102"), "model Octets([1, 2]) ");
    for length in ["ca", "da", "f5", "ff"] {
        let error = records(&format!("0d13{length}00")).remove(0).unwrap_err();
        assert_eq!((error.field, error.offset), ("LVAR", 2));
    }
}

#[test]
fn storage_tariff_and_subunit_are_spread_over_the_extensions() {
    let bytes = hex::decode("c4f17f1300000000").unwrap();
    let record = Records::new(&bytes, 0, RecordOptions::default()).next().unwrap().unwrap();
    assert_eq!((record.reading.storage, record.reading.tariff, record.reading.subunit), (0x1E3, 0xF, 3));
    assert_eq!(record.header, &bytes[..4]);
}

#[test]
fn eleven_extensions_are_too_many() {
    for hex in ["8480808080808080808080801300000000", "04938080808080808080808080000000000000"] {
        let error = records(hex).remove(0).unwrap_err();
        assert!(matches!(error.rule, Rule::TooLong { limit: 10, .. }), "{error}");
    }
}

#[test]
fn a_unit_in_words_follows_the_extensions() {
    assert_eq!(one("04fc3b026b6264000000"), "plain_text_unit 100 bk");
    let bytes = hex::decode("04fc026b623b64000000").unwrap();
    let options = RecordOptions { text_before_extensions: true, ..RecordOptions::default() };
    let record = Records::new(&bytes, 0, options).next().unwrap().unwrap();
    assert_eq!(line(&record), "plain_text_unit 100 bk");
}

#[test]
fn corrections_apply_in_order_and_exactly() {
    assert_eq!(one("04937064000000"), "volume 0.000000100 m3");
    assert_eq!(one("04937d64000000"), "volume 100 m3");
    assert_eq!(one("04937a64000000"), "volume 0.200 m3");
    assert_eq!(one("04fb82750f0f0000"), "reactive_energy 385500 varh");
}

#[test]
fn rates_counts_durations_and_dates_change_what_a_value_is() {
    assert_eq!(one("04932264000000"), "volume 0.100 m3/h");
    assert_eq!(one("02934905 00".replace(' ', "").as_str()), "dimensionless 5 ");
    assert_eq!(one("0293520500"), "duration 5 h");
    assert_eq!(one("02936a5f1c"), "date 2010-12-31 ");
}

//= LMN 8: after VIFE FF all that follow are the manufacturer's
//= LMN 8: what the manufacturer defines is kept as such, never guessed
#[test]
fn manufacturer_values_are_kept_and_not_read() {
    assert_eq!(one("02ff200100"), "manufacturer_specific 1 ");
    assert_eq!(one("0293ff220100"), "manufacturer_specific 1 ");
    assert_eq!(one("0f0413"), "manufacturer_specific Octets([4, 19]) ");
    let bytes = [0x1F, 1, 2];
    let record = Records::new(&bytes, 0, RecordOptions::default()).next().unwrap().unwrap();
    assert!(record.more_follows);
}

#[test]
fn reserved_special_difs_are_refused() {
    for dif in ["3f", "4f", "5f", "6f", "8f", "ff"] {
        assert!(records(&format!("{dif}13")).remove(0).is_err(), "{dif}");
    }
    assert!(records("7f").remove(0).is_ok(), "global readout");
}

#[test]
fn truncation_at_every_byte_gives_an_error_or_whole_records() {
    let bytes = hex::decode("0c14270485020dfd0c03434241046d32371f15").unwrap();
    for end in 0..bytes.len() {
        let all: Vec<_> = Records::new(&bytes[..end], 0, RecordOptions::default()).collect();
        let is_boundary = [0, 6, 13].contains(&end);
        assert_eq!(all.iter().all(Result::is_ok), is_boundary, "{end}");
    }
}

#[test]
fn present_values_have_an_obis_code_and_kept_ones_have_none() {
    let obis = |hex: &str, medium| {
        let bytes = hex::decode(hex).unwrap();
        let options = RecordOptions { medium: Medium(medium), text_before_extensions: false };
        Records::new(&bytes, 0, options).next().unwrap().unwrap().reading.obis.map(|code| format!("{code}"))
    };
    assert_eq!(obis("040300000000", 2).as_deref(), Some("1-0:1.8.0.255"));
    assert_eq!(obis("84100300000000", 2).as_deref(), Some("1-0:1.8.1.255"));
    assert_eq!(obis("04833c00000000", 2).as_deref(), Some("1-0:2.8.0.255"));
    assert_eq!(obis("042b00000000", 2).as_deref(), Some("1-0:1.7.0.255"));
    assert_eq!(obis("02fdc8fc010000", 2).as_deref(), Some("1-0:32.7.0.255"));
    assert_eq!(obis("041300000000", 7).as_deref(), Some("8-0:1.0.0.255"));
    assert_eq!(obis("040300000000", 4).as_deref(), Some("6-0:1.0.0.255"));
    for (hex, medium) in
        [("440300000000", 2), ("140300000000", 2), ("041300000000", 2), ("04932200000000", 7)]
    {
        assert_eq!(obis(hex, medium), None, "{hex}");
    }
}
