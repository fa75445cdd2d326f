//! Quantities as people type them: rates and piece lengths.

/// Bytes per second, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(pub(crate) u64);

impl<'de> serde::Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rate(&text).map_err(serde::de::Error::custom)
    }
}

/// Reads `500k`, `10M`, `1.5MiB`, `2GB/s`: decimal multiples without an `i`, binary ones with it.
pub(crate) fn parse_rate(text: &str) -> Result<Rate, String> {
    let bytes = parse_bytes(text.strip_suffix("/s").unwrap_or(text))?;
    if bytes == 0 {
        return Err("a rate of 0 would never end; leave the flag out for no limit".into());
    }
    Ok(Rate(bytes))
}

/// Reads a piece length: a power of two from 16 KiB to 16 MiB.
pub(crate) fn parse_piece_length(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text)?;
    match u32::try_from(bytes) {
        Ok(length) if length.is_power_of_two() && (16 << 10..=16 << 20).contains(&length) => Ok(length),
        _ => Err("expected a power of two from 16KiB to 16MiB".into()),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a number of bytes like 500k, 10M or 1.5MiB, not {text:?}");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_suffix(['b', 'B']).unwrap_or(unit);
    let factor: u64 = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "g" | "G" => 1_000_000_000,
        "ki" | "Ki" | "kI" | "KI" => 1 << 10,
        "mi" | "Mi" | "mI" | "MI" => 1 << 20,
        "gi" | "Gi" | "gI" | "GI" => 1 << 30,
        _ => return Err(expected()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(expected());
    }
    let whole: u64 = whole.parse().map_err(|_| expected())?;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| expected())? };
    let bytes = u128::from(whole) * u128::from(factor) + u128::from(part) * u128::from(factor) / u128::from(scale);
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 50).ok_or_else(|| format!("{text:?} is too large"))
}

/// Bytes for people, rounded: `1.4 GiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let tenths = |unit: u128| (u128::from(bytes) * 10 + unit / 2) / unit;
    let mut unit = 1024;
    let mut names = UNITS.iter();
    let mut name = names.next();
    while tenths(unit) >= 10_240
        && let Some(next) = names.next()
    {
        (unit, name) = (unit * 1024, Some(next));
    }
    format!("{}.{} {}", tenths(unit) / 10, tenths(unit) % 10, name.unwrap_or(&"KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_decimal_and_binary_multiples() {
        for (text, bytes) in
            [("1", 1), ("500k", 500_000), ("10M", 10_000_000), ("1.5MiB", 1_572_864), ("2GB/s", 2_000_000_000)]
        {
            assert_eq!(parse_rate(text), Ok(Rate(bytes)), "{text}");
        }
    }

    #[test]
    fn c07_senseless_rates_are_refused_without_saturation() {
        for text in ["", "0", "-5", "NaN", "1e400", "10PB", "1..5", "99999999999999999999", ".5", "5 M", "٣"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn piece_lengths_are_powers_of_two_in_range() {
        assert_eq!(parse_piece_length("1MiB"), Ok(1 << 20));
        for text in ["1M", "8KiB", "32MiB", "0", "-1"] {
            assert!(parse_piece_length(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_binary_units() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1024), "1.0 KiB");
        assert_eq!(show_bytes(1_572_864), "1.5 MiB");
        assert_eq!(show_bytes(5_000_000), "4.8 MiB");
        assert_eq!(show_bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(show_bytes(u64::MAX), "16.0 EiB");
    }
}
