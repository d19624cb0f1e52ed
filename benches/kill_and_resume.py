#!/usr/bin/env python3
"""Kills `brevity compress` at random moments, resumes it, and compares every output file with that of a run left alone.

    python3 benches/kill_and_resume.py MODEL_DIR TEXT [--recipe gptq-int4] [--samples 8] [--length 512] [--kills 3]

For each number of threads: one run that is left alone, then one that gets SIGKILL at random moments of that duration and
is started again each time until it ends. All outputs must have the same SHA-256, file by file, whatever the threads. With
`--max-memory` low enough the samples are in files when the run is killed. Needs nothing but Python.
"""
import argparse
import hashlib
import pathlib
import random
import signal
import subprocess
import tempfile
import time

from common import ROOT


def digests(out):
    files = sorted(path for path in pathlib.Path(out).rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--recipe", default="gptq-int4")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--max-memory", default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 30)
    moments = random.Random(seed)
    print(f"seed {seed}")
    first = None
    with tempfile.TemporaryDirectory() as scratch:
        for threads in args.threads:
            def start(name):
                command = [args.brevity, "compress", args.model, "--recipe", args.recipe, "--out", f"{scratch}/{name}",
                           "--text", args.text, "--samples", args.samples, "--length", args.length, "--threads", threads]
                command += ["--max-memory", args.max_memory] if args.max_memory else []
                return subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)

            started = time.perf_counter()
            assert start(f"alone-{threads}").wait() == 0
            took = time.perf_counter() - started
            name, killed = f"killed-{threads}", []
            while len(killed) < args.kills:
                process = start(name)
                # Each run gets a share of the whole time, so that the last kill still meets an unfinished one.
                moment = moments.uniform(0.1, 0.9) * took / args.kills
                time.sleep(moment)
                process.send_signal(signal.SIGKILL)
                assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
                done = len(list(pathlib.Path(scratch, name).glob("*.safetensors")))
                killed.append(f"{moment:.1f} s with {done} stages written")
            assert start(name).wait() == 0
            alone, resumed = digests(f"{scratch}/alone-{threads}"), digests(f"{scratch}/{name}")
            first = first or alone
            same = alone == resumed == first
            print(f"{threads} threads: {took:.1f} s alone; killed after {', '.join(killed)}; {len(alone)} files "
                  f"{'the same' if same else 'DIFFERENT'}", flush=True)
            if not same:
                every = sorted(set(first) | set(alone) | set(resumed))
                raise SystemExit(f"differ: {[name for name in every if not first.get(name) == alone.get(name) == resumed.get(name)]}")


if __name__ == "__main__":
    main()
