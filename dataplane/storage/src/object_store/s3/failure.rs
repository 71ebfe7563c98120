//! What a failed call means for whoever made it: one pure function over all that S3 can say.

use std::time::Duration;

use super::credentials::Source;
use crate::{
    object_store::Error,
    transport::{Cause, shortened},
};

/// The setting that holds the authority of the endpoint.
pub(super) const CA_SETTING: &str = "--s3-ca";

/// Longest wait that a server may ask for: a wrong header must not stop shipping for a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// How far two clocks may be apart before it is worth saying. S3 refuses 15 minutes.
const SKEW_TOLD_MIN: Duration = Duration::from_secs(60);

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server said no.
    Answer(Answer),
    /// The server said nothing.
    Transport(Cause),
    /// The files with the credentials cannot be used.
    CredentialFiles(String),
    /// The environment gave no credentials.
    Credentials {
        /// Nothing that could give some is set up.
        are_absent: bool,
        /// Of the last that was asked.
        reason: String,
    },
    /// The server said yes and then something that no S3 server says.
    Unusable(&'static str),
    /// A listing is not in the order of the keys' bytes.
    Unordered,
    /// No URL can live so long.
    LifeTooLong,
}

/// A server's refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Of HTTP.
    pub(super) status: u16,
    /// Of S3, such as `NoSuchKey`.
    pub(super) code: Option<String>,
    /// For people.
    pub(super) message: Option<String>,
    /// Where the bucket is, if the server told.
    pub(super) region: Option<String>,
    /// The server's clock. Unit: milliseconds since 1970 UTC.
    pub(super) server_ms: Option<u64>,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// Of which call.
#[derive(Debug)]
pub(super) struct Context<'a> {
    /// As a verb.
    pub(super) action: &'static str,
    /// The key or prefix.
    pub(super) key: &'a str,
    pub(super) bucket: &'a str,
    /// Where the bucket is, for people.
    pub(super) place: &'a str,
    /// An endpoint was given, so it is not AWS.
    pub(super) has_endpoint: bool,
    pub(super) credentials: &'a Source,
    /// Our clock. Unit: milliseconds since 1970 UTC.
    pub(super) now_ms: u64,
}

/// The error that says what to do. Never holds what a server quoted of a signature.
pub(super) fn classify(failure: &Failure, context: &Context<'_>) -> Error {
    let Context { bucket, place, .. } = context;
    match failure {
        Failure::Answer(answer) => of_answer(answer, context),
        Failure::Transport(cause) => {
            let text = cause.text(place, CA_SETTING);
            if cause.is_lasting() { refused(context, text) } else { unavailable(context, text) }
        }
        Failure::CredentialFiles(reason) => refused(
            context,
            format!("the credentials cannot be read: {reason}; see --s3-credentials"),
        ),
        Failure::Credentials { are_absent: true, .. } => refused(
            context,
            "no credentials were found: give --s3-credentials, set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY, or give this machine or pod a role"
                .to_owned(),
        ),
        Failure::Credentials { are_absent: false, reason } => {
            unavailable(context, format!("the credentials could not be had: {reason}"))
        }
        Failure::Unusable(what) => {
            unavailable(context, format!("{place} sent {what}; is it an S3 server?"))
        }
        Failure::Unordered => refused(
            context,
            format!(
                "{place} does not list the keys of {bucket} in order, so objects could be missed; \
                 use a server that does"
            ),
        ),
        Failure::LifeTooLong => {
            refused(context, "a URL lives at most 7 days; shorten the life of URLs".to_owned())
        }
    }
}

fn of_answer(answer: &Answer, context: &Context<'_>) -> Error {
    let code = answer.code.as_deref().unwrap_or_default();
    if let Some(error) = of_code(code, answer, context) {
        return error;
    }
    let place = context.place;
    let said = said(answer);
    match answer.status {
        301 | 302 | 307 | 308 => refused(context, wrong_region(answer, context)),
        // Not by this status alone: a web server that is no S3 server answers so as well.
        404 => refused(
            context,
            format!("{place} answered {said}, which says nothing of a bucket; is it an S3 server?"),
        ),
        // An S3 server says why; a port for TLS does not in S3's form.
        400 if speaks_of_https(answer)
            || (answer.code.is_none() && place.starts_with("http://")) =>
        {
            refused(context, Cause::NotHttp.text(place, CA_SETTING))
        }
        401 | 403 => {
            refused(context, format!("{place} answered {said}; check {}", credentials(context)))
        }
        408 | 409 | 425 | 429 => waiting(context, answer, format!("{place} answered {said}")),
        412 => Error::ConditionFailed { key: context.key.to_owned() },
        501 => refused(
            context,
            format!("{place} answered {said}: it lacks a call that is needed; use another server"),
        ),
        500..=599 => waiting(context, answer, format!("{place} answered {said}")),
        _ => refused(context, format!("{place} answered {said}")),
    }
}

/// What the codes mean that S3 servers agree on. Some servers send them with another status.
#[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
fn of_code(code: &str, answer: &Answer, context: &Context<'_>) -> Option<Error> {
    let Context { bucket, place, action, .. } = context;
    Some(match code {
        "NoSuchKey" => Error::NotFound { key: context.key.to_owned() },
        "NoSuchBucket" => refused(
            context,
            format!(
                "the bucket {bucket} does not exist at {place}; create it or change --object-store"
            ),
        ),
        "InvalidBucketName" => refused(
            context,
            format!("{place} takes no bucket of the name {bucket}; change --object-store"),
        ),
        "PreconditionFailed" => Error::ConditionFailed { key: context.key.to_owned() },
        // Of several puts at once, none may have been done.
        "ConditionalRequestConflict" | "OperationAborted" => {
            waiting(context, answer, "another write to it was under way".to_owned())
        }
        "AccessDenied" | "AccountProblem" | "AllAccessDisabled" => refused(
            context,
            format!(
                "{} may not {action} in bucket {bucket}; grant {}",
                credentials(context),
                rights(action)
            ),
        ),
        "InvalidAccessKeyId" => refused(
            context,
            format!("{place} does not know the access key; check {}", credentials(context)),
        ),
        "SignatureDoesNotMatch" => {
            let text = format!(
                "the secret key does not belong to the access key; check {}",
                credentials(context)
            );
            // A server that sees a wrong date only as a wrong signature.
            refused(
                context,
                skew(answer, context).map_or(text.clone(), |skew| format!("{text}; and {skew}")),
            )
        }
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" | "InvalidClientTokenId" => {
            refused(
                context,
                format!("the session token is not valid any more; renew {}", credentials(context)),
            )
        }
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => refused(
            context,
            skew(answer, context).unwrap_or_else(|| {
                format!("the clock of this machine and that of {place} are too far apart")
            }) + "; set the clock of this machine",
        ),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "Redirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "InvalidRegion" => refused(context, wrong_region(answer, context)),
        // The body came as something else: on the next way it may not.
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody"
        | "ChecksumMismatch" => {
            waiting(context, answer, format!("the bytes were changed on their way to {place}"))
        }
        "RequestTimeout" => {
            waiting(context, answer, format!("the bytes came to {place} too slowly"))
        }
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "ServiceUnavailable"
        | "XMinioServerNotInitialized" => {
            waiting(context, answer, format!("{place} asks for fewer requests"))
        }
        "EntityTooLarge" => {
            refused(context, format!("{place} takes no object so large; make chunks smaller"))
        }
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" | "ServiceQuotaExceeded" => {
            waiting(context, answer, format!("{place} is full; give it room"))
        }
        _ => return None,
    })
}

fn wrong_region(answer: &Answer, context: &Context<'_>) -> String {
    let Context { bucket, place, has_endpoint, .. } = context;
    let told = answer.region.as_deref().or_else(|| expected_region(answer.message.as_deref()?));
    let told = told.filter(|region| {
        region.len() <= 64
            && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    match told {
        Some(region) => {
            format!("the bucket {bucket} is in region {region}; give --s3-region {region}")
        }
        None if *has_endpoint => format!(
            "the bucket {bucket} is not served at {place}; check --s3-endpoint and --s3-region"
        ),
        None => format!("the bucket {bucket} is not in this region; change --s3-region"),
    }
}

/// The region in "…; the region 'us-east-1' is wrong; expecting 'eu-west-1'".
fn expected_region(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| region)
}

/// By how much the clocks differ, if the server told its own.
fn skew(answer: &Answer, context: &Context<'_>) -> Option<String> {
    let server_ms = answer.server_ms?;
    let apart = Duration::from_millis(server_ms.abs_diff(context.now_ms));
    if apart < SKEW_TOLD_MIN {
        return None;
    }
    let direction = if server_ms > context.now_ms { "behind" } else { "ahead of" };
    let seconds = apart.as_secs();
    let apart = match seconds {
        0..3_600 => format!("{} minutes", seconds / 60),
        3_600..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    };
    Some(format!("the clock of this machine is {apart} {direction} that of {}", context.place))
}

fn credentials(context: &Context<'_>) -> String {
    match context.credentials {
        Source::Directory(directory) => format!("the credentials in {directory}"),
        Source::Ambient => "the credentials of this machine's environment".to_owned(),
    }
}

fn rights(action: &str) -> &'static str {
    match action {
        "put" => "s3:PutObject",
        "get" => "s3:GetObject and s3:ListBucket",
        "list" => "s3:ListBucket",
        "delete" => "s3:DeleteObject",
        _ => "s3:GetObject",
    }
}

/// A server without TLS support for plain requests says so in its own words.
fn speaks_of_https(answer: &Answer) -> bool {
    answer.code.is_none()
        && answer.message.as_deref().is_some_and(|message| {
            message.contains("HTTPS") || message.contains("TLS") || message.contains("SSL")
        })
}

/// Status, code and text of the server; never a text that speaks of keys or signatures, which
/// could be quoted in it.
fn said(answer: &Answer) -> String {
    let mut said = format!("{}", answer.status);
    if let Some(code) = answer.code.as_deref()
        && code.len() <= 64
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        said = format!("{said} {code}");
    }
    let quotes_secrets = |text: &str| {
        let text = text.to_ascii_lowercase();
        ["signature", "credential", "token", "secret", "x-amz-"]
            .iter()
            .any(|word| text.contains(word))
    };
    if let Some(message) = answer.message.as_deref()
        && !quotes_secrets(message)
    {
        said = format!("{said} ({})", shortened(message));
    }
    said
}

fn waiting(context: &Context<'_>, answer: &Answer, reason: String) -> Error {
    let Context { action, key, .. } = context;
    let wait = answer.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
    Error::Unavailable { action, key: (*key).to_owned(), reason, wait }
}

fn unavailable(context: &Context<'_>, reason: String) -> Error {
    waiting(context, &Answer::default(), reason)
}

fn refused(context: &Context<'_>, reason: String) -> Error {
    Error::Refused { action: context.action, key: context.key.to_owned(), reason }
}

#[cfg(test)]
mod tests;
