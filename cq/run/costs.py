"""What a run's calls cost in seconds and bytes, as measured on its own model; stages say what follows for each."""

from dataclasses import dataclass

GIB = 2**30
# On a CPU, convolutions hold their operands once more in a layout of their own: the resident memory of one call or
# decoding at batch 75 grows by 1.8 to 2.2 times the counted bytes (ldm_mini, dit_mini, sd_mini; torch 2.14).
COPIES = 2
# Measured on the bundled ldm_mini: seconds of the stages of 90 recorded runs (results/runs_table5.jsonl, 250 steps, 700
# images, 2 cores) over what its timed calls say.
PAIRS_FACTOR = 1.2  # a full call that is also compared with the maps before it
CORRECTION_FACTOR = 1.5  # a call whose entry layers also run quantized
FAKE_FACTOR = (
    1.5  # a call that is fake-quantized, or looked at, over one in full precision; ldm_mini, dit_mini: 1.1 to 2
)
METRIC_SECONDS, METRIC_IMAGE_SECONDS = 0.05, 0.0008  # a metric with its interval, and what an image adds


@dataclass(frozen=True, kw_only=True)
class CallSeconds:
    """Seconds of a call of one image (guidance included), medians of a few at the sampling batch.

    full, cached: in full precision. small: what a full call of one image takes in the batch of `latency`, over that in
    the sampling batch. twin: full and fake-quantized. observed: full, with every layer's input looked at.
    search: of choosing the ranges of all layers at one call, for all images together.
    units, unit_bytes: the network's parts, for what works on one after another, and the bytes they return in a full
    call of one image. The quantized ones are zero where nothing was quantized.
    """

    full: float
    cached: float
    small: float = 1.0
    units: int = 0
    unit_bytes: int = 0
    twin: float = 0.0
    observed: float = 0.0
    search: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CallBytes:
    """base: the process with its model loaded. weights: of the network; a quantized twin has them, too.

    image: peak of one image's call. map: of an image's cached maps, as calibration keeps them. decode: peak of decoding
    one image. unit: what goes into and comes out of the largest unit in one image's call. units: what all units return.
    columns: weights of an output of the layer with most of them.
    on_cpu: whether images and the calibration's ring are kept where the network runs.
    """

    base: int
    weights: int
    image: int
    map: int
    decode: int
    unit: int
    units: int
    columns: int
    on_cpu: bool

    @property
    def copies(self) -> int:
        """How often the operands of a call are held."""
        return COPIES if self.on_cpu else 1
