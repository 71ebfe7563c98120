//! Time: row A3.

use std::sync::Arc;

use pyramid_protocol::Clock as _;
use pyramid_tls::authority::Request;
use pyramid_tls::{ConnectError, Reason, Tls};

use crate::forge::attack;
use crate::world::{
    DAY, Greeter, HOUR, NOW_MS, TestClock, World, greeted, open, user_request, why, writer_request,
};

/// A server and a client with clocks of their own, both right at first. Certificates hold for
/// twelve hours.
struct Clocks {
    server: Arc<TestClock>,
    client: Arc<TestClock>,
    greeter: Greeter,
    user: Tls,
}

impl Clocks {
    async fn new(world: &World) -> Self {
        let (server, client) = (TestClock::at(NOW_MS), TestClock::at(NOW_MS));
        let writer = Tls::open(&world.write("writer", &writer_request()), server.clone()).unwrap();
        let user = Tls::open(&world.write("user", &user_request()), client.clone()).unwrap();
        let greeter = Greeter::start(&writer).await;
        greeted(&user, &greeter).await;
        Self { server, client, greeter, user }
    }
}

/// A3.
#[tokio::test]
async fn a_client_whose_certificate_has_expired_is_refused_and_told_so() {
    let world = World::new();
    let clocks = Clocks::new(&world).await;
    // The server's certificate is as old, but the client, whose clock is behind, believes it.
    clocks.server.forward(DAY);
    let why = why(open(&clocks.user, &clocks.greeter).await);
    assert!(matches!(why, ConnectError::OursExpired { .. }), "{why}");
    assert!(why.to_string().contains("by ours until 2026-08-01T12:00:00Z"), "{why}");
    clocks.greeter.refused(&[(Reason::Expired, 1)]).await;
}

/// A3.
#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_refused_with_both_times() {
    let world = World::new();
    let clocks = Clocks::new(&world).await;
    clocks.client.forward(DAY);
    assert_eq!(
        why(open(&clocks.user, &clocks.greeter).await).to_string(),
        "the server's certificate expired at 2026-08-01T12:00:00Z, now it is \
         2026-08-02T00:00:00Z; renew it, or is this machine's clock wrong?"
    );
}

/// A3.
#[tokio::test]
async fn certificates_of_the_future_are_refused_by_both_ends() {
    let world = World::new();
    let tomorrow = World::new();
    tomorrow.clock.forward(DAY);
    let clock = || TestClock::at(NOW_MS + 24 * 3_600_000);
    // Both believe one authority that was made today.
    let write = |name: &str, request: &Request| {
        let issued = world.authority.issue(request, &*clock()).unwrap();
        let path = tomorrow.path(name);
        pyramid_tls::write_directory(&path, &issued, world.authority.bundle_pem()).unwrap();
        path
    };
    let writer_of_tomorrow = Tls::open(&write("writer", &writer_request()), clock()).unwrap();
    let user_of_tomorrow = Tls::open(&write("user", &user_request()), clock()).unwrap();

    let server = Greeter::start(&world.writer()).await;
    let refused = why(open(&user_of_tomorrow, &server).await);
    // The client's clock is a day ahead: it is the first to see that something is wrong.
    assert!(matches!(refused, ConnectError::Expired { .. }), "{refused}");
    // A day-long certificate of the server passes there, and the server sees it.
    let long = Request { life: 2 * DAY, ..writer_request() };
    let server = Greeter::start(&world.open("long", &long)).await;
    let refused = why(open(&user_of_tomorrow, &server).await);
    assert!(matches!(refused, ConnectError::OursExpired { .. }), "{refused}");
    server.refused(&[(Reason::NotYetValid, 1)]).await;
    greeted(&world.user(), &server).await;

    let server = Greeter::start(&writer_of_tomorrow).await;
    assert_eq!(
        why(open(&world.user(), &server).await).to_string(),
        "the server's certificate is not valid before 2026-08-01T23:55:00Z, now it is \
         2026-08-01T00:00:00Z; is this machine's clock wrong?"
    );
    greeted(&user_of_tomorrow, &server).await;
}

/// A3: what a wrong clock does not break.
#[tokio::test]
async fn clocks_may_differ_by_five_minutes() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    for (behind_ms, is_taken) in [(300_000, true), (301_000, false)] {
        let clock = TestClock::at(world.clock.wall_ms() - behind_ms);
        let opened = Tls::open(&world.write("user", &user_request()), clock);
        assert_eq!(opened.is_ok(), is_taken, "{behind_ms} ms");
        if let Ok(client) = opened {
            greeted(&client, &server).await;
        }
    }
}

/// A3.
#[tokio::test]
async fn a_directory_that_does_not_hold_now_is_not_opened() {
    let world = World::new();
    let path = world.write("user", &user_request());
    let open = |ms: u64| Tls::open(&path, TestClock::at(ms)).map_err(|error| error.to_string());
    let shown = path.display();
    let twelve_hours = u64::try_from(12 * HOUR.as_millis()).unwrap();
    assert_eq!(
        open(NOW_MS + twelve_hours + 1000).unwrap_err(),
        format!("{shown}: tls.crt expired at 2026-08-01T12:00:00Z; renew it")
    );
    assert_eq!(
        open(NOW_MS - 301_000).unwrap_err(),
        format!(
            "{shown}: tls.crt is not valid before 2026-07-31T23:55:00Z; wait, or is this \
             machine's clock wrong?"
        )
    );
    open(NOW_MS + twelve_hours).unwrap();
    open(NOW_MS - 300_000).unwrap();
}

/// A3: resuming a session would skip the certificate.
#[tokio::test]
async fn a_client_that_was_here_before_is_checked_again() {
    let world = World::new();
    let clock = TestClock::at(NOW_MS);
    let writer = Tls::open(&world.write("writer", &writer_request()), clock.clone()).unwrap();
    let server = Greeter::start(&writer).await;
    // Its clones share what they remember of earlier sessions.
    let client = world.raw_client(Some(world.shown()));
    for _ in 0..2 {
        attack(&server, client.clone()).await.unwrap();
    }
    clock.forward(DAY);
    attack(&server, client).await.unwrap_err();
    server.refused(&[(Reason::Expired, 1)]).await;
}
