//! Compiles the `.proto` files without protoc.
//!
//! Each field whose type is `RecordBatch` or `Records` becomes `bytes`: both have the same form on
//! the wire, so record bytes pass through our programs without being decoded and encoded again.
//! Everybody else compiles the same files as they are; a test decodes our answers so.

use std::error::Error;

use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 8] = [
    "pyramid/v1/types.proto",
    "pyramid/v1/writer.proto",
    "pyramid/v1/push.proto",
    "pyramid/v1/local.proto",
    "pyramid/v1/admin.proto",
    "pyramid/v1/raft.proto",
    "pyramid/v1/issuer.proto",
    "pyramid/stored/v1/stored.proto",
];

/// Messages that travel as the bytes of their encoded form.
const OPAQUE: [&str; 2] = [".pyramid.v1.RecordBatch", ".pyramid.v1.Records"];

/// Messages that hold keys in clear: `src/secret.rs` prints them without.
const SECRET: [&str; 2] = ["pyramid.v1.ChunkLocation", "pyramid.stored.v1.StreamKey"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let untouched = protox::compile(FILES, ["proto"])?;

    let mut opaque = untouched.clone();
    make_opaque(&mut opaque);
    tonic_prost_build::configure().bytes(".").skip_debug(SECRET).compile_fds(opaque)?;

    // The view of everybody else, for the test that compares both.
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?)
        .join("untouched");
    std::fs::create_dir_all(&out)?;
    tonic_prost_build::configure().out_dir(out).compile_fds(untouched)?;
    Ok(())
}

fn make_opaque(files: &mut FileDescriptorSet) {
    for file in &mut files.file {
        for message in &mut file.message_type {
            make_fields_opaque(message);
        }
    }
}

fn make_fields_opaque(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if OPAQUE.contains(&field.type_name()) {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
    for nested in &mut message.nested_type {
        make_fields_opaque(nested);
    }
}
