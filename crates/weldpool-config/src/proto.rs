//! The configuration as plain structures, generated from `proto/model_config.proto`, and its
//! descriptors.
#![allow(
    missing_docs,
    reason = "generated from the schema, whose fields' names say it"
)]

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

include!(concat!(env!("OUT_DIR"), "/inference.rs"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
        .expect("the build script wrote these descriptors")
});

/// The descriptor of [`ModelConfig`].
pub(super) fn model_config_descriptor() -> MessageDescriptor {
    POOL.get_message_by_name("inference.ModelConfig")
        .expect("the schema declares ModelConfig")
}

/// The configuration in the form whose fields can be walked.
pub(super) fn to_dynamic(config: &ModelConfig) -> DynamicMessage {
    let mut message = DynamicMessage::new(model_config_descriptor());
    message
        .transcode_from(config)
        .expect("the structure was generated from this descriptor");
    message
}
