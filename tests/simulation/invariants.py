"""What must hold, in prose: each function is one sentence, and yields what breaks it.

`ALWAYS` holds after every step, whatever crashed in it. `AT_THE_END` holds when willing, honest hosts have
drained the shelves and upkeep has nothing left to do.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from simulation.books import Books

CREDIT = 1.0


@dataclass(slots=True)
class Told:
    """What the outside was told by servers, and remembers whatever becomes of them.

    `acknowledged` has (unit, user, hash) of each result that was said to be stored, `handed_out` the units
    leased in the last step, `ended` those that had ended before it with their (state, canonical user), unless
    operators told to reopen them in it,
    `owed` has until when each lease must last for our outages, by (unit, lane, host, since when), `retaken`
    what each host held after it asked for its leases in the last step, `behind` the copies that a session was
    refused to, `trusted` the users of hosts that may work alone, `faults` what no server should do, `truths`
    the body of each unit's true answer; `honest` says that nobody lied or failed.
    """

    honest: bool
    acknowledged: set[tuple[int, int, str]] = field(default_factory=set)
    handed_out: set[int] = field(default_factory=set)
    ended: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    trusted: set[int] = field(default_factory=set)
    owed: dict[tuple[int, int, int, str], datetime] = field(default_factory=dict)
    retaken: dict[int, set[int]] = field(default_factory=dict)
    behind: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    truths: dict[int, str] = field(default_factory=dict)


Invariant = Callable[[Books, Told], Iterator[str]]


def nothing_acknowledged_is_lost(books: Books, told: Told) -> Iterator[str]:
    """Nothing acknowledged is lost: what a server said is stored is stored, byte for byte, for ever."""
    kept = [*books.results, *books.left_behind]
    stored = {(result["unit"], result["user"], result["hash"]) for result in kept}
    for unit, user, digest in told.acknowledged - stored:
        yield f"the result {digest[:8]} of user {user} for unit {unit}"


def no_replica_is_in_two_hands(books: Books, _told: Told) -> Iterator[str]:
    """No replica is in two hands: it waits on its shelf once, or is leased once, never both."""
    places = Counter((row["unit"], row["lane"]) for row in [*books.waiting, *books.leases])
    for (unit, lane), count in places.items():
        if count > 1:
            yield f"lane {lane} of unit {unit} is in {count} places"


def no_user_has_a_unit_twice(books: Books, _told: Told) -> Iterator[str]:
    """No user holds or answers a unit twice, with however many hosts."""
    had = Counter((row["unit"], row["user"]) for row in [*books.leases, *books.results])
    for (unit, user), count in had.items():
        if count > 1:
            yield f"user {user} has unit {unit} {count} times"


def an_open_unit_has_a_way_forward(books: Books, _told: Told) -> Iterator[str]:
    """An open unit is never stuck: a replica of it waits, or is leased until a deadline."""
    moving = {row["unit"] for row in [*books.waiting, *books.leases]}
    for unit, state in books.states().items():
        if state == "open" and unit not in moving:
            yield f"unit {unit}"


def a_closed_unit_is_not_handed_out(_books: Books, told: Told) -> Iterator[str]:
    """A unit that had ended before a lease was asked for is not handed out."""
    for unit in told.handed_out & told.ended.keys():
        yield f"unit {unit}"


def an_end_is_final(books: Books, told: Told) -> Iterator[str]:
    """A unit that has ended stays so, with the same answer standing for it, unless operators reopen it."""
    for unit in books.units:
        now = (unit["state"], unit["canonical"])
        if told.ended.get(unit["id"], now) != now:
            yield f"unit {unit['id']} was {told.ended[unit['id']]} and is {now}"


def an_accepted_unit_has_its_canonical_answer(books: Books, _told: Told) -> Iterator[str]:
    """What stands for an accepted unit is a stored answer that was counted, and judged to agree."""
    counted = {(result["unit"], result["user"]) for result in books.results if not result["late"]}
    for unit in books.units:
        if unit["state"] == "accepted":
            judged = unit["verdict"]["judgements"].get(str(unit["canonical"]), {"agrees": False})
            if (unit["id"], unit["canonical"]) not in counted or not judged["agrees"]:
                yield f"unit {unit['id']}, canonical user {unit['canonical']}"


def credit_is_never_given_twice(books: Books, _told: Told) -> Iterator[str]:
    """A result is judged, and credited, at most once, and only a stored one is."""
    stored = {(result["unit"], result["user"]) for result in books.results}
    judged = Counter((e["unit"], e["user"]) for e in books.judgements())
    for (unit, user), count in judged.items():
        if count > 1 or (unit, user) not in stored:
            yield f"user {user} for unit {unit}: {count} judgements"


def only_the_trusted_settle_alone(books: Books, told: Told) -> Iterator[str]:
    """What one voice alone settled was said by a host that had earned that, and is no evidence."""
    judged = {(entry["unit"], entry["user"]): entry["judgement"] for entry in books.judgements()}
    for unit in books.units:
        if unit["state"] == "accepted":
            alone, key = unit["verdict"]["numbers"]["voices"] == 1, (unit["id"], unit["canonical"])
            unchecked = judged.get(key, "unchecked" if alone else "agreed") == "unchecked"
            if unchecked != alone or (alone and unit["canonical"] not in told.trusted):
                yield f"unit {unit['id']}: {unit['verdict']}, {judged.get(key)}"


def reopening_leaves_no_orphan(books: Books, _told: Told) -> Iterator[str]:
    """Nothing stands for a unit that is not accepted: no annotation, no judgement, nothing to be booked."""
    states = books.states()
    for row in [*books.standing_annotations(), *books.judgements()]:
        if states[row["unit"]] != "accepted":
            yield f"{row} of a unit that is {states[row['unit']]}"
    for row in books.settled:
        if states[row["unit"]] == "open":
            yield f"unit {row['unit']} is open and waits to be booked"


def what_is_taken_back_is_taken_back_once(books: Books, _told: Told) -> Iterator[str]:
    """An entry that is taken back has one that says the contrary of it, and only such an entry has."""
    contrary = {entry["reversal_of"]: entry for entry in books.ledger if entry["reversal_of"] is not None}
    taken = {e["id"]: e for e in books.ledger if e["reversed"] and e["reversal_of"] is None}
    for number in contrary.keys() | taken.keys():
        one, other = taken.get(number), contrary.get(number)
        same = one and other and all(one[key] == other[key] for key in ("unit", "user", "host", "judgement"))
        if not same or one["credit"] != -other["credit"]:
            yield f"{one} and {other}"


def a_replica_waits_where_its_unit_is(books: Books, _told: Told) -> Iterator[str]:
    """What waits of an open unit is in its block, where settling and widening look for it."""
    blocks = {unit["id"]: unit["block"] for unit in books.units if unit["state"] == "open"}
    for row in books.waiting:
        if blocks.get(row["unit"], row["block"]) != row["block"]:
            yield f"lane {row['lane']} of unit {row['unit']}"


def no_lease_lapses_early_for_an_outage(books: Books, told: Told) -> Iterator[str]:
    """No host pays for our outage: its leases last longer by the length of each."""
    for lease in books.past:
        key = (lease["unit"], lease["lane"], lease["host"], lease["since"])
        owed = told.owed.get(key)
        if owed is not None and datetime.fromisoformat(lease["ended"]) < owed:
            yield f"lane {key[1]} of unit {key[0]} lapsed at {lease['ended']}, and was owed until {owed}"


def who_asks_for_its_leases_holds_them(books: Books, told: Told) -> Iterator[str]:
    """A client that asks what it holds then knows every unit that still wants its answer, and no other."""
    states = books.states()
    for host, held in told.retaken.items():
        leased = {lease["unit"] for lease in books.leases if lease["host"] == host}
        for unit in (leased ^ held) - {unit for unit in leased - held if states[unit] != "open"}:
            yield f"host {host} and unit {unit}: {'leased' if unit in leased else 'held'} alone"


def servers_answer_well(_books: Books, told: Told) -> Iterator[str]:
    """A living server answers every call, each returned item with its own acknowledgement, and truly."""
    yield from told.faults


ALWAYS: Sequence[Invariant] = (
    nothing_acknowledged_is_lost,
    no_replica_is_in_two_hands,
    no_user_has_a_unit_twice,
    an_open_unit_has_a_way_forward,
    a_closed_unit_is_not_handed_out,
    an_end_is_final,
    an_accepted_unit_has_its_canonical_answer,
    credit_is_never_given_twice,
    only_the_trusted_settle_alone,
    reopening_leaves_no_orphan,
    what_is_taken_back_is_taken_back_once,
    a_replica_waits_where_its_unit_is,
    no_lease_lapses_early_for_an_outage,
    who_asks_for_its_leases_holds_them,
    servers_answer_well,
)


def every_unit_ends(books: Books, _told: Told) -> Iterator[str]:
    """Every unit ends: accepted, or exhausted or cancelled with a reason."""
    for unit in books.units:
        if unit["state"] == "open" or (unit["state"] != "accepted" and not unit["verdict"]["reason"]):
            yield f"unit {unit['id']} is {unit['state']}"


def a_closed_unit_has_nothing_waiting(books: Books, _told: Told) -> Iterator[str]:
    """A closed unit has no replica waiting once willing hosts have drained the shelves."""
    states = books.states()
    for row in books.waiting:
        if states[row["unit"]] != "open":
            yield f"lane {row['lane']} of unit {row['unit']}, which is {states[row['unit']]}"


def no_lease_outlives_its_deadline(books: Books, _told: Told) -> Iterator[str]:
    """A lease that nobody renews ends."""
    for lease in books.leases:
        yield f"user {lease['user']} still has unit {lease['unit']}"


def honest_hosts_complete_their_campaign(books: Books, told: Told) -> Iterator[str]:
    """A campaign of honest, willing hosts completes: every unit is accepted, and what stands is true.

    But for those that operators cancelled.
    """
    if told.honest:
        bodies = {(result["unit"], result["user"]): result["body"] for result in books.results}
        for unit in books.units:
            stands = bodies.get((unit["id"], unit["canonical"]))
            if unit["state"] != "cancelled" and stands != told.truths.get(unit["id"], "never handed out"):
                yield f"unit {unit['id']} is {unit['state']} with {stands}: {unit['verdict']}"


def annotations_are_the_accepted_units(books: Books, _told: Told) -> Iterator[str]:
    """Each accepted unit is published once, as its canonical user's, and nothing else is."""
    accepted = {(unit["id"], unit["canonical"]) for unit in books.units if unit["state"] == "accepted"}
    published = Counter((row["unit"], row["user"]) for row in books.standing_annotations())
    for unit, user in accepted | set(published):
        if published[unit, user] != ((unit, user) in accepted):
            yield f"unit {unit} of user {user}: {published[unit, user]} annotations"
    for row in books.settled:
        yield f"unit {row['unit']} waits to be booked"


def credit_equals_accepted_work(books: Books, _told: Told) -> Iterator[str]:
    """Every result of an accepted unit is in the ledger once, as its verdict says, and no other result is."""
    verdicts = {unit["id"]: unit["verdict"] for unit in books.units if unit["state"] == "accepted"}
    entries = {(e["unit"], e["user"]): e for e in books.judgements()}
    owed = {(r["unit"], r["user"]): r["late"] for r in books.results if r["unit"] in verdicts}
    for key in owed.keys() ^ entries.keys():
        yield f"user {key[1]} for unit {key[0]}: {entries.get(key, 'not judged')}"
    for key in owed.keys() & entries.keys():
        agrees = entries[key]["judgement"] in {"agreed", "unchecked"}
        told_so = owed[key] or verdicts[key[0]]["judgements"][str(key[1])]["agrees"] == agrees
        if not told_so or entries[key]["credit"] != CREDIT * agrees:
            yield f"user {key[1]} for unit {key[0]}: {entries[key]}"


def standings_are_the_ledger_added_up(books: Books, _told: Told) -> Iterator[str]:
    """A host's standing is its ledger entries added up, each once."""
    for host in {entry["host"] for entry in [*books.ledger, *books.standings]}:
        entries = [entry for entry in books.ledger if entry["host"] == host]
        folded = [row for row in books.standings if row["host"] == host]
        added: Counter[str] = Counter()
        for entry in entries:
            added[entry["judgement"]] += 1 if entry["reversal_of"] is None else -1
        for judgement in ("agreed", "disagreed", "failed", "unchecked"):
            if sum(row[judgement] for row in folded) != added[judgement]:
                yield f"host {host}: {judgement} {added[judgement]} times, but folded as {folded}"
        if sum(row["credit"] for row in folded) != sum(entry["credit"] for entry in entries):
            yield f"host {host}: its credit is not that of its entries: {folded}"


AT_THE_END: Sequence[Invariant] = (
    *ALWAYS,
    every_unit_ends,
    a_closed_unit_has_nothing_waiting,
    no_lease_outlives_its_deadline,
    honest_hosts_complete_their_campaign,
    annotations_are_the_accepted_units,
    credit_equals_accepted_work,
    standings_are_the_ledger_added_up,
)


def broken(invariants: Sequence[Invariant], books: Books, told: Told) -> list[str]:
    """The sentences that do not hold, each with what breaks it."""
    return [f"{invariant.__name__}: {what}" for invariant in invariants for what in invariant(books, told)]
