"""The package under test. `FSS_PACKAGE` names it, and everything else is the same for all.

With `FSS_LIVE`, `region` decorates the function that shows what is shared. Without, it returns the function itself.
"""

import importlib
import os
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

package = importlib.import_module(os.environ["FSS_PACKAGE"])

is_live = "FSS_LIVE" in os.environ

if "FSS_GC" in os.environ:
    package.configure(gc=os.environ["FSS_GC"])

server_state = package.server_state
server_state_lock = package.server_state_lock

# A session whose script reads what it shows in a live region would rerun all the same.
read: Callable[[str, int], int] = package.peek if is_live else server_state.get


def region(function: Callable[P, None]) -> Callable[P, None]:
    return package.live(function) if is_live else function
