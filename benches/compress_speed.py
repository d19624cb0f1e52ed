#!/usr/bin/env python3
"""Time and peak memory of `brevity compress` against a plain copy of the same files, alternating in one run.

    python3 benches/compress_speed.py MODEL_DIR [--recipe int4] [--rounds 3] [--scratch DIR] [--max-memory 2GiB]

The copy is `cp -r` followed by `sync` of the copied files, since brevity also waits until its files are on the disk.
Needs nothing but Python; build brevity with `cargo build --release` first.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import tempfile

from common import ROOT, run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--max-memory", default=None)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    scratch = pathlib.Path(tempfile.mkdtemp(dir=args.scratch))
    copies, runs, peaks = [], [], []
    try:
        for _ in range(args.rounds):
            copy, out = scratch / "copy", scratch / "out"
            seconds, _, _ = run(["sh", "-c", 'cp -rL "$0" "$1" && sync "$1"/*', str(args.model), str(copy)])
            copies.append(seconds)
            shutil.rmtree(copy)
            limit = ["--max-memory", args.max_memory] if args.max_memory else []
            command = [args.brevity, "compress", str(args.model), "--recipe", args.recipe, "--out", str(out), "--json", *limit]
            seconds, peak, report = run(command)
            report = json.loads(report)
            runs.append(seconds)
            peaks.append(peak)
            real = sum(file.stat().st_size for file in out.glob("*.safetensors"))
            assert real == report["size_bytes_after"] == report["size_bytes_predicted"], "predicted bytes are not the real ones"
            shutil.rmtree(out)
            print(f"copy {copies[-1]:.2f} s   compress {seconds:.2f} s   ratio {seconds / copies[-1]:.2f}   peak {peak / 2**20:.0f} MiB", flush=True)
    finally:
        shutil.rmtree(scratch)
    ratios = [ours / theirs for ours, theirs in zip(runs, copies)]
    print(f"medians: copy {statistics.median(copies):.2f} s, compress {statistics.median(runs):.2f} s, ratio {statistics.median(ratios):.2f}")
    print(f"peak memory {max(peaks) / 2**20:.0f} MiB; {report['size_bytes_before']} -> {report['size_bytes_after']} bytes, as predicted")


if __name__ == "__main__":
    main()
