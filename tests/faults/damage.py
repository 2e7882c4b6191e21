#!/usr/bin/env python3
"""Damages a cache at random and looks whether any result stays wrong.

    tests/faults/damage.py DCSFT [N] [--seed S] [--jobs J] [--skip KIND] [--keep DIR]

DCSFT is the binary; N trials are made (default 100). Each trial takes a copy of the cache of a finished study (or of
one whose training or answering was interrupted), damages one file in it, and then: runs the study, exports a model and
a set, runs the study with other settings, verifies the cache, and runs both again. What the study comes to (its lock
and its results) is compared with what it came to in caches that were never damaged.

Prints a table by kind of file. Exit code 1 if after `cache verify` and a run a result is wrong, a run fails, or a
command hangs. Needs nothing but Python's standard library.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

SOURCE = """
dcsft: 1
name: source
stages:
  world: {uses: shapes, with: {seed: 3, counts: {pretrain: 4, cold_start: 60, train: 4, val: 4, rendition: 4, adversarial: 4}}}
"""

SPEC = """
dcsft: 1
name: damaged
vars: {steps: 12, n: 2, tokens: 6, train: 60}
stages:
  set: {uses: dataset, with: {path: LIST, set: mine}}
  world:
    uses: shapes
    with: {counts: {pretrain: 4, cold_start: 4, train: "${vars.train}", val: 60, rendition: 4, adversarial: 4}}
  untrained: {uses: model, with: {kind: micro}}
  sft:
    uses: sft
    with: {model: "${untrained}", data: "${set}", steps: "${vars.steps}", batch_size: 8, learning_rate: 1e-3}
  rollouts:
    uses: rollout
    with: {model: "${sft}", data: "${world.train}", n: "${vars.n}", max_new_tokens: 6}
  difficulty:
    uses: difficulty
    with:
      rollouts: "${rollouts}"
      data: "${world.train}"
      quantiles: {edges: [0.5], names: [easy, hard]}
  tuned:
    uses: sft
    with:
      model: "${sft}"
      data: "${difficulty.hard}"
      lora: {rank: 2, alpha: 4, targets: [decoder]}
      steps: 6
      batch_size: 4
      learning_rate: 1e-3
  eval_sft: {uses: eval, with: {model: "${sft}", data: "${world.val}", max_new_tokens: "${vars.tokens}"}}
  eval_tuned: {uses: eval, with: {model: "${tuned}", data: "${world.val}", max_new_tokens: "${vars.tokens}"}}
"""

PLAIN = ()
CHANGED = ("--set", "vars.tokens=7", "--set", "vars.n=3")
TIMEOUT = 1800
LARGE = 64 * 1024


class Program:
    """The binary in a folder, with a cache of one's own."""

    def __init__(self, binary, folder):
        self.binary = binary
        self.folder = folder

    def environment(self, cache):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DCSFT_")}
        return {**kept, "DCSFT_CACHE": str(cache), "NO_COLOR": "1"}

    def start(self, cache, *args):
        return subprocess.Popen(
            [self.binary, *args],
            cwd=self.folder,
            env=self.environment(cache),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, cache, *args):
        """Exit code and stdout; code None where it hung."""
        process = self.start(cache, *args)
        try:
            out, self.said = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, b""
        return process.returncode, out

    def study(self, cache, overrides):
        return self.run(cache, "run", "-q", "--no-report", *overrides, "spec.yaml")[0]

    def outcome(self, cache, overrides):
        """What the study came to: every key, digest and metric, and the results; None where it has none."""
        code, lock = self.run(cache, "lock", "--print", *overrides, "spec.yaml")
        if code != 0:
            return None
        _, results = self.run(cache, "results", "--json", *overrides, "spec.yaml")
        return lock, results

    def export(self, cache, stage, target):
        code, _ = self.run(cache, "export", "spec.yaml", stage, str(target))
        if code != 0:
            return None
        files = sorted(path for path in target.rglob("*") if path.is_file())
        return [(str(path.relative_to(target)), path.read_bytes()) for path in files]


def copy_tree(source, target):
    """A copy in which what was one file under several names still is."""
    names = {}
    for folder, _, files in os.walk(source):
        here = target / os.path.relpath(folder, source)
        here.mkdir(parents=True, exist_ok=True)
        for name in files:
            old, new = os.path.join(folder, name), here / name
            inode = os.lstat(old).st_ino
            if inode in names:
                os.link(names[inode], new)
            else:
                shutil.copy2(old, new)
                names[inode] = new


# --- what is damaged ------------------------------------------------------------------------------------------------


def kinds_of_files(cache):
    """The cache's files by kind."""
    base = cache / "v1"
    found = collections.defaultdict(list)
    for path in sorted(path for path in base.rglob("*") if path.is_file()):
        part = path.relative_to(base).parts
        size = " > 64 KiB" if path.stat().st_size > LARGE else ""
        kind = {
            "records": "record",
            "stat-cache": "stat cache",
            "checked": "memory of checks",
            "runs": "journal",
            "families": "family",
            "locks": "lock file",
        }.get(part[0])
        if part[0] == "artifacts":
            kind = "manifest" if part[-1] == "manifest.json" else "artifact's file" + size
        elif part[0] == "blobs":
            kind = "blob" + size
        elif part[0] == "work":
            kind = {"answers.jsonl": "saved answers", "job.json": "job"}.get(part[-1])
            if kind is None and "state" in part:
                kind = "saved training"
            kind = kind or "workspace"
        if kind:
            found[kind].append(path)
    return found


def at(rng, data):
    return rng.randrange(len(data))


def bit(rng, data):
    data[at(rng, data)] ^= 1 << rng.randrange(8)


def byte(rng, data):
    where = at(rng, data)
    data[where] = (data[where] + rng.randrange(1, 256)) % 256


def zeros(rng, data):
    where = at(rng, data)
    length = rng.choice([1, 16, 512, 4096])
    end = min(len(data), where + length)
    data[where:end] = bytes(end - where)


def cut(rng, data):
    del data[at(rng, data) :]


def empty(_, data):
    data.clear()


def garbage(rng, data):
    data[:] = rng.randbytes(len(data))


def append(rng, data):
    data.extend(rng.randbytes(rng.randrange(1, 64)))


def digit(rng, data):
    places = [i for i, one in enumerate(data) if 48 <= one <= 57]
    if places:
        where = rng.choice(places)
        data[where] = rng.choice([d for d in b"0123456789" if d != data[where]])
    else:
        bit(rng, data)


def line_lost(rng, data):
    lines = bytes(data).splitlines(keepends=True)
    if len(lines) > 1:
        del lines[rng.randrange(len(lines))]
        data[:] = b"".join(lines)
    else:
        bit(rng, data)


INSIDE = [bit, bit, byte, zeros, cut, empty, garbage, append, digit, line_lost]


def damage(rng, path, others):
    """Damages a file; says how."""
    what = rng.choice(INSIDE + [None])
    before = path.stat()
    path.chmod(before.st_mode | stat.S_IWUSR)
    if what is None or before.st_size == 0:
        what = rng.choice(["deleted", "folder", "pipe", "swapped"])
        if what == "swapped":
            text = rng.choice(others).read_bytes()
            path.write_bytes(text)
            return what
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        return what
    data = bytearray(path.read_bytes())
    what(rng, data)
    name = what.__name__
    if rng.random() < 0.3:
        # Another file under the old name, as an editor or a restored backup leaves.
        path.unlink()
        name += ", another file"
    path.write_bytes(data)
    path.chmod(before.st_mode)
    if rng.random() < 0.5:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        name += ", times restored"
    return name


# --- trials ---------------------------------------------------------------------------------------------------------


class Trial:
    def __init__(self, number, base, kind, rng):
        self.number, self.base, self.kind, self.rng = number, base, kind, rng
        self.how = self.file = ""
        self.seen = collections.Counter()
        self.bad = []

    def note(self, column, word):
        self.seen[column, word] += 1
        if word in ("hangs",) or column == "in the end" and word != "right":
            self.bad.append(f"{column}: {word}")

    def line(self):
        return f"#{self.number} {self.kind}, {self.how}: {self.file}: {'; '.join(self.bad)}"


def judged(code, outcome, expected):
    if code is None:
        return "hangs"
    if code != 0:
        return "fails"
    return "right" if outcome == expected else "WRONG"


def attempt(program, trial, cache, truths, scratch):
    """Damages the cache, works with it and looks what comes out."""
    files = kinds_of_files(cache)[trial.kind]
    path = trial.rng.choice(files)
    trial.file = str(path.relative_to(cache / "v1"))
    trial.how = damage(trial.rng, path, files)
    base = truths[trial.base]

    code = program.study(cache, base.overrides)
    trial.note("run", judged(code, program.outcome(cache, base.overrides), base.outcome))
    if trial.base == "finished":
        for stage in ("sft", "tuned", "world.train"):
            target = scratch / f"{trial.number}-{stage}"
            exported = program.export(cache, stage, target)
            right = exported == base.exports[stage]
            word = "refused" if exported is None else "right" if right else "WRONG"
            trial.note("export", word)
            shutil.rmtree(target, ignore_errors=True)
        changed = truths["changed"]
        code = program.study(cache, CHANGED)
        trial.note("changed run", judged(code, program.outcome(cache, CHANGED), changed.outcome))
    code, _ = program.run(cache, "cache", "verify")
    trial.note("verify", {0: "clean", 1: "damage", None: "hangs"}.get(code, f"rc {code}"))

    ends = [base] + ([truths["changed"]] if trial.base == "finished" else [])
    for end in ends:
        code = program.study(cache, end.overrides)
        if code != 0:
            trial.note("run after it", "hangs" if code is None else "fails")
            code = program.study(cache, end.overrides)
        trial.note("in the end", judged(code, program.outcome(cache, end.overrides), end.outcome))
    code, _ = program.run(cache, "cache", "verify")
    if code != 0:
        trial.bad.append("the cache is still damaged")


Truth = collections.namedtuple("Truth", "overrides outcome exports")


def truth(program, folder, name, overrides):
    """What a study comes to in a cache that nobody damages."""
    cache = folder / f"truth-{name}"
    if program.study(cache, overrides) != 0:
        sys.exit(f"the study does not run: {program.said.decode(errors='replace')}")
    exports = {
        stage: program.export(cache, stage, folder / f"truth-{name}-{stage}")
        for stage in ("sft", "tuned", "world.train")
    }
    return Truth(overrides, program.outcome(cache, overrides), exports)


def text_of(path):
    """What a file holds; nothing if a worker has removed it in the meantime."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def interrupted(program, folder, name, kind, saved, overrides):
    """A cache in which a stage of that kind was interrupted and has saved its state."""
    pause = 0.02
    while pause < 60:
        cache = folder / f"base-{name}"
        shutil.rmtree(cache, ignore_errors=True)
        process = program.start(cache, "run", "-q", "--no-report", *overrides, "spec.yaml")
        while process.poll() is None:
            jobs = cache.glob("v1/work/*/job.json")
            if any(f'"kind":"{kind}"' in text_of(job) for job in jobs):
                time.sleep(pause)
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.02)
        process.communicate()
        if any(path.stat().st_size > 0 for path in cache.glob(f"v1/work/*/state/{saved}")):
            return cache
        pause *= 1.5
    sys.exit(f"no {kind} could be interrupted")


def prepare(program, folder):
    """The sets of the study, what it comes to, and the caches to damage."""
    (folder / "source.yaml").write_text(SOURCE)
    cache = folder / "truth-source"
    for args in (["run", "-q", "source.yaml"], ["export", "source.yaml", "world.cold_start", "mine"]):
        code, _ = program.run(cache, *args)
        if code != 0:
            sys.exit(f"the images cannot be made: {program.said.decode(errors='replace')}")
    lists = sorted(path for path in (folder / "mine").iterdir() if path.suffix in (".json", ".jsonl"))
    (folder / "spec.yaml").write_text(SPEC.replace("LIST", f"mine/{lists[0].name}"))
    trained = ("--set", "vars.steps=200")
    asked = ("--set", "vars.train=1500")
    truths = {
        "finished": truth(program, folder, "finished", PLAIN),
        "changed": truth(program, folder, "changed", CHANGED),
        "training": truth(program, folder, "training", trained),
        "answering": truth(program, folder, "answering", asked),
    }
    # Files that were written a moment ago are not remembered: the second run remembers them.
    program.study(folder / "truth-finished", PLAIN)
    time.sleep(2.1)
    program.study(folder / "truth-finished", PLAIN)
    bases = {
        "finished": folder / "truth-finished",
        "training": interrupted(program, folder, "training", "sft", "*.safetensors", trained),
        "answering": interrupted(program, folder, "answering", "rollout", "answers.jsonl", asked),
    }
    return truths, bases


def plan(bases, count, seed, skipped):
    """The trials: every kind of file in turn."""
    rng = random.Random(seed)
    kinds = [("finished", kind) for kind in sorted(kinds_of_files(bases["finished"]))]
    for kind in ("memory of checks",):
        if ("finished", kind) not in kinds:
            kinds.append(("finished", kind))
    kinds += [("training", "saved training"), ("answering", "saved answers")] * 2
    kinds += [("training", "job")]
    kinds = [(base, kind) for base, kind in kinds if kind not in skipped]
    order = []
    while len(order) < count:
        turn = list(kinds)
        rng.shuffle(turn)
        order += turn
    return [Trial(n, *order[n], random.Random(f"{seed}-{n}")) for n in range(count)]


def run_trials(program, folder, bases, truths, trials, jobs, keep):
    scratch = folder / "scratch"
    scratch.mkdir()
    done = []
    for start in range(0, len(trials), 10):
        batch = trials[start : start + 10]
        caches = [folder / f"cache-{trial.number}" for trial in batch]
        for trial, cache in zip(batch, caches):
            copy_tree(bases[trial.base], cache)
        # Copies are new files; what was read of them is remembered once they have rested. Half of the caches have
        # been verified, the others not.
        time.sleep(2.2)
        for trial, cache in zip(batch, caches):
            if trial.number % 2 == 0 or trial.kind == "memory of checks":
                program.run(cache, "cache", "verify")

        def one(pair):
            trial, cache = pair
            attempt(Program(program.binary, program.folder), trial, cache, truths, scratch)
            if trial.bad and keep:
                shutil.copytree(cache, keep / f"cache-{trial.number}", symlinks=True, copy_function=copy_plain)
            shutil.rmtree(cache, ignore_errors=True)
            return trial

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for trial in pool.map(one, zip(batch, caches)):
                done.append(trial)
                if trial.bad:
                    print(trial.line(), file=sys.stderr, flush=True)
        print(f"{len(done)} of {len(trials)}", file=sys.stderr, flush=True)
    return done


def copy_plain(source, target):
    if stat.S_ISREG(os.lstat(source).st_mode):
        shutil.copy2(source, target)


COLUMNS = ["run", "export", "changed run", "verify", "run after it", "in the end"]


def print_table(trials):
    rows = collections.defaultdict(list)
    for trial in trials:
        rows[trial.kind].append(trial)
    print("| file | n | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for kind in [*sorted(rows), "all"]:
        group = trials if kind == "all" else rows[kind]
        seen = sum((trial.seen for trial in group), collections.Counter())
        cells = []
        for column in COLUMNS:
            words = sorted(word for (of, word) in seen if of == column)
            cells.append(", ".join(f"{seen[column, word]} {word}" for word in words) or "-")
        print(f"| {kind} | {len(group)} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", metavar="DCSFT")
    parser.add_argument("count", metavar="N", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    parser.add_argument("--skip", action="append", default=[], help="a kind of file to leave alone")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the caches of bad trials")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dcsft-damage-") as name:
        folder = pathlib.Path(name)
        program = Program(os.path.abspath(args.binary), folder)
        truths, bases = prepare(program, folder)
        trials = plan(bases, args.count, args.seed, args.skip)
        done = run_trials(program, folder, bases, truths, trials, args.jobs, args.keep)
    print_table(done)
    bad = [trial for trial in done if trial.bad]
    for trial in bad:
        print(trial.line())
    print(f"{len(done)} damages, seed {args.seed}: {len(bad)} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
