//! TLS directories for the real program and for its clients.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use pyramid_protocol::{SpiffeId, SystemClock};
use pyramid_tls::authority::{Request, Usage};
use pyramid_tls::{Authority, write_directory};

use crate::writer::Folder;

/// TLS directories of a Writer and of a user.
pub(crate) fn certificates(folder: &Folder) -> [PathBuf; 2] {
    let life = Duration::from_secs(3600);
    let authority = Authority::generate("td", 2 * life, &SystemClock).unwrap();
    let issue = |name: &str, identity, usage| {
        let ip_addresses = vec![Ipv4Addr::LOCALHOST.into()];
        let request = Request { identity, usage, dns_names: vec![], ip_addresses, life };
        let issued = authority.issue(&request, &SystemClock).unwrap();
        let path = folder.path().join(name);
        write_directory(&path, &issued, authority.bundle_pem()).unwrap();
        path
    };
    let writer = SpiffeId::writer("td", "a", "main").unwrap();
    let user = SpiffeId::service_account("td", "a", "user").unwrap();
    [issue("tls-writer", writer, Usage::ServerAndClient), issue("tls-user", user, Usage::Client)]
}
