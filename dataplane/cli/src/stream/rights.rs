//! `pyramid stream rights`, `grant` and `revoke`: who may do what with a stream.
//!
//! Rights are part of what is declared of a stream, so a change reads that, changes it and puts it
//! back one generation higher, if nobody else was faster; else it begins again.

use anyhow::{Context, bail};
use pyramid_protocol::pb::v1::{self as pb, Reason};
use pyramid_protocol::{SpiffeId, StreamName};
use serde_json::{Value, json};

use crate::connection::admin::{Admin, Put};
use crate::connection::{self, explain_missing};
use crate::identity::Named;
use crate::output::{Format, Output};

/// How often a change begins again because somebody else was faster.
const ATTEMPTS_MAX: usize = 16;

/// Identities, each with one right.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(super) struct Listed {
    /// The right to append. May be given several times.
    #[arg(long, value_name = "IDENTITY")]
    append: Vec<Named>,

    /// The right to read. May be given several times.
    #[arg(long, value_name = "IDENTITY")]
    read: Vec<Named>,

    /// The right to seal and trim. May be given several times.
    #[arg(long, value_name = "IDENTITY")]
    manage: Vec<Named>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream grant orders --read reports
  pyramid stream grant orders --append spiffe://example.org/ns/shop/sa/web \\
                              --append spiffe://example.org/ns/shop/sa/till

An identity is what a certificate proves: spiffe://TRUST-DOMAIN/PATH. Under `pyramid dev` a name
alone means the identity of that name that `pyramid certificate issue` makes. A right counts from
the next request on, without a new connection.")]
pub(super) struct GrantArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    #[command(flatten)]
    rights: Listed,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream revoke orders --read reports
  pyramid stream revoke orders --append reports --read reports --manage reports

What runs ends too, within a minute. Keys of chunks that were given out before open these chunks for
whoever has kept them.")]
pub(super) struct RevokeArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    #[command(flatten)]
    rights: Listed,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream rights orders
  pyramid stream rights orders --output json | jq -r '.readers[]'")]
pub(super) struct RightsArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,
}

impl Listed {
    /// Three lists of whole identities.
    pub(super) fn resolve(&self, admin: &Admin) -> anyhow::Result<pb::StreamRights> {
        let whole = |names: &[Named]| -> anyhow::Result<Vec<String>> {
            let ids = names.iter().map(|name| Ok(admin.identity_of(name)?.as_str().to_owned()));
            ids.collect()
        };
        Ok(pb::StreamRights {
            appenders: whole(&self.append)?,
            readers: whole(&self.read)?,
            managers: whole(&self.manage)?,
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.append.is_empty() && self.read.is_empty() && self.manage.is_empty() {
            bail!("say which right of whom: --append, --read or --manage with an identity");
        }
        Ok(())
    }
}

/// Gives an identity all rights.
pub(crate) fn give_all(rights: &mut pb::StreamRights, identity: &SpiffeId) {
    let all = [identity.as_str().to_owned()];
    let pb::StreamRights { appenders, readers, managers } = rights;
    [appenders, readers, managers].into_iter().for_each(|list| add(list, &all));
}

/// What a change does to the rights of a stream.
type Change = fn(&mut Vec<String>, &[String]);

/// Adds those that are missing.
pub(crate) fn add(list: &mut Vec<String>, more: &[String]) {
    for identity in more {
        if !list.contains(identity) {
            list.push(identity.clone());
        }
    }
}

fn remove(list: &mut Vec<String>, gone: &[String]) {
    list.retain(|identity| !gone.contains(identity));
}

pub(super) async fn grant(
    args: GrantArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let GrantArgs { name, rights } = args;
    change(&name, &rights, add, connection, output).await
}

pub(super) async fn revoke(
    args: RevokeArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let RevokeArgs { name, rights } = args;
    change(&name, &rights, remove, connection, output).await
}

pub(super) async fn rights(
    args: RightsArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let RightsArgs { name } = args;
    let mut admin = connection.admin().await?;
    let declared = declared(&mut admin, &name).await?;
    say(&name, &declared.rights.unwrap_or_default(), output)
}

/// Reads, changes, puts back, until nobody else was faster.
async fn change(
    name: &StreamName,
    listed: &Listed,
    change: Change,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    listed.check()?;
    let mut admin = connection.admin().await?;
    let listed = listed.resolve(&admin)?;
    for _ in 0..ATTEMPTS_MAX {
        let pb::GetStreamConfigResponse { stream, object, rights } =
            declared(&mut admin, name).await?;
        let stream = stream.context("the Writer gave an empty answer")?;
        let object = object.context("the Writer does not say what has declared the stream")?;
        let before = rights.unwrap_or_default();
        let mut after = before.clone();
        change(&mut after.appenders, &listed.appenders);
        change(&mut after.readers, &listed.readers);
        change(&mut after.managers, &listed.managers);
        if after == before {
            return say(name, &after, output);
        }
        let put = again(name, stream.settings, object, after.clone());
        match admin.put_stream(put).await? {
            Put::Done { .. } => return say(name, &after, output),
            Put::Refused(refusal) if refusal.reason() == Reason::AlreadyExists => {}
            Put::Refused(refusal) => bail!("change the rights of {name}: {}", refusal.message),
        }
    }
    bail!("others change the stream {name} all the time; try again")
}

/// The declaration of a stream that has these rights from now on.
pub(crate) fn again(
    name: &StreamName,
    settings: Option<pb::StreamSettings>,
    object: pb::ObjectRef,
    rights: pb::StreamRights,
) -> pb::PutStream {
    let next = pb::ObjectRef { generation: object.generation.saturating_add(1), ..object.clone() };
    pb::PutStream {
        object: Some(next),
        name: name.to_string(),
        settings,
        rights: Some(rights),
        expected: Some(object),
    }
}

async fn declared(
    admin: &mut Admin,
    name: &StreamName,
) -> anyhow::Result<pb::GetStreamConfigResponse> {
    admin.stream_config(name).await?.ok_or_else(|| explain_missing(name))
}

fn say(name: &StreamName, rights: &pb::StreamRights, output: &mut Output) -> anyhow::Result<()> {
    match output.format() {
        Format::Json => output.json(&to_json(name, rights))?,
        Format::Text => {
            let pb::StreamRights { appenders, readers, managers } = rights;
            output.line(format!("stream {name}"))?;
            for (right, list) in [("append", appenders), ("read", readers), ("manage", managers)] {
                let nobody = ["nobody".to_owned()];
                let list = if list.is_empty() { &nobody[..] } else { list };
                for (place, identity) in list.iter().enumerate() {
                    let right = if place == 0 { right } else { "" };
                    output.line(format!("  {right:<8}{identity}"))?;
                }
            }
        }
    }
    output.flush()
}

fn to_json(name: &StreamName, rights: &pb::StreamRights) -> Value {
    let pb::StreamRights { appenders, readers, managers } = rights;
    json!({
        "stream": name.as_str(),
        "appenders": appenders,
        "readers": readers,
        "managers": managers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("spiffe://td/{name}")).collect()
    }

    #[test]
    fn a_right_is_held_once_and_gone_at_once() {
        let mut list = ids(&["a"]);
        add(&mut list, &ids(&["b", "a", "b"]));
        assert_eq!(list, ids(&["a", "b"]));
        remove(&mut list, &ids(&["a", "c"]));
        assert_eq!(list, ids(&["b"]));
    }

    #[test]
    fn whoever_gets_all_rights_has_each_once() {
        let mut rights = pb::StreamRights { readers: ids(&["a"]), ..pb::StreamRights::default() };
        give_all(&mut rights, &"spiffe://td/a".parse().unwrap());
        let (appenders, readers, managers) = (ids(&["a"]), ids(&["a"]), ids(&["a"]));
        assert_eq!(rights, pb::StreamRights { appenders, readers, managers });
    }

    #[test]
    fn a_declaration_is_put_again_one_generation_higher_and_only_if_it_is_the_last() {
        let object = |generation| pb::ObjectRef { uid: "u".to_owned(), generation };
        let put = again(&"a".parse().unwrap(), None, object(4), pb::StreamRights::default());
        assert_eq!((put.object, put.expected), (Some(object(5)), Some(object(4))));
    }
}
