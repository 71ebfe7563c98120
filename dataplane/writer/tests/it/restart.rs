//! What was acknowledged is there after a restart, at its offset.

use crate::writer::Folder;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_a_restart() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("orders").await;
    let first = writer.append("orders", &["a", "b"]).await;
    assert_eq!((first.first_offset, first.next_offset), (Some(0), Some(2)));
    let before = writer.info("orders").await;
    writer.stop().await;

    let mut writer = folder.start(&[]).await;
    assert_eq!(writer.info("orders").await, before);
    let second = writer.append("orders", &["c"]).await;
    assert_eq!((second.first_offset, second.next_offset), (Some(2), Some(3)));
    let expected = [(0, "a".to_owned()), (1, "b".to_owned()), (2, "c".to_owned())];
    assert_eq!(writer.values("orders", 0).await, expected);
    writer.stop().await;
}
