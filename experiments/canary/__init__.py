"""Canaries: raise a treatment's share step by step, and take it back when it does harm.

`machine.decide` is the whole logic, as a pure function; `observe` reads what it needs from the
event log; `journal` keeps every decision with its evidence. Deploying a split is the caller's
business.
"""
