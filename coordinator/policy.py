"""A campaign's policy, and the TOML file in which an operator writes it."""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from captions.agreement import Features, features
from captions.consensus import Quorum
from captions.perspective import Perspective
from coordinator.errors import OperatorError
from coordinator.evidence import SOLE
from protos.tier import Tier

BUILT_IN = Path(__file__).parent / "perspectives"
MOST_VOICES = 9  # that a cross-check weighs


class Policy(BaseModel):
    """How a campaign's units are replicated, checked, timed, moderated and licensed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    replication: Annotated[int, Field(ge=1, le=8)] = 2
    max_voices: Annotated[int, Field(ge=1, le=MOST_VOICES)] = 3
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    cross_check: Literal["default", "lexical"] = "default"
    spot_check: Annotated[float, Field(ge=0, le=1)] = 0.1
    lease_s: Annotated[int, Field(ge=5, le=7 * 86_400)] = 900
    max_hold_s: Annotated[int, Field(ge=5, le=60 * 86_400)] = 86_400
    max_failures: Annotated[int, Field(ge=0, le=100)] = 3
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 20
    moderation: Literal["none", "all"] = "none"
    licenses: tuple[str, ...] = ()
    output_license: str = "CC0-1.0"
    first_batch: Annotated[int, Field(ge=1, le=256)] = 32
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    models: tuple[Annotated[str, Field(min_length=1, max_length=300)], ...] = ()
    only_for: tuple[Annotated[str, Field(pattern=r"^(user:.+|team:.+|host:[0-9]+)$")], ...] = ()
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.3

    @model_validator(mode="after")
    def _voices_suffice(self) -> Self:
        if self.max_voices < self.replication:
            raise ValueError("max_voices must be at least replication")
        return self

    @model_validator(mode="after")
    def _targets_suffice(self) -> Self:
        one_voice_each = [target for target in self.only_for if not target.startswith("team:")]
        if self.only_for and len(one_voice_each) == len(self.only_for) < self.replication:
            raise ValueError(
                "only_for names too few users or hosts, who have one voice each, for a "
                f"replication of {self.replication}"
            )
        return self

    def takes_license(self, license_: str | None) -> bool:
        """Whether an image under this licence may be captioned; a campaign that names none takes any."""
        return not self.licenses or license_ in self.licenses

    def features(self, answer: Mapping[str, Any], perspective: Perspective) -> Features:
        """A checked answer, prepared for the campaign's cross-check."""
        return features(answer, perspective, lexical=self.cross_check == "lexical")

    def is_for(self, targets: Collection[str]) -> bool:
        """Whether a host that goes by these names may answer; a campaign that is for nobody is for all."""
        return not self.only_for or any(target in targets for target in self.only_for)

    def takes_model(self, model: str) -> bool:
        """Whether a host with this model may answer; a campaign that names no patterns takes any."""
        return not self.models or any(fnmatchcase(model.lower(), pattern.lower()) for pattern in self.models)

    @cached_property
    def sole_weight(self) -> float:
        """The weight from which a host's answer may settle a unit alone, but for spot checks.

        With a replication of 1 whoever answers is believed.
        """
        if self.replication == 1:
            return 0.0
        prior = Quorum().prior
        return max(SOLE, self.confidence / (1 - self.confidence) * (1 - prior) / prior)

    @cached_property
    def quorum(self) -> Quorum:
        """The cross-check's part of the policy."""
        return Quorum(
            min_voices=self.replication,
            max_voices=self.max_voices,
            confidence=self.confidence,
            sole_weight=self.sole_weight,
        )

    def quorum_beyond(self, extra_voices: int) -> Quorum:
        """The quorum of a unit that may have more voices than others, since earlier ones were kept."""
        if not extra_voices:
            return self.quorum
        return replace(self.quorum, max_voices=min(MOST_VOICES, self.max_voices + extra_voices))


class PerspectiveUse(BaseModel):
    """One perspective of a campaign: a file or built-in name (which may stand alone), its tier and credit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    perspective: str
    tier: str = "cpu"
    credit: Annotated[float, Field(gt=0, le=1000)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, written: object) -> object:
        return {"perspective": written} if isinstance(written, str) else written

    @field_validator("tier")
    @classmethod
    def _is_tier(cls, label: str) -> str:
        return Tier.parse(label).label


class CampaignFile(BaseModel):
    """A campaign as an operator writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    perspectives: Annotated[tuple[PerspectiveUse, ...], Field(min_length=1, max_length=64)]
    policy: Policy = Policy()


def read_campaign(path: Path) -> tuple[CampaignFile, list[tuple[PerspectiveUse, Perspective]]]:
    """Reads a campaign file and the perspectives that it names (paths are relative to the file).

    Raises OperatorError ("campaign_file_invalid", "perspective_invalid") that names the line or field.
    """
    try:
        written = CampaignFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise OperatorError("campaign_file_invalid", f"{path}: {error}") from error
    except ValidationError as error:
        raise OperatorError("campaign_file_invalid", f"{path}: {_first_fault(error)}") from error
    return written, [(use, _perspective(path.parent, use.perspective)) for use in written.perspectives]


def _perspective(folder: Path, name: str) -> Perspective:
    if re.fullmatch(r"[a-z0-9_]+", name):
        return builtin(name)
    return _read_perspective(folder / name)


def builtin(name: str) -> Perspective:
    """A perspective that comes with Chorus. Raises OperatorError("perspective_invalid") for another name."""
    return _read_perspective(BUILT_IN / f"{name}.json")


def _read_perspective(path: Path) -> Perspective:
    try:
        return Perspective.parse(path.read_bytes())
    except FileNotFoundError as error:
        known = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.json")))
        raise OperatorError(
            "perspective_invalid", f"There is no perspective {path}. Name a .json file, or one of: {known}."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a PerspectiveError, or a path that cannot be one
        raise OperatorError("perspective_invalid", f"{path}: {error}") from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])


def policy_of(stored: Mapping[str, Any]) -> Policy:
    """The policy that was stored with a campaign."""
    return Policy.model_validate(stored)
