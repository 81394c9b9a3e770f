# The image for those who have docker; `make image` makes the same without.
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends git make ca-certificates python3
COPY . /source
WORKDIR /source
ENV CARGO_HOME=/usr/local/cargo PATH=$PATH:/usr/local/cargo/bin
RUN scripts/setup.sh build
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
    && env "CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_RUSTFLAGS=-C target-feature=+crt-static" \
    cargo build --release --target "$target" --package oxilium --package oxilium-cni --bins \
    && mkdir -p /image/usr/bin /image/tmp \
    && cp "target/$target/release/oxilium" "target/$target/release/oxilium-cni" /image/usr/bin/ \
    && ln -s oxilium /image/usr/bin/cilium \
    && ln -s oxilium /image/usr/bin/cilium-dbg

FROM scratch
COPY --from=build /image/ /
ENV PATH=/usr/bin
CMD ["oxilium"]
