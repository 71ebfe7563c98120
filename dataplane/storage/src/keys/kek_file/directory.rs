//! A directory with one file for each key.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use zeroize::Zeroizing;

use super::{Keks, LoadError};
use crate::keys::{KEY_LEN, secret::Secret};

/// Most keys of a directory.
const KEYS_MAX: usize = 1_000;

/// Reads all keys of a directory.
pub(super) fn load(directory: &Path) -> Result<Keks, LoadError> {
    let unreadable = |path: &Path, source| LoadError::Unreadable { path: path.to_owned(), source };
    // All names lead through one link that the kubelet turns: what it led to at the first file
    // counts for all.
    let directory =
        fs::canonicalize(directory.join("..data")).unwrap_or_else(|_| directory.to_owned());
    let entries = fs::read_dir(&directory).map_err(|source| unreadable(&directory, source))?;
    let mut keys: Vec<(u32, Secret)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| unreadable(&directory, source))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        let not_key = |reason| LoadError::NotKey { path: path.clone(), reason };
        let Some(number) = number(&name) else {
            return Err(not_key(
                "the name of a key's file is a whole number from 1, without leading zeros",
            ));
        };
        if keys.len() == KEYS_MAX {
            return Err(not_key("a directory holds at most 1000 keys"));
        }
        let key = read_key(&path).map_err(|source| unreadable(&path, source))?;
        let key = key.ok_or_else(|| not_key("a key's file has exactly 32 bytes"))?;
        keys.push((number, key));
    }
    keys.sort_unstable_by_key(|(number, _)| *number);
    if keys.is_empty() {
        return Err(LoadError::Empty);
    }
    Ok(Keks { keys: keys.into_iter().map(|(number, key)| (number.to_string(), key)).collect() })
}

/// The number that a name is, in its one form.
fn number(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok()?;
    (number > 0 && number.to_string() == name).then_some(number)
}

fn read_key(path: &Path) -> io::Result<Option<Secret>> {
    // One more byte than a key shows that there are too many.
    let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
    let mut file = File::open(path)?;
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            read => len += read,
        }
    }
    Ok(bytes.get(..len).and_then(Secret::from_slice))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }

    fn ids(directory: &Path) -> Result<Vec<String>, String> {
        let keks = Keks::load(directory).map_err(|error| error.to_string())?;
        Ok(keks.ids().map(str::to_owned).collect())
    }

    #[test]
    fn keys_are_ordered_as_numbers_and_the_highest_wraps() {
        let files: [(&str, &[u8]); 3] = [("10", &[10; 32]), ("9", &[9; 32]), ("1", &[1; 32])];
        let directory = directory(&files);
        assert_eq!(ids(directory.path()), Ok(["1", "9", "10"].map(str::to_owned).to_vec()));
        let keks = Keks::load(directory.path()).unwrap();
        let (id, key) = keks.newest();
        assert_eq!((id, key.as_bytes()), ("10", &[10; 32]));
        assert_eq!(keks.by_id("9").unwrap().as_bytes(), &[9; 32]);
    }

    /// As the kubelet mounts a Secret: links to a hidden directory, which it exchanges.
    #[test]
    fn a_mounted_secret_is_read_through_its_links() {
        let directory = directory(&[]);
        let path = directory.path();
        fs::create_dir(path.join("..v1")).unwrap();
        fs::write(path.join("..v1/1"), [7; 32]).unwrap();
        symlink("..v1", path.join("..data")).unwrap();
        symlink("..data/1", path.join("1")).unwrap();
        let keks = Keks::load(path).unwrap();
        assert_eq!(keks.ids().collect::<Vec<_>>(), ["1"]);
        assert_eq!(keks.newest().1.as_bytes(), &[7; 32]);
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_file() {
        assert_eq!(ids(directory(&[("1", &[1; 32])]).path()), Ok(vec!["1".into()]));
        for len in [0, 31, 33, 64] {
            let directory = directory(&[("1", &vec![1; len])]);
            let refused = ids(directory.path()).unwrap_err();
            assert!(refused.ends_with("/1: a key's file has exactly 32 bytes"), "{len}: {refused}");
        }
        for name in ["0", "01", "+1", "a", "1.key", "-1", "4294967296"] {
            let directory = directory(&[(name, &[1; 32]), ("2", &[1; 32])]);
            let refused = ids(directory.path()).unwrap_err();
            assert!(refused.contains(&format!("/{name}: the name")), "{name}: {refused}");
        }
        let empty = directory(&[(".hidden", &[1; 32])]);
        assert!(matches!(Keks::load(empty.path()), Err(LoadError::Empty)));
    }

    #[test]
    fn a_directory_holds_at_most_1000_keys() {
        let many = directory(&[]);
        for number in 1..=KEYS_MAX {
            fs::write(many.path().join(number.to_string()), [1; 32]).unwrap();
        }
        assert_eq!(ids(many.path()).unwrap().len(), KEYS_MAX);
        fs::write(many.path().join("1001"), [1; 32]).unwrap();
        assert!(ids(many.path()).unwrap_err().contains("at most 1000 keys"));
    }
}
