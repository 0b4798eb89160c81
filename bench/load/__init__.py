"""Load benchmark: many sessions on a real server, with this package and with streamlit-server-state."""
