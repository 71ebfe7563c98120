//! One Writer, one pusher and one application as processes, founded and configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::identities::Identities;
use pyramid_e2e::process::{Folder, Process, Recipe, free_port, program, tell, wait_until};
use pyramid_protocol::net::{Connect, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::put_stream_result;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{
    BootstrapRequest, DeliveryMode, GetStreamRequest, ObjectRef, PutStream, PutStreamsRequest,
    PutSubscription, PutSubscriptionsRequest, SealRequest, StartFrom, StreamInfo,
};
use pyramid_protocol::{Entropy, SystemEntropy};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tonic::transport::Channel;

/// Small enough that a short run seals many chunks. Unit: bytes of records.
const CHUNK_BYTES: u32 = 256 << 10;

/// The smallest that a Writer takes, so that a run goes through several of them. Unit: bytes.
const SEGMENT_BYTES: u32 = 16 << 20;

/// The subscription of the application, and the one of the audit inside the test.
const SUBSCRIPTION: &str = "till";
const AUDIT: &str = "audit";

/// Folders, ports and recipes; a process of each recipe while it runs.
pub(crate) struct World {
    pub(crate) folder: Folder,
    pub(crate) writer_port: u16,
    pub(crate) admin_port: u16,
    pub(crate) local_port: u16,
    pub(crate) audit_port: u16,
    pub(crate) kek: [u8; 32],
    pub(crate) identities: Identities,
    writer: Recipe,
    pusher: Recipe,
    audit_pusher: Recipe,
    application: Recipe,
    pub(crate) running: Running,
    cluster_id: [u8; 16],
}

/// The processes; `None` while one is down.
#[derive(Default)]
pub(crate) struct Running {
    pub(crate) writer: Option<Process>,
    pub(crate) pusher: Option<Process>,
    pub(crate) audit_pusher: Option<Process>,
    pub(crate) application: Option<Process>,
}

/// A row of the application's table: offset and body.
pub(crate) type Row = (u64, Vec<u8>);

impl World {
    /// Starts a Writer and founds its cluster with these streams.
    pub(crate) async fn found(streams: &[&str]) -> anyhow::Result<Self> {
        let mut world = Self::prepare()?;
        world.start_writer().await?;
        let mut admin = world.admin()?;
        let cluster_id = world.cluster_id.to_vec();
        let request = BootstrapRequest { cluster_id: cluster_id.clone().into() };
        admin.bootstrap(request).await.context("found the cluster")?;
        let rights = world.identities.rights()?;
        let streams: Vec<PutStream> = streams
            .iter()
            .map(|name| PutStream {
                object: Some(ObjectRef { uid: format!("uid-{name}"), generation: 1 }),
                name: (*name).to_owned(),
                settings: None,
                rights: Some(rights.clone()),
                expected: None,
            })
            .collect();
        let expected = streams.len();
        let request = PutStreamsRequest { cluster_id: cluster_id.into(), streams };
        // Founded is not yet elected.
        let mut results = Vec::new();
        wait_until("streams are put", Duration::from_secs(30), async || {
            let Ok(answer) = world.admin()?.put_streams(request.clone()).await else {
                return Ok(false);
            };
            results = answer.into_inner().results;
            Ok(true)
        })
        .await?;
        let put = |result: &&_| matches!(result, put_stream_result::Result::Stream(_));
        let put = results.iter().filter_map(|result| result.result.as_ref()).filter(put).count();
        ensure!(put == expected, "not every stream was put: {results:?}");
        Ok(world)
    }

    fn prepare() -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let (writer_port, admin_port) = (free_port()?, free_port()?);
        let (local_port, application_port) = (free_port()?, free_port()?);
        let (audit_local_port, audit_port) = (free_port()?, free_port()?);
        let kek = write_kek(&folder.join("kek"))?;
        let identities = Identities::make(&folder.join("tls"))?;
        let path = |name: &str| folder.join(name).display().to_string();
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let recipe = |name: &str, program, arguments: &[(&str, String)], ready: &str| {
            recipe(&folder, name, program, arguments, ready)
        };
        let writer = recipe(
            "writer",
            program("pyramid-writer")?,
            &[
                ("--data-dir", path("data")),
                ("--object-store", format!("file:{}", path("store"))),
                ("--kek-file", path("kek")),
                ("--tls", identities.writer.display().to_string()),
                ("--listen", loopback(writer_port)),
                ("--admin-listen", loopback(admin_port)),
                ("--ops-listen", loopback(0)),
                ("--chunk-bytes", CHUNK_BYTES.to_string()),
                ("--segment-bytes", SEGMENT_BYTES.to_string()),
            ],
            "ready ",
        );
        let pusher_program = program("pyramid-pusher")?;
        let pusher = |name, subscription: &str, application_port: u16, local_port| {
            let arguments = [
                ("--writer", loopback(writer_port)),
                ("--subscriptions", subscription.to_owned()),
                ("--app-port", application_port.to_string()),
                ("--local", loopback(local_port)),
                ("--ops-listen", loopback(0)),
                ("--chunk-directory", path("store")),
                ("--tls", identities.pusher.display().to_string()),
            ];
            recipe(name, pusher_program.clone(), &arguments, "ready ")
        };
        let audit_pusher = pusher("audit-pusher", AUDIT, audit_port, audit_local_port);
        let pusher = pusher("pusher", SUBSCRIPTION, application_port, local_port);
        let application = recipe(
            "application",
            program("orders")?,
            &[("--listen", loopback(application_port)), ("--database", path("orders.db"))],
            "listening on ",
        );
        for name in ["data", "store"] {
            std::fs::create_dir(folder.join(name))?;
        }
        Ok(Self {
            folder,
            writer_port,
            admin_port,
            local_port,
            audit_port,
            kek,
            identities,
            writer,
            pusher,
            audit_pusher,
            application,
            running: Running::default(),
            cluster_id: random(),
        })
    }

    /// Subscribes the application to one stream and the audit to several, from their first record
    /// on, and starts all but the audit.
    pub(crate) async fn subscribe(&mut self, stream: &str, audited: &[&str]) -> anyhow::Result<()> {
        let pusher = self.identities.pusher_account()?;
        let subscription = |name: &str, streams: &[&str]| PutSubscription {
            object: Some(ObjectRef { uid: format!("uid-{name}"), generation: 1 }),
            name: name.to_owned(),
            streams: streams.iter().map(|stream| (*stream).to_owned()).collect(),
            start_from: StartFrom::Earliest.into(),
            paused: false,
            mode: DeliveryMode::Broadcast.into(),
            ack_timeout_ms: 0,
            service_accounts: vec![pusher.clone()],
        };
        let request = PutSubscriptionsRequest {
            cluster_id: self.cluster_id.to_vec().into(),
            subscriptions: vec![
                subscription(SUBSCRIPTION, &[stream]),
                subscription(AUDIT, audited),
            ],
        };
        let answer = self.admin()?.put_subscriptions(request).await?.into_inner();
        ensure!(
            answer.results.iter().all(|result| result.refused.is_none()),
            "a subscription was refused: {answer:?}"
        );
        self.start_application().await?;
        self.start_pusher().await?;
        self.start_audit_pusher().await
    }

    pub(crate) async fn start_writer(&mut self) -> anyhow::Result<()> {
        let writer = self.writer.start().await?;
        for (key, port) in [("writer", self.writer_port), ("admin", self.admin_port)] {
            let address = writer.value(key)?;
            ensure!(address == format!("127.0.0.1:{port}"), "{key} serves at {address}");
        }
        self.running.writer = Some(writer);
        Ok(())
    }

    pub(crate) async fn start_pusher(&mut self) -> anyhow::Result<()> {
        self.running.pusher = Some(self.pusher.start().await?);
        Ok(())
    }

    pub(crate) async fn start_audit_pusher(&mut self) -> anyhow::Result<()> {
        self.running.audit_pusher = Some(self.audit_pusher.start().await?);
        Ok(())
    }

    pub(crate) async fn start_application(&mut self) -> anyhow::Result<()> {
        self.running.application = Some(self.application.start().await?);
        Ok(())
    }

    pub(crate) fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        Ok(AdminClient::new(open(self.identities.operator(), self.admin_port)?))
    }

    pub(crate) fn client(&self) -> anyhow::Result<WriterClient<Channel>> {
        Ok(WriterClient::new(open(self.identities.user(), self.writer_port)?))
    }

    pub(crate) async fn stream(&self, stream: &str) -> anyhow::Result<StreamInfo> {
        let request = GetStreamRequest { stream: stream.to_owned(), min_next_offset: None };
        Ok(self.client()?.get_stream(request).await?.into_inner())
    }

    /// Seals what a stream holds and waits until all of it is in the object store.
    pub(crate) async fn ship(&self, stream: &str) -> anyhow::Result<StreamInfo> {
        let request = SealRequest { stream: stream.to_owned(), stream_id: None };
        self.client()?.seal(request).await.context("seal")?;
        let mut info = StreamInfo::default();
        wait_until("everything is shipped", Duration::from_secs(60), async || {
            info = self.stream(stream).await?;
            Ok(info.shipped_offset == info.next_offset)
        })
        .await?;
        Ok(info)
    }

    fn database(&self) -> PathBuf {
        self.folder.join("orders.db")
    }

    /// Loses the application's database, as a volume is lost. The application must be down.
    pub(crate) fn lose_database(&self) -> anyhow::Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            let file = self.folder.join(format!("orders.db{suffix}"));
            if file.exists() {
                std::fs::remove_file(file)?;
            }
        }
        tell("the application has lost its database");
        Ok(())
    }

    /// Where the application is in a stream, by its own table.
    pub(crate) fn position(&self, stream: &str) -> anyhow::Result<Option<u64>> {
        let database =
            Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let query = "SELECT offset FROM positions WHERE stream = ?1";
        Ok(database.query_row(query, [stream], |row| row.get(0)).optional()?)
    }

    /// The application's rows and its position, of one moment.
    pub(crate) fn table(&self, stream: &str) -> anyhow::Result<(Vec<Row>, Option<u64>)> {
        let mut database =
            Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let transaction = database.transaction()?;
        let rows = {
            let mut query =
                transaction.prepare("SELECT offset, body FROM orders ORDER BY offset")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        let query = "SELECT offset FROM positions WHERE stream = ?1";
        let position = transaction.query_row(query, [stream], |row| row.get(0)).optional()?;
        Ok((rows, position))
    }
}

fn open(connect: Arc<dyn Connect>, port: u16) -> anyhow::Result<Channel> {
    Ok(channel(connect, &format!("127.0.0.1:{port}"))?)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemEntropy.fill(&mut bytes);
    bytes
}

fn recipe(
    folder: &Folder,
    name: &str,
    program: PathBuf,
    arguments: &[(&str, String)],
    ready: &str,
) -> Recipe {
    let arguments = arguments.iter();
    Recipe {
        name: name.to_owned(),
        program,
        arguments: arguments
            .flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()])
            .collect(),
        ready: ready.to_owned(),
        log: folder.join(format!("{name}.log")),
    }
}

/// A key file with a new key, which is returned too.
fn write_kek(path: &Path) -> anyhow::Result<[u8; 32]> {
    let kek: [u8; 32] = random();
    let digits: String = kek.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(path, format!("test = {digits}\n"))?;
    Ok(kek)
}
