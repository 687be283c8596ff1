"""Neural processing units: latency from public whole-model measurements."""
