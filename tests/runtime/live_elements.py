"""The elements of Streamlit, as functions that show them: those that may be in a live region, and others."""

from __future__ import annotations

import importlib
import importlib.util
import io
import wave
from collections.abc import Callable
from typing import Any

import altair
import numpy as np
import pandas as pd
import pydeck
import streamlit as st
import streamlit.components.v1 as components

from fastserverstate import atomic, server_state

Show = Callable[[int], Any]
ALLOWED: dict[str, Show] = {}
FORBIDDEN: dict[str, Show] = {}


def allowed(show: Show) -> Show:
    ALLOWED[show.__name__.strip("_")] = show
    return show


def forbidden(show: Show) -> Show:
    FORBIDDEN[show.__name__.strip("_")] = show
    return show


def picture(n: int) -> Any:
    return np.full((8, 8, 3), n * 10 % 256, np.uint8)


def sound(n: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(8000)
        audio.writeframes(b"\0\0" * 100 * (n + 1))
    return file.getvalue()


def table(n: int) -> pd.DataFrame:
    return pd.DataFrame({"a": range(n + 1), "b": [f"row {i}" for i in range(n + 1)]})


@allowed
def text(n: int) -> None:
    st.title(f"Title {n}")
    st.header("Header")
    st.subheader("Subheader")
    st.caption(f"Caption {n}")
    st.code(f"n = {n}")
    st.latex("x^2")
    st.divider()
    st.markdown(f"**{n}**")
    st.json({"n": n})


@allowed
def write(n: int) -> None:
    st.write("n", n, table(n), {"n": n}, [1, 2], altair.Chart(table(n)).mark_bar().encode(x="a"))


@allowed
def magic(n: int) -> None:
    st.write_stream(iter(["a", "b", str(n)]))


@allowed
def dataframe(n: int) -> None:
    st.dataframe(table(n))


@allowed
def styled_dataframe(n: int) -> None:
    st.dataframe(table(n).style.highlight_max(axis=0, subset=["a"]))


@allowed
def table_(n: int) -> None:
    st.table(table(n))


@allowed
def metric(n: int) -> None:
    for column in st.columns(3):
        column.metric("Metric", n, delta=1)


@allowed
def charts(n: int) -> None:
    st.line_chart(table(n)[["a"]])
    st.bar_chart(table(n)[["a"]])
    st.area_chart(table(n)[["a"]])
    st.scatter_chart(table(n)[["a"]])


@allowed
def altair_chart(n: int) -> None:
    st.altair_chart(altair.Chart(table(n)).mark_bar().encode(x="a"))


@allowed
def vega_lite_chart(n: int) -> None:
    st.vega_lite_chart(
        {"mark": "bar", "data": {"values": [{"a": n}]}, "encoding": {"x": {"field": "a", "type": "quantitative"}}}
    )


@allowed
def pydeck_chart(n: int) -> None:
    st.pydeck_chart(pydeck.Deck(layers=[pydeck.Layer("ScatterplotLayer", data=[[n, n]], id="layer")]))


@allowed
def map_(n: int) -> None:
    st.map(pd.DataFrame({"lat": [float(n)], "lon": [2.0]}))


@allowed
def graphviz_chart(n: int) -> None:
    st.graphviz_chart(f"digraph {{ a -> b{n} }}")


if importlib.util.find_spec("matplotlib"):

    @allowed
    def pyplot(n: int) -> None:
        figure = importlib.import_module("matplotlib.figure").Figure()
        figure.subplots().plot(range(n + 2))
        st.pyplot(figure)


@allowed
def image(n: int) -> None:
    st.image(picture(n), caption=f"Picture {n}")


@allowed
def images(n: int) -> None:
    st.image([picture(i) for i in range(n + 1)])


@allowed
def audio(n: int) -> None:
    st.audio(sound(n))


@allowed
def video(n: int) -> None:
    st.video(b"not really a video" * (n + 1))


@allowed
def html(n: int) -> None:
    st.html(f"<b>{n}</b>")


@allowed
def components_(n: int) -> None:
    components.html(f"<b>{n}</b>")
    components.iframe(f"about:blank#{n}")


@allowed
def chat(n: int) -> None:
    for i in range(n + 1):
        with st.chat_message("user" if i % 2 else "assistant"):
            st.write(f"Message {i}")


@allowed
def columns(n: int) -> None:
    for i, column in enumerate(st.columns(2 + n % 2)):
        column.text(f"{i} of {n}")


@allowed
def tabs(n: int) -> None:
    for i, tab in enumerate(st.tabs(["a", "b", "c"][: 2 + n % 2])):
        with tab:
            st.text(f"{i} of {n}")


@allowed
def expander(n: int) -> None:
    with st.expander(f"Expander {n}", expanded=bool(n % 2)):
        st.text("inside")


@allowed
def popover(n: int) -> None:
    with st.popover("Popover"):
        st.text(f"inside {n}")


@allowed
def container(n: int) -> None:
    box = st.container(border=True, height=100 + n)
    st.text("below")
    box.text(f"inside {n}")


@allowed
def empty(n: int) -> None:
    place = st.empty()
    with place.container():
        st.text("one")
        st.text("two")
    place.text(f"last {n}")


@allowed
def empty_that_becomes_another_block(n: int) -> None:
    place = st.empty()
    with place.container():
        st.text("one")
        st.text("two")
    with place.expander(f"Expander {n}"):
        st.text("three")


@allowed
def cleared(n: int) -> None:
    place = st.container()
    place.text(f"inside {n}")
    other = st.empty()
    other.text("gone")
    other.empty()


@allowed
def status(n: int) -> None:
    with st.status("Works") as box:
        st.text("step")
        box.update(label=f"Done {n}", state="complete")


@allowed
def progress(n: int) -> None:
    bar = st.progress(0)
    for i in range(10):
        bar.progress(i * 10, f"{i} of {n}")


@allowed
def spinner(n: int) -> None:
    with st.spinner("Works"):
        st.text(f"spun {n}")


@allowed
def alerts(n: int) -> None:
    st.error("error")
    st.warning("warning")
    st.info(f"info {n}")
    st.success("success")
    st.exception(ValueError(f"exception {n}"))


@allowed
def balloons(_: int) -> None:
    st.balloons()
    st.snow()


@allowed
def links(n: int) -> None:
    st.link_button(f"Link {n}", "https://example.com")


@forbidden
def page_link(n: int) -> None:
    st.page_link("app.py", label=f"Page {n}")


@allowed
def help_(_: int) -> None:
    st.help(len)


@allowed
def cached(n: int) -> None:
    @st.cache_data(show_spinner=False)  # which older releases give a place among the elements
    def double(number: int) -> int:
        return 2 * number

    st.text(double(n))


@allowed
def replayed(n: int) -> None:
    @st.cache_data(show_spinner=False)
    def show(number: int) -> None:
        st.text(f"replayed {number}")
        with st.container():
            st.text("inside")

    show(n)
    show(n)


if hasattr(st, "badge"):

    @allowed
    def badge(n: int) -> None:
        st.badge(f"Badge {n}")


@forbidden
def button(_: int) -> None:
    st.button("x")


@forbidden
def download_button(_: int) -> None:
    st.download_button("x", b"y")


@forbidden
def slider(_: int) -> None:
    st.slider("x", 0, 1)


@forbidden
def number_input_with_key(_: int) -> None:
    st.number_input("x", key="k")


@forbidden
def checkbox_inside(_: int) -> None:
    with st.expander("x"):
        st.checkbox("c")


@forbidden
def chat_input(_: int) -> None:
    st.chat_input("x")


@forbidden
def data_editor(_: int) -> None:
    st.data_editor(pd.DataFrame({"a": [1]}))


@forbidden
def file_uploader(_: int) -> None:
    st.file_uploader("x")


@forbidden
def selectable_dataframe(_: int) -> None:
    st.dataframe(pd.DataFrame({"a": [1]}), on_select="rerun")


@forbidden
def selectable_chart(_: int) -> None:
    chart = altair.Chart(table(1)).mark_bar().encode(x="a").add_params(altair.selection_point(name="s"))
    st.altair_chart(chart, on_select="rerun")


@forbidden
def form(_: int) -> None:
    with st.form("f"):
        st.text("x")


@forbidden
def component(_: int) -> None:
    components.declare_component("component", url="http://127.0.0.1:1")(x=1)


@forbidden
def session_state_item(_: int) -> None:
    st.session_state["x"] = 1


@forbidden
def session_state_get(_: int) -> None:
    st.text(st.session_state.get("x"))


@forbidden
def session_state_attribute(_: int) -> None:
    st.session_state.x = 1


@forbidden
def session_state_contains(_: int) -> None:
    st.text("x" in st.session_state)


@forbidden
def query_params(_: int) -> None:
    st.text(st.query_params.get("x"))


@forbidden
def query_params_write(_: int) -> None:
    st.query_params["x"] = "y"


@forbidden
def rerun(_: int) -> None:
    st.rerun()


@forbidden
def stop(_: int) -> None:
    st.stop()


@forbidden
def shared_state(_: int) -> None:
    server_state["written"] = 1


@forbidden
def shared_counter(_: int) -> None:
    atomic.increment("written")


@forbidden
def sidebar(_: int) -> None:
    st.sidebar.text("x")


@forbidden
def sidebar_block(_: int) -> None:
    with st.sidebar:
        st.text("x")


@forbidden
def toast(_: int) -> None:
    st.toast("x")


@forbidden
def dialog(_: int) -> None:
    @st.dialog("d")
    def window() -> None:
        st.text("x")

    window()


@forbidden
def fragment(_: int) -> None:
    @st.fragment
    def part() -> None:
        st.text("x")

    part()


@forbidden
def switch_page(_: int) -> None:
    st.switch_page("app.py")


@forbidden
def page_config(_: int) -> None:
    st.set_page_config(page_title="x")


@forbidden
def navigation(_: int) -> None:
    st.navigation([st.Page("app.py")])


@forbidden
def logo(_: int) -> None:
    st.logo(picture(1))


if hasattr(st.delta_generator.DeltaGenerator, "add_rows"):

    @forbidden
    def add_rows(_: int) -> None:
        st.table(table(1)).add_rows(table(1))


@forbidden
def bottom(_: int) -> None:
    st._bottom.text("x")  # type: ignore[attr-defined]


@forbidden
def context_headers(_: int) -> None:
    st.text(st.context.headers)


@forbidden
def context_cookies(_: int) -> None:
    st.text(st.context.cookies)


for _name in ("locale", "timezone", "ip_address", "url", "theme"):
    if hasattr(type(st.context), _name) if hasattr(st, "context") else False:

        @forbidden
        def context(_: int, name: str = _name) -> None:
            st.text(getattr(st.context, name))

        FORBIDDEN[f"context_{_name}"] = FORBIDDEN.pop("context")

if hasattr(st, "user"):

    @forbidden
    def user(_: int) -> None:
        st.text(st.user.get("email"))
