"""Titles and readings of the figures of notebook 07: sentences that code chooses by what was found.

Each function is named after a figure and gives (title, sentences), for `Recorder.figure` and
`Recorder.reading`; a sentence is None where there is nothing to say.
"""

from collections.abc import Mapping, Sequence

from refusal.base.estimate import Estimate
from refusal.report.rules import Record
from refusal.report.shown import interval, percent, points, signed, two, why

Said = tuple[str, list[str | None]]


def behaviour(refused: Mapping[str, float]) -> Said:
    """Of the share refused by group."""
    each = ", ".join(f"{percent(share)} of {group}" for group, share in refused.items())
    return f"By itself the model refuses {each} prompts", [
        f"The model refuses {each} prompts. Seeds are harmless requests that were not chosen by how they are "
        "answered; a twin is a pseudo-harmful prompt without its alarming word."
    ]


def search(evolution: Record, fitness: Record, recombination: Record, annealing: Record) -> Said:
    """Of 07.search.* that compare arms of equal budget."""
    title = (
        f"What the search holds at its end scores {signed(evolution.number('score_apart'))} nats above the "
        f"best of as many tries, {signed(fitness.number('score_apart'))} above what is picked without its "
        "fitness"
    )
    return title, [
        f"Every arm may score as many texts of each seed. What the search holds at its end is refused "
        f"{percent(evolution.number('found'))} of the time, the best of as many single and double mutations "
        f"{percent(evolution.number('best_of'))} ({why(evolution)}), texts picked without the fitness "
        f"{percent(fitness.number('no_fitness'))} ({why(fitness)}).",
        f"Recombination changes the score of what is found by {signed(recombination.value)} nats "
        f"({why(recombination)}), annealing by {signed(annealing.value)} ({why(annealing)}).",
    ]


def arms(raised: Record, judged: Record, transfer: Record, other: str) -> Said:
    """Of 07.search.raises, .judge and .transfer."""
    title = (
        f"Found texts are refused {percent(raised.number('found'))} of the time in greedy answers and "
        f"{percent(judged.number('found_sampled'))} in sampled ones, their seeds "
        f"{percent(raised.number('seeds'))} and {percent(judged.number('seeds_sampled'))} ({raised.verdict})"
    )
    return title, [
        f"Found texts are refused {points(raised.value)} more often than the harmless requests that they "
        "hold "
        f"word for word ({why(raised)}); neutral wrappers, found by the same search, "
        f"{points(raised.number('neutral'))}.",
        f"In sampled answers the gain is {points(judged.number('sampled'))}, by a classifier of answers "
        f"{points(judged.number('other_judge'))} ({why(judged)}).",
        f"*{other}*, which the search never asked, refuses them {points(transfer.value)} more often than the "
        f"seeds ({why(transfer)})."
        if transfer.verdict != "uninformative"
        else f"Of another model nothing can be said: {why(transfer)}.",
    ]


def mutators(families: Mapping[str, float], neutral: float | None) -> Said:
    """Of the mean change of the score by family, the highest first."""
    best = next(iter(families), None)
    if best is None:
        return "No mutator was tried alone", ["No text with one mutator was scored."]
    ranked = ", ".join(f"{name} {signed(x)}" for name, x in families.items())
    title = f"One mutator of the family {best} moves the score by {signed(families[best])} nats"
    return f"{title}, a neutral one by {signed(neutral)}" if neutral is not None else title, [
        f"Change of the refusal score by one mutator around the bare seed, by family: {ranked}."
        + (f" A neutral wrapper of the same length: {signed(neutral)}." if neutral is not None else "")
    ]


def fitness(r: Record, sd: float) -> str:
    """Of 07.fitness.stands."""
    return (
        f"Over {r.n} texts the score of one pass and the paper's fitness from sampled answers have a rank "
        f"correlation of {interval(r)} ({why(r)}); the fitness as released has "
        f"{two(r.number('released_form'))} with that of the paper. Of five answers "
        f"{two(r.number('distinct_answers'))} are distinct, and the fitness has a standard deviation of "
        f"{two(sd)}."
    )


def order(reached: Mapping[str, Mapping[str, float]]) -> str:
    """Of how often the released code reaches a mutator."""
    each = "; ".join(
        f"where {share} of texts are safe, scenario in {percent(by['scenario'])} and other sensitive words "
        "in "
        f"{percent(by['sensitive'])} of rounds"
        for share, by in reached.items()
    )
    return f"The released code asks its mutators in a fixed order and stops at four that are safe: {each}."


def judges(r: Record) -> str:
    """Of 07.judge.list."""
    return (
        f"The published list flags {percent(r.number('found'))} of the answers to found texts that the judge "
        f"does not call refusals, and {percent(r.number('seeds'))} of those to the seeds: {interval(r)} "
        f"({why(r)})."
    )


def factorial(word: Record, context: Record) -> Said:
    """Of 07.word and 07.context.ignored."""
    title = (
        f"An alarming word raises the refusal score by {signed(word.value)} nats ({word.verdict}); a context "
        f"that makes plain it is harmless takes {percent(context.value)} of that ({context.verdict})"
    )
    return title, [
        f"With the alarming word the score is {interval(word)} nats higher than with the calm one "
        f"({why(word)}), in {percent(word.number('share_raised'))} of the pairs; a swap between two calm "
        "words "
        f"moves it by {signed(word.number('neutral_swap'))}.",
        f"After a clause that says nothing the word's effect is {signed(context.number('idle'))}, after "
        "one that "
        f"makes plain that the request is harmless {signed(context.number('plain'))}: {interval(context)} "
        "of it "
        f"is taken away ({why(context)})."
        if context.value is not None
        else None,
    ]


def attribution(occlusion: Record, gradient: Record, signed_first: float | None) -> Said:
    """Of 07.attribution.*."""
    title = (
        f"Leaving out words ranks the alarming one first in {percent(occlusion.number('first'))} of requests "
        f"({occlusion.verdict}), the gradient's norm in {percent(gradient.number('first'))} "
        f"({gradient.verdict})"
    )
    return title, [
        f"By chance it would be {percent(occlusion.number('chance'))}. What leaving the word out says goes "
        "with "
        f"what the swap to the calm word proves with a rank correlation of "
        f"{two(occlusion.number('spearman_swap'))}, the gradient's norm with "
        f"{two(gradient.number('spearman_swap'))}.",
        f"Gradient times input, which has a sign, ranks it first in {percent(signed_first)}."
        if signed_first is not None
        else None,
    ]


def mitigation(over: Record, safe: Record, evolved: Record, cost: Estimate) -> Said:
    """Of 07.mitigation.*, and of how much worse ordinary text is predicted after training on found texts."""
    turned = lambda r: points(None if r.value is None else -r.value)
    title = (
        f"Trained on found texts the model refuses {turned(over)} of pseudo-harmful prompts "
        f"({over.verdict}) and {turned(safe)} of harmful ones ({safe.verdict})"
    )
    return title, [
        f"Pseudo-harmful prompts are refused {percent(over.number('before'))} of the time before and "
        f"{percent(over.number('after'))} after ({why(over)}); after training on ordinary requests and "
        f"refusals alone {percent(over.number('plain_only'))}.",
        f"Harmful ones: {percent(safe.number('before'))} before, {percent(safe.number('after'))} after. "
        f"That they fall by less than five points is {why(safe)}; refusals of harmful requests are part of "
        "what is taught.",
        f"Against training on random mutations of the same seeds {points(evolved.value)} more are gained "
        f"({why(evolved)}).",
        f"The price: ordinary text costs the copy {interval(cost)} nats a token more than before.",
    ]


def in_words(records: Sequence[Record]) -> str:
    """What came out, in words."""
    by, said = {r.id.removeprefix("07."): r for r in records}, []
    if (r := by.get("search.raises")) and r.value is not None:
        said.append(
            f"Texts that hold a harmless request word for word and are found by the search are refused "
            f"{points(r.value)} more often in greedy answers ({r.verdict}), "
            f"{points(by['search.judge'].number('sampled'))} in sampled ones; that going on from what was "
            f"found beats as many independent tries is {by['search.evolution'].verdict}."
        )
    if (r := by.get("word")) and r.value is not None:
        said.append(
            f"An alarming word raises the refusal score by {two(r.value)} nats ({r.verdict}), and that the "
            f"context is ignored is {by['context.ignored'].verdict}."
        )
    if (r := by.get("mitigation.over")) and r.value is not None:
        said.append(
            f"Training changes false refusals by {points(-r.value)} (that they fall is {r.verdict}) and "
            "those "
            f"of harmful prompts by {points(-(by['mitigation.safe'].value or 0.0))} (that these stay is "
            f"{by['mitigation.safe'].verdict})."
        )
    return " ".join(said) or "Nothing can be said of over-refusal here; the records give the reason."
