# optgate alone in an empty image: one static binary that runs as user 65532 and needs nothing but a folder to write to.
#
#     docker build -t optgate:0.1.0 .
#
# Builds for the machine it runs on, x86-64 or arm64. No version of this file was built yet where it was written, since
# there was no Docker daemon; k8s/test/run reads it and no more.

FROM rust:1.90-bookworm AS build

# mimalloc is written in C, and so is what starts a static program.
RUN apt-get update \
    && apt-get install -y --no-install-recommends musl-tools \
    && rm -rf /var/lib/apt/lists/*
RUN rustup target add "$(uname -m)-unknown-linux-musl"

WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY data/keywords data/keywords
# Named in Cargo.toml, so cargo wants it to be there.
COPY benches benches
COPY src src

# Fails if anything would have to be loaded at run time: an empty image has no loader.
RUN target="$(uname -m)-unknown-linux-musl" \
    && CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo build --release --locked --bin optgate --target "$target" \
    && cp "target/$target/release/optgate" /optgate \
    && ! readelf --program-headers /optgate | grep INTERP

FROM scratch
COPY --from=build /optgate /optgate
USER 65532:65532
ENTRYPOINT ["/optgate"]
