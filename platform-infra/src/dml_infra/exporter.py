"""Dagster's metrics for Prometheus: `python -m dml_infra.exporter` serves `/metrics` on port 9400.

Counts and durations come from Dagster's tables (a read-only session of PGUSER), what is loaded from its GraphQL API.
Counters begin at zero when this starts, as Prometheus expects of them. A source that does not answer is a metric too
(``dml_exporter_source_up``), never a failed scrape. The queries are in ``exporter_sources``.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from dml_infra.exporter_sources import (
    DagsterWeb,
    Database,
    FinishedRun,
    SourceError,
    Tick,
    registered_images,
)

PORT = 9400
BUCKETS_S = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)
_log = logging.getLogger("dml-exporter")


class DagsterCollector:
    """Asks both sources at each scrape.

    Args:
        database: Dagster's tables.
        web: Dagster's API.
        workspace: folder of `locations.json`.
    """

    def __init__(self, database: Database, web: DagsterWeb, workspace: Path) -> None:
        self._database, self._web, self._workspace = database, web, workspace
        self._finished: dict[tuple[str, str], int] = {}
        # Runs in each bucket and above all, then the sum of their seconds.
        self._durations: dict[str, list[float]] = {}
        self._last_success: dict[str, float] = {}
        self._ticks: dict[tuple[str, str, str, str], int] = {}
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """All metrics of now."""
        with self._lock:
            up = GaugeMetricFamily("dml_exporter_source_up", "1 when the source answered", labels=["source"])
            for source, read in (("postgres", self._from_database), ("dagster", self._from_web)):
                try:
                    metrics = list(read())
                except SourceError as error:
                    _log.warning("%s: %s", source, error)
                    metrics = []
                    up.add_metric([source], 0)
                else:
                    up.add_metric([source], 1)
                yield from metrics
            yield up
            yield self._registered()

    def _from_database(self) -> Iterator[Metric]:
        with self._database.session() as session:
            active, queue_age_s = session.active_runs()
            for run in session.finished_runs():
                self._count_run(run)
            # A counter that appears with 1 hides its first increase: known ones begin with 0.
            for known in session.instigators():
                for status in ("SUCCESS", "SKIPPED", "FAILURE"):
                    self._ticks.setdefault((known.location, known.name, known.kind, status), 0)
            for tick in session.finished_ticks():
                self._count_tick(tick)
            heartbeats = session.heartbeat_ages()
            used, limits, allowed = session.connections()

        runs = GaugeMetricFamily("dml_runs", "Runs that have not ended", labels=["location", "status"])
        for (location, status), count in active.items():
            runs.add_metric([location, status], count)
        yield runs
        queued = sum(count for (_, status), count in active.items() if status == "QUEUED")
        yield GaugeMetricFamily("dml_run_queue_depth", "Runs that wait in the queue", value=queued)
        yield GaugeMetricFamily("dml_run_queue_oldest_seconds", "How long the oldest has waited", value=queue_age_s)
        yield from self._run_counters()
        ticks = CounterMetricFamily("dml_ticks", "Ticks that ended", labels=["location", "name", "type", "status"])
        for labels, count in self._ticks.items():
            ticks.add_metric(list(labels), count)
        yield ticks
        beats = GaugeMetricFamily("dml_daemon_heartbeat_age_seconds", "Since the last sign of life", labels=["daemon"])
        for daemon, age_s in heartbeats.items():
            beats.add_metric([daemon], age_s)
        yield beats
        connections = GaugeMetricFamily("dml_postgres_connections", "Open connections", labels=["role"])
        budget = GaugeMetricFamily("dml_postgres_connection_limit", "Connections the role may have", labels=["role"])
        for role, count in used.items():
            connections.add_metric([role], count)
        for role, limit in limits.items():
            budget.add_metric([role], limit)
        yield connections
        yield budget
        yield GaugeMetricFamily("dml_postgres_max_connections", "Connections of the whole server", value=allowed)

    def _run_counters(self) -> Iterator[Metric]:
        finished = CounterMetricFamily("dml_runs_finished", "Runs that ended", labels=["location", "status"])
        for labels, count in self._finished.items():
            finished.add_metric(list(labels), count)
        yield finished
        durations = HistogramMetricFamily("dml_run_duration_seconds", "From start to end", labels=["location"])
        for location, (*counts, total_s) in self._durations.items():
            buckets = zip([*(str(float(edge)) for edge in BUCKETS_S), "+Inf"], counts, strict=True)
            durations.add_metric([location], list(buckets), total_s)
        yield durations
        success = GaugeMetricFamily(
            "dml_run_last_success_timestamp_seconds", "When a run last succeeded", labels=["location"]
        )
        for location, timestamp in self._last_success.items():
            success.add_metric([location], timestamp)
        yield success

    def _from_web(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily("dml_code_location_loaded", "1 when loaded, 0 with an error", labels=["location"])
        info = GaugeMetricFamily("dml_code_location_info", "What is loaded", labels=["location", "image", "digest"])
        since = GaugeMetricFamily(
            "dml_code_location_updated_timestamp_seconds", "When it was last loaded", labels=["location"]
        )
        for location in self._web.locations():
            loaded.add_metric([location.name], 0 if location.error else 1)
            since.add_metric([location.name], location.updated_at)
            if location.image:
                repository, _, digest = location.image.partition("@")
                info.add_metric([location.name, repository, digest], 1)
        yield from (loaded, info, since)

    def _registered(self) -> Metric:
        info = GaugeMetricFamily(
            "dml_code_location_registered_info", "What should be loaded", labels=["location", "image", "digest"]
        )
        for name, image in registered_images(self._workspace).items():
            repository, _, digest = image.partition("@")
            info.add_metric([name, repository, digest], 1)
        return info

    def _count_run(self, run: FinishedRun) -> None:
        for status in ("SUCCESS", "FAILURE", "CANCELED"):
            self._finished.setdefault((run.location, status), 0)
        self._finished[run.location, run.status] = self._finished.get((run.location, run.status), 0) + 1
        if run.started_at is not None:
            seconds = run.ended_at - run.started_at
            sums = self._durations.setdefault(run.location, [0.0] * (len(BUCKETS_S) + 2))
            for place, edge in enumerate((*BUCKETS_S, float("inf"))):
                sums[place] += seconds <= edge
            sums[-1] += seconds
        if run.status == "SUCCESS":
            self._last_success[run.location] = max(run.ended_at, self._last_success.get(run.location, 0.0))

    def _count_tick(self, tick: Tick) -> None:
        key = (tick.location, tick.name, tick.kind, tick.status)
        self._ticks[key] = self._ticks.get(key, 0) + 1


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    registry = CollectorRegistry()
    collector = DagsterCollector(
        Database(), DagsterWeb(os.environ["DML_DAGSTER_URL"]), Path(os.environ["DML_WORKSPACE"])
    )
    registry.register(collector)
    server, _ = start_http_server(PORT, registry=registry)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _log.info("serving on port %s", PORT)
    stop.wait()
    server.shutdown()


if __name__ == "__main__":
    main()
