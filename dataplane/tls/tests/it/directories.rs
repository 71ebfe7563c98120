//! What is read from a directory, and what is not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pyramid_tls::authority::{Request, Usage};
use pyramid_tls::{Error, Tls, bundle, replace_bundle, write_directory};

use crate::forge::Forge;
use crate::world::{World, user_id, user_request, writer_id, writer_request};

/// Three plain files, as other programs make them.
pub(crate) fn write_plain(directory: &Path, key: &str, chain: &str, bundle: &str) {
    fs::create_dir_all(directory).unwrap();
    for (name, text) in [("tls.key", key), ("tls.crt", chain), ("ca.crt", bundle)] {
        fs::write(directory.join(name), text).unwrap();
    }
}

#[test]
fn each_thing_that_is_wrong_with_a_directory_is_an_error_of_its_own() {
    let world = World::new();
    let issued = world.authority.issue(&user_request(), &*world.clock).unwrap();
    let other = world.authority.issue(&user_request(), &*world.clock).unwrap();
    let stranger = World::new();
    let (key, chain) = (&*issued.key_pem, &*issued.chain_pem);
    let bundle = world.authority.bundle_pem();
    let long = format!("{}{key}", "#\n".repeat(1 << 19));
    let leaf_as_root = format!("{bundle}{chain}");
    let many: String = (0..17).map(|_| Forge::root().root_pem().to_owned()).collect();
    let check = |key: &str, chain: &str, bundle: &str| {
        let path = world.path("plain");
        write_plain(&path, key, chain, bundle);
        let error = Tls::open(&path, world.clock.clone()).err();
        error.map(|error| error.to_string().replace(path.to_str().unwrap(), "DIR"))
    };
    assert_eq!(check(key, chain, bundle), None);
    for (key, chain, bundle, text) in [
        (
            "no key",
            chain,
            bundle,
            "DIR/tls.key is no private key in PEM (PKCS#8); get it anew together with tls.crt",
        ),
        (&long, chain, bundle, "DIR/tls.key cannot be read; may this user read it?"),
        (
            key,
            "",
            bundle,
            "DIR/tls.crt is no certificate in PEM; get it anew together with tls.key",
        ),
        (
            key,
            &chain[..chain.len() / 2],
            bundle,
            "DIR/tls.crt is no certificate in PEM; get it anew together with tls.key",
        ),
        (&other.key_pem, chain, bundle, "DIR: tls.key does not belong to tls.crt; get both anew"),
        (key, chain, "", "DIR/ca.crt holds no certificate"),
        (
            key,
            chain,
            &leaf_as_root,
            "DIR/ca.crt holds a certificate that is not of an authority; put the root there, \
             not a leaf",
        ),
        (key, chain, &many, "DIR/ca.crt holds more than 16 certificates; take old ones out"),
        (
            key,
            chain,
            stranger.authority.bundle_pem(),
            "DIR: tls.crt does not lead to a root in ca.crt; get both from the same authority",
        ),
    ] {
        assert_eq!(check(key, chain, bundle).as_deref(), Some(text));
    }
    for name in ["tls.key", "tls.crt", "ca.crt"] {
        write_plain(&world.path("plain"), key, chain, bundle);
        fs::remove_file(world.path("plain").join(name)).unwrap();
        let error = Tls::open(&world.path("plain"), world.clock.clone()).unwrap_err();
        assert!(matches!(&error, Error::Missing { path } if path.ends_with(name)), "{error}");
    }
}

#[test]
fn a_chain_with_an_intermediate_is_read() {
    let world = World::new();
    let root = Forge::root();
    let shown = root.intermediate("intermediate", |_| {}).leaf(|_| {});
    let path = world.path("chain");
    write_plain(&path, &shown.key_pem(), &shown.chain_pem(), root.root_pem());
    Tls::open(&path, world.clock.clone()).unwrap();
    let leaf_only = shown.chain_pem();
    let end = leaf_only.find("-----END").unwrap() + "-----END CERTIFICATE-----\n".len();
    write_plain(&path, &shown.key_pem(), &leaf_only[..end], root.root_pem());
    let error = Tls::open(&path, world.clock.clone()).unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
}

#[test]
fn a_written_directory_has_a_key_that_only_its_owner_reads_and_nothing_old() {
    let world = World::new();
    let request = writer_request();
    for _ in 0..3 {
        world.open("writer", &request);
    }
    let path = world.path("writer");
    let mode = fs::metadata(path.join("tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut names: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let (hidden, plain) = names.split_at(2);
    assert_eq!(plain, ["ca.crt", "tls.crt", "tls.key"]);
    assert_eq!(hidden.iter().filter(|name| *name == "..data").count(), 1, "{hidden:?}");
}

#[test]
fn plain_files_are_replaced_by_a_written_directory() {
    let world = World::new();
    write_plain(&world.path("user"), "old", "old", "old");
    let issued = world.authority.issue(&user_request(), &*world.clock).unwrap();
    write_directory(&world.path("user"), &issued, world.authority.bundle_pem()).unwrap();
    Tls::open(&world.path("user"), world.clock.clone()).unwrap();
}

#[test]
fn a_writer_opens_only_what_clients_would_believe_of_a_writer() {
    let world = World::new();
    let open = |name: &str, request: &Request| {
        Tls::open_writer(&world.write(name, request), world.clock.clone())
    };
    assert_eq!(open("writer", &writer_request()).unwrap().identity(), &writer_id());
    let no_server = Request { usage: Usage::Client, ..writer_request() };
    let no_writer = Request { identity: user_id(), ..writer_request() };
    for (name, request) in [("no-server", no_server), ("no-writer", no_writer)] {
        let refused = open(name, &request).unwrap_err();
        let found =
            matches!(&refused, Error::NotWriter { identity, .. } if *identity == request.identity);
        assert!(found, "{name}: {refused}");
        // As a client it is good enough.
        Tls::open(&world.path(name), world.clock.clone()).unwrap();
    }
}

#[test]
fn the_status_tells_what_is_in_use() {
    let world = World::new();
    let tls = world.user();
    let status = tls.status();
    assert_eq!(&status.identity, tls.identity());
    let digest = bundle::digest(world.authority.bundle_pem()).unwrap();
    assert_eq!(status.bundle_sha256, bundle::hex(&digest));
    assert_eq!(status.serial.len(), 32);
    assert_eq!(status.not_after_ms - status.not_before_ms, (12 * 3600 + 300) * 1000);
    assert!(status.refused.iter().all(|(_, count)| *count == 0));
    let counts = (status.reloads, status.reload_failures, status.handshakes);
    assert_eq!(counts, (0, 0, 0));
}

#[test]
fn a_bundle_is_replaced_only_by_one_that_vouches_for_the_certificate() {
    let (world, stranger) = (World::new(), World::new());
    let directory = world.write("user", &user_request());
    let (ours, theirs) = (world.authority.bundle_pem(), stranger.authority.bundle_pem());
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let pair = (read("tls.key"), read("tls.crt"));
    let both = bundle::join(&[ours, theirs]).unwrap();
    for (bundle, is_taken) in [(&*both, true), (theirs, false), ("", false), (ours, true)] {
        let before = read("ca.crt");
        let replaced = replace_bundle(&directory, bundle, &*world.clock);
        assert_eq!(replaced.is_ok(), is_taken, "{replaced:?}");
        assert_eq!(read("ca.crt"), if is_taken { bundle } else { &before });
        assert_eq!((read("tls.key"), read("tls.crt")), pair);
    }
    let replaced = replace_bundle(&directory, theirs, &*world.clock);
    assert!(matches!(replaced, Err(Error::Untrusted { .. })), "{replaced:?}");
    let mode = fs::metadata(directory.join("tls.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
