//! What a server's answer to a request with a range means. Pure.

use std::{ops::Range, time::Duration};

use http::{HeaderName, StatusCode, header, response::Parts};

use super::super::{ACTION, refused};
use crate::{object_store::Error, range::ContentRange};

/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What the head of an answer says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// It is what was asked for, `len` bytes long.
    Body {
        /// Not 0.
        len: u64,
    },
    /// The object ends before the range begins.
    Nothing,
    /// It is a text that says why not.
    Refusal,
}

/// Reads the head of an answer to a request for `asked`, which is not empty.
pub(super) fn of_head(head: &Parts, asked: &Range<u64>) -> Answered {
    let body_len = text(head, &header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    match head.status {
        StatusCode::PARTIAL_CONTENT => {
            let Some(ContentRange { range, total_len }) =
                text(head, &header::CONTENT_RANGE).and_then(|text| text.parse().ok())
            else {
                return Answered::Refusal;
            };
            let len = range.end - range.start;
            let expected = asked.start..asked.end.min(total_len);
            if range == expected && body_len.is_none_or(|body_len| body_len == len) {
                Answered::Body { len }
            } else {
                Answered::Refusal
            }
        }
        // The whole object: right if it is not longer than what was asked for.
        StatusCode::OK => match body_len {
            Some(0) => Answered::Nothing,
            Some(len) if asked.start == 0 && len <= asked.end => Answered::Body { len },
            Some(_) | None => Answered::Refusal,
        },
        StatusCode::RANGE_NOT_SATISFIABLE => Answered::Nothing,
        _ => Answered::Refusal,
    }
}

/// The error for an answer that is none. `body` is the front of its text.
pub(super) fn of_refusal(head: &Parts, body: &[u8], name: &str, server: &str) -> Error {
    let status = head.status;
    let code = code(body);
    let said = match code {
        Some(code) => format!("{} {code}", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    let unavailable = |reason| {
        let wait = text(head, &header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let wait = wait.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        Error::Unavailable { action: ACTION, key: name.to_owned(), reason, wait }
    };
    // The URL was signed with a token or key that the store does not take any more.
    let has_expired =
        matches!(code, Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired"));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::Expired { key: name.to_owned(), reason: format!("{server} answered {said}") }
        }
        StatusCode::BAD_REQUEST if has_expired => {
            Error::Expired { key: name.to_owned(), reason: format!("{server} answered {said}") }
        }
        StatusCode::NOT_FOUND => Error::NotFound { key: name.to_owned() },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY => {
            unavailable(format!("{server} answered {said}"))
        }
        _ if status.is_server_error() => unavailable(format!("{server} answered {said}")),
        _ if status.is_redirection() => refused(
            name,
            &format!(
                "{server} answered {said}, and a reader goes where it was told and not further"
            ),
        ),
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            unavailable(format!("{server} answered with another range than was asked for"))
        }
        _ => refused(name, &format!("{server} answered {said}")),
    }
}

fn text<'a>(head: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    head.headers.get(name)?.to_str().ok()
}

/// The code of an S3 error, such as `AccessDenied`. Nothing else of the text is ever shown: stores
/// quote signatures in it.
fn code(body: &[u8]) -> Option<&str> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_word =
        (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_word.then_some(code)
}
