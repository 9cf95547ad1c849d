//! Units of values.

macro_rules! units {
    ($($(#[$doc:meta])* $variant:ident $symbol:literal $dlms:literal;)*) => {
        /// Unit of a value. Powers of ten are in the value, never in the unit, save where the unit is one of its own
        /// (a tonne, a day).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Unit {
            $($(#[$doc])* $variant,)*
            /// A unit of the DLMS list that has no name here; its code.
            Dlms(u8),
            /// A unit that the meter spells out in the telegram.
            PlainText,
        }

        impl Unit {
            /// Symbol as printed; empty where there is no unit or it is not known.
            #[must_use]
            pub const fn symbol(self) -> &'static str {
                match self { $(Self::$variant => $symbol,)* Self::Dlms(_) | Self::PlainText => "" }
            }

            /// The unit of this symbol.
            #[must_use]
            pub fn from_symbol(symbol: &str) -> Option<Self> {
                match symbol { $($symbol => Some(Self::$variant),)* _ => None }
            }

            /// The unit of a DLMS unit code, as SML uses it. 255 and 0 are no unit.
            ///
            /// # Source
            /// IEC 62056-6-2, unit table.
            #[must_use]
            pub const fn from_dlms(code: u8) -> Self {
                match code { $($dlms => Self::$variant,)* 0 => Self::None, _ => Self::Dlms(code) }
            }

            /// The DLMS unit code; `None` for a unit that the list does not have.
            #[must_use]
            pub const fn to_dlms(self) -> Option<u8> {
                let code = match self { $(Self::$variant => $dlms,)* Self::Dlms(code) => code, Self::PlainText => 0 };
                // Units without a code of their own have one above the list in the table of this file.
                if code == 0 || (code >= 200 && code < 255) { None } else { Some(code) }
            }
        }
    };
}

// The last column is the DLMS unit code; 200 to 254 stand for units that the DLMS list does not have.
units! {
    /// Without unit.
    None "" 255;
    /// Year.
    Year "a" 1;
    /// Month.
    Month "mo" 2;
    /// Week.
    Week "wk" 3;
    /// Day.
    Day "d" 4;
    /// Hour.
    Hour "h" 5;
    /// Minute.
    Minute "min" 6;
    /// Second.
    Second "s" 7;
    /// Degree of angle.
    Degree "°" 8;
    /// Degree Celsius.
    Celsius "°C" 9;
    /// Currency of the contract.
    Currency "currency" 10;
    /// Metre.
    Metre "m" 11;
    /// Cubic metre.
    CubicMetre "m3" 13;
    /// Cubic metre at base conditions.
    CubicMetreCorrected "m3 (base)" 14;
    /// Cubic metre an hour.
    CubicMetrePerHour "m3/h" 15;
    /// Cubic metre an hour at base conditions.
    CubicMetrePerHourCorrected "m3/h (base)" 16;
    /// Litre.
    Litre "l" 19;
    /// Kilogram.
    Kilogram "kg" 20;
    /// Pascal.
    Pascal "Pa" 23;
    /// Bar.
    Bar "bar" 24;
    /// Joule.
    Joule "J" 25;
    /// Joule an hour.
    JoulePerHour "J/h" 26;
    /// Watt.
    Watt "W" 27;
    /// Volt-ampere.
    VoltAmpere "VA" 28;
    /// Var.
    Var "var" 29;
    /// Watt-hour.
    WattHour "Wh" 30;
    /// Volt-ampere-hour.
    VoltAmpereHour "VAh" 31;
    /// Var-hour.
    VarHour "varh" 32;
    /// Ampere.
    Ampere "A" 33;
    /// Volt.
    Volt "V" 35;
    /// Hertz.
    Hertz "Hz" 44;
    /// Kelvin.
    Kelvin "K" 48;
    /// Percent.
    Percent "%" 56;
    /// Decibel-milliwatt.
    DecibelMilliwatt "dBm" 70;
    /// Tonne.
    Tonne "t" 200;
    /// Calorie.
    Calorie "cal" 201;
    /// Cubic foot.
    CubicFoot "ft3" 202;
    /// Cubic metre a minute.
    CubicMetrePerMinute "m3/min" 203;
    /// Cubic metre a second.
    CubicMetrePerSecond "m3/s" 204;
    /// Kilogram an hour.
    KilogramPerHour "kg/h" 205;
    /// Percent relative humidity.
    RelativeHumidity "%RH" 206;
    /// Units of a heat cost allocator.
    HeatCostUnit "HCA" 207;
    /// Bits a second.
    Baud "Bd" 208;
    /// Bit times.
    BitTime "bit times" 209;
    /// Revolution.
    Revolution "rev" 210;
    /// Pulse on an input.
    InputPulse "input pulse" 211;
    /// Pulse on an output.
    OutputPulse "output pulse" 212;
    /// Kelvin times litre.
    KelvinLitre "K*l" 213;
    /// Second per volt.
    SecondPerVolt "s/V" 214;
    /// Second per ampere.
    SecondPerAmpere "s/A" 215;
    /// Gallon of the United States.
    Gallon "gal" 216;
    /// Degree Fahrenheit.
    Fahrenheit "°F" 217;
    /// Kilowatt, as a divisor.
    Kilowatt "kW" 218;
    /// Kilowatt-hour, as a divisor.
    KilowattHour "kWh" 219;
    /// Gigajoule, as a divisor.
    Gigajoule "GJ" 220;
}

/// A second unit that changes the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compound {
    /// There is none.
    #[default]
    None,
    /// The unit is divided by this one.
    Per(Unit),
    /// The unit is multiplied by this one.
    Times(Unit),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dlms_codes_map_both_ways_and_unknown_ones_stay_as_they_are() {
        for (code, symbol) in [
            (27, "W"),
            (30, "Wh"),
            (29, "var"),
            (32, "varh"),
            (33, "A"),
            (35, "V"),
            (44, "Hz"),
            (8, "°"),
            (13, "m3"),
        ] {
            assert_eq!(Unit::from_dlms(code).symbol(), symbol);
            assert_eq!(Unit::from_dlms(code).to_dlms(), Some(code));
        }
        assert_eq!(Unit::from_dlms(61), Unit::Dlms(61));
        assert_eq!(Unit::Dlms(61).to_dlms(), Some(61));
        assert_eq!(Unit::Tonne.to_dlms(), None);
        assert_eq!(Unit::from_dlms(0), Unit::None);
    }
}
