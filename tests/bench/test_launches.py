"""What runs on a device is counted, and what the host waits for; views and what stays on the host are neither."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from idefics_cli.bench.launches import Launches, count_launches


@torch.inference_mode()
def test_operators_that_compute_are_counted_by_their_parts() -> None:
    some, other = torch.ones(2, 3), torch.ones(4, 3)
    with count_launches("cpu") as counts:
        linear(some, other)  # a view and a product
        some.view(-1)[None].expand(5, -1)
        torch.empty(4)
    assert counts == Launches(operators=1)


@torch.inference_mode()
def test_each_way_to_read_is_counted_once() -> None:
    values = torch.arange(6)
    with count_launches("cpu") as counts:
        values.tolist()
        int(values[2])
        values[3].item()
        values.nonzero()
        torch.where(values > 2)
    assert counts == Launches(operators=1, reads=5)


@torch.inference_mode()
def test_the_host_is_no_other_device() -> None:
    here, there = torch.ones(3), torch.ones(3, device="meta")
    with count_launches("meta") as counts:
        (here + 1).tolist()
        there + there
        here.to("meta")
    assert counts == Launches(operators=2)
