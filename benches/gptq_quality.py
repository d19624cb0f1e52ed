#!/usr/bin/env python3
"""Perplexity after calibrated compression, by brevity and by llm-compressor on the same windows of the same text.

    python3 benches/gptq_quality.py MODEL_DIR CALIBRATION WIKI_RAW --out RESULTS.json [--rows 'gptq-*'] [--samples 16 64 128]

Rows are chosen by name or pattern, `--rows list` lists them; a recipe file under `--rows` is a row of its own. Each row is
compressed with the first so many windows of the calibration text and evaluated on the first windows of the other text,
brevity's by `brevity eval`, llm-compressor's files by transformers in f32. Results go to RESULTS.json as they come;
what is there already is not computed again. Seconds are those of the compression (see `gptq_speed.py`, which is the one
to measure them with). Needs torch, transformers, datasets and llmcompressor; build brevity with `cargo build --release`.
"""
import argparse
import fnmatch
import json
import pathlib
import sys
import tempfile

from common import ROOT, brevity_perplexity, compress, llmcompressor, run

RETARGET = "recover.retarget: {}"
# Damping and the range of each group as samples that are kept apart say; 0.01 is what the peer has.
INT4, INT3, INT2 = (
    f"quantize.gptq: {{bits: {bits}, group: 64, symmetric: true, scale_dtype: f16, damp: auto, range: auto}}" for bits in (4, 3, 2)
)

# Rounding to two bits without looking, and pruning with rounding: in one pass, and one behind the other.
RTN2 = "quantize.rtn: {bits: 2, group: 64, symmetric: true, range: mse, scale_dtype: f16}"
GRID = "{bits: 4, group: 64, symmetric: true, scale_dtype: f16}"
BEHIND = "quantize.gptq: {bits: 4, group: 64, symmetric: true, scale_dtype: f16, damp: 0.01}"

# row -> (a recipe of brevity or the steps of one, options of the peer); no calibration where the first is not `True`
ROWS = {
    "dense": (False, None, None),
    "rtn-int4": (False, "int4", None),
    "rtn-int3": (False, "int3", None),
    "rtn-int2": (False, [RTN2], None),
    "gptq-int4-classic": (True, "gptq-int4-classic", ["--method", "gptq"]),
    "gptq-int4-no-retarget": (True, [INT4], ["--method", "gptq"]),
    "gptq-int4": (True, "gptq-int4", ["--method", "gptq"]),
    "gptq-int3-no-retarget": (True, [INT3], ["--method", "gptq", "--bits", "3"]),
    "gptq-int3": (True, [RETARGET, INT3], ["--method", "gptq", "--bits", "3"]),
    "gptq-int2-no-retarget": (True, [INT2], ["--method", "gptq", "--bits", "2"]),
    "gptq-int2": (True, [RETARGET, INT2], ["--method", "gptq", "--bits", "2"]),
    "wanda50": (True, ["prune.wanda: {sparsity: 0.5}"], ["--method", "wanda"]),
    "wanda50-retarget": (True, [RETARGET, "prune.wanda: {sparsity: 0.5}"], ["--method", "wanda"]),
    "sparsegpt50": (True, ["prune.sparsegpt: {sparsity: 0.5}"], ["--method", "sparsegpt"]),
    "sparsegpt50-retarget": (True, [RETARGET, "prune.sparsegpt: {sparsity: 0.5}"], ["--method", "sparsegpt"]),
    "sparsegpt50-classic": (True, ["prune.sparsegpt: {sparsity: 0.5, damp: 0.01}"], ["--method", "sparsegpt"]),
    "sparse50-int4-jointly": (True, [f"prune.sparsegpt: {{sparsity: 0.5, damp: 0.01, quantize: {GRID}}}"], None),
    "sparse50-then-int4": (True, ["prune.sparsegpt: {sparsity: 0.5, damp: 0.01}", BEHIND], None),
    "2:4-int4-jointly": (True, [f'prune.sparsegpt: {{pattern: "2:4", damp: 0.01, quantize: {GRID}}}'], None),
    "2:4-then-int4": (True, ['prune.sparsegpt: {pattern: "2:4", damp: 0.01}', BEHIND], None),
    "wanda-2:4": (True, ['prune.wanda: {pattern: "2:4"}'], ["--method", "wanda", "--structure", "2:4"]),
    "wanda-2:4-retarget": (True, [RETARGET, 'prune.wanda: {pattern: "2:4"}'], ["--method", "wanda", "--structure", "2:4"]),
    "sparsegpt-2:4": (True, ['prune.sparsegpt: {pattern: "2:4"}'], ["--method", "sparsegpt", "--structure", "2:4"]),
    "sparsegpt-2:4-classic": (
        True, ['prune.sparsegpt: {pattern: "2:4", damp: 0.01}'], ["--method", "sparsegpt", "--structure", "2:4"],
    ),
    "sparsegpt-2:4-retarget": (
        True, [RETARGET, 'prune.sparsegpt: {pattern: "2:4"}'], ["--method", "sparsegpt", "--structure", "2:4"],
    ),
}


def recipe_of(steps, scratch):
    """A name as it is; steps as a recipe file, written dense where nothing is quantised and in our own layout below 4 bits."""
    if isinstance(steps, str):
        return steps
    format = "compressed-tensors" if INT4 in steps else "native" if {INT3, INT2} & set(steps) else "dense"
    path = pathlib.Path(scratch) / "recipe.yaml"
    path.write_text(f"about: A row of a benchmark\nformat: {format}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    return path


class Results:
    """Rows in a file, by side, name and number of samples; the file belongs to one set of settings."""

    def __init__(self, path, settings):
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {"settings": settings, "rows": {}}
        if self.content["settings"] != settings:
            raise SystemExit(f"{path} holds results of other settings: {self.content['settings']}")

    def row(self, name, compute):
        """The row of this name; computed and kept if it is not there, `None` if it cannot be computed."""
        rows = self.content["rows"]
        if name not in rows:
            try:
                rows[name] = compute()
            except SystemExit as failure:
                print(f"{name}: {failure}", flush=True)
                return None
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        return rows[name]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("calibration", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", default=["*"])
    parser.add_argument("--samples", nargs="+", type=int, default=[16])
    parser.add_argument("--sides", nargs="+", default=["brevity", "llm-compressor"], choices=["brevity", "llm-compressor"])
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"], help="arithmetic of `brevity eval`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    if args.rows == ["list"]:
        return print("\n".join(ROWS))
    files = [row for row in args.rows if row.endswith(".yaml")]
    table = ROWS | {pathlib.Path(file).stem: (True, file, None) for file in files}
    patterns = [pathlib.Path(row).stem if row in files else row for row in args.rows]
    chosen = [name for name in table if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    results = Results(args.out, {
        "model": args.model.name, "calibration": args.calibration.name, "text": args.text.name, "windows": args.windows,
        "length": args.length, "dtype": args.dtype,
    })

    def theirs_of(path):
        # A child, also because a child's peak memory counts that of the process which starts it.
        command = [sys.executable, ROOT / "benches/transformers_perplexity.py", path, args.text, "--tokenizer", args.model,
                   "--windows", args.windows, "--length", args.length, "--threads", args.threads]
        return json.loads(run(command)[2])

    def ours(calibrated, steps, samples):
        def of(path):
            return brevity_perplexity(args.brevity, path, args.text, args.windows, args.length, args.dtype)

        if steps is None:
            return {"perplexity": of(args.model)}
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            out = pathlib.Path(scratch) / "out"
            text = args.calibration if calibrated else None
            seconds, peak, report = compress(args.brevity, args.model, recipe_of(steps, scratch), out, text, samples,
                                             args.length, args.threads)
            return {"perplexity": of(out), "seconds": seconds, "peak_bytes": peak, "size_bytes": report["size_bytes_after"]}

    def theirs(more, samples):
        if more is None:
            return theirs_of(args.model)
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            out = pathlib.Path(scratch) / "out"
            _, peak, report = llmcompressor(args.model, args.calibration, more[1], out, samples, args.length,
                                            args.threads, more[2:])
            return theirs_of(out) | {"seconds": report["seconds"], "peak_bytes": peak}

    failed = []
    head = f"{'row':24} {'samples':>7}  {'brevity':>9} {'s':>7} {'MiB':>6}   {'llm-compressor':>14} {'s':>7} {'MiB':>6}   {'ratio':>6}"
    print(head)
    for name in chosen:
        calibrated, steps, more = table[name]
        for samples in args.samples if calibrated else [0]:
            cells, values = [], {}
            for side in ("brevity", "llm-compressor"):
                row = None
                if side == "brevity":
                    key, compute = f"brevity {name} {samples}", lambda: ours(calibrated, steps, samples)
                else:
                    # Rows that differ only in what brevity does share one result of the peer.
                    key, compute = f"llm-compressor {' '.join(more or ['dense'])} {samples}", lambda: theirs(more, samples)
                if side in args.sides and (side == "brevity" or more or name == "dense"):
                    row = results.row(key, compute)
                    failed += [] if row else [key]
                row = row or results.content["rows"].get(key if side == "brevity" or more or name == "dense" else None, {})
                values[side] = row.get("perplexity")
                width = 9 if side == "brevity" else 14
                cell = f"{row['perplexity']:{width}.3f}" if row else " " * width
                cell += f" {row['seconds']:7.1f} {row['peak_bytes'] / 2**20:6.0f}" if "seconds" in row else " " * 15
                cells.append(cell)
            ratio = f"{values['brevity'] / values['llm-compressor']:6.3f}" if all(values.values()) else ""
            print(f"{name:24} {samples or '':>7}  {cells[0]}   {cells[1]}   {ratio}", flush=True)
    if failed:
        raise SystemExit(f"not computed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
