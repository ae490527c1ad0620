"""Gemma 3: the tokens of an image see one another, and most layers look back a little way only."""

from __future__ import annotations

from .templated import TemplatedFamily


class Gemma3Family(TemplatedFamily):
    sees_ahead = True
    flash_attention = False
