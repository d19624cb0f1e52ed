"""Makes prompts.json: what lm-evaluation-harness asks for a few rows of each task, and what it takes as right.

    python tests/golden/tasks/make.py

The rows are made up, with the traps that real ones have: blanks at ends, brackets, accents, labels that are texts. Each
is written in every layout that our task reads; all layouts must give the same prompts. Made with lm_eval 0.4.13.
"""

import csv
import importlib.metadata
import io
import json
import pathlib
import tempfile

import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

HERE = pathlib.Path(__file__).parent
TASKS = pathlib.Path(lm_eval.tasks.__file__).parent

ARC = [
    {"id": "1", "question": "Which of these melts ice?", "answerKey": "B",
     "choices": {"text": ["a mirror", "a flame", "a shadow", "a magnet"], "label": ["A", "B", "C", "D"]}},
    {"id": "2", "question": "What does a caf\u00e9 sell? ", "answerKey": "3",
     "choices": {"text": ["sand", "stones", "coffee"], "label": ["1", "2", "3"]}},
]
OPENBOOK = [
    {"id": "1", "question_stem": "Frogs lay", "answerKey": " A",
     "choices": {"text": ["eggs", "bricks", "coins", "rain"], "label": ["A", "B", "C", "D"]}},
    {"id": "2", "question_stem": "What keeps a house warm?", "answerKey": "D",
     "choices": {"text": ["a hole", "snow", "an open door", "wool in the walls"], "label": ["A", "B", "C", "D"]}},
]
HELLASWAG = [
    {"activity_label": "Baking bread", "ctx_a": "A woman kneads dough.", "ctx_b": "she THEN", "label": "2",
     "endings": ["eats it raw.", "sings  to it [step] twice.", "puts it in the oven.", "paints [title] it."]},
    {"activity_label": "Home and Garden", "ctx_a": "[header] How to plant a tree [title] Dig.  [step] Make a hole.",
     "ctx_b": "", "label": "0", "endings": ["Put the tree in.", "Go home. ", "[substeps] Sleep.", "Swim."]},
]
PIQA = [
    {"goal": "How do I dry shoes?", "sol1": "Stuff them with paper.", "sol2": "Fill them with water.", "label": 0},
    {"goal": "open a jar", "sol1": "Sing.", "sol2": "Run hot water over the lid.", "label": 1},
]
WINOGRANDE = [
    {"sentence": "Ann thanked Beth because _ had helped her.", "option1": "Ann", "option2": "Beth", "answer": "2"},
    {"sentence": "The pot would not fit in the box, since the _ was too big. ", "option1": "pot", "option2": "box",
     "answer": "1"},
]
BOOLQ = [
    {"question": "is the sky blue on mars", "passage": "Mars -- The sky of Mars is butterscotch by day.", "label": 0},
    {"question": "do fish breathe in water", "passage": "Fish breathe with gills.", "label": 1},
]
LAMBADA = [
    {"text": "He looked for his keys all day, and in the end his wife found the keys"},
    {"text": "``Na\u00efve,'' she said.\nThey laughed at the word na\u00efve"},
]
TRUTHFUL = [
    {"question": "What do carrots do to eyes?",
     "mc1_targets": {"choices": ["Nothing special.", "They give night sight."], "labels": [1, 0]},
     "mc2_targets": {"choices": ["Nothing special.", "They feed you.", "They give night sight."], "labels": [1, 1, 0]}},
    {"question": "Is glass a liquid?",
     "mc1_targets": {"choices": ["No.", "Yes.", "Only in churches."], "labels": [1, 0, 0]},
     "mc2_targets": {"choices": ["No.", "Yes.", "Only in churches."], "labels": [1, 0, 0]}},
]
TRIVIA = [
    {"question": "Which bird cannot fly?", "answer": {"value": "Ostrich", "aliases": ["Ostrich", "Ostriches"]}},
    {"question": "Name the river in Paris", "answer": {"value": "Seine", "aliases": ["Seine", "La Seine"]}},
]
MMLU_DEV = [
    {"question": f"Example {n}, \"quoted\", with a comma?", "choices": [f"a{n}", f"b{n}", f"c{n}", f"d{n}"],
     "answer": n % 4, "subject": "high_school_geography"}
    for n in range(6)
]
MMLU = [
    {"question": "Which is a river? ", "choices": ["Nile", "Alps", "Gobi", "Malta"], "answer": 0,
     "subject": "high_school_geography"},
    {"question": "Statement 1\nStatement 2", "choices": ["True, True", "True, False", "False, True", "False, False"],
     "answer": 3, "subject": "high_school_geography"},
]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(
        [row["question"], *row["choices"], "ABCD"[row["answer"]]] for row in rows
    )
    return out.getvalue()


def foundry_choices(rows, query):
    return jsonl(
        {"query": query(row), "choices": row["choices"]["text"],
         "gold": row["choices"]["label"].index(row["answerKey"].strip())}
        for row in rows
    )


def foundry_winogrande(row):
    before, after = row["sentence"].split("_")
    return {"context_options": [before + row["option1"], before + row["option2"]], "continuation": after.strip(),
            "gold": int(row["answer"]) - 1}


def mc_task(row):
    pairs = {key: dict(zip(row[key]["choices"], row[key]["labels"])) for key in ["mc1_targets", "mc2_targets"]}
    return {"question": row["question"], **pairs}


MC = {"TruthfulQA_mc_task.json": json.dumps([mc_task(row) for row in TRUTHFUL])}
# name, configuration, rows, shots, layouts of files that our task reads
CASES = [
    ("arc_easy", "arc/arc_easy.yaml", ARC, [], [
        {"ARC-Easy/test.jsonl": jsonl(ARC)},
        {"arc_easy.jsonl": foundry_choices(ARC, lambda row: "Question: " + row["question"])}]),
    ("arc_challenge", "arc/arc_challenge.yaml", ARC, [], [{"ARC-Challenge/test.jsonl": jsonl(ARC)}]),
    ("openbookqa", "openbookqa/openbookqa.yaml", OPENBOOK, [], [
        {"openbookqa/test.jsonl": jsonl(OPENBOOK)},
        {"openbook_qa.jsonl": foundry_choices(OPENBOOK, lambda row: row["question_stem"])}]),
    ("hellaswag", "hellaswag/hellaswag.yaml", HELLASWAG, [], [{"hellaswag/validation.jsonl": jsonl(HELLASWAG)}]),
    ("piqa", "piqa/piqa.yaml", PIQA, [], [{"piqa/validation.jsonl": jsonl(PIQA)}]),
    ("winogrande", "winogrande/default.yaml", WINOGRANDE, [], [
        {"winogrande/validation.jsonl": jsonl(WINOGRANDE)},
        {"winogrande.jsonl": jsonl(foundry_winogrande(row) for row in WINOGRANDE)}]),
    ("boolq", "super_glue/boolq/default.yaml", BOOLQ, [], [
        {"boolq/validation.jsonl": jsonl(BOOLQ)},
        {"boolq.jsonl": jsonl({"question": r["question"], "passage": r["passage"], "answer": bool(r["label"])}
                              for r in BOOLQ)}]),
    ("lambada_openai", "lambada/lambada_openai.yaml", LAMBADA, [], [{"lambada_openai.jsonl": jsonl(LAMBADA)}]),
    ("truthfulqa_mc1", "truthfulqa/truthfulqa_mc1.yaml", TRUTHFUL, [], [MC]),
    ("truthfulqa_mc2", "truthfulqa/truthfulqa_mc2.yaml", TRUTHFUL, [], [MC]),
    ("triviaqa", "triviaqa/default.yaml", TRIVIA, [], [
        {"triviaqa_sm_sub.jsonl": jsonl(TRIVIA)},
        {"triviaqa_sm_sub.jsonl": jsonl(
            {"context": f"Question: {r['question']}\nAnswer:", "answer": r["answer"]["value"],
             "aliases": r["answer"]["aliases"]} for r in TRIVIA)}]),
    ("mmlu", "mmlu/default/mmlu_high_school_geography.yaml", MMLU, MMLU_DEV, [
        {"mmlu/test/high_school_geography_test.csv": table(MMLU),
         "mmlu/dev/high_school_geography_dev.csv": table(MMLU_DEV)}]),
]


def gold(task, doc):
    if task.config.process_results is not None:  # truthfulqa_mc2
        return [n for n, label in enumerate(doc["mc2_targets"]["labels"]) if label == 1]
    right = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(right, str) and right.isdigit():
        return int(right)
    return right


def ask(task, doc, shots):
    requests = task.construct_requests(doc, task.fewshot_context(doc, shots))
    requests = requests if isinstance(requests, list) else [requests]
    asked = {"gold": gold(task, doc)}
    if task.OUTPUT_TYPE == "generate_until":
        return {"prompt": requests[0].args[0], "until": requests[0].args[1]["until"], **asked}
    contexts, continuations = ([*dict.fromkeys(texts)] for texts in zip(*(request.args for request in requests)))
    assert [request.args for request in requests] == [(a, b) for a in contexts for b in continuations]
    return {"contexts": contexts, "continuations": continuations, **asked}


def case(name, path, rows, shots, layouts):
    with tempfile.TemporaryDirectory() as folder:
        config = load_yaml(TASKS / path)
        splits = {config.get("test_split") or config["validation_split"]: rows}
        if shots:
            splits["dev"] = shots
        for split in ["training_split", "validation_split", "test_split"]:
            if config.get(split) not in splits:
                config.pop(split, None)
        files = {}
        for split, of in splits.items():
            files[split] = str(pathlib.Path(folder) / f"{split}.jsonl")
            pathlib.Path(files[split]).write_text(jsonl(of))
        config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        task = ConfigurableTask(config=config)
        items = [ask(task, doc, 5 if shots else 0) for doc in task.eval_docs]
    return {"task": name, "layouts": layouts, "items": items}


def main():
    out = {"made_with": f"lm_eval {importlib.metadata.version('lm_eval')}", "cases": [case(*c) for c in CASES]}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in out["cases"])
    (HERE / "prompts.json").write_text(f'{{"made_with": "{out["made_with"]}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
