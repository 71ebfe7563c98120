use super::*;
use crate::object_store::{Call, Fault, MemoryStore};

fn options() -> S3Options {
    S3Options::default()
}

fn at(endpoint: &str) -> S3Options {
    S3Options { endpoint: Some(endpoint.to_owned()), ..options() }
}

fn parsed(url: &str, options: S3Options) -> Result<String, SettingsError> {
    StoreSettings::parse(url, options).map(|settings| settings.to_string())
}

#[test]
fn a_directory_or_a_bucket_is_given() {
    for (url, options, expected) in [
        ("file:/var/chunks", options(), "file:/var/chunks"),
        ("file:chunks", options(), "file:chunks"),
        ("s3://chunks", options(), "s3://chunks"),
        ("s3://chunks", at("https://s3.example"), "s3://chunks at https://s3.example"),
        ("s3://chunks", at("http://10.0.0.1:9000/"), "s3://chunks at http://10.0.0.1:9000"),
    ] {
        assert_eq!(parsed(url, options), Ok(expected.to_owned()));
    }
    for url in ["", "file:", "/var/chunks", "s3:chunks", "S3://chunks", "https://chunks"] {
        assert_eq!(parsed(url, options()), Err(SettingsError::Url { given: url.to_owned() }));
    }
    let secret = parsed("https://user:password@host", options()).unwrap_err();
    assert!(!secret.to_string().contains("password"), "{secret}");
}

#[test]
fn a_store_in_clear_beyond_this_machine_is_warned_of() {
    let warning =
        |endpoint: &str| StoreSettings::parse("s3://chunks", at(endpoint)).unwrap().warning();
    for endpoint in ["http://s3.example", "http://10.0.0.1:9000", "http://localhost.example:1"] {
        let warning = warning(endpoint).unwrap();
        assert!(warning.starts_with(&format!("--s3-endpoint {endpoint} has no TLS")), "{warning}");
    }
    for endpoint in [
        "https://s3.example",
        "https://10.0.0.1:9000",
        "http://127.0.0.1:9000",
        "http://[::1]:9000",
        "http://[::1]",
        "http://localhost",
    ] {
        assert_eq!(warning(endpoint), None, "{endpoint}");
    }
    for url in ["s3://chunks", "file:/chunks"] {
        assert_eq!(StoreSettings::parse(url, options()).unwrap().warning(), None, "{url}");
    }
}

#[test]
fn a_bucket_has_a_name_that_s3_takes() {
    let longest = "a".repeat(BUCKET_LEN_MAX);
    for bucket in ["abc", "a-b.c", "0a1", "chunks-2026", &longest] {
        assert!(parsed(&format!("s3://{bucket}"), options()).is_ok(), "{bucket}");
    }
    let too_long = format!("{longest}a");
    for bucket in [
        "",
        "ab",
        &too_long,
        "Chunks",
        "chun_ks",
        "chun ks",
        "-chunks",
        "chunks-",
        ".chunks",
        "chunks.",
        "chun..ks",
        "10.0.0.1",
        "chunks/",
        "chunks/dev",
        "chunks--x-s3",
    ] {
        let error = parsed(&format!("s3://{bucket}"), options()).unwrap_err();
        assert!(matches!(&error, SettingsError::Bucket { .. }), "{bucket}: {error}");
        assert!(error.to_string().starts_with(&format!("--object-store s3://{bucket}: ")));
    }
}

#[test]
fn an_endpoint_is_a_server_and_nothing_more() {
    for (given, expected) in [
        ("https://s3.example", "https://s3.example"),
        ("http://localhost:8333", "http://localhost:8333"),
        ("http://localhost:8333/", "http://localhost:8333"),
        ("https://[::1]:9000", "https://[::1]:9000"),
        ("HTTPS://s3.example:1", "https://s3.example:1"),
    ] {
        assert_eq!(
            Endpoint::parse(given).map(|endpoint| endpoint.to_string()),
            Ok(expected.into())
        );
    }
    assert!(Endpoint::parse("https://a").unwrap().is_https());
    assert!(!Endpoint::parse("http://a").unwrap().is_https());
    for given in [
        "",
        "s3.example",
        "s3.example:9000",
        "ftp://s3.example",
        "https://",
        "https://s3.example/path",
        "https://s3.example?a=b",
        "https://s3.example#a",
        "https://s3.example:",
        "https://s3.example:0",
        "https://s3.example:65536",
        "https://:9000",
        "https://user@s3.example",
        "https://a b",
    ] {
        assert!(matches!(Endpoint::parse(given), Err(SettingsError::Endpoint { .. })), "{given}");
    }
    let secret = Endpoint::parse("https://user:password@s3.example").unwrap_err();
    assert!(!secret.to_string().contains("password"), "{secret}");
}

#[test]
fn an_endpoint_is_no_metadata_service_however_it_is_spelt() {
    for given in [
        "http://169.254.169.254",
        "https://169.254.170.2:443",
        "http://[fd00:ec2:0:0:0:0:0:254]",
        "http://[::ffff:169.254.169.254]:80",
        "http://[fe80::1]",
        "http://0.0.0.0:9000",
        "http://2852039166",
        "http://0xA9.0xfe.0xa9.0xfe",
        "http://169.254.43518.",
    ] {
        assert_eq!(
            Endpoint::parse(given),
            Err(SettingsError::Metadata { given: given.to_owned() })
        );
    }
    for given in ["http://169.253.255.255", "http://[fd00::10]:9000", "http://1.s3", "http://s3.0a"]
    {
        assert!(Endpoint::parse(given).is_ok(), "{given}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let ca = || S3Options { ca_file: Some("/ca.crt".into()), ..options() };
    assert!(parsed("s3://chunks", ca()).is_ok(), "AWS through a proxy of one's own");
    let with = |endpoint: &str| S3Options { ca_file: Some("/ca.crt".into()), ..at(endpoint) };
    assert!(parsed("s3://chunks", with("https://a")).is_ok());
    assert_eq!(
        parsed("s3://chunks", with("http://a")),
        Err(SettingsError::CaWithoutTls { endpoint: "http://a".to_owned() })
    );
    let region = |region: &str| S3Options { region: Some(region.to_owned()), ..options() };
    assert!(parsed("s3://chunks", region("eu-west-1")).is_ok());
    for odd in ["", "EU", "eu west", "eu/west", &"a".repeat(REGION_LEN_MAX + 1)] {
        let expected = SettingsError::Region { given: odd.to_owned() };
        assert_eq!(parsed("s3://chunks", region(odd)), Err(expected));
    }
    for (options, flag) in [
        (at("https://a"), "--s3-endpoint"),
        (region("eu-west-1"), "--s3-region"),
        (ca(), "--s3-ca"),
        (S3Options { credentials_dir: Some("/keys".into()), ..options() }, "--s3-credentials"),
    ] {
        assert_eq!(parsed("file:/a", options), Err(SettingsError::OnlyForS3 { flag }));
    }
}

#[tokio::test]
async fn a_directory_is_opened_and_a_file_in_its_place_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let url = format!("file:{}", folder.path().join(name).display());
        let settings = StoreSettings::parse(&url, options()).unwrap();
        async move { settings.open().await }
    };
    probe(&*open("new/store").await.unwrap(), "dev").await.unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert!(matches!(open("file").await, Err(OpenError::Directory(Error::Refused { .. }))));
}

#[tokio::test]
async fn a_probe_tells_what_the_store_says() {
    let store = MemoryStore::new();
    assert_eq!(probe(&store, "dev/a").await, Ok(()));
    assert_eq!(probe(&store, "").await, Ok(()));
    for call in [Call::List, Call::Get] {
        store.fail_next(call, Fault::Refuse);
        let refused = probe(&store, "dev").await;
        assert!(matches!(refused, Err(ProbeError::Store(Error::Refused { .. }))), "{call:?}");
        store.fail_next(call, Fault::FailBefore);
        let failed = probe(&store, "dev").await;
        assert!(matches!(failed, Err(ProbeError::Store(Error::Unavailable { .. }))), "{call:?}");
    }
    for prefix in ["/dev", "../dev", "a b"] {
        assert!(matches!(probe(&store, prefix).await, Err(ProbeError::Prefix { .. })), "{prefix}");
    }
}
