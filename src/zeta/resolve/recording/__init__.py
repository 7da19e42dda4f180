"""Record a model's own initialization as a plan. In: a factory. Out: the model on meta, and its plan."""
