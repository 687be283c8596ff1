"""Keep the libraries' own chatter off the terminal, in this process and in the workers that it starts."""

import logging
import os
import sys
import warnings

_ENVIRONMENT = {
    # Ray: no usage report, no per-trial log files, no echoes of workers' output, no news about coming defaults.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Hugging Face: no bars, no advice, no telemetry.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore",
}


def quiet() -> None:
    """Silence Ray, Optuna, diffusers, transformers, onnx and Python warnings; call it before they are imported.

    Variables that are already set are left alone, and with NANOSD_VERBOSE=1 nothing is silenced. Errors that
    matter reach the user as exceptions; log records up to WARNING are dropped, ERROR and above still appear.
    """
    if os.environ.get("NANOSD_VERBOSE") == "1":
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # By threshold, not by logger: Optuna and Ray set their loggers' levels back when they are imported.
    logging.disable(logging.WARNING)
    _keep_own_warnings()
    warnings.simplefilter("ignore")
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is not None:  # it reads no variable; runners set the severity in their session options too
        onnxruntime.set_default_logger_severity(3)


def _keep_own_warnings() -> None:
    """Let this project's warnings (a damaged file set aside, a block left out) reach the terminal, one line each."""
    own = logging.getLogger("nanosd")
    # The threshold above lives in the manager that all loggers share; one of its own is not under it.
    own.manager = logging.Manager(own.root)
    own.propagate = False
    if not own.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("nanosd: %(message)s"))
        own.addHandler(handler)
