"""A connected store: the API that an app on one server uses, with the method names of the linearizability model."""

from __future__ import annotations

from typing import Any

from cluster.subject import SECRET
from linearizability.subject import Subject

from fastserverstate.cluster.backend import ClusterAdapter
from fastserverstate.listeners import Listeners
from fastserverstate.waiting import Waiting


class Member(Subject):
    """A connected store whose `get` is a linearizable read."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__()
        self.on_change = Listeners(self.store).on_change
        self.wait_for = Waiting(self.store, Listeners(self.store)).wait_for
        required = options.pop("required", True)
        self.adapter = ClusterAdapter(
            self.store, url, **{"namespace": "tests", "secret": SECRET, "timeout": 10.0, **options}
        )
        joined = self.adapter.open(10.0 if required else 0.2)
        assert joined or not required

    def sync(self) -> None:
        self.adapter.node.sync()

    def close(self) -> None:
        self.adapter.close()

    def _get(self, key: str) -> Any:
        if not self.locks[key]._is_owned():
            self.sync()
        return super()._get(key)

    def _contains(self, key: str) -> bool:
        if not self.locks[key]._is_owned():
            self.sync()
        return super()._contains(key)
