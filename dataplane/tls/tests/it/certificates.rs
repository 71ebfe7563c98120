//! Who is let in by whose certificate: rows A1, A2, A4.

use std::sync::Arc;

use pyramid_protocol::SpiffeId;
use pyramid_protocol::net::{Connect as _, TcpConnect};
use pyramid_tls::authority::{Authority, Request, Usage};
use pyramid_tls::{ConnectError, LeafError, Reason, Refused, Tls, bundle, write_directory};
use rcgen::ExtendedKeyUsagePurpose;

use crate::forge::{Forge, Shown, attack, dns, self_signed, uri};
use crate::world::{
    DAY, Greeter, TRUST_DOMAIN, World, authority, greeted, in_time, open, open_at, user_id,
    user_request, why, writer_id, writer_request,
};

#[tokio::test]
async fn a_client_is_known_by_the_identity_in_its_certificate() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    assert_eq!(greeted(&world.user(), &server).await, user_id().as_str());
    assert_eq!(greeted(&world.writer(), &server).await, writer_id().as_str(), "other replicas");
    assert_eq!(server.tls.status().handshakes, 2);
    server.refused(&[]).await;
}

/// A1.
#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let error = attack(&server, world.raw_client(None)).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    server.refused(&[(Reason::NoCertificate, 1)]).await;
    assert_eq!(world.attack(&server, world.shown()).await.unwrap(), user_id().as_str());
}

/// A2.
#[tokio::test]
async fn a_client_of_another_authority_is_refused_and_told_so() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    // The same names, and it believes the server.
    let other = authority(&world.clock);
    let issued = other.issue(&user_request(), &*world.clock).unwrap();
    let both = bundle::join(&[world.authority.bundle_pem(), other.bundle_pem()]).unwrap();
    write_directory(&world.path("other"), &issued, &both).unwrap();
    let client = Tls::open(&world.path("other"), world.clock.clone()).unwrap();
    let why = why(open(&client, &server).await);
    assert!(matches!(&why, ConnectError::OursUntrusted { identity } if *identity == user_id()));
    server.refused(&[(Reason::Untrusted, 1)]).await;
    greeted(&world.user(), &server).await;
}

/// A2.
#[tokio::test]
async fn a_server_of_another_authority_is_refused_and_the_bundle_is_named() {
    let world = World::new();
    let other = World::new();
    let server = Greeter::start(&other.writer()).await;
    let client = world.user();
    let why = why(open(&client, &server).await);
    let bundle = client.directory().join("ca.crt");
    assert!(matches!(&why, ConnectError::Untrusted { bundle: told } if *told == bundle), "{why}");
    server.refused(&[(Reason::ByPeer, 1)]).await;
    greeted(&other.user(), &server).await;
}

/// A2.
#[tokio::test]
async fn right_names_vouched_for_by_oneself_are_refused() {
    let world = World::new();
    let forge = Forge::root();
    let server = world.greeter_believing(&forge).await;
    world.attack(&server, self_signed()).await.unwrap_err();
    server.refused(&[(Reason::Untrusted, 1)]).await;
    assert_eq!(world.attack(&server, forge.leaf(|_| {})).await.unwrap(), user_id().as_str());
}

/// A2.
#[tokio::test]
async fn the_name_of_the_authority_with_another_key_is_refused() {
    let world = World::new();
    let (forge, double) = (Forge::root_called("a root"), Forge::root_called("a root"));
    let server = world.greeter_believing(&forge).await;
    world.attack(&server, double.leaf(|_| {})).await.unwrap_err();
    server.refused(&[(Reason::Untrusted, 1)]).await;
    assert_eq!(world.attack(&server, forge.leaf(|_| {})).await.unwrap(), user_id().as_str());
}

/// A2: a certificate is not a secret, its key is.
#[tokio::test]
async fn the_certificate_of_another_without_its_key_is_refused() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let (stolen, own) = (world.shown(), world.shown());
    let chain = stolen.chain.clone();
    world.attack(&server, Shown { chain, key: own.key }).await.unwrap_err();
    server.refused(&[(Reason::Untrusted, 1)]).await;
    assert_eq!(world.attack(&server, stolen).await.unwrap(), user_id().as_str());
}

/// A4.
#[tokio::test]
async fn a_server_for_another_host_is_refused_and_its_names_are_told() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let client = world.user();
    let why = why(open_at(&client, "other.example", server.address).await);
    let ConnectError::Name { expected, presented } = &why else { panic!("{why}") };
    assert_eq!(expected, "other.example");
    assert!(presented.iter().any(|name| name.contains("localhost")), "{presented:?}");
    for host in ["localhost", "127.0.0.1"] {
        open_at(&client, host, server.address).await.unwrap();
    }
    let why = crate::world::why(open_at(&client, "127.0.0.2", server.address).await);
    assert!(matches!(why, ConnectError::Name { .. }), "{why}");
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label() {
    let world = World::new();
    let request =
        Request { dns_names: vec!["*.main-writer-peers.shop.svc".to_owned()], ..writer_request() };
    let server = Greeter::start(&world.open("peers", &request)).await;
    let client = world.user();
    let open = |host: &'static str| open_at(&client, host, server.address);
    open("main-0.main-writer-peers.shop.svc").await.unwrap();
    for host in ["main-writer-peers.shop.svc", "a.b.main-writer-peers.shop.svc"] {
        assert!(matches!(why(open(host).await), ConnectError::Name { .. }), "{host}");
    }
}

/// A4.
#[tokio::test]
async fn a_clients_certificate_is_not_believed_of_a_server() {
    let world = World::new();
    for (usage, is_taken) in [(Usage::Client, false), (Usage::ServerAndClient, true)] {
        let server =
            Greeter::start(&world.open("server", &Request { usage, ..writer_request() })).await;
        let result = open(&world.user(), &server).await;
        assert_eq!(result.is_ok(), is_taken, "{usage:?}");
        if !is_taken {
            assert!(matches!(why(result), ConnectError::Purpose));
        }
    }
}

/// A4.
#[tokio::test]
async fn a_servers_certificate_is_not_believed_of_a_client() {
    let world = World::new();
    let forge = Forge::root();
    let server = world.greeter_believing(&forge).await;
    let with = |purposes: &[ExtendedKeyUsagePurpose]| {
        forge.leaf(|leaf| leaf.extended_key_usages = purposes.to_vec())
    };
    let (servers, clients) =
        (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    world.attack(&server, with(std::slice::from_ref(&servers))).await.unwrap_err();
    server.refused(&[(Reason::Purpose, 1)]).await;
    world.attack(&server, with(&[])).await.unwrap_err();
    server.refused(&[(Reason::Purpose, 2)]).await;
    for purposes in [vec![clients.clone()], vec![servers, clients]] {
        world.attack(&server, with(&purposes)).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused_though_its_root_is_believed() {
    let world = World::new();
    let forge = Forge::root();
    let server = world.greeter_believing(&forge).await;
    let of = |domain: &str| {
        let identity = SpiffeId::service_account(domain, "shop", "user").unwrap();
        forge.leaf(|leaf| leaf.subject_alt_names = vec![uri(identity.as_str())])
    };
    let error = world.attack(&server, of("elsewhere.local")).await.unwrap_err();
    assert!(error.to_string().contains("CertificateUnknown"), "{error}");
    server.refused(&[(Reason::TrustDomain, 1)]).await;
    assert_eq!(world.attack(&server, of(TRUST_DOMAIN)).await.unwrap(), user_id().as_str());
}

#[tokio::test]
async fn both_ends_say_which_trust_domain_is_wrong() {
    let world = World::new();
    let elsewhere = Authority::generate("elsewhere.local", 100 * DAY, &*world.clock).unwrap();
    let both = bundle::join(&[world.authority.bundle_pem(), elsewhere.bundle_pem()]).unwrap();
    let stranger = SpiffeId::service_account("elsewhere.local", "shop", "user").unwrap();
    let request = Request { identity: stranger.clone(), ..user_request() };
    let issued = elsewhere.issue(&request, &*world.clock).unwrap();
    write_directory(&world.path("stranger"), &issued, &both).unwrap();
    let client = Tls::open(&world.path("stranger"), world.clock.clone()).unwrap();
    let server = Greeter::start(&world.writer()).await;
    let why = why(open(&client, &server).await);
    let ConnectError::Refused { source } = why else { panic!("{why}") };
    let trust_domain = "elsewhere.local".to_owned();
    assert_eq!(source, Refused::TrustDomain { identity: writer_id(), trust_domain });
}

#[tokio::test]
async fn a_client_has_exactly_one_identity() {
    let world = World::new();
    let forge = Forge::root();
    let server = world.greeter_believing(&forge).await;
    let mine = user_id();
    let mut refused = 0;
    for names in [
        vec![],
        vec![dns("user.example")],
        vec![uri(mine.as_str()), uri("spiffe://test.local/operator")],
        vec![uri("https://test.local/ns/shop/sa/user")],
        vec![uri("spiffe://test.local")],
        vec![uri(mine.as_str()), uri(mine.as_str())],
    ] {
        let shown = forge.leaf(|leaf| leaf.subject_alt_names.clone_from(&names));
        assert!(world.attack(&server, shown).await.is_err(), "{names:?}");
        refused += 1;
        server.refused(&[(Reason::Identity, refused)]).await;
    }
    for names in [vec![uri(mine.as_str())], vec![dns("user.example"), uri(mine.as_str())]] {
        let shown = forge.leaf(|leaf| leaf.subject_alt_names.clone_from(&names));
        assert_eq!(world.attack(&server, shown).await.unwrap(), mine.as_str());
    }
}

#[tokio::test]
async fn only_a_writer_is_believed_as_a_server() {
    let world = World::new();
    for (identity, is_taken) in [
        (user_id(), false),
        (SpiffeId::operator(TRUST_DOMAIN).unwrap(), false),
        (writer_id(), true),
    ] {
        let request = Request { identity: identity.clone(), ..writer_request() };
        let server = Greeter::start(&world.open(&identity.as_str()[9..], &request)).await;
        let result = open(&world.user(), &server).await;
        assert_eq!(result.is_ok(), is_taken, "{identity}");
        if !is_taken {
            let why = why(result);
            let ConnectError::Refused { source } = why else { panic!("{why}") };
            assert_eq!(source, Refused::NotWriter { identity });
        }
    }
}

#[tokio::test]
async fn a_client_that_wants_one_server_takes_no_other() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let other = SpiffeId::writer(TRUST_DOMAIN, "shop", "other").unwrap();
    let address = format!("localhost:{}", server.address.port());
    let connect = |identity: &SpiffeId| {
        world.user().connect(Arc::new(TcpConnect)).expecting(identity.clone())
    };
    in_time(connect(&writer_id()).connect(&address)).await.unwrap();
    let why = why(in_time(connect(&other).connect(&address)).await);
    let ConnectError::Refused { source } = why else { panic!("{why}") };
    assert_eq!(source, Refused::Unexpected { identity: writer_id(), expected: other });
}

#[tokio::test]
async fn a_server_without_an_identity_is_refused() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    greeted(&world.user(), &server).await;
    // Such a certificate does not even get into a directory, so the check of it is the same.
    let forge = Forge::root();
    let shown = forge.leaf(|leaf| leaf.subject_alt_names = vec![dns("localhost")]);
    crate::directories::write_plain(
        &world.path("nobody"),
        &shown.key_pem(),
        &shown.chain_pem(),
        forge.root_pem(),
    );
    let error = Tls::open(&world.path("nobody"), world.clock.clone()).unwrap_err();
    assert!(matches!(error, pyramid_tls::Error::Identity { source: LeafError::NoUri, .. }));
}
