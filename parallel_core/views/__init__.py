"""Figures of a Trace, a Program or a Ledger: pure functions, no web framework, no torch."""
