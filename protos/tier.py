"""Tiers: what a host's memory can hold."""

from enum import IntEnum
from typing import Self


class Tier(IntEnum):
    """Ordered by memory; a host takes units of its own tier and below."""

    CPU = 0
    G8 = 1
    G12 = 2
    G16 = 3
    G24 = 4
    G48 = 5
    G80 = 6

    @property
    def label(self) -> str:
        """The word that people and messages use: "cpu", "8g", …"""
        return "cpu" if self is Tier.CPU else f"{self.name[1:]}g"

    @classmethod
    def parse(cls, label: str) -> Self:
        """Reads a label; ValueError names the legal ones."""
        for tier in cls:
            if tier.label == label.strip().lower():
                return tier
        legal = ", ".join(tier.label for tier in cls)
        raise ValueError(f"'{label[:20]}' is not a tier; the tiers are {legal}")
