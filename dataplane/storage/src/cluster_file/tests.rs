use bytes::Bytes;

use super::{ClusterFile, Error, create, read, replace};
use crate::{
    cluster_id::ClusterId,
    object_names::ObjectNames,
    object_store::{self, MemoryStore, ObjectStore},
};

fn names() -> ObjectNames {
    ObjectNames::new("test", ClusterId::new([0xc1; 16])).unwrap()
}

fn file(epoch: u32) -> ClusterFile {
    ClusterFile { cluster_id: names().cluster_id(), epoch, incarnation: [0xab; 16] }
}

fn store_error(error: Error) -> object_store::Error {
    match error {
        Error::Store(error) => error,
        Error::Foreign { key } => panic!("{key} is foreign"),
    }
}

#[tokio::test]
async fn the_first_writer_founds_and_only_the_last_reader_replaces() {
    let (store, names) = (MemoryStore::new(), names());
    let key = names.cluster_file().to_string();
    let not_found = store_error(read(&store, &names).await.unwrap_err());
    assert_eq!(not_found, object_store::Error::NotFound { key: key.clone() });

    let failed = object_store::Error::ConditionFailed { key };
    let first = create(&store, &names, &file(1)).await.unwrap();
    assert_eq!(store_error(create(&store, &names, &file(9)).await.unwrap_err()), failed);
    assert_eq!(read(&store, &names).await, Ok((file(1), first.clone())));

    let second = replace(&store, &names, &file(2), &first).await.unwrap();
    assert_eq!(store_error(replace(&store, &names, &file(3), &first).await.unwrap_err()), failed);
    assert_eq!(read(&store, &names).await, Ok((file(2), second)));
}

#[tokio::test]
async fn the_file_is_as_documented() {
    let store = MemoryStore::new();
    create(&store, &names(), &file(7)).await.unwrap();
    let object = store.get(&names().cluster_file(), 0..4096).await.unwrap();
    assert_eq!(
        object.bytes,
        "{\"cluster_id\":\"c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1\",\"epoch\":7,\
         \"incarnation\":\"abababababababababababababababab\",\"format\":1}"
    );
}

#[tokio::test]
async fn a_file_of_another_cluster_or_format_is_foreign() {
    let store = MemoryStore::new();
    create(&store, &names(), &file(7)).await.unwrap();
    let good = store.objects()[0].1.clone();
    let good = std::str::from_utf8(&good).unwrap();
    for bad in [
        "",
        "{}",
        "[]",
        &good.replace("\"format\":1", "\"format\":2"),
        &good.replace("c1c1", "c2c2"),
        &good.replace("abab", "ABAB"),
        &good.replace("\"epoch\":7", "\"epoch\":-7"),
        &good.replace("\"epoch\":7", "\"epoch\":7,\"more\":1"),
        &format!("{good}{good}"),
    ] {
        store.tamper(&names().cluster_file(), Bytes::copy_from_slice(bad.as_bytes()));
        let key = names().cluster_file().to_string();
        assert_eq!(read(&store, &names()).await, Err(Error::Foreign { key }), "{bad}");
    }
}
