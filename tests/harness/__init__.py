"""Servers, sessions, clocks and checkers for tests and load runs."""
