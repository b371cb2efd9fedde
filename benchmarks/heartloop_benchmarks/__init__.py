"""Benchmarks for HeartLoop: data, prompts, judging protocols, and the engine measured (perf)."""
