"""Reading profiles: of any kind, any format version, by name or path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from latency_predictors.profile_checksum import check_checksum, without_checksum
from latency_predictors.shipped_profiles import shipped_profiles
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile import DeviceProfile

MEND = "calibrate again (nanosd calibrate), or restore the file"
_UNION_TAGS = ("measured", "imported", "additive", "ensemble", "gp", "nnls", "onehot", "roofline")


def load_profile(name_or_path: str | Path) -> DeviceProfile | NpuProfile:
    """A profile that comes with the package, by name (``sm8750-w8a16``), or one of either kind from a file.

    Both have ``tabulate(unet, space, latent_size, num_tokens, vae)``, which gives a
    :class:`latency_predictors.latency_table.LatencyTable`.

    Raises:
        UserError: neither, or a field that does not belong.
    """
    path, data, names = Path(name_or_path), None, shipped_profiles()
    if str(name_or_path) not in names:
        if not path.exists():
            raise UserError(f"profile {str(name_or_path)!r}: no such file; give a file, or one of {', '.join(names)}")
        data = _read(path)
        if not _is_npu(data):
            return _device_profile(path, data)
    # Here, because its shapes need torch: a device profile predicts without.
    from latency_predictors.npu.profile import NpuProfile

    return NpuProfile.load(name_or_path)


def read_device_profile(path: Path) -> DeviceProfile:
    """A device profile of any format; UserError, naming the field, for anything that does not belong into one."""
    data = _read(path)
    if _is_npu(data):
        raise UserError(f"device profile {path}: this is an NPU profile; give one that `nanosd calibrate` wrote")
    return _device_profile(path, data)


def _is_npu(data: Any) -> bool:
    return isinstance(data, dict) and ("roofline" in data or data.get("kind") == "npu")


def _read(path: Path) -> Any:
    try:
        # NaN and Infinity are read, so that the field that holds one is named.
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"device profile {path}: {error.strerror}; {MEND}") from None
    except UnicodeDecodeError:
        raise UserError(f"device profile {path}: not UTF-8 text; {MEND}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"device profile {path}: not JSON ({error}); {MEND}") from None


def _device_profile(path: Path, data: Any) -> DeviceProfile:
    try:
        if isinstance(data, dict) and data.get("format_version") == 1:
            from latency_predictors.profile_v1 import DeviceProfileV1

            return DeviceProfileV1.model_validate_json(json.dumps(data)).converted()
        from latency_predictors.profile import DeviceProfile

        profile = DeviceProfile.model_validate_json(json.dumps(without_checksum(data)))
    except ValidationError as error:
        raise UserError(f"device profile {path}: {_first(error)}; {MEND}") from None
    # Last, so that a message names the field wherever the content alone tells it.
    check_checksum(data, f"device profile {path}", MEND)
    return profile


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _UNION_TAGS)
    if first["type"] == "value_error":  # between fields, which it names
        said = first["msg"].removeprefix("Value error, ")
        return f"{where}: {said}" if where else said
    where = where or "content"
    value = "" if first["type"] in ("json_invalid", "missing") else f" is {_short(first['input'])}:"
    return f"{where}{value} {first['msg']}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
