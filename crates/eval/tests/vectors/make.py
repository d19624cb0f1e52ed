"""Writes harness.json: how lm-evaluation-harness cuts tokens into windows, and cleans and counts pages of WikiText.

With lm-eval 0.4.13.
"""

import json
import re

from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window


def harness():
    cases = []
    for tokens, length in [(0, 4), (1, 4), (4, 4), (5, 4), (8, 4), (11, 4), (3, 1), (10, 7)]:
        ids = list(range(100, 100 + tokens))
        windows = map(make_disjoint_window, get_rolling_token_windows(ids, 7, length, 1))
        cases.append({"tokens": ids, "prefix": 7, "length": length, "windows": [list(w) for w in windows]})
    pages = [
        " = Robert <unk> = \n \n Robert <unk> is an English film , television and theatre actor . He had a guest @-@ starring"
        " role on The Bill in 2000 . \n = = Career = = \n In 2004 <unk> landed a role as \" Craig \" in the episode \" Teddy 's"
        " Story \" ( of 1 @,@ 200 ) ; it cost 3 @.@ 5 million [ sic ] : why ? \n",
        "the dogs ' bowl , 45 ° N , { x } ! \n = = = Deep = = = \n",
    ]
    texts = [
        {"page": page, "text": wikitext_detokenizer({"page": page}), "words": len(re.split(r"\s+", page)), "bytes": len(page.encode())}
        for page in pages
    ]
    return {"windows": cases, "texts": texts}


if __name__ == "__main__":
    with open("harness.json", "w") as file:
        json.dump(harness(), file, ensure_ascii=False)
        file.write("\n")
