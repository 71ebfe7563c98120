//! [`Quantity`]: an amount of CPU or memory as Kubernetes writes it, to be compared with another.
//!
//! Digits with at most one point, then one of `n u m k M G T P E`, `Ki Mi Gi Ti Pi Ei`, or a power of
//! ten such as `e3`. No sign: nothing here can be negative.

/// Digits of a quantity, before and behind the point; API servers write no more.
const DIGITS_MAX: usize = 18;
/// Finer than this is rounded up.
const NANO: u128 = 1_000_000_000;

/// An amount. Unit: billionths of a CPU or of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(u128);

impl Quantity {
    /// Reads what an annotation says; `None`: it is not of this form, or absurdly large.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(number_len)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || digits.len() > DIGITS_MAX {
            return None;
        }
        let mantissa: u128 = digits.parse().ok()?;
        let (times, by) = scale(suffix)?;
        let by = by.checked_mul(10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
        Some(Self(mantissa.checked_mul(times)?.checked_mul(NANO)?.div_ceil(by)))
    }

    /// Whether it is nothing.
    pub(super) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is a whole number of bytes.
    pub(super) fn is_whole(self) -> bool {
        self.0.is_multiple_of(NANO)
    }
}

/// What a suffix multiplies with and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    const K: u128 = 1_000;
    const KI: u128 = 1_024;
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, K * K * K),
        "u" => (1, K * K),
        "m" => (1, K),
        "k" => (K, 1),
        "M" => (K * K, 1),
        "G" => (K * K * K, 1),
        "T" => (K * K * K * K, 1),
        "P" => (K * K * K * K * K, 1),
        "E" => (K * K * K * K * K * K, 1),
        "Ki" => (KI, 1),
        "Mi" => (KI * KI, 1),
        "Gi" => (KI * KI * KI, 1),
        "Ti" => (KI * KI * KI * KI, 1),
        "Pi" => (KI * KI * KI * KI * KI, 1),
        "Ei" => (KI * KI * KI * KI * KI * KI, 1),
        power => {
            let power: i32 = power.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_u128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suffix_has_its_weight() {
        let same = [
            ("1", "1000m"),
            ("1", "1.0"),
            (".5", "500m"),
            ("1.", "1"),
            ("1m", "1000u"),
            ("1u", "1000n"),
            ("1k", "1000"),
            ("1M", "1000k"),
            ("1G", "1000M"),
            ("1T", "1000G"),
            ("1P", "1000T"),
            ("1E", "1000P"),
            ("1Ki", "1024"),
            ("1Mi", "1024Ki"),
            ("1Gi", "1024Mi"),
            ("1Ti", "1024Gi"),
            ("1Pi", "1024Ti"),
            ("1Ei", "1024Pi"),
            ("1e3", "1k"),
            ("1E3", "1k"),
            ("1e+3", "1k"),
            ("5e-1", "500m"),
        ];
        for (left, right) in same {
            let (left, right) = (Quantity::parse(left), Quantity::parse(right));
            assert_eq!(left, right);
            assert!(left.is_some());
        }
        assert!(Quantity::parse("127Mi") < Quantity::parse("128Mi"));
        assert!(Quantity::parse("128Mi") < Quantity::parse("135M"));
    }

    #[test]
    fn only_what_is_finer_than_a_billionth_is_rounded_up() {
        assert_eq!(Quantity::parse("0.000000001"), Quantity::parse("1n"));
        assert_eq!(Quantity::parse("0.0000000011"), Quantity::parse("2n"));
        assert!(Quantity::parse("0.0000").is_some_and(Quantity::is_zero));
        assert!(!Quantity::parse("0.1n").is_some_and(Quantity::is_zero));
    }

    #[test]
    fn half_a_byte_is_not_whole() {
        assert!(Quantity::parse("128").is_some_and(Quantity::is_whole));
        assert!(Quantity::parse("1.5k").is_some_and(Quantity::is_whole));
        assert!(!Quantity::parse("128m").is_some_and(Quantity::is_whole));
        assert!(!Quantity::parse("1.5").is_some_and(Quantity::is_whole));
    }

    #[test]
    fn what_kubernetes_does_not_read_is_nothing() {
        let digits = "9".repeat(DIGITS_MAX);
        assert!(Quantity::parse(&digits).is_some());
        for text in [
            "",
            ".",
            "m",
            "-1",
            "+1",
            "1K",
            "1 Mi",
            "1MiB",
            "1,5",
            "1.2.3",
            "1e",
            "1e99",
            "0x1",
            "1Mi ",
            "１",
            &format!("{digits}9"),
        ] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }
}
