"""A server process of the bench whose work server checks nothing: the ceiling that checks are measured by.

`python -m chorus.bench.unchecked work` verifies no signature, reads no answer and accepts any two.
"""

from collections.abc import Sequence

from captions.agreement import Features
from captions.background import Background
from captions.consensus import Quorum, Voice
from captions.words import Words
from chorus import serve
from coordinator import validation
from coordinator.hearing import Hearing, Reading, Readings
from coordinator.lifecycle import UnitState
from coordinator.settlement import Key
from coordinator.validation import MoreWanted, Settled
from protos import signing

_SILENCE = Features(Words(frozenset(), {}, {}, frozenset()), frozenset(), is_open=False)


def _verify(_public_key: bytes, _signature: bytes, _message: bytes) -> bool:
    return True


async def _read(hearing: Hearing, answers: Sequence[tuple[Key, bytes, bytes]]) -> Readings:
    facts = await hearing.facts.of([key for key, _, _ in answers])
    readings = {}
    for key, digest, _ in answers:
        if key in facts:
            background = await hearing.campaigns.background(key[0], facts[key][0])
            readings[key, digest] = Reading(digest, facts[key][1], background, _SILENCE, None, "")
    return readings


def _judge(
    voices: Sequence[Voice], _subject: int, _background: Background, quorum: Quorum
) -> Settled | MoreWanted:
    if len(voices) < quorum.min_voices:
        return MoreWanted(quorum.min_voices - len(voices))
    judgements = {str(voice.voter): {"agrees": True, "support": 1.0} for voice in voices}
    verdict = {"confidence": 1.0, "judgements": judgements, "numbers": {"voices": len(voices)}}
    return Settled(UnitState.ACCEPTED, voices[0].voter, verdict)


if __name__ == "__main__":
    signing.verify = _verify  # type: ignore[assignment]  # what is unused is named so
    Hearing.read = _read  # type: ignore[method-assign, assignment]  # the one place that may
    validation.judge = _judge  # type: ignore[assignment]  # as above
    serve.main()
