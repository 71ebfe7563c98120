use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Told what time it is.
struct Told(AtomicU64);

impl Clock for Told {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    clock: Arc<Told>,
}

impl Fixture {
    fn new() -> Self {
        let clock = Arc::new(Told(AtomicU64::new(1_800_000_000_000)));
        Self { folder: tempfile::tempdir().unwrap(), clock }
    }

    fn open(&self) -> anyhow::Result<Certificates> {
        let listen = ["10.1.2.3:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap()];
        Certificates::open(self.folder.path(), &listen, Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(millis(time), Ordering::Relaxed);
    }

    fn tls(&self, name: &str) -> Tls {
        let directory = tls(self.folder.path()).join(name);
        Tls::open(&directory, Arc::clone(&self.clock) as Arc<dyn Clock>).unwrap()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(path)).unwrap()
    }

    fn serials(&self) -> [String; 3] {
        ["operator", "user", "pusher"].map(|name| self.tls(name).status().serial)
    }
}

#[test]
fn everybody_has_an_identity_and_only_the_owner_reads_keys() {
    let fixture = Fixture::new();
    let domain = fixture.open().unwrap().trust_domain().to_owned();
    assert_eq!(fixture.read(TRUST_DOMAIN), format!("{domain}\n").into_bytes());
    let identities = ["writer", "operator", "user", "pusher"]
        .map(|name| fixture.tls(name).identity().as_str().to_owned());
    let paths = ["ns/dev/writer/dev", "operator", "ns/dev/sa/user", "ns/dev/sa/pusher"];
    assert_eq!(identities, paths.map(|path| format!("spiffe://{domain}/{path}")));
    let mode = |path: &str| {
        let path = fixture.folder.path().join(path);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    for directory in ["tls", "tls/ca", "tls/user"] {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
    for key in ["tls/ca/ca.key", "tls/user/tls.key", "tls/writer/tls.key"] {
        assert_eq!(mode(key), 0o600, "{key}");
    }
}

#[test]
fn a_start_renews_what_has_less_than_a_third_of_its_life_left() {
    let fixture = Fixture::new();
    fixture.open().unwrap();
    let (root, first) = (fixture.read("tls/ca/ca.crt"), fixture.serials());
    fixture.pass(days(60));
    fixture.open().unwrap();
    assert_eq!(fixture.serials(), first);
    fixture.pass(Duration::from_secs(1));
    fixture.open().unwrap();
    let second = fixture.serials();
    assert!(first.iter().zip(&second).all(|(first, second)| first != second));
    // Long after all of them have expired.
    fixture.pass(days(400));
    fixture.open().unwrap();
    assert_ne!(fixture.serials(), second);
    assert_eq!(fixture.read("tls/ca/ca.crt"), root);
}

#[tokio::test(start_paused = true)]
async fn what_grows_old_while_it_runs_is_renewed_within_an_hour() {
    let fixture = Fixture::new();
    let certificates = fixture.open().unwrap();
    let first = fixture.serials();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(certificates.keep(stop.clone()));
    tokio::time::sleep(2 * LOOK).await;
    assert_eq!(fixture.serials(), first);
    fixture.pass(days(61));
    tokio::time::sleep(LOOK + Duration::from_secs(1)).await;
    assert_ne!(fixture.serials(), first);
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[test]
fn what_is_lost_or_damaged_is_made_anew_for_the_same_identities() {
    let fixture = Fixture::new();
    let domain = fixture.open().unwrap().trust_domain().to_owned();
    let user = fixture.tls("user").identity().clone();
    let at = |path: &str| fixture.folder.path().join(path);
    fs::write(at("tls/user/tls.key"), "").unwrap();
    fs::remove_dir_all(at("tls/pusher")).unwrap();
    // A start that ended before it was done.
    fs::create_dir(at("tls/pusher")).unwrap();
    fixture.open().unwrap();
    assert_eq!(
        (fixture.tls("user").identity(), fixture.tls("pusher").status().reloads),
        (&user, 0)
    );

    fs::remove_dir_all(at("tls")).unwrap();
    assert_eq!(fixture.open().unwrap().trust_domain(), domain);
    assert_eq!(fixture.tls("user").identity(), &user);
    // The trust domain is with the authority, too.
    fs::remove_file(at(TRUST_DOMAIN)).unwrap();
    assert_eq!(fixture.open().unwrap().trust_domain(), domain);
}

#[test]
fn an_authority_that_cannot_be_used_is_named_and_stays() {
    let refused = |break_it: &dyn Fn(&Fixture, &Path), expected: &str| {
        let fixture = Fixture::new();
        fixture.open().unwrap();
        break_it(&fixture, &tls(fixture.folder.path()).join("ca"));
        let before = fixture.read("tls/ca/ca.crt");
        let error = fixture.open().err().map(|error| format!("{error:#}")).unwrap();
        assert!(error.contains(expected) && error.contains("made anew"), "{error}");
        assert_eq!(fixture.read("tls/ca/ca.crt"), before);
    };
    refused(&|_, ca| fs::write(ca.join("ca.key"), "no key").unwrap(), "damaged");
    refused(&|_, ca| fs::remove_file(ca.join("ca.key")).unwrap(), "its key is missing");
    refused(&|fixture, _| fixture.pass(AUTHORITY_LIFE), "has expired");
    let foreign = |fixture: &Fixture, _: &Path| {
        fs::write(fixture.folder.path().join(TRUST_DOMAIN), "other.pyramid\n").unwrap();
    };
    refused(&foreign, "the data directory is one of other.pyramid");
}

#[test]
fn a_trust_domain_that_is_none_is_named() {
    let fixture = Fixture::new();
    fixture.open().unwrap();
    fs::write(fixture.folder.path().join(TRUST_DOMAIN), "No Domain").unwrap();
    let error = fixture.open().err().map(|error| format!("{error:#}")).unwrap();
    assert!(error.contains("holds no trust domain"), "{error}");
}

#[test]
fn rights_are_due_in_a_directory_that_has_data_and_never_had_a_trust_domain() {
    let fixture = Fixture::new();
    let due = fixture.folder.path().join(RIGHTS_DUE);
    fixture.open().unwrap();
    assert!(!due.exists());
    fs::write(fixture.folder.path().join(IDENTITY), "").unwrap();
    fixture.open().unwrap();
    assert!(!due.exists());
    fs::remove_file(fixture.folder.path().join(TRUST_DOMAIN)).unwrap();
    fixture.open().unwrap();
    assert!(due.exists());
}

#[test]
fn a_writer_is_reached_under_every_name_of_its_machine() {
    let (names_of, addresses) = names(&["10.1.2.3:0".parse().unwrap()]);
    assert!(names_of.contains(&"localhost".to_owned()), "{names_of:?}");
    for address in ["127.0.0.1", "::1", "10.1.2.3"] {
        assert!(addresses.contains(&address.parse().unwrap()), "{address}");
    }
    let (_, everywhere) = names(&["0.0.0.0:0".parse().unwrap()]);
    assert!(everywhere.contains(&"127.0.0.1".parse().unwrap()));
    assert!(!everywhere.contains(&"0.0.0.0".parse().unwrap()));
}
