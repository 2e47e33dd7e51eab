"""Which sites are reused at which calls, as data."""

# (first call, sites that are reused from there on) of each phase of a trajectory; the first phase starts at call 0.
Phases = tuple[tuple[int, tuple[str, ...]], ...]


def sites_at(phases: Phases, call: int) -> tuple[str, ...]:
    """The sites that are reused at `call`."""
    return [sites for first, sites in phases if first <= call][-1]


def all_sites(phases: Phases) -> tuple[str, ...]:
    """Every site of any phase, once, in order of appearance."""
    return tuple(dict.fromkeys(site for _, sites in phases for site in sites))
