"""Which wheels there are, and that what is built is tested."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PYTHONS = ["cp311", "cp312", "cp313", "cp314", "cp314t"]
PLATFORMS = {
    ("linux", "x86_64"): ["manylinux_x86_64", "musllinux_x86_64"],
    ("linux", "aarch64"): ["manylinux_aarch64", "musllinux_aarch64"],
    ("macos", "x86_64"): ["macosx_x86_64"],
    ("macos", "arm64"): ["macosx_arm64"],
    ("windows", "AMD64"): ["win_amd64"],
    ("windows", "ARM64"): ["win_arm64"],
}


def identifiers(platform: str, *options: str) -> set[str]:
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, *options]
    # Variables of this family would change what is built.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    printed = subprocess.run(
        [*command, "--config-file", "cibuildwheel.toml", "."],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    return set(printed.stdout.split())


@pytest.mark.parametrize(("platform", "arch"), PLATFORMS, ids=["-".join(machine) for machine in PLATFORMS])
def test_wheels_of_a_machine(platform: str, arch: str) -> None:
    promised = {f"{python}-{tag}" for python, tag in itertools.product(PYTHONS, PLATFORMS[platform, arch])}
    assert identifiers(platform, "--archs", arch) == promised


@pytest.mark.parametrize("platform", ["linux", "macos", "windows"])
def test_wheels_of_a_platform(platform: str) -> None:
    """Without a selection, the wheels of all its machines are built."""
    tags = [tag for (built_on, _), tags in PLATFORMS.items() if built_on == platform for tag in tags]
    assert identifiers(platform) == {f"{python}-{tag}" for python, tag in itertools.product(PYTHONS, tags)}


def test_the_readme_on_pypi_has_no_dead_link() -> None:
    specification = importlib.util.spec_from_file_location("wheels", ROOT / "tools" / "wheels.py")
    wheels = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wheels", wheels)  # dataclasses look there
        specification.loader.exec_module(wheels)
    address = "https://example.org/owner/name"
    text = wheels.with_absolute_links((ROOT / "README.md").read_text(), address, "c0ffee")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert [target for target in targets if not target.startswith(f"{address}/")] == []
    assert f"]({address}/raw/c0ffee/docs/images/two-tabs.gif)" in text
    assert f"]({address}/blob/c0ffee/docs/quickstart.md)" in text


def versions(workflow: str, name: str) -> set[str]:
    """A list in a workflow's matrix."""
    text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text()
    return set(json.loads(re.search(rf"^ +{name}: (\[.*\])$", text, re.MULTILINE)[1]))


@pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="the sdist has no workflows")
def test_every_built_wheel_is_tested() -> None:
    built = {f"{python[2]}.{python[3:]}" for python in PYTHONS}
    assert built <= versions("tests", "python") | versions("free-threading", "python")
    assert versions("tests", "python") == versions("matrix", "python")
    releases = re.search(r"^STREAMLIT_RELEASES := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert versions("matrix", "streamlit") == set(releases.split())
