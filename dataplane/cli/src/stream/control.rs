//! `pyramid stream create`, `seal`, `trim` and `rm`.

use std::time::Duration;

use anyhow::{Context, bail};
use pyramid_client::Client;
use pyramid_protocol::pb::v1::{self as pb, Reason};
use pyramid_protocol::{Entropy, StreamName, SystemEntropy};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::info::to_json;
use super::read::offset;
use super::rights::{Listed, add, give_all};
use crate::connection::admin::{Caller, Put};
use crate::connection::{self, Remedy, explain, explain_missing, refused};
use crate::dev::certificates;
use crate::output::Output;

/// What becomes of records that are trimmed, until chunks of living streams are deleted.
const CHUNKS_STAY: &str = "their encrypted chunks stay in the object store in this version";

/// How long `seal --wait` waits for the object store.
const SHIP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it looks.
const SHIP_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid stream create orders
  pyramid stream create clicks --chunk-bytes 1048576 --chunk-age-ms 60000
  pyramid stream create audit --append reports --no-own-rights

Whoever creates a stream may append to it, read and manage it; `pyramid stream grant` gives rights to
others later. Under `pyramid dev` applications that use the pusher may append and read, too.")]
pub(super) struct CreateArgs {
    /// Its name: 1 to 512 bytes of UTF-8 without control characters.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// Seal a chunk at this many bytes of records: 1 to 67108864 (64 MiB). Default: the Writer's.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=64 << 20))]
    chunk_bytes: Option<u64>,

    /// Seal a chunk when its oldest record is this old: 1 or more milliseconds. Default: the
    /// Writer's.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    chunk_age_ms: Option<u64>,

    #[command(flatten)]
    rights: Listed,

    /// Only those that are named get rights.
    #[arg(long)]
    no_own_rights: bool,

    /// It is fine if there is a stream of this name; its settings and rights stay as they are.
    #[arg(long)]
    if_missing: bool,
}

pub(super) async fn create(
    args: CreateArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let CreateArgs { name, chunk_bytes, chunk_age_ms, rights, no_own_rights, if_missing } = args;
    let mut admin = connection.admin().await?;
    let mut rights = rights.resolve(&admin)?;
    if !no_own_rights {
        own_rights(&mut rights, admin.caller())?;
    }
    let put = pb::PutStream {
        object: Some(pb::ObjectRef {
            uid: format!("pyramid-stream-create-{:016x}", SystemEntropy.u64()),
            generation: 1,
        }),
        name: name.to_string(),
        settings: Some(pb::StreamSettings {
            chunk_bytes: chunk_bytes.unwrap_or(0),
            chunk_age_ms: chunk_age_ms.unwrap_or(0),
        }),
        rights: Some(rights),
        expected: Some(NOTHING),
    };
    match admin.put_stream(put).await.with_context(|| format!("create stream {name}"))? {
        Put::Done { info, created: _ } => {
            output.say(&format!("created stream {name}"), &to_json(&info))
        }
        Put::Refused(refusal) if refusal.reason() == Reason::AlreadyExists => {
            let existing = admin.stream_config(&name).await?.and_then(|found| found.stream);
            match existing {
                Some(info) if if_missing => {
                    output.say(&format!("stream {name} exists already"), &to_json(&info))
                }
                Some(_) | None => bail!(
                    "stream {name} exists already; choose another name, or give --if-missing if \
                     it is fine"
                ),
            }
        }
        Put::Refused(refusal) => bail!("create stream {name}: {}", refusal.message),
    }
}

/// What a stream that does not exist yet was declared by last.
pub(crate) const NOTHING: pb::ObjectRef = pb::ObjectRef { uid: String::new(), generation: 0 };

/// The rights of whoever creates a stream; with a `pyramid dev` also those of its applications,
/// which are one with its pusher.
pub(crate) fn own_rights(rights: &mut pb::StreamRights, caller: &Caller) -> anyhow::Result<()> {
    match caller {
        // Without TLS there is nobody to give a right to, and all have them.
        Caller::Plain => {}
        Caller::Named { user } => give_all(rights, user),
        Caller::Dev { user } => {
            give_all(rights, user);
            let pusher = [certificates::pusher(user.trust_domain())?.as_str().to_owned()];
            add(&mut rights.appenders, &pusher);
            add(&mut rights.readers, &pusher);
        }
    }
    Ok(())
}

/// The stream of this name, which must exist.
pub(super) async fn existing(
    client: &Client,
    name: &StreamName,
    remedy: Remedy,
) -> anyhow::Result<pb::StreamInfo> {
    let request = pb::GetStreamRequest { stream: name.to_string(), min_next_offset: None };
    client.get_stream(request).await.map_err(|error| explain(name, remedy, error))
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pyramid stream seal orders --wait")]
pub(super) struct SealArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// Wait until the chunks are in the object store.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn seal(
    args: SealArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let SealArgs { name, wait } = args;
    let remedy = connection.remedy();
    let client = connection.client().await?;
    let stream_id = existing(&client, &name, remedy).await?.stream_id;
    let request = pb::SealRequest { stream: name.to_string(), stream_id: Some(stream_id) };
    let sealed =
        client.seal(request).await.map_err(|error| explain(&name, remedy, error))?.sealed_offset;
    let json = json!({ "stream": name.as_str(), "sealed_offset": sealed });
    if !wait {
        return output.say(&format!("sealed all of {name} below offset {sealed}"), &json);
    }
    let deadline = Instant::now() + SHIP_TIMEOUT;
    loop {
        let info = existing(&client, &name, remedy).await?;
        if info.stream_id != stream_id || info.shipped_offset >= sealed {
            break;
        }
        if Instant::now() >= deadline {
            bail!(
                "all of {name} below offset {sealed} is sealed, but only what is below {} has \
                 reached the object store; the Writer goes on trying, see its log",
                info.shipped_offset
            );
        }
        sleep(SHIP_LOOK).await;
    }
    let text = format!("all of {name} below offset {sealed} is sealed and in the object store");
    output.say(&text, &json)
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pyramid stream trim orders 1000              records 0 to 999 are no longer read

Trimmed records can no longer be read through the Writer, and this cannot be taken back. Their
encrypted chunks stay in the object store until the stream is removed.")]
pub(super) struct TrimArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// The oldest record that stays.
    #[arg(value_name = "OFFSET", value_parser = offset, allow_negative_numbers = true)]
    first_offset: u64,
}

pub(super) async fn trim(
    args: TrimArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    let TrimArgs { name, first_offset } = args;
    let remedy = connection.remedy();
    let client = connection.client().await?;
    let stream_id = existing(&client, &name, remedy).await?.stream_id;
    let request =
        pb::TrimRequest { stream: name.to_string(), stream_id: Some(stream_id), first_offset };
    let trimmed = client.trim(request).await.map_err(|error| explain(&name, remedy, error))?;
    let first_offset = trimmed.first_offset;
    output.say(
        &format!(
            "stream {name} now begins at offset {first_offset}; older records can no longer be read \
             through the Writer, {CHUNKS_STAY}"
        ),
        &json!({ "stream": name.as_str(), "first_offset": first_offset }),
    )
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pyramid stream rm orders --yes

The records can no longer be read through the Writer, and this cannot be taken back. The Writer also
deletes their encrypted chunks, and the key object that opens them, from the object store: as soon as
no reader can have a URL of them any more (--delete-wait-seconds of the Writer).")]
pub(super) struct RemoveArgs {
    /// Which stream.
    #[arg(value_name = "STREAM")]
    name: StreamName,

    /// Yes, nobody shall read its records through the Writer again.
    #[arg(long, required = true)]
    yes: bool,
}

pub(super) async fn remove(
    args: RemoveArgs,
    connection: connection::Args,
    output: &mut Output,
) -> anyhow::Result<()> {
    // Without it the command line is refused.
    let RemoveArgs { name, yes: _ } = args;
    let mut admin = connection.admin().await?;
    let found = admin.stream_config(&name).await?.and_then(|found| found.stream);
    let stream_id = found.ok_or_else(|| explain_missing(&name))?.stream_id;
    let request = pb::DeleteStreamRequest {
        cluster_id: admin.cluster_id.clone(),
        name: name.to_string(),
        stream_id,
    };
    let removed = admin.calls.delete_stream(request).await.map_err(refused);
    let removed = removed.with_context(|| format!("remove stream {name}"))?.into_inner();
    let left = removed.objects_left;
    let json = json!({ "removed": name.as_str(), "stream_id": stream_id, "objects_left": left });
    let objects = match left {
        0 => "it has no objects in the object store".to_owned(),
        1 => "its object is deleted from the object store as soon as no reader needs it".to_owned(),
        _ => format!(
            "its {left} objects are deleted from the object store as soon as no reader needs them"
        ),
    };
    output.say(
        &format!(
            "removed stream {name}; its records can no longer be read through the Writer, {objects}"
        ),
        &json,
    )
}
