//! The client against a fake Writer over loopback sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod age;
mod append;
mod connection;
mod fake_writer;
mod producer;
mod read;

use pyramid_client::{Client, connection as client_connection};
use pyramid_protocol::StreamName;

use crate::fake_writer::FakeWriter;

fn client(writer: &FakeWriter) -> Client {
    Client::new(client_connection::Options::tcp(writer.addresses())).unwrap()
}

fn stream(name: &str) -> StreamName {
    name.parse().unwrap()
}
