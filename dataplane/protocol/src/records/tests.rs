use proptest::prelude::*;

use super::*;

fn record(value: &[u8], headers: &[(&str, &[u8])]) -> pb::Record {
    pb::Record {
        value: Bytes::copy_from_slice(value),
        headers: headers
            .iter()
            .map(|(name, value)| pb::Header {
                name: (*name).to_owned(),
                value: Bytes::copy_from_slice(value),
            })
            .collect(),
    }
}

/// A record whose encoded form has exactly this length.
fn record_of_len(len_bytes: usize) -> pb::Record {
    (0..8)
        .map(|overhead| record(&vec![b'x'; len_bytes - overhead], &[]))
        .find(|record| record.encoded_len() == len_bytes)
        .expect("one overhead fits")
}

#[test]
fn records_are_counted_and_decoded_again() {
    let sent = [record(b"a", &[]), record(b"", &[("k", b"v")]), record(b"ccc", &[])];
    let records = Records::encode(&sent).unwrap();
    assert_eq!(records.count(), 3);
    let decoded: Vec<_> = Iter::new(records.bytes().clone()).map(Result::unwrap).collect();
    assert_eq!(decoded, sent);
    assert_eq!(Records::check(records.bytes().clone()), Ok(records));
}

#[test]
fn an_append_holds_4096_records_and_no_more() {
    let most = vec![record(b"x", &[]); 4096];
    assert_eq!(Records::encode(&most).unwrap().count(), 4096);
    assert_eq!(Records::encode(&vec![record(b"x", &[]); 4097]), Err(Error::TooMany));
    assert_eq!(Records::encode(&[]), Err(Error::Empty));
}

#[test]
fn a_record_holds_1_mib_and_no_more() {
    assert!(Records::encode(&[record_of_len(RECORD_BYTES_MAX)]).is_ok());
    assert_eq!(
        Records::encode(&[record(b"x", &[]), record_of_len(RECORD_BYTES_MAX + 1)]),
        Err(Error::RecordTooLong { record: 1, len_bytes: RECORD_BYTES_MAX + 1 })
    );
}

#[test]
fn an_append_holds_2_mib_and_no_more() {
    // Each record has a tag and a length of three bytes in front.
    let half = record_of_len(APPEND_BYTES_MAX / 2 - 4);
    assert!(Records::encode(&[half.clone(), half.clone()]).is_ok());
    let more = record_of_len(APPEND_BYTES_MAX / 2 - 3);
    assert_eq!(
        Records::encode(&[half, more]),
        Err(Error::TooLong { len_bytes: APPEND_BYTES_MAX + 1 })
    );
}

#[test]
fn headers_end_at_64_and_at_32_kib() {
    let headers: Vec<(&str, &[u8])> = vec![("k", b""); 65];
    assert!(Records::encode(&[record(b"", &headers[..64])]).is_ok());
    assert_eq!(Records::encode(&[record(b"", &headers)]), Err(Error::TooManyHeaders { record: 0 }));
    let longest = vec![0; HEADER_BYTES_MAX - 1];
    assert!(Records::encode(&[record(b"", &[("k", &longest)])]).is_ok());
    assert_eq!(
        Records::encode(&[record(b"", &[("kk", &longest)])]),
        Err(Error::TooManyHeaders { record: 0 })
    );
}

#[test]
fn header_names_are_checked() {
    for name in ["", "pyramid.", "pyramid.time"] {
        assert_eq!(
            Records::encode(&[record(b"", &[(name, b"v")])]),
            Err(Error::HeaderName { record: 0 }),
            "{name:?}"
        );
    }
    for name in ["pyramid", "Pyramid.x", "é"] {
        assert!(Records::encode(&[record(b"", &[(name, b"v")])]).is_ok(), "{name:?}");
    }
    // records { headers { name: "\xff" } }
    let not_utf8 = Bytes::from_static(&[0x2a, 5, 0x12, 3, 0x0a, 1, 0xff]);
    assert_eq!(Records::check(not_utf8), Err(Error::HeaderName { record: 0 }));
}

#[test]
fn foreign_bytes_are_malformed() {
    for bytes in [
        &[0x08, 1][..],               // another field
        &[0x2a, 5, 0x0a],             // cut
        &[0x2a, 2, 0x18, 1],          // an unknown field in the record
        &[0x2a, 4, 0x0a, 0, 0x0a, 0], // two values
        &[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        assert_eq!(
            Records::check(Bytes::copy_from_slice(bytes)),
            Err(Error::Malformed { record: 0 }),
            "{bytes:?}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_is_accepted_decodes(bytes in prop::collection::vec(
        prop_oneof![Just(0x2au8), Just(0x0a), Just(0x12), 0u8..8, any::<u8>()], 0..40)
    ) {
        if let Ok(records) = Records::check(bytes.into()) {
            let decoded: Result<Vec<_>, _> = Iter::new(records.bytes().clone()).collect();
            prop_assert_eq!(decoded.unwrap().len(), usize::try_from(records.count()).unwrap());
        }
    }
}
