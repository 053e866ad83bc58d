"""Tiers are ordered by memory and read from words, whoever wrote them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.tier import Tier


def test_tiers_are_ordered_by_memory():
    assert [tier.label for tier in sorted(Tier)] == ["cpu", "8g", "12g", "16g", "24g", "48g", "80g"]


@pytest.mark.parametrize("tier", list(Tier))
def test_a_label_reads_back_as_its_tier_in_any_case_and_spacing(tier: Tier):
    assert Tier.parse(f" {tier.label.upper()} ") is tier


@given(st.text())
def test_any_other_text_is_refused_with_the_legal_ones_and_few_of_its_own_words(text: str):
    if text.strip().lower() in {tier.label for tier in Tier}:
        return
    with pytest.raises(ValueError, match="cpu, 8g, 12g, 16g, 24g, 48g, 80g") as refused:
        Tier.parse(text)
    assert len(str(refused.value)) < 200


def test_a_huge_label_is_not_repeated_in_the_refusal():
    with pytest.raises(ValueError, match="is not a tier") as refused:
        Tier.parse("x" * 1_000_000)
    assert len(str(refused.value)) < 200
