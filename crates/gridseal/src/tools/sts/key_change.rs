//! `gridseal sts key-change`.

use anyhow::{Result, bail};
use clap::Args;
use gridseal_sts::{
    identity::{KeyAttributes, KeyExpiryNumber, KeyRevisionNumber, KeyType, SupplyGroupCode, TariffIndex},
    key_change::KeyChange,
    tid::{BaseDate, Tid},
};
use gridseal_types::UtcTime;
use serde_json::json;

use super::{Meter, base_date, key_type, parse_rfc3339};
use crate::observe::tell;

/// The key that the meter has, and what the new one is to be; what is not given stays.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    meter: Meter,
    /// New vending key, when it changes.
    #[arg(long, value_name = "HEX")]
    to_vending_key: Option<String>,
    /// New key type.
    #[arg(long)]
    to_key_type: Option<u8>,
    /// New supply group code.
    #[arg(long)]
    to_sgc: Option<u32>,
    /// New tariff index.
    #[arg(long)]
    to_ti: Option<u8>,
    /// New key revision number.
    #[arg(long)]
    to_krn: Option<u8>,
    /// New key expiry number.
    #[arg(long)]
    to_ken: Option<u8>,
    /// New base date: the meter then clears its memory of identifiers.
    #[arg(long, value_name = "YEAR", value_parser = base_date)]
    to_base_date: Option<BaseDate>,
    /// When it is issued (RFC 3339); now by default.
    #[arg(long, value_name = "TIME", value_parser = parse_rfc3339)]
    time: Option<UtcTime>,
    /// Third token with the supply group, for EA 07. EA 11 always has four.
    #[arg(long, visible_alias = "3kct")]
    triplet: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Show both decoder keys, too. For test keys.
    #[arg(long)]
    danger_show_keys: bool,
}

impl Arguments {
    fn next(&self, present: &KeyAttributes) -> Result<KeyAttributes> {
        Ok(KeyAttributes {
            key_type: self.to_key_type.map_or(Ok(present.key_type), key_type)?,
            supply_group: self.to_sgc.map_or(Ok(present.supply_group), SupplyGroupCode::new)?,
            tariff_index: self.to_ti.map_or(Ok(present.tariff_index), TariffIndex::new)?,
            revision: self.to_krn.map_or(Ok(present.revision), KeyRevisionNumber::new)?,
            expiry: self.to_ken.map_or(present.expiry, KeyExpiryNumber),
            base: self.to_base_date.unwrap_or(present.base),
        })
    }
}

/// Makes the tokens and prints them.
pub fn run(arguments: &Arguments) -> Result<()> {
    let meter = &arguments.meter;
    let present = meter.attributes()?;
    let next = arguments.next(&present)?;
    check(&present, &next, arguments.time.unwrap_or_else(gridseal_io::clock::utc_now))?;
    let old = meter.key(&present, None)?;
    let new = meter.key(&next, arguments.to_vending_key.as_ref())?;
    if old.ct_eq(&new) && present == next {
        bail!("the new key is the present one: change something by a --to-* argument");
    }
    let roll_over = present.base != next.base;
    let change = KeyChange { key: &new, attributes: next, roll_over, triplet: arguments.triplet };
    let tokens: Vec<String> = change.tokens(&old)?.iter().map(ToString::to_string).collect();
    if !arguments.json {
        for token in &tokens {
            let grouped: Vec<&str> = (0..5).filter_map(|group| token.get(group * 4..group * 4 + 4)).collect();
            tell(&grouped.join(" "))?;
        }
        if arguments.danger_show_keys {
            tell(&format!("decoder key {}", old.danger_reveal_hex()))?;
            tell(&format!("new decoder key {}", new.danger_reveal_hex()))?;
        }
        return Ok(());
    }
    let mut told = json!({ "tokens": tokens });
    if let (true, Some(fields)) = (arguments.danger_show_keys, told.as_object_mut()) {
        fields.insert("decoder_key".into(), old.danger_reveal_hex().into());
        fields.insert("to_decoder_key".into(), new.danger_reveal_hex().into());
    }
    Ok(tell(&told.to_string())?)
}

fn check(present: &KeyAttributes, next: &KeyAttributes, now: UtcTime) -> Result<()> {
    let (from, to) = (present.key_type, next.key_type);
    if !from.may_bring(to) {
        bail!("a key of type {} may not bring in one of type {}", from.number(), to.number());
    }
    if next.base != present.base && present.base.next() != Some(next.base) {
        bail!("a key change leads to the next base date only");
    }
    // An expired key may be the old one of a change, never the new one. On a base date that has ended or not begun no
    // token can be issued: sets for it are made ahead of time, and published for the past.
    match Tid::at(next.base, now) {
        Ok(tid) if next.expiry.has_expired(tid) => {
            let (expiry, period) = (next.expiry.0, tid.period());
            bail!("the new key has expired: its expiry number {expiry} is below period {period}");
        }
        Ok(_) => {}
        Err(error) => eprintln!("warning: under the new key no token can be issued now: {error}"),
    }
    if to == KeyType::Initialisation {
        bail!("key type 0 is the manufacturer's own: no change leads to it");
    }
    Ok(())
}
