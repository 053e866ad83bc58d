"""Tables split by campaign, as docs/scale.md says it is done."""

import re

import psycopg

GROWING = ("units", "results", "past_leases", "past_rounds", "past_results", "ledger")
"""The tables that are partitioned: what they hold grows with every campaign, and leaves with it."""


def partition(url: str, campaigns: tuple[int, ...]) -> None:
    """Splits every growing table into a partition for each of these campaigns, and one for all others."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in GROWING:
            _partition(connection, table, campaigns)
        connection.execute("ANALYZE")


def _partition(connection: psycopg.Connection, table: str, campaigns: tuple[int, ...]) -> None:
    run = connection.execute
    run(f"ALTER TABLE {table} RENAME TO {table}_whole")
    run(
        f"CREATE TABLE {table} (LIKE {table}_whole INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY) "
        "PARTITION BY LIST (campaign_id)"
    )
    for definition, primary in run(
        "SELECT pg_get_indexdef(indexrelid), indisprimary FROM pg_index WHERE indrelid = %s::regclass",
        (f"{table}_whole",),
    ).fetchall():
        run(_index(table, definition, primary))
    for campaign in campaigns:
        run(f"CREATE TABLE {table}_{campaign} PARTITION OF {table} FOR VALUES IN ({campaign})")
    run(f"CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT")
    run(f"INSERT INTO {table} TABLE {table}_whole")
    if table in {"past_leases", "ledger"}:
        run(f"ALTER TABLE {table} ALTER id ADD GENERATED ALWAYS AS IDENTITY")
        run("SELECT setval(pg_get_serial_sequence(%s, 'id'), 1000000)", (table,))  # beyond those there are
    run(f"DROP TABLE {table}_whole CASCADE")


def _index(table: str, definition: str, primary: bool) -> str:
    """The same index for the partitioned table; a primary key without the campaign gets it at its end."""
    found = re.match(r"CREATE (UNIQUE )?INDEX \S+ ON \S+ USING (.*)", definition)
    assert found, definition
    if not primary:
        return f"CREATE {found[1] or ''}INDEX ON {table} USING {found[2]}"
    columns = found[2].removeprefix("btree ").strip("()").split(", ")
    if "campaign_id" not in columns:
        columns.append("campaign_id")
    return f"ALTER TABLE {table} ADD PRIMARY KEY ({', '.join(columns)})"
