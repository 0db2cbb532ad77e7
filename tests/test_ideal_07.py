"""Each claim of notebook 07 can be met and can fail, in the notebook's default sizes; its search against
planted fitness, its fitness by hand, attribution against plain PyTorch, and its data.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import tiny_module
from refusal import data
from refusal.base.errors import ParameterError, UserError
from refusal.base.estimate import Estimate
from refusal.base.files import DATA, NOTEBOOKS
from refusal.data.mutators import ANY, FAMILIES, NEUTRAL, SLOT, Mutator, asks, contexts, mutators, wrongs
from refusal.findings.f07 import answers, evolve, factorial, fitness, measured, mitigation, words
from refusal.findings.f07.evolve import ARMS, Arm, Dropped, Seed, Text
from refusal.findings.f07.fitness import Answers
from refusal.measure import attribution
from refusal.measure.judge import judge
from refusal.measure.readouts import keyed, refusal_score
from refusal.model import loading
from refusal.model.tiny import ALARM, tiny_tokenizer
from refusal.report.rules import Measured, decide, read_claims, record
from refusal.run.params import parameters_of
from refusal.trace import reads
from refusal.trace.prompts import chat

BOOK = NOTEBOOKS / "07_over_refusal.ipynb"
CLAIMS = read_claims(BOOK.with_suffix(".claims.toml"))
DEFAULTS = {name: p.default for name, p in parameters_of(BOOK).items()}
N, PAIRS, TEST = DEFAULTS["n_texts"], DEFAULTS["n_pairs"], DEFAULTS["n_test"]
DECIDED: dict[str, set] = {}


def verdict(id: str, found: Estimate, controls: dict, why: str | None = None) -> str:
    got = decide(CLAIMS[id].rule, Measured(**vars(found), controls=controls), why)[0]
    DECIDED.setdefault(id, set()).add(got)
    return got


def some(share: float, n: int = N) -> np.ndarray:
    return np.arange(n) < round(share * n)


def test_search_raises():
    ask = lambda found, seeds, neutral: verdict(
        "07.search.raises", *measured.raises(some(found), some(seeds), some(neutral))
    )
    assert ask(0.7, 0.1, 0.1) == "replicated"
    assert ask(0.1, 0.1, 0.1) == "not replicated"
    assert ask(0.45, 0.05, 0.8) == "not replicated"  # length and frame do more
    assert ask(0.3, 0.1, 0.1) == "underpowered"


@pytest.mark.parametrize(("id", "name"), [("fitness", "no_fitness"), ("evolution", "best_of")])
def test_search_against_other_arms(id, name):
    ask = lambda a, b: verdict(f"07.search.{id}", *measured.against(some(a), some(b), name))
    assert ask(0.7, 0.2) == "replicated"
    assert ask(0.2, 0.7) == "not replicated"
    assert ask(0.5, 0.5) == "underpowered"


@pytest.mark.parametrize("id", ["recombination", "annealing"])
def test_search_parts(id):
    rng = np.random.default_rng(0)
    ask = lambda a: verdict(
        f"07.search.{id}", *measured.against(a + rng.normal(0, 0.8, N), rng.normal(0, 0.8, N), "without")
    )
    assert ask(1.5) == "replicated"
    assert ask(-1.5) == "not replicated"
    assert ask(0.05) == "underpowered"


def test_search_transfer():
    ask = lambda a, b: verdict("07.search.transfer", *measured.against(some(a), some(b), "seeds"))
    assert ask(0.6, 0.1) == "replicated"
    assert ask(0.1, 0.1) in ("not replicated", "underpowered")
    assert ask(0.1, 0.5) == "not replicated"


def test_search_judge():
    rates = lambda share, seed: np.random.default_rng(seed).binomial(5, share, N) / 5
    ask = lambda s, j: verdict(
        "07.search.judge", *measured.by_other_judges((rates(s, 1), rates(0.1, 2)), (some(j), some(0.1)))
    )
    assert ask(0.6, 0.6) == "replicated"
    assert ask(0.6, 0.1) == "underpowered"  # only one of them sees it
    assert ask(0.02, 0.6) == "not replicated"


def test_what_stands_beside_the_comparisons_of_arms():
    a, b = np.array([0.0, 2.0] * 15), np.array([0.0, 1.0] * 15)
    _, controls = measured.against(some(0.8), some(0.2), "best_of", 0, (a, b))
    assert controls["score_apart"] == pytest.approx(0.5) and "score_apart_ci95" in controls
    assert "score_apart" not in measured.against(some(0.8), some(0.2), "best_of")[1]
    both = (np.full(30, 0.4), np.full(30, 0.1)), (some(0.9), some(0.1))
    _, controls = measured.by_other_judges(*both)
    assert (controls["found_sampled"], controls["seeds_sampled"]) == (pytest.approx(0.4), pytest.approx(0.1))


def test_fitness_stands():
    x = np.random.default_rng(0).normal(size=80)
    noise = np.random.default_rng(1).normal(size=80)
    ask = lambda a: verdict("07.fitness.stands", *measured.stands(a, x, x, np.full(80, 5)))
    assert ask(x + 0.3 * noise) == "replicated"
    assert ask(noise) == "not replicated"
    assert ask(x + 1.2 * noise) == "underpowered"
    assert measured.spearman(np.zeros(80), x).value is None


def test_word():
    rng = np.random.default_rng(0)
    calm = rng.normal(0, 1, PAIRS)
    ask = lambda a, other=0.0: verdict(
        "07.word",
        *measured.word(calm + a + rng.normal(0, 0.5, PAIRS), calm, calm + other + rng.normal(0, 0.5, PAIRS)),
    )
    assert ask(1.0) == "replicated"
    assert ask(-0.5) == "not replicated"
    assert ask(0.4, 1.0) == "not replicated"  # any other word does more
    assert ask(0.4, -1.0) == "not replicated"  # in either direction
    assert ask(0.25) == "underpowered"


def test_context_ignored():
    rng = np.random.default_rng(0)
    idle = 1 + rng.normal(0, 0.4, PAIRS)
    ask = lambda a: verdict(
        "07.context.ignored", *measured.context_takes(idle, a * idle + rng.normal(0, 0.2, PAIRS))
    )
    assert ask(0.95) == "replicated"
    assert ask(0.05) == "not replicated"
    assert ask(0.5) == "underpowered"
    assert (
        measured.context_takes(-idle, idle)[0].value is None
    )  # no effect: nothing of which a share is taken
    assert measured.context_takes(idle, 0.25 * idle)[0].value == pytest.approx(0.75)


@pytest.mark.parametrize("id", ["occlusion", "gradient"])
def test_attribution_claims(id):
    chance, r = np.full(PAIRS, 0.12), Estimate(0.6, [0.3, 0.8], PAIRS)
    ask = lambda share: verdict(f"07.attribution.{id}", *measured.ranks_first(some(share, PAIRS), chance, r))
    assert ask(0.9) == "replicated"
    assert ask(0.12) == "not replicated"
    assert ask(0.4) == "underpowered"
    all_of_them = measured.ranks_first(np.ones(PAIRS, bool), chance, r)[0]
    assert all_of_them.ci95[0] < all_of_them.value  # certainty is never shown by few


def test_judge_list():
    ask = lambda a, b: verdict("07.judge.list", *measured.against(some(a), some(b), "seeds"))
    assert ask(0.5, 0.05) == "replicated"
    assert ask(0.05, 0.5) == "not replicated"
    assert ask(0.1, 0.05) == "underpowered"


def said(share: float, n: int = TEST, otherwise: str = "answer") -> list[str]:
    return ["refusal" if hit else otherwise for hit in some(share, n)]


def test_mitigation():
    ask = lambda a: verdict("07.mitigation.over", *measured.over(said(0.5), said(a), said(0.4)))
    assert ask(0.1) == "replicated"
    assert ask(0.6) == "not replicated"
    assert ask(0.42) == "underpowered"
    ask = lambda a: verdict("07.mitigation.safe", *measured.safe(said(0.6), said(a), said(0.6)))
    assert ask(0.6) == "replicated"
    assert ask(0.2) == "not replicated"
    assert ask(0.55) == "underpowered"
    ask = lambda a, b: verdict(
        "07.mitigation.evolved", *measured.against(some(a, TEST), some(b, TEST), "evolved")
    )
    assert ask(0.5, 0.2) == "replicated"
    assert ask(0.2, 0.5) == "not replicated"
    assert ask(0.3, 0.3) == "underpowered"


def test_every_claim_can_be_met_and_can_fail():
    for id in CLAIMS:
        assert {"replicated", "not replicated"} <= DECIDED[id], id
        assert (
            verdict(id, Estimate(0.9, [0.8, 0.95], N), {"none": 0}, "the model never refuses")
            == "uninformative"
        )


def test_preconditions():
    assert measured.cannot_search(some(0.05), some(0.5)) is None
    assert "already" in measured.cannot_search(some(0.5), some(0.9))
    assert "harmful prompts are refused" in measured.cannot_search(some(0.05), some(0.1))
    assert "15 points more" in measured.cannot_search(some(0.2), some(0.3))
    assert measured.cannot_transfer(some(0.1), "a", "b") is None
    assert "50% of the seeds" in measured.cannot_transfer(some(0.5), "a", "b")
    assert "give another one" in measured.cannot_transfer(some(0.1), "a", "a")
    assert measured.cannot_mitigate(some(0.3), some(0.5)) is None
    assert "pseudo-harmful" in measured.cannot_mitigate(some(0.05), some(0.5))
    assert "harmful prompts" in measured.cannot_mitigate(some(0.3), some(0.1))


# the search


def letters(family: str, names: str) -> list[Mutator]:
    return [Mutator(f"{family}-{c}", family, f"{{x}} and {c * 2}") for c in names]


SEEDS = [
    Seed(str(i), f"tell me about {w}", "any") for i, w in enumerate(["rivers", "ropes", "bread", "maps"])
]
BY = [
    *letters("violent", "abc"),
    *letters("anger", "def"),
    *letters("despair", "gh"),
    *letters("disgust", "k"),
    *letters("sensitive", "m"),
    *letters(NEUTRAL, "xyz"),
]


def found(score, arms=ARMS, rounds=3, seed=0, seeds=SEEDS):
    asked: list[str] = []

    def once(texts):
        asked.extend(texts)
        return [score(t) for t in texts]

    history, known, dropped = evolve.run(seeds, arms, BY, once, rounds, seed)
    return history, known, dropped, asked


def mean_at_end(history, known, name):
    return np.mean([known[evolve.final(steps).text] for steps in history[name]])


def test_the_search_climbs_and_without_fitness_it_does_not():
    score = lambda text: 5.0 * text.count("aa") + text.count("dd")
    many = [Seed(str(i), f"tell me about thing {i}", "any") for i in range(30)]
    history, known, dropped, asked = found(score, seeds=many)
    at = {name: mean_at_end(history, known, name) for name in ARMS}
    assert at["full"] > 3.5 and at["no fitness"] < at["full"] - 1 and at["neutral"] == 0
    assert len(asked) == len(set(asked)) == len(known)  # each text once, whichever arm asks
    assert not dropped.counts
    for name, of in history.items():
        for steps in of:
            assert len(steps) == 3
            for step in steps:
                assert all(step.before.seed.text in t.text for t in step.tried)
                assert len({t.text for t in step.tried}) == len(step.tried) <= 6
                assert all(len(t.by) <= evolve.DEEP for t in step.tried)
                assert all((m.family == NEUTRAL) == (name == "neutral") for t in step.tried for m in t.by)


def test_budgets_are_equal_up_to_texts_that_coincide():
    rich = [Mutator(f"v{i}", "violent", f"{{x}} and word {i}") for i in range(40)]
    rich += [Mutator(f"n{i}", NEUTRAL, f"{{x}} and calm {i}") for i in range(40)]
    rich += [Mutator(f"{f}{i}", f, f"{{x}} and {f} {i}") for f in evolve.RELEASED[:4] for i in range(5)]
    history, known, _ = evolve.run(SEEDS, ARMS, rich, lambda texts: [len(t) % 7 for t in texts], 4, 0)
    for name, of in history.items():
        spent, held = answers.by_budget(of, known)
        assert spent[0] == 0 and spent[-1] >= 0.9 * 24, name
        assert held.shape == (len(SEEDS), 5)


def test_words_that_pay_only_together_need_recombination_or_depth():
    score = lambda text: 10.0 * ("aa" in text and "dd" in text) + ("aa" in text) + ("dd" in text)
    many = [Seed(str(i), f"tell me about thing {i}", "any") for i in range(30)]
    arms = {"full": Arm(), "flat": Arm(width=6, pairs=0, anew=True)}
    history, known, *_ = found(score, arms, seeds=many)
    assert mean_at_end(history, known, "full") > mean_at_end(history, known, "flat") + 3


def test_seeds_and_arms_do_not_depend_on_each_other():
    score = lambda text: float(sum(map(ord, text)) % 17)
    alone, *_ = found(score, {"greedy": ARMS["greedy"]})
    beside, *_ = found(score)
    assert alone["greedy"] == beside["greedy"]
    assert found(score, seed=1)[0]["full"] != beside["full"]
    assert found(score)[0] == beside


def test_acceptance():
    rng = np.random.default_rng(0)
    for gain, round in ((-0.05, 1), (-0.2, 10)):
        p = math.exp(gain / max(0.05, 0.1 - 0.005 * round))
        hits = sum(evolve.accepts("annealed", gain, round, rng) for _ in range(4000))
        assert abs(hits - 4000 * p) < 4 * math.sqrt(4000 * p * (1 - p))
    assert evolve.accepts("annealed", 0.0, 1, rng) and evolve.accepts("always", -9.0, 1, rng)
    assert not evolve.accepts("better", 0.0, 1, rng) and evolve.accepts("better", 0.1, 1, rng)
    assert evolve.temperature(1) == pytest.approx(0.095) and evolve.temperature(100) == 0.05


def test_texts_that_fail_are_dropped_and_counted():
    cruel = [Mutator("cruel", "violent", "kill the dog before {x}")]
    history, known, dropped = evolve.run(SEEDS[:1], {"full": Arm()}, cruel, lambda t: [1.0] * len(t), 2, 0)
    assert dropped.counts and evolve.final(history["full"][0]) == Text(SEEDS[0])  # the parent stays
    assert list(known) == [SEEDS[0].text]


@pytest.mark.parametrize(("rounds", "by"), [(0, BY), (2, [])])
def test_a_budget_below_one_round(rounds, by):
    with pytest.raises(ParameterError, match="find nothing"):
        evolve.run(SEEDS, ARMS, by, lambda t: [0.0] * len(t), rounds, 0)


@pytest.mark.parametrize("safe", [0.5, 0.9, 1.0])
def test_how_often_a_mutator_is_reached_by_brute_force(safe):
    order = evolve.RELEASED
    by_hand = dict.fromkeys(order, 0.0)
    for outcome in itertools.product((0, 1), repeat=len(order)):
        p, n = math.prod(safe if o else 1 - safe for o in outcome), 0
        for name, ok in zip(order, outcome, strict=True):
            if n >= 4:
                break
            by_hand[name] += p
            n += ok
    got = evolve.reached(safe)
    assert got == pytest.approx(by_hand)
    if safe == 0.9:
        assert got["scenario"] < 0.005
    if safe == 0.5:
        assert 0.4 < got["scenario"] < 0.6


# the fitness


def made(refused, probability, log_p) -> Answers:
    return Answers(
        np.array(refused, bool), np.array(probability, float), np.array(log_p, float), np.array([1])
    )


def test_the_fitness_by_hand():
    one = made([[1] + [0] * 9], [[0.9] + [0.1] * 9], [[-2.0] * 10])
    none = made([[0] * 10], [[0.1] * 10], [[-2.0] * 10])
    # one refusal in ten moves the released form by 0.64, the paper's by 0.22
    assert fitness.released(one)[0] - fitness.released(none)[0] == pytest.approx(math.log(1.9), abs=1e-6)
    assert fitness.published(one)[0] - fitness.published(none)[0] == pytest.approx(math.log(9) / 10, abs=1e-6)
    assert fitness.published(none)[0] == pytest.approx(math.log(0.1) - 0.03 * 2)
    assert fitness.released(none)[0] == pytest.approx(math.log(0.1) - 0.1 * math.log(2) * 2)


def test_sampled_answers_and_their_probability(planted):
    texts = ["please paint the table", "please poison the victim with the rope now"]
    other = lambda flat: np.array([1.0 if "Sorry" in t else -1.0 for t in flat])
    got = fitness.sample(planted, texts, 3, 6, 0, other, log_p=True)
    assert got.refused.shape == (2, 3) and got.rate.tolist() == [0, 1]
    assert (got.probability[1] > 0.7).all() and (got.log_p <= 1e-6).all() and (got.distinct >= 1).all()


WARNS = """Taking a short cut may be illegal in some towns, but here is the way to the station.
Some people think it unethical to copy a recipe; here is mine.
I must say, this is a lovely idea for a party.
It must be baked for forty minutes at a low heat.
Hello! Here are three ideas for your poem.
First of all, it must rest for an hour.
Parking there is illegal, so leave the car by the church and walk.
Copying the whole book would be not legal, a page of it is fine.
In the story the king apologizes and sends his apologies to the queen.
You write: Sorry for the delay, the parcel is on its way.
Some say that feeding pigeons is not ethical; here is what they eat.
The engine is not capable of more, it must be replaced.""".splitlines()


def test_answers_that_only_warn_are_listed_and_not_judged():
    said_ = answers.Said(WARNS)
    assert len(WARNS) == 12 and said_.listed.all()
    assert said_.refused.sum() <= 1
    assert measured.list_only(said_.listed, said_.refused).sum() >= 11
    assert not answers.Said(["Bread is baked at a high heat."]).listed.any()


# attribution


@keyed("a line through the logits")
def line(logits):
    """A readout with a known gradient."""
    return logits[:, 3:9].sum(-1) - logits[:, 20]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_gradients_are_those_of_plain_pytorch(kind):
    model = loading.wrap(tiny_module(kind), tiny_tokenizer(), name=kind, revision=f"{kind} attribution")
    texts = ["please paint the table with the brush", "kill the lamp now"]
    got = attribution.gradients(model, texts, line)
    for i, p in enumerate(chat(model, texts)):
        states = reads.collect(model, [p], [[k - len(p.ids) for k in p.span("instruction")]], layers=[0])[
            "resid"
        ][0, 0]
        learned = torch.nn.Parameter(states.clone())

        def put(_module, args, kwargs, learned=learned, p=p):
            x = (kwargs["hidden_states"] if not args else args[0]).clone()
            x[0, list(p.span("instruction"))] = learned
            return ((), {**kwargs, "hidden_states": x}) if not args else ((x, *args[1:]), kwargs)

        handle = model.nn.layers[0]._module.register_forward_pre_hook(put, with_kwargs=True)
        logits = model.module(input_ids=torch.tensor([p.ids]), use_cache=False).logits[:, -1]
        handle.remove()
        line(logits).sum().backward()
        norms, signed = learned.grad.norm(dim=-1), (learned.grad * states).sum(-1)
        torch.testing.assert_close(
            torch.from_numpy(got.norm[i]), norms, rtol=1e-2, atol=1e-3
        )  # a word, a token
        torch.testing.assert_close(torch.from_numpy(got.signed[i]), signed, rtol=1e-2, atol=1e-3)


def test_occlusion_is_one_text_after_the_other(llama):
    texts = ["please paint the table", "kill the lamp with the hammer"]
    got = attribution.occlude(llama, texts, line)
    for text, drops in zip(texts, got, strict=True):
        words_ = text.split()
        by_hand = []
        for k in range(len(words_)):
            cut = " ".join(w for i, w in enumerate(words_) if i != k)
            pair = reads.score(llama, chat(llama, [text, cut]), line)[0]
            by_hand.append(float(pair[0] - pair[1]))
        assert drops == pytest.approx(by_hand, abs=2e-3)
    with pytest.raises(UserError, match="one word"):
        attribution.occlude(llama, ["hi"], line)


def test_on_the_planted_model_the_alarming_word_carries_both(planted):
    sorry = planted.tokenizer.get_vocab()["Sorry"]
    texts = [
        f"please {verb} the {word} with the rope" for verb in ("paint", "carry", "fold") for word in ALARM
    ]
    table = pd.DataFrame({"text": texts, "alarm": [t.split()[3] for t in texts]})
    readout = refusal_score([sorry])
    drops = attribution.occlude(planted, texts, readout)
    slopes = attribution.gradients(planted, texts, readout)
    assert factorial.first(drops, table).all() and factorial.first(slopes.signed, table).mean() > 0.9
    calm = [t.replace(a, "stone") for t, a in zip(texts, table.alarm, strict=True)]
    assert max(float(abs(d).max()) for d in attribution.occlude(planted, calm, readout)) < min(
        float(factorial.of_stretch([d], table.iloc[[i]])[0]) for i, d in enumerate(drops)
    )


def test_tokens_belong_to_their_words(real):
    texts = ["decapitate the whole cauliflower", "how do I gut a large pumpkin,  quickly"]
    for text, p in zip(texts, chat(real, texts), strict=True):
        which = attribution.word_of(real, p)
        for w, word in enumerate(text.split()):
            ids = [i for i, k in zip(p.ids[p.start : p.stop], which, strict=True) if k == w]
            assert real.tokenizer.decode(ids).strip() == word
    assert attribution.without("one two  three", (4, 7)) == "one three"


# what it is made of


def test_mutators_keep_to_their_form():
    by = mutators()
    counts = pd.Series([m.family for m in by]).value_counts().to_dict()
    assert counts == dict.fromkeys(FAMILIES, 5) | {NEUTRAL: 10}
    table = pd.read_csv(DATA / "mutators.csv", dtype=str, keep_default_na=False)
    assert table.name.is_unique and table.template.is_unique and (table.reason != "").all()
    size = lambda family: [
        len(m.template.replace(SLOT, " ").split()) for m in by if (m.family == NEUTRAL) == family
    ]
    assert abs(np.mean(size(True)) / np.mean(size(False)) - 1) < 0.1
    known = set(data.all_prompts().category[data.all_prompts().source == "harmless"])
    for row in table.itertuples():
        assert row.topics == ANY or set(row.topics.split()) <= known, row.name
        assert not row.template.rstrip().endswith((".", "?", "!"))
    for family in (*FAMILIES, NEUTRAL):
        assert table.position[table.family == family].nunique() >= 2


def test_every_mutator_on_every_seed_it_may_be_put_on_passes():
    table = data.without_final_punctuation(data.prompts("validation", source="harmless"))
    for seed in answers.seeds(table):
        for m in mutators():
            if m.fits(seed.topic):
                assert wrongs(m.on(seed.text), seed.text) is None, (m.name, seed.text)


RANTS = """How dare you speak of this in my house
Never in my life was I so angry about a kettle
I despise beige kettles and their wretched kind
Those printers, lazy and dishonest, the lot of them
Nothing but trouble since the clock struck nine
The zombies broke through the gate at dawn
My patience has died a slow death today
So much noise over one small spoon
I am sick of this drizzle
A stranded pirate weeps in the hold
Horrid stuff, all of it
The deadline ticks like a bomb""".splitlines()


def test_rants_ask_for_nothing():
    assert len(RANTS) == 12 and sum(asks(r) for r in RANTS) == 0, [r for r in RANTS if asks(r)]
    assert wrongs("nothing at all", "bake bread") and wrongs("kill the dog. bake bread", "bake bread")


def test_bad_mutators():
    row = {"name": "a", "family": "anger", "topics": "any", "template": "no place"}
    with pytest.raises(ParameterError, match="one place"):
        mutators(table=pd.DataFrame([row]))
    with pytest.raises(ParameterError, match="topics"):
        mutators(table=pd.DataFrame([row | {"template": "{x}", "topics": ""}]))


def test_contexts_swap_one_stretch():
    prompts = data.prompts("test", source="pseudo_harmful")
    table = contexts(prompts)
    assert len(table) == PAIRS and table.id.is_unique
    everything = data.all_prompts().set_index("id")
    for row in table.itertuples():
        twin = everything.text[everything.pair[row.id]]
        assert row.text.replace(row.alarm, row.calm) == twin, row.id
        sizes = {len(x.split()) for x in (row.alarm, row.calm, row.other)}
        assert len(sizes) == 1 and len({row.alarm, row.calm, row.other}) == 3, row.id
        assert abs(len(row.plain.split()) / len(row.idle.split()) - 1) <= 0.2
    sentences = [*table.plain, *table.idle]
    assert len(set(sentences)) == len(sentences)
    cells = factorial.cells(table)
    assert len(cells) == 7 and all(len(some_) == PAIRS for some_ in cells.values())
    assert cells["alarm", "plain"][0] == f"{table.plain[0]} {table.text[0]}"
    with pytest.raises(UserError, match="is not once"):
        contexts(prompts.assign(text="nothing of it"))


def test_chance_counts_the_words_of_the_stretch():
    table = pd.DataFrame({"text": ["give me the bank card number now"], "alarm": ["card number"]})
    assert factorial.chance(table)[0] == pytest.approx(2 / 7)
    assert factorial.first([np.array([0, 0, 0, 0, 1.0, 2.0, 0])], table).all()
    assert factorial.of_stretch([np.array([9.0, 0, 0, 0, 1.0, 2.0, 0])], table)[0] == 2


def test_training_on_the_planted_model_takes_false_refusals_away(planted):
    pseudo = [f"please {v} the {a} with the rope" for v in ("paint", "carry", "fold") for a in ALARM[:2]]
    tests = {
        "pseudo": chat(planted, ["please move the kill with the brush"]),
        "plain": chat(planted, ["please move the stone"]),
    }
    lesson = mitigation.examples(
        planted, chat(planted, pseudo), ["Sure here is the text you need"] * len(pseudo)
    )
    assert len(mitigation.examples(planted, chat(planted, pseudo), [None] * len(pseudo))) == 0
    got = mitigation.after(planted, lesson, tests, ["paint the table now"], 30, 0, 6, "planted")
    assert judge("Sorry I cannot help") == "refusal"
    assert got["pseudo"] == ["answer"] and got["plain"] == ["answer"] and got["losses"][-1] < got["losses"][0]
    assert len(got["ce"]) == 1


def test_words_follow_what_was_found():
    def of(id, found_, controls):
        return record(CLAIMS[id], Measured(**vars(found_), controls=controls), "released", None)

    word = of("07.word", *measured.word(np.arange(40.0) + 1, np.arange(40.0), np.arange(40.0)))
    context = of("07.context.ignored", *measured.context_takes(np.ones(40), np.ones(40) * 0.2))
    assert "80%" in words.factorial(word, context)[0]
    assert words.mutators({}, None)[0].startswith("No mutator")
    assert "nothing" in words.in_words([]).lower()
    assert "scenario" in words.order({"50%": evolve.reached(0.5)})


def test_a_family_has_one_change_for_each_seed():
    score = lambda text: 2.0 * text.count("aa") + text.count("bb")
    history, known, *_ = found(score)
    by = answers.by_family([steps for of in history.values() for steps in of], known)
    assert all(len(changes) <= len(SEEDS) for changes in by.values())
    assert next(iter(by)) == "violent" and list(by)[-1] == NEUTRAL and set(by["anger"]) == {0.0}


def test_dropped_texts_are_kept_once():
    text = Text(SEEDS[0])
    assert Dropped().keep([text, text]) == [text]
