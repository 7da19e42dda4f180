"""The rules about the loss, its target, and the optimizer's first step."""

from __future__ import annotations

from typing import Final

from zeta.check.facts.results import Rule
from zeta.check.facts.rule_making import FAIL, WARN, rule

TRAINING: Final[tuple[Rule, ...]] = (
    rule(
        "Z605",
        "probabilities-as-logits",
        WARN,
        "A loss that expects logits gets probabilities, so that softmax or sigmoid is applied twice.",
        "Give it the input of the softmax or the sigmoid.",
        "torch.nn.CrossEntropyLoss and BCEWithLogitsLoss: the input is unnormalized logits",
    ),
    rule(
        "Z606",
        "not-log-probabilities",
        FAIL,
        "A loss that expects log-probabilities gets logits or probabilities.",
        "Apply log_softmax to the logits before it, or use cross_entropy, which takes logits.",
        "torch.nn.NLLLoss and KLDivLoss: the input is log-probabilities; of logits, the loss has no lower bound",
    ),
    rule(
        "Z607",
        "broadcast-loss",
        FAIL,
        "Prediction and target have different shapes, so that each prediction is compared with every target.",
        "Give both the same shape: squeeze the prediction, or unsqueeze the target.",
        "broadcasting of (N, 1) against (N,) gives (N, N): the best prediction is the mean of the targets",
    ),
    rule(
        "Z608",
        "maximised",
        FAIL,
        "The loss falls if predictions move away from their targets: its sign is wrong.",
        "Change the sign of the loss.",
        "gradient descent minimizes",
    ),
    rule(
        "Z609",
        "softmax-over-other-dimension",
        FAIL,
        "Probabilities sum to one over samples or positions, and not over the classes.",
        "Apply softmax over the dimension of the classes.",
        "torch.nn.Softmax(dim): every slice along dim sums to one",
    ),
    rule(
        "Z610",
        "target-beyond-output",
        FAIL,
        "Targets lie outside of the range of the output's activation.",
        "Remove the last activation, or scale the targets to its range.",
        "the range of the activation; no weight gives a larger one",
    ),
    rule(
        "Z611",
        "target-scale",
        FAIL,
        "Targets are much larger than the outputs, which have to grow to their scale first.",
        "Standardize the targets: subtract their mean, and divide by their std.",
        "LeCun et al. 1998 (Efficient BackProp), section 4.3",
    ),
    rule(
        "Z612",
        "binary-target",
        FAIL,
        "Targets of a binary cross entropy lie outside of 0 to 1, so that the loss has no lower bound.",
        "Map the labels to 0 and 1: (labels + 1) / 2 for -1 and 1, labels / 255 for bytes.",
        "torch.nn.BCEWithLogitsLoss: targets are numbers between 0 and 1",
    ),
    rule(
        "Z613",
        "labels-not-counted",
        FAIL,
        "Labels of this batch do not count: they are ignored, or their class weight is zero.",
        "Look at the labels, ignore_index and the class weights.",
        "torch.nn.CrossEntropyLoss: the mean over no label is 0/0",
    ),
    rule(
        "Z701",
        "first-step",
        FAIL,
        "The optimizer's first step is too large or too small compared with the weights.",
        "Lower the learning rate for this group, warm it up, or raise the std of the weights.",
        "Karpathy 2022: about 1e-3; You et al. 2017 (LARS)",
    ),
    rule(
        "Z702",
        "gradient-below-eps",
        FAIL,
        "All gradients are smaller than the number that the optimizer adds to them, so that its steps shrink.",
        "Look for a factor in the loss, such as a mean taken twice or a sum divided by its size; or lower eps.",
        "Kingma & Ba 2015: Adam divides by the root of the second moment plus eps, 1e-8",
    ),
    rule(
        "Z703",
        "step-rounded-away",
        FAIL,
        "The first step is smaller than half of the distance to the next number of the weights' dtype.",
        "Keep the weights in fp32 (autocast the forward pass), raise the learning rate, or round stochastically.",
        "Micikevicius et al. 2018, section 3.1: an fp32 copy of the weights; Zamirai et al. 2020",
    ),
)
