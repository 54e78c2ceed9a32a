//! Turns the `.proto` files into Rust without protoc, and keeps their descriptors for reflection.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost::Message as _;

/// Every file, relative to this folder, as `import` names them.
const FILES: [&str; 5] = [
    "protocol/plugin.proto",
    "protocol/attestation.proto",
    "protocol/queue.proto",
    "protocol/schedule.proto",
    "axwatch/v1/host.proto",
];

/// Fields that may be large and are passed on as they are: cut from the received frame, not copied.
/// Small ones are copied, so that they do not keep a whole frame alive.
const SHARED_BYTES: [&str; 8] = [
    ".protocol.ExecuteJobRequest.payload",
    ".protocol.ExecuteJobResponse.result",
    ".protocol.HTTPRequest.body",
    ".protocol.HTTPResponse.body",
    ".protocol.WebSocketMessage.data",
    ".protocol.Job.payload",
    ".protocol.CreateScheduleRequest.payload",
    ".protocol.ScheduledJob.payload",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut code = tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .codec_path("crate::bounded::BoundedCodec");
    for field in SHARED_BYTES {
        code = code.bytes(field);
    }
    // The codec finds the weights of a message by its name.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    code.compile_fds_with_config(descriptors, config)?;
    Ok(())
}
