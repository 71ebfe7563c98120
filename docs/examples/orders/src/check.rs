//! What the database holds, for people and tests.

use rusqlite::Connection;
use serde_json::{Value, json};

/// Counts the orders and looks whether their offsets follow one another.
///
/// # Errors
/// As the database says.
pub(crate) fn check(database: &Connection) -> rusqlite::Result<Value> {
    let query = "SELECT COUNT(*), COUNT(DISTINCT body), MIN(offset), MAX(offset) FROM orders";
    let (orders, distinct, first, last) = database.query_row(query, [], |row| {
        Ok((
            row.get::<_, u64>(0)?,
            row.get::<_, u64>(1)?,
            row.get::<_, Option<u64>>(2)?,
            row.get::<_, Option<u64>>(3)?,
        ))
    })?;
    let spanned = first.zip(last).map_or(0, |(first, last)| last - first + 1);
    let mut positions = database
        .prepare("SELECT stream, stream_id, epoch, offset FROM positions ORDER BY stream")?;
    let position = |row: &rusqlite::Row<'_>| {
        Ok(json!({
            "stream": row.get::<_, String>(0)?,
            "stream_id": row.get::<_, u64>(1)?,
            "epoch": row.get::<_, u32>(2)?,
            "offset": row.get::<_, u64>(3)?,
        }))
    };
    let positions: Vec<Value> = positions.query_map([], position)?.collect::<Result<_, _>>()?;
    Ok(json!({
        "orders": orders,
        "distinct": distinct,
        "first_offset": first,
        "last_offset": last,
        "gapless": spanned == orders,
        "positions": positions,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database;

    #[test]
    fn a_gap_and_a_repetition_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        assert!(database::open_existing(&path).is_err());
        let database = database::open(&path).unwrap();
        let found = |first: Option<u64>, last: Option<u64>, orders, distinct, gapless| {
            json!({
                "orders": orders, "distinct": distinct, "first_offset": first,
                "last_offset": last, "gapless": gapless, "positions": [],
            })
        };
        assert_eq!(check(&database), Ok(found(None, None, 0, 0, true)));
        let insert = |offset: u64, body: &str| {
            database.execute("INSERT INTO orders VALUES (?1, ?2)", (offset, body.as_bytes()))
        };
        insert(7, "a").unwrap();
        insert(8, "b").unwrap();
        assert_eq!(check(&database), Ok(found(Some(7), Some(8), 2, 2, true)));
        insert(10, "b").unwrap();
        let other = database::open_existing(&path).unwrap();
        assert_eq!(check(&other), Ok(found(Some(7), Some(10), 3, 2, false)));
        database.execute("INSERT INTO positions VALUES ('shop/orders', 1, 2, 11)", []).unwrap();
        let positions =
            json!([{"stream": "shop/orders", "stream_id": 1, "epoch": 2, "offset": 11}]);
        assert_eq!(check(&other).unwrap()["positions"], positions);
    }
}
