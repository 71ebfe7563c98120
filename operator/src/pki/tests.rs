use std::sync::atomic::{AtomicU64, Ordering};

use pyramid_tls::Authority;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
/// 2026-08-01T00:00:00Z.
const NOW_MS: u64 = 1_785_542_400_000;
const WRITER: WriterKey<'_> = WriterKey { namespace: "shop", name: "main" };

struct TestClock(AtomicU64);

impl TestClock {
    fn now() -> Self {
        Self(AtomicU64::new(NOW_MS))
    }

    fn set_seconds(&self, seconds: u64) {
        self.0.store(NOW_MS + seconds * 1000, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn settings() -> Settings {
    let mut settings = Settings::for_tests();
    settings.pki.writer_life_seconds = 3000;
    settings
}

fn trust(clock: &TestClock) -> Trust {
    Trust::of(Authority::generate("test.local", 100 * DAY, clock).unwrap())
}

/// What has to be applied.
fn next(trust: &Trust, clock: &TestClock, existing: Option<&Secret>) -> Option<Secret> {
    writer_secret(trust, &settings(), WRITER, existing, clock).unwrap()
}

fn made(trust: &Trust, clock: &TestClock) -> Secret {
    let mut secret = next(trust, clock, None).unwrap();
    secret.metadata.uid = Some("uid-1".to_owned());
    secret
}

fn leaf(trust: &Trust, clock: &TestClock, secret: &Secret) -> Recognized {
    let pem = |key| &value(secret, key).unwrap().0;
    trust.authority.recognize(pem(KEY), pem(CERTIFICATE), clock).unwrap()
}

#[test]
fn the_certificate_names_the_writer_and_its_hosts() {
    let clock = TestClock::now();
    let trust = trust(&clock);
    let secret = next(&trust, &clock, None).unwrap();
    let expected = Recognized {
        identity: SpiffeId::writer("test.local", "shop", "main").unwrap(),
        dns_names: [
            "*.main-writer-peers.shop.svc.cluster.local",
            "*.main-writer-peers.shop.svc",
            "main-writer.shop.svc.cluster.local",
            "main-writer.shop.svc",
        ]
        .map(str::to_owned)
        .to_vec(),
        not_before_ms: NOW_MS - 300_000,
        not_after_ms: NOW_MS + 3_000_000,
    };
    assert_eq!(leaf(&trust, &clock, &secret), expected);
    assert_eq!(value(&secret, BUNDLE).unwrap().0, trust.bundle_pem.as_bytes());
    let metadata = ObjectMeta {
        name: Some("main-writer-tls".to_owned()),
        namespace: Some("shop".to_owned()),
        labels: Some(
            [("app.kubernetes.io/managed-by".to_owned(), "pyramid-operator".to_owned())].into(),
        ),
        ..ObjectMeta::default()
    };
    assert_eq!(secret.metadata, metadata);
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    assert_eq!(secret.data.unwrap().len(), 3);
}

#[test]
fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
    let clock = TestClock::now();
    let trust = trust(&clock);
    let secret = made(&trust, &clock);
    // It began 300 s ago and has 3,300 s; two thirds of them are 2,200 s.
    clock.set_seconds(1899);
    assert_eq!(next(&trust, &clock, Some(&secret)), None);
    clock.set_seconds(1900);
    let renewed = next(&trust, &clock, Some(&secret)).unwrap();
    assert_ne!(value(&renewed, KEY), value(&secret, KEY));
    assert_eq!(renewed.metadata.uid.as_deref(), Some("uid-1"));
    assert_eq!(next(&trust, &clock, Some(&renewed)), None);
}

#[test]
fn a_new_bundle_is_told_and_the_leaf_stays() {
    let clock = TestClock::now();
    let mut trust = trust(&clock);
    let secret = made(&trust, &clock);
    let other = Authority::generate("test.local", DAY, &clock).unwrap();
    trust.bundle_pem = bundle::join(&[&trust.bundle_pem, other.bundle_pem()]).unwrap();
    let told = next(&trust, &clock, Some(&secret)).unwrap();
    assert_eq!(value(&told, BUNDLE).unwrap().0, trust.bundle_pem.as_bytes());
    for same in [KEY, CERTIFICATE] {
        assert_eq!(value(&told, same), value(&secret, same), "{same}");
    }
    assert_eq!(next(&trust, &clock, Some(&told)), None);
}

#[test]
fn a_leaf_of_another_root_is_replaced() {
    let clock = TestClock::now();
    let (old, new) = (trust(&clock), trust(&clock));
    let secret = made(&old, &clock);
    let both = bundle::join(&[&old.bundle_pem, &new.bundle_pem]).unwrap();
    let old = Trust { bundle_pem: both.clone(), ..old };
    let new = Trust { bundle_pem: both, ..new };
    let published = next(&old, &clock, Some(&secret)).unwrap();
    assert_eq!(next(&old, &clock, Some(&published)), None);
    let switched = next(&new, &clock, Some(&published)).unwrap();
    assert_ne!(value(&switched, KEY), value(&published, KEY));
    assert_eq!(leaf(&new, &clock, &switched).not_after_ms, NOW_MS + 3_000_000);
}

#[test]
fn a_secret_that_was_changed_by_hand_is_made_anew() {
    let clock = TestClock::now();
    let trust = trust(&clock);
    let secret = made(&trust, &clock);
    assert_eq!(next(&trust, &clock, Some(&secret)), None);
    for key in [KEY, CERTIFICATE, BUNDLE] {
        for change in [None, Some(ByteString(b"damaged".to_vec()))] {
            let mut changed = secret.clone();
            let data = changed.data.as_mut().unwrap();
            data.remove(key);
            data.extend(change.map(|value| (key.to_owned(), value)));
            let mended = next(&trust, &clock, Some(&changed)).expect(key);
            assert_eq!(next(&trust, &clock, Some(&mended)), None, "{key}");
        }
    }
    let empty = Secret { data: None, ..secret };
    assert!(next(&trust, &clock, Some(&empty)).is_some());
}

#[test]
fn the_certificate_of_another_writer_is_replaced() {
    let clock = TestClock::now();
    let trust = trust(&clock);
    let secret = made(&trust, &clock);
    for other in [WriterKey { name: "other", ..WRITER }, WriterKey { namespace: "other", ..WRITER }]
    {
        let result = writer_secret(&trust, &settings(), other, Some(&secret), &clock).unwrap();
        assert!(result.is_some(), "{other:?}");
    }
    let elsewhere = Settings { cluster_domain: "corp.example".to_owned(), ..settings() };
    assert!(writer_secret(&trust, &elsewhere, WRITER, Some(&secret), &clock).unwrap().is_some());
}
