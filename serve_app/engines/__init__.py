"""Engines: the programs that turn a prompt into tokens, behind one protocol."""
