"""Sizes of groups of calls; what a component imports of its own package counts in its identity, too."""


def geometric(num_calls: int, groups: int, ratio: float) -> tuple[int, ...]:
    """First calls of groups, each `ratio` times as long as the one before it."""
    sizes = [ratio**k for k in range(groups)]
    return tuple(sorted({int(num_calls * sum(sizes[:k]) / sum(sizes)) for k in range(groups)}))
