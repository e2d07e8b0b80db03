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

# Lookups beside the reference timings of 2016; archives, conversions and inspection beside their peers
bench:
    cargo bench -p vmcask-benches
    cargo run --release -p vmcask-report

# Make, archive, check, restore and read a dump
demo:
    cargo run --release -- demo

# Rewrite the golden digests of what `gen` writes (golden archives stay)
golden:
    VMCASK_WRITE_GOLDEN=1 cargo test -p vmcask --test synth golden

# Fuzz the parsers
fuzz:
    @echo "no fuzz targets yet"
