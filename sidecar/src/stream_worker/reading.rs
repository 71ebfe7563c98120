//! When a read cannot go on, and what only a leader can tell.

use pyramid_client::connection;
use pyramid_client::read;
use pyramid_protocol::Position;
use pyramid_protocol::pb::v1 as pb;
use tokio::time::Instant;

use crate::health::has_caught_up;
use crate::negotiation::{Stream, Verdict, leaders_word, refused_read};
use crate::stream_worker::{Stopped, StreamWorker};

impl StreamWorker {
    /// Takes note of an application that has accepted all that there was.
    pub(super) fn note_catching_up(&self) {
        let Some((stored, source)) = self.stored.zip(self.source.as_ref()) else { return };
        if has_caught_up(stored.offset, source.end_of_stream(), Instant::now()) {
            self.shared.board.caught_up(&self.place);
        }
    }

    /// Nothing more comes from the source.
    pub(super) async fn read_ended(
        &mut self,
        stored: Position,
        error: read::Error,
    ) -> Result<(), Stopped> {
        let was_read = self.source.take().is_some_and(|source| !source.is_empty());
        if was_read {
            // The refusal speaks of a place further on, which the application may never reach in
            // this history. The same question at its own place brings the answer that counts.
            return Ok(());
        }
        let refusal = match error {
            read::Error::Refused(refusal) => *refusal,
            read::Error::NoAnswer { last } => return self.failed(last).await.map(drop),
        };
        match refused_read(stored, &refusal) {
            Verdict::Halt(halt) => {
                self.halt(halt);
                Ok(())
            }
            Verdict::AskLeader => {
                let Some(stream) = self.leaders_stream().await? else { return Ok(()) };
                self.heard_of(stream.next_offset);
                match leaders_word(stored, stream) {
                    Some(halt) => {
                        self.halt(halt);
                        Ok(())
                    }
                    None => self.failed(refusal.message).await.map(drop),
                }
            }
            Verdict::Retry => self.failed(refusal.message).await.map(drop),
        }
    }

    /// The stream as its leader knows it; `None` after a wait if nobody can tell.
    pub(super) async fn leaders_stream(&mut self) -> Result<Option<Stream>, Stopped> {
        let request =
            pb::GetStreamRequest { stream: self.place.stream.to_string(), min_next_offset: None };
        let client = self.shared.reading.client.clone();
        let answer = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped),
            answer = client.get_stream(request) => answer,
        };
        let message = match answer.as_ref().map(Stream::try_from) {
            Ok(Ok(stream)) => return Ok(Some(stream)),
            Ok(Err(no_id)) => no_id.to_string(),
            Err(connection::Error::Refused(refusal)) => format!("the Writer: {}", refusal.message),
            Err(error) => error.to_string(),
        };
        self.failed(message).await?;
        Ok(None)
    }
}
