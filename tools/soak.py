#!/usr/bin/env python3
"""Makes random dumps, converts them in random chains, archives, damages and
recovers them, kills some of it half-way, and compares with the truth.

    cargo build --release && tools/soak.py [--minutes 60] [--seed N] [--binary FILE]

Each round has a number of its own that follows from the seed and is printed
where something differs: `--seed N --round R` does that round again. Exit code 1
if anything differed.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ARCHES = ["amd64", "arm64", "arm64-16k", "riscv", "i386", "arm", "powerpc64", "powerpc64le"]
NEWEST = {"amd64": 3, "arm64": 3, "arm64-16k": 3}
IMAGES = {"amd64", "arm64", "arm64-16k", "riscv", "i386"}
DEFECTS = [
    "trailing", "bad-magic", "bad-version", "huge-sizes", "bitmap-spare-bits",
    "dump-avail-unsorted", "dump-avail-overlap", "dump-avail-open", "dump-avail-width", "bad-pte",
    "missing-pt-page",
]
# Dumps with these are refused.
BROKEN = {
    "bad-magic", "bad-version", "huge-sizes", "dump-avail-unsorted", "dump-avail-overlap",
    "dump-avail-open",
}
MIB = 1 << 20


class Differs(Exception):
    pass


class Soak:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.counts = collections.Counter()
        self.dice = random.Random()

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *words, ok=(0,)):
        """Runs vmcask; dies only by the exit codes it documents."""
        words = [self.binary, "-q", *map(str, words)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=3600)
        self.counts["commands"] += 1
        if done.returncode not in ok or b"panicked" in done.stderr:
            raise Differs(f"{' '.join(words)}: {done.returncode}: {done.stderr[-500:].decode()}")
        return done

    def killed(self, *words):
        """Starts vmcask and kills it at some moment: no half output."""
        words = [self.binary, "-q", *map(str, words)]
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(self.dice.random() * 0.3)
        child.send_signal(self.dice.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
        child.wait()
        self.counts["kills"] += 1

    def same(self, a, b, skip=()):
        """Two files hold the same bytes, but in the ranges of `skip`, where `b` has zeros."""
        with open(a, "rb") as a_file, open(b, "rb") as b_file:
            at = 0
            for start, end in [*skip, (None, None)]:
                while start is None or at < start:
                    n = 16 * MIB if start is None else min(16 * MIB, start - at)
                    left, right = a_file.read(n), b_file.read(n)
                    if left != right:
                        raise Differs(f"{a} and {b} differ between {at:#x} and {at + n:#x}")
                    self.counts["bytes compared"] += len(left)
                    at += len(left)
                    if not left:
                        break
                if start is not None:
                    a_file.seek(end)
                    lost = b_file.read(end - start)
                    if lost.count(0) != len(lost):
                        raise Differs(f"{b}: bytes of the lost range {start:#x} to {end:#x}")
                    at = end

    def check(self, file, whole):
        """Every page of a dump is what it was made of."""
        done = self.run("gen", "--check", file, ok=(0,) if whole else (0, 3))
        self.counts["dumps checked page by page"] += 1
        return done

    def round(self, number):
        dice = self.dice = random.Random(number)
        shutil.rmtree(self.folder)
        os.mkdir(self.folder)
        arch = dice.choice(ARCHES)
        newest = NEWEST.get(arch, 2)
        version = 3 if arch == "arm64-16k" else dice.randint(1, newest)
        form = dice.choice(["minidump", "minidump", "elf", "device", "archive"])
        ram = dice.choice([32, 64, 256, 1000]) * MIB
        dump = min(ram, dice.choice([4, 8, 20, 40]) * MIB)
        words = [
            "--arch", arch, "--format", form, "--ram", ram, "--dump", dump,
            "--seed", dice.getrandbits(40), "--run-pages", dice.choice([1, 3, 64, 1000]),
            "--profile", dice.choice(["real", "zeros", "random", "text"]),
            "--procs", dice.choice([0, 1, 8, 40]),
        ]
        if form != "elf":
            words += ["--version", version]
        if arch == "i386" and dice.random() < 0.5:
            words.append("--pae")
        if form == "device":
            words += ["--header-version", dice.randint(1, 4)]
        defect, cut = None, False
        if form == "minidump" and dice.random() < 0.4:
            cut = dice.random() < 0.4
            defect = f"truncate={dice.randint(30, 99)}" if cut else dice.choice(DEFECTS)
            words += ["--defect", defect]
        made, kernel = self.path("made"), None
        if arch in IMAGES:
            kernel = self.path("kernel")
            words += ["--kernel", kernel]
        self.what = " ".join(map(str, words))
        # Not every defect is of every version.
        if self.run("gen", made, *words, ok=(0, 1)).returncode == 1:
            self.counts["dumps that can't be made"] += 1
            return
        self.counts[f"dumps of {arch}"] += 1
        self.counts[f"dumps as {form}"] += 1
        if defect:
            self.counts["dumps with " + defect.split("=")[0]] += 1
        if defect in BROKEN:
            for command in [["info"], ["pages"], ["verify"], ["convert", "--to", "elf"]]:
                out = [self.path("out")] if command[0] == "convert" else []
                self.run(*command, made, *out, ok=(1,))
            self.counts["broken dumps refused"] += 1
            return
        self.questions(made, kernel)
        # Cut within bitmap or page tables, before the first page.
        if cut and b"before its first page" in self.run("info", made, ok=(0, 1, 3)).stderr:
            for command in ["pages", "verify", "gen --check"]:
                self.run(*command.split(), made, ok=(1,))
            self.counts["dumps without a page refused"] += 1
            return
        # The text that says what was made is in the kernel's first page.
        if cut and b"cut off before its kernel" in self.run("gen", "--check", made, ok=(0, 1, 3)).stderr:
            self.counts["dumps cut before their kernel"] += 1
            return
        self.chain(made, form, cut, defect)

    def questions(self, file, kernel):
        image = ["--kernel", kernel] if kernel else []
        for command in [["info", "--json"], ["pages", "--json"], ["dmesg"], ["triage", *image]]:
            self.run(*command, file, ok=(0, 1, 3))
        if kernel:
            self.run("bt", "--all", file, *image, ok=(0, 1, 3))
            self.run("ps", "--json", file, *image, ok=(0, 1, 3))

    def chain(self, made, form, cut, defect):
        """Conversions of conversions; each of them still has all pages."""
        dice = self.dice
        whole = not cut
        self.check(made, whole)
        now, first_minidump = made, made if form == "minidump" else None
        for step in range(dice.randint(1, 5)):
            to = dice.choice(["archive", "archive", "plain", "elf", "kernel-view", "minidump", "zst"])
            out = self.path(f"{step}-{to}")
            if to == "zst":
                # Only streams become of it, but an archive of that is exact.
                packed = self.path(f"{step}.zst-stream")
                self.run("convert", "--to", "minidump" if form != "elf" else "elf", now, now + ".same",
                         ok=(0, 1, 3))
                if not os.path.exists(now + ".same"):
                    continue
                subprocess.run(["zstd", "-q", "-1", now + ".same", "-o", packed], check=True)
                self.run("convert", "--to", "archive", packed, out)
                self.run("convert", "--to", "minidump" if form != "elf" else "elf", out, out + ".back",
                         ok=(0, 3))
                self.same(now + ".same", out + ".back")
                self.cut_stream(now + ".same", "elf" if form == "elf" else "minidump")
            else:
                args = ["convert", "--to", "archive" if to == "plain" else to]
                args += ["--plain"] if to == "plain" else []
                args += ["--threads", dice.randint(1, 4)]
                if dice.random() < 0.2:
                    self.killed(*args, now, out)
                    if os.path.exists(out):
                        self.check(out, whole)
                        os.remove(out)
                done = self.run(*args, now, out, ok=(0, 1, 3))
                if done.returncode == 1:
                    # Some can't be: arm's kernel map, pages out of step, no page tables.
                    self.counts["conversions refused"] += 1
                    if os.path.exists(out):
                        raise Differs(f"{out} is there after a failure")
                    continue
                if done.returncode == 3 and whole and defect is None and to not in ("minidump", "kernel-view"):
                    raise Differs(f"{' '.join(map(str, args))}: incomplete: {done.stderr.decode()}")
            if any(name.endswith(".vmcask-tmp") for name in os.listdir(self.folder)):
                raise Differs("a temporary file was left")
            self.counts["conversions"] += 1
            self.check(out, whole)
            if to in ("archive", "plain"):
                self.run("verify", out)
                self.damage(out)
            now = out
        if first_minidump and whole:
            back = self.path("back")
            done = self.run("convert", "--to", "minidump", now, back, ok=(0, 3))
            if done.returncode == 0:
                self.same(first_minidump, back)
                self.counts["minidumps back to the byte"] += 1

    def cut_stream(self, whole, to):
        """A compressed dump that ends too early: its beginning, and it is told."""
        dice = self.dice
        small = os.path.getsize(whole) < 16 * MIB
        program = dice.choice(["gzip", "zstd", "bzip2"] if small else ["gzip", "zstd"])
        packed, out, archive, back = map(self.path, ["cut-stream", "cut", "cut-archive", "cut-back"])
        data = subprocess.run([program, "-1", "-c", whole], check=True, stdout=subprocess.PIPE).stdout
        data = data[:dice.randrange(20, len(data))]
        with open(packed, "wb") as f:
            f.write(data)
        done = self.run("convert", "--force", "--to", to, packed, out, ok=(1, 3))
        if done.returncode == 1:
            if b"ends too early" not in done.stderr:
                raise Differs(f"{packed}: {done.stderr.decode()}")
            self.counts["compressed dumps cut in their headers"] += 1
            return
        if b"end too early" not in done.stderr:
            raise Differs(f"{packed}: {done.stderr.decode()}")
        size = os.path.getsize(out)
        with open(whole, "rb") as a, open(out, "rb") as b:
            while block := b.read(MIB):
                if a.read(len(block)) != block:
                    raise Differs(f"{out} isn't the beginning of {whole}")
        self.counts["bytes compared"] += size
        self.run("convert", "--force", "--to", "archive", packed, archive, ok=(3,))
        self.run("verify", archive)
        # The beginning of a dump may have too little of it to be read on.
        self.run("recover", "--force", archive, back)
        self.same(out, back)
        self.counts[f"compressed dumps cut ({program})"] += 1

    def damage(self, archive):
        """Bytes changed, parts cut out, the end cut off: what is recovered is right."""
        dice = self.dice
        whole, bad, back = self.path("whole"), self.path("bad"), self.path("recovered")
        self.run("recover", archive, whole)
        for _ in range(2):
            with open(archive, "rb") as f:
                data = bytearray(f.read())
            how = dice.choice(["flip", "cut", "zero", "remove", "splice"])
            at = dice.randrange(len(data))
            n = dice.choice([1, 100, 5000, len(data) // 3])
            if how == "flip":
                for _ in range(dice.randint(1, 8)):
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            elif how == "cut":
                del data[at:]
            elif how == "zero":
                data[at:at + n] = bytes(len(data[at:at + n]))
            elif how == "remove":
                del data[at:at + n]
            else:
                data[at:at] = dice.randbytes(min(n, MIB))
            with open(bad, "wb") as f:
                f.write(data)
            found = self.run("verify", bad, ok=(0, 1)).returncode
            done = self.run("recover", "--json", "--force", bad, back, ok=(0, 1, 3))
            self.counts[f"archives damaged ({how})"] += 1
            if done.returncode == 1:
                self.counts["archives with nothing to recover"] += 1
            else:
                lost = [(r["offset"], r["offset"] + r["bytes"]) for r in json.loads(done.stdout)["lost"]]
                # Of an archive that is cut, the length may not be known.
                size = os.path.getsize(back)
                if size < os.path.getsize(whole):
                    os.truncate(whole, size)
                    self.same(whole, back, lost)
                    self.run("recover", "--force", archive, whole)
                else:
                    self.same(whole, back, lost)
                self.counts["archives recovered"] += 1
                self.counts["bytes lost and named"] += sum(end - start for start, end in lost)
            if found == 0 and done.returncode != 0:
                raise Differs("verify finds no damage, recover does")
        for name in [whole, bad, back]:
            if os.path.exists(name):
                os.remove(name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--round", type=int, help="only this one")
    parser.add_argument("--binary", default=os.path.join(os.path.dirname(__file__), "../target/release/vmcask"))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    rounds = random.Random(args.seed)
    end = time.monotonic() + args.minutes * 60
    differences = 0
    with tempfile.TemporaryDirectory(prefix="vmcask-soak-") as folder:
        soak = Soak(os.path.abspath(args.binary), os.path.join(folder, "work"))
        os.mkdir(soak.folder)
        while time.monotonic() < end:
            number = args.round if args.round is not None else rounds.getrandbits(48)
            try:
                soak.round(number)
            except (Differs, subprocess.SubprocessError) as e:
                differences += 1
                print(f"--round {number}: gen {soak.what}\n    {e}", flush=True)
            soak.counts["rounds"] += 1
            if args.round is not None:
                break
        for name, count in sorted(soak.counts.items()):
            print(f"{count:>15,}  {name}")
    print(f"{differences:>15,}  differences")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
