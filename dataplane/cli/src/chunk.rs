//! `pyramid chunk inspect`: what a file of the object store is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use pyramid_protocol::{Batch, StreamId};
use pyramid_storage::chunk::{DigestChain, Header, Outline, outline};
use pyramid_storage::key_object::KeyObject;
use pyramid_storage::{Chunk, Keks};
use serde_json::{Value, json};

use crate::log_time;
use crate::output::{Format, Output, bytes, counted};
use crate::stream::print_record;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what a chunk says of itself and, with the keys, prove and print what it holds.
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  find .pyramid/objects -name '*.pyc'          the chunks of a `pyramid dev`
  pyramid chunk inspect CHUNK.pyc              header and frames; needs no key
  pyramid chunk inspect CHUNK.pyc --kek-file .pyramid/kek
                                               every byte is verified
  pyramid chunk inspect CHUNK.pyc --kek-file .pyramid/kek --records")]
pub(crate) struct InspectArgs {
    /// A chunk: a file with the suffix .pyc.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The key file of the Writer. With it everything is verified.
    #[arg(long, env = "PYRAMID_KEK_FILE", value_name = "FILE")]
    kek_file: Option<PathBuf>,

    /// The stream's key object, a file with the suffix .pyk. Default: it is looked for where the
    /// directory of the chunk keeps it.
    #[arg(long, value_name = "FILE", requires = "kek_file")]
    key_object: Option<PathBuf>,

    /// Print the records instead of the header.
    #[arg(long, requires = "kek_file")]
    records: bool,
}

/// Does what was asked.
///
/// # Errors
///
/// The file is no chunk, is damaged, or its keys are missing.
pub(crate) async fn run(command: Command, output: &mut Output) -> anyhow::Result<()> {
    let Command::Inspect(args) = command;
    let InspectArgs { file, kek_file, key_object, records } = args;
    let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let name = file.display().to_string();
    let outline = outline(&name, &bytes)
        .with_context(|| format!("{name} is no chunk that this version knows"))?;
    let stored = u64::try_from(bytes.len())?;
    if outline.header.total_len != stored {
        bail!(
            "{name} is damaged: its header says {} bytes, the file has {stored}{}",
            outline.header.total_len,
            if stored < outline.header.total_len { "; its end is cut off" } else { "" }
        );
    }
    let Some(kek_file) = kek_file else {
        let text = format!(
            "{}\n\nNothing of this is verified; give --kek-file with the Writer's key file.",
            to_text(&outline)
        );
        return output.say(&text, &to_json(&outline, None));
    };
    let keks = Keks::load(&kek_file)?;
    let candidates = match key_object {
        Some(path) => vec![path],
        None => key_objects(&file, outline.header.stream_id)?,
    };
    let stream = open_key(&candidates, &outline.header, &keks)?;
    let verified = verify(&name, &bytes, &outline, &stream)?;
    if records {
        for batch in &verified.batches {
            for record in batch.iter() {
                let (offset, record) = record?;
                print_record(offset, batch.append_time_ms, &record, output)?;
            }
        }
        return output.flush();
    }
    if output.format() == Format::Json {
        output.json(&to_json(&outline, Some(&verified)))?;
    } else {
        output.line(to_text(&outline))?;
        output.line(format!(
            "\nVerified: {} in {} of the stream {:?}; every byte is what the Writer stored.",
            counted(verified.records, "record"),
            counted(u64::try_from(verified.batches.len())?, "batch"),
            verified.stream
        ))?;
    }
    output.flush()
}

/// A chunk that was opened from its first byte to its last.
struct Verified {
    stream: String,
    records: u64,
    batches: Vec<Batch>,
}

fn verify(
    name: &str,
    bytes: &[u8],
    outline: &Outline,
    stream: &KeyObject,
) -> anyhow::Result<Verified> {
    let chunk = Chunk::open(name, &stream.key, bytes).context(
        "the stream's key does not open the chunk; if the chunk is not damaged, the key object is \
         that of another stream",
    )?;
    let batches = chunk.open_all(bytes)?;
    let mut digest = DigestChain::new(&stream.key, outline.header.digest_before);
    batches.iter().for_each(|batch| digest.push(batch));
    if digest.digest() != outline.header.digest_after {
        bail!("{name} is damaged: its records are not those of its digest");
    }
    let records = batches.iter().map(|batch| u64::from(batch.record_count)).sum();
    Ok(Verified { stream: stream.name.clone(), records, batches })
}

/// Where the directory that keeps the chunk keeps the key objects of its stream:
/// `<cluster>/c/<hh>/<stream>/<chunk>` beside `<cluster>/k/<stream>-<r>`.
fn key_objects(chunk: &Path, stream_id: StreamId) -> anyhow::Result<Vec<PathBuf>> {
    let chunk = chunk.canonicalize()?;
    let folder = chunk.ancestors().nth(4).map(|cluster| cluster.join("k"));
    let listed = folder.as_ref().and_then(|folder| fs::read_dir(folder).ok());
    let prefix = format!("{:016}-", stream_id.get());
    let paths = listed.into_iter().flatten().filter_map(|entry| entry.ok().map(|e| e.path()));
    let mut found: Vec<_> = paths
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(&prefix) && name.ends_with(".pyk")
        })
        .collect();
    found.sort();
    if found.is_empty() {
        bail!(
            "the key object of stream {stream_id} is not beside the chunk; give --key-object with \
             the file k/{prefix}*.pyk of the object store"
        );
    }
    Ok(found)
}

/// The first key object that opens.
fn open_key(candidates: &[PathBuf], header: &Header, keks: &Keks) -> anyhow::Result<KeyObject> {
    let mut last = None;
    for path in candidates {
        let name = path.display().to_string();
        let bytes = fs::read(path).with_context(|| format!("read {name}"))?;
        match KeyObject::open(&name, &bytes, header.cluster_id, header.stream_id, keks) {
            Ok(key) => return Ok(key),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).context(
            "the key file does not open the stream's key; if the key object is not damaged, the key \
             file is that of another Writer, or the key object that of another stream",
        ),
        None => bail!("there is no key object"),
    }
}

fn to_text(outline: &Outline) -> String {
    let Outline { header, head_len, frames } = outline;
    let rows = [
        ("cluster", header.cluster_id.to_string()),
        ("stream id", header.stream_id.to_string()),
        ("epoch", header.epoch.to_string()),
        ("offsets", format!("{} to below {}", header.base_offset, header.next_offset)),
        ("appended", span(header.first_time_ms, header.last_time_ms)),
        ("batches", header.batch_count.to_string()),
        ("intent", format!("{}, generation {}", header.intent, header.generation)),
        ("content", format!("zstd, {} unpacked", bytes(header.plain_bytes))),
        ("cipher", "AES-256-CBC with HMAC-SHA256".to_owned()),
        ("length", format!("{}, of these {head_len} B head", bytes(header.total_len))),
        ("frames", frames.len().to_string()),
    ];
    let mut lines: Vec<_> = rows.iter().map(|(name, value)| format!("{name:<11}{value}")).collect();
    lines.extend(frames.iter().map(|frame| {
        format!(
            "  from offset {}: {}, {} unpacked, bytes {} to {}",
            frame.first_offset,
            counted(frame.batch_count.into(), "batch"),
            bytes(frame.plain_len.into()),
            frame.range.start,
            frame.range.end
        )
    }));
    lines.join("\n")
}

fn span(first_ms: u64, last_ms: u64) -> String {
    format!("{} to {}", log_time::format(first_ms), log_time::format(last_ms))
}

fn to_json(outline: &Outline, verified: Option<&Verified>) -> Value {
    let Outline { header, head_len, frames } = outline;
    let frames = frames.iter().map(|frame| {
        json!({
            "first_offset": frame.first_offset.get(),
            "first_time_ms": frame.first_time_ms,
            "batch_count": frame.batch_count,
            "plain_len": frame.plain_len,
            "start": frame.range.start,
            "end": frame.range.end,
        })
    });
    json!({
        "cluster_id": header.cluster_id.to_string(),
        "stream_id": header.stream_id.get(),
        "epoch": header.epoch,
        "base_offset": header.base_offset.get(),
        "next_offset": header.next_offset.get(),
        "first_time_ms": header.first_time_ms,
        "last_time_ms": header.last_time_ms,
        "batch_count": header.batch_count,
        "intent": header.intent,
        "generation": header.generation,
        "plain_bytes": header.plain_bytes,
        "total_len": header.total_len,
        "head_len": head_len,
        "frames": frames.collect::<Vec<_>>(),
        "verified": verified.is_some(),
        "stream": verified.map(|verified| verified.stream.as_str()),
        "record_count": verified.map(|verified| verified.records),
    })
}
