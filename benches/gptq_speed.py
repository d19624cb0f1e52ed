#!/usr/bin/env python3
"""Time and peak memory of GPTQ by brevity and by llm-compressor, alternating in one run.

    python3 benches/gptq_speed.py MODEL_DIR TEXT [--samples 16] [--rounds 3] [--recipes gptq-int4-classic gptq-int4]

Both sides quantise the linear layers of the blocks to 4 bits, symmetric, in groups of 64, on the same windows of the same
text, block after block on the inputs that the blocks before have left. The first recipe is the one compared; the others
are timed beside it. llm-compressor runs in f32 with its defaults (`--peer-dtype bf16` for the other one) and is counted
from reading the model to the written files, without its imports; brevity is counted as a whole process. Peak memory is
the maximum resident set of each child. The phases are brevity's own account of its time. Useful arithmetic is one forward
pass, Gram triangles and solves; it is set against the rate of our bf16 matrix product measured in every round. Needs
torch, transformers, datasets and llmcompressor; build brevity with `cargo build --release` first.
"""
import argparse
import pathlib
import statistics
import tempfile

from common import ROOT, compress, llmcompressor, matmul_rate, useful_operations


def phases(report):
    """Seconds by phase, whether the report has them as an object or as a list."""
    found = report.get("phases") or {}
    if isinstance(found, list):
        found = {phase["name"]: phase["seconds"] for phase in found}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--recipes", nargs="+", default=["gptq-int4-classic"])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="time brevity alone")
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    sides = [*args.recipes, *(["llm-compressor"] if args.peer else [])]
    seconds, peaks, parts = ({side: [] for side in sides} for _ in range(3))
    rates = []
    for _ in range(args.rounds):
        rates.append(matmul_rate())
        for side in sides:
            with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
                out = pathlib.Path(scratch) / "out"
                if side == "llm-compressor":
                    process, peak, report = llmcompressor(args.model, args.text, "gptq", out, args.samples, args.length,
                                                          args.threads, ["--dtype", args.peer_dtype])
                    took, part = report["seconds"], {"imports": process - report["seconds"]}
                    part |= {name.removeprefix("seconds_"): report[name] for name in report if name != "seconds"}
                else:
                    took, peak, report = compress(args.brevity, args.model, side, out, args.text, args.samples, args.length,
                                                  args.threads)
                    part = phases(report)
                seconds[side].append(took)
                peaks[side].append(peak)
                parts[side].append(part)
                print(f"{side:20} {took:8.2f} s   peak {peak / 2**20:7.0f} MiB", flush=True)
    print(f"medians of {args.rounds}, {args.samples} x {args.length} tokens, {args.threads} threads")
    for side in sides:
        print(f"{side:20} {statistics.median(seconds[side]):8.2f} s   peak {max(peaks[side]) / 2**20:7.0f} MiB")
        for name in parts[side][0]:
            print(f"    {name:16} {statistics.median(part[name] for part in parts[side]):8.2f} s")
    useful, rate = useful_operations(args.model, args.samples * args.length, args.length), statistics.median(rates)
    print(f"useful arithmetic: {sum(useful.values()) / 1e12:.2f} TFLOP "
          f"({', '.join(f'{name} {value / 1e12:.2f}' for name, value in useful.items())}); "
          f"bf16 matrix product {rate / 1e9:.0f} GFLOP/s, so {sum(useful.values()) / rate:.1f} s at that rate, "
          f"{sum(useful.values()) / rate / statistics.median(seconds[args.recipes[0]]):.2f} of what {args.recipes[0]} took")
    for side in args.recipes[1:]:
        ratios = [more / first for more, first in zip(seconds[side], seconds[args.recipes[0]])]
        print(f"{side} takes {statistics.median(ratios):.2f} times as long as {args.recipes[0]}")
    for side in args.recipes if args.peer else []:
        ratios = [theirs / ours for ours, theirs in zip(seconds[side], seconds["llm-compressor"])]
        print(f"{side}: llm-compressor takes {statistics.median(ratios):.2f} times as long "
              f"(round by round: {' '.join(f'{ratio:.2f}' for ratio in ratios)}), "
              f"{max(peaks['llm-compressor']) / max(peaks[side]):.2f} times the memory")


if __name__ == "__main__":
    main()
