"""The output formats of a check: text, JSON, HTML, SARIF and TensorBoard."""
