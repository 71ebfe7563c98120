//! Tokens for certificates: what an API server says about tokens that it gave out itself.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use pyramid_crds::{Stream, Subscription, definition};
use pyramid_e2e::process::wait_until;
use pyramid_operator::issuer::{self, Access, Issuer};
use pyramid_operator::settings::Pki;
use pyramid_operator::{Issue, Metrics, Trust};
use pyramid_protocol::net::{self, TcpAccept, TcpConnect};
use pyramid_protocol::pb::v1::issuer_client::IssuerClient;
use pyramid_protocol::pb::v1::{IssueRequest, IssueResponse, Reason, Refusal};
use pyramid_protocol::{Clock as _, SpiffeId, SystemClock};
use pyramid_tls::authority::Recognized;
use pyramid_tls::{Authority, CertificateRequest};
use serde_json::json;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Response;
use tonic::transport::Channel;

use crate::tokens::AUDIENCE;
use crate::wire::{Way, Wire};
use crate::world::{SOON, World};

const DAY: Duration = Duration::from_secs(86_400);
/// Asks for a pusher.
const APPEND: &str = "pyramid.dev/append";

/// An issuer on a port of its own, without TLS.
struct Desk {
    wire: Wire,
    trust: watch::Sender<Arc<Trust>>,
    metrics: Metrics,
    calls: IssuerClient<Channel>,
    tasks: JoinSet<()>,
}

/// What became of a request: how it was counted, and the text of its refusal.
type Outcome = (Issue, Option<(Reason, String)>);

impl Desk {
    /// Nobody is named.
    async fn open(world: &World) -> Self {
        let (subscriptions, mut writer) = reflector::store();
        let (access, _streams) = Access::new(subscriptions);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Self::with(world, access).await
    }

    async fn with(world: &World, access: Access) -> Self {
        let wire = world.wire();
        let authority = Authority::generate("test.local", 30 * DAY, &SystemClock).unwrap();
        let (sender, trust) = watch::channel(Arc::new(Trust::of(authority)));
        let metrics = Metrics::default();
        let issuer = Issuer {
            client: wire.client(),
            trust,
            access,
            lives: Pki::default(),
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
        };
        let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = tcp.local_address().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            issuer::serve(tcp, issuer, CancellationToken::new()).await.unwrap();
        });
        let channel = net::channel(Arc::new(TcpConnect), &address).unwrap();
        Self { wire, trust: sender, metrics, calls: IssuerClient::new(channel), tasks }
    }

    async fn ask(&self, token: &str) -> Result<(CertificateRequest, IssueResponse), Refusal> {
        let request = CertificateRequest::generate().unwrap();
        let csr_pem = request.csr_pem().to_owned();
        let asked = IssueRequest { token: token.to_owned(), csr_pem };
        match self.calls.clone().issue(asked).await.map(Response::into_inner) {
            Ok(response) => Ok((request, response)),
            Err(status) => Err(Refusal::from_status(&status)),
        }
    }

    async fn outcome(&self, token: &str) -> Outcome {
        let counts = || ALL.map(|issue| self.metrics.issues(issue));
        let before = counts();
        let answer = self.ask(token).await;
        let changed = before.into_iter().zip(counts()).zip(ALL).filter(|((a, b), _)| a != b);
        let counted: Vec<Issue> = changed.map(|(_, issue)| issue).collect();
        assert_eq!(counted.len(), 1, "{counted:?}");
        let refused = answer.err().map(|refusal| {
            assert!(token.is_empty() || !refusal.message.contains(token), "the token is told");
            // Only what is no fault of the caller is worth another try.
            let reason = refusal.reason();
            let later = [Reason::Unavailable, Reason::ResourceExhausted].contains(&reason);
            assert_eq!((refusal.retry, refusal.retry_after_ms > 0), (later, later), "{refusal:?}");
            (reason, refusal.message)
        });
        (counted[0], refused)
    }
}

/// How requests may end in these tests.
const ALL: [Issue; 13] = [
    Issue::Pod,
    Issue::Unbound,
    Issue::OtherAudience,
    Issue::ExpiredToken,
    Issue::InvalidatedToken,
    Issue::BadToken,
    Issue::PodGone,
    Issue::PodReplaced,
    Issue::PodFinished,
    Issue::NotNamed,
    Issue::Limited,
    Issue::ApiServer,
    Issue::NotReady,
];

fn denied(issue: Issue, text: impl Into<String>) -> Outcome {
    (issue, Some((Reason::Denied, text.into())))
}

/// The text of a refused token, for what the API server said.
fn refused(issue: Issue, said: &str) -> Outcome {
    denied(
        issue,
        format!(
            "the token is refused: {said}; use a token with the audience pyramid-issuer, such as \
             `kubectl create token <service account> --audience pyramid-issuer` makes"
        ),
    )
}

#[tokio::test]
async fn a_pod_gets_the_certificate_of_its_account_for_its_token() {
    let world = World::new("issuer-pod").await;
    world.account().await;
    let pod = world.pod("web-0", &[APPEND]).await;
    let desk = Desk::open(&world).await;
    let token = world.token(AUDIENCE, Some(&pod)).await;
    let began_ms = SystemClock.wall_ms();
    let (request, response) = desk.ask(&token).await.unwrap();
    assert_eq!(desk.metrics.issues(Issue::Pod), 1);
    let trust = Arc::clone(&desk.trust.borrow());
    assert_eq!(response.trust_bundle_pem, trust.bundle_pem);
    let issued = request.into_issued(response.certificate_pem, response.not_after_ms);
    let (key, chain) = (issued.key_pem.as_bytes(), issued.chain_pem.as_bytes());
    let found = trust.authority.recognize(key, chain, &SystemClock).unwrap();
    let expected = Recognized {
        identity: SpiffeId::service_account("test.local", "issuer-pod", "web").unwrap(),
        dns_names: Vec::new(),
        ..found.clone()
    };
    assert_eq!(found, expected);
    let life_ms = found.not_after_ms - began_ms;
    assert!((86_300_000..=86_500_000).contains(&life_ms), "{life_ms}");
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let world = World::new("issuer-audience").await;
    world.account().await;
    let pod = world.pod("web-0", &[APPEND]).await;
    let desk = Desk::open(&world).await;
    let api_server = "https://kubernetes.default.svc.cluster.local";
    for audience in ["other", api_server] {
        let token = world.token(audience, Some(&pod)).await;
        let said = format!(
            "[invalid bearer token, token audiences [\"{audience}\"] is invalid for the target \
             audiences [\"pyramid-issuer\"]]"
        );
        assert_eq!(desk.outcome(&token).await, refused(Issue::OtherAudience, &said));
    }
    let token = world.token(AUDIENCE, Some(&pod)).await;
    assert_eq!(desk.outcome(&token).await, (Issue::Pod, None));
}

#[tokio::test]
async fn a_token_is_good_only_between_its_times_and_with_its_signature() {
    let world = World::new("issuer-times").await;
    let account = world.account().await;
    let desk = Desk::open(&world).await;
    let signed = |from, to| world.signed_token(&account, from, to);
    let good = signed(-60, 60);
    // Known, but not named by anybody: the claims are as the API server makes them.
    assert_eq!(desk.outcome(&good).await.0, Issue::NotReady);
    let (claims, signature) = good.rsplit_once('.').unwrap();
    let reversed: String = signature.chars().rev().collect();
    let expired = "[invalid bearer token, service account token has expired]";
    let early = "[invalid bearer token, service account token is not valid yet]";
    let forged = "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]";
    let cases = [
        (signed(-120, -60), Issue::ExpiredToken, expired),
        // A minute is forgiven.
        (signed(300, 600), Issue::BadToken, early),
        (format!("{claims}.{reversed}"), Issue::BadToken, forged),
        ("junk".to_owned(), Issue::BadToken, "invalid bearer token"),
        (String::new(), Issue::BadToken, "it is empty"),
    ];
    for (token, issue, said) in cases {
        assert_eq!(desk.outcome(&token).await, refused(issue, said));
    }
}

#[tokio::test]
async fn a_token_of_a_pod_that_is_gone_is_refused() {
    let world = World::new("issuer-gone").await;
    world.account().await;
    let desk = Desk::open(&world).await;
    let first = world.pod("web-0", &[APPEND]).await;
    let (seen, unseen) =
        (world.token(AUDIENCE, Some(&first)).await, world.token(AUDIENCE, Some(&first)).await);
    assert_eq!(desk.outcome(&seen).await, (Issue::Pod, None));
    world.delete::<Pod>("web-0").await;
    let invalidated = "[invalid bearer token, service account token has been invalidated]";
    let invalidated = || refused(Issue::InvalidatedToken, invalidated);
    assert_eq!(desk.outcome(&unseen).await, invalidated());
    // The API server remembers for some seconds that it was good.
    let gone = "the pod issuer-gone/web-0 of this token does not exist any more";
    assert_eq!(desk.outcome(&seen).await, denied(Issue::PodGone, gone));
    let pod = world.pod("web-0", &[APPEND]).await;
    assert_eq!(desk.outcome(&seen).await, denied(Issue::PodReplaced, gone));
    let token = world.token(AUDIENCE, Some(&pod)).await;
    assert_eq!(desk.outcome(&token).await, (Issue::Pod, None));
    // Once it has forgotten, it sees that another pod has the name.
    let mut last = None;
    wait_until("the API server has forgotten it", SOON, async || {
        let outcome = last.insert(desk.outcome(&seen).await);
        Ok(!matches!(outcome.0, Issue::PodReplaced | Issue::Limited))
    })
    .await
    .unwrap();
    let said = format!(
        "[invalid bearer token, pod UID ({}) does not match service account pod ref claim ({})]",
        pod.uid().unwrap(),
        first.uid().unwrap()
    );
    assert_eq!(last, Some(refused(Issue::InvalidatedToken, &said)));
}

#[tokio::test]
async fn a_token_of_an_account_that_is_gone_is_refused() {
    let world = World::new("issuer-account").await;
    let first = world.account().await;
    let desk = Desk::open(&world).await;
    let pod = world.pod("web-0", &[APPEND]).await;
    let (old, other) =
        (world.token(AUDIENCE, Some(&pod)).await, world.token(AUDIENCE, Some(&pod)).await);
    assert_eq!(desk.outcome(&old).await, (Issue::Pod, None));
    world.delete::<ServiceAccount>("web").await;
    let said = "[invalid bearer token, serviceaccounts \"web\" not found]";
    assert_eq!(desk.outcome(&other).await, refused(Issue::InvalidatedToken, said));
    let second = world.account().await;
    let said = format!(
        "[invalid bearer token, service account UID ({}) does not match claim ({})]",
        second.uid().unwrap(),
        first.uid().unwrap()
    );
    assert_eq!(desk.outcome(&other).await, refused(Issue::InvalidatedToken, &said));
    let token = world.token(AUDIENCE, Some(&pod)).await;
    assert_eq!(desk.outcome(&token).await, (Issue::Pod, None));
}

#[tokio::test]
async fn a_pod_that_has_finished_gets_no_more() {
    let world = World::new("issuer-finished").await;
    world.account().await;
    let desk = Desk::open(&world).await;
    let pod = world.pod("web-0", &[APPEND]).await;
    let token = world.token(AUDIENCE, Some(&pod)).await;
    world.set_phase("web-0", "Running").await;
    assert_eq!(desk.outcome(&token).await, (Issue::Pod, None));
    world.set_phase("web-0", "Succeeded").await;
    let text = "the pod issuer-finished/web-0 of this token has finished";
    assert_eq!(desk.outcome(&token).await, denied(Issue::PodFinished, text));
}

#[tokio::test]
async fn who_is_no_pod_that_asks_for_pyramid_is_told_who_can_name_his_account() {
    let world = World::new("issuer-named").await;
    install_kinds(&world.client).await;
    world.account().await;
    let (subscriptions, mut writer): (_, Writer<DeserializeGuard<Subscription>>) =
        reflector::store();
    writer.apply_watcher_event(&watcher::Event::InitDone);
    let (access, streams) = Access::new(subscriptions);
    let mut desk = Desk::with(&world, access.clone()).await;
    let silent = world.pod("web-0", &[]).await;
    let tokens = [world.token(AUDIENCE, None).await, world.token(AUDIENCE, Some(&silent)).await];
    for token in &tokens {
        let text = "the operator has not read the access lists yet; try again".to_owned();
        let expected = (Issue::NotReady, Some((Reason::Unavailable, text)));
        assert_eq!(desk.outcome(token).await, expected);
    }
    desk.tasks.spawn(streams.run(world.client.clone(), CancellationToken::new()));
    wait_until("Streams are read", SOON, async || Ok(access.is_ready())).await.unwrap();
    for token in &tokens {
        let text = "no Stream or Subscription names the service account issuer-named/web; add it \
                    to spec.appenders or spec.subscribers of a Stream, or annotate the pod with \
                    pyramid.dev/subscriptions or pyramid.dev/append";
        assert_eq!(desk.outcome(token).await, denied(Issue::NotNamed, text));
    }
    let spec = json!({"appenders": [{"serviceAccount": "web"}], "subscribers": []});
    let stream = json!({
        "apiVersion": "pyramid.dev/v1alpha1",
        "kind": "Stream",
        "metadata": {"name": "orders"},
        "spec": spec,
    });
    world.create::<Stream>(stream).await;
    let [unbound, bound] = tokens;
    wait_until("the Stream is read", SOON, async || {
        Ok(desk.outcome(&bound).await == (Issue::Unbound, None))
    })
    .await
    .unwrap();
    assert_eq!(desk.outcome(&unbound).await, (Issue::Unbound, None));
    let (_, response) = desk.ask(&unbound).await.unwrap();
    let life_ms = response.not_after_ms - SystemClock.wall_ms();
    assert!((3_500_000..=3_600_000).contains(&life_ms), "{life_ms}");
}

#[tokio::test]
async fn a_holder_may_ask_five_times_at_once() {
    let world = World::new("issuer-often").await;
    world.account().await;
    let desk = Desk::open(&world).await;
    let pods = [world.pod("web-0", &[APPEND]).await, world.pod("web-1", &[APPEND]).await];
    let token = world.token(AUDIENCE, Some(&pods[0])).await;
    // Another token of the same pod is the same holder.
    let other_token = world.token(AUDIENCE, Some(&pods[0])).await;
    let mut asking = JoinSet::new();
    let desk = Arc::new(desk);
    for token in [&token, &other_token].into_iter().cycle().take(12) {
        let (desk, token) = (Arc::clone(&desk), token.clone());
        asking.spawn(async move { desk.ask(&token).await.map(drop) });
    }
    let answers = asking.join_all().await;
    let refusal = answers.into_iter().find_map(Result::err).expect("nobody had to wait");
    assert_eq!((refusal.reason(), refusal.retry), (Reason::ResourceExhausted, true));
    assert_eq!(refusal.message, "too many requests for certificates; wait a moment");
    assert!((1..=1000).contains(&refusal.retry_after_ms), "{refusal:?}");
    assert!(desk.metrics.issues(Issue::Pod) >= 5);
    let other_pod = world.token(AUDIENCE, Some(&pods[1])).await;
    assert!(desk.ask(&other_pod).await.is_ok());
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_or_refuses_is_a_reason_to_try_again() {
    let world = World::new("issuer-silent").await;
    world.account().await;
    let pod = world.pod("web-0", &[APPEND]).await;
    let desk = Desk::open(&world).await;
    let token = world.token(AUDIENCE, Some(&pod)).await;
    for way in [Way::Stranger, Way::Silent] {
        desk.wire.be(way);
        let text = "the API server did not answer about the token; try again".to_owned();
        let expected = (Issue::ApiServer, Some((Reason::Unavailable, text)));
        assert_eq!(desk.outcome(&token).await, expected);
    }
    desk.wire.be(Way::Open);
    assert_eq!(desk.outcome(&token).await, (Issue::Pod, None));
}

/// Installs the kinds of Pyramid, once.
async fn install_kinds(client: &Client) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED
        .get_or_init(async || {
            let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
            for definition in definition::all() {
                let object = serde_json::from_value(definition.object).unwrap();
                definitions.create(&PostParams::default(), &object).await.unwrap();
            }
            let streams: Api<Stream> = Api::all(client.clone());
            wait_until("Streams are served", SOON, async || {
                Ok(streams.list(&kube::api::ListParams::default()).await.is_ok())
            })
            .await
            .unwrap();
        })
        .await;
}
