//! `file:` URLs: an absolute path, percent-encoded, and the range as fragment.

use std::{
    ffi::OsString,
    ops::Range,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use crate::object_store::range_fragment;

const SCHEME: &str = "file://";

/// The URL of a range of a file.
pub(crate) fn write(path: &Path, range: &Range<u64>) -> String {
    use std::fmt::Write;

    let mut url = SCHEME.to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            write!(url, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
    url + &range_fragment(range)
}

/// The path of a `file:` URL without its fragment, or `None` unless it is absolute and free of `.`,
/// `..` and zero bytes.
pub(crate) fn path(url: &str) -> Option<PathBuf> {
    let mut rest = url.strip_prefix(SCHEME)?.bytes();
    let mut path = Vec::new();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            b'?' | b'#' => return None,
            byte => byte,
        };
        path.push(byte);
    }
    let path = PathBuf::from(OsString::from_vec(path));
    let is_plain = path.is_absolute()
        && !path.as_os_str().as_bytes().contains(&0)
        && path.as_os_str().as_bytes().split(|&byte| byte == b'/').all(|part| part != b".")
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    is_plain.then_some(path)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_of_any_bytes_comes_back() {
        let path_of_bytes = PathBuf::from(OsStr::from_bytes(b"/tmp/a b/\xff%#?/c.pyc"));
        let url = write(&path_of_bytes, &(3..9));
        assert_eq!(url, "file:///tmp/a%20b/%FF%25%23%3F/c.pyc#range=3..9");
        assert_eq!(path(url.split_once('#').unwrap().0), Some(path_of_bytes));
    }

    #[test]
    fn urls_that_lead_elsewhere_have_no_path() {
        for url in [
            "",
            "file:",
            "file://",
            "file://host/a",
            "file:///a/../b",
            "file:///a/%2e%2E/b",
            "file:///a/./b",
            "file:///a%00b",
            "file:///a%2",
            "file:///a%zz",
            "file:///a?b",
            "http:///a",
            "FILE:///a",
        ] {
            assert_eq!(path(url), None, "{url}");
        }
    }
}
