"""The engine: sessions, the one gateway to models, budgets, replay."""
