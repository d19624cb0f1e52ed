#!/usr/bin/env python3
"""What a model forgets before its perplexity tells: sweeps over sparsity and bits.

    python3 benches/knowledge_sweep.py tiny --out RESULTS.json [--plot PLOT.svg]
    python3 benches/knowledge_sweep.py MODEL_DIR --calibration C4 --text wikitext:WIKI_RAW --limit 40960 --facts FACTS.json \\
        --items 300 --tasks arc_easy --data DATA --task-items 200 --out RESULTS.json [--plot PLOT.svg]
    python3 benches/knowledge_sweep.py --draw RESULTS.json ... --plot PLOT.svg

Compresses the model by `wanda50` at several sparsities and by `gptq-int4` at several bits, and compares the results with it:
perplexity, KL divergence, facts asked without and with an open book, tasks. Then it looks for the finding of LLM-KICK (Jaiswal et
al. 2023, arXiv:2310.01382): a model whose perplexity has risen by less than 10 % while more than 5 % of what it knew by heart
is gone. Results go to RESULTS.json as they come; what is there already is not computed again. The plot needs matplotlib. Build
brevity with `cargo build --release`.
"""
import argparse
import json
import pathlib
import shutil
import tempfile

from common import ROOT, run

SPARSITIES = [0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7]
BITS = [8, 6, 5, 4, 3, 2]


def points(args):
    """name -> (family, strength, arguments of `compress`)."""
    wanda = {f"wanda {100 * s:.0f} %": ("sparsity", s, ["--recipe", "wanda50", "--set", f"prune.wanda.sparsity={s}"]) for s in args.sparsities}
    gptq = {f"gptq {b} bits": ("bits", b, ["--recipe", "gptq-int4", "--format", "native", "--set", f"quantize.gptq.bits={b}"])
            for b in args.bits}
    return wanda | gptq


def measure(args, arguments, scratch):
    """The comparison of one compressed model with the reference, as its report says it."""
    out = pathlib.Path(scratch) / "out"
    calibration = ["--text", args.calibration, "--samples", args.samples, "--length", 2048, "--draw", "first"] if args.calibration else []
    run([args.brevity, "compress", args.model, *arguments, *calibration, "--out", out, "--compare", "none", "--json"])
    asked = ["--facts", args.facts, "--open-book"] + (["--items", args.items] if args.items else [])
    text = ["--text", args.text] + (["--limit", args.limit] if args.limit else [])
    # Facts and tasks may be asked in different numbers.
    report = json.loads(run([args.brevity, "compare", args.model, out, *text, *asked, "--json"])[2])["report"]
    if args.tasks:
        tasks = ["--tasks", ",".join(args.tasks), "--data", args.data] + (["--items", args.task_items] if args.task_items else [])
        more = json.loads(run([args.brevity, "compare", args.model, out, "--text", "none", *tasks, "--json"])[2])["report"]
        report["reference"]["scores"] += more["reference"]["scores"]
        report["others"][0]["scores"] += more["others"][0]["scores"]
        report["others"][0]["differences"] += more["others"][0]["differences"]
    shutil.rmtree(out)
    return report


def figures(report):
    """What the plot and the table show of a report."""
    other = report["others"][0]

    def difference(name, on=None):
        found = [d for d in other["differences"] if d["name"] == name and (on is None or d.get("task") == on)]
        return (found[0]["value"], found[0].get("interval")) if found else (None, None)

    def score(model, task):
        return next((s["value"] for s in model["scores"] if s.get("task") == task), None)

    values = {"size_bytes": other["size_bytes"], "perplexity_ratio": difference("perplexity_ratio"), "kl_mean": difference("kl_mean")}
    for task in [s["task"] for s in report["reference"]["scores"] if "task" in s and s["name"] == "acc"]:
        before = score(report["reference"], task)
        change, interval = difference("acc", task)
        values[task] = {"before": before, "after": score(other, task), "relative": change / before,
                        "interval": [end / before for end in interval] if interval else None}
    facts = other["facts"]["all"]
    values["facts_lost"], values["facts_known"] = facts["lost"], facts["known"]
    return values


def table(results):
    tasks = [key for key, value in next(iter(results.values()))["figures"].items() if isinstance(value, dict)]
    print(f"{'':14} {'perplexity':>20} {'KL':>8} " + " ".join(f"{task:>24}" for task in tasks) + "  facts lost")
    for name, result in sorted(results.items(), key=lambda item: (item[1]["family"] == "bits", abs(item[1]["strength"] - 9 * (item[1]["family"] == "bits")))):
        f = result["figures"]

        def percent(value, interval, less=0.0):
            ends = f" [{100 * (interval[0] - less):.1f}, {100 * (interval[1] - less):.1f}]" if interval else ""
            return f"{100 * (value - less):+.1f} %{ends}"

        cells = " ".join(f"{percent(f[task]['relative'], f[task]['interval']):>24}" for task in tasks)
        print(f"{name:14} {percent(*f['perplexity_ratio'], 1.0):>20} {f['kl_mean'][0]:8.4f} {cells}  {f['facts_lost']} of {f['facts_known']}")
    hidden = [name for name, r in results.items() if r["figures"]["perplexity_ratio"][0] < 1.1 and r["figures"]["facts"]["relative"] < -0.05]
    sure = [name for name in hidden if results[name]["figures"]["facts"]["interval"][1] < -0.05]
    print(f"perplexity up by less than 10 % and recall down by more than 5 %: {', '.join(hidden) or 'nowhere'}"
          + (f"; surely so at {', '.join(sure)}" if sure else ""))


def draw(files, path):
    """One row of two panels for each file: relative change against sparsity, and against bits."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "brevity", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"})
    import matplotlib.pyplot as plt

    colours = {"facts": "#0072b2", "facts_open": "#56b4e9", "arc_easy": "#009e73"}
    labels = {"facts": "facts by heart", "facts_open": "the same facts, open book", "arc_easy": "arc_easy"}
    marks = {"facts": "o", "facts_open": "s", "arc_easy": "^"}
    figure, axes = plt.subplots(len(files), 2, figsize=(8.6, 3.1 * len(files)), squeeze=False)
    for row, file in zip(axes, files):
        content = json.loads(pathlib.Path(file).read_text())
        for axis, family in zip(row, ("sparsity", "bits")):
            chosen = sorted((r for r in content["points"].values() if r["family"] == family), key=lambda r: r["strength"])
            x = [100 * r["strength"] if family == "sparsity" else r["strength"] for r in chosen]
            for task in [t for t in labels if chosen and t in chosen[0]["figures"]]:
                values = [r["figures"][task] for r in chosen]
                y = [100 * (1 + v["relative"]) for v in values]
                low = [max(0.0, yy - 100 * (1 + v["interval"][0])) for yy, v in zip(y, values)]
                high = [max(0.0, 100 * (1 + v["interval"][1]) - yy) for yy, v in zip(y, values)]
                axis.errorbar(x, y, yerr=[low, high], marker=marks[task], color=colours[task], markersize=4, capsize=2, label=labels[task])
            other = axis.twinx()
            other.plot(x, [r["figures"]["perplexity_ratio"][0] for r in chosen], color="#d55e00", marker="x", linestyle="--", label="perplexity, ratio")
            other.set_yscale("log")
            other.set_ylim(0.95, 20)
            other.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
            other.minorticks_off()
            axis.set_ylim(0, 112)
            axis.set_xlabel("zeros, %" if family == "sparsity" else "bits")
            axis.set_title(f"{content['model']}: {'wanda' if family == 'sparsity' else 'gptq'}", fontsize=9)
            if family == "bits":
                axis.invert_xaxis()
                other.set_ylabel("perplexity, ratio")
            else:
                axis.set_ylabel("% of what it scored")
            handles = [h for a in (axis, other) for h in a.get_legend_handles_labels()[0]]
            names = [n for a in (axis, other) for n in a.get_legend_handles_labels()[1]]
            if axis is row[0]:
                axis.legend(handles, names, fontsize=7, loc="lower left", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--calibration", help="text for compression; `tiny` has its own")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--text", default="heldout")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--facts", default="tiny")
    parser.add_argument("--items", type=int, help="facts to ask")
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--data")
    parser.add_argument("--task-items", type=int)
    parser.add_argument("--sparsities", nargs="*", type=float, default=SPARSITIES)
    parser.add_argument("--bits", nargs="*", type=int, default=BITS)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    parser.add_argument("--draw", nargs="+", type=pathlib.Path, help="only draw these results")
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    if args.draw:
        for file in args.draw:
            table(json.loads(file.read_text())["points"])
        return draw(args.draw, args.plot) if args.plot else None
    content = json.loads(args.out.read_text()) if args.out.exists() else {"model": pathlib.Path(args.model).name, "points": {}}
    for name, (family, strength, arguments) in points(args).items():
        if name not in content["points"]:
            with tempfile.TemporaryDirectory() as scratch:
                report = measure(args, arguments, scratch)
            content["points"][name] = {"family": family, "strength": strength, "figures": figures(report)}
            args.out.write_text(json.dumps(content, indent=1) + "\n")
    table(content["points"])
    if args.plot:
        draw([args.out], args.plot)


if __name__ == "__main__":
    main()
