//! Settings of a pusher in a pod: what the injector has written into its container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::PUSHES_MAX;
use crate::health::Readiness;
use crate::{config, drain};

/// Most subscriptions of one pod.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Most streams that the annotation `append` may name.
const APPEND_MAX: usize = 64;
/// Longest name of an object of Kubernetes. Unit: bytes.
const NAME_LEN_MAX: usize = 253;

/// Flags of `pyramid-pusher run`. The injector sets the variables; the paths are those of its mounts.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Directory with the files of the ConfigMap pyramid-bootstrap, looked at again and again.
    #[arg(long, default_value = "/etc/pyramid/bootstrap", value_name = "DIR")]
    bootstrap: PathBuf,

    /// The service account's token for the issuer, read anew for each certificate.
    #[arg(long, default_value = "/var/run/pyramid/token/token", value_name = "FILE")]
    token: PathBuf,

    /// Where key, certificate and trust bundle are kept, in memory.
    #[arg(long, default_value = "/var/run/pyramid/identity", value_name = "DIR")]
    identity: PathBuf,

    /// The pod's name.
    #[arg(long, env = "PYRAMID_POD_NAME")]
    pod_name: String,

    /// The pod's namespace.
    #[arg(long, env = "PYRAMID_POD_NAMESPACE")]
    pod_namespace: String,

    /// The pod's uid, for the log.
    #[arg(long, env = "PYRAMID_POD_UID", default_value = "")]
    pod_uid: String,

    /// Names of Subscriptions of the pod's namespace, separated by commas.
    #[arg(long, env = "PYRAMID_SUBSCRIPTIONS", default_value = "")]
    subscriptions: String,

    /// Streams that the application appends to, NAME or NAMESPACE/NAME, separated by commas; or *.
    /// Whether it may is decided by the Writer.
    #[arg(long, env = "PYRAMID_APPEND", default_value = "")]
    append: String,

    /// Port of the application on 127.0.0.1. Default: that of each Subscription.
    #[arg(long, env = "PYRAMID_APP_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    app_port: Option<u16>,

    /// Port of the Local service, on 127.0.0.1.
    #[arg(long, env = "PYRAMID_APPEND_PORT", default_value_t = 7410)]
    append_port: u16,

    /// Port of health and metrics, on all addresses of the pod.
    #[arg(long, env = "PYRAMID_OPS_PORT", default_value_t = 7411)]
    ops_port: u16,

    /// Time that the pod has to end. Unit: seconds.
    #[arg(long, env = "PYRAMID_GRACE_SECONDS", default_value_t = 30)]
    grace_seconds: u32,

    /// When the pod is ready.
    #[arg(long, env = "PYRAMID_READINESS", default_value = "Local")]
    readiness: Readiness,
}

/// Valid settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The pod's name, which tells this pusher from others of a subscription.
    pub pod_name: String,
    /// Names without a namespace are of this one.
    pub namespace: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Bare names in the namespace. May be empty.
    pub subscriptions: Vec<String>,
    /// Streams that the application means to append to, as it wrote them.
    pub append: Vec<String>,
    /// Port of the application; `None`: that of the Subscription.
    pub app_port: Option<u16>,
    /// Where `Local` listens.
    pub local: SocketAddr,
    /// Where health and metrics are served; the first address that this machine has.
    pub ops: Vec<SocketAddr>,
    /// When the pod is ready.
    pub readiness: Readiness,
    /// Directory of the bootstrap configuration.
    pub bootstrap: PathBuf,
    /// The token's file.
    pub token: PathBuf,
    /// The TLS directory.
    pub identity: PathBuf,
    /// Pushes to one application that may be on their way at once. At least 1.
    pub pushes_max: usize,
    /// Waits of the pusher.
    pub timing: config::Timing,
    /// Waits of what keeps it informed.
    pub pod_timing: Timing,
}

/// Waits, short in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often files are looked at.
    pub poll: Duration,
    /// First wait after the issuer gave no certificate; doubled from then on.
    pub issue_retry: Duration,
    /// Longest of these waits.
    pub issue_retry_max: Duration,
    /// Within this time after a change of the trust bundle a new certificate is asked for.
    pub spread: Duration,
}

impl Timing {
    /// Those of the documents.
    pub const DEFAULT: Self = Self {
        poll: Duration::from_secs(2),
        issue_retry: Duration::from_secs(1),
        issue_retry_max: Duration::from_secs(30),
        spread: Duration::from_secs(60),
    };
}

/// A setting is wrong. Change the annotation of the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// See the text.
    #[error(
        "{text:?} is no name of a Subscription; give names in the pod's namespace, separated by \
         commas"
    )]
    Subscription {
        /// What was given.
        text: String,
    },
    /// See the text.
    #[error("{text:?} is no stream; give NAME or NAMESPACE/NAME, separated by commas, or *")]
    Append {
        /// What was given.
        text: String,
    },
    /// See the text.
    #[error("{name:?} is given twice")]
    Twice {
        /// Which one.
        name: String,
    },
    /// See the text.
    #[error("{given} names are too many for one pod; it may have {max}")]
    TooMany {
        /// How many were given.
        given: usize,
        /// How many there may be.
        max: usize,
    },
    /// The injector sets both.
    #[error("PYRAMID_POD_NAME and PYRAMID_POD_NAMESPACE must hold names, not {text:?}")]
    Pod {
        /// What was given.
        text: String,
    },
}

impl TryFrom<Args> for Config {
    type Error = Error;

    fn try_from(args: Args) -> Result<Self, Error> {
        let Args {
            bootstrap,
            token,
            identity,
            pod_name,
            pod_namespace,
            pod_uid,
            subscriptions,
            append,
            app_port,
            append_port,
            ops_port,
            grace_seconds,
            readiness,
        } = args;
        for text in [&pod_name, &pod_namespace] {
            if !is_name(text) {
                return Err(Error::Pod { text: text.clone() });
            }
        }
        let subscriptions = list(&subscriptions, SUBSCRIPTIONS_MAX)?;
        if let Some(text) = subscriptions.iter().find(|name| !is_name(name)) {
            return Err(Error::Subscription { text: text.clone() });
        }
        let append = list(&append, APPEND_MAX)?;
        if let Some(text) = append.iter().find(|stream| !is_stream(stream)) {
            return Err(Error::Append { text: text.clone() });
        }
        let grace = Duration::from_secs(grace_seconds.into());
        let timing = config::Timing { drain: drain::wait_of(grace), ..config::Timing::DEFAULT };
        Ok(Self {
            pod_name,
            namespace: pod_namespace,
            pod_uid,
            subscriptions,
            append,
            app_port,
            local: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), append_port),
            // The kubelet asks at the pod's address, whatever its kind; a machine without IPv6 has
            // only the second.
            ops: vec![
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), ops_port),
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), ops_port),
            ],
            readiness,
            bootstrap,
            token,
            identity,
            pushes_max: PUSHES_MAX,
            timing,
            pod_timing: Timing::DEFAULT,
        })
    }
}

/// The parts between commas. Nothing is an empty list.
fn list(text: &str, max: usize) -> Result<Vec<String>, Error> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.len() > max {
        return Err(Error::TooMany { given: names.len(), max });
    }
    for (at, name) in names.iter().enumerate() {
        if names.iter().take(at).any(|before| before == name) {
            return Err(Error::Twice { name: name.clone() });
        }
    }
    Ok(names)
}

/// A name of an object of Kubernetes, roughly: whether there is one is known later.
fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=NAME_LEN_MAX).contains(&text.len()) && text.chars().all(is_part)
}

fn is_stream(text: &str) -> bool {
    text == "*" || text.split_once('/').map_or(is_name(text), |(a, b)| is_name(a) && is_name(b))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    const POD: [&str; 5] = ["run", "--pod-name", "p-0", "--pod-namespace", "shop"];

    fn config(flags: &[&str]) -> Result<Config, Error> {
        let flags = [&POD[..], flags].concat();
        Config::try_from(Command::try_parse_from(flags).unwrap().args)
    }

    #[test]
    fn a_pod_needs_only_its_name() {
        let expected = Config {
            pod_name: "p-0".to_owned(),
            namespace: "shop".to_owned(),
            pod_uid: String::new(),
            subscriptions: vec![],
            append: vec![],
            app_port: None,
            local: "127.0.0.1:7410".parse().unwrap(),
            ops: vec!["[::]:7411".parse().unwrap(), "0.0.0.0:7411".parse().unwrap()],
            readiness: Readiness::Local,
            bootstrap: "/etc/pyramid/bootstrap".into(),
            token: "/var/run/pyramid/token/token".into(),
            identity: "/var/run/pyramid/identity".into(),
            pushes_max: PUSHES_MAX,
            timing: config::Timing::DEFAULT,
            pod_timing: Timing::DEFAULT,
        };
        assert_eq!(config(&[]), Ok(expected.clone()));
        let flags = ["--subscriptions", "a, b", "--append", "orders,other/orders"];
        let more = ["--app-port", "8080", "--grace-seconds", "60", "--readiness", "CaughtUp"];
        let given = Config {
            subscriptions: vec!["a".to_owned(), "b".to_owned()],
            append: vec!["orders".to_owned(), "other/orders".to_owned()],
            app_port: Some(8080),
            readiness: Readiness::CaughtUp,
            timing: config::Timing { drain: Duration::from_secs(55), ..config::Timing::DEFAULT },
            ..expected
        };
        assert_eq!(config(&[&flags[..], &more[..]].concat()), Ok(given));
    }

    #[test]
    fn names_are_looked_at() {
        let long = "n".repeat(NAME_LEN_MAX + 1);
        for text in ["A", "a/b", "a,,b", "*", &long] {
            let wrong = text.split(',').find(|name| !is_name(name)).unwrap().to_owned();
            let error = Err(Error::Subscription { text: wrong });
            assert_eq!(config(&["--subscriptions", text]), error);
        }
        assert!(config(&["--subscriptions", &long[1..]]).is_ok());
        for text in ["a/b/c", "/b", "a/", "A", "a/*"] {
            let error = Err(Error::Append { text: text.to_owned() });
            assert_eq!(config(&["--append", text]), error);
        }
        assert_eq!(config(&["--append", "*"]).unwrap().append, ["*"]);
        let twice = Err(Error::Twice { name: "a".to_owned() });
        assert_eq!(config(&["--subscriptions", "a,b,a"]), twice);
    }

    #[test]
    fn a_pod_has_at_most_64_subscriptions_and_streams() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        for (flag, max) in [("--subscriptions", SUBSCRIPTIONS_MAX), ("--append", APPEND_MAX)] {
            assert!(config(&[flag, &names(max)]).is_ok());
            let error = Err(Error::TooMany { given: max + 1, max });
            assert_eq!(config(&[flag, &names(max + 1)]), error);
        }
    }
}
