//! What the database holds, for people and tests.

use rusqlite::{Connection, Row};
use serde_json::{Value, json};

/// Of each stream that the application was told of: its rows and its position.
const STREAMS: &str = "
    SELECT stream, stream_id, epoch, positions.offset, COUNT(orders.offset), MIN(orders.offset),
        MAX(orders.offset), COUNT(DISTINCT body)
    FROM positions LEFT JOIN orders USING (stream)
    GROUP BY stream ORDER BY stream";

/// How many orders have a producer's number, and how many of these are not the number of orders
/// that this producer has before it in this stream.
const NUMBERS: &str = "
    SELECT COUNT(*), COALESCE(SUM(number <> before), 0)
    FROM (
        SELECT body ->> 'number' AS number,
            ROW_NUMBER() OVER (PARTITION BY stream, body ->> 'producer' ORDER BY offset) - 1
                AS before
        FROM (SELECT stream, offset, CAST(body AS TEXT) AS body FROM orders)
        WHERE json_valid(body) AND json_type(body, '$.number') = 'integer'
    )";

/// One stream, as it is in the table.
struct Stream {
    orders: u64,
    distinct: u64,
    gapless: bool,
    told: Value,
}

fn stream(row: &Row<'_>) -> rusqlite::Result<Stream> {
    let (orders, distinct) = (row.get::<_, u64>(4)?, row.get::<_, u64>(7)?);
    let (first, last) = (row.get::<_, Option<u64>>(5)?, row.get::<_, Option<u64>>(6)?);
    let told = json!({
        "stream": row.get::<_, String>(0)?,
        "orders": orders,
        "first_offset": first,
        "last_offset": last,
        "position": {
            "stream_id": row.get::<_, u64>(1)?,
            "epoch": row.get::<_, u32>(2)?,
            "offset": row.get::<_, u64>(3)?,
        },
    });
    let spanned = first.zip(last).map_or(0, |(first, last)| last - first + 1);
    Ok(Stream { orders, distinct, gapless: spanned == orders, told })
}

/// Counts the orders, and looks whether in each stream their offsets follow one another, and the
/// numbers of each producer, which begin at 0.
///
/// # Errors
/// As the database says.
pub(crate) fn check(database: &mut Connection) -> rusqlite::Result<Value> {
    // Both queries see the same rows, though the application goes on.
    let database = database.transaction()?;
    let streams: Vec<Stream> =
        database.prepare(STREAMS)?.query_map([], stream)?.collect::<Result<_, _>>()?;
    let number = |row: &Row<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?));
    let (numbered, out_of_sequence) = database.query_row(NUMBERS, [], number)?;
    Ok(json!({
        "orders": streams.iter().map(|stream| stream.orders).sum::<u64>(),
        "distinct": streams.iter().map(|stream| stream.distinct).sum::<u64>(),
        "gapless": streams.iter().all(|stream| stream.gapless),
        "numbered": numbered,
        "in_sequence": out_of_sequence == 0,
        "streams": streams.into_iter().map(|stream| stream.told).collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests;
