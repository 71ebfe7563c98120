//! Settings: flags and `PYRAMID_` variables, read once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pyramid_protocol::limits::NAME_BYTES_MAX;

use crate::health::Readiness;

/// Pushes to one application that may be on their way at once, unless said otherwise.
pub const PUSHES_MAX: usize = 32;
/// Most subscriptions of one pod.
const SUBSCRIPTIONS_MAX: usize = 64;

/// Flags of `pyramid-pusher`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Replicas of the Writer, as host:port; several are separated by commas.
    #[arg(long, env = "PYRAMID_WRITER", value_delimiter = ',', required = true)]
    writer: Vec<String>,

    /// Subscriptions of this pod, separated by commas; NAME=PORT where one has a port of its own.
    #[arg(long, env = "PYRAMID_SUBSCRIPTIONS", value_delimiter = ',', required = true)]
    subscriptions: Vec<String>,

    /// Port on which the application serves pyramid.v1.Consumer, on 127.0.0.1.
    #[arg(long, env = "PYRAMID_APP_PORT", default_value_t = 50051)]
    app_port: u16,

    /// Names this pusher among those of the subscription.
    #[arg(long, env = "PYRAMID_POD", default_value = "pusher")]
    pod: String,

    /// Where the application reaches this pusher. A loopback address; port 0 takes a free one.
    #[arg(long, env = "PYRAMID_LOCAL", default_value = "127.0.0.1:7410")]
    local: SocketAddr,

    /// Where health and metrics are served, over plain HTTP to anybody. Port 0 takes a free one.
    #[arg(
        long,
        env = "PYRAMID_OPS_LISTEN",
        default_value = "127.0.0.1:7411",
        value_name = "ADDRESS"
    )]
    ops_listen: SocketAddr,

    /// When the pod is ready.
    #[arg(long, env = "PYRAMID_READINESS", default_value = "Local")]
    readiness: Readiness,

    /// Chunks that the Writer keeps in a directory are read only below this one.
    #[arg(long, env = "PYRAMID_CHUNK_DIRECTORY")]
    chunk_directory: Option<PathBuf>,

    /// Directory with `tls.key`, `tls.crt` and `ca.crt`, read again when they change. Without it
    /// the Writer is reached without TLS, on loopback addresses only.
    #[arg(long, env = "PYRAMID_TLS", value_name = "DIR")]
    tls: Option<PathBuf>,

    /// Authorities that the object store's certificate may come from, as PEM. Default: the
    /// machine's.
    #[arg(long, env = "PYRAMID_OBJECT_STORE_CA", value_name = "FILE")]
    object_store_ca: Option<PathBuf>,

    /// Fetch chunks over plain HTTP too, from an object store without TLS. What it gives is
    /// encrypted and verified all the same.
    #[arg(long, env = "PYRAMID_OBJECT_STORE_HTTP")]
    object_store_http: bool,

    /// How long the application may take for one push, unless the subscription says otherwise.
    /// Unit: milliseconds.
    #[arg(long, env = "PYRAMID_PUSH_TIMEOUT_MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    push_timeout_ms: u32,

    /// Pushes of different streams to one application that may be on their way at once.
    #[arg(long, env = "PYRAMID_PUSHES_MAX", default_value_t = PUSHES_MAX)]
    pushes_max: usize,
}

/// Valid settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `host:port` of the Writer's replicas, at least one.
    pub writers: Vec<String>,
    /// What is pushed, and where to.
    pub subscriptions: Vec<Subscription>,
    /// Names this pusher among those of the subscription.
    pub pod: String,
    /// Where `Local` listens; `None`: it is not served.
    pub local: Option<SocketAddr>,
    /// Where health and metrics are served; `None`: they are not.
    pub ops: Option<SocketAddr>,
    /// When the pod is ready.
    pub readiness: Readiness,
    /// `file:` locations are opened only below this directory.
    pub chunk_directory: Option<PathBuf>,
    /// Key, certificate and trust bundle; `None`: no TLS.
    pub tls: Option<PathBuf>,
    /// Whom to trust besides the machine's authorities when chunks are fetched.
    pub object_store_ca: Option<PathBuf>,
    /// Whether chunks are fetched over plain HTTP too.
    pub object_store_http: bool,
    /// Pushes to one application that may be on their way at once. At least 1.
    pub pushes_max: usize,
    /// Waits.
    pub timing: Timing,
}

/// One subscription and the application that takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// `host:port` of the application.
    pub application: String,
}

/// Waits, short in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One push, unless the subscription says otherwise.
    pub push_timeout: Duration,
    /// Without a push for so long, the application is asked where it is.
    pub idle_ask: Duration,
    /// How often an application is asked whether it has left the place of a halt.
    pub halt_ask: Duration,
    /// How long a unary call to the Writer is retried.
    pub call_timeout: Duration,
    /// How long a drain waits for the answer to a push.
    pub drain: Duration,
}

impl Timing {
    /// Those of design and documents.
    pub const DEFAULT: Self = Self {
        push_timeout: Duration::from_secs(30),
        idle_ask: Duration::from_secs(30),
        halt_ask: Duration::from_secs(5),
        call_timeout: Duration::from_secs(10),
        drain: Duration::from_secs(25),
    };
}

/// A setting is wrong. Change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// See the text.
    #[error("{text:?} is no subscription; give NAME or NAME=PORT, names have 1 to 256 bytes")]
    Subscription {
        /// What was given.
        text: String,
    },
    /// Two tasks would push the same streams to the same application.
    #[error("subscription {name:?} is given twice")]
    Twice {
        /// Which one.
        name: String,
    },
    /// See the text.
    #[error("{given} subscriptions are too many for one pod; it may have {SUBSCRIPTIONS_MAX}")]
    TooMany {
        /// How many were given.
        given: usize,
    },
    /// See the text.
    #[error("at least one push must be allowed at once; give --pushes-max 1 or more")]
    NoPush,
}

impl TryFrom<Args> for Config {
    type Error = Error;

    fn try_from(args: Args) -> Result<Self, Error> {
        let Args {
            writer,
            subscriptions: texts,
            app_port,
            pod,
            local,
            ops_listen,
            readiness,
            chunk_directory,
            tls,
            object_store_ca,
            object_store_http,
            push_timeout_ms,
            pushes_max,
        } = args;
        if texts.len() > SUBSCRIPTIONS_MAX {
            return Err(Error::TooMany { given: texts.len() });
        }
        if pushes_max == 0 {
            return Err(Error::NoPush);
        }
        let mut subscriptions: Vec<Subscription> = Vec::new();
        for text in texts {
            let subscription = subscription(&text, app_port)
                .ok_or_else(|| Error::Subscription { text: text.clone() })?;
            if subscriptions.iter().any(|other| other.name == subscription.name) {
                return Err(Error::Twice { name: subscription.name });
            }
            subscriptions.push(subscription);
        }
        let push_timeout = Duration::from_millis(push_timeout_ms.into());
        Ok(Self {
            writers: writer,
            subscriptions,
            pod,
            local: Some(local),
            ops: Some(ops_listen),
            readiness,
            chunk_directory,
            tls,
            object_store_ca,
            object_store_http,
            pushes_max,
            timing: Timing { push_timeout, ..Timing::DEFAULT },
        })
    }
}

fn subscription(text: &str, app_port: u16) -> Option<Subscription> {
    let (name, port) = match text.rsplit_once('=') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (text, app_port),
    };
    let is_name = (1..=NAME_BYTES_MAX).contains(&name.len());
    (is_name && port != 0)
        .then(|| Subscription { name: name.to_owned(), application: format!("127.0.0.1:{port}") })
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

    fn config(subscriptions: &str) -> Result<Config, Error> {
        let flags = ["pusher", "--writer", "a:1,b:2", "--subscriptions", subscriptions];
        Config::try_from(Command::try_parse_from(flags).unwrap().args)
    }

    #[test]
    fn flags_become_settings() {
        let expected = Config {
            writers: vec!["a:1".to_owned(), "b:2".to_owned()],
            subscriptions: vec![
                Subscription { name: "x".to_owned(), application: "127.0.0.1:50051".to_owned() },
                Subscription { name: "y=z".to_owned(), application: "127.0.0.1:7".to_owned() },
            ],
            pod: "pusher".to_owned(),
            local: Some("127.0.0.1:7410".parse().unwrap()),
            ops: Some("127.0.0.1:7411".parse().unwrap()),
            readiness: Readiness::Local,
            chunk_directory: None,
            tls: None,
            object_store_ca: None,
            object_store_http: false,
            pushes_max: PUSHES_MAX,
            timing: Timing::DEFAULT,
        };
        assert_eq!(config("x,y=z=7"), Ok(expected));
    }

    #[test]
    fn readiness_is_chosen_by_its_name() {
        let flags = |readiness| {
            ["pusher", "--writer", "a:1", "--subscriptions", "x", "--readiness", readiness]
        };
        let named = [
            ("Local", Readiness::Local),
            ("Connected", Readiness::Connected),
            ("CaughtUp", Readiness::CaughtUp),
        ];
        for (name, expected) in named {
            let args = Command::try_parse_from(flags(name)).unwrap().args;
            assert_eq!(Config::try_from(args).unwrap().readiness, expected);
        }
        assert!(Command::try_parse_from(flags("Ready")).is_err());
    }

    #[test]
    fn subscriptions_have_a_name_and_a_port() {
        for text in ["=1", "x=0", "x=65536", "x=", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(config(text), Err(Error::Subscription { text: text.to_owned() }));
        }
        assert!(config(&"n".repeat(NAME_BYTES_MAX)).is_ok());
        assert_eq!(config("x=1,x=2"), Err(Error::Twice { name: "x".to_owned() }));
    }

    #[test]
    fn a_pod_has_at_most_64_subscriptions() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert!(config(&names(SUBSCRIPTIONS_MAX)).is_ok());
        let given = SUBSCRIPTIONS_MAX + 1;
        assert_eq!(config(&names(given)), Err(Error::TooMany { given }));
    }
}
