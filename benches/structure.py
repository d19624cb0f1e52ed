#!/usr/bin/env python3
"""What fewer channels, heads, layers, dimensions and ranks cost: methods by shares of the parameters of blocks.

    python3 benches/structure.py MODEL_DIR C4 WIKI_RAW --facts FACTS.json --data DATA --out RESULTS.json [--plot PLOT.svg]
    python3 benches/structure.py --draw RESULTS.json [--plot PLOT.svg]

Each method takes 10, 20 and 30 % of the parameters of the blocks out of the model, calibrated on the first windows of C4, and the
result is compared with the model: perplexity and KL divergence on WikiText, facts by heart, arc_easy, bytes, tokens a second.
Results go to RESULTS.json as they come; what is there already is not computed again. The plot needs matplotlib. Build brevity
with `cargo build --release`.
"""
import argparse
import json
import pathlib
import tempfile

from common import ROOT, run

#: name -> the steps of a recipe for a share of the parameters of blocks; `{s}` is the share, `{k}` what is kept of it.
METHODS = {
    "modegpt": "decompose.modegpt: {{sparsity: {s}}}",
    "modegpt + residual": "decompose.modegpt: {{sparsity: {s}}}\n  - recover.residual: {{}}",
    "modegpt uniform": "decompose.modegpt: {{sparsity: {s}, allocation: uniform}}",
    "channels": "prune.channels: {{sparsity: {s}, of: block}}",
    "channels + residual": "prune.channels: {{sparsity: {s}, of: block}}\n  - recover.residual: {{}}",
    "channels nystroem": "prune.channels: {{sparsity: {s}, of: block, score: leverage}}",
    "channels leverage plain": "prune.channels: {{sparsity: {s}, of: block, score: leverage, compensate: none}}",
    "channels plain": "prune.channels: {{sparsity: {s}, of: block, compensate: none}}",
    "channels mean": "prune.channels: {{sparsity: {s}, of: block, compensate: mean}}",
    "channels centred": "prune.channels: {{sparsity: {s}, of: block, centre: true}}",
    "heads": "prune.heads: {{sparsity: {s}}}",
    "heads + residual": "prune.heads: {{sparsity: {s}}}\n  - recover.residual: {{}}",
    "heads plain": "prune.heads: {{sparsity: {s}, compensate: none}}",
    "layers": "prune.layers: {{sparsity: {s}}}",
    "layers + residual": "prune.layers: {{sparsity: {s}}}\n  - recover.residual: {{}}",
    "layers + norm": "prune.layers: {{sparsity: {s}}}\n  - recover.norm: {{}}",
    "layers by loss": "prune.layers: {{sparsity: {s}, by: loss}}",
    "sublayers": "prune.layers: {{sparsity: {s}, unit: sublayer}}",
    "slice": "decompose.slice: {{sparsity: {s}, grow: true}}",
    "svd": "decompose.svd: {{ratio: {k}}}",
    "asvd": "decompose.asvd: {{ratio: {k}}}",
    "svd_llm": "decompose.svd_llm: {{ratio: {k}}}",
    "svd_llm waterfill": "decompose.svd_llm: {{ratio: {k}, allocation: waterfill}}",
    "svd_llm aimed": "recover.retarget: {{}}\n  - decompose.svd_llm: {{ratio: {k}, allocation: waterfill}}",
    "afm aimed": "recover.retarget: {{}}\n  - decompose.afm: {{ratio: {k}, allocation: waterfill}}",
    "afm + bias": "decompose.afm: {{ratio: {k}}}\n  - recover.bias: {{}}",
    "afm": "decompose.afm: {{ratio: {k}}}",
    "afm without mean": "decompose.afm: {{ratio: {k}, mean: false}}",
    "mpo": "decompose.mpo: {{ratio: {k}, refine: 2}}",
}


def compress(args, steps, scratch, name):
    """A smaller model, and what making it took."""
    recipe, out = pathlib.Path(scratch) / "recipe.yaml", pathlib.Path(scratch) / name
    recipe.write_text(f"format: native\nsteps:\n  - {steps}\n")
    calibration = ["--text", args.calibration, "--samples", args.samples, "--length", args.length, "--draw", "first"]
    seconds, peak, _ = run([args.brevity, "compress", args.model, "--recipe", recipe, *calibration, "--out", out, "--compare", "none", "--json"])
    return out, seconds, peak


def measure(args, models):
    """The comparison of smaller models with the reference, as its report says it."""
    asked = ["--facts", args.facts, "--items", args.items] if args.facts else []
    speed = [] if args.no_speed else ["--speed"]
    text = ["--text", f"wikitext:{args.text}", "--window", args.length, "--limit", args.windows * args.length]
    report = json.loads(run([args.brevity, "compare", args.model, *models, *text, *asked, *speed, "--json"])[2])["report"]
    if args.data:
        tasks = ["--tasks", "arc_easy", "--data", args.data, "--items", args.task_items]
        more = json.loads(run([args.brevity, "compare", args.model, *models, "--text", "none", *tasks, "--json"])[2])["report"]
        for one, other in zip([report["reference"], *report["others"]], [more["reference"], *more["others"]]):
            one["scores"] += other["scores"]
    return report


def figures(model):
    """What the table shows of one model of a report."""
    scores = {(score["name"], score.get("task")): score["value"] for score in model["scores"]}
    values = {name: value for (name, task), value in scores.items() if task is None}
    values |= {task: value for (name, task), value in scores.items() if task is not None and name == "acc"}
    values |= {change["name"]: change["value"] for change in model.get("differences", []) if change["name"] == "kl_mean"}
    return values | {"bytes": model["size_bytes"], "speed": model.get("speed")}


def table(content):
    print(f"{'':26} {'share':>5} {'perplexity':>11} {'KL':>7} {'facts':>7} {'arc_easy':>8} {'MB':>7} {'prefill':>8} {'decode':>7} {'s':>6}")
    for name, row in [("dense", {"share": 0, "figures": content["dense"], "seconds": 0})] + list(content["rows"].items()):
        f = row["figures"]
        speed = f.get("speed") or {}
        cell = lambda value, form: format(value, form) if value is not None else "-"
        print(f"{name.rsplit(' ', 1)[0] if row['share'] else name:26} {row['share']:5} {cell(f.get('perplexity'), '11.2f')} {cell(f.get('kl_mean'), '7.3f')} "
              f"{cell(f.get('facts'), '7.4f')} {cell(f.get('arc_easy'), '8.3f')} {f['bytes'] / 1e6:7.1f} "
              f"{cell(speed.get('prefill_tokens_per_second'), '8.0f')} {cell(speed.get('decode_tokens_per_second'), '7.1f')} {row['seconds']:6.0f}")


def draw(content, path):
    """Perplexity against what is left of the bytes, a line for each method of which there are several shares."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "brevity", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    dense = content["dense"]
    shares = [row["method"] for row in content["rows"].values()]
    methods = [method for method in dict.fromkeys(shares) if shares.count(method) > 1]
    for method, mark in zip(methods, "osD^v<>pP*Xhd8" * 2):
        rows = sorted((row for row in content["rows"].values() if row["method"] == method), key=lambda row: row["share"])
        x = [100.0] + [100 * row["figures"]["bytes"] / dense["bytes"] for row in rows]
        axis.plot(x, [dense["perplexity"]] + [row["figures"]["perplexity"] for row in rows], marker=mark, markersize=4, label=method)
    axis.set_yscale("log")
    for of in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        of(lambda value, _: f"{value:g}")
    axis.invert_xaxis()
    axis.set_xlabel("bytes left, %")
    axis.set_ylabel("perplexity")
    axis.legend(fontsize=7, frameon=False, ncol=2)
    axis.set_title(content["model"], fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("calibration", nargs="?")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sample and of a window")
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--facts")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--data")
    parser.add_argument("--task-items", type=int, default=200)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--shares", nargs="*", type=float, default=[0.1, 0.2, 0.3])
    parser.add_argument("--no-speed", action="store_true", help="leave out tokens a second")
    parser.add_argument("--together", type=int, default=6, help="models that are measured beside the reference at once")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--draw", type=pathlib.Path, help="only draw these results")
    parser.add_argument("--plot", type=pathlib.Path)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    if args.draw:
        content = json.loads(args.draw.read_text())
    else:
        content = json.loads(args.out.read_text()) if args.out.exists() else {"model": pathlib.Path(args.model).name, "rows": {}}
        wanted = [(method, share) for method in args.methods for share in args.shares if f"{method} {share}" not in content["rows"]]
        # Of several models at once the reference is measured once.
        for some in (wanted[first:first + args.together] for first in range(0, len(wanted), args.together)):
            with tempfile.TemporaryDirectory() as scratch:
                made = [compress(args, METHODS[method].format(s=share, k=round(1 - share, 6)), scratch, f"{n}") for n, (method, share) in enumerate(some)]
                report = measure(args, [out for out, *_ in made])
            content["dense"] = figures(report["reference"])
            for (method, share), (_, seconds, peak), other in zip(some, made, report["others"]):
                content["rows"][f"{method} {share}"] = {
                    "method": method, "share": share, "figures": figures(other), "reference_speed": report["reference"].get("speed"),
                    "seconds": seconds, "peak_bytes": peak}
            args.out.write_text(json.dumps(content, indent=1) + "\n")
    table(content)
    if args.plot:
        draw(content, args.plot)


if __name__ == "__main__":
    main()
