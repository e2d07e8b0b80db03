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

# Everything that is measured beside its peers, in some 14 minutes on 2 cores once built: target/bench/report.html
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

# Fuzz one of the parsers (no name: lists them); needs cargo-fuzz
fuzz target="" seconds="600":
    #!/usr/bin/env bash
    set -euo pipefail
    if [[ -z "{{target}}" ]]; then exec cargo run -q -p vmcask-fuzz-targets; fi
    cargo run -q -p vmcask-fuzz-targets -- {{target}} tools/fuzz/corpus/{{target}}
    # cargo-fuzz wants a nightly compiler's flags; a stable one takes them too.
    # Leaks aren't looked for: a scope ends before its threads have freed what
    # glibc notes of their destructors, and that would be called one.
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tools/fuzz {{target}} -- \
        -max_total_time={{seconds}} -rss_limit_mb=2048 -max_len=4200 -detect_leaks=0

# Licences, duplicates, sources and use of dependencies; needs cargo-deny and
# cargo-machete. Advisories too, where their database can be reached.
deps:
    cargo deny check licenses bans sources
    cargo machete --skip-target-dir
