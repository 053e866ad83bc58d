"""What the demo found: answers judged against the scenes' truth, and the table that ends it."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from chorus.demo.scenes import Colour, Fact, Position, Scene, Shape
from chorus.demo.wording import read_caption


def judge_caption(text: str, scene: Scene) -> bool:
    """Whether a caption names every object's colour, shape and position rightly, and invents nothing."""
    return read_caption(text) == scene.facts


def judge_objects(answer: object, scene: Scene) -> bool:
    """Whether an answer lists the scene's objects exactly.

    Its form is `{"objects": [{"shape", "colour", "position"}, …]}`; any other form is not true.
    """
    facts = _read_objects(answer)
    return facts is not None and Counter(facts) == Counter(scene.facts)


def _read_objects(answer: object) -> list[Fact] | None:
    listed = answer.get("objects") if isinstance(answer, Mapping) else None
    if not isinstance(listed, list):
        return None
    try:
        return [
            Fact(Shape(entry["shape"]), Colour(entry["colour"]), Position(entry["position"]))
            for entry in listed
        ]
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolunteerTally:
    """What became of one volunteer's results; `conduct` is a word or two such as "honest"."""

    name: str
    conduct: str
    results: int
    agreed: int
    refused: int
    unjudged: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The demo in figures. Units count one perspective of one image.

    `refused` counts results that the cross-check judged to be wrong, by reason; `unjudged` those of units
    that ended without a verdict. `truth_correct` and `wrong_accepted`
    count accepted units and are None where the truth is not known. `lost` counts units that ended
    neither accepted nor exhausted, and acknowledged results that are gone.
    """

    images: int
    units: int
    results: int
    accepted: int
    exhausted: int
    lost: int
    seconds: float
    refused: Mapping[str, int] = field(default_factory=dict)
    unjudged: int = 0
    truth_correct: int | None = None
    wrong_accepted: int | None = None
    volunteers: tuple[VolunteerTally, ...] = ()

    @property
    def results_per_accepted(self) -> float | None:
        """Results asked for one accepted unit; None where none was accepted."""
        return round(self.results / self.accepted, 3) if self.accepted else None

    @property
    def sound(self) -> bool:
        """Whether nothing was lost and nothing wrong accepted: the demo's exit status."""
        return self.lost == 0 and not self.wrong_accepted

    def to_json(self) -> str:
        """One JSON object: every field, `results_per_accepted` and `sound`."""
        figures = asdict(self) | {"results_per_accepted": self.results_per_accepted, "sound": self.sound}
        return json.dumps(figures, indent=2, ensure_ascii=False) + "\n"


def table(tally: Tally) -> RenderableType:
    """The demo's last words: one line a figure, each with what it means, then one line a volunteer."""
    figures = Table(title="What became of it", title_justify="left", box=box.SIMPLE, show_header=False)
    figures.add_column(style="bold", no_wrap=True)
    figures.add_column(justify="right", no_wrap=True)
    figures.add_column()
    for name, value, words, style in _rows(tally):
        figures.add_row(name, value, words, style=style)
    return Group(figures, _volunteer_table(tally.volunteers)) if tally.volunteers else figures


def _rows(tally: Tally) -> list[tuple[str, str, str, str]]:
    """(name, figure, words, style) of each line."""
    ratio = tally.results_per_accepted
    rows = [
        ("images", f"{tally.images}", "pictures handed out", ""),
        ("units", f"{tally.units}", "questions asked: one perspective of one image each", ""),
        ("results", f"{tally.results}", "answers that volunteers returned", ""),
        (
            "accepted",
            f"{tally.accepted}",
            "units whose answers bore each other out",
            "",
        ),
    ]
    for reason, count in sorted(tally.refused.items()):
        rows.append(("refused", f"{count}", reason.replace("_", " "), ""))
    if tally.unjudged:
        rows.append(("not judged", f"{tally.unjudged}", "results of exhausted units", ""))
    rows += [
        (
            "exhausted",
            f"{tally.exhausted}",
            "units on which the volunteers could not agree: left to a person",
            "",
        ),
        (
            "results per accepted",
            "–" if ratio is None else f"{ratio:.2f}",
            "what the cross-check costs; two answers are the least",
            "",
        ),
    ]
    if tally.truth_correct is not None:
        share = f"accepted units that are true: {tally.truth_correct} of {tally.accepted}"
        rows.append(("correct", f"{tally.truth_correct}", share, "green"))
    if tally.wrong_accepted is not None:
        rows.append(_must_be_zero("wrong accepted", tally.wrong_accepted, "accepted units that are not true"))
    rows.append(_must_be_zero("lost", tally.lost, "units or acknowledged results that went missing"))
    rows.append(("seconds", f"{tally.seconds:.1f}", "from the first start to this table", ""))
    return rows


def _must_be_zero(name: str, count: int, words: str) -> tuple[str, str, str, str]:
    return name, f"{count}", f"{words}; must be 0", "bold red" if count else "green"


def _volunteer_table(volunteers: tuple[VolunteerTally, ...]) -> Table:
    lines = Table(title="Who did what", title_justify="left", box=box.SIMPLE)
    for name in ("volunteer", "conduct"):
        lines.add_column(name, no_wrap=True)
    for name in ("results", "agreed", "refused", "not judged"):
        lines.add_column(name, justify="right")
    for one in volunteers:
        figures = (one.results, one.agreed, one.refused, one.unjudged)
        lines.add_row(one.name, one.conduct, *map(str, figures))
    return lines
