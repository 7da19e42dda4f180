"""The rules about wiring: what is connected to what."""

from __future__ import annotations

from typing import Final

from zeta.check.facts.results import Rule
from zeta.check.facts.rule_making import FAIL, NOTE, WARN, rule

WIRING: Final[tuple[Rule, ...]] = (
    rule(
        "Z901",
        "not-registered",
        FAIL,
        "A trainable tensor takes part in the loss and is not in model.parameters(): no optimizer gets it.",
        (
            "Assign modules and nn.Parameters to attributes in the constructor, lists of them as "
            "nn.ModuleList or nn.ParameterList."
        ),
        "torch.nn.Module: only attributes that are Parameters or Modules are registered",
    ),
    rule(
        "Z902",
        "not-optimized",
        FAIL,
        "A trainable parameter is in no group of the optimizer: it keeps its starting values.",
        (
            "Make the optimizer after the model is complete, from its parameters; if another optimizer has them, pass "
            "both as a list; or freeze the parameter."
        ),
        "torch.optim: an optimizer moves what is in its groups",
    ),
    rule(
        "Z903",
        "decayed-scales",
        NOTE,
        "Weight decay acts on biases and scales of normalization layers.",
        "Nothing to do, or put tensors of one dimension into a group with weight_decay=0.",
        "He et al. 2019, Bag of Tricks, section 3.1; GPT-2 and ViT decay matrices only",
    ),
    rule(
        "Z904",
        "graph-cut",
        FAIL,
        "The loss depends on a parameter, but an operation without a derivative cuts off its gradient.",
        "Replace the operation by a smooth one, or by a straight-through estimator; or freeze the parameter.",
        "torch.autograd; Bengio et al. 2013 (straight-through estimator)",
    ),
    rule(
        "Z905",
        "constant-output",
        FAIL,
        "The output does not depend on the sample, whatever the parameters are.",
        (
            "Look there for a norm over one feature, a difference of equal terms, a softmax over one "
            "element, or an unused input."
        ),
        "a constant function has no gradient",
    ),
    rule(
        "Z906",
        "drops-everything",
        FAIL,
        "Dropout has probability 1: in training, its output is zero and passes no gradient.",
        "Dropout's argument is the probability to drop, not to keep: lower it.",
        "torch.nn.Dropout: p is the probability of an element to be zeroed",
    ),
    rule(
        "Z907",
        "samples-mix",
        WARN,
        "The output for one sample depends on the other samples of the batch, in eval mode too.",
        (
            "Look there for view or reshape in place of transpose, a softmax, mean or norm over dimension 0, "
            "or batch_first=False. If samples are meant to see each other, suppress the rule."
        ),
        "Karpathy 2019, A Recipe for Training Neural Networks: use backprop to chart dependencies",
    ),
    rule(
        "Z908",
        "future-leaks",
        FAIL,
        "The logits that predict the next token depend on it, or on later ones.",
        (
            "Mask later positions: is_causal=True, or a mask that is True or -inf above the diagonal as the "
            "function expects it."
        ),
        "Karpathy 2019, A Recipe for Training Neural Networks: use backprop to chart dependencies",
    ),
    rule(
        "Z909",
        "misaligned-labels",
        FAIL,
        "The targets are not the next tokens: they are not shifted, or shifted twice.",
        (
            "Compare logits[:, :-1] with tokens[:, 1:], once: models with their own loss shift labels "
            "themselves, most others do not."
        ),
        "Radford et al. 2019: a language model predicts the next token",
    ),
)
