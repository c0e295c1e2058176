"""A server's metrics, in Prometheus' format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        """Creates the counters, all zero."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "charloom_requests", "Requests answered.", ["path", "code"],
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "charloom_predict_seconds", "Seconds from a complete request to its answer.", ["signature"],
            buckets=BUCKETS, registry=self._registry,
        )  # fmt: skip
        self.texts = Counter(
            "charloom_texts", "Texts or words in requests.", ["signature"],
            registry=self._registry,
        )  # fmt: skip
        self.waiting = Gauge(
            "charloom_predictions_waiting", "Requests waiting or being computed.",
            registry=self._registry,
        )  # fmt: skip
        self.version = Gauge(
            "charloom_model_version", "The version being served.", registry=self._registry
        )
        self.loads = Counter(
            "charloom_model_switches", "How often the served version changed.",
            registry=self._registry,
        )  # fmt: skip
        self.champion = Gauge(
            "charloom_champion_version", "The registry's champion version; 0: none.",
            registry=self._registry,
        )  # fmt: skip
        self.behind = Gauge(
            "charloom_model_behind", "1 while the served version is not the champion.",
            registry=self._registry,
        )  # fmt: skip
        self.load_failures = Counter(
            "charloom_model_load_failures", "Failed attempts to load a champion.",
            registry=self._registry,
        )  # fmt: skip
        self.process_ends = Counter(
            "charloom_model_process_ends", "Processes of a served version that ended by themselves.",
            registry=self._registry,
        )  # fmt: skip
        self.refused_connections = Counter(
            "charloom_connections_refused", "Connections closed because too many were open.",
            registry=self._registry,
        )  # fmt: skip

    def serves(self, version: int) -> None:
        """Records that a version is served from now on."""
        self.version.set(version)
        self.loads.inc()

    def to_text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
