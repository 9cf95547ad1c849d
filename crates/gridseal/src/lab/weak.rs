//! Keys of a lab file that protect nothing: published, guessable, or used twice. Names only, never a value.

use super::Lab;

/// What is wrong with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// Bytes in arithmetic progression, as the examples of standards and of manuals have them, or an all too short or
    /// well-known secret.
    Published(&'static str),
    /// One value for two purposes.
    Shared(&'static str, &'static str),
}

/// Passwords and secrets that manuals, examples and meters as delivered have.
pub const DEFAULT_PASSWORDS: [&str; 6] =
    ["00000000", "12345678", "ABCDEFGH", "11111111", "password", "DLMSsecret123456"];
/// Fewest bytes of a secret that is no guess.
const SECRET_SIZE_MIN: usize = 8;

/// Whether each byte is the one before plus the same step: all equal, 00 01 02.., 0F 0E 0D.., 00 11 22...
fn is_progression(bytes: &[u8]) -> bool {
    let mut steps = bytes.windows(2).filter_map(|pair| match pair {
        [a, b] => Some(b.wrapping_sub(*a)),
        _ => None,
    });
    let first = steps.next();
    first.is_some() && steps.all(|step| Some(step) == first)
}

impl Lab {
    /// Every key that protects nothing.
    pub fn key_faults(&self) -> Vec<KeyFault> {
        let keys = &self.keys;
        let all = [
            ("keys.guek", &keys.guek),
            ("keys.gak", &keys.gak),
            ("keys.gbek", &keys.gbek),
            ("keys.kek", &keys.kek),
            ("keys.secret", &keys.secret),
        ];
        let there: Vec<(&'static str, &[u8])> =
            all.iter().filter_map(|(name, bytes)| Some((*name, bytes.as_ref()?.0.as_slice()))).collect();
        let mut faults = Vec::new();
        for (name, bytes) in &there {
            let is_secret = *name == "keys.secret";
            let is_default =
                is_secret && DEFAULT_PASSWORDS.iter().any(|password| password.as_bytes() == *bytes);
            if is_progression(bytes) || is_default || (is_secret && bytes.len() < SECRET_SIZE_MIN) {
                faults.push(KeyFault::Published(name));
            }
        }
        for (index, (name, bytes)) in there.iter().enumerate() {
            let again = there.iter().skip(index.saturating_add(1)).filter(|(_, other)| other == bytes);
            faults.extend(again.map(|(other, _)| KeyFault::Shared(name, other)));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progressions_defaults_and_keys_used_twice_are_named_and_random_ones_are_not() {
        let lab = |guek: &str, gak: &str, secret: &str| {
            let text = format!(
                "danger_test_keys = true\n[client]\nsystem_title = \"4D4D4D0000000001\"\n[server]\nsystem_title = \
                 \"4D4D4D0000BC614E\"\n[keys]\nguek = \"{guek}\"\ngak = \"{gak}\"\nsecret = \"{secret}\"\n"
            );
            Lab::parse(&text).unwrap().key_faults()
        };
        let (one, two) = ("8A1F00C3D4427E9155B06D2E93F7A81C", "5B3E91A7C0D2446F8817E3509ABD62F1");
        assert_eq!(lab(one, two, "v3ry-l0ng-and-random"), []);
        assert_eq!(
            lab(one, one, "0x0102FF010203"),
            [KeyFault::Published("keys.secret"), KeyFault::Shared("keys.guek", "keys.gak")]
        );
        for weak in [
            "000102030405060708090A0B0C0D0E0F",
            "0F0E0D0C0B0A09080706050403020100",
            "00112233445566778899AABBCCDDEEFF",
            "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
        ] {
            assert_eq!(
                lab(weak, two, "12345678"),
                [KeyFault::Published("keys.guek"), KeyFault::Published("keys.secret")]
            );
        }
    }
}
