"""The engine and its parts measured."""
