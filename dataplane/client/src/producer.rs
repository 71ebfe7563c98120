//! [`Producer`]: each append is written once, whatever happens to connections and leaders.

use pyramid_protocol::pb::v1::{self as pb};
use pyramid_protocol::{Records, StreamName};

use crate::append::{self, AppendSession, Pending};
use crate::connection::{Client, Error};

/// Numbers the appends of one name to one stream.
///
/// Up to as many appends as the Writer remembers are on their way at once; they are sent again
/// until they are answered, with the same sequences. After an answer that is not a success every
/// later append is refused: make a new producer with [`Resume::From`] the first sequence that is
/// not known to be written.
#[derive(Debug)]
pub struct Producer {
    session: AppendSession,
    stream: StreamName,
    id: u64,
    epoch: u32,
    next_sequence: u64,
}

/// Whether this name was ever used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nothing was ever sent under this name: an unknown name begins at 0.
    New,
    /// This sequence is the first one not known to be written. An unknown name is refused, because
    /// the Writer has forgotten what was written.
    From(u64),
}

impl Producer {
    /// Makes or takes over the producer of this name; an older one of the name is fenced.
    ///
    /// Returns the sequence too that the Writer expects next: records of earlier appends below it
    /// are written.
    ///
    /// # Errors
    ///
    /// `UNKNOWN_PRODUCER`, `TOO_MANY_PRODUCERS`, `NOT_FOUND`, or no answer.
    pub async fn open(
        client: &Client,
        stream: StreamName,
        name: &str,
        resume: Resume,
        options: append::Options,
    ) -> Result<Self, Error> {
        let request = pb::InitProducerRequest {
            stream: stream.to_string(),
            name: name.to_owned(),
            resume_sequence: match resume {
                Resume::New => None,
                Resume::From(sequence) => Some(sequence),
            },
        };
        let pb::InitProducerResponse { id, epoch, next_sequence, known: _, in_flight_max } =
            client.init_producer(request).await?;
        let in_flight_max = usize::try_from(in_flight_max)
            .unwrap_or(usize::MAX)
            .clamp(1, options.in_flight_max.max(1));
        let session =
            AppendSession::new(client.clone(), append::Options { in_flight_max, ..options });
        Ok(Self { session, stream, id, epoch, next_sequence })
    }

    /// The sequence of the next append. Unit: records of this producer.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Waits for a place, then sends the append on its way.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing was sent and no sequence is used.
    pub async fn append(&mut self, records: &Records) -> Pending {
        let place = self.session.place(records.bytes().len()).await;
        let sequence = self.next_sequence;
        self.next_sequence += u64::from(records.count());
        place.append(pb::AppendRequest {
            stream: self.stream.to_string(),
            stream_id: None,
            records: records.bytes().clone(),
            expected_next_offset: None,
            epoch: 0,
            producer: Some(pb::Producer { id: self.id, epoch: self.epoch, sequence }),
            records_crc32c: Some(records.crc32c()),
        })
    }
}
