"""Makes the vectors of this folder: what llm-compressor's own functions do to one small layer.

    python crates/methods/tests/vectors/make.py

`layer.json` has the layer, the other files what each method makes of it; `README.md` says what the keys mean. Every case
of GPTQ and SparseGPT is computed twice, with the library's f32 arithmetic and the same functions in f64, and must give
the same codes and masks, so an implementation with any sensible order of sums can be held to them exactly.
"""
import contextlib
import json
import pathlib

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams
from llmcompressor.modifiers.gptq import gptq_quantize
from llmcompressor.modifiers.gptq import helpers as gptq_helpers
from llmcompressor.modifiers.pruning.sparsegpt import sgpt_sparsify
from llmcompressor.modifiers.pruning.wanda import wanda_sparsify

HERE = pathlib.Path(__file__).parent
ROWS, COLUMNS, TOKENS, GROUP = 12, 96, 320, 32
DAMPING, BLOCK = 0.01, 128


def layer():
    """Weights of four decimals, and `Σ x xᵀ` of correlated activations that are small integers.

    The seed is the first that has no two equal sums of squares and no code or mask that hangs on the arithmetic.
    """
    random = torch.Generator().manual_seed(184)
    normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)
    weight = (normal(ROWS, COLUMNS) * 0.1 * torch.exp(0.4 * normal(1, COLUMNS))).mul(1e4).round().div(1e4)
    loud = torch.exp(0.6 * normal(1, COLUMNS))
    inputs = ((normal(TOKENS, 20) @ normal(20, COLUMNS) * 0.2 + 0.6 * normal(TOKENS, COLUMNS)) * loud).round()
    gram = inputs.T @ inputs
    assert len(set(gram.diagonal().tolist())) == COLUMNS, "the order of columns must not hang on ties"
    return weight.float(), gram


@contextlib.contextmanager
def precision(dtype):
    old = gptq_quantize.GPTQ_PRECISION, gptq_helpers.GPTQ_PRECISION, sgpt_sparsify.SGPT_PRECISION
    gptq_quantize.GPTQ_PRECISION = gptq_helpers.GPTQ_PRECISION = sgpt_sparsify.SGPT_PRECISION = dtype
    yield
    gptq_quantize.GPTQ_PRECISION, gptq_helpers.GPTQ_PRECISION, sgpt_sparsify.SGPT_PRECISION = old


def digits(value, places):
    """A number, or nested lists of them, with so many significant digits."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return [digits(item, places) for item in value] if isinstance(value, list) else float(f"{value:.{places}g}")


def gptq(weight, gram, bits, symmetric, actorder, dtype):
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=GROUP, actorder=actorder)
    groups = weight.view(ROWS, -1, GROUP)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    with precision(dtype):
        result, loss, fell_back = gptq_quantize.quantize_weight(
            weight.to(dtype).clone()[None], gram.to(dtype).clone()[None], scale.to(dtype)[None], zero[None], None, args, BLOCK, DAMPING
        )
    assert not fell_back.any()
    spread = scale.to(dtype).repeat_interleave(GROUP, 1)
    codes = (result[0] / spread + zero.to(dtype).repeat_interleave(GROUP, 1)).round().int()
    # Columns that no input reaches are set to zero before rounding, and the grids are those of the weights as given.
    assert torch.allclose((codes - zero.repeat_interleave(GROUP, 1)).to(dtype) * spread, result[0], rtol=1e-6, atol=0)
    return codes, scale, zero, loss.item()


def gptq_case(name, weight, gram, bits=4, symmetric=True, actorder=None, dead=()):
    gram = gram.clone()
    for column in dead:
        gram[column, :] = gram[:, column] = 0
    codes, scale, zero, _ = gptq(weight, gram, bits, symmetric, actorder, torch.float32)
    exact, _, _, loss = gptq(weight, gram, bits, symmetric, actorder, torch.float64)
    assert torch.equal(codes, exact), f"{name}: f32 and f64 disagree; take another seed"
    low = -(1 << (bits - 1))
    return {
        "name": name, "bits": bits, "symmetric": symmetric, "order": "activation" if actorder else "none", "dead": list(dead),
        "scales": digits(scale, 9), **({} if symmetric else {"zero_points": zero.int().tolist()}),
        "codes": ["".join(f"{code - low:x}" for code in row) for row in codes.tolist()], "loss": loss,
    }


def linear(weight):
    module = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    module.weight.data = weight.clone()
    return module


def bits_of(mask):
    return ["".join("1" if bit else "0" for bit in row) for row in mask.tolist()]


def sparsegpt_case(name, weight, gram, n, m, block):
    def run(dtype):
        module = linear(weight.to(dtype))
        with precision(dtype), torch.no_grad():
            return sgpt_sparsify.sparsify_weight(module, {module: gram.to(dtype).clone()}, 0.5, n, m, block, DAMPING, False)

    (_, single), (loss, double) = run(torch.float32), run(torch.float64)
    assert torch.equal(single == 0, double == 0), f"{name}: f32 and f64 disagree; take another seed"
    return {
        "name": name, "structure": f"{n}:{m}" if m else "none", "block": block, "pruned": bits_of(double == 0),
        "kept_weights": [digits(row[row != 0], 6) for row in double], "loss": loss,
    }


def wanda_case(name, weight, gram, n, m):
    module = linear(weight)
    pruned = wanda_sparsify.sparsify_weight(module, {module: gram.diagonal().float()}, 0.5, n, m) == 0
    scores = (weight.double().abs() * gram.diagonal().sqrt()).view(-1, m or COLUMNS).sort().values
    gaps = scores[:, scores.shape[1] // 2] / scores[:, scores.shape[1] // 2 - 1]
    assert (gaps > 1 + 1e-6).all(), "a mask must not hang on a tie"
    return {"name": name, "structure": f"{n}:{m}" if m else "none", "pruned": bits_of(pruned)}


def write(name, value):
    """JSON with each row of a matrix, each string and each plain value on a line of its own."""
    def text(value, depth):
        pad = " " * depth
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"{pad} {json.dumps(key)}: {text(item, depth + 1)}" for key, item in value.items()) + f"\n{pad}}}"
        if isinstance(value, list) and value and isinstance(value[0], (list, dict, str)):
            return "[\n" + ",\n".join(f"{pad} {text(item, depth + 1)}" for item in value) + f"\n{pad}]"
        return json.dumps(value, separators=(",", ":"))

    (HERE / name).write_text(text(value, 0) + "\n")


def main():
    weight, gram = layer()
    assert (weight != 0).all(), "a weight of zero would look pruned"
    write("layer.json", {
        "rows": ROWS, "columns": COLUMNS, "tokens": TOKENS, "weight": [[round(w, 4) for w in row] for row in weight.tolist()],
        "gram_upper": [row[at:] for at, row in enumerate(gram.long().tolist())],
    })
    cases = [
        gptq_case("int4 in order", weight, gram),
        gptq_case("int4 by activation, static groups", weight, gram, actorder="static"),
        gptq_case("int3 by activation, static groups", weight, gram, bits=3, actorder="static"),
        gptq_case("int4 with zero points, by activation, static groups", weight, gram, symmetric=False, actorder="static"),
        gptq_case("int4 in order, dead inputs", weight, gram, dead=(5, 40)),
    ]
    assert cases[1]["codes"] == gptq_case("", weight, gram, actorder="weight")["codes"] != cases[0]["codes"]
    write("gptq.json", {"group": GROUP, "damping": DAMPING, "cases": cases})
    write("sparsegpt.json", {"damping": DAMPING, "sparsity": 0.5, "cases": [
        sparsegpt_case("half, one block", weight, gram, 0, 0, 128),
        sparsegpt_case("half, blocks of 32", weight, gram, 0, 0, 32),
        sparsegpt_case("2:4", weight, gram, 2, 4, 128),
    ]})
    write("wanda.json", {"sparsity": 0.5, "cases": [
        wanda_case("half of each row", weight, gram, 0, 0), wanda_case("2:4", weight, gram, 2, 4),
    ]})


if __name__ == "__main__":
    main()
