"""Which method is cheaper when: what a hop hides behind a tile, and which message is the smaller.

T new tokens after P cached ones on n ranks; H query and G key/value heads; w bytes an element; a
rank computes C FLOPs and sends W bytes a second.

    a hop of kv hides behind its tile     T/n  >=  C w G / (2 H W)       whatever P is
    a hop of q hides behind its tile      (T+P)/n  >=  C w / (4 W)       whatever T is
    q is the smaller message              T/(T+P)  <=  2G/H
    q and what it finds have fewer bytes  T/(T+P)  <=  2 G K w / (H (K w + (K + 1) w'))
    q wins although its results must      T/(T+P)  <=  2G/H - 4 T W/(n C w)
      come home, if kv does not hide

A tile of T/n queries and (T+P)/n keys costs 4 T(T+P)/n^2 H K FLOPs; its message has 2 (T+P)/n G K
elements (keys and values), or T/n H K; results come home in w' bytes an element. Without a cache
and with as many key/value heads, q is half of kv, and yet pass-KV is the rule in training: what
pass-Q finds has to come home, unhidden. Yang et al. 2024, arXiv:2411.01783, equations 1 to 5 and
algorithm 1; for P = 0, G = H and two bytes the first line is Ring Attention's block of C/W tokens
(Liu et al. 2023, arXiv:2310.01889).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from parallel_core.context.traffic import LayerShape


@dataclass(frozen=True, kw_only=True)
class Ring:
    """A ring of `n` ranks, and what one of them does a second; heads as one rank has them.

    >>> meta = Ring(n=4, heads=128, kv_heads=8, flops=800e12, bytes_per_s=50e9)
    >>> meta.kv_hides_from, meta.q_is_smaller_up_to
    (4000.0, 0.125)
    """

    n: int
    heads: int
    kv_heads: int
    flops: float
    bytes_per_s: float
    width: int = 2

    @property
    def kv_hides_from(self) -> float:
        """New tokens, over all ranks, from which a hop of kv takes no longer than its tile."""
        bytes_a_flop = self.flops / self.bytes_per_s * self.width
        return self.n * bytes_a_flop * self.kv_heads / (2 * self.heads)

    @property
    def q_hides_from(self) -> float:
        """Tokens, new and cached, from which a hop of q takes no longer than its tile."""
        return self.n * self.flops / self.bytes_per_s * self.width / 4

    @property
    def q_is_smaller_up_to(self) -> float:
        """The share of new tokens up to which q has no more bytes than kv."""
        return 2 * self.kv_heads / self.heads

    def choose(self, new: int, cached: int) -> str:
        """The published rule (algorithm 1): pass-KV if it hides or is smaller, else pass-Q."""
        hides = new >= self.kv_hides_from
        smaller = new / (new + cached) >= self.q_is_smaller_up_to
        return "pass-kv" if hides or smaller else "pass-q"

    def choose_with_the_way_home(self, new: int, cached: int) -> str:
        """The same, counting pass-Q's all-to-all against what of pass-KV is not hidden."""
        hidden = 4 * new * self.bytes_per_s / (self.n * self.flops * self.width)
        return "pass-q" if new / (new + cached) <= self.q_is_smaller_up_to - hidden else "pass-kv"

    def border(self, tokens: int) -> float:
        """The share of new tokens among `tokens` below which the published rule says pass-Q.

        >>> Ring(n=4, heads=128, kv_heads=8, flops=800e12, bytes_per_s=50e9).border(128_000)
        0.03125
        """
        return min(self.kv_hides_from / tokens, self.q_is_smaller_up_to, 1.0)

    def border_with_the_way_home(self, tokens: int) -> float:
        """The same, of the rule that counts pass-Q's way home."""
        hidden = 4 * tokens * self.bytes_per_s / (self.n * self.flops * self.width)
        return min(self.q_is_smaller_up_to / (1 + hidden), 1.0)


def q_sends_less_up_to(shape: LayerShape) -> Fraction:
    """The share of new tokens up to which pass-Q sends no more bytes in all, its way home included;
    for shares of the sequence that divide evenly, whatever the number of ranks.

    >>> from parallel_core.context.layout import Layout
    >>> one = LayerShape(layout=Layout(seq=8), batch=1, heads=8, kv_heads=1, head_dim=64, width=4)
    >>> q_sends_less_up_to(one)
    Fraction(16, 129)
    """
    k = shape.head_dim
    there_and_back = shape.heads * (k * shape.width + (k + 1) * shape.merged)
    return Fraction(2 * shape.kv_heads * k * shape.width, there_and_back)
