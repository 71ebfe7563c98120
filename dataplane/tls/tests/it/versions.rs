//! What is not TLS 1.3 with HTTP/2: row A1.

use std::net::Ipv4Addr;
use std::sync::Arc;

use pyramid_protocol::net::{Accept as _, TcpAccept};
use pyramid_tls::{ConnectError, Reason};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::forge::attack;
use crate::world::{Greeter, World, greeted, in_time, open_at, user_id, why, writer_request};

/// A1.
#[tokio::test]
async fn tls_1_2_is_refused() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let only12 = world.raw_client_of(&[&TLS12], Some(world.shown()));
    let error = attack(&server, only12).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    server.refused(&[(Reason::Incompatible, 1)]).await;
    for versions in [&[&TLS13][..], &[&TLS12, &TLS13]] {
        let config = world.raw_client_of(versions, Some(world.shown()));
        assert_eq!(attack(&server, config).await.unwrap(), user_id().as_str());
    }
}

/// A1. The hello of a client that knows nothing newer.
#[tokio::test]
async fn tls_1_0_and_1_1_are_refused() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    for (minor, refused) in [(1, 1), (2, 2)] {
        let mut hello = vec![3, minor];
        hello.extend([7; 32]);
        // No session, one cipher suite (ECDHE with AES-128-CBC), no compression, no extensions.
        hello.extend([0, 0, 2, 0xc0, 0x09, 1, 0]);
        let len = u8::try_from(hello.len()).unwrap();
        let mut record = vec![0x16, 3, 1, 0, len + 4, 1, 0, 0, len];
        record.append(&mut hello);
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        in_time(tcp.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer.first(), Some(&0x15), "1.{}: an alert: {answer:?}", minor - 1);
        server.refused(&[(Reason::Incompatible, refused)]).await;
    }
    greeted(&world.user(), &server).await;
}

/// A1.
#[tokio::test]
async fn plain_text_and_noise_are_refused() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let mut noise = vec![0x5a; 100_000];
    for (at, byte) in noise.iter_mut().enumerate() {
        *byte ^= u8::try_from(at * 31 % 251).unwrap();
    }
    for (count, bytes) in
        (1..).zip([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &noise])
    {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        // The server may hang up in the middle.
        let _is_cut = tcp.write_all(bytes).await;
        server.refused(&[(Reason::NotTls, count)]).await;
    }
    greeted(&world.user(), &server).await;
}

/// A1: the server of another program, and one of ours that was started without TLS.
#[tokio::test]
async fn a_server_without_tls_is_called_so() {
    let world = World::new();
    let client = world.user();
    // HTTP/2 begins with a frame of settings, other programs with a line.
    for first in [&[0, 0, 0, 4, 0, 0, 0, 0, 0][..], b"220 ready\r\n"] {
        let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = tcp.local_address().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connection = tcp.accept().await.unwrap();
            connection.write_all(first).await.unwrap();
            let mut rest = Vec::new();
            let _is_cut = connection.read_to_end(&mut rest).await;
        });
        let why = why(open_at(&client, "localhost", address).await);
        assert!(matches!(why, ConnectError::NotTls), "{why}");
    }
    greeted(&client, &Greeter::start(&world.writer()).await).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_is_said_to_have_closed() {
    let world = World::new();
    let client = world.user();
    let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = tcp.local_address().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { drop(tcp.accept().await) });
    let why = why(open_at(&client, "localhost", address).await);
    assert!(matches!(why, ConnectError::Closed), "{why}");
}

#[tokio::test]
async fn a_client_must_speak_http_2() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    for (refused, protocols) in [(1, vec![]), (2, vec![b"http/1.1".to_vec()])] {
        let mut config = world.raw_client(Some(world.shown()));
        config.alpn_protocols = protocols;
        attack(&server, config).await.unwrap_err();
        server.refused(&[(Reason::Protocol, refused)]).await;
    }
    let mut config = world.raw_client(Some(world.shown()));
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    attack(&server, config).await.unwrap();
}

#[tokio::test]
async fn a_server_must_speak_tls_1_3_and_http_2() {
    let world = World::new();
    let client = world.user();
    for (versions, protocols, is_taken) in [
        (&[&TLS13][..], vec![b"h2".to_vec()], true),
        (&[&TLS12][..], vec![b"h2".to_vec()], false),
        (&[&TLS13][..], vec![], false),
        (&[&TLS13][..], vec![b"http/1.1".to_vec()], false),
    ] {
        let issued = world.authority.issue(&writer_request(), &*world.clock).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols.clone_from(&protocols);
        let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = tcp.local_address().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let connection = tcp.accept().await.unwrap();
            if let Ok(mut tls) = TlsAcceptor::from(Arc::new(config)).accept(connection).await {
                let _is_cut = tls.write_all(b"hello\n").await;
                let mut rest = Vec::new();
                let _is_cut = tls.read_to_end(&mut rest).await;
            }
        });
        let result = open_at(&client, "localhost", address).await;
        assert_eq!(result.is_ok(), is_taken, "{versions:?} {protocols:?}");
        if !is_taken {
            let why = why(result);
            assert!(matches!(why, ConnectError::Incompatible), "{why}");
        }
    }
}

#[tokio::test]
async fn an_address_is_a_host_and_a_port() {
    use pyramid_protocol::net::{Connect as _, TcpConnect};
    let world = World::new();
    let connect = world.user().connect(Arc::new(TcpConnect));
    for address in ["", "localhost", ":7400", "a b:7400", "[::1:7400"] {
        let why = why(connect.connect(address).await);
        assert!(
            matches!(&why, ConnectError::Address { address: told } if told == address),
            "{why}"
        );
    }
}

#[tokio::test]
async fn what_the_network_says_is_passed_on() {
    let world = World::new();
    let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = tcp.local_address().unwrap();
    drop(tcp);
    let error = open_at(&world.user(), "localhost", address).await.err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
