//! A Writer whose object store is set up wrongly: it serves, says what is wrong in words of
//! `docs/errors.md`, and ships what it has once that is mended.

use pyramid_e2e::process::{tell, wait_until};
use pyramid_e2e::seaweed::Credentials;
use pyramid_protocol::pb::v1 as pb;

use crate::bucket::Bucket;
use crate::world::{DEADLINE, World};

const STREAM: &str = "orders";

/// Said at the start, when the store refuses to be looked at.
const AT_START: &str = "the object store cannot be used now";

/// Said with each upload that failed.
const AT_UPLOAD: &str = "a chunk was not shipped";

fn values(round: u64) -> Vec<Vec<u8>> {
    (0..20).map(|number| format!("record {number} of round {round}").into_bytes()).collect()
}

async fn shipping_error(world: &World) -> anyhow::Result<String> {
    let info = world.admin()?.get_info(pb::GetInfoRequest {}).await?.into_inner();
    Ok(info.shipping_error)
}

fn log(world: &World) -> String {
    std::fs::read_to_string(world.folder.join("writer.log")).unwrap()
}

/// The Writer serves although its store is wrong. Waits until it has said why in its log, in a line
/// with each of `lines`, and in its answer to who asks.
async fn serves_and_says(world: &mut World, why: &str, lines: &[&str]) {
    world.start().await.unwrap();
    world.put_stream(STREAM, 1 << 20).await.unwrap();
    world.append(STREAM, &values(0)).await.unwrap();
    world.seal(STREAM).await.unwrap();
    for line in lines {
        let is_said = |log: &str| log.lines().any(|it| it.contains(line) && it.contains(why));
        let said = wait_until(line, DEADLINE, async || Ok(is_said(&log(world)))).await;
        said.unwrap_or_else(|error| panic!("{error:#}, with {why:?}:\n{}", log(world)));
    }
    let answered = async || Ok(shipping_error(world).await?.contains(why));
    wait_until("it answers why", DEADLINE, answered).await.unwrap();
    // It goes on to take records.
    world.append(STREAM, &values(1)).await.unwrap();
    let info = world.info(STREAM).await.unwrap();
    assert_eq!((info.next_offset, info.shipped_offset, info.chunk_count), (40, 0, 0));
    world.holds(STREAM, &[values(0), values(1)].concat(), false).await.unwrap();
    tell(&format!("wrong store: {}", shipping_error(world).await.unwrap()));
}

/// Mended: everything is shipped, the records are there, and nobody complains any more.
async fn ships(world: &World) {
    world.seal(STREAM).await.unwrap();
    let info = world.shipped(STREAM).await.unwrap();
    assert_eq!((info.next_offset, info.chunk_count), (40, 2));
    let all = [values(0), values(1)].concat();
    world.holds(STREAM, &all, false).await.unwrap();
    world.holds(STREAM, &all, true).await.unwrap();
    let silent = async || Ok(shipping_error(world).await?.is_empty());
    wait_until("there is no error any more", DEADLINE, silent).await.unwrap();
    let log = log(world);
    for user in [Credentials::admin(), Credentials::reader()] {
        assert!(!log.contains(&user.secret_key), "the log tells a secret:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_created_late_gets_the_chunks() {
    let mut bucket = Bucket::http().await;
    bucket.name = format!("{}-late", bucket.name);
    let mut world = World::prepare(bucket, 41).await.unwrap();
    let why = format!("the bucket {} does not exist at {}", world.bucket.name, world.proxy.url());
    serves_and_says(&mut world, &why, &[AT_START, AT_UPLOAD]).await;
    world.bucket.server.create_bucket(&world.bucket.name).await.unwrap();
    ships(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_replaced_while_the_writer_runs() {
    let wrong = Credentials { secret_key: "wrong".to_owned(), ..Credentials::admin() };
    let why = "the secret key does not belong to the access key";
    replaced_credentials(&wrong, why, &[AT_START, AT_UPLOAD]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_may_only_read_are_replaced_while_the_writer_runs() {
    // They may look, so only an upload shows it.
    replaced_credentials(&Credentials::reader(), "may not put in bucket", &[AT_UPLOAD]).await;
}

async fn replaced_credentials(credentials: &Credentials, why: &str, lines: &[&str]) {
    let mut world = World::prepare(Bucket::http().await, 42).await.unwrap();
    let folder = world.bucket.credentials("changing", credentials);
    world.set("--s3-credentials", &folder.display().to_string());
    serves_and_says(&mut world, why, lines).await;
    Credentials::admin().write_into(&folder).unwrap();
    ships(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_started_late_gets_the_chunks() {
    let mut world = World::prepare(Bucket::http().await, 43).await.unwrap();
    world.proxy.refuse_connections().await.unwrap();
    let why = format!("nothing listens at {}", world.proxy.url());
    serves_and_says(&mut world, &why, &[AT_START, AT_UPLOAD]).await;
    world.proxy.accept_connections().await.unwrap();
    ships(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_authority_at_the_next_start_lets_the_chunks_go() {
    let mut world = World::prepare(Bucket::https().await, 44).await.unwrap();
    let (endpoint, server) = (world.bucket.server.https(), world.bucket.server);
    world.set("--s3-endpoint", &endpoint);
    world.set("--s3-ca", &server.other_ca().display().to_string());
    let why = "is signed by an authority that is not trusted here";
    serves_and_says(&mut world, why, &[AT_START, AT_UPLOAD]).await;
    world.kill_writer().await.unwrap();
    world.set("--s3-ca", &server.ca().display().to_string());
    world.start_writer().await.unwrap();
    ships(&world).await;
}
