#!/usr/bin/env python3
"""Evaluation speed and peak memory of brevity against transformers, alternating in one run.

    python3 benches/eval_speed.py MODEL_DIR WIKI_RAW [--windows 4] [--length 2048] [--dtype f32 bf16] [--rounds 3] [--threads 2]

Both sides compute the perplexity of the same windows of the same text. The transformers side is this same file, run as a
child with `--child`; it counts only its forward passes and losses, not the loading of the model. The brevity side is
counted as its own `seconds`, which include reading the weights. Peak memory is the maximum resident set of each child.
Needs torch and transformers; build brevity with `cargo build --release` first.
"""
import argparse
import json
import math
import statistics
import sys
import time

from common import ROOT, run, wikitext


def child(args):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype[0]]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa").eval()
    ids = tokenizer(wikitext(args.text), return_tensors="pt", add_special_tokens=False).input_ids[0]
    windows = ids[: args.windows * args.length].view(-1, args.length)
    total, started = 0.0, time.perf_counter()
    with torch.inference_mode():
        for window in windows:
            logits = model(window[None]).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.float(), window[1:]).item()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "tokens": windows.numel(), "nll": total / len(windows)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--dtype", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    parser.add_argument("--child", action="store_true")
    args = parser.parse_args()
    if args.child:
        return child(args)
    for dtype in args.dtype:
        rows = {"transformers": [], "brevity": []}
        for _ in range(args.rounds):
            common = ["--windows", str(args.windows), "--length", str(args.length), "--threads", str(args.threads)]
            _, peak, out = run([sys.executable, __file__, args.model, args.text, "--child", "--dtype", dtype, *common])
            out = json.loads(out)
            rows["transformers"].append((out["tokens"] / out["seconds"], peak, out["nll"]))
            _, peak, out = run([
                args.brevity, "eval", args.model, "--text", f"wikitext:{args.text}", "--window", str(args.length),
                "--limit", str(args.windows * args.length), "--dtype", dtype, "--threads", str(args.threads), "--json",
            ])
            out = json.loads(out)
            nll = math.log(next(s["value"] for s in out["scores"] if s["name"] == "perplexity"))
            rows["brevity"].append((out["tokens_per_second"], peak, nll))
        median = {name: [statistics.median(row[n] for row in sides) for n in range(3)] for name, sides in rows.items()}
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(rows["brevity"], rows["transformers"])]
        for name, (speed, peak, nll) in median.items():
            print(f"{dtype}  {name:12}  {speed:7.1f} tokens/s  peak {peak / 2**20:7.0f} MiB  mean NLL {nll:.5f}")
        print(f"{dtype}  speed ratio, round by round: {' '.join(f'{r:.2f}' for r in ratios)}; median {statistics.median(ratios):.2f}")
        print(f"{dtype}  memory ratio {median['brevity'][1] / median['transformers'][1]:.2f}")


if __name__ == "__main__":
    main()
