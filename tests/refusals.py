"""What parts of a run demand of each other and of the model: arguments, then what the message must hold."""

DPS = "experiment=table5/cache_dps"
PTQ = "experiment=table5/quant_dps_dec"
CORRECTED = ("experiment=table5/cache_uniform", "correct@correct.cache=channel_affine")

Refusals = dict[str, tuple[list[str], list[str]]]

OF_TWO_PARTS: Refusals = {
    "statistics too narrow for the planner": (
        ["calibrate.max_interval=1", DPS],
        ["calibrate.max_interval=1", "up to 1 apart", "schedule=DPS needs 3", "at least 2"],
    ),
    "statistics too narrow for the correction": (
        ["calibrate.max_interval=2", "budget.cache_interval=5", *CORRECTED],
        ["calibrate.max_interval=2", "groups of up to 5 calls of schedule=Uniform needs 4", "at least 3"],
    ),
    "steps that full precision does not take": (
        ["correct@correct.output=closed_loop", "budget.sample_steps=4"],
        ["correct.output", "of 10 calls does not pass timestep", "the 4 calls", "divides baseline.num_steps"],
    ),
    "layer to exclude that is none": (
        ["quantize.exclude=[conv_inn,conv_out]", PTQ],
        ["quantize.exclude=['conv_inn']", "no layer has such a name", "such as 'conv_in'", "* stands for"],
    ),
    "layer of a base to exclude that is none": (
        ["quantize=reconstruct", "quantize.base.exclude=[conv_inn]"],
        ["quantize.base.exclude=['conv_inn']", "no layer has such a name"],
    ),
    "site the U-Net does not have": (
        ["model.site=up_blocks.3.resnets.0"],
        ["model.site='up_blocks.3.resnets.0'", "this U-Net has up_blocks.0.resnets.0, ", "Choose from those"],
    ),
    "more classes than the model knows": (
        ["model.num_classes=20"],
        ["model.num_classes=20", "class_embedder", "knows 10 classes", "Set it to 1..10"],
    ),
    "conditional weights as an unconditional model": (
        ["model.num_classes=0"],
        ["model.weights=", "unet is a UNet2DConditionModel", "takes a UNet2DModel", "model.num_classes above 0"],
    ),
    "latents of other channels": (
        ["model.latent_shape=[3,8,8]"],
        ["model.latent_shape=[3, 8, 8]", "takes 4 channels", "Set it to [4, 8, 8]"],
    ),
    "images the decoder does not draw": (
        ["model.image_shape=[3,64,64]"],
        ["model.image_shape=[3, 64, 64]", "draws [1, 32, 32]", "Set model.image_shape"],
    ),
    "metric in batches of none": (
        ["metrics.fidelity.batch_size=0"],
        ["metrics.fidelity.batch_size=0", "at least 1", "250 is usual"],
    ),
    "baseline of steps that do not start in the noise": (
        ["baseline.num_steps=300"],
        ["cq: baseline.num_steps=300", "starts at timestep 898 of 1000", "Choose from 100, 125, 200, 250, 500."],
    ),
    "too few images for a metric": (
        ["evaluate=class_conditional"],
        ["metrics.", " with sample.num_images=4", "needs more than 128", "Sample more", "evaluate=fidelity"],
    ),
    "more images than seeds": (["sample.num_images=200000"], ["sample.num_images=200000", "131072", "Take fewer"]),
    "more calibration than seeds": (["quantize.num_samples=200000", PTQ], ["quantize.num_samples=200000", "131072"]),
    "strategy of another family": (["cache=fora"], ["cache=FORA", "works on transformer models", "Choose cache=cut"]),
}

OF_A_TRANSFORMER: Refusals = {
    "too many blocks to skip": (
        ["cache=delta_dit", "cache.skipped=5", "model.site=blocks.1-4"],
        ["cache.skipped=5", "needs 6 blocks and the model has 5", "Skip fewer"],
    ),
    "cut behind the last block": (["model.site=blocks.1-7"], ["model.site='blocks.1-7'", "blocks 0 to 4", "R <= 5"]),
    "cut that is none": (["model.site=conv_in"], ["model.site='conv_in'", "ranges of blocks", "Correct model.site"]),
    "layer to exclude that is none": (
        [PTQ, "model=dit_mini", "model.site=blocks.1-4", "quantize.exclude=[transformer_blocks.5.*]"],
        ["quantize.exclude=['transformer_blocks.5.*']", "no layer has such a name"],
    ),
}
