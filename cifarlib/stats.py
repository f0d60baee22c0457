"""How results are judged; scipy does the statistics."""

from scipy.stats import binomtest


def binomial_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval (Wilson) of an accuracy measured on n images: the images' chance alone, not the seed's."""
    interval = binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
