"""Latency predictors: measuring, calibrating and predicting latency per device."""
