"""Sources that only ever vote for one label, as labelling functions do: how often they are right, together.

What such a source says does not depend on what is true, only whether it speaks does. Its votes alone therefore never
tell how often it is right: "always right, and its class is everywhere" explains them best. What does tell is how often
rules for different labels contradict each other, and from that all of them are given one number. It is a little low
where few rules share a label, because two such rules agree less often than two that could say either label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepwell.prepare.label.votes import Floats, Votes


@dataclass(frozen=True, eq=False)
class Shared:
    """Which sources share one number, and what bounds it.

    Args:
        which: The sources, `[m]`.
        ceiling: Above this no source can be right, `[m]`; 1 where nothing bounds it.
    """

    which: npt.NDArray[np.bool_]
    ceiling: Floats

    def accuracy(
        self, right: Floats, size: npt.NDArray[np.number], mean: float, strength: float
    ) -> tuple[float, Floats]:
        """Return the shared number that makes the votes most probable, and what it means for each source, `[m]`.

        A source is right as often as the shared number says, or its ceiling if that is lower. The maximum is exact:
        between two ceilings the function to maximise is concave, with its maximum in closed form.

        Args:
            right: Expected number of right votes of each source, `[m]`.
            size: Number of votes of each source, `[m]`.
            mean: Expected share of right votes beforehand.
            strength: Votes that this expectation is worth.

        Cost: O(m K) for K distinct ceilings.
        """
        found, most = mean, -np.inf
        hit, cast, ceiling = right[self.which], size[self.which], self.ceiling[self.which]
        low = 0.0
        for high in np.unique(np.append(ceiling, 1.0)):
            free = ceiling >= high
            share = (hit[free].sum() + mean * strength) / (cast[free].sum() + strength)
            share = min(max(share, low), high)
            own = np.minimum(share, ceiling)
            value = strength * (mean * np.log(share) + (1 - mean) * np.log1p(-share))
            value += hit @ np.log(own) + (cast - hit) @ np.log1p(-own)
            if value > most:
                found, most = float(share), float(value)
            low = float(high)
        return found, np.minimum(found, self.ceiling)


def nobody(sources: int) -> Shared:
    """Return that no source shares its number."""
    return Shared(np.zeros(sources, bool), np.ones(sources))


def one_number(votes: Votes, apart: npt.NDArray[np.bool_], balance: Floats, most: Floats) -> Shared:
    """Return the one-sided sources of `votes`, and their ceilings.

    If the rules for a label speak on more items than can have it, some of what they say must be wrong: of the items on
    which any of them speaks, at most a share `most / spoken` can have the label. Their ceiling is what gives a vote
    this probability where the balance of classes is `balance`; at `most = balance` no vote tells against its label.

    Args:
        votes: Votes for labels.
        apart: Sources that keep a number of their own, `[m]`.
        balance: The share of each class that the labels are made with, `[K]`.
        most: The largest share of all items that each class may have, `[K]`.

    Cost: O(V log V).
    """
    classes = len(most)
    which = votes.one_sided & (votes.per_source > 0) & ~apart
    said = which[votes.source]
    cells = np.unique(votes.item[said] * classes + votes.label[said])
    spoken = np.bincount(cells % classes, minlength=classes) / max(1, len(votes.rows))
    right = np.minimum(1.0, most / np.maximum(spoken, 1e-12))
    bound = right * (1 - balance)
    bound /= bound + (1 - right) * balance * (classes - 1)
    ceiling = np.ones(len(votes.sources))
    ceiling[votes.source[said]] = bound[votes.label[said]]
    return Shared(which, ceiling)
