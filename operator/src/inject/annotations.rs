//! [`Asked`]: what a pod asks for, read from its annotations once.

use std::collections::{BTreeMap, BTreeSet};

use pyramid_crds::annotation::{
    APP_PORT, APPEND, FALSE, INJECT, INJECTED_BY, PUSHER_CPU_LIMIT as CPU_LIMIT,
    PUSHER_CPU_REQUEST as CPU_REQUEST, PUSHER_MEMORY_LIMIT as MEMORY_LIMIT,
    PUSHER_MEMORY_REQUEST as MEMORY_REQUEST, READINESS, SUBSCRIPTIONS, TRUE,
};

use super::container::PORTS;
use super::quantity::Quantity;
use super::refusal::Refusal;

/// In front of all annotations.
const PREFIX: &str = "pyramid.dev/";
const KNOWN: [&str; 10] = [
    SUBSCRIPTIONS,
    APPEND,
    INJECT,
    INJECTED_BY,
    APP_PORT,
    READINESS,
    CPU_REQUEST,
    CPU_LIMIT,
    MEMORY_REQUEST,
    MEMORY_LIMIT,
];

/// Subscriptions of one pod.
pub(super) const SUBSCRIPTIONS_MAX: usize = 16;
/// Streams that one pod names for appending; more are reached with `*`.
pub(super) const APPENDS_MAX: usize = 64;
/// Length of the name of a Stream, a Subscription or a namespace. Unit: bytes.
const NAME_LEN_MAX: usize = 63;
/// Unknown annotations that are warned of.
const UNKNOWN_MAX: usize = 8;
/// Of a wrong value this much is repeated. Unit: characters.
const SHOWN_MAX: usize = 64;

/// What the annotations mean together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// None of those that ask is there.
    Nothing,
    /// They ask and opt out.
    OptOut,
    /// They ask.
    Inject(Asked),
}

/// Valid, and not empty: there is a Subscription or a Stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Names in the pod's namespace, in the pod's order, each once.
    pub(super) subscriptions: Vec<String>,
    /// `name`, `namespace/name` or only `*`, in the pod's order, each once.
    pub(super) append: Vec<String>,
    /// Where all of the pod's subscriptions are pushed to; `None`: each says it itself.
    pub(super) app_port: Option<u16>,
    /// When the pod is ready.
    pub(super) readiness: Readiness,
    pub(super) cpu: Amounts,
    pub(super) memory: Amounts,
    /// Annotations of ours that nobody knows, or the first [`UNKNOWN_MAX`] of them.
    pub(super) unknown: Vec<String>,
}

/// When the pod is ready, as the pusher names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Readiness {
    /// The pusher works.
    #[default]
    Local,
    /// Its subscriptions are connected.
    Connected,
    /// They have caught up once.
    CaughtUp,
}

/// Of one resource, as the annotations write it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) request: Option<String>,
    pub(super) limit: Option<String>,
}

impl Readiness {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Connected => "Connected",
            Self::CaughtUp => "CaughtUp",
        }
    }
}

impl Asked {
    /// Reads a pod's annotations.
    ///
    /// # Errors
    ///
    /// A value that means nothing, or too many names.
    pub(super) fn read(annotations: &BTreeMap<&str, &str>) -> Result<Wish, Refusal> {
        let value = |name| annotations.get(name).map(|value| value.trim());
        let (subscriptions, append) = (value(SUBSCRIPTIONS), value(APPEND));
        if subscriptions.is_none() && append.is_none() {
            return Ok(Wish::Nothing);
        }
        match value(INJECT) {
            None | Some(TRUE) => {}
            Some(FALSE) => return Ok(Wish::OptOut),
            Some(other) => {
                return Err(refusal(INJECT, other, "give \"false\" to opt out, or remove it"));
            }
        }
        let asked = Self {
            subscriptions: read_subscriptions(subscriptions.unwrap_or_default())?,
            append: read_append(append.unwrap_or_default())?,
            app_port: value(APP_PORT).map(read_port).transpose()?,
            readiness: value(READINESS).map_or(Ok(Readiness::default()), read_readiness)?,
            cpu: Amounts {
                request: value(CPU_REQUEST).map(|text| read_cpu(CPU_REQUEST, text)).transpose()?,
                limit: value(CPU_LIMIT).map(|text| read_cpu(CPU_LIMIT, text)).transpose()?,
            },
            memory: Amounts {
                request: value(MEMORY_REQUEST)
                    .map(|text| read_memory(MEMORY_REQUEST, text))
                    .transpose()?,
                limit: value(MEMORY_LIMIT)
                    .map(|text| read_memory(MEMORY_LIMIT, text))
                    .transpose()?,
            },
            unknown: annotations
                .keys()
                .filter(|name| name.starts_with(PREFIX) && !KNOWN.contains(name))
                .take(UNKNOWN_MAX)
                .map(|name| (*name).to_owned())
                .collect(),
        };
        if asked.subscriptions.is_empty() && asked.append.is_empty() {
            return Err(Refusal::AsksNothing);
        }
        Ok(Wish::Inject(asked))
    }
}

fn refusal(annotation: &'static str, value: &str, remedy: &'static str) -> Refusal {
    let mut shown: String = value.chars().take(SHOWN_MAX).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    Refusal::Annotation { annotation, value: shown, remedy }
}

/// The elements of a comma list; an empty text has none.
fn elements(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() }
}

fn read_subscriptions(text: &str) -> Result<Vec<String>, Refusal> {
    let names = elements(text);
    if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
        let remedy = "give names of Subscriptions in the pod's namespace, separated by commas";
        return Err(refusal(SUBSCRIPTIONS, wrong, remedy));
    }
    once(SUBSCRIPTIONS, &names)?;
    if names.len() > SUBSCRIPTIONS_MAX {
        return Err(Refusal::TooManySubscriptions { given: names.len() });
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn read_append(text: &str) -> Result<Vec<String>, Refusal> {
    let names = elements(text);
    if names == ["*"] {
        return Ok(vec!["*".to_owned()]);
    }
    let is_stream = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => is_label(namespace) && is_name(name),
        None => is_name(text),
    };
    if let Some(wrong) = names.iter().find(|name| !is_stream(name)) {
        let remedy = "give names of Streams, as name or namespace/name, separated by commas, or \
                      only \"*\"";
        return Err(refusal(APPEND, wrong, remedy));
    }
    once(APPEND, &names)?;
    if names.len() > APPENDS_MAX {
        return Err(Refusal::TooManyAppends { given: names.len() });
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn once(annotation: &'static str, names: &[&str]) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(**name)) {
        Some(twice) => Err(refusal(annotation, twice, "name it once")),
        None => Ok(()),
    }
}

/// Whether an object may have that name: labels of DNS with points between them.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_LEN_MAX && text.split('.').all(is_label)
}

/// Whether it is a label of DNS, as the name of a namespace is.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn read_port(text: &str) -> Result<u16, Refusal> {
    let remedy = "give the port of the application, a number from 1 to 65535";
    // `parse` would take a sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port != 0);
    let port: u16 = port.ok_or_else(|| refusal(APP_PORT, text, remedy))?;
    if PORTS.contains(&port.into()) {
        let remedy = "that is a port of the pusher, give the application another one";
        return Err(refusal(APP_PORT, text, remedy));
    }
    Ok(port)
}

fn read_readiness(text: &str) -> Result<Readiness, Refusal> {
    let all = [Readiness::Local, Readiness::Connected, Readiness::CaughtUp];
    let named = all.into_iter().find(|readiness| readiness.name() == text);
    named.ok_or_else(|| refusal(READINESS, text, "give Local, Connected or CaughtUp"))
}

fn read_cpu(annotation: &'static str, text: &str) -> Result<String, Refusal> {
    let is_some = Quantity::parse(text).is_some_and(|quantity| !quantity.is_zero());
    let remedy = "give an amount of CPU such as 100m or 0.5";
    if is_some { Ok(text.to_owned()) } else { Err(refusal(annotation, text, remedy)) }
}

fn read_memory(annotation: &'static str, text: &str) -> Result<String, Refusal> {
    let is_some =
        Quantity::parse(text).is_some_and(|quantity| !quantity.is_zero() && quantity.is_whole());
    let remedy = "give an amount of memory in whole bytes such as 128Mi";
    if is_some { Ok(text.to_owned()) } else { Err(refusal(annotation, text, remedy)) }
}

#[cfg(test)]
mod tests;
