use super::*;

const PLACE: &str = "https://s3.example:9000";

fn context<'a>(action: &'static str, credentials: &'a Source) -> Context<'a> {
    Context {
        action,
        key: "dev/a",
        bucket: "chunks",
        place: PLACE,
        has_endpoint: true,
        credentials,
        now_ms: 1_000_000_000,
    }
}

fn answer(status: u16, code: &str) -> Failure {
    let code = (!code.is_empty()).then(|| code.to_owned());
    Failure::Answer(Answer { status, code, ..Answer::default() })
}

/// What somebody has to do about a failed put.
fn of_put(failure: &Failure) -> Error {
    let source = Source::Directory("/keys".to_owned());
    classify(failure, &context("put", &source))
}

/// Of a refusal.
fn reason(error: Error) -> String {
    let Error::Refused { reason, .. } = error else { panic!("{error:?}") };
    reason
}

fn refused(reason: &str) -> Error {
    Error::Refused { action: "put", key: "dev/a".to_owned(), reason: reason.to_owned() }
}

fn unavailable(reason: &str) -> Error {
    let (action, key, reason) = ("put", "dev/a".to_owned(), reason.to_owned());
    Error::Unavailable { action, key, reason, wait: None }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
fn every_answer_of_s3_says_what_to_do() {
    let changed = "the bytes were changed on their way to https://s3.example:9000";
    let slow = "https://s3.example:9000 asks for fewer requests";
    let full = "https://s3.example:9000 is full; give it room";
    let token = "the session token is not valid any more; renew the credentials in /keys";
    let region = "the bucket chunks is not served at https://s3.example:9000; check --s3-endpoint \
                  and --s3-region";
    let clock = "the clock of this machine and that of https://s3.example:9000 are too far apart; \
                 set the clock of this machine";
    let denied = "the credentials in /keys may not put in bucket chunks; grant s3:PutObject";
    let conflict = "another write to it was under way";
    for (status, code, expected) in [
        (404, "NoSuchKey", Error::NotFound { key: "dev/a".to_owned() }),
        (
            404,
            "NoSuchBucket",
            refused(
                "the bucket chunks does not exist at https://s3.example:9000; create it or change \
                 --object-store",
            ),
        ),
        (
            400,
            "InvalidBucketName",
            refused(
                "https://s3.example:9000 takes no bucket of the name chunks; change --object-store",
            ),
        ),
        (
            404,
            "",
            refused(
                "https://s3.example:9000 answered 404, which says nothing of a bucket; is it an S3 \
                 server?",
            ),
        ),
        (412, "PreconditionFailed", Error::ConditionFailed { key: "dev/a".to_owned() }),
        (412, "", Error::ConditionFailed { key: "dev/a".to_owned() }),
        (409, "ConditionalRequestConflict", unavailable(conflict)),
        (409, "OperationAborted", unavailable(conflict)),
        (409, "", unavailable("https://s3.example:9000 answered 409")),
        (403, "AccessDenied", refused(denied)),
        (403, "AllAccessDisabled", refused(denied)),
        (403, "AccountProblem", refused(denied)),
        (
            403,
            "InvalidAccessKeyId",
            refused(
                "https://s3.example:9000 does not know the access key; check the credentials in \
                 /keys",
            ),
        ),
        (
            403,
            "SignatureDoesNotMatch",
            refused(
                "the secret key does not belong to the access key; check the credentials in /keys",
            ),
        ),
        (403, "RequestTimeTooSkewed", refused(clock)),
        (403, "RequestExpired", refused(clock)),
        (400, "RequestInTheFuture", refused(clock)),
        (400, "ExpiredToken", refused(token)),
        (403, "ExpiredToken", refused(token)),
        (400, "InvalidToken", refused(token)),
        (400, "TokenRefreshRequired", refused(token)),
        (403, "InvalidClientTokenId", refused(token)),
        (403, "", refused("https://s3.example:9000 answered 403; check the credentials in /keys")),
        (
            401,
            "Unauthorized",
            refused(
                "https://s3.example:9000 answered 401 Unauthorized; check the credentials in /keys",
            ),
        ),
        (301, "PermanentRedirect", refused(region)),
        (307, "TemporaryRedirect", refused(region)),
        (307, "Redirect", refused(region)),
        (308, "", refused(region)),
        (302, "", refused(region)),
        (301, "", refused(region)),
        (307, "", refused(region)),
        (400, "AuthorizationHeaderMalformed", refused(region)),
        (400, "IllegalLocationConstraintException", refused(region)),
        (400, "InvalidRegion", refused(region)),
        (400, "BadDigest", unavailable(changed)),
        (400, "InvalidDigest", unavailable(changed)),
        (400, "XAmzContentSHA256Mismatch", unavailable(changed)),
        (400, "XAmzContentChecksumMismatch", unavailable(changed)),
        (400, "ChecksumMismatch", unavailable(changed)),
        (400, "IncompleteBody", unavailable(changed)),
        (
            400,
            "RequestTimeout",
            unavailable("the bytes came to https://s3.example:9000 too slowly"),
        ),
        (
            400,
            "EntityTooLarge",
            refused("https://s3.example:9000 takes no object so large; make chunks smaller"),
        ),
        (400, "InvalidRequest", refused("https://s3.example:9000 answered 400 InvalidRequest")),
        (400, "", refused("https://s3.example:9000 answered 400")),
        (405, "MethodNotAllowed", refused("https://s3.example:9000 answered 405 MethodNotAllowed")),
        (408, "", unavailable("https://s3.example:9000 answered 408")),
        (425, "", unavailable("https://s3.example:9000 answered 425")),
        (429, "", unavailable("https://s3.example:9000 answered 429")),
        (429, "TooManyRequests", unavailable(slow)),
        (503, "SlowDown", unavailable(slow)),
        (503, "ServiceUnavailable", unavailable(slow)),
        (503, "Throttling", unavailable(slow)),
        (400, "ThrottlingException", unavailable(slow)),
        (503, "RequestLimitExceeded", unavailable(slow)),
        (503, "XMinioServerNotInitialized", unavailable(slow)),
        (507, "XMinioStorageFull", unavailable(full)),
        (507, "InsufficientStorage", unavailable(full)),
        (403, "QuotaExceeded", unavailable(full)),
        (400, "ServiceQuotaExceeded", unavailable(full)),
        (500, "InternalError", unavailable("https://s3.example:9000 answered 500 InternalError")),
        (500, "", unavailable("https://s3.example:9000 answered 500")),
        (502, "", unavailable("https://s3.example:9000 answered 502")),
        (504, "", unavailable("https://s3.example:9000 answered 504")),
        (599, "", unavailable("https://s3.example:9000 answered 599")),
        (600, "", refused("https://s3.example:9000 answered 600")),
        (
            501,
            "NotImplemented",
            refused(
                "https://s3.example:9000 answered 501 NotImplemented: it lacks a call that is \
                 needed; use another server",
            ),
        ),
    ] {
        assert_eq!(of_put(&answer(status, code)), expected, "{status} {code}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, read from top to bottom")]
fn what_is_no_answer_says_what_to_do() {
    for (failure, expected) in [
        (
            Failure::Transport(Cause::UntrustedIssuer),
            refused(
                "the certificate of https://s3.example:9000 is signed by an authority that is not \
                 trusted here; give the right one with --s3-ca",
            ),
        ),
        (
            Failure::Transport(Cause::WrongName),
            refused(
                "the certificate of https://s3.example:9000 is for another name; use a name that \
                 stands in it, or give the server a certificate for this one",
            ),
        ),
        (
            Failure::Transport(Cause::NotValidNow),
            refused(
                "the certificate of https://s3.example:9000 is not valid at this time; renew it, \
                 or set the clock of this machine",
            ),
        ),
        (
            Failure::Transport(Cause::NotTls),
            refused("https://s3.example:9000 does not speak TLS; use http:// or another port"),
        ),
        (
            Failure::Transport(Cause::NotHttp),
            refused(
                "https://s3.example:9000 does not speak plain HTTP; use https:// if it has TLS",
            ),
        ),
        (
            Failure::Transport(Cause::Tls("odd".to_owned())),
            refused("the TLS handshake with https://s3.example:9000 failed: odd"),
        ),
        (
            Failure::Transport(Cause::NameUnknown),
            unavailable("the name of https://s3.example:9000 has no address; is it right?"),
        ),
        (
            Failure::Transport(Cause::ConnectRefused),
            unavailable(
                "nothing listens at https://s3.example:9000; is the address right and the server \
                 running?",
            ),
        ),
        (
            Failure::Transport(Cause::Unreachable),
            unavailable("no network route leads to https://s3.example:9000"),
        ),
        (
            Failure::Transport(Cause::Timeout),
            unavailable("https://s3.example:9000 did not answer in time"),
        ),
        (
            Failure::Transport(Cause::Closed),
            unavailable(
                "https://s3.example:9000 ended the connection before its answer was complete",
            ),
        ),
        (
            Failure::Transport(Cause::Other("odd".to_owned())),
            unavailable("https://s3.example:9000: odd"),
        ),
        (
            Failure::CredentialFiles("/keys/accessKeyId: there is no such file".to_owned()),
            refused(
                "the credentials cannot be read: /keys/accessKeyId: there is no such file; see \
                 --s3-credentials",
            ),
        ),
        (
            Failure::Credentials { are_absent: true, reason: "odd".to_owned() },
            refused(
                "no credentials were found: give --s3-credentials, set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or give this machine or pod a role",
            ),
        ),
        (
            Failure::Credentials { are_absent: false, reason: "odd".to_owned() },
            unavailable("the credentials could not be had: odd"),
        ),
        (
            Failure::Unusable("half of a list"),
            unavailable("https://s3.example:9000 sent half of a list; is it an S3 server?"),
        ),
        (
            Failure::Unordered,
            refused(
                "https://s3.example:9000 does not list the keys of chunks in order, so objects \
                 could be missed; use a server that does",
            ),
        ),
        (Failure::LifeTooLong, refused("a URL lives at most 7 days; shorten the life of URLs")),
    ] {
        assert_eq!(of_put(&failure), expected, "{failure:?}");
    }
}

#[test]
fn a_missing_bucket_is_told_of_every_call() {
    for action in ["put", "get", "list", "delete", "locate"] {
        let error = classify(&answer(404, "NoSuchBucket"), &context(action, &Source::Ambient));
        let expected = format!(
            "{action} dev/a is refused: the bucket chunks does not exist at {PLACE}; create it or \
             change --object-store"
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_missing_right_is_named() {
    for (action, right) in [
        ("put", "s3:PutObject"),
        ("get", "s3:GetObject and s3:ListBucket"),
        ("list", "s3:ListBucket"),
        ("delete", "s3:DeleteObject"),
    ] {
        let error = classify(&answer(403, "AccessDenied"), &context(action, &Source::Ambient));
        let expected = format!(
            "{action} dev/a is refused: the credentials of this machine's environment may not \
             {action} in bucket chunks; grant {right}"
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn the_right_region_is_named_if_the_server_told_it() {
    let told = |region: Option<&str>, message: Option<&str>, has_endpoint| {
        let failure = Failure::Answer(Answer {
            status: 400,
            code: Some("AuthorizationHeaderMalformed".to_owned()),
            region: region.map(str::to_owned),
            message: message.map(str::to_owned),
            ..Answer::default()
        });
        let source = Source::Ambient;
        reason(classify(&failure, &Context { has_endpoint, ..context("get", &source) }))
    };
    let right = "the bucket chunks is in region eu-west-1; give --s3-region eu-west-1";
    assert_eq!(told(Some("eu-west-1"), None, false), right);
    let message = "the region 'us-east-1' is wrong; expecting 'eu-west-1'";
    assert_eq!(told(None, Some(message), false), right);
    let unknown = "the bucket chunks is not in this region; change --s3-region";
    assert_eq!(told(None, Some("the region is wrong"), false), unknown);
    assert_eq!(told(Some("eu west; rm -r"), None, false), unknown);
    assert_eq!(told(None, None, false), unknown);
}

#[test]
fn a_wrong_clock_is_told_with_the_difference() {
    let minutes = |minutes: i64, code: &str| {
        let server_ms = 1_000_000_000 + minutes * 60_000;
        let failure = Failure::Answer(Answer {
            status: 403,
            code: Some(code.to_owned()),
            server_ms: Some(u64::try_from(server_ms).unwrap()),
            ..Answer::default()
        });
        reason(of_put(&failure))
    };
    for (difference, expected) in [
        (16, "16 minutes behind"),
        (-16, "16 minutes ahead of"),
        (59, "59 minutes behind"),
        (60, "1 hours behind"),
        (24 * 60, "24 hours behind"),
        (-48 * 60 + 1, "47 hours ahead of"),
        (-48 * 60, "2 days ahead of"),
    ] {
        assert_eq!(
            minutes(difference, "RequestTimeTooSkewed"),
            format!(
                "the clock of this machine is {expected} that of {PLACE}; set the clock of this \
                 machine"
            )
        );
    }
    let key = "the secret key does not belong to the access key; check the credentials in /keys";
    assert_eq!(minutes(0, "SignatureDoesNotMatch"), key);
    assert_eq!(
        minutes(24 * 60, "SignatureDoesNotMatch"),
        format!("{key}; and the clock of this machine is 24 hours behind that of {PLACE}")
    );
}

#[test]
fn a_server_may_ask_for_a_wait_but_not_for_a_day() {
    let wait = |status, seconds| {
        let failure = Failure::Answer(Answer {
            status,
            retry_after: Some(Duration::from_secs(seconds)),
            ..Answer::default()
        });
        of_put(&failure).wait()
    };
    for status in [429, 503, 500] {
        assert_eq!(wait(status, 0), Some(Duration::ZERO));
        assert_eq!(wait(status, 300), Some(Duration::from_secs(300)));
        assert_eq!(wait(status, 301), Some(Duration::from_secs(300)));
    }
    assert_eq!(wait(403, 5), None, "nobody waits for what stays refused");
}

#[test]
fn texts_of_servers_are_quoted_unless_they_could_hold_a_secret() {
    let said = |message: &str| {
        let failure = Failure::Answer(Answer {
            status: 500,
            code: Some("InternalError".to_owned()),
            message: Some(message.to_owned()),
            ..Answer::default()
        });
        of_put(&failure).to_string()
    };
    assert!(said("no free volumes left").contains("500 InternalError (no free volumes left)"));
    for secret in [
        "StringToSign AWS4-HMAC-SHA256, Signature=abc",
        "X-Amz-Credential=AKIA/2026",
        "the token abc is bad",
        "secret abc",
    ] {
        assert!(said(secret).contains("answered 500 InternalError;"), "{}", said(secret));
    }
    let long = said(&"a".repeat(10_000));
    assert!(long.len() < 400, "{} bytes", long.len());
    assert!(!said("two\nlines").contains('\n'));
    let odd_code = answer(500, "<script>");
    assert_eq!(of_put(&odd_code), unavailable("https://s3.example:9000 answered 500"));
}

#[test]
fn a_server_with_tls_that_was_asked_without_is_told_as_such() {
    let failure = |message: &str| {
        let message = Some(message.to_owned());
        of_put(&Failure::Answer(Answer { status: 400, message, ..Answer::default() }))
    };
    assert_eq!(
        failure("Client sent an HTTP request to an HTTPS server."),
        refused("https://s3.example:9000 does not speak plain HTTP; use https:// if it has TLS")
    );
    assert_eq!(
        failure("bad request"),
        refused("https://s3.example:9000 answered 400 (bad request)")
    );
}
