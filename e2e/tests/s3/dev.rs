//! `pyramid dev` with its chunks in a bucket, and the commands around it.

use std::process::Stdio;

use pyramid_e2e::process::{Folder, Process, Recipe, program};
use pyramid_protocol::{Entropy, SystemEntropy};
use pyramid_storage::ObjectKey;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::bucket::Bucket;
use crate::world::DEADLINE;

const LINES: usize = 4000;
/// Random bytes of a line, as two digits each. Unit: bytes.
const LINE_BYTES: usize = 512;
/// So that there are many chunks. Unit: bytes of records.
const CHUNK_BYTES: &str = "262144";

struct Dev {
    folder: Folder,
    /// Where its chunks are, as flags.
    store: Vec<String>,
    _running: Process,
}

impl Dev {
    async fn start(bucket: &Bucket) -> Self {
        let folder = Folder::new().unwrap();
        let path = |path: Option<&std::path::PathBuf>| path.unwrap().display().to_string();
        let store: Vec<String> = [
            ("--object-store", format!("s3://{}", bucket.name)),
            ("--object-prefix", "dev".to_owned()),
            ("--s3-endpoint", bucket.options.endpoint.clone().unwrap()),
            ("--s3-region", bucket.options.region.clone().unwrap()),
            ("--s3-ca", path(bucket.options.ca_file.as_ref())),
            ("--s3-credentials", path(bucket.options.credentials_dir.as_ref())),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let data = folder.join("data").display().to_string();
        let mut arguments = vec!["dev".to_owned(), "--data-dir".to_owned(), data];
        for flag in ["--listen", "--admin-listen", "--local-listen"] {
            arguments.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        arguments.extend(["--chunk-bytes", CHUNK_BYTES].map(str::to_owned));
        arguments.extend(store.clone());
        let recipe = Recipe {
            name: "dev".to_owned(),
            program: program("pyramid").unwrap(),
            arguments,
            ready: "Pyramid is ready.".to_owned(),
            log: folder.join("dev.log"),
        };
        let running = recipe.start().await.unwrap();
        Self { folder, store, _running: running }
    }

    /// Runs a command to its end: exit code and what it printed.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(program("pyramid").unwrap());
        command.args(arguments).arg("--data-dir").arg(self.folder.join("data"));
        if arguments.contains(&"verify") {
            command.args(&self.store);
        }
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(DEADLINE, output).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, "", "{arguments:?}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    async fn ok(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }
}

/// Lines that hardly compress.
fn input() -> String {
    let mut bytes = [0; LINE_BYTES];
    let line = |number| {
        SystemEntropy.fill(&mut bytes);
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{number} {digits}\n")
    };
    (0..LINES).map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dev_ships_to_a_bucket_is_read_verified_and_missed_when_it_is_gone() {
    let bucket = Bucket::https().await;
    let dev = Dev::start(&bucket).await;
    let (input, file) = (input(), dev.folder.join("input"));
    std::fs::write(&file, &input).unwrap();
    dev.ok(&["stream", "create", "orders"]).await;
    dev.ok(&["stream", "append", "orders", "--file", file.to_str().unwrap()]).await;
    dev.ok(&["stream", "seal", "orders", "--wait"]).await;
    assert!(dev.ok(&["stream", "read", "orders"]).await == input, "other lines were read");

    let report: Value =
        serde_json::from_str(&dev.ok(&["verify", "--output", "json"]).await).unwrap();
    let stream = &report["streams"][0];
    assert_eq!(
        [&report["clean"], &report["compared_with_writer"], &stream["name"], &stream["records"]],
        [&json!(true), &json!(true), &json!("orders"), &json!(LINES)],
        "{report}"
    );

    let store = bucket.open().await;
    let objects = store.list("dev", None).await.unwrap().objects;
    let is_chunk = |key: &&ObjectKey| key.to_string().ends_with(".pyc");
    let chunks: Vec<&ObjectKey> =
        objects.iter().map(|object| &object.key).filter(is_chunk).collect();
    assert!(chunks.len() > 10, "{} chunks", chunks.len());
    assert_eq!(stream["chunks"], json!(chunks.len()));
    // The last one, too, is missed by the Writer.
    for gone in [chunks[chunks.len() / 2], chunks[chunks.len() - 1]] {
        let len = objects.iter().find(|object| object.key == *gone).unwrap().len;
        let bytes = store.get(gone, 0..len).await.unwrap().bytes;
        store.delete(gone).await.unwrap();
        let (code, said) = dev.run(&["verify"]).await;
        assert_eq!(code, Some(1), "{said}");
        // The offsets are what is known of a chunk that no object shows.
        let name = gone.to_string();
        let from = name.rsplit('/').next().and_then(|name| name.split('-').next());
        let from: u64 = from.unwrap().parse().unwrap();
        let missing = format!("missing: stream orders, offsets {from} to below ");
        assert!(said.contains(&missing), "{said} lacks {missing}");
        assert!(said.ends_with("\nnot clean: 1 finding\n"), "{said}");
        store.put(gone, bytes, pyramid_storage::object_store::Condition::Absent).await.unwrap();
        dev.ok(&["verify"]).await;
    }
}
