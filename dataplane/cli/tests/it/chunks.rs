//! `pyramid stream seal` and `pyramid chunk inspect`.

use serde_json::json;

use crate::running::{Dev, text};

/// A stream `orders` of which all is in one chunk, and the path of that chunk.
fn sealed() -> (Dev, std::path::PathBuf) {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    dev.run(["stream", "append", "orders", "jasmine tea", "coffee"]).ok();
    let said = dev.run(["stream", "seal", "orders", "--wait"]).ok();
    assert_eq!(said, "all of orders below offset 2 is sealed and in the object store\n");
    let chunks = dev.objects("pyc");
    assert_eq!(chunks.len(), 1);
    let chunk = chunks[0].clone();
    (dev, chunk)
}

#[test]
fn sealed_records_are_in_the_object_store_and_still_read() {
    let (dev, chunk) = sealed();
    let info = dev.run(["stream", "info", "orders", "--output", "json"]).json().remove(0);
    let length = std::fs::metadata(&chunk).unwrap().len();
    assert_eq!(
        [&info["chunk_count"], &info["chunk_bytes"], &info["live_bytes"], &info["shipped_offset"]],
        [&json!(1), &json!(length), &json!(0), &json!(2)]
    );
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "jasmine tea\ncoffee\n");
    let bytes = std::fs::read(&chunk).unwrap();
    assert!(!bytes.windows(11).any(|window| window == b"jasmine tea"));
    assert_eq!(
        dev.run(["stream", "seal", "orders", "--output", "json"]).json(),
        [json!({"stream": "orders", "sealed_offset": 2})]
    );
}

#[test]
fn a_chunk_shows_its_header_without_keys_and_everything_with_them() {
    let (dev, chunk) = sealed();
    let chunk = text(&chunk);
    let kek = dev.data_dir().join("kek");
    let kek = text(&kek);
    let without = dev.run(["chunk", "inspect", chunk, "--output", "json"]).json().remove(0);
    let with = ["chunk", "inspect", chunk, "--kek-file", kek, "--output", "json"];
    let with = dev.run(with).json().remove(0);
    let seen = |inspected: &serde_json::Value| {
        let fields = ["cluster_id", "base_offset", "next_offset", "verified", "stream"];
        fields.map(|name| inspected[name].clone())
    };
    let cluster_id = dev.ready["cluster_id"].clone();
    let expected = [cluster_id.clone(), json!(0), json!(2), json!(false), json!(null)];
    assert_eq!(seen(&without), expected);
    assert_eq!(seen(&with), [cluster_id, json!(0), json!(2), json!(true), json!("orders")]);
    assert_eq!(with["record_count"], json!(2));

    let records = dev.run(["chunk", "inspect", chunk, "--kek-file", kek, "--records"]).ok();
    assert_eq!(records, "jasmine tea\ncoffee\n");
    let key_object = dev.objects("pyk").remove(0);
    let named = ["chunk", "inspect", chunk, "--kek-file", kek, "--key-object", text(&key_object)];
    let said = dev.run(named).ok();
    assert!(said.contains("Verified: 2 records in 1 batch of the stream \"orders\""), "{said}");
}

#[test]
fn a_changed_chunk_is_noticed_and_nothing_of_it_is_printed() {
    let (dev, chunk) = sealed();
    let kek = dev.data_dir().join("kek");
    let inspect = ["chunk", "inspect", text(&chunk), "--kek-file", text(&kek), "--records"];
    let good = std::fs::read(&chunk).unwrap();
    for place in [0, 60, 230, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(&chunk, bad).unwrap();
        let error = dev.run(inspect).failed(1);
        assert!(error.contains("damaged"), "{place}: {error}");
    }
    let cut = &good[..good.len() - 1];
    std::fs::write(&chunk, cut).unwrap();
    let expected = format!("says {} bytes, the file has {}; its end is", good.len(), cut.len());
    for inspect in [&inspect[..], &inspect[..3]] {
        let error = crate::running::run(&mut dev.command(inspect)).failed(1);
        assert!(error.contains(&expected), "{error}");
    }
    std::fs::write(&chunk, &good).unwrap();
    dev.run(inspect).ok();
}

#[test]
fn missing_keys_are_named() {
    let (dev, chunk) = sealed();
    let other = dev.folder.path().join("other-kek");
    let key = "0123456789abcdef".repeat(4);
    std::fs::write(&other, format!("dev-1 = {key}\n")).unwrap();
    let error = dev.run(["chunk", "inspect", text(&chunk), "--kek-file", text(&other)]).failed(1);
    assert!(error.contains("does not open the stream's key"), "{error}");
    assert!(error.contains("the key file is that of another Writer"), "{error}");

    let alone = dev.folder.path().join("chunk.pyc");
    std::fs::copy(&chunk, &alone).unwrap();
    let kek = dev.data_dir().join("kek");
    let error = dev.run(["chunk", "inspect", text(&alone), "--kek-file", text(&kek)]).failed(1);
    assert!(error.contains("give --key-object"), "{error}");
    dev.run(["chunk", "inspect", text(&alone), "--records"]).failed(2);
    let error = dev.run(["chunk", "inspect", text(&kek)]).failed(1);
    assert!(error.contains("is no chunk"), "{error}");
}
