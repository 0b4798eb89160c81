"""Five small apps whose state everyone shares. Start them with: streamlit run examples/app.py"""

import streamlit as st
from conversation import be_online, choose_name

from fastserverstate import configure

# One garbage collection for many runs instead of one after every run, recommended for busy apps.
configure(gc="paced")

st.set_page_config(page_title="fastserverstate", page_icon="🔗")

page = st.navigation(
    [
        st.Page("views/counter.py", title="Counter", icon=":material/add_circle:", default=True),
        st.Page("views/chat.py", title="Chat", icon=":material/chat:"),
        st.Page("views/rooms.py", title="Chat rooms", icon=":material/forum:"),
        st.Page("views/slider.py", title="Slider", icon=":material/tune:"),
        st.Page("views/widgets.py", title="Shared widgets", icon=":material/widgets:"),
    ]
)
choose_name()
be_online()
page.run()
