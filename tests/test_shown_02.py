"""What notebooks 02 and 02b say of their figures: titles and sentences on planted results, of either sign, of
every verdict, and where nothing was measured.
"""

import itertools
import re
from typing import get_args

import pytest
import torch

from refusal.base.estimate import NOTHING, Estimate
from refusal.base.files import NOTEBOOKS
from refusal.findings.f02 import words
from refusal.findings.f02b import categories
from refusal.findings.f02b import words as of_guard
from refusal.report.layout import TITLE, wide
from refusal.report.looks import STYLES
from refusal.report.rules import Measured, Verdict, read_claims, record

VERDICTS = get_args(Verdict)
CLAIMS = {
    id: claim
    for name in ("02_harmfulness_vs_refusal", "02b_latent_guard")
    for id, claim in read_claims(NOTEBOOKS / f"{name}.claims.toml").items()
}


def judged(id: str, value=0.5, within=0.1, n=40, verdict=None, **controls):
    """A record of a claim; with `verdict` that one, whatever the rule says."""
    ci95 = None if value is None else (value - within, value + within)
    found = record(
        CLAIMS[id], Measured(value=value, ci95=ci95, n=n, controls=controls or {"c": 1}), "released"
    )
    return found.model_copy(update={"verdict": verdict, "reason": "the reason"}) if verdict else found


def at(value: float, within=0.1, n=40) -> Estimate:
    return Estimate(value, [value - within, value + within], n)


def text(said: words.Said) -> str:
    title, sentences = said
    return " ".join([title, *filter(None, sentences)])


# 02


def test_the_inversion_task_says_what_half_is_and_never_that_a_model_does_not_judge():
    unsure = {"harmless": "the model is not shown to judge harm in words: AUC 0.47"}
    said = text(words.inversion_baseline(at(0.47), {"harmful": 0.0, "harmless": 0.97}, unsure))
    assert (
        "the AUC of Certainly, harmful against harmless requests, is 0.47 [0.37, 0.57]; 0.5 is guess" in said
    )
    assert "The model is not shown to judge harm in words" in said and "of harmless requests nothing" in said
    assert "informative" not in said
    assert "informative" in text(words.inversion_baseline(at(0.9), {"harmful": 1.0, "harmless": 1.0}, {}))


@pytest.mark.parametrize(
    "value, score", [(0.05, "score higher"), (-0.05, "score lower"), (0.005, "are not told from")]
)
def test_clusters_are_said_by_sign_and_with_their_control(value, score):
    by = [
        judged(f"02.cluster.{place}", value, 0.01, shuffled_labels_high=0.02, shuffles=40)
        for place in ("t_inst", "t_post")
    ]
    title, sentences = words.clusters_by_layer(*by)
    assert all(score in said and "shuffled labels give up to 0.02" in said for said in sentences)
    assert "accepted harmful prompts" in sentences[0] and "refused harmless prompts" in sentences[1]
    by = [
        r.model_copy(update={"verdict": v})
        for r, v in zip(by, ("not replicated", "underpowered"), strict=True)
    ]
    title, _ = words.clusters_by_layer(*by)
    assert "by harm at t_inst not found" in title and "at t_post not decided (underpowered)" in title


def test_clusters_of_groups_that_are_missing():
    none = [judged(f"02.cluster.{place}", None, n=0) for place in ("t_inst", "t_post")]
    assert "cannot be compared: only 0 items" in text(words.clusters_by_layer(*none))


def test_a_correlation_has_its_interval_and_none_is_said_of_few():
    means = {"refused harmful": (0.04, 0.02)}
    title, sentences = words.delta_scatter(at(-0.3, n=300), means)
    assert title.endswith("a correlation of -0.3 [-0.4, -0.2]") and "(+0.04, +0.02)" in sentences[0]
    title, sentences = words.delta_scatter(NOTHING, {})
    assert "correlation" not in title and sentences[0] is None and "too few" in sentences[1]


@pytest.mark.parametrize(
    "moved, gap, said",
    [
        (at(0.01, 0.005), at(0.1, 0.02), "less than half"),
        (at(0.08, 0.01), at(0.1, 0.02), "80% of the gap"),
        (at(0.05, 0.01), at(0.1, 0.02), "is not decided"),
        (at(0.0, 0.2), at(0.1, 0.02), "is not decided"),
        (at(0.01, 0.005), at(0.0, 0.02), "no gap to compare"),
        (at(0.01, 0.005), at(-0.1, 0.02), "no gap to compare"),
    ],
)
def test_a_full_stop_is_compared_by_its_interval(moved, gap, said):
    assert said in words.full_stop(moved, gap)


def test_a_full_stop_that_was_not_measured_is_not_said():
    assert words.full_stop(NOTHING, at(0.1)) is None and words.full_stop(at(0.1), NOTHING) is None


def test_a_sweep_is_said_with_the_range_of_random_directions():
    best = {
        ("harm", "instruction"): words.Best(10, -0.2, [-2.5, -1.0]),
        ("refuse", "instruction"): words.Best(14, -2.6, [-3.0, -2.0]),
        ("harm", "prompt"): words.Best(12, 1.1, [1.5, 2.0]),
    }
    best["refuse", "prompt"] = words.Best(22, 0.0, [-2.0, -2.0])
    title, sentences = words.steering_sweep(-2.4, best)
    assert title.endswith(
        "v_harm at 10 (instruction) and 12 (prompt), v_refuse at 14 (instruction) and 22 (prompt)"
    )
    assert (
        "v_harm on the instruction -0.2, beyond the 2 random directions there (-2.5 to -1.0)" in sentences[1]
    )
    assert "-2.6, within the 2" in sentences[1] and "1.1, below the 2" in sentences[1]
    assert sentences[2] == "At no layer is it raised by v_refuse on the instruction."
    assert words.steering_sweep(-9.0, best)[1][2] is None


def test_steering_rates_hold_each_verdict():
    of = {("harm", "instruction"): "replicated", ("refuse", "prompt"): "underpowered"}
    found = {
        (n, s): judged(f"02.steer.{n}.{s}", 0.6, verdict=v, random_direction_high=0.375)
        for (n, s), v in of.items()
    }
    title, sentences = words.steering_rates(found)
    assert "v_refuse on the prompt 60% (underpowered)" in title
    assert "the band of random directions ends at 38% (replicated)" in sentences[0]
    assert "(underpowered)" in sentences[1] and "the reason" not in sentences[1]


def test_a_sweep_of_judgements_says_the_share_even_where_it_is_none():
    best = {("harm", "prompt", "harmless"): (3, 0.0), ("refuse", "prompt", "harmless"): (5, 0.0)}
    title, sentences = words.inversion_sweep(best, 12)
    assert "at most 0% of validation" in title and "Most" not in sentences[0]
    assert "0% at layer 5 (v_refuse, harmless requests, prompt)" in sentences[0]


def test_judgements_under_steering_are_those_that_can_be_judged():
    told = [
        judged("02.inversion.harm.harmless", 0.9, verdict="replicated"),
        judged("02.inversion.dissociation.prompt", -0.4, verdict="not replicated"),
    ]
    title, sentences = words.inversion_rates(told)
    assert title == "+v_harm: Certainly to 90% of harmless requests (replicated)"
    assert sentences[1].startswith("On the same tokens (prompt), v_harm turns more") and sentences[
        1
    ].endswith("of 40, not replicated.")


@pytest.mark.parametrize("off, on", itertools.product(VERDICTS, repeat=2))
def test_a_single_direction_is_worded_by_its_verdicts(off, on):
    title, sentences = words.single_direction(
        judged("02.single.ablate", 0.09, verdict=off, random_direction_low=0.3125),
        judged("02.single.add", 0.59, verdict=on, random_direction_high=0.28),
    )
    whole = text((title, sentences))
    assert "begins at 31%" in whole and "ends at 28%" in whole and "9%" in title and "59%" in title
    if "uninformative" in (off, on):
        assert "No direction meets the conditions" in title and "Nothing is said" in sentences[0]
        return
    assert ("ends most refusals" in title) == (off == "replicated")
    assert ("not decided (" in title) == ("underpowered" in (off, on))
    assert ("does not make" in title) == (on == "not replicated")
    assert f"({off}" in sentences[0] and f"({on}" in sentences[1] and "the reason" not in whole


def test_a_single_direction_that_was_not_tried():
    none = [judged(f"02.single.{name}", None, n=0, verdict="uninformative") for name in ("ablate", "add")]
    assert "–" in text(words.single_direction(*none))


@pytest.mark.parametrize("value, falls", [(0.3, "falls"), (-0.3, "rises"), (0.05, "is not shown to change")])
def test_what_the_closing_tokens_do_is_said_by_sign(value, falls):
    controls = {"refusal_with": 0.7, "refusal_without": 0.4, "refusal_with_neutral_closing": 0.6}
    r = judged(
        "02.closing-tokens.drop", value, broken_without=0.25, broken_without_ci95=[0.2, 0.3], **controls
    )
    said = words.closing_tokens(r)
    assert f"refusal {falls} (the drop is {value:g} [" in said and "25% of all answers to cut prompts" in said
    assert "70%" in said and "40%" in said and "60%" in said
    assert "cannot be said: only 0 items" in words.closing_tokens(judged("02.closing-tokens.drop", None, n=0))


@pytest.mark.parametrize(
    "value, loss", [(0.07, "raises"), (-0.07, "lowers"), (0.001, "is not shown to change")]
)
def test_what_an_ablation_costs_is_said_by_sign(value, loss):
    random = {
        f"random_direction{end}": x for end, x in {"_low": -0.1, "_high": 0.2, "s": 20, "_n": 160}.items()
    }
    said = words.harmless_ablation(judged("02.single.harmless-ablation", value, 0.01, **random))
    assert (
        f"{loss} the loss on 40 paragraphs" in said
        and "20 random directions, on the first 8 paragraphs, is -0.1 to 0.2" in said
    )
    assert "random" not in words.harmless_ablation(judged("02.single.harmless-ablation", value, 0.01))
    assert "was not measured" in words.harmless_ablation(judged("02.single.harmless-ablation", None, n=0))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_positions_and_cosines_say_no_more_than_their_verdict(verdict):
    title, _ = words.positions(
        judged("02.positions.only-t_inst", 0.9, verdict=verdict, shuffled_labels_high=0.1)
    )
    assert ("not decided" in title) == (verdict in ("underpowered", "uninformative"))
    assert ("at no token after it" in title) == (verdict == "replicated")
    again = {"v_harm": 0.7, "v_refuse": float("nan")}
    title, sentences = words.cosines(judged("02.cosine.distinct", 0.4, verdict=verdict), 0.31, again)
    assert ("not decided" in title) == (verdict in ("underpowered", "uninformative"))
    assert title.endswith("below one half") == ("replicated" in verdict) and "0.4 [0.3, 0.5]" in title
    assert "0.7 (v_harm) and – (v_refuse)" in sentences[1]


def test_positions_and_cosines_that_were_not_measured():
    assert "could not be measured" in text(words.positions(judged("02.positions.only-t_inst", None, n=0)))
    assert "could not be freed" in text(
        words.cosines(judged("02.cosine.distinct", None, n=64), 0.3, {"v": 0.1})
    )


# 02b


def guard_said(accepted, caught, pseudo):
    pair = lambda x: (x, x)
    return of_guard.guard(
        pair(at(0.9)),
        pair(at(0.14)),
        pair(pseudo),
        pair(accepted),
        "TF-IDF",
        judged("02b.guard.false-positives", 0.14, verdict="underpowered"),
        judged("02b.guard.accepted-harmful", accepted.value, n=accepted.n, verdict=caught),
    )


def test_a_guard_is_said_with_both_verdicts_and_without_accepted_prompts():
    said = text(guard_said(at(0.88, n=76), "not replicated", at(0.38)))
    assert (
        "beyond harmless prompts and the bare text is not replicated." in said
        and "seldom flags harmless ones is underpowered" in said
    )
    none = text(guard_said(NOTHING, "underpowered", NOTHING))
    assert (
        "accepts none of the harmful prompts" in none and "– of pseudo-harmful" in none and "nan" not in none
    )


def test_areas_are_said_with_and_without_pseudo_harmful_prompts():
    gap = judged("02b.guard.beats-text", -0.04, verdict="not replicated")
    title, sentences = of_guard.guard_auroc((at(0.95), at(0.99)), (at(0.85), at(0.83)), "TF-IDF", gap)
    assert "AUROC 0.95, TF-IDF on the bare text 0.99" in title and "0.85 [0.75, 0.95]" in sentences[1]
    assert "that the guard is better is not replicated" in sentences[0]
    assert of_guard.guard_auroc((at(0.95), at(0.99)), (NOTHING, NOTHING), "TF-IDF", gap)[1][1] is None


def test_an_axis_of_areas_holds_every_interval():
    assert of_guard.limits([at(0.9), NOTHING]) == [0.4, 1.02]
    assert of_guard.limits([at(0.9), at(0.3)]) == [pytest.approx(0.18), 1.02]


def test_jailbreaks_lie_on_a_side_by_their_whole_interval():
    plain = {"harmful": at(0.5), "harmless": at(-0.5)}
    methods = {"template": at(0.2), "persuasion": at(0.05), "past tense": at(0.4, 0, n=1), "none": NOTHING}
    title, sentences = of_guard.jailbreak_scatter(plain, methods)
    assert title.endswith("whole interval above the middle: template")
    assert "persuasion 0.05 [-0.05, 0.15] (n 40), past tense 0.4 (n 1), none, none succeeded" in sentences[1]
    assert of_guard.jailbreak_scatter(plain, {"persuasion": at(-0.4)})[0].endswith("middle: none")
    for upside_down in (
        {"harmful": at(-0.5), "harmless": at(0.5)},
        {"harmful": at(0.1), "harmless": at(0.0)},
    ):
        assert "does not part" in of_guard.jailbreak_scatter(upside_down, methods)[0]


def test_jailbreaks_that_never_succeed():
    controls = {"attempts": 12, "wrapped_harmless_flagged": 0.1, "best_reader_harmful": None}
    found = {
        "template": judged(
            "02b.jailbreak.template", 0.85, verdict="replicated", best_reader_harmless=0.5, **controls
        ),
        "past tense": judged("02b.jailbreak.past-tense", None, n=0, attempts=320),
    }
    title, sentences = of_guard.jailbreak_flagged(found, "TF-IDF")
    assert title == "Successful jailbreaks flagged: template 85% (replicated)"
    assert "TF-IDF – and 50% (replicated)" in sentences[0] and "none of 320 attempts succeeds" in sentences[1]
    assert "none succeeded" in of_guard.jailbreak_flagged({"past tense": found["past tense"]}, "TF-IDF")[0]


def test_an_attack_that_did_not_work_and_areas_that_are_missing():
    stays = judged("02b.attack.representation-stays", None, n=48, auroc_before=0.95, auroc_after=None)
    title, sentences = of_guard.attack(192, (0.56, 0.5), stays)
    assert "50% of harmful requests are answered (56% before); the guard's AUROC is – (0.95)" in title
    assert sentences[1] is None and "representation stays is underpowered" in sentences[2]


@pytest.mark.parametrize(
    "value, than", [(0.3, "higher than"), (-0.3, "lower than"), (0.05, "not told from"), (None, None)]
)
def test_categories_are_said_by_sign_and_where_there_are_none(value, than):
    found = {
        source: judged(f"02b.categories.{source}", value, n=80, random_group_high=0.19, random_groups=100)
        for source in categories.BENCHMARKS
    }
    title, sentences = of_guard.categories(found)
    assert "()" not in text((title, sentences))
    if than:
        assert all(f"{than} that between harmfulness directions" in said for said in sentences[:2])
        assert ("HB yes" in title) == (value == 0.3) and ("HB no," in title) == (value < 0.1)
    else:
        assert sentences[-1] is None and "HB: underpowered" in sentences[0] and "undecided" in title


def test_a_category_counts_by_its_whole_interval():
    own = {"HB one": at(0.6), "HB two": at(0.54), "SR three": NOTHING}
    title, sentences = of_guard.category_steering(own, 0.45, at(0.25), 10)
    assert title.endswith("by their whole interval: 1 of 3 (layer 10)")
    assert sentences[0].startswith("At one norm, HB one makes harmless")
    assert "no category direction makes" in of_guard.category_steering(own, 0.5, at(0.25), 10)[1][0]
    # beyond random directions that do nothing, and not beyond no intervention
    assert "0 of 3" in of_guard.category_steering(own, 0.0, at(0.5, 0.2), 10)[0]


def test_directions_of_categories_are_compared_at_one_norm():
    given = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 0.5])}
    found = categories.at_one_norm(given, torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(found, {"a": torch.tensor([1.2, 1.6]), "b": torch.tensor([0.0, 2.0])})


LONG = {  # titles at their longest
    "clusters": words.clusters_by_layer(
        *(judged(f"02.cluster.{place}", 0.1, verdict="uninformative") for place in ("t_inst", "t_post"))
    ),
    "scatter": words.delta_scatter(at(-0.123, 0.0567), {}),
    "cosines": words.cosines(judged("02.cosine.distinct", 0.3456, verdict="underpowered"), 0.1, {}),
    "steering sweep": words.steering_sweep(
        0.0,
        {
            (name, span): words.Best(28, 1.0, [0.0])
            for name in ("harm", "refuse")
            for span in ("instruction", "prompt")
        },
    ),
    "steering rates": words.steering_rates(
        {
            (name, span): judged(f"02.steer.{name}.{span}", 1.0, verdict="not replicated")
            for name, span in (("harm", "instruction"), ("refuse", "prompt"))
        }
    ),
    "inversion rates": words.inversion_rates(
        judged(f"02.inversion.harm.{label}", 1.0, verdict="not replicated")
        for label in ("harmless", "harmful")
    ),
    "categories": of_guard.categories(
        {
            source: judged(f"02b.categories.{source}", 0.1, verdict="underpowered")
            for source in categories.BENCHMARKS
        }
    ),
    "category steering": of_guard.category_steering({str(i): at(1.0) for i in range(10)}, 0.5, at(0.2), 10),
    "jailbreaks": of_guard.jailbreak_flagged(
        {
            m.replace("-", " "): judged(f"02b.jailbreak.{m}", 1.0, verdict="not replicated", attempts=1)
            for m in ("template", "persuasion", "past-tense")
        },
        "TF-IDF",
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_a_title_leaves_a_slide_to_its_plot(name):
    style, title = STYLES["slide"], LONG[name][0]
    lines = 0.95 if name == "categories" else 1.9  # the names of its columns need the room
    assert wide(title, TITLE * style.scale, "bold") < lines * style.width, title


NUMBER = re.compile(r"^[-+]?[\d.]+%?$")


@pytest.mark.parametrize(
    "id", ["02.cosine.distinct", "02b.categories.harmbench", "02b.categories.strongreject"]
)
def test_a_papers_number_of_another_quantity_is_in_words(id):
    """Numbers of `paper_value` are drawn beside ours: those of another quantity are texts that name it."""
    values = CLAIMS[id].paper_value.values()
    assert all(isinstance(v, str) and not NUMBER.match(v) and re.search(r"cosine|in harm", v) for v in values)
