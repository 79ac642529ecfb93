//! Compiles the protos without protoc and writes the descriptor set beside the generated code.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

const PROTO_DIR: &str = "proto";

/// Messages and oneofs that hold a person's words or address: `src/pb.rs` gives them a `Debug` that tells
/// nothing, so that the lazy `{:?}` in a log line is also the safe one.
const PERSONAL: &[&str] = &[
    ".optgate.v1.Recipient",
    ".optgate.v1.Recipient.address",
    ".optgate.v1.Actor",
    ".optgate.v1.Evidence",
    ".optgate.v1.OptOut",
    ".optgate.v1.ImportRow",
    ".optgate.v1.ButtonReply",
    ".optgate.v1.HandleInboundMessageRequest",
    ".optgate.v1.HandleInboundMessageRequest.content",
    ".optgate.ledger.v1.Personal",
    ".optgate.ledger.v1.Evidence",
    ".optgate.replication.v1.Record",
    ".optgate.replication.v1.Record.blob",
    ".optgate.replication.v1.PresentBlob",
    ".optgate.replication.v1.SubmitRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={PROTO_DIR}");
    allow_sabotage()?;

    let mut files = Vec::new();
    collect_protos(Path::new(PROTO_DIR), &mut files)?;
    files.sort();

    let mut descriptors = protox::compile(&files, [PROTO_DIR])?;
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .skip_debug(PERSONAL)
        .compile_fds(descriptors.clone())?;

    // Comments became rustdoc above; reflection has no use for them and the binary would carry them.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    // What peers say to each other is not served where callers ask, so their reflection does not list it.
    let mut peers = descriptors.clone();
    peers.file.retain(|file| is_for_peers(file.package()));
    descriptors.file.retain(|file| !is_for_peers(file.package()));
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(out_dir.join("peer_descriptors.bin"), peers.encode_to_vec())?;
    Ok(())
}

/// Sets `cfg(sabotage)` where `OPTGATE_SABOTAGE_BUILD=1` asks for it: as a cfg of this package alone, so that no
/// dependency is compiled again.
fn allow_sabotage() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(sabotage)");
    println!("cargo::rerun-if-env-changed=OPTGATE_SABOTAGE_BUILD");
    if env::var("OPTGATE_SABOTAGE_BUILD").is_ok_and(|wanted| wanted == "1") {
        if env::var("PROFILE")? == "release" {
            return Err(
                "OPTGATE_SABOTAGE_BUILD is for tests; a release must not be able to break its promises"
                    .into(),
            );
        }
        println!("cargo::rustc-cfg=sabotage");
    }
    Ok(())
}

fn is_for_peers(package: &str) -> bool {
    package.starts_with("optgate.replication.")
}

fn collect_protos(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_protos(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
