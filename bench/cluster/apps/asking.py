"""The same with redis-py, which asks the engine at every access and reruns nobody."""

import os
import time

import redis
import streamlit as st

client = st.cache_resource(redis.Redis.from_url)(os.environ["ENGINE"])
if st.button("Write"):
    client.set("t", time.time_ns())
st.text(int(client.get("t") or 0))
