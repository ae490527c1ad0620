"""Ask vision-language models about images, from a shell."""

__version__ = "0.1.0"
