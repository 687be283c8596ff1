"""The block bank: trained surrogate blocks, stored once, found again by what made them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.atomic import write_bytes, write_json
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from torch import nn

FORMAT_VERSION = 1


class CorruptBlockError(UserError):
    """A file of the bank does not hold what was stored in it."""


class BlockBank:
    """A folder of trained blocks: `<key>.safetensors` (weights) and `<key>.json` (checksum and meta).

    The JSON is written last, so a block counts as stored only when both files are whole. Nothing is
    pickled. Several processes may read and write one bank: a key's content is the same whoever wrote it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    @staticmethod
    def key(
        stage: str, option: str, teacher_key: str, data_key: str, recipe: Mapping[str, Any], context: str = ""
    ) -> str:
        """Content key (32 hex digits) of a block: everything that decides its weights, and nothing else.

        Args:
            stage: `E1` ... `D1`.
            option: the option's canonical name.
            teacher_key: `Teacher.key`.
            data_key: digest of the training data.
            recipe: JSON-able training settings.
            context: what the stage's inputs are, where that depends on other stages (`deep=none`).
        """
        text = json.dumps([FORMAT_VERSION, stage, option, teacher_key, data_key, dict(recipe), context], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def weights_path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def record_path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def has(self, key: str) -> bool:
        """Whether both files of `key` exist (their content is checked by `get`)."""
        return self.record_path(key).is_file() and self.weights_path(key).is_file()

    def put(self, key: str, module: nn.Module, meta: Mapping[str, Any]) -> Path:
        """Store `module`'s weights and `meta` (JSON-able) under `key`; returns the weights' path.

        Raises:
            UserError: the bank's folder is full or cannot be written.
        """
        import safetensors.torch

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        data = safetensors.torch.save(state)
        path = write_bytes(self.weights_path(key), data)
        write_json(
            self.record_path(key),
            {
                "format_version": FORMAT_VERSION,
                "key": key,
                "sha256": hashlib.sha256(data).hexdigest(),
                "num_bytes": len(data),
                "meta": dict(meta),
            },
        )
        return path

    def get(self, key: str, module: nn.Module) -> dict[str, Any]:
        """Give `module` the weights of `key` and return the stored meta.

        The weights are mapped from the bank's file: processes that use the same block share its memory, and what is
        written to a weight is this process's own. They keep the `requires_grad` of the module's.

        Raises:
            KeyError: the bank has no such block.
            CorruptBlockError: a file is damaged, or does not fit `module`; names the file and the mend.
        """
        import safetensors.torch

        record = self._record(key)
        path = self.weights_path(key)
        try:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                num_bytes = file.tell()
        except FileNotFoundError:
            raise KeyError(f"no block {key} in {self.folder}") from None
        if num_bytes != record["num_bytes"]:
            raise self._corrupt(path, f"{num_bytes} bytes instead of {record['num_bytes']}")
        if digest != record["sha256"]:
            raise self._corrupt(path, "its checksum differs from the stored one")
        state = safetensors.torch.load_file(path)
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if wanted != found:
            name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
            raise self._corrupt(path, f"tensor {name!r} does not fit the block that is asked for")
        module.load_state_dict(state, assign=True)
        return dict(record["meta"])

    def _record(self, key: str) -> dict[str, Any]:
        path = self.record_path(key)
        try:
            record = json.loads(path.read_text())
            if record["format_version"] != FORMAT_VERSION or record["key"] != key:
                raise ValueError
            int(record["num_bytes"]), str(record["sha256"]), dict(record["meta"])
        except FileNotFoundError:
            raise KeyError(f"no block {key} in {self.folder}") from None
        except (ValueError, KeyError, TypeError):
            raise self._corrupt(path, "it is no record of this block") from None
        return dict(record)

    @staticmethod
    def _corrupt(path: Path, why: str) -> CorruptBlockError:
        return CorruptBlockError(f"block bank file {path} is damaged: {why}; delete it, it will be trained again")
