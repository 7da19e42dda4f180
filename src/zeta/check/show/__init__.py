"""Results as text, JSON, HTML, SARIF and TensorBoard scalars."""
