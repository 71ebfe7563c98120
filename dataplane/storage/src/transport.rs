//! Why a server gave no answer at all: one reading of the errors of sockets, TLS and HTTP, for the
//! S3 store and for the fetcher.

use std::{error::Error, io, io::ErrorKind};

use rustls::CertificateError;

/// Longest text of somebody else in our errors. Unit: characters.
const TEXT_LEN_MAX: usize = 200;

/// What was in the way. Each variant is another thing to do for whoever reads the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The name has no address.
    NameUnknown,
    /// Nothing listens there.
    ConnectRefused,
    /// No way leads there.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The other side ended the connection before its answer was complete.
    Closed,
    /// The server's certificate is signed by nobody who is trusted here.
    UntrustedIssuer,
    /// The server's certificate is for another name.
    WrongName,
    /// The server's certificate is past its end, or before its beginning.
    NotValidNow,
    /// The server does not speak TLS.
    NotTls,
    /// The server does not speak HTTP, or only inside of TLS.
    NotHttp,
    /// The handshake failed for another reason.
    Tls(String),
    /// Something else.
    Other(String),
}

impl Cause {
    /// Trying again fails again until somebody changes a setting, a certificate or a clock.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::UntrustedIssuer
            | Self::WrongName
            | Self::NotValidNow
            | Self::NotTls
            | Self::NotHttp
            | Self::Tls(_) => true,
            Self::NameUnknown
            | Self::ConnectRefused
            | Self::Unreachable
            | Self::Timeout
            | Self::Closed
            | Self::Other(_) => false,
        }
    }

    /// What happened with `server` and what to do. `ca_setting` names the setting that holds the
    /// certificate authority of that server.
    pub(crate) fn text(&self, server: &str, ca_setting: &str) -> String {
        match self {
            Self::NameUnknown => format!("the name of {server} has no address; is it right?"),
            Self::ConnectRefused => {
                format!("nothing listens at {server}; is the address right and the server running?")
            }
            Self::Unreachable => format!("no network route leads to {server}"),
            Self::Timeout => format!("{server} did not answer in time"),
            Self::Closed => format!("{server} ended the connection before its answer was complete"),
            Self::UntrustedIssuer => format!(
                "the certificate of {server} is signed by an authority that is not trusted here; \
                 give the right one with {ca_setting}"
            ),
            Self::WrongName => format!(
                "the certificate of {server} is for another name; use a name that stands in it, \
                 or give the server a certificate for this one"
            ),
            Self::NotValidNow => format!(
                "the certificate of {server} is not valid at this time; renew it, or set the clock \
                 of this machine"
            ),
            Self::NotTls => format!("{server} does not speak TLS; use http:// or another port"),
            Self::NotHttp => {
                format!("{server} does not speak plain HTTP; use https:// if it has TLS")
            }
            Self::Tls(text) => format!("the TLS handshake with {server} failed: {text}"),
            Self::Other(text) => format!("{server}: {text}"),
        }
    }
}

/// Looks through an error and all that it was made from.
pub(crate) fn cause(error: &(dyn Error + 'static)) -> Cause {
    let mut current = Some(error);
    let mut fallback = None;
    let mut last = error;
    while let Some(error) = current {
        if let Some(cause) = of_tls(error) {
            return cause;
        }
        // Deeper errors say it better, unless there are none.
        fallback = of_socket(error).or(fallback);
        last = error;
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        current = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    fallback.unwrap_or_else(|| Cause::Other(shortened(&last.to_string())))
}

fn of_tls(error: &(dyn Error + 'static)) -> Option<Cause> {
    let error = error.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(error) = error {
        // An authority of the same name with another key shows as a bad signature.
        if matches!(error, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
            return Some(Cause::UntrustedIssuer);
        }
        if matches!(
            error,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ) {
            return Some(Cause::WrongName);
        }
        if matches!(
            error,
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ) {
            return Some(Cause::NotValidNow);
        }
    }
    if matches!(error, rustls::Error::InvalidMessage(_)) {
        return Some(Cause::NotTls);
    }
    Some(Cause::Tls(shortened(&error.to_string())))
}

fn of_socket(error: &(dyn Error + 'static)) -> Option<Cause> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        let kind = error.kind();
        if kind == ErrorKind::ConnectionRefused {
            return Some(Cause::ConnectRefused);
        }
        if matches!(kind, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) {
            return Some(Cause::Unreachable);
        }
        if kind == ErrorKind::TimedOut {
            return Some(Cause::Timeout);
        }
        if matches!(
            kind,
            ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
        ) {
            return Some(Cause::Closed);
        }
        return None;
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        if error.is_parse() {
            return Some(Cause::NotHttp);
        }
        if error.is_timeout() {
            return Some(Cause::Timeout);
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            return Some(Cause::Closed);
        }
        return None;
    }
    // The connector's own type is private; its text is not likely to change.
    error.to_string().starts_with("dns error").then_some(Cause::NameUnknown)
}

/// Text of somebody else, in one line of a bearable length.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).take(TEXT_LEN_MAX).collect()
}
