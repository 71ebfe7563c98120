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
pub(super) const PREFIX: &str = "pyramid.dev/";
/// Those that a user gives.
pub(super) const GIVEN: [&str; 9] = [
    SUBSCRIPTIONS,
    APPEND,
    INJECT,
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
/// Memory below which the container's runtime cannot start the pusher.
const MEMORY_LIMIT_MIN: &str = "16Mi";
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
                limit: value(MEMORY_LIMIT).map(read_memory_limit).transpose()?,
            },
            unknown: annotations
                .keys()
                .filter(|name| is_unknown(name))
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
    Refusal::Annotation { annotation, value: shown(value), remedy }
}

/// The beginning of a long text.
fn shown(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN_MAX).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    shown
}

/// Whether it is one of ours that means nothing.
fn is_unknown(annotation: &str) -> bool {
    annotation.starts_with(PREFIX) && annotation != INJECTED_BY && !GIVEN.contains(&annotation)
}

/// The elements of a comma list; an empty text has none.
fn elements(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() }
}

fn read_subscriptions(text: &str) -> Result<Vec<String>, Refusal> {
    let names = elements(text);
    let remedy = "give names of Subscriptions in the pod's namespace, separated by commas";
    all_named(SUBSCRIPTIONS, &names, flaw, remedy)?;
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
    let flaw_of_stream = |text: &str| match text.split_once('/') {
        Some((namespace, _)) if namespace.contains('.') => Some("has a point in its namespace"),
        Some((namespace, name)) => flaw(namespace).or_else(|| flaw(name)),
        None => flaw(text),
    };
    let remedy = "give names of Streams, as name or namespace/name, separated by commas, or only \
                  \"*\"";
    all_named(APPEND, &names, flaw_of_stream, remedy)?;
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

/// All of a list are names.
fn all_named(
    annotation: &'static str,
    names: &[&str],
    flaw: impl Fn(&str) -> Option<&'static str>,
    remedy: &'static str,
) -> Result<(), Refusal> {
    for name in names {
        if name.is_empty() {
            return Err(Refusal::EmptyName { annotation, remedy });
        }
        if let Some(flaw) = flaw(name) {
            return Err(Refusal::Name { annotation, name: shown(name), flaw, remedy });
        }
    }
    Ok(())
}

/// What keeps an object from having that name: labels of DNS with points between them.
fn flaw(name: &str) -> Option<&'static str> {
    let is_known = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    };
    let is_label = |part: &str| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-');
    if !name.bytes().all(is_known) {
        Some("has characters other than a-z, 0-9, \"-\" and \".\"")
    } else if name.len() > NAME_LEN_MAX {
        Some("is longer than 63 characters")
    } else if !name.split('.').all(is_label) {
        Some("must begin and end with a letter or digit, also beside a point")
    } else {
        None
    }
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

fn read_memory_limit(text: &str) -> Result<String, Refusal> {
    let limit = read_memory(MEMORY_LIMIT, text)?;
    if Quantity::parse(&limit) < Quantity::parse(MEMORY_LIMIT_MIN) {
        let remedy = "give 16Mi or more, with less the pusher cannot start";
        return Err(refusal(MEMORY_LIMIT, text, remedy));
    }
    Ok(limit)
}

#[cfg(test)]
mod tests;
