"""`nn.Embedding` that drops word types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lapse.backends.torch.drawing import draw_rows, new_seed
from lapse.core.noise import collect, text_of
from lapse.core.plan import check_rows, expected_rows


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` with `noise=`: whole rows of the table are dropped in training.

    Args:
        noise: `lapse.EmbeddingDropout(rate)`, or terms at the site emb as text ("emb:.1@BV").
        generator: the source of seeds; PyTorch's global generator if None.

    All other arguments are PyTorch's. A dropped word is dropped wherever it occurs: in the whole
    batch (the first axis of the input), or in one sample if the term has the axis B.

    Raises:
        LapseError: for noise at another site.
    """

    __module__ = "lapse.torch"  # the name in files of whole models

    def __init__(
        self,
        *args: Any,
        noise: Any = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        terms = collect(noise)
        check_rows(terms)
        super().__init__(*args, **kwargs)
        self.terms = terms
        self.noise = text_of(terms)
        self.generator = generator

    def extra_repr(self) -> str:
        shown: str = super().extra_repr()
        return shown + (f", noise={self.noise!r}" if self.noise else "")

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the derived attributes: files contain no other class of lapse."""
        return {name: value for name, value in vars(self).items() if name != "terms"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.terms = collect(self.noise)

    def forward(self, input: Tensor) -> Tensor:
        """Looks up rows: from (batch, ...) whole numbers to (batch, ..., embedding_dim)."""
        rows: Tensor = super().forward(input)
        if not (self.training and self.terms):
            expected = expected_rows(self.terms)
            return rows if expected == 1 else rows * expected
        batch = input.shape[0] if input.dim() else 1
        seed = new_seed(self.generator)
        kept = draw_rows(self.terms, seed, batch=batch, vocabulary=self.num_embeddings).to(rows)
        sample = torch.arange(batch, device=input.device) % len(kept)
        sample = sample.view(-1, *[1] * (input.dim() - 1)) if input.dim() else sample[0]
        return rows * kept[sample, input][..., None]
