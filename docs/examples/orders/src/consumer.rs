//! What a pusher calls: rows and position change in one transaction, or neither does.

use anyhow::Context;
use pyramid_protocol::Batch;
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{Accepted, PushRequest, WrongOffset};
use rusqlite::{Connection, TransactionBehavior};

use crate::database;

/// Stores what a push brings, and that it was stored, if the push begins where the last one ended.
///
/// # Errors
/// The push cannot be decoded, or the database refused; nothing was stored.
pub(crate) fn push(database: &mut Connection, push: PushRequest) -> anyhow::Result<Answer> {
    let next = push.next.context("the push does not say where it ends")?;
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let moved = match push.base {
        // "Where are you?" Without a stored position we begin at `next`.
        None => transaction.execute(
            "INSERT INTO positions VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            (&push.stream, next.stream_id, next.epoch, next.offset),
        )?,
        // From `base` to `next`, unless we are elsewhere.
        Some(base) => transaction.execute(
            "UPDATE positions SET stream_id = ?2, epoch = ?3, offset = ?4
             WHERE stream = ?1 AND (stream_id, epoch, offset) = (?5, ?6, ?7)",
            (
                &push.stream,
                next.stream_id,
                next.epoch,
                next.offset,
                base.stream_id,
                base.epoch,
                base.offset,
            ),
        )?,
    };
    if moved == 0 {
        let stored = database::position(&transaction, &push.stream)?;
        return Ok(Answer::WrongOffset(WrongOffset { stored }));
    }
    for batch in push.batches {
        for record in Batch::decode(batch)?.iter() {
            let (offset, record) = record?;
            let mut insert =
                transaction.prepare_cached("INSERT INTO orders VALUES (?1, ?2, ?3)")?;
            insert.execute((&push.stream, offset.get(), &record.value[..]))?;
        }
    }
    transaction.commit()?;
    Ok(Answer::Accepted(Accepted { next: Some(next) }))
}
