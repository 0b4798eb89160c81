"""Patterns of keys, such as ``"room/*"``."""

from __future__ import annotations

import fnmatch
import re

_WILDCARD = re.compile(r"\*|\?|\[.+?\]")


def is_pattern(key: str) -> bool:
    return _WILDCARD.search(key) is not None


def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def specificity(pattern: str) -> int:
    """The number of literal characters: among patterns, the one with the most of them wins."""
    return len(_WILDCARD.sub("", pattern))
