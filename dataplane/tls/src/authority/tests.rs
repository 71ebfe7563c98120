#![expect(clippy::wildcard_enum_match_arm, reason = "the long enum of another library")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;

use rcgen::PKCS_ECDSA_P384_SHA384;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;
use x509_parser::extensions::ParsedExtension;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// 2026-08-01T00:00:00Z.
const NOW_MS: u64 = 1_785_542_400_000;

struct At(u64);

impl Clock for At {
    fn wall_ms(&self) -> u64 {
        self.0
    }
}

const NOW: At = At(NOW_MS);

fn authority() -> Authority {
    Authority::generate("test.local", 100 * DAY, &NOW).unwrap()
}

fn user() -> Request {
    Request {
        identity: SpiffeId::service_account("test.local", "shop", "user").unwrap(),
        usage: Usage::Client,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        life: 12 * HOUR,
    }
}

fn writer() -> Request {
    Request {
        identity: SpiffeId::writer("test.local", "shop", "main").unwrap(),
        usage: Usage::ServerAndClient,
        dns_names: vec!["*.peers.svc".to_owned(), "localhost".to_owned()],
        ip_addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        life: 12 * HOUR,
    }
}

fn with<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    look(&X509Certificate::from_der(&der).unwrap().1)
}

/// Its names, its validity in seconds from [`NOW_MS`], and every extension in one line.
fn told(pem: &str) -> (Vec<String>, i64, i64, Vec<String>) {
    with(pem, |it| {
        let names = it.subject_alternative_name().unwrap().unwrap();
        let names = names.value.general_names.iter().map(ToString::to_string).collect();
        let from_now = |time: x509_parser::time::ASN1Time| {
            time.timestamp() - i64::try_from(NOW_MS / 1000).unwrap()
        };
        let extensions = it
            .extensions()
            .iter()
            .filter_map(|extension| {
                let text = match extension.parsed_extension() {
                    ParsedExtension::BasicConstraints(it) => {
                        format!("basic constraints {} {:?}", it.ca, it.path_len_constraint)
                    }
                    ParsedExtension::KeyUsage(it) => format!("key usage {it}"),
                    ParsedExtension::ExtendedKeyUsage(it) => {
                        format!("purposes {} {}", it.server_auth, it.client_auth)
                    }
                    ParsedExtension::SubjectKeyIdentifier(_) => "subject key".to_owned(),
                    ParsedExtension::AuthorityKeyIdentifier(_) => "authority key".to_owned(),
                    ParsedExtension::SubjectAlternativeName(_) => return None,
                    other => format!("{other:?}"),
                };
                Some(format!("{text}{}", if extension.critical { ", critical" } else { "" }))
            })
            .collect();
        let validity = it.validity();
        (names, from_now(validity.not_before), from_now(validity.not_after), extensions)
    })
}

#[test]
fn a_root_signs_leaves_directly_and_names_its_trust_domain() {
    assert_eq!(
        told(authority().bundle_pem()),
        (
            vec!["URI(spiffe://test.local)".to_owned()],
            -300,
            100 * 86_400,
            [
                "authority key",
                "key usage Key Cert Sign, CRL Sign, critical",
                "subject key",
                "basic constraints true Some(0), critical",
            ]
            .map(str::to_owned)
            .to_vec(),
        )
    );
}

#[test]
fn a_leaf_has_one_identity_its_hosts_and_its_purposes() {
    let leaf = |request: &Request| told(&authority().issue(request, &NOW).unwrap().chain_pem);
    let extensions = |purposes: &str| {
        [
            "authority key",
            "key usage Digital Signature, critical",
            purposes,
            "subject key",
            "basic constraints false None, critical",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let names = vec!["URI(spiffe://test.local/ns/shop/sa/user)".to_owned()];
    assert_eq!(leaf(&user()), (names, -300, 43_200, extensions("purposes false true")));
    let names = [
        "URI(spiffe://test.local/ns/shop/writer/main)",
        "DNSName(*.peers.svc)",
        "DNSName(localhost)",
        "IPAddress(7f:00:00:01)",
        "IPAddress(00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01)",
    ];
    let names = names.map(str::to_owned).to_vec();
    assert_eq!(leaf(&writer()), (names, -300, 43_200, extensions("purposes true true")));
}

#[test]
fn a_leaf_leads_to_its_root_by_key_as_well() {
    let authority = authority();
    let key = |pem: &str, authority_key: bool| {
        with(pem, |it| {
            it.extensions()
                .iter()
                .find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::SubjectKeyIdentifier(key) if !authority_key => {
                        Some(key.0.to_vec())
                    }
                    ParsedExtension::AuthorityKeyIdentifier(key) if authority_key => {
                        key.key_identifier.as_ref().map(|key| key.0.to_vec())
                    }
                    _ => None,
                })
                .unwrap()
        })
    };
    let leaf = authority.issue(&user(), &NOW).unwrap().chain_pem;
    assert_eq!(key(&leaf, true), key(authority.bundle_pem(), false));
    assert_ne!(key(&leaf, false), key(authority.bundle_pem(), false));
}

#[test]
fn a_leaf_never_outlives_its_root() {
    let authority = authority();
    let last_ms = authority.not_after_ms() - 3_600_000;
    let issue = |now_ms: u64| authority.issue(&user(), &At(now_ms));
    assert_eq!(issue(NOW_MS).unwrap().not_after_ms, NOW_MS + 12 * 3_600_000);
    assert_eq!(issue(last_ms - 1000).unwrap().not_after_ms, last_ms);
    assert_eq!(
        issue(last_ms).unwrap_err().to_string(),
        "the authority ends at 2026-11-09T00:00:00Z; it cannot issue any more, rotate to a new one"
    );
}

#[test]
fn a_leaf_does_not_begin_before_its_root() {
    let early = authority().issue(&user(), &At(NOW_MS - 100_000)).unwrap();
    assert_eq!(told(&early.chain_pem).1, -300);
}

#[test]
fn serial_numbers_are_not_repeated_and_have_their_full_length() {
    let authority = authority();
    let mut serials = std::collections::HashSet::new();
    for _ in 0..100 {
        let leaf = authority.issue(&user(), &NOW).unwrap().chain_pem;
        let serial = with(&leaf, |it| it.raw_serial().to_vec());
        assert_eq!(serial.len(), SERIAL_BYTES);
        assert!(serials.insert(serial));
    }
}

#[test]
fn identities_of_other_trust_domains_are_not_issued() {
    let other = SpiffeId::service_account("other.local", "shop", "user").unwrap();
    let request = Request { identity: other, ..user() };
    let error = authority().issue(&request, &NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "spiffe://other.local/ns/shop/sa/user is not of the trust domain test.local"
    );
}

#[test]
fn a_leaf_has_at_most_64_names() {
    let authority = authority();
    let with = |count: usize| {
        let dns_names = (1..count).map(|name| format!("n{name}")).collect();
        authority.issue(&Request { dns_names, ..writer_without_addresses() }, &NOW)
    };
    assert!(with(NAMES_MAX).is_ok());
    assert!(matches!(with(NAMES_MAX + 1), Err(Error::Names { names: 65 })));
}

fn writer_without_addresses() -> Request {
    Request { ip_addresses: Vec::new(), ..writer() }
}

#[test]
fn only_dns_names_are_issued_as_such() {
    let with = |name: &str| {
        let dns_names = vec![name.to_owned()];
        authority().issue(&Request { dns_names, ..writer() }, &NOW)
    };
    for name in ["localhost", "*.a.b", "main-0.svc"] {
        assert!(with(name).is_ok(), "{name}");
    }
    for name in ["", "*", "a.*.b", "*.*.b", "a b", "\u{e4}", "127.0.0.1", "a/b", "spiffe://a"] {
        assert!(matches!(with(name), Err(Error::DnsName { .. })), "{name}");
    }
}

#[test]
fn a_trust_domain_is_one() {
    for (name, is_one) in [("dev-1.local", true), ("", false), ("Dev", false), ("a/b", false)] {
        assert_eq!(Authority::generate(name, DAY, &NOW).is_ok(), is_one, "{name}");
    }
}

#[test]
fn what_is_saved_is_loaded_and_issues_the_same() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a/ca");
    let saved = authority();
    saved.save(&path).unwrap();
    let loaded = Authority::load(&path).unwrap();
    assert_eq!(loaded.bundle_pem(), saved.bundle_pem());
    assert_eq!(loaded.trust_domain(), "test.local");
    assert_eq!(loaded.not_after_ms(), saved.not_after_ms());
    let mode = fs::metadata(path.join(KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Its leaves lead to the root that was there before.
    let issued = loaded.issue(&user(), &NOW).unwrap();
    crate::write_directory(&folder.path().join("user"), &issued, saved.bundle_pem()).unwrap();
    crate::Tls::open(&folder.path().join("user"), std::sync::Arc::new(NOW)).unwrap();
}

#[test]
fn an_authority_is_never_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ca");
    let first = authority();
    first.save(&path).unwrap();
    assert!(matches!(authority().save(&path), Err(Error::Exists { .. })));
    assert_eq!(Authority::load(&path).unwrap().bundle_pem(), first.bundle_pem());
}

#[test]
fn an_authority_that_is_damaged_is_not_taken_for_a_missing_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ca");
    assert!(matches!(Authority::load(&path), Err(Error::Missing { .. })));
    authority().save(&path).unwrap();
    let (key, certificate) = (path.join(KEY_FILE), path.join(CERTIFICATE_FILE));
    let key_text = fs::read_to_string(&key).unwrap();
    let certificate_text = fs::read_to_string(&certificate).unwrap();
    let leaf = authority().issue(&user(), &NOW).unwrap();
    let other = authority();
    for (key_now, certificate_now, fact) in [
        (None, Some(&*certificate_text), "its key is missing"),
        (Some(&*key_text), None, "its certificate is missing"),
        (Some(""), Some(&*certificate_text), "its key is not PKCS#8 PEM"),
        (Some(&*key_text), Some(""), "its certificate is not PEM"),
        (Some(&*key_text), Some(&*leaf.chain_pem), "its certificate is not of an authority"),
        (Some(&*key_text), Some(other.bundle_pem()), "its key is not that of its certificate"),
    ] {
        for (path, text) in [(&key, key_now), (&certificate, certificate_now)] {
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        let error = Authority::load(&path).unwrap_err();
        let Error::Damaged { fact: told, .. } = error else { panic!("{fact}: {error}") };
        assert_eq!(told, fact);
    }
    fs::write(&key, &key_text).unwrap();
    fs::write(&certificate, &certificate_text).unwrap();
    Authority::load(&path).unwrap();
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(matches!(Authority::load(&path), Err(Error::File { .. })));
}

/// A12: a request that wants to be the operator, an authority, and for ever.
#[test]
fn of_a_certificate_request_only_the_key_is_taken() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::URI("spiffe://test.local/operator".try_into().unwrap()),
        SanType::DnsName("localhost".try_into().unwrap()),
    ];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let authority = authority();
    let asked = authority.issue_csr(&csr, &user(), &NOW).unwrap();
    let own = authority.issue(&user(), &NOW).unwrap();
    assert_eq!(told(&asked.chain_pem), told(&own.chain_pem));
    assert_eq!(asked.not_after_ms, own.not_after_ms);
    let public = with(&asked.chain_pem, |it| it.public_key().subject_public_key.data.to_vec());
    assert_eq!(public, key.public_key_raw());
}

/// A12.
#[test]
fn a_certificate_request_is_signed_by_its_own_key() {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap();
    let authority = authority();
    let ask = |der: &[u8]| {
        let pem = crate::bundle::certificate_pem(der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        authority.issue_csr(&pem, &user(), &NOW).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(ask(csr.der()), Ok(()));
    // Another key in the same request.
    let other = KeyPair::generate().unwrap();
    let (own, others) = (key.public_key_raw(), other.public_key_raw());
    let mut forged = csr.der().to_vec();
    let at = forged.windows(own.len()).position(|bytes| bytes == own).unwrap();
    forged[at..at + own.len()].copy_from_slice(others);
    let text = "the certificate request is not signed by the key that it names";
    assert_eq!(ask(&forged), Err(text.to_owned()));
}

#[test]
fn a_certificate_request_has_a_p_256_key_and_at_most_16_kib() {
    let authority = authority();
    let ask = |pem: &str| authority.issue_csr(pem, &user(), &NOW).map_err(|it| it.to_string());
    let of =
        |key: &KeyPair| CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
    let good = of(&KeyPair::generate().unwrap());
    ask(&good).unwrap();
    let p384 = of(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    let text = "the certificate request has a key that is not ECDSA P-256";
    assert_eq!(ask(&p384).unwrap_err(), text);
    let padded = |bytes: usize| format!("{}{good}", "\n".repeat(bytes - good.len()));
    ask(&padded(CSR_BYTES_MAX)).unwrap();
    assert_eq!(ask(&padded(CSR_BYTES_MAX + 1)).unwrap_err(), "the certificate request is too long");
    let text = "the certificate request cannot be read; send PEM with a P-256 key and no special extensions";
    assert_eq!(ask("hello").unwrap_err(), text);
    assert_eq!(ask(authority.bundle_pem()).unwrap_err(), text);
}

#[test]
fn keys_are_not_shown() {
    let authority = authority();
    let issued = authority.issue(&user(), &NOW).unwrap();
    let shown = format!("{authority:?} {issued:?}");
    for key in [authority.issuer.key().serialize_pem(), issued.key_pem.clone()] {
        let inside = key.lines().nth(1).unwrap();
        assert!(!shown.contains(inside));
        assert!(!shown.contains("PRIVATE"));
    }
}
