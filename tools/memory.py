#!/usr/bin/env python3
"""Peak memory of each command for dumps of 1, 8, 64 and 300 GiB, as a table.

    cargo build --release && tools/memory.py [--binary FILE] [SIZE_GIB...]

The dumps are sparse: they take some hundred megabytes of disk, but every table
of theirs has its full size.
"""

import argparse
import os
import subprocess
import tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(os.path.dirname(__file__), "../target/release/vmcask"))
    parser.add_argument("sizes", type=int, nargs="*", default=[1, 8, 64, 300])
    args = parser.parse_args()
    binary = os.path.abspath(args.binary)
    table = {}
    with tempfile.TemporaryDirectory(prefix="vmcask-memory-") as folder:
        os.chdir(folder)
        for gib in args.sizes:
            for name, words in commands(gib):
                peak, code = run([binary, "-q", *words])
                table.setdefault(name, []).append(f"{peak / 1024:.0f}" + ("" if code in (0, 3) else f" ({code})"))
            for file in os.listdir("."):
                os.remove(file)
    print("| peak memory in MiB | " + " | ".join(f"{gib} GiB" for gib in args.sizes) + " |")
    print("|---|" + "---|" * len(args.sizes))
    for name, row in table.items():
        print(f"| `{name}` | " + " | ".join(row) + " |")


def commands(gib):
    kernel = ["--kernel", "kernel"]
    yield "gen", ["gen", "dump", "--ram", f"{gib * 2}GiB", "--dump", f"{gib}GiB", "--sparse", *kernel]
    for name in ["info", "verify", "pages", "dmesg"]:
        yield name, [name, "dump"]
    for name in ["triage", "ps"]:
        yield name, [name, "dump", *kernel]
    yield "bt --all", ["bt", "--all", "dump", *kernel]
    yield "read", ["read", "dump", "--pa", "0x100000", "4096"]
    yield "gen --check --sample 10000", ["gen", "--check", "dump", "--sample", "10000"]
    yield "convert to archive", ["convert", "dump", "a.cask"]
    yield "convert to archive --plain", ["convert", "dump", "p.cask", "--plain"]
    yield "convert to elf", ["convert", "dump", "c.elf"]
    yield "convert to kernel-view", ["convert", "dump", "v.elf", "--to", "kernel-view", *kernel]
    yield "convert elf to minidump", ["convert", "c.elf", "m.minidump"]
    for name in ["info", "verify", "dmesg"]:
        yield f"{name} of an archive", [name, "a.cask"]
    yield "bt --all of an archive", ["bt", "--all", "a.cask", *kernel]
    yield "gen --check --sample 10000 of an archive", ["gen", "--check", "a.cask", "--sample", "10000"]
    yield "convert archive to minidump", ["convert", "a.cask", "r.minidump"]
    yield "recover", ["recover", "a.cask", "recovered"]


def run(words):
    """Peak memory in KiB, and the exit code."""
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    return usage.ru_maxrss, os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
