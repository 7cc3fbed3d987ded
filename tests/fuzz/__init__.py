"""Inputs that nobody meant to write: what a stranger or a bad disk may hand to a user."""
