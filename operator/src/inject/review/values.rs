//! Counts the values of a JSON text before memory is given to them.
//!
//! Decoded, an object with one member takes about a hundred times as much memory as its seven
//! characters. A limit of length alone would have to be far below what pods need.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Whether the text has at most `most` values; objects and lists count, and so does what is in them.
///
/// # Errors
///
/// It is nested too deep.
pub(super) fn are_at_most(most: usize, text: &RawValue) -> Result<bool, serde_json::Error> {
    let mut left = Some(most);
    let mut decoder = serde_json::Deserializer::from_str(text.get());
    let counted = Count(&mut left).deserialize(&mut decoder);
    if left.is_none() { Ok(false) } else { counted.map(|()| true) }
}

/// How many more there may be; `None`: there were too many.
struct Count<'a>(&'a mut Option<usize>);

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<(), D::Error> {
        *self.0 = self.0.and_then(|left| left.checked_sub(1));
        if self.0.is_none() {
            return Err(D::Error::custom("too many values"));
        }
        decoder.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Count(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while object.next_key::<IgnoredAny>()?.is_some() {
            object.next_value_seed(Count(&mut *self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are(most: usize, text: &str) -> Result<bool, String> {
        let text: &RawValue = serde_json::from_str(text).unwrap();
        are_at_most(most, text).map_err(|error| error.to_string())
    }

    #[test]
    fn each_value_is_counted_once() {
        for (text, values) in [
            ("null", 1),
            ("[]", 1),
            ("{}", 1),
            (r#""[1,2,3]""#, 1),
            ("[1, -1, 1.5, true]", 5),
            (r#"{"a": {"b": "c"}, "d": [null, {}]}"#, 6),
        ] {
            assert_eq!(are(values, text), Ok(true), "{text}");
            assert_eq!(are(values - 1, text), Ok(false), "{text}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_told() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(are(1_000, &nested(127)), Ok(true));
        let error = are(1_000, &nested(128)).unwrap_err();
        assert!(error.contains("recursion limit"), "{error}");
    }
}
