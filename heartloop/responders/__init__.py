"""Responders: how one attempt is made."""
