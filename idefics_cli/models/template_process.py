"""The process in which chat templates are rendered: one line of JSON in, one line out, within a time and a memory.

Started by path from `chat_templates`. Imports only what renders of transformers, so no torch.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import IO, Any

SECONDS = 5
MEMORY_BYTES = 256_000_000
MAX_LETTERS = 10_000_000


def main(requests: IO[str], replies: IO[str]) -> None:
    import jinja2
    from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template
    from transformers.utils.chat_template_utils import _get_template_variables as list_names

    _limit_memory()
    compiled: dict[str, Any] = {}
    reply: dict[str, Any]
    replies.write("ready\n")
    replies.flush()
    for line in requests:
        given = json.loads(line)
        if hasattr(signal, "alarm"):
            signal.alarm(SECONDS + 1)  # should nobody be left to end it
        try:
            template = given["template"]
            if template not in compiled:
                compiled[template] = compile_template(template)
            if "values" in given:
                reply = _render(compiled[template], given["values"])
            else:
                reply = {"names": sorted(list_names(template))}
        except jinja2.TemplateSyntaxError as error:
            reply = {"failure": str(error)[:200]}
        except jinja2.TemplateError as error:
            reply = {"refusal": str(error)[:1000]}
        except MemoryError:
            reply = {"failure": "it takes too much memory"}
        except Exception as error:
            reply = {"failure": str(error)[:200] or type(error).__name__}
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _render(template: Any, values: dict[str, Any]) -> dict[str, Any]:
    text = template.render(**values)
    return {"text": text} if len(text) <= MAX_LETTERS else {"failure": f"it writes {len(text):,} letters"}


def _limit_memory() -> None:
    """Allow so much more memory than is used now, where the system supports it."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        return


if __name__ == "__main__":
    with open(0, encoding="utf-8") as requests, open(1, "w", encoding="utf-8") as replies:
        main(requests, replies)
