//! With tonic on both sides: what a service sees of its caller, and what a caller is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{self, Age, Peer, TcpAccept, TcpConnect};
use pyramid_protocol::pb::v1::consumer_client::ConsumerClient;
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{PushRequest, PushResponse, Refusal, Rejected};
use pyramid_tls::Tls;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status};

use crate::world::{World, in_time, user_id};

/// Answers with who asks.
struct Mirror;

#[tonic::async_trait]
impl Consumer for Mirror {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let reason = peer.identity.map(|identity| identity.to_string()).unwrap_or_default();
        let answer = Some(Answer::Rejected(Rejected { offset: 0, reason }));
        Ok(Response::new(PushResponse { answer }))
    }
}

async fn serve(tls: &Tls, age: Age) -> (SocketAddr, JoinSet<()>) {
    let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = tcp.local_address().unwrap();
    let incoming = net::incoming_of_age(tls.accept(tcp), age);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        net::server_of_age(age)
            .add_service(ConsumerServer::new(Mirror))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    (address, serving)
}

fn client(tls: &Tls, address: SocketAddr) -> ConsumerClient<tonic::transport::Channel> {
    let connect = Arc::new(tls.connect(Arc::new(TcpConnect)));
    ConsumerClient::new(net::channel(connect, &address.to_string()).unwrap())
}

async fn asked(client: &mut ConsumerClient<tonic::transport::Channel>) -> Result<String, Status> {
    let answer = in_time(client.push(PushRequest::default())).await?.into_inner().answer;
    let Some(Answer::Rejected(Rejected { reason, .. })) = answer else { panic!("{answer:?}") };
    Ok(reason)
}

#[tokio::test]
async fn a_service_sees_the_identity_of_its_caller() {
    let world = World::new();
    let (address, _serving) = serve(&world.writer(), Age::default()).await;
    assert_eq!(asked(&mut client(&world.user(), address)).await.unwrap(), user_id().as_str());
}

#[tokio::test]
async fn a_caller_is_told_in_the_status_why_there_is_no_connection() {
    let world = World::new();
    let (address, _serving) = serve(&world.writer(), Age::default()).await;
    let stranger = World::new().user();
    let status = asked(&mut client(&stranger, address)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        format!(
            "the server's certificate is of another authority than {}; take the ca.crt of that \
             server's cluster",
            stranger.directory().join("ca.crt").display()
        )
    );
    asked(&mut client(&world.user(), address)).await.unwrap();
}

/// The refusal comes when the client thinks that the handshake is over.
#[tokio::test]
async fn a_caller_is_told_in_the_status_that_its_certificate_was_refused() {
    let world = World::new();
    let (address, _serving) = serve(&world.writer(), Age::default()).await;
    let other = crate::world::authority(&world.clock);
    let issued = other.issue(&crate::world::user_request(), &*world.clock).unwrap();
    let both =
        pyramid_tls::bundle::join(&[world.authority.bundle_pem(), other.bundle_pem()]).unwrap();
    pyramid_tls::write_directory(&world.path("other"), &issued, &both).unwrap();
    let refused = Tls::open(&world.path("other"), world.clock.clone()).unwrap();
    let status = asked(&mut client(&refused, address)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Unavailable,
            "the server refused the certificate of spiffe://test.local/ns/shop/sa/user: it is of \
             an authority that the server does not believe; get tls.crt from the authority of \
             that cluster"
        )
    );
    asked(&mut client(&world.user(), address)).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_of_age_and_calls_go_on_over_the_next() {
    let world = World::new();
    let writer = world.writer();
    let age = Age { max: Duration::from_millis(50), grace: Duration::from_secs(3600) };
    let (address, _serving) = serve(&writer, age).await;
    let mut client = client(&world.user(), address);
    while writer.status().handshakes < 4 {
        match asked(&mut client).await {
            Ok(identity) => assert_eq!(identity, user_id().as_str()),
            // The connection ended between choosing it and sending the call.
            Err(status) => assert!(Refusal::from_status(&status).retry, "{status:?}"),
        }
    }
}
