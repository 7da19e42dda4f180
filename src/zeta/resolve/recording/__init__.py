"""From a model's own code to a plan. In: a factory. Out: the model on meta and its plan; nothing is allocated."""
