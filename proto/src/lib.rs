//! The wire contracts of axwatch: messages, clients and servers, as generated code.
//!
//! The `.proto` files of this folder are the source; `tests/contract.rs` holds them to the numbers
//! that other people's programs already speak. Fields from 100 up are ours.
//!
//! [`bounded`] refuses messages that would take too much memory, before they are built. [`structs`] turns `google.protobuf.Struct` into JSON text and back.
//!
//! Not here: what the messages mean to the engine (`axwatch_engine::plugin`), which is the only one
//! that speaks them.

pub mod bounded;
pub mod structs;

/// The protocol that plugins share with other hosts: what they serve, and what they are served.
pub mod protocol {
    tonic::include_proto!("protocol");
}

/// What axwatch adds as services of its own.
pub mod axwatch {
    /// The first version.
    pub mod v1 {
        tonic::include_proto!("axwatch.v1");
    }
}

/// The `FileDescriptorSet` of every contract and of what they import, encoded: for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
