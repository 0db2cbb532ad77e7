"""``python data/make_judged_answers.py MODEL FOLDER``: answers of a model for two raters to read, and the
table their labels go into.

Writes FOLDER/MODEL.csv with prompt_id, model, arm, sha256, text, in a shuffled order. The texts of answers to
harmful prompts stay outside the repository; ``judged_answers.csv`` holds their SHA-256 and labels only, so
labels are found again wherever a model says the same.
"""

import sys
from pathlib import Path

from refusal.findings.f10 import answers
from refusal.model import loading


def main(name: str, folder: str) -> None:
    found = answers.make(loading.load(name)).sample(frac=1, random_state=1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    found.to_csv(Path(folder) / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
