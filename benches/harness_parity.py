#!/usr/bin/env python3
"""Multiple choice by brevity and by lm-evaluation-harness: the same items, answer by answer, and how long each takes.

    python3 benches/harness_parity.py MODEL_DIR DATA [--tasks arc_easy mmlu ...] [--items 200] [--rounds 1]

DATA is a folder with `arc_easy.jsonl`, `openbook_qa.jsonl`, `winogrande.jsonl`, `TruthfulQA_mc_task.json` and
`mmlu/{dev,test}/*.csv`. The harness gets the same rows through its own task configurations, whose data sets are replaced by
local files; its `hf` backend runs in f32 on the processor with the best of the batch sizes. Its time is that of evaluation
alone, with model and data loaded; brevity's is that of the whole process. An answer is the option taken; for truthfulqa_mc2
it is the probability of the true answers, which has to agree within 1e-3. Needs lm_eval, torch and transformers; build
brevity with `cargo build --release`.
"""
import argparse
import csv
import json
import logging
import pathlib
import statistics
import tempfile
import time

from common import ROOT, run

TASKS = ["arc_easy", "openbookqa", "winogrande", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2"]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def rows_of(data, items):
    """task of the harness -> (configuration, rows, rows of examples), in the order in which brevity asks."""
    letters = "ABCDEFGH"

    def choices(texts):
        return {"text": texts, "label": list(letters[: len(texts)])}

    def targets(answers):
        return {"choices": list(answers), "labels": list(answers.values())}

    arc = [{"question": row["query"].removeprefix("Question: "), "choices": choices(row["choices"]),
            "answerKey": letters[row["gold"]]} for row in lines(data / "arc_easy.jsonl")[:items]]
    openbook = [{"question_stem": row["query"], "choices": choices(row["choices"]), "answerKey": letters[row["gold"]]}
                for row in lines(data / "openbook_qa.jsonl")[:items]]
    # The whole beginning of a sentence stands for the option.
    winogrande = [{"sentence": "_ " + row["continuation"], "option1": row["context_options"][0],
                   "option2": row["context_options"][1], "answer": str(row["gold"] + 1)}
                  for row in lines(data / "winogrande.jsonl")[:items]]
    truthful = [{"question": row["question"], "mc1_targets": targets(row["mc1_targets"]),
                 "mc2_targets": targets(row["mc2_targets"])}
                for row in json.loads((data / "TruthfulQA_mc_task.json").read_text(encoding="utf-8"))[:items]]
    all_rows = {
        "arc_easy": ("arc/arc_easy.yaml", arc, []),
        "openbookqa": ("openbookqa/openbookqa.yaml", openbook, []),
        "winogrande": ("winogrande/default.yaml", winogrande, []),
        "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", truthful, []),
        "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", truthful, []),
    }
    subjects = sorted(path.stem.removesuffix("_test") for path in (data / "mmlu/test").glob("*.csv"))
    for n, subject in enumerate(subjects):
        def questions(part):
            with open(data / f"mmlu/{part}/{subject}_{part}.csv", newline="", encoding="utf-8") as file:
                return [{"question": row[0], "choices": row[1:5], "answer": letters.index(row[5]), "subject": subject}
                        for row in csv.reader(file)]

        share = items // len(subjects) + (n < items % len(subjects))
        all_rows[f"mmlu_{subject}"] = (f"mmlu/default/mmlu_{subject}.yaml", questions("test")[:share], questions("dev"))
    return all_rows


def configured(scratch, name, configuration, rows, examples):
    """A configuration of the harness whose data are local files."""
    import lm_eval.tasks

    def write(part, rows):
        path = scratch / f"{name}.{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    files = {"test": write("test", rows)} | ({"dev": write("dev", examples)} if examples else {})
    include = pathlib.Path(lm_eval.tasks.__file__).parent / configuration
    (scratch / f"{name}.yaml").write_text(json.dumps({
        "include": str(include), "task": f"local_{name}", "dataset_path": "json", "dataset_name": None, "tag": None,
        "dataset_kwargs": {"data_files": files}, "test_split": "test", "validation_split": None, "training_split": None,
    }), encoding="utf-8")


def theirs(model, names, scratch, batch, shots):
    """Seconds, and the samples of each task."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager, get_task_dict

    tasks = get_task_dict([f"local_{name}" for name in names], TaskManager(include_path=str(scratch), include_defaults=False))
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=shots)
    model.batch_size_per_gpu = batch
    started = time.perf_counter()
    found = evaluator.evaluate(lm=model, task_dict=tasks, log_samples=True, bootstrap_iters=0)
    seconds = time.perf_counter() - started
    return seconds, {name: sorted(found["samples"][f"local_{name}"], key=lambda s: s["doc_id"]) for name in names}


def likeliest(values):
    return max(range(len(values)), key=lambda n: values[n])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batches", nargs="+", type=int, default=[8], help="batch sizes of the harness; the fastest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--brevity", default=str(ROOT / "target/release/brevity"))
    args = parser.parse_args()
    import torch
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    model = HFLM(pretrained=str(args.model), dtype="float32", device="cpu", batch_size=args.batches[0])
    rows = rows_of(args.data, args.items)
    total = [0.0, 0.0]
    print(f"{'task':16} {'items':>5} {'same':>5}   {'brevity':>8} {'harness':>8}   {'s':>6} {'s':>6} {'times':>6}")
    for task in args.tasks:
        names = [name for name in rows if name == task or task == "mmlu" and name.startswith("mmlu_")]
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            for name in names:
                configured(scratch, name, *rows[name])
            ours_seconds, theirs_seconds = [], []
            for _ in range(args.rounds):
                samples = scratch / "samples.jsonl"
                seconds, _, out = run([args.brevity, "eval", args.model, "--tasks", task, "--data", args.data, "--items", args.items,
                                       "--dtype", "f32", "--threads", args.threads, "--log-samples", samples, "--json"])
                ours_seconds.append(seconds)
                best = None
                for batch in args.batches:
                    seconds, found = theirs(model, names, scratch, batch, 5 if task == "mmlu" else 0)
                    best = seconds if best is None else min(best, seconds)
                theirs_seconds.append(best)
            ours = lines(samples)
            result = json.loads(out)["results"][task]["acc,none"]
        both = [sample for name in names for sample in found[name]]
        assert len(ours) == len(both), (len(ours), len(both))
        same, differing = 0, []
        for one, other in zip(ours, both):
            if task == "truthfulqa_mc2":
                agree = abs(one["values"]["acc"] - float(other["acc"])) < 1e-3
            else:
                weights = [float(response[0][0] if isinstance(response[0], (list, tuple)) else response[0])
                           for response in other["resps"]]
                agree = one["chosen"] == likeliest(weights)
                if not agree:
                    top = sorted(weights)[-2:]
                    differing.append(f"  item {one['id']}: {one['chosen']} for {likeliest(weights)}, its best two are "
                                     f"{top[1] - top[0]:.2g} nats apart; ours {sorted(one['log_probs'])[-2:]}")
            same += agree
        value = statistics.fmean(float(other["acc"]) for other in both)
        a, b = statistics.median(ours_seconds), statistics.median(theirs_seconds)
        total = [total[0] + a, total[1] + b]
        print(f"{task:16} {len(ours):5} {same / len(ours):5.1%}   {result:8.4f} {value:8.4f}   {a:6.1f} {b:6.1f} {b / a:6.2f}", flush=True)
        print("\n".join(differing[:10]), end="\n" if differing else "", flush=True)
    print(f"{'all':16} {'':5} {'':5}   {'':8} {'':8}   {total[0]:6.1f} {total[1]:6.1f} {total[1] / total[0]:6.2f}")


if __name__ == "__main__":
    main()
