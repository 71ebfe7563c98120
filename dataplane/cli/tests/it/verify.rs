//! `pyramid verify` on what a `pyramid dev` has stored.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::running::{Dev, Ended, command, run, text};

/// A stream `orders` of three chunks with two records each, and the paths of the chunks.
fn three_chunks() -> (Dev, Vec<PathBuf>) {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    for day in ["mon", "tue", "wed"] {
        dev.run(["stream", "append", "orders", &format!("{day}-1"), &format!("{day}-2")]).ok();
        dev.run(["stream", "seal", "orders", "--wait"]).ok();
    }
    let chunks = dev.objects("pyc");
    assert_eq!(chunks.len(), 3);
    (dev, chunks)
}

/// The report of a verification that ended with this code.
#[track_caller]
fn report(ended: &Ended, code: i32) -> Value {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

fn verify(dev: &Dev) -> Ended {
    dev.run(["verify", "--output", "json"])
}

/// Kinds and offsets of findings or notes.
fn seen(list: &Value) -> Vec<(Value, Value, Value)> {
    let one = |found: &Value| (found["kind"].clone(), found["from"].clone(), found["to"].clone());
    list.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn what_a_dev_stored_is_clean_while_it_runs_and_when_it_is_stopped() {
    let (mut dev, chunks) = three_chunks();
    let found = report(&verify(&dev), 0);
    let stored: u64 = chunks.iter().map(|chunk| fs::metadata(chunk).unwrap().len()).sum();
    let stream = &found["streams"][0];
    let fields = ["name", "first_offset", "next_offset", "chunks", "records", "stored_bytes"];
    assert_eq!(
        fields.map(|field| stream[field].clone()),
        [json!("orders"), json!(0), json!(6), json!(3), json!(6), json!(stored)]
    );
    assert_eq!(
        [&found["clean"], &found["cluster_id"], &found["compared_with_writer"], &found["objects"]],
        [&json!(true), &dev.ready["cluster_id"], &json!(true), &json!(5)]
    );
    assert_eq!((&found["findings"], &found["notes"]), (&json!([]), &json!([])));

    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    let mut stopped = report(&verify(&dev), 0);
    assert_eq!(stopped["compared_with_writer"], json!(false));
    stopped["compared_with_writer"] = json!(true);
    assert_eq!(stopped, found);
    let said = dev.run(["verify"]).ok();
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["STREAM", "FIRST", "NEXT", "CHUNKS", "RECORDS", "STORED", "UNPACKED"]);
    assert_eq!(rows[1][..5], ["orders", "0", "6", "3", "6"]);
    assert!(said.contains("\nclean: every byte is what a Writer stored"), "{said}");
}

#[test]
fn a_flipped_byte_is_damage_with_its_object_and_offsets() {
    let (mut dev, chunks) = three_chunks();
    let good = fs::read(&chunks[1]).unwrap();
    for stop in [false, true] {
        if stop {
            dev.signal(Signal::SIGTERM);
        }
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(&chunks[1], bad).unwrap();
        let found = report(&verify(&dev), 1);
        assert_eq!(seen(&found["findings"]), [(json!("damaged"), json!(2), json!(4))]);
        let object = found["findings"][0]["object"].as_str().unwrap();
        assert_eq!(dev.data_dir().join("objects").join(object), chunks[1]);
        let ended = dev.run(["verify"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""));
        let named = format!("damaged: stream orders, offsets 2 to below 4, {object}\n");
        assert!(ended.stdout.contains(&named), "{}", ended.stdout);
        assert!(ended.stdout.ends_with("\nnot clean: 1 finding\n"), "{}", ended.stdout);
        fs::write(&chunks[1], &good).unwrap();
        report(&verify(&dev), 0);
    }
}

#[test]
fn a_removed_chunk_is_missing_and_the_last_one_is_missed_by_the_writer_alone() {
    let (mut dev, chunks) = three_chunks();
    let take = |chunk: usize| {
        let bytes = fs::read(&chunks[chunk]).unwrap();
        fs::remove_file(&chunks[chunk]).unwrap();
        bytes
    };
    let missing = |from: u64, to: u64| (json!("missing"), json!(from), json!(to));
    for (chunk, from, to) in [(0, 0, 2), (1, 2, 4), (2, 4, 6)] {
        let bytes = take(chunk);
        assert_eq!(seen(&report(&verify(&dev), 1)["findings"]), [missing(from, to)]);
        fs::write(&chunks[chunk], bytes).unwrap();
    }
    dev.signal(Signal::SIGTERM);
    let bytes = take(1);
    assert_eq!(seen(&report(&verify(&dev), 1)["findings"]), [missing(2, 4)]);
    fs::write(&chunks[1], bytes).unwrap();
    take(2);
    assert_eq!(report(&verify(&dev), 0)["streams"][0]["next_offset"], json!(4));
    take(0);
    let found = report(&verify(&dev), 0);
    assert_eq!(seen(&found["notes"]), [(json!("begins_later"), json!(0), json!(2))]);
}

#[test]
fn a_wrong_or_missing_key_file_is_named() {
    let (mut dev, _) = three_chunks();
    dev.signal(Signal::SIGTERM);
    let other = dev.folder.path().join("other-kek");
    let other = text(&other);
    let key = "0123456789abcdef".repeat(4);
    for (id, advice) in [("dev-1", "does not open it"), ("dev-2", "has no key \"dev-1\"")] {
        fs::write(other, format!("{id} = {key}\n")).unwrap();
        let verify = ["verify", "--kek-file", other, "--output", "json"];
        let found = report(&dev.run(verify), 1);
        let [finding] = &found["findings"].as_array().unwrap()[..] else { panic!("{found}") };
        assert_eq!(finding["kind"], json!("wrong_kek"));
        assert!(finding["advice"].as_str().unwrap().contains(advice), "{finding}");
    }
    let error = dev.run(["verify", "--kek-file", "missing"]).failed(1);
    assert!(error.starts_with("error: read the key file missing"), "{error}");
    fs::remove_file(dev.objects("pyk").remove(0)).unwrap();
    let found = report(&verify(&dev), 1);
    assert_eq!(seen(&found["findings"]), [(json!("missing_key"), json!(0), json!(null))]);
}

#[test]
fn a_copy_of_the_objects_is_verified_without_the_data_directory() {
    let (mut dev, _) = three_chunks();
    dev.signal(Signal::SIGTERM);
    let data_dir = dev.data_dir();
    let copy = dev.folder.path().join("copy");
    fs::rename(data_dir.join("objects"), &copy).unwrap();
    let error = verify(&dev).failed(1);
    assert!(error.contains("has no objects of a `pyramid dev`; give --data-dir"), "{error}");

    let (url, kek) = (format!("file:{}", text(&copy)), data_dir.join("kek"));
    let (url, kek) = (url.as_str(), text(&kek));
    let on_copy = |more: &[&str]| {
        let mut command = command();
        command.args(["verify", "--output", "json", "--object-store", url, "--kek-file", kek]);
        run(command.args(more))
    };
    assert_eq!(report(&on_copy(&[]), 0)["streams"][0]["records"], json!(6));
    let cluster = dev.ready["cluster_id"].as_str().unwrap();
    assert_eq!(report(&on_copy(&["--cluster", cluster, "--stream", "orders"]), 0)["objects"], 5);
    let error = on_copy(&["--stream", "clicks"]).failed(1);
    assert!(error.contains("is that of a stream \"clicks\""), "{error}");
    let error = on_copy(&["--cluster", &cluster.replace(|_: char| true, "0")]).failed(1);
    assert!(error.contains("there is no object of the cluster"), "{error}");
    let error = on_copy(&["--object-prefix", "eu"]).failed(1);
    assert!(error.contains("below eu/ has no objects of Pyramid"), "{error}");
    let folder = copy.join("0".repeat(32));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("cluster.json"), "{}").unwrap();
    let error = on_copy(&[]).failed(1);
    assert!(error.contains("several clusters; give --cluster with one of 0000"), "{error}");
    assert!(error.contains(cluster), "{error}");
}

#[test]
fn a_data_directory_whose_chunks_lie_elsewhere_says_where() {
    let mut dev = Dev::start();
    dev.signal(Signal::SIGTERM);
    fs::write(dev.data_dir().join("object-store"), "s3://orders below eu\n").unwrap();
    let error = verify(&dev).failed(1);
    let expected = "keeps its chunks in s3://orders below eu; give --object-store";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_store_that_cannot_be_read_is_not_damage() {
    let (mut dev, chunks) = three_chunks();
    dev.signal(Signal::SIGTERM);
    // A directory where a file was is listed no more; a link to itself is, and cannot be read.
    fs::remove_file(&chunks[1]).unwrap();
    std::os::unix::fs::symlink(&chunks[1], &chunks[1]).unwrap();
    let ended = verify(&dev);
    assert_eq!(ended.code, Some(74), "{ended:?}");
    assert!(ended.stderr.contains("the object store could not be read"), "{ended:?}");
}

#[test]
fn wrong_arguments_are_refused() {
    for arguments in [&["--cluster", "abc"][..], &["--stream"]] {
        run(command().arg("verify").args(arguments)).failed(2);
    }
    let folder = tempfile::tempdir().unwrap();
    let kek = folder.path().join("kek");
    fs::write(&kek, format!("k = {}\n", "0f".repeat(32))).unwrap();
    let missing = format!("file:{}/missing", folder.path().display());
    for (flags, expected) in [
        (&["--object-store", "ftp://x"][..], "give file:DIR"),
        (&["--object-store", &missing], "look at --object-store"),
        (&["--object-store", &missing, "--s3-region", "eu"], "--s3-region is for s3://BUCKET only"),
    ] {
        let mut command = command();
        let error = run(command.args(["verify", "--kek-file", text(&kek)]).args(flags)).failed(1);
        assert!(error.contains(expected), "{error}");
    }
    assert!(!folder.path().join("missing").exists(), "a verification makes nothing");
}
