use super::*;

#[test]
fn only_this_machine_is_spoken_to_in_clear() {
    for address in ["127.0.0.1:7400", "127.9.9.9:1", "[::1]:7400", "localhost:7400"] {
        assert!(plain(&[address.to_owned()]).is_ok(), "{address}");
    }
    for address in ["10.0.0.1:7400", "[::]:7400", "0.0.0.0:1", "writer:7400", "localhost.a:1"] {
        let here = "127.0.0.1:7400".to_owned();
        let error = plain(&[here, address.to_owned()]).err().unwrap().to_string();
        assert!(error.starts_with(address) && error.contains("give --tls"), "{error}");
    }
}

#[test]
fn chunks_are_fetched_as_flags_say_and_else_as_the_dev_does() {
    let address = "127.0.0.1:1".parse().unwrap();
    let dev = |ca: Option<&str>, http| Running {
        pid: 1,
        cluster_id: String::new(),
        writer: address,
        admin: address,
        local: address,
        ops: None,
        pusher_ops: None,
        tls: PathBuf::new(),
        object_store: "s3://orders".to_owned(),
        objects: None,
        object_store_ca: ca.map(PathBuf::from),
        object_store_http: http,
        kek_file: PathBuf::new(),
    };
    let flags = |ca: Option<&str>, http| ChunkArgs {
        object_store_ca: ca.map(PathBuf::from),
        object_store_http: http,
    };
    let of_dev = Some(dev(Some("dev.pem"), false));
    for (flags, dev, ca, http) in [
        (flags(None, false), None, None, false),
        (flags(Some("a.pem"), false), None, Some("a.pem"), false),
        (flags(None, true), None, None, true),
        (flags(None, false), of_dev.clone(), Some("dev.pem"), false),
        (flags(Some("a.pem"), true), of_dev, Some("a.pem"), true),
        (flags(None, false), Some(dev(None, true)), None, true),
    ] {
        let expected = HttpSettings { ca_file: ca.map(PathBuf::from), allows_plain_http: http };
        assert_eq!(flags.settings(dev.as_ref()), expected);
    }
}

#[test]
fn authorities_that_were_named_must_be_there() {
    let target =
        Target { writers: Vec::new(), admin: None, tls: None, dev: None, remedy: Remedy::Command };
    assert!(target.fetcher(ChunkArgs::default()).is_ok());
    let folder = tempfile::tempdir().unwrap();
    let missing =
        ChunkArgs { object_store_ca: Some(folder.path().join("ca.pem")), object_store_http: false };
    let error = format!("{:#}", target.fetcher(missing).unwrap_err());
    assert!(error.starts_with("--object-store-ca: "), "{error}");
}

#[test]
fn a_directory_of_a_dev_has_one_identity_for_records_and_one_for_admin() {
    let dev = tempfile::tempdir().unwrap();
    let one = Credentials { user: dev.path().to_owned(), operator: dev.path().to_owned() };
    assert_eq!(Credentials::find(dev.path()), one);
    let (user, operator) = (dev.path().join("user"), dev.path().join("operator"));
    std::fs::create_dir(&user).unwrap();
    assert_eq!(Credentials::find(dev.path()), Credentials { user, operator });
    std::fs::write(dev.path().join("tls.crt"), "").unwrap();
    assert_eq!(Credentials::find(dev.path()), one);
}

#[test]
fn the_pusher_of_this_pod_is_meant_unless_something_else_is_named() {
    let args = |writer: &[&str], data_dir: Option<&str>, local: Option<&str>| Args {
        writer: writer.iter().map(|address| (*address).to_owned()).collect(),
        admin: None,
        tls: None,
        data_dir: data_dir.map(PathBuf::from),
        local: local.map(str::to_owned),
        kubernetes: None,
    };
    let url = Some("http://127.0.0.1:7410");
    for (args, remedy) in [
        (args(&[], None, url), Remedy::Cluster),
        (args(&[], None, None), Remedy::Command),
        (args(&["127.0.0.1:1"], None, url), Remedy::Command),
        (args(&[], Some("data"), url), Remedy::Command),
    ] {
        assert_eq!(args.remedy(), remedy, "{args:?}");
    }
    let target = args(&[], None, Some("http://127.0.0.1:7410/")).target().unwrap();
    assert_eq!(
        (target.writers, target.remedy),
        (vec!["127.0.0.1:7410".to_owned()], Remedy::Cluster)
    );
    for url in ["127.0.0.1:7410", "https://127.0.0.1:7410", "http://10.0.0.1:7410", "http://", ""] {
        let error = args(&[], None, Some(url)).target().err().unwrap().to_string();
        let expected =
            format!("--local {url} is no pusher of this pod; give http://127.0.0.1:7410");
        assert_eq!(error, expected);
    }
}

#[test]
fn in_a_pod_where_nothing_is_named_its_pusher_is_meant() {
    let args = |kubernetes: bool| Args {
        writer: Vec::new(),
        admin: None,
        tls: None,
        data_dir: None,
        local: None,
        kubernetes: kubernetes.then(|| "10.96.0.1".to_owned()),
    };
    let target = |args: Args| {
        let remedy = args.remedy();
        let target = args.target().unwrap();
        assert_eq!(target.remedy, remedy);
        (target.writers, remedy)
    };
    let pusher = (vec!["127.0.0.1:7410".to_owned()], Remedy::Cluster);
    let writer = (vec!["127.0.0.1:7400".to_owned()], Remedy::Command);
    assert_eq!(target(args(true)), pusher);
    assert_eq!(target(args(false)), writer);
    for named in [
        Args { admin: Some("127.0.0.1:1".to_owned()), ..args(true) },
        Args { tls: Some(PathBuf::from("tls")), ..args(true) },
        Args { writer: vec![WRITER.to_owned()], ..args(true) },
    ] {
        assert_eq!(target(named), writer);
    }
}
