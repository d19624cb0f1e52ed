#!/usr/bin/env python3
"""Writes a synthetic, sharded bf16 checkpoint of Llama's layout; by default of Llama-2-7B's shape (13.5 GB).

    python3 benches/make_llama.py OUT [--layers 32] [--hidden 4096] [--ffn 11008] [--vocab 32000] [--heads 32] [--kv-heads 32] [--shards 3]

The weights are a block of normal numbers (standard deviation 0.02, fixed seed), read from a different place for each
tensor, so that writing is as fast as the disk. Needs nothing but Python.
"""
import argparse
import json
import pathlib
import random
import struct

BLOCK = 1 << 20  # numbers


def bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def tensors(args):
    kv = args.hidden // args.heads * args.kv_heads
    yield "model.embed_tokens.weight", [args.vocab, args.hidden]
    for n in range(args.layers):
        block = f"model.layers.{n}"
        yield f"{block}.input_layernorm.weight", [args.hidden]
        yield f"{block}.mlp.down_proj.weight", [args.hidden, args.ffn]
        yield f"{block}.mlp.gate_proj.weight", [args.ffn, args.hidden]
        yield f"{block}.mlp.up_proj.weight", [args.ffn, args.hidden]
        yield f"{block}.post_attention_layernorm.weight", [args.hidden]
        yield f"{block}.self_attn.k_proj.weight", [kv, args.hidden]
        yield f"{block}.self_attn.o_proj.weight", [args.hidden, args.hidden]
        yield f"{block}.self_attn.q_proj.weight", [args.hidden, args.hidden]
        yield f"{block}.self_attn.v_proj.weight", [kv, args.hidden]
    yield "model.norm.weight", [args.hidden]
    yield "lm_head.weight", [args.vocab, args.hidden]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    for name, default in [("layers", 32), ("hidden", 4096), ("ffn", 11008), ("vocab", 32000), ("heads", 32), ("kv-heads", 32), ("shards", 3)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    source = random.Random(0)
    values = [bf16(source.gauss(0.0, 0.02)) for _ in range(BLOCK)]
    block = struct.pack(f"<{BLOCK}H", *values) * 2
    ones = struct.pack("<H", bf16(1.0))

    def write(file, shape, n):
        count = 1
        for size in shape:
            count *= size
        if len(shape) == 1:
            file.write(ones * count)
            return
        start = 2 * (n * 104729 % BLOCK)
        while count > 0:
            take = min(count, BLOCK)
            file.write(block[start : start + 2 * take])
            count -= take
            start = (start + 2 * 15485863) % (2 * BLOCK)

    size = lambda shape: 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
    everything = list(tensors(args))
    total = sum(size(shape) for _, shape in everything)
    shards, filled = [[]], 0
    for name, shape in everything:
        if filled > total * len(shards) / args.shards:
            shards.append([])
        shards[-1].append((name, shape))
        filled += size(shape)
    weight_map, n = {}, 0
    for k, shard in enumerate(shards, 1):
        file_name = f"model-{k:05}-of-{len(shards):05}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shard:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size(shape)]}
            at += size(shape)
            weight_map[name] = file_name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(args.out / file_name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, shape in shard:
                write(file, shape, n)
                n += 1
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": args.hidden,
        "intermediate_size": args.ffn, "max_position_embeddings": 4096, "num_attention_heads": args.heads,
        "num_hidden_layers": args.layers, "num_key_value_heads": args.kv_heads, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": args.vocab,
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2))
    print(f"{args.out}: {total / 1e9:.2f} GB in {len(shards)} shards")


if __name__ == "__main__":
    main()
