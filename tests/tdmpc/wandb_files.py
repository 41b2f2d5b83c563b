"""What an offline run of Weights & Biases left on the disk."""

import json
import struct
import time
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[Any]:
    """The protobuf records of an offline run: a LevelDB log, 32 KiB blocks of (crc, length, type, bytes)."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    data, records, partial, position = path.read_bytes(), [], b"", 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # too little left in the block for a header
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        partial += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole record, or its last part
            records.append(Record.FromString(partial))
            partial = b""
    return records


def logs_of(run_dir: Path) -> list[list[Any]]:
    """The records of each part of a run, in the order of their start."""
    logs = [_finished(path) for path in run_dir.glob("wandb/offline-run-*/*.wandb")]
    return sorted(logs, key=lambda log: run_of(log).start_time.ToNanoseconds())


def _finished(path: Path) -> list[Any]:
    """All records: wandb's own process writes the last ones just after ``finish()`` returns."""
    for _ in range(500):
        records = read_records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.02)
    raise AssertionError(f"{path} is incomplete")


def run_of(records: list[Any]) -> Any:
    return next(record.run for record in records if record.WhichOneof("record_type") == "run")


def history_of(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
