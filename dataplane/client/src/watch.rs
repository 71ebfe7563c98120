//! [`watch`]: the newest next offset of each stream named, again after each reconnect.

use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use pyramid_protocol::StreamName;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::connection::{Client, Error, RETRY, Writer, wait};

/// How long a replica may take to begin.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

struct Watch {
    client: Client,
    request: pb::WatchRequest,
    open: Option<(Writer, Streaming<pb::WatchResponse>)>,
    backoff: Backoff,
    ended: bool,
}

/// Tells the newest next offsets: all on connect, then those that moved. Lossy: only the newest
/// counts. Ends with an error only if the Writer refuses for good.
pub fn watch(
    client: Client,
    streams: &[StreamName],
) -> impl Stream<Item = Result<Vec<pb::WatchedStream>, Error>> + Send + use<> {
    let streams = streams.iter().map(StreamName::to_string).collect();
    let request = pb::WatchRequest { streams };
    let watch = Watch { client, request, open: None, backoff: RETRY, ended: false };
    unfold(watch, |mut watch| async move {
        if watch.ended {
            return None;
        }
        let answer = watch.next().await;
        watch.ended = answer.is_err();
        Some((answer, watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Result<Vec<pb::WatchedStream>, Error> {
        loop {
            let writer = self.client.writer();
            let lost = match self.open.take() {
                None => {
                    let mut calls = writer.calls();
                    match timeout(OPEN_TIMEOUT, calls.watch(self.request.clone())).await {
                        Ok(Ok(response)) => {
                            self.open = Some((writer, response.into_inner()));
                            continue;
                        }
                        Ok(Err(status)) => Refusal::from_status(&status),
                        Err(_elapsed) => Refusal::unknown(Reason::Unavailable, "no answer in time"),
                    }
                }
                Some((writer, mut messages)) => match messages.message().await {
                    Ok(Some(message)) => {
                        self.backoff.reset();
                        self.open = Some((writer, messages));
                        return Ok(message.streams);
                    }
                    Ok(None) => Refusal::unknown(Reason::Unavailable, "the Writer ended the watch"),
                    Err(status) => Refusal::from_status(&status),
                },
            };
            if !lost.retry {
                return Err(Error::Refused(Box::new(lost)));
            }
            writer.failed(&lost);
            sleep(wait(&lost, &mut self.backoff, self.client.entropy())).await;
        }
    }
}
