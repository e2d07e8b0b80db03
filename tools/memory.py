#!/usr/bin/env python3
"""Peak memory of each command for dumps of 1, 8, 64 and 300 GiB, as a table.

    cargo build --release && tools/memory.py [--binary FILE] [--dense] [SIZE_GIB...]

Needs GNU time. The dumps are sparse: they take some hundred megabytes of disk, but every table
of theirs has its full size. Those of `--dense` hold as much as real ones; each
needs twice its size of disk, in $TMPDIR.
"""

import argparse
import os
import subprocess
import tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(os.path.dirname(__file__), "../target/release/vmcask"))
    parser.add_argument("--dense", action="store_true", help="dumps that hold as much as real ones")
    parser.add_argument("sizes", type=int, nargs="*", default=[1, 8, 64, 300])
    args = parser.parse_args()
    binary = os.path.abspath(args.binary)
    table = {}
    with tempfile.TemporaryDirectory(prefix="vmcask-memory-") as folder:
        # Beside what is measured: the folder is emptied now and then.
        os.mkdir(os.path.join(folder, "dumps"))
        os.chdir(os.path.join(folder, "dumps"))
        for gib in args.sizes:
            for name, words, *done_with in commands(gib, args.dense):
                peak, code = run([binary, "-q", *words])
                table.setdefault(name, []).append(f"{peak / 1024:.0f}" + ("" if code in (0, 3) else f" ({code})"))
                print(f"{gib:>4} GiB  {peak / 1024:>6.0f} MiB  {name}", flush=True)
                for file in done_with:
                    if os.path.exists(file):
                        os.remove(file)
            for file in os.listdir("."):
                os.remove(file)
    print("| peak memory in MiB | " + " | ".join(f"{gib} GiB" for gib in args.sizes) + " |")
    print("|---|" + "---|" * len(args.sizes))
    for name, row in table.items():
        print(f"| `{name}` | " + " | ".join(row) + " |")


def commands(gib, dense):
    """What is run: its name, its arguments, and the files that nothing needs any more."""
    kernel = ["--kernel", "kernel"]
    sparse = [] if dense else ["--sparse"]
    yield "gen", ["gen", "dump", "--ram", f"{gib * 2}GiB", "--dump", f"{gib}GiB", *sparse, *kernel]
    yield from questions("", "dump", kernel)
    yield "convert to archive", ["convert", "dump", "a.cask"]
    yield "convert to archive --plain", ["convert", "dump", "p.cask", "--plain"], "p.cask"
    yield "convert to kernel-view", ["convert", "dump", "v.elf", "--to", "kernel-view", *kernel], "v.elf"
    yield "convert to elf", ["convert", "dump", "c.elf"], "dump"
    yield from questions(" of a core", "c.elf", kernel)
    yield "convert elf to minidump", ["convert", "c.elf", "m.minidump"], "m.minidump"
    yield "convert elf to archive", ["convert", "c.elf", "e.cask"], "c.elf", "e.cask"
    yield from questions(" of an archive", "a.cask", kernel)
    yield "convert archive to minidump", ["convert", "a.cask", "r.minidump"], "r.minidump"
    yield "convert archive to a pipe", ["convert", "a.cask", "-", "--to", "elf"]
    yield "recover", ["recover", "a.cask", "recovered"], "recovered"


def questions(of, file, kernel):
    for name in ["info", "verify", "pages", "dmesg"]:
        yield name + of, [name, file]
    for name in ["triage", "ps"]:
        yield name + of, [name, file, *kernel]
    yield "bt --all" + of, ["bt", "--all", file, *kernel]
    yield "read" + of, ["read", file, "--pa", "0x100000", "4096"]
    yield "gen --check --sample 10000" + of, ["gen", "--check", file, "--sample", "10000"]


def run(words):
    """Peak memory in KiB, and the exit code.

    By GNU time: a child of this program would begin with this program's own.
    """
    done = subprocess.run(
        ["time", "-q", "-f", "%M", "-o", "../peak", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with open("../peak") as f:
        return int(f.read()), done.returncode


if __name__ == "__main__":
    main()
