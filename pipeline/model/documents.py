"""Attention kept within documents: a token of a packed row sees those of its own document only, as if each were alone (block-diagonal).

    segments_BT -> Within -> mask                            anywhere
                          -> offsets of runs -> varlen_attn   on a GPU in half precision, where no probability is dropped: work follows Σ length², not T²

Positions must begin anew at each document (`restart` of a feed), or a document's place in its row would tell. Padding sees padding, so that no place sees nothing.
The kernel of variable lengths has not run here, where there is no GPU; what is given to it is tested against the mask.

Shapes: B rows, T tokens, H heads, K width of a head, N runs of equal segments over all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, eq=False)
class Within:
    """What a token may see, in place of a mask."""

    segments_BT: torch.Tensor
    """Number of the document within its row, −1 on padding."""
    is_causal: bool = False
    """Of its document those at or before it only."""
    offsets_N1: torch.Tensor | None = None
    """int32, as `runs` gives them, on the segments' device; none where the mask is to be used."""
    longest: int = 0
    """Tokens of the longest run."""

    @cached_property
    def mask(self) -> torch.Tensor:
        """True where a token (second last) may see another (last)."""
        same_B1TT = self.segments_BT[:, None, :, None] == self.segments_BT[:, None, None, :]
        if not self.is_causal:
            return same_B1TT
        places = self.segments_BT.shape[1]
        return same_B1TT & torch.ones(places, places, dtype=torch.bool, device=same_B1TT.device).tril()

    def has_kernel(self, query: torch.Tensor) -> bool:
        """Whether `attend` can be called for queries of this kind."""
        return self.offsets_N1 is not None and query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)

    def attend(self, query_BHTK: torch.Tensor, key_BHTK: torch.Tensor, value_BHTK: torch.Tensor, kernel: Any = None) -> torch.Tensor:
        """Attention [B, H, T, K] by a kernel of variable lengths; `kernel` has the arguments of torch's `varlen_attn`."""
        if kernel is None:
            from torch.nn.attention import varlen

            kernel = varlen.varlen_attn
        batch, heads, length, width = query_BHTK.shape
        flat = [each.transpose(1, 2).reshape(batch * length, heads, width) for each in (query_BHTK, key_BHTK, value_BHTK)]
        window = (-1, 0) if self.is_causal else (-1, -1)
        found: torch.Tensor = kernel(*flat, self.offsets_N1, self.offsets_N1, self.longest, self.longest, window_size=window)
        return found.view(batch, length, heads, width).transpose(1, 2)


def runs(segments_BT: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.int32], int]:
    """Offsets [N+1] of the runs of equal segments over all rows, one after the other, and the length of the longest."""
    batch, length = segments_BT.shape
    begins = np.ones((batch, length), np.bool_)
    begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    offsets = np.append(np.flatnonzero(begins), batch * length).astype(np.int32)
    return offsets, int(np.diff(offsets).max(initial=0))
