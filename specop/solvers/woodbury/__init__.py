"""Inverses of low-rank updates: of rows that come and go, and of any operator."""
