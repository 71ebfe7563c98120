//! Starts that must not succeed, and ends: the exit code and the one line that says what to do.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pyramid_protocol::SystemEntropy;
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::{self as pb, Reason};
use pyramid_storage::Keks;
use pyramid_writer::disk::SimDisk;
use pyramid_writer::replica::Environment;

use crate::certificates::certificates;
use crate::writer::{CLUSTER, Folder, append, offsets};

/// The real program.
fn program(folder: &Path, flags: &[&str]) -> Command {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyramid-writer"));
    command.args(["--data-dir", &path("data"), "--kek-file", &path("kek")]);
    if !flags.contains(&"--object-store") {
        command.args(["--object-store", &format!("file:{}", path("objects"))]);
    }
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--ops-listen", "127.0.0.1:0"]);
    command.args(["--segment-bytes", "16777216", "--log", "off"]);
    command.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and what it printed, for a program that ends by itself.
async fn ends(mut command: Command) -> (Option<i32>, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.stdout, b"", "it was never ready");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn line(text: impl std::fmt::Display) -> String {
    format!("pyramid-writer: {text}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_nothing_starts() {
    let folder = Folder::new();
    let kek = folder.path().join("kek");
    fs::remove_file(&kek).unwrap();
    let (code, printed) = ends(program(folder.path(), &[])).await;
    let expected = line(format_args!(
        "--kek-file {0}: read the key file {0}; nothing is stored without encryption, so name a \
         file with at least one line \"id = 64 hexadecimal digits\", or a directory with a key of 32 \
         bytes in the file \"1\": No such file or directory (os error 2)",
        kek.display()
    ));
    assert_eq!((code, printed), (Some(78), expected));
    assert!(!folder.path().join("data").join("identity").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_cluster_are_refused_at_the_start() {
    let folder = Folder::new();
    let kek = folder.path().join("kek");
    let right = fs::read(&kek).unwrap();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    writer.append("a", &["x"]).await;
    writer.stop().await;
    for id in ["kek-1", "another"] {
        fs::write(&kek, Keks::generate(id, &SystemEntropy).as_bytes()).unwrap();
        let error = folder.try_start(&[]).await.map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert_eq!(error.to_string(), format!("--kek-file {}", kek.display()));
    }
    // A newer key besides the old one is how keys are changed.
    let newer = Keks::generate("kek-2", &SystemEntropy);
    fs::write(&kek, [&right[..], newer.as_bytes()].concat()).unwrap();
    let mut writer = folder.start(&[]).await;
    assert_eq!(writer.values("a", 0).await, [(0, "x".to_owned())]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_process() {
    let folder = Folder::new();
    let writer = folder.found(&[]).await;
    let error = folder.try_start(&[]).await.map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 73);
    let (code, printed) = ends(program(folder.path(), &[])).await;
    let expected = line("open the data directory: the data directory is in use by another process");
    assert_eq!((code, printed), (Some(73), expected));
    writer.stop().await;
    folder.start(&[]).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_object_store_is_named() {
    let folder = Folder::new();
    for url in ["gs://bucket", "file:"] {
        let (code, printed) = ends(program(folder.path(), &["--object-store", url])).await;
        let expected = line(format_args!(
            "--object-store {url}: give file:DIR with a directory for the objects, or s3://BUCKET"
        ));
        assert_eq!((code, printed), (Some(78), expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_is_none_for_a_writer() {
    let folder = Folder::new();
    let [writer, user] = certificates(&folder);
    let (code, printed) = ends(program(folder.path(), &["--tls", user.to_str().unwrap()])).await;
    let expected = line(format_args!(
        "--tls {0}: {0}: tls.crt of spiffe://td/ns/a/sa/user is not that of a Writer that serves; \
         give the Writer's own directory",
        user.display()
    ));
    assert_eq!((code, printed), (Some(78), expected));
    folder.start(&["--tls", writer.to_str().unwrap()]).await.stop().await;
}

/// A stopped replica whose log has a block of 4 KiB for each of ten appends at its end.
async fn stopped() -> Folder {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    writer.put_stream("a").await;
    for _ in 0..10 {
        writer.append("a", &[&"x".repeat(3_000)]).await;
    }
    writer.stop().await;
    folder
}

fn segment(folder: &Folder) -> File {
    let path = folder.path().join("data/wal/0000000000000000.wal");
    File::options().read(true).write(true).open(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_what_was_acknowledged_is_quarantined() {
    let folder = stopped().await;
    let segment = segment(&folder);
    // In the middle of the records of one of the appends.
    let mut bytes = vec![0; 1 << 20];
    segment.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes.windows(1_000).position(|run| run == [b'x'; 1_000]).unwrap() + 500;
    segment.write_all_at(b"y", at as u64).unwrap();
    let (code, printed) = ends(program(folder.path(), &[])).await;
    assert_eq!(code, Some(75));
    let begin = "pyramid-writer: open the write-ahead log: acknowledged data is damaged at byte ";
    let end = "the files were left as they are, replace this replica\n";
    assert!(printed.starts_with(begin) && printed.ends_with(end), "{printed}");
    assert_eq!(printed.lines().count(), 1, "{printed}");
    let mut after = vec![0; 1 << 20];
    segment.read_exact_at(&mut after, 0).unwrap();
    bytes[at] = b'y';
    assert!(bytes == after, "the files were left as they are");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_replica_is_refused() {
    let (folder, other) = (stopped().await, stopped().await);
    let wal = |folder: &Folder| folder.path().join("data/wal/0000000000000000.wal");
    fs::copy(wal(&other), wal(&folder)).unwrap();
    let (code, printed) = ends(program(folder.path(), &[])).await;
    let expected = line(
        "open the write-ahead log: wal/0000000000000000.wal belongs to another replica; mount the \
         volume that belongs to this one",
    );
    assert_eq!((code, printed), (Some(76), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_newer_format_is_refused() {
    let folder = stopped().await;
    let path = folder.path().join("data/identity");
    let mut identity = fs::read(&path).unwrap();
    identity[8] = 2;
    let checksum = crc32c::crc32c(&identity[..72]);
    identity[72..76].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &identity).unwrap();
    let (code, printed) = ends(program(folder.path(), &[])).await;
    let expected = line(
        "open the data directory: the identity has version 2, this program knows 1; start a newer \
         one",
    );
    assert_eq!((code, printed), (Some(78), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_ends_the_replica_and_no_acknowledged_record() {
    let folder = Folder::new();
    let disk = SimDisk::new();
    let on = |disk: &SimDisk| {
        let disk = Arc::new(disk.clone());
        move |parts: &mut Environment| parts.disk = disk
    };
    let mut writer = folder.try_start_with(folder.config(&[]), on(&disk)).await.unwrap();
    writer.bootstrap(CLUSTER).await.unwrap();
    writer.put_stream("a").await;
    let mut session = writer.session().await;
    assert_eq!(offsets(session.append(append("a", &["kept"])).await), (0, 1));
    disk.fail_at(disk.operations(), std::io::ErrorKind::Other);
    // The next block fails: that of an append, or the idle one before it.
    let mut acknowledged = 1;
    let requests = async { while session.requests.send(append("a", &["x"])).await.is_ok() {} };
    let answers = async {
        while let Ok(Some(answer)) = session.answers.message().await {
            match answer.answer.unwrap() {
                Answer::Appended(_) => acknowledged += 1,
                Answer::Refused(refusal) => assert_ne!(refusal.reason(), Reason::Invalid),
            }
        }
    };
    tokio::select! {
        () = answers => {}
        () = requests => {}
    }
    let error = writer.ended().await.unwrap_err();
    assert_eq!(error.exit_code(), 74, "{error:?}");
    assert_eq!(disk.failures_hit(), 1);

    let disk = disk.after_power_cut(|_| false);
    let mut writer = folder.try_start_with(folder.config(&[]), on(&disk)).await.unwrap();
    let kept = writer.values("a", 0).await;
    assert!(kept.len() >= acknowledged, "{acknowledged} were acknowledged, {} kept", kept.len());
    assert_eq!(kept[0], (0, "kept".to_owned()));
    writer.stop().await;
}

/// Ends the program with the test, whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_stops_the_program_cleanly_and_nothing_is_lost() {
    let folder = stopped().await;
    let mut running = Running(program(folder.path(), &[]).spawn().unwrap());
    let mut out = BufReader::new(running.0.stdout.take().unwrap());
    let mut err = running.0.stderr.take().unwrap();
    let id = running.0.id().to_string();
    let ended = tokio::task::spawn_blocking(move || {
        let mut ready = String::new();
        out.read_line(&mut ready).unwrap();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let code = running.0.wait().unwrap().code();
        let (mut rest, mut errors) = (String::new(), String::new());
        out.read_to_string(&mut rest).unwrap();
        err.read_to_string(&mut errors).unwrap();
        (ready, code, rest + &errors)
    });
    let (ready, code, printed) = ended.await.unwrap();
    assert!(ready.starts_with("ready writer=127.0.0.1:"), "{ready}");
    assert!(ready.contains(" admin=127.0.0.1:"), "{ready}");
    assert_eq!((code, printed.as_str()), (Some(0), ""));
    let mut writer = folder.start(&[]).await;
    assert_eq!(writer.info("a").await.next_offset, 10);
    let info = writer.admin.get_info(pb::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.data_state(), pb::DataState::Member);
    writer.stop().await;
}
