"""The page of metrics lists exactly what the servers show, and every name follows Prometheus' customs."""

import re
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from coordinator import metrics as engine_metrics
from coordinator.monitor import families
from store import metrics as database_metrics
from store.vitals import Vitals

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
UNITS = (
    "_seconds",
    "_bytes",
    "_total",
    "_rows",
    "_replicas",
    "_leases",
    "_calls",
    "_pool_in_use",
    "_pool_size",
)


def _made() -> list[Metric]:
    """Every metric that the code makes; one of a process has no samples yet, but a name and a type."""
    wrappers = [
        value
        for module in (engine_metrics, database_metrics)
        for value in vars(module).values()
        if isinstance(value, MetricWrapperBase)
    ]
    return [
        *(one for wrapper in wrappers for one in wrapper.describe()),
        *families(Vitals([], [], [], [], {}), 0),
    ]


def _labels(name: str) -> set[str]:
    for module in (engine_metrics, database_metrics):
        for value in vars(module).values():
            if isinstance(value, MetricWrapperBase) and value.describe()[0].name == name:
                per_process = getattr(value, "_multiprocess_mode", "") == "all"
                return set(value._labelnames) | ({"pid"} if per_process else set())
    [family] = [one for one in families(Vitals([], [], [], [], {}), 0) if one.name == name]
    return set(getattr(family, "_labelnames", ()))


def _shown(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


ROWS = re.findall(r"^\| `(chorus_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", PAGE, re.MULTILINE)


def test_every_metric_has_a_row_and_every_row_a_metric():
    made = {_shown(metric): metric.type for metric in _made()}
    assert {name: kind for name, kind, _, _ in ROWS} == made
    assert len(ROWS) == len(made) > 25


@pytest.mark.parametrize("metric", _made(), ids=lambda metric: metric.name)
def test_a_row_names_the_metrics_labels(metric: Metric):
    [labels] = [labels for name, _, labels, _ in ROWS if name == _shown(metric)]
    assert set(re.findall(r"`(\w+)`", labels)) == _labels(metric.name)


@pytest.mark.parametrize("metric", _made(), ids=lambda metric: metric.name)
def test_a_name_says_its_unit_and_its_help_is_a_sentence(metric: Metric):
    assert _shown(metric).endswith(UNITS)
    assert metric.documentation.endswith(".")


def test_no_two_metrics_have_one_name():
    names = [metric.name for metric in _made()]
    assert sorted(names) == sorted(set(names))
