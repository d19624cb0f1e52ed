#!/usr/bin/env python3
"""Opens what became of a model with transformers, and compares its log-probabilities with ours.

    python3 benches/check_exports.py TEXT [MODEL...] [--recipes R...] [--samples 4] [--length 256] [--window 256] [--gguf]

Stock classes must open what was cut alike in all blocks (`--format dense`), and the code that is written beside the weights
what was not (`--format custom`), with no key missing or unexpected; the plan must have said which of the two it takes. Our
log-probabilities in f32 are held against those of transformers in double precision, because in f32 both sides round: they
must be within 1e-4, or, where transformers in f32 is further than that from itself in double precision, within three times
as much. What is over 1e-4, also in f32 against f32, is marked. The same holds for a cache, and behind `brevity export` to
another layout and back. Models are directories, `tiny`, or small random ones: mistral, qwen2, qwen3,
smollm3; without any, all small ones. `--gguf` opens llamas without the attention of one block with llama.cpp as well (needs
llama-cpp-python), within 1e-3 relative.
Needs torch and transformers; build brevity with `cargo build --release` first.
"""
import argparse
import json
import pathlib
import shutil
import struct
import subprocess
import tempfile

from common import ROOT, load, run

SUBLAYERS = "about: two sublayers\nsteps:\n  - prune.layers: {count: 2, unit: sublayer, first: 0, last: 0}\n"
NO_ATTENTION = "about: no attention\nsteps:\n  - prune.layers: {count: 1, unit: attn, first: 1, last: 0}\n"
SLICED = "about: a narrower stream\nsteps:\n  - decompose.slice: {sparsity: 0.2, grow: true}\n"
OWN = {"sublayers": SUBLAYERS, "sliced": SLICED}
STOCK = [("channels-20", []), ("heads-20", ["--uniform"]), ("layers-15", []), ("svd-half", ["--materialize"])]
CUSTOM = [("svd-half", []), ("modegpt-20", []), ("svd-llm-20", []), ("afm-20", []), ("heads-20", []), ("sublayers", []), ("sliced", []), ("layers-15", [])]
RANDOM = {"mistral": {"sliding_window": 24}, "qwen2": {}, "qwen3": {"head_dim": 16}, "smollm3": {}}


def random_model(kind, tokenizer, out):
    """A small random model of an architecture, with the tokenizer of another."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    size = len(AutoTokenizer.from_pretrained(tokenizer))
    config = AutoConfig.for_model(
        kind, vocab_size=size, hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=0, eos_token_id=0, **RANDOM[kind])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.2)
    model.save_pretrained(out)
    shutil.copy(pathlib.Path(tokenizer) / "tokenizer.json", out)


def predictions(brevity, model, text, window, scratch):
    """Our most likely tokens behind each of the first tokens of a text, and their log-probabilities."""
    import numpy as np

    file = pathlib.Path(scratch) / "ours.kld"
    run([brevity, "eval", model, "--text", text, "--window", window, "--limit", window, "--dtype", "f32", "--save-reference", file,
         "--json"])
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[8:16])[0]
    header, k = json.loads(raw[16:16 + length]), json.loads(raw[16:16 + length])["k"]
    rows = np.frombuffer(raw[16 + length:], "<u4").reshape(header["rows"], 2 * k + 1)
    return rows[:, :k].astype(np.int64), rows[:, k:2 * k].copy().view("<f4")


def apart(brevity, path, text, window, scratch, remote):
    """The largest differences of log-probabilities: ours in f32 from transformers in double precision and in f32, those of
    transformers in f32 from its own in double precision, and from a cache from those at once."""
    import torch
    from tokenizers import Tokenizer

    read = pathlib.Path(text).read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(path / "tokenizer.json")).encode(read, add_special_tokens=False).ids
    ids = torch.tensor([ids[:window]])
    tokens, ours = (torch.from_numpy(part) for part in predictions(brevity, path, text, window, scratch))
    model = load(path, **({"trust_remote_code": True} if remote else {}))

    def log_probs(ids, **more):
        out = model(ids, **more)
        return out.logits[0].double().log_softmax(-1), out.past_key_values

    with torch.inference_mode():
        whole, _ = log_probs(ids)
        _, past = log_probs(ids[:, :window // 2], use_cache=True)
        rest, _ = log_probs(ids[:, window // 2:], past_key_values=past)
        model.double()
        exact, _ = log_probs(ids)
    exact, single = (x[:-1].gather(1, tokens) for x in (exact, whole))
    pairs = [(exact, ours.double()), (single, ours.double()), (exact, single)]
    return *((a - b).abs().max().item() for a, b in pairs), (rest - whole[window // 2:]).abs().max().item(), model


def compress(args, model, recipe, more, kind, out):
    """Compresses, and gives what the plan said that transformers needs."""
    text = [] if recipe == "svd-half" else ["--text", args.text, "--samples", args.samples, "--length", args.length]
    command = [args.brevity, "compress", model, "--recipe", recipe, *more, "--format", kind, *text, "--compare", "none", "--json"]
    plan = json.loads(run([*command, "--dry-run"], stderr=subprocess.DEVNULL)[2])
    run([*command, "--out", out], stderr=subprocess.DEVNULL)
    return plan["consumers"]


def check(args, name, model, scratch):
    for kind, cases in [("dense", STOCK), ("custom", CUSTOM)]:
        for recipe, more in cases:
            if args.recipes and recipe not in args.recipes:
                continue
            out, again = scratch / f"{kind}-{recipe}", scratch / "again"
            if recipe in OWN:
                recipe = scratch / f"{recipe}.yaml"
                recipe.write_text(OWN[recipe.stem])
            said = compress(args, model, recipe, more, kind, out)
            remote = said["transformers"] == "trust_remote_code"
            assert remote == (out / "modeling_brevity.py").exists(), said
            assert kind == "custom" or said["transformers"] == "stock", said
            exact, single, own, cached, opened = apart(args.brevity, out, args.text, args.window, scratch, remote)
            # From one layout to the other and back.
            run([args.brevity, "export", out, "--format", "native" if kind == "custom" else "custom", "--out", again])
            run([args.brevity, "export", again, "--format", kind, "--out", scratch / "back"])
            back, *_ = apart(args.brevity, scratch / "back", args.text, args.window, scratch, remote)
            over = f", OVER {args.tolerance:.0e}" if max(exact, single, cached, back) > args.tolerance else ""
            print(f"{name:22} {kind:7} {' '.join([pathlib.Path(recipe).stem, *more]):23} {said['transformers']:18} apart {exact:.1e}, in "
                  f"f32 {single:.1e}, transformers from itself {own:.1e}, from a cache {cached:.1e}, exported twice {back:.1e}{over}   "
                  f"{sum(p.numel() for p in opened.parameters())} parameters, GGUF {said['llama_cpp']}", flush=True)
            limit = max(args.tolerance, 3 * own)
            assert max(exact, cached, back) <= limit, "further apart than rounding explains"
            for folder in (out, again, scratch / "back"):
                shutil.rmtree(folder)


def check_gguf(args, name, model, scratch):
    """Without the attention of one block, as GGUF by llama.cpp and as a directory by transformers."""
    import torch
    from check_gguf import difference, llama_logits

    recipe = scratch / "no-attention.yaml"
    recipe.write_text(NO_ATTENTION)
    said = compress(args, model, recipe, [], "custom", scratch / "custom")
    file = scratch / "model.gguf"
    run([args.brevity, "export", scratch / "custom", "--format", "gguf", "--type", "f32", "--out", file])
    opened = load(scratch / "custom", trust_remote_code=True)
    ids = [(i * 7919 + 13) % opened.config.vocab_size for i in range(args.window)]
    with torch.inference_mode():
        theirs = opened(torch.tensor([ids])).logits[0].numpy()
    relative, same = difference(llama_logits(file, ids), theirs)
    print(f"{name:24} gguf    no-attention, {said['llama_cpp']}: {relative:.1e} relative, same likeliest {100 * same:.1f} %", flush=True)
    assert said["llama_cpp"] == "deci" and relative <= 1e-3, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a plain text, for calibration and comparison")
    parser.add_argument("models", nargs="*", help="directories, or names of small models; default: all of those")
    parser.add_argument("--recipes", nargs="+", help="only these; default: all")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--gguf", action="store_true")
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run([args.brevity, "export", "tiny", "--format", "dense", "--out", folder / "tiny"])
        for name in args.models or ["tiny", *RANDOM]:
            model = folder / name if name in ["tiny", *RANDOM] else pathlib.Path(name)
            if name in RANDOM:
                random_model(name, folder / "tiny", model)
            scratch = folder / f"from-{model.name}"
            scratch.mkdir()
            check(args, model.name, model, scratch)
            if args.gguf:
                check_gguf(args, model.name, model, scratch)


if __name__ == "__main__":
    main()
