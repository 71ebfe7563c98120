//! Servers whose clients have no certificate.

use std::path::Path;
use std::sync::Arc;

use pyramid_protocol::net::{Connect as _, TcpConnect};
use pyramid_protocol::{Clock, SpiffeId};
use pyramid_tls::authority::Request;
use pyramid_tls::{Protocols, Reason, Tls, connect_without_identity, write_directory};
use rustls::version::TLS12;

use crate::forge::attack;
use crate::world::{Greeter, TRUST_DOMAIN, World, greeting, in_time, writer_id, writer_request};

fn operator(world: &World) -> Tls {
    let identity = SpiffeId::operator(TRUST_DOMAIN).unwrap();
    world.open("operator", &Request { identity, ..writer_request() })
}

async fn start(tls: &Tls, protocols: Protocols) -> Greeter {
    Greeter::start_with(tls, |tcp| tls.accept_anybody(tcp, protocols)).await
}

#[tokio::test]
async fn a_client_without_a_certificate_is_taken_as_nobody() {
    let world = World::new();
    let tls = operator(&world);
    for protocols in [Protocols::Grpc, Protocols::Http] {
        let server = start(&tls, protocols).await;
        assert_eq!(attack(&server, world.raw_client(None)).await.unwrap(), "nobody");
        // Nobody asks for it, so it is not shown either.
        let shown = world.raw_client(Some(world.shown()));
        assert_eq!(attack(&server, shown).await.unwrap(), "nobody");
    }
    let strict = Greeter::start(&tls).await;
    attack(&strict, world.raw_client(None)).await.unwrap_err();
    strict.refused(&[(Reason::NoCertificate, 1)]).await;
    assert_eq!(tls.status().handshakes, 4);
}

#[tokio::test]
async fn http_1_is_for_http_ports_only() {
    let world = World::new();
    let tls = operator(&world);
    let (grpc, http) = (start(&tls, Protocols::Grpc).await, start(&tls, Protocols::Http).await);
    for (protocols, is_taken) in [
        (vec![b"h2".to_vec()], true),
        (vec![b"http/1.1".to_vec(), b"h2".to_vec()], true),
        (vec![b"http/1.1".to_vec()], false),
        (vec![], false),
    ] {
        let client = || {
            let mut config = world.raw_client(None);
            config.alpn_protocols.clone_from(&protocols);
            config
        };
        assert_eq!(attack(&grpc, client()).await.is_ok(), is_taken, "{protocols:?}");
        assert_eq!(attack(&http, client()).await.unwrap(), "nobody", "{protocols:?}");
    }
    grpc.refused(&[(Reason::Protocol, 2)]).await;
    let mut other = world.raw_client(None);
    other.alpn_protocols = vec![b"spdy/3".to_vec()];
    attack(&http, other).await.unwrap_err();
    http.refused(&[(Reason::Protocol, 3)]).await;
}

#[tokio::test]
async fn an_old_client_is_refused_there_too() {
    let world = World::new();
    let tls = operator(&world);
    let server = start(&tls, Protocols::Http).await;
    attack(&server, world.raw_client_of(&[&TLS12], None)).await.unwrap_err();
    server.refused(&[(Reason::Incompatible, 1)]).await;
    assert_eq!(attack(&server, world.raw_client(None)).await.unwrap(), "nobody");
}

#[tokio::test]
async fn a_reload_that_is_asked_for_is_in_use_at_once() {
    let world = World::new();
    let tls = operator(&world);
    assert!(!tls.reload().await.unwrap());
    let serial = tls.status().serial;
    let identity = SpiffeId::operator(TRUST_DOMAIN).unwrap();
    let request = Request { identity, ..writer_request() };
    let issued = world.authority.issue(&request, &*world.clock).unwrap();
    write_directory(tls.directory(), &issued, world.authority.bundle_pem()).unwrap();
    assert!(tls.reload().await.unwrap());
    assert_ne!(tls.status().serial, serial);
    let server = start(&tls, Protocols::Grpc).await;
    assert_eq!(attack(&server, world.raw_client(None)).await.unwrap(), "nobody");
}

#[tokio::test]
async fn a_program_without_a_certificate_knows_the_operator() {
    let world = World::new();
    let tls = operator(&world);
    let server = start(&tls, Protocols::Grpc).await;
    let bundle = world.authority.bundle_pem();
    let clock: Arc<dyn Clock> = world.clock.clone();
    for (expected, is_taken) in
        [(SpiffeId::operator(TRUST_DOMAIN).unwrap(), true), (writer_id(), false)]
    {
        let tcp = Arc::new(TcpConnect);
        let connect =
            connect_without_identity(bundle, Path::new("ca.crt"), expected, &clock, tcp).unwrap();
        let address = format!("localhost:{}", server.address.port());
        let connected = in_time(connect.connect(&address)).await;
        assert_eq!(connected.is_ok(), is_taken);
        if let Ok(io) = connected {
            assert_eq!(greeting(io).await.unwrap(), "nobody");
        }
    }
}
