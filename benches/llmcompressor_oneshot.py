#!/usr/bin/env python3
"""Compresses a model with llm-compressor, on the windows that brevity uses; the peer of the other benchmarks.

    python3 benches/llmcompressor_oneshot.py MODEL_DIR TEXT --method gptq --out DIR [--bits 4] [--group 64] [--samples 16]

Methods: gptq (symmetric, its default order: static groups, columns by falling activation), gptq-in-order (columns as they
are), sparsegpt and wanda (half of the weights; with `--structure 2:4` two of each four). Everything that is not named
here is its default: the sequential pipeline, damping 0.01, blocks of 128 columns, the output layer left alone.
Prints one line of JSON: seconds to read the model, to compress and to write, without the imports.
Needs torch, transformers, datasets and llmcompressor.
"""
import argparse
import json
import pathlib
import time

from common import windows


def recipe(args):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    if args.method.startswith("gptq"):
        from llmcompressor.modifiers.gptq import GPTQModifier

        weights = QuantizationArgs(num_bits=args.bits, type="int", symmetric=True, strategy="group", group_size=args.group)
        more = {"actorder": None} if args.method == "gptq-in-order" else {}
        return GPTQModifier(config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"], **more)
    structure = {"none": "0:0"}.get(args.structure, args.structure)
    if args.method == "sparsegpt":
        from llmcompressor.modifiers.pruning import SparseGPTModifier as Modifier
    else:
        from llmcompressor.modifiers.pruning import WandaPruningModifier as Modifier
    return Modifier(sparsity=0.5, mask_structure=structure, targets=["Linear"], ignore=["re:.*lm_head"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--method", required=True, choices=["gptq", "gptq-in-order", "sparsegpt", "wanda"])
    parser.add_argument("--structure", default="none", choices=["none", "2:4"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from loguru import logger
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.remove()  # its lines go to standard output otherwise
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    loaded = time.perf_counter()
    ids = windows(args.model, args.text.read_text(encoding="utf-8"), args.samples, args.length).tolist()
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * args.length] * args.samples})
    oneshot(model=model, tokenizer=tokenizer, dataset=data, recipe=recipe(args), max_seq_length=args.length,
            num_calibration_samples=args.samples, shuffle_calibration_samples=False)
    compressed = time.perf_counter()
    model.save_pretrained(args.out, save_compressed=args.method.startswith("gptq"))
    tokenizer.save_pretrained(args.out)
    saved = time.perf_counter()
    print(json.dumps({"seconds_load": loaded - started, "seconds_compress": compressed - loaded,
                      "seconds_save": saved - compressed, "seconds": saved - started}))


if __name__ == "__main__":
    main()
