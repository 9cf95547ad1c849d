//! `gridseal decode sts`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use gridseal_crypto::sts::DecoderKey;
use gridseal_sts::{
    key_change::Sections,
    tid::BaseDate,
    token::{Block, Class, Commodity, Content, Manufacturer, Token},
};
use serde_json::{Map, Value, json};

use crate::{
    observe::tell,
    tools::sts::{Algorithm, base_date, key_bytes, rfc3339},
};

/// Tokens and the key that they are for.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Decoder key in hex: 8 bytes for EA 07, 16 for EA 11. Class 1 needs none.
    #[arg(long, value_name = "HEX")]
    key: Option<String>,
    /// Encryption algorithm.
    #[arg(long, value_enum, default_value = "07")]
    ea: Algorithm,
    /// Base date of the meter, for the token's time.
    #[arg(long, value_name = "YEAR", value_parser = base_date, default_value = "2014")]
    base_date: BaseDate,
    /// Tokens, 20 digits each; spaces and hyphens between digits are skipped.
    #[arg(required = true, value_name = "TOKEN")]
    tokens: Vec<String>,
}

/// Prints one object for each token.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let key = match &arguments.key {
        None => None,
        Some(text) => {
            let taken =
                key_bytes(text).ok().and_then(|mut key| DecoderKey::take(arguments.ea.into(), &mut key));
            let Some(key) = taken else {
                eprintln!(
                    "error: EA {} needs a key of {} bytes in hex",
                    arguments.ea,
                    arguments.ea.key_size()
                );
                return Ok(ExitCode::from(2));
            };
            Some(key)
        }
    };
    let mut all_read = true;
    for text in &arguments.tokens {
        let told = decoded(text, key.as_ref(), arguments.base_date);
        all_read &= told.get("ok") == Some(&Value::Bool(true));
        tell(&Value::Object(told).to_string())?;
    }
    Ok(if all_read { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn failed(mut told: Map<String, Value>, code: &str, message: &str) -> Map<String, Value> {
    told.insert("ok".into(), false.into());
    told.insert("error".into(), json!({ "code": code, "message": message }));
    told
}

fn decoded(text: &str, key: Option<&DecoderKey>, base: BaseDate) -> Map<String, Value> {
    let mut told = Map::new();
    told.insert("token".into(), text.into());
    let token = match Token::parse(text) {
        Ok(token) => token,
        Err(error) => return failed(told, "sts.format", &error.to_string()),
    };
    told.insert("class".into(), Block::class_of(token).number().into());
    if Block::class_of(token) == Class::Reserved {
        return failed(told, "sts.not_supported", "class 3 is reserved: not supported");
    }
    let Some((block, crc_ok)) = Block::open(token, key) else {
        return failed(told, "sts.key", "a token of this class is enciphered: give the meter's decoder key");
    };
    told.insert("crc_ok".into(), crc_ok.into());
    if !crc_ok {
        let why = "check sum is wrong: mistyped, for another meter or key, or no token";
        return failed(told, "sts.crc", why);
    }
    told.insert("subclass".into(), block.subclass.into());
    let content = match Content::of_block(block) {
        Ok(content) => content,
        Err(error) => return failed(told, "sts.not_supported", &error.to_string()),
    };
    told.insert("name".into(), name(&content).into());
    let mut fields: Map<String, Value> = content
        .fields()
        .into_iter()
        .map(|(name, value)| {
            (name.into(), i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from))
        })
        .collect();
    if let Content::KeySection { .. } = content {
        match section(block, key) {
            Some(section) => fields.extend(section),
            None => return failed(told, "sts.range", "section of a key change holds a value out of range"),
        }
    }
    told.insert("fields".into(), fields.into());
    if let Some(tid) = content.tid() {
        told.insert("time".into(), rfc3339(tid.time(base)).into());
    }
    told.insert("ok".into(), true.into());
    told
}

/// The attributes in a section; its part of the key is not shown.
fn section(block: Block, key: Option<&DecoderKey>) -> Option<Map<String, Value>> {
    let mut sections = Sections::default();
    sections.take(block, false).ok()?;
    let is_sta = key.is_some_and(|key| key.algorithm() == gridseal_crypto::sts::Algorithm::Sta);
    let bits = |shift: u32, count: u32| block.payload >> shift & ((1 << count) - 1);
    let told = match block.subclass {
        3 => json!({
            "ken_high": bits(40, 4), "krn": bits(36, 4), "roll_over": bits(35, 1) == 1,
            "third_section": bits(34, 1) == 1, "key_type": bits(32, 2),
        }),
        4 => json!({ "ken_low": bits(40, 4), "ti": bits(32, 8) }),
        8 if is_sta && bits(0, 20) == 0 && bits(20, 24) <= 999_999 => json!({ "sgc": bits(20, 24) }),
        8 if !is_sta => json!({ "sgc_low": bits(32, 12) }),
        9 if !is_sta => json!({ "sgc_high": bits(32, 12) }),
        _ => return None,
    };
    told.as_object().cloned()
}

const fn name(content: &Content) -> &'static str {
    match content {
        Content::Credit { commodity, .. } => match commodity {
            Commodity::Electricity => "credit electricity",
            Commodity::Water => "credit water",
            Commodity::Gas => "credit gas",
            Commodity::Time => "credit time",
        },
        Content::Currency { commodity, .. } => match commodity {
            Commodity::Electricity => "currency credit electricity",
            Commodity::Water => "currency credit water",
            Commodity::Gas => "currency credit gas",
            Commodity::Time => "currency credit time",
        },
        Content::Test { manufacturer: Manufacturer::Two(_), .. } => "test or display, 2-digit manufacturer",
        Content::Test { .. } => "test or display, 4-digit manufacturer",
        Content::ReadExtended { .. } => "read extended flag",
        Content::Management { function, .. } => crate::tools::sts::function_name(*function),
        Content::KeySection { .. } => "key change section",
        _ => "unknown",
    }
}
