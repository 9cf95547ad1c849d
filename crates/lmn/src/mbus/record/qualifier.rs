//! Combinable VIFE: what qualifies a value.

use alloc::borrow::Cow;

use super::EXTENSION_COUNT_MAX;

/// One combinable VIFE, 7 bits; from the second table (after FC) with `is_second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Qualifier {
    /// Code, 7 bits.
    pub code: u8,
    /// Whether the code is of the second table.
    pub is_second: bool,
}

/// Up to ten qualifiers, in the order sent. Those of the manufacturer are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Qualifiers {
    all: [Qualifier; EXTENSION_COUNT_MAX],
    count: usize,
}

impl Qualifiers {
    /// The qualifiers among the VIFE of a record, and whether manufacturer VIFE follow (VIFE FF).
    pub(super) fn decode(extensions: &[u8]) -> (Self, bool) {
        let mut qualifiers = Self::default();
        let mut is_second = false;
        for extension in extensions {
            match (extension & 0x7F, is_second) {
                //= LMN 8: after VIFE FF all that follow are the manufacturer's
                (0x7F, false) => return (qualifiers, true),
                (0x7C, false) => is_second = true,
                (code, _) => {
                    if let Some(place) = qualifiers.all.get_mut(qualifiers.count) {
                        *place = Qualifier { code, is_second };
                        qualifiers.count = qualifiers.count.saturating_add(1);
                    }
                    is_second = false;
                }
            }
        }
        (qualifiers, false)
    }

    /// The qualifiers in the order sent.
    #[must_use]
    pub fn as_slice(&self) -> &[Qualifier] {
        self.all.get(..self.count).unwrap_or_default()
    }

    /// Whether a code of the first table is among them.
    #[must_use]
    pub fn has(&self, code: u8) -> bool {
        self.as_slice().iter().any(|qualifier| !qualifier.is_second && qualifier.code == code)
    }

    /// The phase, 1 to 3, when one is named.
    #[must_use]
    pub fn phase(&self) -> Option<u8> {
        self.as_slice().iter().find(|q| q.is_second && (1..=3).contains(&q.code)).map(|q| q.code)
    }
}

impl Qualifier {
    /// Name as in the output of `gridseal decode`.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        let code = self.code;
        if self.is_second {
            return match code {
                1..=3 => alloc::format!("phase_l{code}").into(),
                4 => "neutral".into(),
                _ => alloc::format!("second_table_{code:02x}").into(),
            };
        }
        let name = match code {
            0x12 => "average",
            0x13 => "inverse_compact_profile",
            0x14 => "relative_deviation",
            0x1D => "standard_conform",
            0x1E => "compact_profile_with_registers",
            0x1F => "compact_profile",
            0x00..=0x1C => return alloc::format!("record_error_{code:02x}").into(),
            0x20 => "per_second",
            0x21 => "per_minute",
            0x22 => "per_hour",
            0x23 => "per_day",
            0x24 => "per_week",
            0x25 => "per_month",
            0x26 => "per_year",
            0x27 => "per_revolution",
            0x28 | 0x29 => "per_input_pulse",
            0x2A | 0x2B => "per_output_pulse",
            0x2C => "per_litre",
            0x2D => "per_m3",
            0x2E => "per_kg",
            0x2F => "per_kelvin",
            0x30 => "per_kwh",
            0x31 => "per_gj",
            0x32 => "per_kw",
            0x33 => "per_kelvin_litre",
            0x34 => "per_volt",
            0x35 => "per_ampere",
            0x36 => "times_second",
            0x37 => "times_second_per_volt",
            0x38 => "times_second_per_ampere",
            0x39 => "start_of",
            0x3A => "uncorrected",
            0x3B => "forward",
            0x3C => "backward",
            0x3D => "non_metric_unit",
            0x3E => "base_conditions",
            0x3F => "obis_declaration",
            0x40 => "lower_limit",
            0x48 => "upper_limit",
            0x41 => "lower_limit_exceed_count",
            0x49 => "upper_limit_exceed_count",
            0x42..=0x47 | 0x4A..=0x4F => return alloc::format!("limit_exceed_date_{code:02x}").into(),
            0x50..=0x5F => return alloc::format!("limit_exceed_duration_{code:02x}").into(),
            0x60..=0x67 => return alloc::format!("duration_{code:02x}").into(),
            0x68 => "value_during_lower_limit_exceed",
            0x6C => "value_during_upper_limit_exceed",
            0x69 => "leakage",
            0x6D => "overflow",
            0x6A | 0x6B | 0x6E | 0x6F => return alloc::format!("date_{code:02x}").into(),
            0x70..=0x77 => {
                return alloc::format!("times_10^{}", i16::from(code & 7).saturating_sub(6)).into();
            }
            0x78..=0x7B => return alloc::format!("plus_10^{}", i16::from(code & 3).saturating_sub(3)).into(),
            0x7D => "times_1000",
            0x7E => "future_value",
            _ => return alloc::format!("vife_{code:02x}").into(),
        };
        name.into()
    }
}
