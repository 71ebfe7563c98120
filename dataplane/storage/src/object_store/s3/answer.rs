//! What the SDK says of a call that failed, without the SDK's types.

use std::{error::Error, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::{DateTime, DateTimeFormat},
};

use super::{
    credentials::FileError,
    failure::{Answer, Failure},
};
use crate::transport::{Cause, cause, shortened};

/// Most that is looked at of a server's error. Unit: bytes.
const BODY_LEN_MAX: usize = 64 << 10;

pub(super) fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let Some(failure) = of_credentials(error) {
        return failure;
    }
    match error {
        SdkError::ServiceError(context) => {
            let (code, message) = (context.err().code(), context.err().message());
            if code.is_none() && context.raw().status().is_success() {
                return Failure::Unusable("an answer that cannot be read");
            }
            Failure::Answer(answer(context.raw(), code, message))
        }
        SdkError::ResponseError(context) => {
            let answer = answer(context.raw(), None, None);
            if answer.status < 300 {
                Failure::Transport(lasting_is_passing(cause(error)))
            } else {
                Failure::Answer(answer)
            }
        }
        SdkError::TimeoutError(_) => Failure::Transport(Cause::Timeout),
        SdkError::DispatchFailure(dispatch) if dispatch.is_timeout() => {
            Failure::Transport(Cause::Timeout)
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) | _ => {
            Failure::Transport(cause(error))
        }
    }
}

/// An answer that began well and could not be read to its end is not a wrong setting.
fn lasting_is_passing(cause: Cause) -> Cause {
    if cause.is_lasting() { Cause::Closed } else { cause }
}

fn answer(raw: &HttpResponse, code: Option<&str>, message: Option<&str>) -> Answer {
    let header = |name| raw.headers().get(name);
    let body = raw.body().bytes().unwrap_or_default();
    let body = String::from_utf8_lossy(body.get(..BODY_LEN_MAX).unwrap_or(body));
    let time = |text: &str, format| {
        DateTime::from_str(text, format).ok()?.to_millis().ok()?.try_into().ok()
    };
    let server_ms = header("date")
        .and_then(|text| time(text, DateTimeFormat::HttpDate))
        .or_else(|| time(element(&body, "ServerTime")?, DateTimeFormat::DateTime));
    let region = header("x-amz-bucket-region").or_else(|| element(&body, "Region"));
    let retry_after = header("retry-after").and_then(|text| text.trim().parse().ok());
    Answer {
        status: raw.status().as_u16(),
        code: code.map(str::to_owned),
        message: message.map(str::to_owned).or_else(|| plain_text(&body)),
        region: region.map(str::to_owned),
        server_ms,
        retry_after: retry_after.map(Duration::from_secs),
    }
}

/// The first sentence of a server that does not answer as S3 does.
fn plain_text(body: &str) -> Option<String> {
    let text = body.trim();
    (!text.is_empty() && !text.starts_with('<')).then(|| shortened(text))
}

/// The text of an XML element that has nothing inside.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    Some(text.trim())
}

fn of_credentials(error: &(dyn Error + 'static)) -> Option<Failure> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(error) = error.downcast_ref::<FileError>() {
            return Some(Failure::CredentialFiles(error.to_string()));
        }
        if let Some(found) = error.downcast_ref::<CredentialsError>() {
            if found.source().is_some_and(|source| source.is::<FileError>()) {
                current = found.source();
                continue;
            }
            // Deeper errors could quote the answer that held the credentials.
            return Some(Failure::Credentials {
                are_absent: matches!(found, CredentialsError::CredentialsNotLoaded(_)),
                reason: shortened(&found.to_string()),
            });
        }
        current = error.source();
    }
    None
}
