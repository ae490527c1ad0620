"""What a person writes with vLLM alone, run by the Python of another environment: prompts in, answers and times out.

Started by path from `rival`; imports nothing of this package. A message is a line of JSON, each way. Prompts are given
to `LLM.generate` all at once (https://docs.vllm.ai/en/latest/serving/offline_inference).
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import takewhile
from pathlib import Path
from typing import Any


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM and its processes print to standard output
    llm: Any = None
    for line in sys.stdin:
        message = json.loads(line)
        try:
            if llm is None:
                llm = open_model(message["options"])
            reply = answer(llm, message["requests"])
        except Exception as error:
            reply = {"failure": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def open_model(options: dict[str, Any]) -> Any:
    from vllm import LLM

    return LLM(**options)


def answer(llm: Any, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """Only generating is timed: images are decoded before."""
    from vllm import SamplingParams

    prompts, sampling, sizes = [], [], []
    for request in requests:
        images = [read_image(name) for name in request["images"]]
        sizes.append(len(request["texts"]))
        prompts += [{"prompt": text, "multi_modal_data": {"image": images}} for text in request["texts"]]
        if sizes[-1] > 1:
            sampling += [SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)] * sizes[-1]
        else:
            sampling.append(SamplingParams(max_tokens=request["new_tokens"], temperature=0))
    began, began_cpu = time.perf_counter(), count_cpu_seconds()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds, cpu_seconds = time.perf_counter() - began, count_cpu_seconds() - began_cpu
    answers, first = [], 0
    for size in sizes:
        answers.append(read_answer(outputs[first : first + size]))
        first += size
    peak = sum(read_status(one, "VmHWM") for one in list_processes())
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": 1024 * peak, "answers": answers}


def read_image(name: str) -> Any:
    import PIL.Image

    with PIL.Image.open(name) as image:
        return image.convert("RGB")


def read_answer(outputs: list[Any]) -> dict[str, Any]:
    """A text; or of a prompt and then with each label, the log-probability of what is not in all of them."""
    prompt = outputs[0]
    asked = len(prompt.prompt_token_ids)
    if len(outputs) == 1:
        made = prompt.outputs[0]
        return {"text": made.text, "asked_tokens": asked, "new_tokens": len(made.token_ids)}
    rows = [list(output.prompt_token_ids) for output in outputs]
    start = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*rows, strict=False)))
    logprobs = [
        sum(output.prompt_logprobs[place][row[place]].logprob for place in range(start, len(row)))
        for output, row in zip(outputs[1:], rows[1:], strict=True)
    ]
    return {"logprobs": logprobs, "asked_tokens": asked, "new_tokens": 0}


def list_processes() -> list[int]:
    """This process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parents[int(entry.name)] = read_status(int(entry.name), "PPid")
    found = [os.getpid()]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def count_cpu_seconds() -> float:
    """The processor time of all of them, with what their ended children took."""
    ticks = 0
    for one in list_processes():
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def read_status(process: int, key: str) -> int:
    """A number of a process's status, 0 if it has ended."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main()
