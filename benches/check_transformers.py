#!/usr/bin/env python3
"""Compresses a model by recipes, opens each result with transformers, and compares the perplexities of both sides.

    python3 benches/check_transformers.py MODEL_DIR WIKI_RAW [--recipes int4 int4-asym int8] [--windows 20] [--length 2048]

transformers loads with `CompressedTensorsConfig(dequantize=True)` in f32; no key may be missing or unexpected, and its
perplexity must be ours within 0.1 %. Needs torch, transformers and compressed-tensors; build brevity with
`cargo build --release` first.
"""
import argparse
import json
import math
import pathlib
import subprocess
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from eval_speed import ROOT, wikitext


def theirs(path, ids):
    config = json.loads((path / "config.json").read_text())
    more = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if "quantization_config" in config else {}
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **more)
    wrong = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(key)}
    assert not wrong, wrong
    total = 0.0
    with torch.inference_mode():
        for window in ids:
            logits = model.eval()(window[None]).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.float(), window[1:]).item()
    return math.exp(total / len(ids))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text")
    parser.add_argument("--recipes", nargs="+", default=["int4", "int4-asym", "int8"])
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ids = tokenizer(wikitext(args.text), return_tensors="pt", add_special_tokens=False).input_ids[0]
    ids = ids[: args.windows * args.length].view(-1, args.length)
    worst = 0.0
    for recipe in args.recipes:
        with tempfile.TemporaryDirectory() as scratch:
            out = pathlib.Path(scratch) / recipe
            subprocess.run([args.brevity, "compress", args.model, "--recipe", recipe, "--out", out, "--text", "none", "--json"],
                           check=True, stdout=subprocess.DEVNULL)
            command = [args.brevity, "eval", out, "--text", f"wikitext:{args.text}", "--window", str(args.length),
                       "--limit", str(args.windows * args.length), "--dtype", "f32", "--json"]
            report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            ours = next(score["value"] for score in report["scores"] if score["name"] == "perplexity")
            reference = theirs(out, ids)
            worst = max(worst, abs(ours / reference - 1))
            print(f"{recipe:16} brevity {ours:10.4f}   transformers {reference:10.4f}   difference {100 * (ours / reference - 1):+.4f} %", flush=True)
    assert worst <= 1e-3, "more than 0.1 % apart"


if __name__ == "__main__":
    main()
