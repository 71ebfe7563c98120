use super::*;

/// A disk with `wal/a` that holds four synced sectors of ones.
fn disk_with_a_synced_file() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir("wal").unwrap();
    disk.sync_dir("").unwrap();
    let file = disk.create("wal/a").unwrap();
    file.write_at(&[1; 4 * SECTOR_BYTES], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("wal").unwrap();
    disk
}

fn sectors(disk: &SimDisk) -> Vec<u8> {
    disk.contents("wal/a").unwrap().chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
}

#[test]
fn a_power_cut_keeps_any_subset_of_unsynced_sectors() {
    let disk = disk_with_a_synced_file();
    disk.open("wal/a").unwrap().write_at(&[2; 2 * SECTOR_BYTES], 512).unwrap();
    assert_eq!(disk.pending(), 2);
    for (mask, left) in [(0, [1, 1, 1, 1]), (1, [1, 2, 1, 1]), (2, [1, 1, 2, 1]), (3, [1, 2, 2, 1])]
    {
        let after = disk.after_power_cut(|piece| mask >> piece & 1 == 1);
        assert_eq!(sectors(&after), left, "mask {mask}");
        assert_eq!(after.pending(), 0);
    }
    assert_eq!(sectors(&disk.after_kill()), [1, 2, 2, 1]);
}

#[test]
fn a_sync_leaves_nothing_to_lose() {
    let disk = disk_with_a_synced_file();
    let file = disk.open("wal/a").unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.pending(), 0);
    assert_eq!(sectors(&disk.after_power_cut(|_| false)), [2, 1, 1, 1]);
}

#[test]
fn names_are_durable_only_after_their_directory_was_synced() {
    let disk = disk_with_a_synced_file();
    disk.rename("wal/a", "wal/b").unwrap();
    disk.create("wal/c").unwrap();
    let names = |disk: &SimDisk| disk.list("wal").unwrap();
    assert_eq!(names(&disk.after_power_cut(|_| false)), ["a"]);
    assert_eq!(names(&disk.after_power_cut(|piece| piece == 1)), ["a", "c"]);
    assert_eq!(names(&disk.after_power_cut(|_| true)), ["b", "c"]);
    disk.remove("wal/c").unwrap();
    disk.sync_dir("wal").unwrap();
    assert_eq!(names(&disk.after_power_cut(|_| false)), ["b"]);
}

#[test]
fn a_directory_whose_name_is_lost_takes_its_files_along() {
    let disk = SimDisk::new();
    disk.create_dir("wal").unwrap();
    disk.create("wal/a").unwrap();
    disk.sync_dir("wal").unwrap();
    let after = disk.after_power_cut(|_| false);
    assert_eq!(after.list("").unwrap(), Vec::<String>::new());
    assert_eq!(after.open("wal/a").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_failed_sync_drops_the_write_and_the_next_one_does_not_tell() {
    let disk = disk_with_a_synced_file();
    let file = disk.open("wal/a").unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    disk.fail_at(disk.operations(), io::ErrorKind::Other);
    file.sync().unwrap_err();
    assert_eq!(disk.failures_hit(), 1);
    file.sync().unwrap();
    assert_eq!(sectors(&disk), [2, 1, 1, 1], "programs still see it");
    assert_eq!(sectors(&disk.after_power_cut(|_| true)), [1, 1, 1, 1]);
}

#[test]
fn after_the_crash_every_call_fails_until_the_restart() {
    let disk = disk_with_a_synced_file();
    let file = disk.open("wal/a").unwrap();
    disk.crash_at(disk.operations() + 1);
    file.write_at(&[2; 512], 0).unwrap();
    assert!(!disk.crashed());
    file.sync().unwrap_err();
    assert!(disk.crashed());
    file.read_at(&mut [0], 0).unwrap_err();
    disk.list("wal").unwrap_err();
    assert_eq!(sectors(&disk.after_power_cut(|_| false)), [1, 1, 1, 1]);
    assert_eq!(sectors(&disk.after_power_cut(|_| true)), [2, 1, 1, 1]);
}

#[test]
fn a_full_disk_refuses_growth_and_takes_overwrites() {
    let disk = disk_with_a_synced_file();
    disk.set_capacity(Some(4 * 512));
    let file = disk.open("wal/a").unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    assert_eq!(file.write_at(&[2], 4 * 512).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.create("wal/b").unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.set_capacity(None);
    file.write_at(&[2], 4 * 512).unwrap();
}

#[test]
fn one_process_at_a_time_holds_the_lock() {
    let disk = disk_with_a_synced_file();
    let lock = disk.lock().unwrap();
    assert_eq!(disk.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    drop(disk.lock().unwrap());
}

#[test]
fn damage_at_rest_is_on_the_disk_at_once() {
    let disk = disk_with_a_synced_file();
    disk.damage("wal/a", |bytes| bytes[512] ^= 4).unwrap();
    assert_eq!(sectors(&disk.after_power_cut(|_| false)), [1, 5, 1, 1]);
    disk.lose("wal/a").unwrap();
    assert_eq!(disk.after_power_cut(|_| true).list("wal").unwrap(), Vec::<String>::new());
}
