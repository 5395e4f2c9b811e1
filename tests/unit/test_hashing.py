from __future__ import annotations

import gzip

import numpy as np

from edgekit.hashing import gzip_bytes, size_bytes


def noise(count: int) -> bytes:
    return np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes()


def test_a_file_over_the_wire_is_what_gzip_makes_of_it(tmp_path):
    content = noise(3000) + b"\0" * (3 << 20)  # more than is read at a time
    path = tmp_path / "int8.tflite"
    path.write_bytes(content)
    assert gzip_bytes(path) == len(gzip.compress(content, 9))
    assert 3000 < gzip_bytes(path) < size_bytes(path) / 100


def test_neither_name_nor_time_counts(tmp_path):
    short, long = tmp_path / "a", tmp_path / "a_much_longer_name.tflite"
    short.write_bytes(noise(500))
    long.write_bytes(noise(500))
    assert gzip_bytes(short) == gzip_bytes(long)


def test_files_of_a_folder_are_sent_one_by_one(tmp_path):
    folder = tmp_path / "fp32.tfjs"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.json").write_bytes(noise(1000))
    (folder / "deep/group1-shard1of1.bin").write_bytes(noise(1000))
    assert gzip_bytes(folder) == 2 * gzip_bytes(folder / "model.json") > 2000
