# The operator on nothing: one static binary. `cargo xtask image` makes the same without a Docker engine.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag drop .

FROM rust:1.95-alpine AS build
# Platforms that are built at once have no cache in common: each waits for none, and takes no object of another.
ARG TARGETPLATFORM
RUN apk add --no-cache musl-dev
WORKDIR /drop
COPY . .
RUN --mount=type=cache,id=drop-registry-$TARGETPLATFORM,target=/usr/local/cargo/registry \
    --mount=type=cache,id=drop-target-$TARGETPLATFORM,target=/drop/target \
    cargo build --release --locked --package drop --no-default-features \
    && cp target/release/drop /drop-binary

FROM scratch
COPY --from=build --chmod=755 /drop-binary /drop
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/drop"]
CMD ["operator"]
