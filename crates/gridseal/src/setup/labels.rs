//! Labels as pictures: QR codes for a terminal and, as SVG, for a printer.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use qrcode::{Color, EcLevel, QrCode, render::unicode::Dense1x2};

/// Light modules around a code, as its standard wants them.
const QUIET_ZONE: usize = 4;

fn code(text: &[u8]) -> Result<QrCode> {
    QrCode::with_error_correction_level(text, EcLevel::M).context("text is too long for a QR code")
}

/// A QR code of block characters. Light modules are drawn: terminals are dark, and a code with its colours swapped is not read
/// by every scanner.
pub fn terminal(text: &str) -> Result<String> {
    Ok(code(text.as_bytes())?
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build())
}

/// A QR code as SVG, one unit to a module; the text stands below it unless it is empty.
pub fn svg(text: &[u8], caption: &str) -> Result<String> {
    let code = code(text)?;
    let width = code.width();
    let side = width + 2 * QUIET_ZONE;
    let height = side + if caption.is_empty() { 0 } else { QUIET_ZONE };
    let mut path = String::new();
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = (at % width + QUIET_ZONE, at / width + QUIET_ZONE);
            write!(path, "M{x} {y}h1v1h-1z")?;
        }
    }
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {height}\" shape-rendering=\"crispEdges\">\n\
         <rect width=\"{side}\" height=\"{height}\" fill=\"#fff\"/>\n<path d=\"{path}\"/>\n"
    );
    if !caption.is_empty() {
        writeln!(
            svg,
            "<text x=\"{QUIET_ZONE}\" y=\"{side}\" font-family=\"monospace\" font-size=\"2\">{caption}</text>"
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_fits_version_6_and_both_pictures_have_its_modules() -> Result<()> {
        let text = format!("GSO1:A:{}:{}:{}:00000000", "M".repeat(20), "S".repeat(20), "A".repeat(52));
        // 17 + 4 * 6 modules: alphanumeric mode, not bytes.
        assert!(code(text.as_bytes())?.width() <= 41);
        let dark =
            code(text.as_bytes())?.to_colors().into_iter().filter(|color| *color == Color::Dark).count();
        let svg = svg(text.as_bytes(), "S-1")?;
        assert_eq!(svg.matches("h1v1h-1z").count(), dark);
        assert!(svg.contains(">S-1</text>") && terminal(&text)?.lines().count() > 20);
        Ok(())
    }
}
