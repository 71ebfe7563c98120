//! New files without a restart: rows A6 and A7.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pyramid_protocol::SpiffeId;
use pyramid_tls::authority::{Authority, Request};
use pyramid_tls::{ConnectError, Reason, Status, Tls, bundle, write_directory};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::world::{
    Greeter, TRUST_DOMAIN, World, authority, echoes, eventually, greeted, greeting, open, user_id,
    user_request, why, writer_request,
};

/// Looks often, so that tests are quick.
const EVERY: Duration = Duration::from_millis(10);

struct Watched {
    tls: Tls,
    shutdown: CancellationToken,
    watching: JoinSet<()>,
}

impl Watched {
    fn new(tls: Tls) -> Self {
        let shutdown = CancellationToken::new();
        let mut watching = JoinSet::new();
        let (watched, stop) = (tls.clone(), shutdown.clone());
        watching.spawn(async move { watched.watch(EVERY, stop).await });
        Self { tls, shutdown, watching }
    }

    async fn until(&self, reloads: u64, failures: u64) -> Status {
        let counts = || {
            let status = self.tls.status();
            (status.reloads, status.reload_failures)
        };
        eventually(|| counts() == (reloads, failures), || format!("{:?}", counts())).await;
        self.tls.status()
    }

    /// Watching has come around at least twice more.
    async fn stop(mut self) -> Status {
        self.shutdown.cancel();
        while self.watching.join_next().await.is_some() {}
        self.tls.status()
    }
}

fn write(path: &Path, by: &Authority, request: &Request, bundle: &str, world: &World) {
    write_directory(path, &by.issue(request, &*world.clock).unwrap(), bundle).unwrap();
}

#[tokio::test]
async fn a_new_leaf_is_used_for_new_connections_and_old_ones_go_on() {
    let world = World::new();
    let watched = Watched::new(world.writer());
    let server = Greeter::start(&watched.tls).await;
    let client = world.user();
    let mut old = open(&client, &server).await.unwrap();
    let mut greeting = vec![0; user_id().as_str().len() + 1];
    old.read_exact(&mut greeting).await.unwrap();
    let before = watched.tls.status().serial;
    world.write("writer", &writer_request());
    let after = watched.until(1, 0).await;
    assert_ne!(before, after.serial);
    greeted(&client, &server).await;
    assert!(echoes(&mut old).await);
    assert_eq!(watched.stop().await.reloads, 1);
}

/// A6: the way an authority is exchanged.
#[tokio::test]
async fn with_two_roots_both_authorities_are_believed_and_then_only_the_new_one() {
    let world = World::new();
    let next = authority(&world.clock);
    let (old_pem, new_pem) = (world.authority.bundle_pem(), next.bundle_pem());
    let both = bundle::join(&[old_pem, new_pem]).unwrap();
    let path = world.write("writer", &writer_request());
    let watched = Watched::new(Tls::open(&path, world.clock.clone()).unwrap());
    let server = Greeter::start(&watched.tls).await;
    let directory = |name: &str, by: &Authority| {
        write(&world.path(name), by, &user_request(), &both, &world);
        Tls::open(&world.path(name), world.clock.clone()).unwrap()
    };
    let (of_old, of_new) = (directory("old", &world.authority), directory("new", &next));

    greeted(&of_old, &server).await;
    assert!(matches!(why(open(&of_new, &server).await), ConnectError::OursUntrusted { .. }));

    write(&path, &world.authority, &writer_request(), &both, &world);
    let status = watched.until(1, 0).await;
    assert_eq!(status.bundle_sha256, bundle::hex(&bundle::digest(&both).unwrap()));
    greeted(&of_old, &server).await;
    greeted(&of_new, &server).await;

    write(&path, &next, &writer_request(), &both, &world);
    watched.until(2, 0).await;
    let mut opened_before = open(&of_old, &server).await.unwrap();
    let mut greeting = vec![0; user_id().as_str().len() + 1];
    opened_before.read_exact(&mut greeting).await.unwrap();
    greeted(&of_new, &server).await;

    write(&path, &next, &writer_request(), new_pem, &world);
    watched.until(3, 0).await;
    assert!(matches!(why(open(&of_old, &server).await), ConnectError::OursUntrusted { .. }));
    greeted(&of_new, &server).await;
    assert!(echoes(&mut opened_before).await, "an open connection goes on");
    server.refused(&[(Reason::Untrusted, 2)]).await;
}

/// A6: a client reloads as a server does.
#[tokio::test]
async fn a_client_believes_a_root_that_was_added() {
    let world = World::new();
    let next = authority(&world.clock);
    let both = bundle::join(&[world.authority.bundle_pem(), next.bundle_pem()]).unwrap();
    write(&world.path("next"), &next, &writer_request(), &both, &world);
    let server =
        Greeter::start(&Tls::open(&world.path("next"), world.clock.clone()).unwrap()).await;
    let watched = Watched::new(world.user());
    assert!(matches!(why(open(&watched.tls, &server).await), ConnectError::Untrusted { .. }));
    world.write_with("user", &user_request(), &both);
    watched.until(1, 0).await;
    greeted(&watched.tls, &server).await;
}

/// A7: the files change one after another.
#[tokio::test]
async fn a_half_written_directory_keeps_the_old_until_it_is_whole() {
    let world = World::new();
    let watched = Watched::new(world.writer());
    let server = Greeter::start(&watched.tls).await;
    let client = world.user();
    let before = watched.tls.status().serial;
    let issued = world.authority.issue(&writer_request(), &*world.clock).unwrap();
    let path = world.path("writer");
    let replace = |name: &str, text: &str| {
        fs::remove_file(path.join(name)).unwrap();
        fs::write(path.join(name), text).unwrap();
    };
    replace("tls.key", &issued.key_pem);
    // Between removing and writing, the file is missing: that is a second bad state, if seen.
    let failures = || watched.tls.status().reload_failures;
    eventually(|| failures() >= 1, || "a failure".to_owned()).await;
    assert_eq!(watched.tls.status().serial, before);
    greeted(&client, &server).await;
    replace("tls.crt", &issued.chain_pem);
    eventually(|| watched.tls.status().reloads == 1, || "a reload".to_owned()).await;
    assert_ne!(watched.tls.status().serial, before);
    greeted(&client, &server).await;
}

#[tokio::test]
async fn what_cannot_be_used_keeps_the_old_and_is_counted_once() {
    let world = World::new();
    let watched = Watched::new(world.writer());
    let server = Greeter::start(&watched.tls).await;
    let client = world.user();
    let before = watched.tls.status();
    let bundle = world.authority.bundle_pem();
    let path = world.path("writer");
    let mut bad = world.authority.issue(&writer_request(), &*world.clock).unwrap();
    bad.key_pem = world.authority.issue(&writer_request(), &*world.clock).unwrap().key_pem;
    write_directory(&path, &bad, bundle).unwrap();
    watched.until(0, 1).await;
    write(&path, &authority(&world.clock), &writer_request(), bundle, &world);
    watched.until(0, 2).await;
    let other = SpiffeId::writer(TRUST_DOMAIN, "shop", "other").unwrap();
    let request = Request { identity: other, ..writer_request() };
    write(&path, &world.authority, &request, bundle, &world);
    watched.until(0, 3).await;
    write(&path, &world.authority, &writer_request(), "no bundle", &world);
    watched.until(0, 4).await;
    greeted(&client, &server).await;
    let now = watched.tls.status();
    assert_eq!(Status { reload_failures: 0, handshakes: 0, ..now }, before, "the old is in use");
    write(&path, &world.authority, &writer_request(), bundle, &world);
    watched.until(1, 4).await;
    greeted(&client, &server).await;
    assert_eq!(watched.stop().await.reload_failures, 4);
}

/// A reader in the middle of a change sees all of the old or all of the new.
#[tokio::test]
async fn a_directory_written_again_and_again_is_never_seen_half() {
    let world = World::new();
    let watched = Watched::new(world.writer());
    for _ in 0..50 {
        world.write("writer", &writer_request());
        tokio::task::yield_now().await;
    }
    let last = Tls::open(&world.path("writer"), world.clock.clone()).unwrap().status().serial;
    eventually(|| watched.tls.status().serial == last, || "the last".to_owned()).await;
    assert_eq!(watched.stop().await.reload_failures, 0);
    let io = open(&world.user(), &Greeter::start(&world.writer()).await).await.unwrap();
    greeting(io).await.unwrap();
}
