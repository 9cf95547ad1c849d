//! `gridseal sts`: prepayment tokens with test keys. Production tokens come from the key service.

mod issue;
mod key_change;

use std::{fmt, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use gridseal_crypto::sts::DecoderKey;
use gridseal_sts::{
    derive::{Dkga, VendingKey},
    identity::{
        DrnCheck, KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, Pan, SupplyGroupCode,
        TariffIndex,
    },
    tid::BaseDate,
    token::Function,
};
use gridseal_types::UtcTime;

/// Noun `sts`.
#[derive(Debug, Subcommand)]
pub enum Sts {
    /// Make a token.
    #[command(
        after_help = "Examples:\n  gridseal sts issue --json --vending-key abababababababab949494949494949401234567 \
        --dkga 04 --ea 07 --iin 600727 --drn 00000000000 --sgc 201457 --ti 1 --krn 1 --class 0 --subclass 0 --value 1 \
        --time 2014-03-01T13:00:00Z --rnd 5\n  gridseal sts issue --class 1 --subclass 0 --control 0xfffffffff \
        --manufacturer 0\n\nTest keys only: production vending keys come from the standard's key management centre.\n\
        Exit codes: 0 done, 2 refused or wrong arguments."
    )]
    Issue(issue::Arguments),
    /// Make the tokens that bring in another key.
    #[command(after_help = "Example:\n  gridseal sts key-change --json --vending-key \
        abababababababab949494949494949401234567 --dkga 04 --ea 07 --iin 600727 --drn 00000000000 --sgc 201457 --ti 1 \
        --krn 1 --to-ti 2\n\nExit codes: 0 done, 2 refused or wrong arguments.")]
    KeyChange(key_change::Arguments),
}

/// Runs a verb.
pub fn run(sts: &Sts) -> Result<ExitCode> {
    let done = match sts {
        Sts::Issue(arguments) => issue::run(arguments),
        Sts::KeyChange(arguments) => key_change::run(arguments),
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Nobody has the token when it could not be written: that is no matter of wrong input.
        Err(error) if error.is::<std::io::Error>() => Err(error),
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(ExitCode::from(2))
        }
    }
}

/// Encryption algorithm (EA) by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Algorithm {
    /// STA.
    #[value(name = "07", alias = "7")]
    Sta,
    /// MISTY1.
    #[value(name = "11")]
    Misty1,
}

impl Algorithm {
    /// Bytes of a decoder key.
    pub const fn key_size(self) -> usize {
        match self {
            Self::Sta => 8,
            Self::Misty1 => 16,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sta => "07",
            Self::Misty1 => "11",
        })
    }
}

impl From<Algorithm> for gridseal_crypto::sts::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sta => Self::Sta,
            Algorithm::Misty1 => Self::Misty1,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Derivation {
    #[value(name = "02", alias = "2")]
    Two,
    #[value(name = "04", alias = "4")]
    Four,
}

/// The meter and its key.
#[derive(Debug, Args)]
pub struct Meter {
    /// Vending key in hex: 8 bytes for DKGA 02, 20 for DKGA 04. A test key: it is visible in the process list.
    #[arg(long, value_name = "HEX")]
    vending_key: Option<String>,
    /// Key derivation.
    #[arg(long, value_enum, default_value = "04")]
    dkga: Derivation,
    /// Encryption algorithm.
    #[arg(long, value_enum, default_value = "07")]
    ea: Algorithm,
    /// Issuer number: 6 digits, or 0000 with a meter number of 13.
    #[arg(long)]
    iin: Option<String>,
    /// Meter number: 11 digits, or 13; ends in its check digit.
    #[arg(long)]
    drn: Option<String>,
    /// Take a meter number whose own check digit is wrong: for test meters.
    #[arg(long)]
    no_drn_check: bool,
    /// Key type: 1 default, 2 unique, 3 common.
    #[arg(long, default_value_t = 2)]
    key_type: u8,
    /// Supply group code.
    #[arg(long, default_value_t = 0)]
    sgc: u32,
    /// Tariff index.
    #[arg(long, default_value_t = 1)]
    ti: u8,
    /// Key revision number.
    #[arg(long, default_value_t = 1)]
    krn: u8,
    /// Key expiry number; 255 does not expire within the base date.
    #[arg(long, default_value_t = 255)]
    ken: u8,
    /// Base date.
    #[arg(long, value_name = "YEAR", value_parser = base_date, default_value = "2014")]
    base_date: BaseDate,
}

impl Meter {
    fn attributes(&self) -> Result<KeyAttributes> {
        Ok(KeyAttributes {
            key_type: key_type(self.key_type)?,
            supply_group: SupplyGroupCode::new(self.sgc)?,
            tariff_index: TariffIndex::new(self.ti)?,
            revision: KeyRevisionNumber::new(self.krn)?,
            expiry: KeyExpiryNumber(self.ken),
            base: self.base_date,
        })
    }

    /// The decoder key under the given vending key, or under the meter's present one.
    fn key(&self, attributes: &KeyAttributes, vending_key: Option<&String>) -> Result<DecoderKey> {
        let for_one =
            "this token is for one meter: give --vending-key, --iin and --drn, and what its key is made from";
        let (Some(iin), Some(drn), Some(vending_key)) =
            (&self.iin, &self.drn, vending_key.or(self.vending_key.as_ref()))
        else {
            anyhow::bail!(for_one);
        };
        let check = if self.no_drn_check { DrnCheck::Off } else { DrnCheck::Strict };
        let pan = Pan::new(iin, drn, check)?;
        let dkga = match self.dkga {
            Derivation::Two => Dkga::Two,
            Derivation::Four => Dkga::Four,
        };
        let vending = VendingKey::take(dkga, &mut key_bytes(vending_key)?)?;
        Ok(vending.derive(self.ea.into(), &pan, attributes)?)
    }
}

fn key_type(number: u8) -> Result<KeyType> {
    KeyType::from_number(number).ok_or_else(|| anyhow::anyhow!("key type must be 0 to 3"))
}

/// Bytes of a key in hex. What is not hex is not shown: it may be a key with a slip in it.
pub fn key_bytes(text: &str) -> Result<Vec<u8>> {
    hex::decode(text).map_err(|_| anyhow::anyhow!("a key is hex: an even number of digits 0 to 9 and a to f"))
}

/// A base date by its year.
pub fn base_date(text: &str) -> Result<BaseDate, String> {
    let year = text.parse().ok().and_then(BaseDate::of_year);
    year.ok_or_else(|| "base dates are 1993, 2014 and 2035".into())
}

/// Name of a management function.
pub const fn function_name(function: Function) -> &'static str {
    match function {
        Function::MaximumPower => "set maximum power limit",
        Function::ClearCredit => "clear credit",
        Function::TariffRate => "set tariff rate",
        Function::ClearTamper => "clear tamper condition",
        Function::PhaseUnbalance => "set maximum phase unbalance limit",
        Function::WaterFactor => "set water meter factor",
        Function::Extended => "extended token set",
    }
}

/// A number in decimal, or in hex after `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

/// The time as RFC 3339 has it, in UTC.
pub fn rfc3339(time: UtcTime) -> String {
    let (year, month, day, hour, minute, second) = time.civil();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A time as RFC 3339 writes it: date, time, and `Z` or an offset.
pub fn parse_rfc3339(text: &str) -> Result<UtcTime, String> {
    let wrong = || format!("{text} is no time such as 2026-11-25T12:00:00Z");
    let field = |from: usize, to: usize| -> Option<u16> {
        text.get(from..to).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    };
    let small = |from: usize, to: usize| field(from, to).and_then(|value| u8::try_from(value).ok());
    let marks = [(4, '-'), (7, '-'), (13, ':'), (16, ':')];
    let marked = marks.iter().all(|(at, mark)| text.get(*at..at + 1) == Some(&mark.to_string()));
    let parted = matches!(text.get(10..11), Some("T" | "t" | " "));
    let civil = || {
        UtcTime::from_civil(
            field(0, 4)?,
            small(5, 7)?,
            small(8, 10)?,
            small(11, 13)?,
            small(14, 16)?,
            small(17, 19)?,
        )
    };
    let local = civil().filter(|_| marked && parted).ok_or_else(wrong)?;
    let zone = text.get(19..).unwrap_or_default();
    let zone =
        zone.strip_prefix('.').map_or(zone, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    if matches!(zone, "Z" | "z") {
        return Ok(local);
    }
    let digits = |from: usize, to: usize| zone.get(from..to).and_then(|part| part.parse::<u64>().ok());
    let offset_s = match (zone.len(), zone.get(3..4), digits(1, 3), digits(4, 6)) {
        (6, Some(":"), Some(hours @ 0..=23), Some(minutes @ 0..=59)) => hours * 3_600 + minutes * 60,
        _ => return Err(wrong()),
    };
    let utc = match zone.chars().next() {
        Some('+') => local.0.checked_sub(offset_s),
        Some('-') => local.0.checked_add(offset_s),
        _ => None,
    };
    utc.map(UtcTime).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_zone_and_nothing_else_is() {
        let noon = parse_rfc3339("2026-11-25T12:00:00Z").unwrap();
        assert_eq!(rfc3339(noon), "2026-11-25T12:00:00Z");
        assert_eq!(parse_rfc3339("2026-11-25T13:00:00+01:00"), Ok(noon));
        assert_eq!(parse_rfc3339("2026-11-25 06:30:00.25-05:30"), Ok(noon));
        for text in [
            "",
            "2026-11-25",
            "2026-11-25T12:00:00",
            "2026-11-25T24:00:00Z",
            "2026-02-30T12:00:00Z",
            "2026-11-25T12:00:00+1:00",
            "2026-11-25T12:00:00+24:00",
            "2026-11-25X12:00:00Z",
            "2026-1125T12:00:00Z0",
            "\u{0661}026-11-25T12:00:00Z",
            "+026-11-25T12:00:00Z",
        ] {
            assert!(parse_rfc3339(text).is_err(), "{text}");
        }
    }
}
