"""The cluster status of a server, on Streamlit's metrics endpoint."""

from __future__ import annotations

import asyncio
import re
import urllib.request

import pytest
from harness.client import DEADLINE, Client
from harness.engine import engine
from streamlit.proto.openmetrics_data_model_pb2 import MetricSet

from fastserverstate.metrics import CLUSTER_NAMES

APP = """
from fastserverstate import cluster
if st.button("connect"):
    connect({url!r}, namespace="metrics")
if st.button("write"):
    server_state.k = "x" * 1000
if st.button("disconnect"):
    cluster.disconnect()
st.text(f"{{cluster.status() is not None}} {{len(server_state.get('k', ''))}}")
"""


def get(server, accept="*/*"):
    request = urllib.request.Request(f"{server.url}/_stcore/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        return response.read()


def figures(text):
    """Return the samples of an OpenMetrics text by name."""
    found = {}
    family = kind = None
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
        elif line.startswith("fastserverstate_cluster_"):
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
            assert labels == 'namespace="metrics"'
            assert name == family + "_total" * (kind == "counter")
            found[family] = float(value)
    return found


async def figures_when(server, condition):
    end = asyncio.get_running_loop().time() + DEADLINE
    while not condition(seen := figures(get(server).decode())):
        assert asyncio.get_running_loop().time() < end, seen
        await asyncio.sleep(0.05)
    return seen


@pytest.fixture
def own_engine():
    with engine(kind="valkey") as server:
        yield server


def test_status_is_among_the_metrics(serve, own_engine):
    server = serve(APP.format(url=own_engine.url))

    async def scenario():
        async with Client(server.websocket_url) as client:
            await client.shows("False 0")
            assert figures(get(server).decode()) == {}
            await client.click("connect")
            await client.shows("True 0")
            await client.click("write")
            await client.shows("True 1000")
            # A server applies its own writes ahead of the cursor, which follows the log.
            seen = await figures_when(server, lambda seen: seen["fastserverstate_cluster_cursor_seq"] > 1)
            assert set(seen) == set(CLUSTER_NAMES)
            assert seen["fastserverstate_cluster_connected"] == 1
            assert seen["fastserverstate_cluster_sent_bytes"] > 1000
            assert seen["fastserverstate_cluster_errors"] == 0
            assert 0 <= seen["fastserverstate_cluster_age_seconds"] < DEADLINE

            families = MetricSet.FromString(get(server, "application/x-protobuf")).metric_families
            ours = {family.name: family.metrics for family in families if family.name in CLUSTER_NAMES}
            for name, metrics in ours.items():  # releases before 1.53 report sizes of caches only
                point = metrics[0].metric_points[0]
                assert point.WhichOneof("value") in {"gauge_value", "counter_value"}
                assert metrics[0].labels[0].value == "metrics", name

            own_engine.kill()
            seen = await figures_when(server, lambda seen: not seen["fastserverstate_cluster_connected"])
            assert seen["fastserverstate_cluster_outages"] == 1
            assert seen["fastserverstate_cluster_errors"] >= 1
            own_engine.start()
            await client.click("disconnect")
            await client.shows("False 1000")
            assert figures(get(server).decode()) == {}

    asyncio.run(scenario())
