"""The server: one loaded model for every command of its user and, if wanted, for OpenAI clients.

Imported only to serve. Knows no terminal.
"""
