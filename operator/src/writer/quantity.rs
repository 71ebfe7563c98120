//! Kubernetes quantities as numbers of bytes.

/// Decimal and binary suffixes and what they stand for.
const SUFFIXES: [(&str, u128); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// Digits behind the point that count; more are cut off.
const FRACTION_DIGITS_MAX: usize = 9;

/// The bytes of a size such as `10Gi`, a fraction of one cut off. `None`: not a size, or more than
/// a `u64` holds.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let suffix = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix));
    let (number, mut factor) = match suffix {
        Some((suffix, factor)) => (text.strip_suffix(suffix)?, *factor),
        None => (text, 1),
    };
    // `1e3`, without any other suffix.
    let number = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) if suffix.is_none() => {
            factor = 10_u128
                .checked_pow(exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?)?;
            mantissa
        }
        Some(_) | None => number,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let fraction = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    u64::try_from(digits.checked_mul(factor)? / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_means_them() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("1Ki", 1024),
            ("10Gi", 10 << 30),
            ("1.5Gi", 3 << 29),
            (".5Gi", 1 << 29),
            ("5.Gi", 5 << 30),
            ("1k", 1000),
            ("2G", 2_000_000_000),
            ("3e3", 3000),
            ("3E+3", 3000),
            ("2E", 2_000_000_000_000_000_000),
            ("0.0000000001k", 0),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        assert_eq!(bytes("18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in [
            "",
            "Gi",
            ".",
            "-1",
            "+1",
            "1 Gi",
            "1GiB",
            "1.2.3",
            "1e",
            "1e-3",
            "1e3Ki",
            "16Ei",
            "18446744073709551616",
            "1e99",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
