"""What runs have shown, with intervals. Needs numpy and scipy: ``pip install heartloop[report]``."""
