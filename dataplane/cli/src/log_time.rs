//! Log times for people: RFC 3339 ↔ milliseconds since 1970 UTC.

/// Unit: days. From 0000-03-01 to 1970-01-01 in the Gregorian calendar.
const DAYS_TO_1970: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;
const DAY_MS: i64 = 86_400_000;

/// `2026-11-24T18:30:00.250Z`.
pub(crate) fn format(time_ms: u64) -> String {
    // Times above this are no times of records; they are shown as the last one.
    let time_ms = i64::try_from(time_ms).unwrap_or(i64::MAX);
    let (days, ms) = (time_ms.div_euclid(DAY_MS), time_ms.rem_euclid(DAY_MS));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let ms = ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// A time in RFC 3339, or a number of milliseconds since 1970.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    if let Ok(time_ms) = text.parse() {
        return Ok(time_ms);
    }
    parse_rfc3339(text).ok_or_else(|| {
        "give a time such as 2026-11-24T18:30:00Z, or milliseconds since 1970".to_owned()
    })
}

fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) =
        (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at_checked(zone)?;
    let zone_minutes = zone_minutes(zone)?;
    let (time, fraction) = time.split_once('.').map_or((time, None), |(t, f)| (t, Some(f)));
    let mut time = time.split(':');
    let (hour, minute, second) =
        (number(time.next()?, 2)?, number(time.next()?, 2)?, number(time.next()?, 2)?);
    let ms = match fraction {
        None => 0,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() => {
            // Milliseconds; what is finer is cut off.
            format!("{digits:0<3}").get(..3)?.parse().ok()?
        }
        Some(_) => return None,
    };
    let is_over = date.next().is_some() || time.next().is_some();
    let days = days(year, month, day);
    // The date exists if it comes out again; a leap second counts as the next second.
    if is_over || self::date(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let seconds = (hour * 60 + minute - zone_minutes) * 60 + second;
    u64::try_from(days * DAY_MS + seconds * 1000 + ms).ok()
}

/// Minutes that the zone is ahead of UTC.
fn zone_minutes(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

/// Exactly so many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

/// Days since 1970. Years are counted from March, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA_DAYS + day_of_era - DAYS_TO_1970
}

/// Year, month and day.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_alike() {
        // From `date -u -d @seconds`.
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_764_000_000_000, "2025-11-24T16:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (time_ms, text) in cases {
            assert_eq!(format(time_ms), text);
            assert_eq!(parse(text), Ok(time_ms));
            assert_eq!(parse(&time_ms.to_string()), Ok(time_ms));
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..366 * 200 {
            let (year, month, day_of_month) = date(day);
            assert_eq!(days(year, month, day_of_month), day);
        }
    }

    #[test]
    fn zones_and_fractions_are_understood() {
        let noon = parse("2026-11-24T12:00:00Z").unwrap();
        assert_eq!(parse("2026-11-24t13:30:00+01:30"), Ok(noon));
        assert_eq!(parse("2026-11-24 07:00:00-05:00"), Ok(noon));
        assert_eq!(parse("2026-11-24T12:00:00.5z"), Ok(noon + 500));
        assert_eq!(parse("2026-11-24T12:00:00.123456Z"), Ok(noon + 123));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-11-24",
            "2026-11-24T12:00:00",
            "2026-11-24T12:00Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-11-24T24:00:00Z",
            "2026-11-24T12:60:00Z",
            "2026-11-24T12:00:00.Z",
            "2026-11-24T12:00:00+1:00",
            "1969-12-31T23:59:59Z",
            "-1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
