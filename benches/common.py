"""What several benchmarks share: children with their time and memory, and one convention for texts and perplexity.

Texts for calibration are read as they are, tokenised once without special tokens, and cut into consecutive windows
that do not overlap; so many samples are the first so many windows. Texts for evaluation go through `wikitext` first.
Only the functions that need torch or transformers import them.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(command, **more):
    """Wall seconds, peak resident bytes and standard output of a child; ends the program if the child fails.

    The peak is never less than what the calling process has in memory itself, so callers should not load torch.
    """
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, **more)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"failed: {' '.join(str(part) for part in command)}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024, out


def wikitext(path):
    """The text convention of the compression literature: rows joined with two newlines, blank rows empty."""
    rows = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    if rows and rows[-1] == "":
        rows.pop()
    return "\n\n".join("" if not row.strip() else row + "\n" for row in rows)


def windows(model, text, count, length):
    """The first `count` windows of a text in tokens of the model: `[count, length]`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False).input_ids[0]
    assert len(ids) >= count * length, f"the text has {len(ids)} tokens, {count} windows of {length} need more"
    return ids[: count * length].view(count, length)


def load(path, **more):
    """A model as transformers reads it, in f32 and decompressed; no key may be missing or unexpected."""
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    config = json.loads((pathlib.Path(path) / "config.json").read_text())
    if "quantization_config" in config:
        more["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **more)
    wrong = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(key)}
    assert not wrong, wrong
    return model.eval()


def perplexity(model, ids):
    """Perplexity over all predicted positions of the windows `ids`, each on its own."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for window in ids:
            logits = model(window[None]).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits.float(), window[1:]).item()
    return math.exp(total / len(ids))


def brevity_perplexity(brevity, model, text, count, length, dtype):
    """The same perplexity by `brevity eval`."""
    command = [brevity, "eval", model, "--text", f"wikitext:{text}", "--window", length, "--limit", count * length,
               "--dtype", dtype, "--json"]
    report = json.loads(run(command)[2])
    return next(score["value"] for score in report["scores"] if score["name"] == "perplexity")


def share_of_zeros(model):
    """Share of zeros among the weights of all linear layers of a model of transformers but the one behind the blocks."""
    import torch

    weights = [module.weight for name, module in model.named_modules()
               if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def compress(brevity, model, recipe, out, text=None, samples=16, length=2048, threads=None):
    """`brevity compress`, calibrated where there is a text: wall seconds, peak resident bytes, and its report."""
    command = [brevity, "compress", model, "--recipe", recipe, "--out", out, "--json"]
    command += ["--text", text, "--samples", samples, "--length", length, "--draw", "first"] if text else []
    command += ["--threads", threads] if threads else []
    seconds, peak, report = run(command)
    return seconds, peak, json.loads(report)


def matmul_rate():
    """Operations a second of our bf16 matrix product now: the better of two sizes, medians of five."""
    command = ["cargo", "run", "-q", "--release", "-p", "brevity-kernels", "--example", "gram_speed", "--", "5", "matmul"]
    lines = run(command, cwd=ROOT)[2].decode().splitlines()
    return max(float(line.split()[3]) for line in lines if line.startswith("linear_bf16")) * 1e9


def useful_operations(model, tokens, length):
    """What GPTQ of a llama-like model has to compute, by phase: one forward pass through the blocks with causal attention,
    one triangle of one Gram matrix for each input that is read, one factor for each of them and one solve for each layer."""
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    hidden, middle, heads = (config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = config.get("head_dim") or hidden // heads
    mixed, kv = heads * head, config.get("num_key_value_heads", heads) * head
    layers = [(mixed + 2 * kv, hidden), (hidden, mixed), (2 * middle, hidden), (hidden, middle)]
    blocks = config["num_hidden_layers"]
    attention = 2 * tokens * length * mixed
    return {
        "forward": blocks * (sum(2 * tokens * rows * inputs for rows, inputs in layers) + attention),
        "gram": blocks * sum(tokens * inputs**2 for _, inputs in layers),
        "solve": blocks * sum(2 * inputs**3 / 3 + rows * inputs**2 for rows, inputs in layers),
    }


def llmcompressor(model, text, method, out, samples=16, length=2048, threads=2, more=()):
    """llm-compressor on the same windows: wall seconds, peak resident bytes, and the seconds that it counted."""
    command = [sys.executable, ROOT / "benches/llmcompressor_oneshot.py", model, text, "--method", method, "--out", out,
               "--samples", samples, "--length", length, "--threads", threads, *more]
    with tempfile.TemporaryFile() as log:
        try:
            seconds, peak, out = run(command, stderr=log)
        except SystemExit:
            log.seek(0)
            sys.stderr.buffer.write(log.read()[-4000:])
            raise
    return seconds, peak, json.loads(out.splitlines()[-1])
