"""Shows the time of the last write with redis-py, which queries the engine for every access and reruns no session."""

import os
import time

import redis
import streamlit as st

client = st.cache_resource(redis.Redis.from_url)(os.environ["ENGINE"])
if st.button("Write"):
    client.set("t", time.time_ns())
st.text(int(client.get("t") or 0))
