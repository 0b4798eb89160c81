"""The package under test. `FSS_PACKAGE` names it, and everything else is the same for both."""

import importlib
import os

package = importlib.import_module(os.environ["FSS_PACKAGE"])

if "FSS_GC" in os.environ:
    package.configure(gc=os.environ["FSS_GC"])

server_state = package.server_state
server_state_lock = package.server_state_lock
