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

# Make, archive, check, restore and read a dump
demo:
    cargo run --release -- demo

# Rewrite the golden digests of what `gen` writes (golden archives stay)
golden:
    VMCASK_WRITE_GOLDEN=1 cargo test -p vmcask --test synth golden

# Fuzz one of the parsers (no name: lists them); needs cargo-fuzz
fuzz target="" seconds="600":
    #!/usr/bin/env bash
    set -euo pipefail
    if [[ -z "{{target}}" ]]; then exec cargo run -q -p vmcask-fuzz-targets; fi
    cargo run -q -p vmcask-fuzz-targets -- {{target}} tools/fuzz/corpus/{{target}}
    # cargo-fuzz wants a nightly compiler's flags; a stable one takes them too.
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tools/fuzz {{target}} -- \
        -max_total_time={{seconds}} -rss_limit_mb=2048 -max_len=4200

# Licences, duplicates, sources and use of dependencies; needs cargo-deny and
# cargo-machete. Advisories too, where their database can be reached.
deps:
    cargo deny check licenses bans sources
    cargo machete --skip-target-dir
