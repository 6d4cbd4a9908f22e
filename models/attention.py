"""Who looks at whom: history and section, in the layers of the world transformer."""

from collections.abc import Iterable
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.history_cache import HistoryCache, Tokens

Attention = Literal["once", "joint", "causal"]
"""once: the history looks at itself alone, and is computed once a section; joint: at the section too, as in FramePack,
anew in every denoising step; causal: as once, but no frame looks at a newer one (the paper's baseline)"""


class Layers(nn.ModuleList):
    """Blocks, one behind the other, and who looks at whom in them. ValueError for an attention that is not known."""

    def __init__(self, blocks: Iterable[nn.Module], attention: Attention) -> None:
        super().__init__(blocks)
        if attention not in get_args(Attention):
            raise ValueError(
                f"attention {attention!r} is not known; use one of {', '.join(get_args(Attention))}"
            )
        self.attention = attention

    def history(
        self,
        tokens: Tokens,
        present: Bool[Tensor, "batch token"] | None,
        times: Float[Tensor, "batch token"],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values in every layer of a history; none of them where it is to look at the section as well."""
        keys: list[Tensor] = []
        values: list[Tensor] = []
        if self.attention == "joint":
            return keys, values
        mask = None if present is None else present[:, None, None]
        if self.attention == "causal":
            mask = causal_mask(times, present)
        x = tokens.x
        for block in self:
            x, key, value = block(x, tokens.modulation, tokens.phases, None, mask)
            keys.append(key)
            values.append(value)
        return keys, values

    def section(
        self, tokens: Tokens, cache: HistoryCache, draws: int
    ) -> Float[Tensor, "batch frame token width"]:
        """The tokens of `draws` noisy sections, one behind the other: all look at the history, none at another draw.

        The phases are those of one section.
        """
        if cache.tokens is not None:
            return self._together(cache.tokens, cache.present, tokens, draws)
        phases, x = tokens.phases.repeated(draws), tokens.x
        mask = self._section_mask(tokens, cache, draws)
        for block, key, value in zip(self, cache.keys, cache.values, strict=True):
            x, _, _ = block(x, tokens.modulation, phases, (key, value), mask)
        return x

    def _section_mask(
        self, tokens: Tokens, cache: HistoryCache, draws: int
    ) -> Bool[Tensor, "batch 1 query key"] | None:
        """Which keys each token of the section sees: present history, and its own draw. None: everything."""
        frames, causal = tokens.x.shape[1] // draws, self.attention == "causal"
        if cache.present is None and draws == 1 and not (causal and frames > 1):
            return None
        frame = torch.arange(draws * frames, device=tokens.x.device).repeat_interleave(tokens.x.shape[2])
        own = frame[:, None] // frames == frame // frames
        if causal:
            own = own & (frame[:, None] >= frame)
        batch, _, history, _ = cache.keys[0].shape
        present = own.new_ones(batch, history) if cache.present is None else cache.present
        rows = (batch, len(frame), -1)
        return torch.cat((present[:, None].expand(rows), own.expand(rows)), 2)[:, None]

    def _together(
        self, history: Tokens, present: Bool[Tensor, "batch past"] | None, section: Tokens, draws: int
    ) -> Float[Tensor, "batch frame token width"]:
        """The section's tokens where the history looks at them too: each draw has a history of its own."""
        frames, size, past = section.x.shape[1], section.x.shape[2], history.x.shape[2]
        each, own = partial(torch.repeat_interleave, repeats=draws, dim=0), partial(_as_rows, draws=draws)
        # Every token as a frame of one: the section's frames have each their own modulation.
        x = torch.cat((each(history.x.flatten(1, 2)), own(section.x).flatten(1, 2)), 1)[:, :, None]
        modulation = torch.cat(
            (
                each(history.modulation).expand(-1, past, -1, -1),
                own(section.modulation).repeat_interleave(size, 1),
            ),
            1,
        )
        phases, mask = history.phases.followed_by(section.phases).rows(each), None
        if present is not None:
            seen = each(present)
            mask = torch.cat((seen, seen.new_ones(len(seen), x.shape[1] - past)), 1)[:, None, None]
        for block in self:
            x, _, _ = block(x, modulation, phases, None, mask)
        return x[:, past:, 0].reshape(-1, frames, size, x.shape[-1])


def causal_mask(
    times: Float[Tensor, "batch token"], present: Bool[Tensor, "batch token"] | None
) -> Bool[Tensor, "batch 1 query key"]:
    """Tokens see those of frames that are no newer, and each itself: one that saw nothing would be no number."""
    sees = times[:, :, None] >= times[:, None, :]
    if present is not None:
        itself = torch.eye(times.shape[1], dtype=torch.bool, device=times.device)
        sees = (sees & present[:, None]) | itself
    return sees[:, None]


def _as_rows(values: Float[Tensor, "batch frame *rest"], draws: int) -> Tensor:
    """Draws that stand one behind the other as rows of a batch."""
    return values.unflatten(1, (draws, -1)).flatten(0, 1)
