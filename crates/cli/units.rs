//! Sizes and times as people write them.

pub use brevity::eval::report::words::{bytes, count};

/// Reads `8GiB`, `700MB`, `1.5g` or a plain number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write `8GiB`, `700MB` or a number of bytes");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().map_err(|_| wrong())?;
    let unit: f64 = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        "t" | "tib" => 1099511627776.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(wrong()),
    };
    let bytes = number * unit;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `4.2 s`, `3 min 12 s`, `2 h 5 min`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, value) in
            [("8GiB", 8 << 30), ("700MB", 700_000_000), ("1.5g", 3 << 29), ("12", 12), ("64 KiB", 65536)]
        {
            assert_eq!(parse_bytes(text), Ok(value), "{text}");
        }
        for text in ["", "GiB", "12 parsecs", "-3MB", "1e400GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_in_fitting_units() {
        assert_eq!((bytes(1023), bytes(271 << 20)), ("1023 B".into(), "271.0 MiB".into()));
        assert_eq!((count(999), count(134_500_000)), ("999".into(), "134.5 M".into()));
        assert_eq!(
            (seconds(4.21), seconds(192.0), seconds(7500.0)),
            ("4.2 s".into(), "3 min 12 s".into(), "2 h 5 min".into())
        );
    }
}
