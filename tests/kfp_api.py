"""A stand-in for the API server of Kubeflow Pipelines 2.17: v2beta1 over HTTP, state in SQLite.

Bodies are checked by the SDK's own models (`kfp_server_api`), as the API's definition is strict:
unknown fields and wrong types are refused. Only what charloom and the SDK ask for is here.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable
from typing import Any

import kfp_server_api as api
import yaml

TABLES = ("experiments", "pipelines", "versions", "runs", "recurringruns")
INT64 = {"max_concurrency", "interval_second", "execution_id", "long_value"}
"""Declared as text by the models, as JSON has them so; a number is taken, too."""
OUTPUT = {"run_id", "created_at", "finished_at", "state", "run_details", "state_history", "status"}
"""Set by the server only; nobody sends them."""


class ApiError(Exception):
    """What the server answers in place of a result."""

    def __init__(self, status: int, message: str, code: int = 3) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, "code": code, "message": message}


def check(value: Any, kind: str, where: str = "body") -> None:
    """Raises ApiError unless a JSON value is what the SDK's model of that name says."""
    plain = {"str": str, "bool": bool, "int": int, "object": dict}
    if kind in plain:
        if not isinstance(value, plain[kind]) or (kind == "int" and isinstance(value, bool)):
            raise ApiError(400, f"{where} is {value!r}, which is no {kind}")
    elif kind == "datetime":
        if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value):
            raise ApiError(400, f"{where} is {value!r}, which is no time")
    elif kind.startswith("list["):
        if not isinstance(value, list):
            raise ApiError(400, f"{where} is no list")
        for item in value:
            check(item, kind[5:-1], f"{where}[]")
    elif kind.startswith("dict("):
        if not isinstance(value, dict):
            raise ApiError(400, f"{where} is no object")
        inner = kind[5:-1].split(", ")[1]
        for key, item in value.items():
            if inner != "object":
                check(item, inner, f"{where}.{key}")
    else:
        check_model(value, getattr(api, kind), where)


def check_model(value: Any, model: Any, where: str) -> None:
    """The same for a model, or for an enumeration, which the SDK has as a model without fields."""
    if not model.openapi_types:
        if value not in model.allowable_values:
            raise ApiError(400, f"{where} is {value!r}; it may be {model.allowable_values}")
        return
    if not isinstance(value, dict):
        raise ApiError(400, f"{where} is no object")
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            raise ApiError(400, f"unknown field {key!r} in {where}")
        name = names[key]
        if name in INT64 and isinstance(item, int) and not isinstance(item, bool):
            continue
        check(item, model.openapi_types[name], f"{where}.{key}")
        if name in INT64 and not re.fullmatch(r"-?\d+", item):
            raise ApiError(400, f"{where}.{key} is no number")
    model(**{names[key]: item for key, item in value.items()})  # the SDK's own checks


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """The server's state: JSON objects by table and id, in the order in which they were made."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS objects (number INTEGER PRIMARY KEY, kind TEXT, id TEXT, "
            "body TEXT, UNIQUE (kind, id))"
        )
        self.lock = threading.RLock()

    def put(self, kind: str, identity: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self._db.execute(
                "INSERT INTO objects (kind, id, body) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                (kind, identity, json.dumps(body)),
            )
        return body

    def get(self, kind: str, identity: str) -> dict[str, Any]:
        row = self._db.execute(
            "SELECT body FROM objects WHERE kind = ? AND id = ?", (kind, identity)
        ).fetchone()
        if row is None:
            raise ApiError(404, f"{kind} {identity} not found", 5)
        found: dict[str, Any] = json.loads(row[0])
        return found

    def all(self, kind: str) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT body FROM objects WHERE kind = ? ORDER BY number", (kind,)
        ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def delete(self, kind: str, identity: str) -> None:
        self.get(kind, identity)
        with self.lock:
            self._db.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (kind, identity))


FILTER_KEYS = {
    "experiments": {"experiment_id", "name", "display_name", "created_at", "description"},
    "versions": {"pipeline_version_id", "name", "display_name", "created_at", "description"},
    "runs": {"run_id", "name", "display_name", "created_at", "description", "state"},
    "recurringruns": {"recurring_run_id", "name", "display_name", "created_at", "description"},
}
MAX_PAGE = 200


def matches(item: dict[str, Any], table: str, text: str) -> bool:
    """Whether an object passes a filter, which is checked like a body."""
    content = json.loads(text)
    for predicate in content.get("predicates", []):
        unknown = set(predicate) - {"operation", "key", "stringValue", "string_value"}
        if unknown or set(content) != {"predicates"}:
            raise ApiError(400, f"unknown field in filter: {sorted(unknown)}")
        if predicate["operation"] not in (1, "EQUALS"):
            raise ApiError(400, f"the stand-in has no operation {predicate['operation']}")
        key = predicate["key"]
        if key not in FILTER_KEYS[table]:
            raise ApiError(400, f"no support for filtering on unrecognized field {key!r}")
        if key == "name" and table != "versions":
            key = "display_name"
        if item.get(key) != predicate.get("stringValue", predicate.get("string_value")):
            return False
    return True


class Api:
    """What the server does; one method a request, found by `ROUTES`."""

    def __init__(self, store: Store, *, multi_user: bool, tag: str) -> None:
        self.store, self.multi_user, self.tag = store, multi_user, tag

    def healthz(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        return {"tag_name": self.tag, "multi_user": self.multi_user, "pipeline_store": "database"}

    def _namespace(self, name: str) -> str:
        if not self.multi_user:
            return ""
        if not name:
            raise ApiError(400, "Namespace cannot be empty in multi-user mode")
        return name

    def page(
        self, table: str, field: str, query: dict[str, str], keep: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Answers a list; the token is where the next page begins and the query it is of."""
        unknown = set(query) - {
            "page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"
        }  # fmt: skip
        if unknown:
            raise ApiError(400, f"unknown parameters {sorted(unknown)}")
        text = query.get("filter", "")
        found = [one for one in self.store.all(table) if keep(one)]
        found = [one for one in found if not text or matches(one, table, text)]
        size = min(int(query.get("page_size") or 20) or 20, MAX_PAGE)
        start = 0
        if query.get("page_token"):
            try:
                start, of = json.loads(base64.b64decode(query["page_token"]))
            except ValueError:
                raise ApiError(400, "Invalid page token") from None
            if of != text:
                raise ApiError(400, "page token does not match the query")
        answer: dict[str, Any] = {field: found[start : start + size], "total_size": len(found)}
        if start + size < len(found):
            token = json.dumps([start + size, text]).encode()
            answer["next_page_token"] = base64.b64encode(token).decode()
        return answer

    def list_experiments(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        space = self._namespace(query.get("namespace", ""))
        return self.page("experiments", "experiments", query, lambda one: one["namespace"] == space)

    def create_experiment(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        check(body, "V2beta1Experiment")
        space = self._namespace(body.get("namespace", ""))
        if not body.get("display_name"):
            raise ApiError(400, "Experiment's name cannot be empty")
        for one in self.store.all("experiments"):
            if (one["display_name"], one["namespace"]) == (body["display_name"], space):
                raise ApiError(409, "Failed to create a new experiment: already exists", 6)
        identity = str(uuid.uuid4())
        made = {**body, "experiment_id": identity, "namespace": space, "created_at": now()}
        return self.store.put("experiments", identity, made)

    def pipeline_by_name(self, query: dict[str, str], body: Any, name: str) -> dict[str, Any]:
        space = query.get("namespace", "") if self.multi_user else ""
        for one in self.store.all("pipelines"):
            if (one["name"], one["namespace"]) == (name, space):
                return one
        raise ApiError(404, f"Pipeline {name} not found", 5)

    def create_pipeline(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        check(body, "V2beta1Pipeline")
        if not body.get("name"):
            raise ApiError(400, "pipeline's name cannot be empty")
        space = body.get("namespace", "") if self.multi_user else ""
        for one in self.store.all("pipelines"):
            if (one["name"], one["namespace"]) == (body["name"], space):
                raise ApiError(409, "Failed to create a pipeline: the name already exists", 6)
        identity = str(uuid.uuid4())
        made = {**body, "pipeline_id": identity, "namespace": space, "created_at": now()}
        made.setdefault("display_name", made["name"])
        return self.store.put("pipelines", identity, made)

    def list_versions(self, query: dict[str, str], body: Any, pipeline: str) -> dict[str, Any]:
        self.store.get("pipelines", pipeline)
        return self.page(
            "versions", "pipeline_versions", query, lambda one: one["pipeline_id"] == pipeline
        )

    def get_version(
        self, query: dict[str, str], body: Any, pipeline: str, version: str
    ) -> dict[str, Any]:
        return self.store.get("versions", version)

    def upload_version(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        unknown = set(query) - {"name", "display_name", "pipelineid", "description", "tags"}
        if unknown or "pipelineid" not in query:
            raise ApiError(400, f"Failed to create a pipeline version {sorted(unknown)}")
        pipeline = self.store.get("pipelines", query["pipelineid"])
        documents = list(yaml.safe_load_all(body["uploadfile"]))
        if "pipelineInfo" not in documents[0]:
            raise ApiError(400, "Failed to read a pipeline spec file")
        for one in self.store.all("versions"):
            if (one["pipeline_id"], one["name"]) == (pipeline["pipeline_id"], query["name"]):
                raise ApiError(409, "Failed to create a pipeline version", 6)
        spec = documents[0]
        if len(documents) > 1:
            spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        identity = str(uuid.uuid4())
        made = {
            "pipeline_id": pipeline["pipeline_id"],
            "pipeline_version_id": identity,
            "name": query["name"],
            "display_name": query.get("display_name", query["name"]),
            "description": query.get("description", ""),
            "created_at": now(),
            "pipeline_spec": spec,
        }
        return self.store.put("versions", identity, made)

    def _check_source(self, body: dict[str, Any]) -> None:
        """Checks what runs and recurring runs have in common, as the server does."""
        reference = body.get("pipeline_version_reference")
        if not reference or "pipeline_spec" in body or "pipeline_version_id" in body:
            raise ApiError(400, "the stand-in takes a pipeline_version_reference and nothing else")
        version = self.store.get("versions", reference["pipeline_version_id"])
        if version["pipeline_id"] != reference["pipeline_id"]:
            raise ApiError(400, "the version is not of this pipeline")
        spec = version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"])
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        for name, value in body.get("runtime_config", {}).get("parameters", {}).items():
            if name not in declared:
                raise ApiError(400, f"parameter {name} is not one of the pipeline")
            kinds = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float)}
            kinds |= {"BOOLEAN": bool, "STRUCT": dict, "LIST": list}
            if not isinstance(value, kinds[declared[name]["parameterType"]]):  # type: ignore[arg-type]
                raise ApiError(400, f"parameter {name} has the wrong type")
        self.store.get("experiments", body.get("experiment_id", ""))
        if not body.get("display_name"):
            raise ApiError(400, "The run name is empty. Please specify a valid name")
        if OUTPUT & set(body):
            raise ApiError(400, f"fields of the server were sent: {sorted(OUTPUT & set(body))}")

    def create_run(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        check(body, "V2beta1Run")
        self._check_source(body)
        identity = str(uuid.uuid4())
        made = {**body, "run_id": identity, "state": "PENDING", "created_at": now()}
        made["scheduled_at"] = made["created_at"]
        return self.store.put("runs", identity, made)

    def list_runs(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        return self.page(
            "runs", "runs", query, lambda one: one["experiment_id"] == query.get("experiment_id")
        )

    def get_run(self, query: dict[str, str], body: Any, identity: str) -> dict[str, Any]:
        return self.store.get("runs", identity)

    def create_schedule(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        check(body, "V2beta1RecurringRun")
        self._check_source(body)
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise ApiError(400, "Max concurrency of a recurring run must be 1 to 10")
        trigger = body.get("trigger", {})
        if len(trigger) != 1:
            raise ApiError(400, "a recurring run needs one trigger")
        if len(trigger.get("cron_schedule", {}).get("cron", "").split()) not in (5, 6):
            raise ApiError(400, "Schedule cron is not a supported format")
        if body.get("mode") not in ("ENABLE", "DISABLE"):
            raise ApiError(400, "mode is missing")
        identity = str(uuid.uuid4())
        experiment = self.store.get("experiments", body["experiment_id"])
        made = {key: value for key, value in body.items() if key != "mode"}
        made |= {"recurring_run_id": identity, "created_at": now(), "updated_at": now()}
        made |= {"namespace": experiment["namespace"], "status": f"{body['mode']}D"}
        return self.store.put("recurringruns", identity, made)

    def list_schedules(self, query: dict[str, str], body: Any) -> dict[str, Any]:
        space = self._namespace(query.get("namespace", ""))
        return self.page(
            "recurringruns", "recurringRuns", query, lambda one: one["namespace"] == space
        )

    def get_schedule(self, query: dict[str, str], body: Any, identity: str) -> dict[str, Any]:
        return self.store.get("recurringruns", identity)

    def _set_status(self, identity: str, status: str) -> dict[str, Any]:
        made = self.store.get("recurringruns", identity)
        self.store.put("recurringruns", identity, {**made, "status": status, "updated_at": now()})
        return {}

    def enable(self, query: dict[str, str], body: Any, identity: str) -> dict[str, Any]:
        return self._set_status(identity, "ENABLED")

    def disable(self, query: dict[str, str], body: Any, identity: str) -> dict[str, Any]:
        return self._set_status(identity, "DISABLED")

    def delete_schedule(self, query: dict[str, str], body: Any, identity: str) -> dict[str, Any]:
        if set(query) - {"propagation_policy"}:
            raise ApiError(400, f"unknown parameters {sorted(query)}")
        check(query.get("propagation_policy", "ORPHAN"), "V2beta1DeletePropagationPolicy")
        self.store.delete("recurringruns", identity)
        return {}
