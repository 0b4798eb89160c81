"""TLS, users with minimal permissions, and secrets that do not leak."""

from __future__ import annotations

import logging
import traceback

import pytest
import trustme
from cluster.subject import SECRET, Peer
from cluster.waiting import until
from harness.engine import engine
from harness.server import free_port

import fastserverstate
from fastserverstate import cluster
from fastserverstate.cluster.errors import ClusterError, NotConnectedError

# As in docs/scale.md.
PERMISSIONS = (
    "~fss:{tests}:* resetchannels -@all +eval +evalsha +info +xread +select +time "
    "+get +set +del +exists +pexpire +pttl +incrby +hget +hset +hdel +hmget +hgetall +hexists +hstrlen +hincrby "
    "+xadd +xrange +xinfo|stream +zadd +zrem +zscore +zrangebyscore"
)


def test_docs_list_required_permissions(pytestconfig):
    text = " ".join((pytestconfig.rootpath / "docs" / "scale.md").read_text().split())
    for right in PERMISSIONS.split()[1:]:
        assert right in text


def test_user_with_minimal_permissions(own_engine, peer):
    with own_engine.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">password of app", *PERMISSIONS.split())
    url = f"redis://app:password%20of%20app@127.0.0.1:{own_engine.port}"
    one, other = peer(url), peer(own_engine.url)
    one.node.set("k", "x" * 10_000)
    one.node.set("e", 1)
    one.node.expire("e", 0.01)
    one.node.increment("n", 2**60, 0)
    one.node.increment("n", 1, 0)
    one.node.commit({"a": 1, "b": 2})
    assert one.node.compare_and_set("a", one.node.replica.version("a"), 2)
    one.node.delete("b")
    with own_engine.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.xtrim("fss:{tests}:log", maxlen=0, approximate=False)
    assert one.node.leases.acquire(["k"], None)
    assert not other.node.leases.acquire(["k"], 0.1)
    one.node.leases.release(["k"])
    other.node.delete("k")
    other.node.sync()
    until(lambda: one.values == other.values == {"n": 2**60 + 1, "a": 2})


def test_user_cannot_access_other_namespace(own_engine):
    with own_engine.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">password", *PERMISSIONS.split())
    with Peer(own_engine.url, namespace="other") as theirs:
        theirs.node.set("k", "theirs")
        url = f"redis://app:password@127.0.0.1:{own_engine.port}"
        with pytest.raises(NotConnectedError, match="permission"):
            fastserverstate.connect(url, namespace="other", timeout=0.5)
        theirs.node.sync()
        assert theirs.values == {"k": "theirs"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    made = trustme.CA()
    made.cert_pem.write_to_path(folder / "ca.pem")
    certificate = made.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    trustme.CA().cert_pem.write_to_path(folder / "another.pem")
    return folder


@pytest.fixture
def tls_port(authority):
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for name, file in (("cert", "cert.pem"), ("key", "key.pem"), ("ca-cert", "ca.pem")):
        options += [f"--tls-{name}-file", str(authority / file)]
    with engine(*options):
        yield port


def test_tls(tls_port, authority, peer):
    url = f"rediss://localhost:{tls_port}?ssl_ca_certs={authority / 'ca.pem'}"
    one, other = peer(url), peer(url)
    one.node.set("k", "x" * 100_000)
    other.node.sync()
    assert other.values == one.values


def test_tls_rejects_untrusted_certificate(tls_port, authority):
    url = f"rediss://localhost:{tls_port}?ssl_ca_certs={authority / 'another.pem'}"
    with pytest.raises(NotConnectedError, match="certificate"):
        fastserverstate.connect(url, timeout=0.5)


def test_secrets_do_not_leak(own_engine, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    with own_engine.client() as client:
        client.config_set("requirepass", "right password")
    secrets = ["wrong-password", SECRET]
    seen = []
    for url in (
        f"redis://user:wrong-password@127.0.0.1:{own_engine.port}",
        "redis://user:wrong-password@127.0.0.1:1",
        "redis://user:wrong-password@127.0.0.1:notaport",
        "redis://user:wrong-password@[::1:6379",
        "wrong://user:wrong-password@127.0.0.1",
    ):
        for required in (True, False):
            try:
                fastserverstate.connect(url, secret=SECRET, required=required, timeout=0.2)
                seen.append(
                    repr(cluster.status())
                    + repr(cluster.membership.adapter.node)
                    + repr(cluster.membership.adapter.node.engine)
                )
            except (ClusterError, ValueError) as error:
                seen.append("".join(traceback.format_exception(error)))
            finally:
                cluster.disconnect()
    seen += [caplog.text, *capsys.readouterr()]
    assert len(seen) == 10 + 3
    for text in seen:
        for secret in secrets:
            assert secret not in text.replace('f"redis://user:wrong-password', "")


def test_connect_twice(own_engine):
    fastserverstate.connect(own_engine.url, namespace="tests", secret=SECRET)
    try:
        fastserverstate.connect(own_engine.url, namespace="tests", secret=SECRET)
        assert cluster.status().connected
        with pytest.raises(ClusterError, match="other arguments") as caught:
            fastserverstate.connect(own_engine.url, namespace="tests", secret="another secret of 16")
        assert SECRET not in str(caught.value)
        fastserverstate.server_state["k"] = 1
        cluster.sync()
        with Peer(own_engine.url) as other:
            assert other.values == {"k": 1}
    finally:
        cluster.disconnect()
        assert cluster.status() is None
        cluster.sync()
        del fastserverstate.server_state["k"]
