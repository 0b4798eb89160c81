"""Streamlit's garbage collection after every run."""

from __future__ import annotations

from streamlit import config


class PostScriptGC:
    """Streamlit's option to collect garbage after every run."""

    _OPTION = "runner.postScriptGC"

    def __init__(self) -> None:
        self._as_the_user_had_it: bool | None = None

    def is_on(self) -> bool:
        return bool(config.get_option(self._OPTION))

    def switch_off(self) -> None:
        self._as_the_user_had_it = self.is_on()
        config.set_option(self._OPTION, False)

    def restore(self) -> None:
        config.set_option(self._OPTION, self._as_the_user_had_it)
