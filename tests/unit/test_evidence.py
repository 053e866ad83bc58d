"""A weight is earned slowly, lost fast, and the page for volunteers says how."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.evidence import HOUR_S, LOUDEST, MONTH_S, SOLE, Evidence, weight

NONE = Evidence(0, 0, 0, 0)
PAGE = (Path(__file__).parents[2] / "docs" / "credit.md").read_text("utf-8")
SUMS = st.builds(Evidence, *[st.floats(0, 1e6)] * 4)


def test_an_unknown_host_weighs_one():
    assert weight(NONE) == 1


def test_many_agreements_are_needed_to_work_alone():
    assert weight(Evidence(74, 0, 74, 0)) < SOLE <= weight(Evidence(75, 0, 75, 0))


def test_a_few_disagreements_within_an_hour_take_trust_from_the_most_trusted():
    for hour_agreed, most in ((0, 3), (10, 5), (50, 10)):
        assert weight(Evidence(10_000, most, hour_agreed, most)) < SOLE


@pytest.mark.parametrize(("wrong", "works_alone"), [(1 / 100, True), (1 / 30, True), (1 / 20, False)])
def test_whoever_is_wrong_as_often_as_the_page_says_keeps_or_loses_trust(wrong: float, works_alone: bool):
    steady = Evidence(1000 * (1 - wrong), 1000 * wrong, 100 * (1 - wrong), 100 * wrong)
    assert (weight(steady) >= SOLE) is works_alone


@given(SUMS)
def test_a_weight_has_bounds(evidence: Evidence):
    assert 0.05 <= weight(evidence) <= 10


@given(SUMS, st.floats(0, 1e4))
def test_agreeing_never_costs_and_disagreeing_never_earns(evidence: Evidence, more: float):
    agreed = replace(
        evidence, month_agreed=evidence.month_agreed + more, hour_agreed=evidence.hour_agreed + more
    )
    disagreed = replace(
        evidence,
        month_disagreed=evidence.month_disagreed + more,
        hour_disagreed=evidence.hour_disagreed + more,
    )
    assert weight(disagreed) <= weight(evidence) <= weight(agreed)


def test_a_judgement_that_was_taken_back_leaves_no_weight_out_of_bounds():
    assert weight(Evidence(-1e-9, -3, -2, -40)) > 0


def test_evidence_halves_in_a_month_and_alarm_in_an_hour():
    assert Evidence(8, 4, 2, 1).after(0) == Evidence(8, 4, 2, 1)
    hour = Evidence(8, 4, 2, 1).after(HOUR_S)
    assert (hour.hour_agreed, hour.hour_disagreed) == (1, 0.5)
    month = Evidence(8, 4, 2, 1).after(MONTH_S)
    assert (month.month_agreed, month.month_disagreed) == (4, 2)
    assert Evidence(8, 4, 2, 1).after(-5) == Evidence(8, 4, 2, 1)


def _examples() -> list[tuple[list[float], float, str]]:
    number = r"([\d,.]+) \| "
    rows = re.findall(rf"^\| {number * 5}(.+) \|$", PAGE, re.MULTILINE)
    return [([float(n.replace(",", "")) for n in row[:4]], float(row[4]), row[5]) for row in rows]


@pytest.mark.parametrize(("sums", "says", "words"), _examples())
def test_the_pages_examples_are_true(sums: list[float], says: float, words: str):
    weighs = weight(Evidence(sums[0], sums[1], sums[2], sums[3]))
    assert weighs == pytest.approx(says, abs=0.006)
    assert words.startswith("works alone") is (weighs >= SOLE)


def test_the_pages_numbers_are_the_rules():
    assert len(_examples()) >= 6
    assert f"From **{SOLE}** on" in PAGE
    assert f"a voice weighs {LOUDEST:g} at most" in PAGE
