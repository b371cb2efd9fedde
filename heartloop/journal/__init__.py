"""The durable record of a run: what happened, what it cost, and how each problem ended."""
