# `just` lists the recipes. Nothing here is needed to build or test: README
# names the cargo commands.

_default:
    @just --list

# Build the release binary
build:
    cargo build --release

# Run all tests
test:
    cargo test --workspace

# What CI checks besides the tests
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Everything that is measured beside its peers, in 15 minutes on 2 cores: target/bench/report.html
bench:
    cargo bench -p vmcask-benches --features peers --bench targets --bench baselines --bench scaling --bench workloads --bench convert --bench archive
    cargo run --release -p vmcask-report

# The lookups and what crash tools ask, smaller: under 2 minutes once built
bench-quick:
    cargo bench -p vmcask-benches --features peers --bench targets --bench baselines --bench scaling --bench workloads -- quick
    cargo run --release -p vmcask-report

# One bench with criterion's statistics: `just criterion lookup`, `just criterion inspect`
criterion name:
    cargo bench -p vmcask-benches --features peers --bench {{name}}

# Keep what was measured: the report's tables as CSV
bench-keep:
    cargo run --release -p vmcask-report -- --quiet --keep benches/record/$(date -u +%Y-%m-%d)

# Make, archive, check, restore and read a dump
demo:
    cargo run --release -- demo

# Rewrite the golden digests of what `gen` writes (golden archives stay)
golden:
    VMCASK_WRITE_GOLDEN=1 cargo test -p vmcask --test synth golden

# Fuzz the parsers
fuzz:
    @echo "no fuzz targets yet"
