"""What is measured of the work engine: names, labels and meanings. docs/metrics.md lists them all."""

from prometheus_client import Counter, Gauge, Histogram

CALLS = Histogram(
    "chorus_call_seconds",
    "Calls of the work server. 'Work waiting' are those that may be held until there is work.",
    ("call",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
CALLS_REFUSED = Counter(
    "chorus_calls_refused", "Calls that ended in an error code of the protocol.", ("call", "code")
)
LEASED = Counter("chorus_units_leased", "Units handed out.", ("campaign", "perspective"))
IDLE = Counter(
    "chorus_idle_answers",
    "Calls that asked for work and got none, by the reason that they were told.",
    ("reason",),
)
LEASES_ENDED = Counter("chorus_leases_ended", "Leases that ended without a result.", ("ending",))
RESULTS = Counter("chorus_results", "Results that came back, by what became of them.", ("receipt",))
VERDICTS = Counter(
    "chorus_verdicts",
    "Verdicts of the cross-check: accepted, need_more, exhausted (with its reason).",
    ("campaign", "perspective", "verdict", "reason"),
)
GROUPS = Histogram(
    "chorus_group_commit_calls",
    "Calls that shared one transaction.",
    ("of",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
PICTURES = Gauge(
    "chorus_picture_good_until_seconds",
    "Until when what a work server keeps in memory of the database is good, 0 where the last reading failed.",
    ("picture",),
    multiprocess_mode="all",
)
UPKEEP = Histogram(
    "chorus_upkeep_seconds",
    "Runs of an upkeep job, each until nothing was left to do.",
    ("job",),
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0),
)
UPKEEP_ROWS = Counter("chorus_upkeep_rows", "Rows that an upkeep job moved.", ("job",))
UPKEEP_SUCCESS = Gauge(
    "chorus_upkeep_last_success_timestamp_seconds",
    "When an upkeep job last ended well.",
    ("job",),
    multiprocess_mode="max",
)
IMAGES = Counter(
    "chorus_image_fetches", "Requests to the image server: sent, url_invalid, not_found.", ("outcome",)
)
IMAGE_BYTES = Counter("chorus_image_bytes", "Bytes of the images that were sent.")
