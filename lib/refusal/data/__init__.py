"""Every text of the project: prompts with their roles, statements, what requests are put into, and labelled
answers.
"""

from refusal.data.constructive import (
    FRAMES,
    QUERY_KINDS,
    constructive,
    constructive_labels,
    declines,
)
from refusal.data.noncompliance import CATEGORIES, noncompliance, refusals_of
from refusal.data.statement_sets import NEGATED_SETS, STATEMENT_SETS, statements
from refusal.data.system_prompts import SYSTEM_KINDS, published_dro, system_prompts
from refusal.data.table import (
    BY_NAME_ONLY,
    ROLES,
    SOURCES,
    all_prompts,
    hashes,
    judge_cases,
    judged_answers,
    neutral_text,
    on_task,
    prompts,
    without_final_punctuation,
)
from refusal.data.wordings import (
    dialogue_frames,
    jailbreak_templates,
    past_tense_harmless,
    past_tense_requests,
    persuasions,
)

__all__ = [
    "BY_NAME_ONLY",
    "CATEGORIES",
    "FRAMES",
    "NEGATED_SETS",
    "QUERY_KINDS",
    "ROLES",
    "SOURCES",
    "STATEMENT_SETS",
    "SYSTEM_KINDS",
    "all_prompts",
    "constructive",
    "constructive_labels",
    "declines",
    "dialogue_frames",
    "hashes",
    "jailbreak_templates",
    "judge_cases",
    "judged_answers",
    "neutral_text",
    "noncompliance",
    "on_task",
    "past_tense_harmless",
    "past_tense_requests",
    "persuasions",
    "prompts",
    "published_dro",
    "refusals_of",
    "statements",
    "system_prompts",
    "without_final_punctuation",
]
