"""The limits above which a measurement becomes a finding, each with its source."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.report.measuring import STANDARD_ERRORS


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The limits of all rules; ``Thresholds(dead_fail=0.99)`` changes one.

    If a quantity has two limits, ``_warn`` gives a warning and ``_fail`` a failure.
    """

    #: Z103: values may reach the largest number of the dtype over this; a sum of a few larger ones would overflow
    overflow_margin: float = 4.0
    #: Z104: subnormal weights. 0.2% of N(0, 0.02) is subnormal in fp16, 2.4% of N(0, 0.002), which GPT-2 XL has
    subnormal_warn: float = 0.1
    subnormal_fail: float = 0.5

    #: Z201, Z202: standard errors, as in ``Report``; a correct draw exceeds 5 once in 1.7 million
    standard_errors: float = STANDARD_ERRORS
    #: Z203: bounds farther out (in sigma) cut less than one of a million values
    useless_sigmas: float = 5.0
    #: Z204: the drawn std over the requested one; a cut at 3 sigma (0.987) passes, one at 2 sigma (0.880) does not
    lowered_std: float = 0.95
    #: Z205: the relative difference, in addition to the sampling error, up to which a std is recognized as a scheme's
    scheme_tolerance: float = 0.01
    #: Z205: wrong fans are reported if the variance is wrong by this factor
    fan_factor: float = 2.0
    #: Z206: the fraction of elements at an extreme value, and its ratio to the fraction at neighbouring values
    mass_share: float = 0.002
    mass_excess: float = 8.0
    #: Z206: robust sigmas; a normal value is so far from the median once in 1e23
    outlier_sigmas: float = 10.0

    #: Z301: two gradients count as equal if they differ by less, relative to their norm: the noise of reordered sums
    same_gradient: float = 1e-4
    #: Z302, Z506: steps of gradient descent after which a zero gradient is assumed to stay zero. DiT needs two: its
    #: read-out moves first, its modulation afterwards (Peebles & Xie 2023)
    patience: int = 3

    #: Z402: depth over depth scale. Trainable up to about 6 (Schoenholz et al. 2017, fig. 5)
    depth_scales_warn: float = 6.0
    #: where it grows: e^16 of the variance, 3,000 times the input's rms
    depth_scales_fail: float = 16.0
    #: where it shrinks: e^-32 of the variance, or 1e-7 of the input's rms, the resolution of fp32. ReLU layers with
    #: torch's defaults have it at 18 layers: 16 learn with Adam in fp32 and in bf16, 20 in part, 24 do not
    depth_scales_lost: float = 32.0
    #: runs of fewer weighted layers are too short to fit a slope
    shortest_run: int = 5
    #: Z403: rms of the residual stream after the last block over that after the first; at least the number of blocks.
    #: Branches of a constant size, as after a norm, give sqrt(depth), and depth where all are alike: a Llama of 24
    #: blocks has 5 to 8. He-initialized ones give 3^(depth/2) (Hanin & Rolnick 2018; Zhang et al. 2019)
    stream_growth_warn: float = 5.0
    stream_growth_fail: float = 100.0
    #: Z404: fraction of units that are off for every sample. It is 1/2 if all samples are alike, deep in a ReLU network
    dead_warn: float = 0.7
    dead_fail: float = 0.95
    fewest_samples: int = 16
    #: few units may be off by chance, each with probability 1/2: reported if the probability is below this
    dead_chance: float = 1e-3
    #: Z405: outputs at an activation's bounds (Glorot & Bengio 2010, fig. 2)
    saturated_warn: float = 0.5
    saturated_fail: float = 0.9
    #: Z405: the variance between samples below which a saturated gate is held by its bias; that of a gate which is open
    #: for half of the samples and closed for the others is 1/4
    gate_signal: float = 0.01
    #: Z406: between-sample std over rms, in units of the dtype's resolution: less is the noise of rounded sums
    constant: float = 0.5
    varied: float = 1e-4

    #: Z408: factor per step by which a change of a recurrent state shrinks; after three steps, 1e-3 is left
    state_kept: float = 0.1
    #: Z408: the mean input gate times the number of steps: what a sequence writes to its state
    state_written: float = 0.05

    #: Z411: fraction of all selections that the most frequent entries have; and rows, so that it is not by chance
    one_choice: float = 0.95
    fewest_choices: int = 32
    #: Z412: rms of the bias over that of the weight times the input. Gates start at 4 or below (Srivastava et al. 2015)
    bias_ratio: float = 10.0
    #: Z413: rms of the first layer's input; of bytes, it is 140
    input_scale: float = 10.0
    input_least: float = 1e-3
    #: Z413: mean of the first layer's input over its std; of bytes divided by 255, it is at most about 3
    input_mean: float = 10.0

    #: Z504: ratio of the gradient norms at the first and last layer, in either direction. e^(6/2) = 20 is still
    #: trainable (Schoenholz et al. 2017); Adam compensates a constant factor of some thousands; fp16 ends at 6e-8
    gradient_ratio_warn: float = 1e4
    gradient_ratio_fail: float = 1e7

    #: Z601: nats above ln(classes). Logits of variance s^2 add s^2 / 2; unit variance adds 0.5
    loss_excess_warn: float = 1.0
    #: and relative to ln(classes): at 1, the loss is twice the chance level
    loss_excess_fail: float = 1.0
    #: Z602: nats between the loss and its expectation for random labels; far below it, labels leak into the input
    loss_deficit: float = 0.25
    #: Z603: mean entropy of attention over ln(keys): collapse (Zhai et al. 2023)
    entropy_warn: float = 0.5
    entropy_fail: float = 0.1
    #: Z604: the largest absolute score; QK-clip's bound (Kimi Team 2025); ViT-22B diverged above (Dehghani et al. 2023)
    largest_logit: float = 100.0

    #: Z608: fraction of the samples whose loss rises if their prediction moves toward the target
    rising: float = 0.95
    #: Z610: mean squared distance of the target to the output's range, over the target's variance: the fraction of the
    #: variance that cannot be learned. A standard normal target loses 0.15 to tanh, 0.5 to ReLU, 0.58 to a sigmoid
    beyond_warn: float = 0.01
    beyond_fail: float = 0.25
    #: Z611: rms of the target over that of the output (at least 1). Of a network of three layers, SGD at 1e-2 diverges
    #: at 100; Adam at 1e-3 explains 60% of the variance after 2,000 steps at 2e4, and nothing at 2e5
    target_scale_warn: float = 100.0
    target_scale_fail: float = 3e4

    #: Z701: rms of the first step over rms of the weights; 1e-3 is usual (Karpathy 2022), Adam's first step is larger
    update_warn: float = 0.3
    update_fail: float = 3.0
    update_least: float = 1e-7

    #: Z702: the rms of the gradient that is largest, over the optimizer's eps; at 1, Adam's step is half as long
    gradient_over_eps: float = 1.0
    #: Z703: fraction of the elements with a gradient that the first step leaves as they are. In bf16, Adam at 1e-4
    #: leaves 12% of N(0, 0.02); at 1e-5, 84%; at 1e-6, 98%
    rounded_warn: float = 0.5
    rounded_fail: float = 0.99

    #: Z801: ln of the mean square singular value of the Jacobians' product (Pennington et al. 2017)
    jacobian_warn: float = 6.0
    jacobian_fail: float = 16.0
    #: where it shrinks; as for Z402
    jacobian_lost: float = 32.0
    #: Z802: spectral norm over std * (sqrt(rows) + sqrt(columns)) (Vershynin 2012); more: outliers or a nonzero mean
    spectral_warn: float = 1.5
    spectral_fail: float = 8.0
    #: Z803: slope of ln rms over ln width; muP has 0, standard parametrization 1/2 after a step (Yang et al. 2022)
    width_slope: float = 0.25
    #: Z805: slope of ln rms over ln depth; a residual stream with unscaled branches has 1/2 at the start, and up to 1
    #: once training has aligned the branches (Dey et al. 2025)
    depth_growth: float = 0.25
    #: Z804: factor per layer of the gradient norm, fitted over depth
    depth_slope: float = math.log(1.1)

    #: Z907, Z908: the change of an output over its rms; rounding in fp32 gives 1e-6, in TF32 1e-3 where shapes differ.
    #: In dtypes that round more coarsely, 16 roundings are allowed
    moved: float = 1e-3

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), _LEAST.get(item.name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise SpecError(f"Thresholds: {item.name} must be a number of at least {least}, got {shown(value)}")
            if value < least or (value == 0 and item.name in _DIVISORS):
                above = "above 0" if item.name in _DIVISORS else f"of at least {least}"
                raise SpecError(f"Thresholds: {item.name} must be a number {above}, got {shown(value)}")
            if isinstance(item.default, int) and not isinstance(value, int):
                raise SpecError(f"Thresholds: {item.name} must be a whole number, got {shown(value)}")
            if item.name in _FRACTIONS and value > 1:
                raise SpecError(f"Thresholds: {item.name} is a fraction and must be at most 1, got {shown(value)}")


# a slope needs two layers
_LEAST: Final = {"shortest_run": 2}
_DIVISORS: Final = ("overflow_margin",)
_FRACTIONS: Final = (
    *("subnormal_warn", "subnormal_fail", "dead_warn", "dead_fail", "dead_chance", "saturated_warn", "saturated_fail"),
    *(
        "rising",
        "state_kept",
        "rounded_warn",
        "rounded_fail",
        "entropy_warn",
        "entropy_fail",
        "lowered_std",
        "mass_share",
    ),
)
