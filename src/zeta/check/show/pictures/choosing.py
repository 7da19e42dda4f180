"""Which picture a finding has: its rule is about a kind of evidence, and each kind has one drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from zeta.check.facts.results import Results
from zeta.check.show.pictures import chains, curves, values
from zeta.check.show.pictures.groups import Group, groups

Drawing = Callable[[Group], str | None]

#: how each kind of evidence is drawn; nothing where the results hold too little of it
DRAWINGS: Final[Mapping[str, Drawing]] = {
    "output": curves.over_depth(curves.OUTPUT),
    "gradient": curves.over_depth(curves.BACKWARD),
    "dead": curves.over_depth(curves.DEAD),
    "saturated": curves.over_depth(curves.SATURATED),
    "entropy": curves.attention(curves.ENTROPY),
    "score": curves.attention(curves.SCORE),
    "jacobian": curves.over_depth(curves.SINGULAR),
    "step": curves.STEP,
    "own gradient": curves.OWN_GRADIENT,
    "width": curves.over_sizes("width"),
    "depth": curves.over_sizes("depth"),
    "values": values.against_plan,
    "units": values.units,
    "loss": values.loss,
    "spectral": values.spectral,
    "cut": chains.cut,
    "constant": chains.place("samples become equal here"),
    "mixing": chains.place("samples mix here"),
    "leak": chains.place("later tokens get in here"),
}

#: the kind of evidence of each rule; the others have nothing to draw
EVIDENCE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("Z103", "Z104", "Z201", "Z202", "Z203", "Z204", "Z206"), "values"),
    "Z301": "units",
    **dict.fromkeys(("Z401", "Z402", "Z403"), "output"),
    "Z404": "dead",
    "Z405": "saturated",
    **dict.fromkeys(("Z406", "Z905"), "constant"),
    **dict.fromkeys(("Z502", "Z503", "Z904"), "cut"),
    **dict.fromkeys(("Z504", "Z507"), "gradient"),
    "Z506": "own gradient",
    **dict.fromkeys(("Z601", "Z602"), "loss"),
    "Z603": "entropy",
    "Z604": "score",
    "Z701": "step",
    "Z801": "jacobian",
    "Z802": "spectral",
    "Z803": "width",
    "Z804": "depth",
    "Z805": "depth",
    "Z907": "mixing",
    "Z908": "leak",
}


def picture(group: Group) -> str | None:
    """The picture of a group of findings as SVG; nothing if there is nothing to draw."""
    kind = EVIDENCE.get(group.findings[0].rule.id)
    return None if kind is None else DRAWINGS[kind](group)


def pictures(results: Results) -> dict[int, str]:
    """The pictures, each by the position of its group's first finding."""
    drawn = {group.first: picture(group) for group in groups(results)}
    return {first: svg for first, svg in drawn.items() if svg is not None}
