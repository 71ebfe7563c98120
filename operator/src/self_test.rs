//! Tries an installation as a user does, and says what does not work: what `helm test` runs.
//!
//! A Pod that asks for a pusher is made on trial, which the API server, the webhook and the policy
//! behind it have to agree on, and a Stream is made and waited for, which needs a Writer, its volume
//! and its bucket. A Stream that does not become ready is left there to be looked at, and the next
//! test goes on with it.

use std::io::{self, Write};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use pyramid_crds::Stream;
use pyramid_crds::condition::types;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::context::said;
use crate::inject::CONTAINER;

/// All of a test takes no longer. The chart gives its Pod a minute.
const ENDS_WITHIN: Duration = Duration::from_secs(50);
/// A Stream got ready and went after so many looks, one a second. The first one of an installation
/// waits for a Writer.
const LOOKS: u32 = 40;
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Name of the Stream and of the Pod.
const NAME: &str = "pyramid-self-test";

/// What to try.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct SelfTest {
    /// Make a Pod with a pusher in this namespace, on trial: nothing is stored.
    #[arg(long, value_name = "NAMESPACE")]
    pod_in: Option<String>,
    /// Make a Stream in this namespace, wait until it is ready, and delete it.
    #[arg(long, value_name = "NAMESPACE")]
    stream_in: Option<String>,
}

/// What does not work.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// Run it in a Pod with a service account.
    #[error("find the API server")]
    Client(#[source] kube::Error),
    /// As the API server says; often its way to the webhook is barred.
    #[error(
        "a Pod that asks for a pusher is refused in namespace {namespace}: {text}; where the API \
         server cannot reach the webhook, let it through to port 10250 of the operator's Pods"
    )]
    Refused {
        /// Where.
        namespace: String,
        /// What the API server says.
        text: String,
    },
    /// The webhook was not asked.
    #[error(
        "a Pod gets no pusher in namespace {namespace}; see that the \
         MutatingWebhookConfiguration pyramid-sidecar-injector is there, and that the namespace has \
         no label pyramid.dev/injection and is not one of injector.excludedNamespaces"
    )]
    NoPusher {
        /// Where.
        namespace: String,
    },
    /// As the API server says.
    #[error("{action} the Stream {namespace}/{NAME}: {text}")]
    Stream {
        /// What was to be done.
        action: &'static str,
        /// Where.
        namespace: String,
        /// What the API server says.
        text: String,
    },
    /// As its conditions say.
    #[error(
        "the Stream {namespace}/{NAME} is not ready: {state}; see `kubectl describe pstr {NAME} \
         --namespace {namespace}`, and test again"
    )]
    NotReady {
        /// Where.
        namespace: String,
        /// What it waits for.
        state: String,
    },
    /// As its conditions say.
    #[error(
        "the Stream {namespace}/{NAME} was ready and does not go: {state}; see `kubectl describe \
         pstr {NAME} --namespace {namespace}`"
    )]
    NotGone {
        /// Where.
        namespace: String,
        /// What it waits for.
        state: String,
    },
    /// It answers too slowly.
    #[error("the API server did not answer in time; test again, and see that it is well")]
    Slow,
    /// Nobody reads what it says.
    #[error("write to standard output")]
    Output(#[from] io::Error),
}

impl SelfTest {
    /// Does what is asked for, and tells of each thing that works.
    ///
    /// # Errors
    ///
    /// The first thing that does not work.
    pub async fn run(&self) -> Result<(), SelfTestError> {
        let client = Client::try_default().await.map_err(SelfTestError::Client)?;
        let mut out = io::stdout();
        let tried = timeout(ENDS_WITHIN, self.try_all(&client, &mut out)).await;
        tried.unwrap_or(Err(SelfTestError::Slow))
    }

    async fn try_all(&self, client: &Client, out: &mut impl Write) -> Result<(), SelfTestError> {
        if let Some(namespace) = &self.pod_in {
            try_pod(client, namespace).await?;
            writeln!(out, "a Pod gets its pusher in namespace {namespace}")?;
        }
        if let Some(namespace) = &self.stream_in {
            try_stream(client, namespace).await?;
            writeln!(out, "a Stream got ready in namespace {namespace}, and went")?;
        }
        Ok(())
    }
}

async fn try_pod(client: &Client, namespace: &str) -> Result<(), SelfTestError> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let made = api.create(&params, &pod()).await;
    let namespace = namespace.to_owned();
    match made {
        Ok(pod) if has_pusher(&pod) => Ok(()),
        Ok(_) => Err(SelfTestError::NoPusher { namespace }),
        Err(error) => Err(SelfTestError::Refused { namespace, text: said(&error) }),
    }
}

/// A Pod that the rules "restricted" admit, so that only the pusher decides.
fn pod() -> Pod {
    let security = json!({
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let amounts = json!({"cpu": "10m", "memory": "16Mi"});
    let pod = json!({
        "metadata": {
            "name": NAME,
            "annotations": {pyramid_crds::annotation::APPEND: NAME},
        },
        "spec": {"containers": [{
            "name": "application",
            "image": "none",
            "securityContext": security,
            "resources": {"requests": amounts, "limits": amounts},
        }]},
    });
    serde_json::from_value(pod).unwrap_or_default()
}

fn has_pusher(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.into_iter().any(|container| container.name == CONTAINER)
}

async fn try_stream(client: &Client, namespace: &str) -> Result<(), SelfTestError> {
    let api = Api::<Stream>::namespaced(client.clone(), namespace);
    let failed = |action| {
        let namespace = namespace.to_owned();
        move |error: kube::Error| SelfTestError::Stream { action, namespace, text: said(&error) }
    };
    let mut state = String::new();
    let mut was_ready = false;
    for look in 0..LOOKS {
        if look > 0 {
            sleep(LOOK_PERIOD).await;
        }
        match api.get_opt(NAME).await.map_err(failed("read"))? {
            // Here, or of an earlier test.
            Some(stream) if stream.metadata.deletion_timestamp.is_some() => {
                state = format!("it is being deleted; {}", state_of(&stream));
            }
            Some(stream) if is_ready(&stream) => {
                was_ready = true;
                let deleted = api.delete(NAME, &DeleteParams::default()).await;
                deleted.map_err(failed("delete"))?;
            }
            Some(stream) => state = state_of(&stream),
            None if was_ready => return Ok(()),
            None => match api.create(&PostParams::default(), &stream()).await {
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                created => drop(created.map_err(failed("make"))?),
            },
        }
    }
    let namespace = namespace.to_owned();
    if was_ready {
        return Err(SelfTestError::NotGone { namespace, state });
    }
    Err(SelfTestError::NotReady { namespace, state })
}

/// Nothing is to be left of it.
fn stream() -> Stream {
    let mut stream = Stream::new(NAME, pyramid_crds::stream::StreamSpec::default());
    stream.spec.deletion_policy = pyramid_crds::writer::Fate::Delete;
    stream
}

fn is_ready(stream: &Stream) -> bool {
    let conditions = stream.status.iter().flat_map(|status| &status.conditions);
    let of_now = |observed: Option<i64>| observed == stream.metadata.generation;
    conditions.into_iter().any(|one| {
        one.type_ == types::READY && one.status == "True" && of_now(one.observed_generation)
    })
}

/// Each condition, `Ready=False, reason Pending: no operator has looked at it`.
fn state_of(stream: &Stream) -> String {
    let conditions = stream.status.iter().flat_map(|status| &status.conditions);
    let texts: Vec<String> = conditions
        .map(|one| {
            let colon = if one.message.is_empty() { "" } else { ": " };
            format!("{}={}, reason {}{colon}{}", one.type_, one.status, one.reason, one.message)
        })
        .collect();
    if texts.is_empty() { "no operator has looked at it".to_owned() } else { texts.join("; ") }
}

#[cfg(test)]
mod tests;
