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

# The three lookups beside the reference timings of 2016
bench:
    cargo bench -p vmcask-benches

# Make, archive, check, restore and read a dump
demo:
    cargo run --release -- demo

# Rewrite the golden files in testdata/
golden:
    @echo "no golden files yet"

# Fuzz the parsers
fuzz:
    @echo "no fuzz targets yet"
