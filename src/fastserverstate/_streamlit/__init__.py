"""The Streamlit adapter: the only part of the package that knows private names of Streamlit.

`names` checks the installed release before the other modules use it.
"""

from fastserverstate._streamlit.names import check_streamlit, unsupported

check_streamlit()

try:
    from fastserverstate._streamlit.bridge import Bridge
    from fastserverstate._streamlit.metrics import Metrics
    from fastserverstate._streamlit.notices import element_of
    from fastserverstate._streamlit.pages import StreamlitPages
    from fastserverstate._streamlit.post_script_gc import PostScriptGC
    from fastserverstate._streamlit.readers import StreamlitReaders
    from fastserverstate._streamlit.server import Server
    from fastserverstate._streamlit.users import user_of_run
    from fastserverstate._streamlit.widgets import widgets_of_run
except ImportError as error:
    raise unsupported(f"a name ({error})") from error

__all__ = [
    "Bridge",
    "Metrics",
    "PostScriptGC",
    "Server",
    "StreamlitPages",
    "StreamlitReaders",
    "element_of",
    "user_of_run",
    "widgets_of_run",
]
