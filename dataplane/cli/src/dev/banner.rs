//! What a started `pyramid dev` says to people.

use std::fmt::Write;
use std::path::Path;

use super::Subscribed;
use super::declare::Declared;
use super::folder::Folder;
use super::running::Running;
use crate::connection::DATA_DIR;

/// Where everything is, and what to type next.
pub(super) fn text(
    running: &Running,
    folder: &Folder,
    subscribe: &[Subscribed],
    declared: &Declared,
) -> String {
    let mut text = String::from("Pyramid is ready.\n\n");
    let mut row = |name: &str, value: &str| {
        writeln!(text, "  {name:<8}{value}").expect("a String takes all that is written");
    };
    row("Writer", &running.writer.to_string());
    row("Admin", &running.admin.to_string());
    row("Local", &format!("{}  for applications, through the pusher", running.local));
    for (of, address) in [("Writer", running.ops), ("pusher", running.pusher_ops)] {
        if let Some(address) = address {
            row("Metrics", &format!("http://{address}/metrics  of the {of}"));
        }
    }
    let data = folder.path.display();
    row("Data", &format!("{data}  (the log, the key of chunks in kek, certificates in tls/)"));
    row("Chunks", &running.object_store);
    for subscribed in subscribe {
        let created = if declared.created.contains(&subscribed.stream) { ", created" } else { "" };
        let value = format!("stream {}{created} → {}", subscribed.stream, subscribed.application());
        row("Push", &value);
    }
    let stream = subscribe.first().map_or("orders", |subscribed| subscribed.stream.as_str());
    text.push_str("\nIn another terminal:\n\n");
    // Commands look into the same directory that this one takes if none is given.
    if Path::new(DATA_DIR).canonicalize().ok().as_ref() != Some(&folder.path) {
        text.push_str(&format!("  export PYRAMID_DATA_DIR={}\n", folder.path.display()));
    }
    if subscribe.is_empty() {
        text.push_str(&format!("  pyramid stream create {stream}\n"));
    }
    text.push_str(&format!(
        "  echo '{{\"item\":\"tea\"}}' | pyramid stream append {stream}\n  pyramid stream read {stream}\n\nCtrl-C stops it."
    ));
    text
}
