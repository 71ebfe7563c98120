//! Two tables: what came, and up to where.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use pyramid_protocol::pb::v1::Position;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS orders (
        stream TEXT NOT NULL,
        offset INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (stream, offset)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS positions (
        stream TEXT PRIMARY KEY,
        stream_id INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        offset INTEGER NOT NULL
    ) STRICT;
";

/// Opens the database, making it and its tables where there are none.
///
/// A transaction that was committed outlives a crash of this program and of the machine.
///
/// # Errors
/// The file cannot be opened, or is no database.
pub(crate) fn open(path: &Path) -> anyhow::Result<Connection> {
    let database = Connection::open(path).with_context(|| format!("open {}", path.display()))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    make_tables(&database)?;
    Ok(database)
}

/// Makes the tables where there are none.
///
/// # Errors
/// As the database says.
pub(crate) fn make_tables(database: &Connection) -> rusqlite::Result<()> {
    database.execute_batch(TABLES)
}

/// Opens the database of an application that may run meanwhile.
///
/// # Errors
/// There is none, or it cannot be opened.
pub(crate) fn open_existing(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)
        .with_context(|| format!("open {}", path.display()))?;
    // Of a container only the folder of the database can be written.
    database.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(database)
}

/// Where the application is in this stream, if it ever was.
///
/// # Errors
/// As the database says.
pub(crate) fn position(database: &Connection, stream: &str) -> rusqlite::Result<Option<Position>> {
    let query = "SELECT stream_id, epoch, offset FROM positions WHERE stream = ?1";
    let position = |row: &rusqlite::Row<'_>| {
        Ok(Position { stream_id: row.get(0)?, epoch: row.get(1)?, offset: row.get(2)? })
    };
    database.query_row(query, [stream], position).optional()
}

/// Writes the body of each order on a line of its own, stream by stream, in the order of the offsets.
///
/// # Errors
/// As the database or `out` says.
pub(crate) fn print(database: &Connection, out: &mut impl Write) -> anyhow::Result<()> {
    let mut orders = database.prepare("SELECT body FROM orders ORDER BY stream, offset")?;
    let mut rows = orders.query([])?;
    while let Some(row) = rows.next()? {
        out.write_all(row.get_ref(0)?.as_blob()?)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}
