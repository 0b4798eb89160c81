"""Real Streamlit servers and sessions for tests and load runs."""
