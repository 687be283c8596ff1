"""Android phones through adb: the connection, the phone's state, and onnxruntime_perf_test on it."""

from latency_predictors.android.adb import Adb, Reply, remote_path
from latency_predictors.android.perf_test import PROVIDERS, PerfTest, Provider
from latency_predictors.android.phone import Cooling, Phone

__all__ = ["PROVIDERS", "Adb", "Cooling", "PerfTest", "Phone", "Provider", "Reply", "remote_path"]
