"""The work wall: FLOPs of a transformer, and the time and money they take.

A multiply and an add are two FLOPs. N is the parameters a token passes through, D the tokens
trained on. Model FLOPs only: work repeated by recomputation is not counted (that would be HFU).
"""

from __future__ import annotations

YEAR = 365 * 86400.0  # seconds
DAY = 86400.0  # seconds


def train_flops(params: float, tokens: float) -> float:
    """FLOPs to train on `tokens` tokens: 6 N D, of which 2 forward and 4 backward.

    The matmuls with the weights only; `attention_train_flops` adds the rest. Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1.

    >>> train_flops(1e12, 300e9)
    1.8e+24
    """
    return 6.0 * params * tokens


def attention_train_flops(
    layers: int, hidden: int, seq: int, tokens: float, *, causal: bool = False
) -> float:
    """FLOPs of the scores and the weighted values in training: 12 L h s per token, in all.

    Half of that if the kernel skips the masked half (`causal`). PaLM, arXiv:2204.02311,
    appendix B, counts it in full; say which convention an MFU uses.
    """
    full = 12.0 * layers * hidden * seq * tokens
    return full / 2 if causal else full


def prefill_attention_flops(length: int, hidden: int) -> float:
    """Forward FLOPs of one layer's attention over a prompt: 4 n^2 d, so O(n^2 d).

    2 n^2 d for the scores and as much for the values; the causal mask is not used.
    """
    return 4.0 * length * length * hidden


def decode_attention_flops(length: int, hidden: int) -> float:
    """Forward FLOPs of one layer's attention for one new token: 4 n d, so O(n) per token.

    `length` counts the cached tokens the new one looks back on.
    """
    return 4.0 * length * hidden


def decode_flops(active_params: float) -> float:
    """Forward FLOPs of one decoded token in the weight matmuls: 2 N."""
    return 2.0 * active_params


def training_seconds(flops: float, peak: float, *, devices: int = 1, mfu: float = 1.0) -> float:
    """Seconds `devices` of `peak` FLOP/s take, each doing `mfu` of its peak on model FLOPs.

    >>> round(training_seconds(1.8e24, 1e15) / YEAR, 1)     # one petaflop device
    57.1
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu={mfu} must lie in (0, 1]; published training runs reach 0.3 to 0.6")
    return flops / (peak * mfu * devices)


def training_cost(seconds: float, devices: int, price_per_hour: float) -> float:
    """Rent of `devices` for that long, in the currency of `price_per_hour` (one device, 1 h).

    DeepSeek-V3, arXiv:2412.19437, table 1, supposes 2 dollars an H800-hour.
    """
    return seconds / 3600 * devices * price_per_hour


def trainable_params(tokens_per_second: float, peak: float, *, devices: int, mfu: float) -> float:
    """The N whose 6N FLOPs a token fill `devices` at that token rate and MFU.

    >>> round(trainable_params(8e6, 989e12, devices=1024, mfu=0.4) / 1e9, 1)
    8.4
    """
    return devices * peak * mfu / (6.0 * tokens_per_second)
