//! Hex as people paste it: arguments, lines of a file, standard input.

/// Lines without comments and without empty ones.
pub fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// What is no hex, and the offset in bytes of the first digit that is none.
pub struct NotHex {
    /// Offset in bytes.
    pub offset: usize,
    /// Why.
    pub message: String,
}

/// Hex with spaces, underscores or a leading 0x.
pub fn hex_bytes(text: &str) -> Result<Vec<u8>, NotHex> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != '_').collect();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits);
    hex::decode(digits).map_err(|error| {
        let offset = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len()) / 2;
        NotHex { offset, message: format!("not hex: {error}") }
    })
}
