//! Reflection, in the version that tools use now and in the one that older tools use, so that `grpcurl` needs no files.

use tonic_reflection::server::{Builder, Error, v1, v1alpha};

use crate::pb;

fn descriptors() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// grpc.reflection.v1.
///
/// # Errors
/// When the descriptors that the build wrote cannot be read, which a test rules out.
pub fn current() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, Error> {
    descriptors().build_v1()
}

/// grpc.reflection.v1alpha.
///
/// # Errors
/// As [`current`].
pub fn alpha() -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Error> {
    descriptors().build_v1alpha()
}
