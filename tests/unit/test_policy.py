"""A campaign file is read whole or refused with the field or line that is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from coordinator.errors import OperatorError
from coordinator.policy import Policy, policy_of, read_campaign

BUILT_IN = "photo_caption"


def _read(folder: Path, text: str) -> tuple:
    path = folder / "campaign.toml"
    path.write_text(text, "utf-8")
    return read_campaign(path)


def test_the_shortest_file_has_sound_defaults(tmp_path: Path):
    written, [(use, perspective)] = _read(tmp_path, f'name = "c"\nperspectives = ["{BUILT_IN}"]')
    assert written.policy == Policy()
    assert (use.tier, use.credit, perspective.name) == ("cpu", 1.0, BUILT_IN)


def test_a_perspective_carries_its_tier_and_credit(tmp_path: Path):
    _, [(use, _)] = _read(
        tmp_path, f'name = "c"\n[[perspectives]]\nperspective = "{BUILT_IN}"\ntier = "24G"\ncredit = 3'
    )
    assert (use.tier, use.credit) == ("24g", 3.0)


GOOD = f'name = "c"\nperspectives = ["{BUILT_IN}"]\n'
TABLE = f'name = "c"\n[[perspectives]]\nperspective = "{BUILT_IN}"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "name"),
        ('name = "c"', "perspectives"),
        ('name = "No Capitals"\nperspectives = ["x"]', "name"),
        ('name = "c"\nperspectives = []', "perspectives"),
        ('name = "c"\nperspectives = [7]', "perspectives.0"),
        (GOOD + "color = 1", "color"),
        (TABLE + 'tier = "13g"', "tier"),
        (TABLE + 'tier = "13g"', "cpu, 8g"),
        (TABLE + "credit = 0", "credit"),
        (TABLE + "credits = 1", "credits"),
        (GOOD + "[policy]\nreplication = 0", "policy.replication"),
        (GOOD + "[policy]\nreplication = 3\nmax_voices = 2", "max_voices"),
        (GOOD + "[policy]\nconfidence = nan", "policy.confidence"),
        (GOOD + "[policy]\nconfidence = 1.0", "policy.confidence"),
        (GOOD + "[policy]\nlease_s = 1", "policy.lease_s"),
        (GOOD + "[policy]\nmax_failures = -1", "policy.max_failures"),
        (GOOD + "[policy]\nmax_attempts = 0", "policy.max_attempts"),
        (GOOD + '[policy]\nmoderation = "some"', "policy.moderation"),
        (GOOD + "[policy]\ntemperature = inf", "policy.temperature"),
        (GOOD + "[policy]\nreplicas = 2", "policy.replicas"),
        ("name = oops", "line 1"),
        ("x = " + "[" * 5000, "campaign.toml"),
    ],
)
def test_a_wrong_file_is_refused_and_the_message_names_the_fault(tmp_path: Path, text: str, named: str):
    with pytest.raises(OperatorError, match=r"campaign\.toml") as refused:
        _read(tmp_path, text)
    assert refused.value.code == "campaign_file_invalid"
    assert named in str(refused.value)


def test_a_file_that_is_missing_or_no_text_is_refused_by_name(tmp_path: Path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.toml", "binary.toml", "."):
        with pytest.raises(OperatorError) as refused:
            read_campaign(tmp_path / name)
        assert refused.value.code == "campaign_file_invalid"


@pytest.mark.parametrize("name", ["nobody_knows_it", "missing.json", "", "..", "a\\u0000.json"])
def test_an_unknown_perspective_is_refused_by_name(tmp_path: Path, name: str):
    with pytest.raises(OperatorError) as refused:
        _read(tmp_path, f'name = "c"\nperspectives = ["{name}"]')
    assert refused.value.code == "perspective_invalid"


def test_an_unknown_perspective_is_told_the_built_in_ones(tmp_path: Path):
    with pytest.raises(OperatorError, match=BUILT_IN):
        _read(tmp_path, 'name = "c"\nperspectives = ["nobody_knows_it"]')


def test_a_broken_perspective_file_is_refused_by_path(tmp_path: Path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(OperatorError, match=r"mine\.json") as refused:
        _read(tmp_path, 'name = "c"\nperspectives = ["mine.json"]')
    assert refused.value.code == "perspective_invalid"


def test_a_policy_survives_being_stored():
    policy = Policy(replication=3, max_voices=5, licenses=("CC0-1.0",), moderation="all")
    assert policy_of(policy.model_dump(mode="json")) == policy


@given(st.integers(-2, 12), st.integers(-2, 12), st.floats())
def test_every_policy_that_is_taken_makes_a_quorum(replication: int, max_voices: int, confidence: float):
    try:
        policy = Policy(replication=replication, max_voices=max_voices, confidence=confidence)
    except ValidationError:
        return
    assert policy.quorum.min_voices <= policy.quorum.max_voices


def test_a_campaign_takes_only_the_licences_that_it_names():
    assert Policy().takes_license(None)
    strict = Policy(licenses=("CC0-1.0",))
    assert strict.takes_license("CC0-1.0")
    assert not strict.takes_license("CC-BY-4.0")
    assert not strict.takes_license(None)


def test_targets_with_too_few_voices_are_refused():
    Policy(replication=1, only_for=("user:ana",))
    Policy(replication=2, only_for=("user:ana", "host:3"))
    Policy(replication=3, only_for=("team:museum",))
    with pytest.raises(ValueError, match=r"too few users or hosts, .* for a replication of 2"):
        Policy(replication=2, only_for=("user:ana",))
    with pytest.raises(ValueError, match="only_for"):
        Policy(only_for=("ana",))
