"""``shown.json``: what the cells of an executed notebook show, without the pictures' bytes, so that it can be
committed and a page be made from it.
"""

from collections.abc import Iterator, Sequence

FILE = "shown.json"
KINDS = ("text/markdown", "text/html")  # the first that an output has is kept
WIDGET = "application/vnd.jupyter.widget-view+json"  # shown, it would ask for a script from outside
OWN = ("run.opening(", "run.ledger()")  # what shows a box or a ledger: a page makes its own of the records


def shown(notebook: dict, figures: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """What each cell shows, by the cell's id, in order: ``{"figure": name}``, one of `KINDS`, or
    ``{"error": message}``; `figures` are the names of the notebook's pictures in order.

    What a cell prints is left out: it may be what a model answered.
    """
    names = iter(figures)
    found = {cell["id"]: list(_of(cell, names)) for cell in notebook["cells"] if cell.get("outputs")}
    return {id: outputs for id, outputs in found.items() if outputs}


def _of(cell: dict, names: Iterator[str]) -> Iterator[dict[str, str]]:
    own = any(call in "".join(cell["source"]) for call in OWN)
    for output in cell["outputs"]:
        data = output.get("data", {})
        kind = next((kind for kind in KINDS if kind in data), None)
        if "image/png" in data:
            yield {"figure": next(names, "")}
        elif output["output_type"] == "error":
            yield {"error": output["evalue"]}
        elif kind and WIDGET not in data and not (own and kind == "text/html"):
            yield {kind: "".join(data[kind])}
