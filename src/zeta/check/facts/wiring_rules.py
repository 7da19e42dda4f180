"""The rules about wiring: what is connected to what."""

from __future__ import annotations

from typing import Final

from zeta.check.facts.results import Rule, Severity

WIRING: Final[tuple[Rule, ...]] = (
    Rule(
        id="Z901",
        name="not-registered",
        severity=Severity.FAIL,
        summary=("A trainable tensor takes part in the loss and is not in model.parameters(): no optimizer gets it."),
        advice=(
            "Assign modules and nn.Parameters to attributes in the constructor, lists of them as "
            "nn.ModuleList or nn.ParameterList."
        ),
        source="torch.nn.Module: only attributes that are Parameters or Modules are registered",
    ),
    Rule(
        id="Z902",
        name="not-optimized",
        severity=Severity.FAIL,
        summary="A trainable parameter is in no group of the optimizer: it keeps its starting values.",
        advice="Make the optimizer after the model is complete, from its parameters; or freeze the parameter.",
        source="torch.optim: an optimizer moves what is in its groups",
    ),
    Rule(
        id="Z903",
        name="decayed-scales",
        severity=Severity.NOTE,
        summary="Weight decay acts on biases and scales of normalization layers.",
        advice="Nothing to do, or put tensors of one dimension into a group with weight_decay=0.",
        source="He et al. 2019, Bag of Tricks, section 3.1; GPT-2 and ViT decay matrices only",
    ),
    Rule(
        id="Z904",
        name="graph-cut",
        severity=Severity.FAIL,
        summary="The loss depends on a parameter, but an operation without a derivative cuts off its gradient.",
        advice=("Replace the operation by a smooth one, or by a straight-through estimator; or freeze the parameter."),
        source="torch.autograd; Bengio et al. 2013 (straight-through estimator)",
    ),
    Rule(
        id="Z905",
        name="constant-output",
        severity=Severity.FAIL,
        summary="The output does not depend on the sample, whatever the parameters are.",
        advice=(
            "Look there for a norm over one feature, a difference of equal terms, a softmax over one "
            "element, or an unused input."
        ),
        source="a constant function has no gradient",
    ),
    Rule(
        id="Z906",
        name="drops-everything",
        severity=Severity.FAIL,
        summary="Dropout has probability 1: in training, its output is zero and passes no gradient.",
        advice="Dropout's argument is the probability to drop, not to keep: lower it.",
        source="torch.nn.Dropout: p is the probability of an element to be zeroed",
    ),
    Rule(
        id="Z907",
        name="samples-mix",
        severity=Severity.WARN,
        summary="The output for one sample depends on the other samples of the batch, in eval mode too.",
        advice=(
            "Look there for view or reshape in place of transpose, a softmax, mean or norm over dimension 0, "
            "or batch_first=False. If samples are meant to see each other, suppress the rule."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks: use backprop to chart dependencies",
    ),
    Rule(
        id="Z908",
        name="future-leaks",
        severity=Severity.FAIL,
        summary="The logits that predict the next token depend on it, or on later ones.",
        advice=(
            "Mask later positions: is_causal=True, or a mask that is True or -inf above the diagonal as the "
            "function expects it."
        ),
        source="Karpathy 2019, A Recipe for Training Neural Networks: use backprop to chart dependencies",
    ),
    Rule(
        id="Z909",
        name="misaligned-labels",
        severity=Severity.FAIL,
        summary="The targets are not the next tokens: they are not shifted, or shifted twice.",
        advice=(
            "Compare logits[:, :-1] with tokens[:, 1:], once: models with their own loss shift labels "
            "themselves, most others do not."
        ),
        source="Radford et al. 2019: a language model predicts the next token",
    ),
)
