"""Weights from any kernel: called once more with the identity for its values, its outputs are its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maskcli.errors import MaskcliError
from maskcli.tensors import Tensor, from_array
from maskcli.tracing.calls import Torch

# Weights of more cells are not asked for (1 GiB of float32).
MAX_CELLS = 2**28


@dataclass(frozen=True, eq=False)
class Kernel:
    """Weights [B, H, Q, K] of a function that keeps them to itself.

    `again` calls it as the program did, with other values [B, Hk, K, D], for an output [B, H, Q, D]; `value`
    are those of the program. One call tells the weights of D keys: the same kernel, under the same mask.
    """

    again: Callable[[Torch], Torch]
    value: Torch
    shape: tuple[int, ...]
    dtype: Any

    def tensor(self) -> Tensor:
        """The weights, in float32 for all types but float64."""
        import torch

        if math.prod(self.shape) > MAX_CELLS:
            raise MaskcliError(f"weights of shape {list(self.shape)} are too many to ask a kernel for them")
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        with undisturbed():
            parts = [self._some(start).to(wide) for start in range(0, self.shape[3], self.value.shape[3])]
            weights = torch.cat(parts, -1)
        return from_array("", weights.cpu())

    def _some(self, start: int) -> Torch:
        """The weights of the keys from `start` on, as many as values have features."""
        import torch

        keys, features = self.value.shape[2:]
        count = min(features, keys - start)
        at = torch.arange(count, device=self.value.device)
        identity = torch.zeros_like(self.value, memory_format=torch.contiguous_format)
        identity[:, :, start + at, at] = 1
        return self.again(identity)[..., :count]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute as the program does, and leave its gradients and random numbers as they are."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch._C.DisableTorchFunction(), torch.no_grad(), torch.random.fork_rng(devices):
        yield
