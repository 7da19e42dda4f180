"""Two sizes of one model in; out come what grows between them, and the law, rates and multipliers of each parameter."""
