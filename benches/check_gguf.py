#!/usr/bin/env python3
"""Exports a model to GGUF, opens the files with llama.cpp, and compares logits and text of both sides.

    python3 benches/check_gguf.py MODEL WIKI_RAW [--types f32 f16 bf16 q8_0 q4_0 q4_k] [--tokens 256] [--tolerance 1e-3]
    python3 benches/check_gguf.py MODEL --logits-only            a model without a vocabulary

For each type: size, seconds, the largest difference of log-probabilities between llama.cpp and transformers on the
weights as brevity reads them back from the file (so only what is computed differs, not what was rounded), relative to
the largest of them; perplexity of a text by brevity; and what llama.cpp says behind a prompt, with its own tokenizer from
the file. f32 and f16 must agree within the tolerance; llama.cpp rounds activations to bfloat16 or to
8 bits for the other types. Needs
llama-cpp-python, torch and transformers; build brevity with `cargo build --release` first.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

from common import ROOT, brevity_perplexity, run

EXACT = {"f32", "f16"}


def llama_logits(path, ids):
    """Logits of llama.cpp behind each token, with keys and values in single precision."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=len(ids), n_batch=len(ids), logits_all=True, verbose=False, type_k=0, type_v=0)
    model.eval(ids)
    return model.scores[: len(ids)].copy()


def reference_logits(brevity, path, ids, scratch):
    """Logits of transformers on the weights of a file, decoded by brevity."""
    import torch
    from transformers import AutoModelForCausalLM

    dense = pathlib.Path(scratch) / "dense"
    run([brevity, "export", path, "--format", "dense", "--out", dense, "--fresh"])
    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def difference(a, b):
    """The largest difference of log-probabilities, relative to the largest of them."""
    import numpy as np

    def log_softmax(x):
        x = x.astype(np.float64)
        return x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))

    a, b = log_softmax(a), log_softmax(b)
    return float(np.abs(a - b).max() / np.abs(b).max()), float((a.argmax(-1) == b.argmax(-1)).mean())


def says(path, prompt, tokens):
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=512, verbose=False)
    return model(prompt, max_tokens=tokens, temperature=0.0)["choices"][0]["text"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("wiki", nargs="?")
    parser.add_argument("--types", nargs="+", default=["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k"])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--logits-only", action="store_true")
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    for kind in args.types:
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / f"{kind}.gguf"
            seconds, _, out = run([args.brevity, "export", args.model, "--format", "gguf", "--type", kind, "--out", path, "--json"],
                                  stderr=subprocess.DEVNULL)
            report = json.loads(out)
            assert path.stat().st_size == report["size_bytes_after"], "the size is not the one that was told"
            vocabulary = json.loads(run([args.brevity, "inspect", path, "--json"])[2])["vocabulary"]
            ids = [(i * 7919 + 13) % vocabulary for i in range(args.tokens)]
            apart, same = difference(llama_logits(path, ids), reference_logits(args.brevity, path, ids, scratch))
            line = f"{kind:5} {report['architecture']:8} {path.stat().st_size:11} bytes {seconds:6.1f} s   logits apart {apart:.2e}, same likeliest {100 * same:.1f} %"
            if args.wiki:
                line += f"   perplexity {brevity_perplexity(args.brevity, path, args.wiki, args.windows, args.length, 'f32'):.4f}"
            print(line, flush=True)
            if not args.logits_only:
                print(f"      {args.prompt!r} -> {says(path, args.prompt, 24)!r}", flush=True)
            assert kind not in EXACT or apart <= args.tolerance, "further apart than rounding explains"


if __name__ == "__main__":
    main()
