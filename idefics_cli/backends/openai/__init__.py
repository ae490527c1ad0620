"""A model that runs in an OpenAI-compatible server."""
