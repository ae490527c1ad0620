"""Checkpoints: opening, loading and quantizing them, and what differs between architectures."""

import os

# Nobody asked huggingface_hub to look up, once a day, which program it is called by. It reads this when it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
