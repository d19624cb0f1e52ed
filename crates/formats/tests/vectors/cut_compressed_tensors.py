#!/usr/bin/env python3
"""Cuts the vectors made with compressed-tensors down to what the tests read.

usage: cut_compressed_tensors.py DIRECTORY

DIRECTORY holds ct_pack_int32.json, ct_pack_quantized.json, ct_int_quantized.json and ct_float_quantized.json: what
compressed-tensors 0.20.0 (torch 2.15) makes of small matrices, every tensor as {dtype, shape, data_hex, values}.
Dropped are the values (the bytes say the same), the notes, and all inputs but the matrices of two cases in which the
rounding is checked, too. Written beside this script, one case a line.
"""
import json
import pathlib
import sys

FILES = ["ct_pack_int32", "ct_pack_quantized", "ct_int_quantized", "ct_float_quantized"]
KEEP = ["name", "format", "quantization_args", "expected", "dequantized", "num_bits", "packed_dim", "q", "packed"]


def cut(value):
    if isinstance(value, dict):
        if "data_hex" in value:
            return {key: value[key] for key in ("dtype", "shape", "data_hex")}
        return {key: cut(inner) for key, inner in value.items()}
    return value


def shorter(case):
    short = {key: cut(case[key]) for key in KEEP if key in case}
    if case.get("name") in ("w4_group32_sym_f32", "w4_group32_asym_f32"):
        short["weight"] = cut(case["input"]["weight"])
    return short


source = pathlib.Path(sys.argv[1])
for name in FILES:
    whole = json.loads((source / f"{name}.json").read_text())
    cases = [json.dumps(shorter(case)) for case in whole["cases"]]
    text = '{"producer": %s, "cases": [\n%s\n]}\n' % (json.dumps(whole["producer"]), ",\n".join(cases))
    pathlib.Path(__file__).with_name(f"{name}.json").write_text(text)
